"""Releases that differ from the last merge by some lines of a Dockerfile: build, deploy, and expect the outcome."""

import hashlib
import time

from scripts.runner.process import run
from tests.rehearsal.failures import expect
from tests.rehearsal.rehearsal import Rehearsal
from tests.rehearsal.repository import STEP

DEPLOY_LIMIT = 120  # seconds for each of these deploys, also on a busy machine


def build_image(image: str, base: str, name: str, *lines: str, position: int | None = None) -> str:
    """Build and push a release that differs from the release `base` by these lines, and return its tag.

    `image` has no tag.
    """
    tag = hashlib.sha1(f"{name} {base}".encode(), usedforsecurity=False).hexdigest()
    dockerfile = [
        f"FROM {image}:{base}",
        f"ENV RELEASE={tag}",
        "USER root",
        *lines,
        "USER 10001:10001",
        *([] if position is None else [f"LABEL quai.position={position}"]),
    ]
    run("docker", "build", "--quiet", "--tag", f"{image}:{tag}", "-", input="\n".join(dockerfile))
    run("docker", "push", "--quiet", f"{image}:{tag}")
    return tag


def build_variant(rehearsal: Rehearsal, name: str, *lines: str, position: int | None = None) -> str:
    """Build and push a release that differs from the last merge by these lines, and return its tag.

    `position` is its place on main, by default that of the last merge.
    """
    commits = rehearsal.commits
    base = next(commits[merge] for merge in ("forward", "page", "code", "first") if merge in commits)
    commits[name] = build_image(rehearsal.server.image, base, name, *lines, position=position)
    return commits[name]


def expect_refused(rehearsal: Rehearsal, name: str, message: str, *lines: str, last_step: str = "") -> None:
    """Build and deploy a variant; expect that it is refused with this message, and that production is unchanged.

    With `last_step`, it is refused in this step: not before, and not after.
    """
    tag = build_variant(rehearsal, name, *lines)
    began = time.monotonic()
    with rehearsal.expect_unchanged(name):
        deploy = rehearsal.deploy_by_key(tag)
        expect(deploy.returncode != 0, f"{name}: went live: {deploy.stdout}")
    seconds = time.monotonic() - began
    steps = [step.group(1) for step in map(STEP.search, deploy.stdout.splitlines()) if step]
    steps = [step for step in steps if step != "refused"]
    expect(last_step in ("", *steps[-1:]), f"{name}: refused in {steps[-1:]}, expected {last_step}: {deploy.stdout}")
    expect(seconds < DEPLOY_LIMIT, f"{name}: refused only after {seconds:.0f} s")
    expect(message in deploy.stdout, f"{name}: the output does not contain {message!r}: {deploy.stdout}")


def deploy_and_expect_live(rehearsal: Rehearsal, name: str, *lines: str, plain_up: bool = True) -> float:
    """Build and deploy a variant; expect that it goes live, and return the seconds that the deploy took.

    `plain_up` also expects that a plain `docker compose up` changes nothing.
    """
    tag, began = build_variant(rehearsal, name, *lines), time.monotonic()
    deploy = rehearsal.deploy_by_key(tag)
    seconds = time.monotonic() - began
    expect(deploy.returncode == 0, f"{name}: refused: {deploy.stdout}")
    expect(seconds < DEPLOY_LIMIT, f"{name}: live only after {seconds:.0f} s")
    if plain_up:
        rehearsal.expect_live(name)
    else:
        rehearsal.expect_only_release(tag)
    return seconds
