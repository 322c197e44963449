"""Releases that differ from the last merge by some changes: build, deploy, and expect the outcome."""

import hashlib
import json
import time

from scripts.runner.process import run
from scripts.runner.settings import COMPOSE_FILE
from tests.rehearsal.edits import Edit, parse, write_compose_file
from tests.rehearsal.failures import expect
from tests.rehearsal.rehearsal import Rehearsal
from tests.rehearsal.repository import STEP

DEPLOY_LIMIT = 120  # seconds for each of these deploys, also on a busy machine


def build_image(image: str, base: str, name: str, *changes: str | Edit, position: int | None = None) -> str:
    """Build and push a release that differs from the release `base` by these changes, and return its tag.

    `image` has no tag.
    """
    tag = hashlib.sha1(f"{name} {base}".encode(), usedforsecurity=False).hexdigest()
    config = json.loads(run("docker", "image", "inspect", "--format={{json .Config}}", f"{image}:{base}"))
    edits = [change for change in changes if not isinstance(change, str)]
    lines = [change for change in changes if isinstance(change, str)]
    if edits:
        compose_file = run("docker", "run", "--rm", "--entrypoint=cat", f"{image}:{base}", f"/release/{COMPOSE_FILE}")
        compose = parse(compose_file, [*(config.get("Entrypoint") or []), *(config.get("Cmd") or [])])
        for edit in edits:
            edit(compose)
        lines.append(write_compose_file(compose))
    dockerfile = [
        f"FROM {image}:{base}",
        f"ENV RELEASE={tag}",  # for releases of version 1
        "USER root",
        *lines,
        f"USER {config.get('User') or 'root'}",
        *([] if position is None else [f"LABEL quai.position={position}"]),
    ]
    run("docker", "build", "--quiet", "--tag", f"{image}:{tag}", "-", input="\n".join(dockerfile))
    push_release(f"{image}:{tag}", f"{image}:{base}-front")
    return tag


def push_release(release: str, front: str) -> None:
    """Build the front of a release, from its files and the image `front`, and push both."""
    lines = (f"FROM {release} AS release", f"FROM {front}", "COPY --from=release /releas[e]/fron[t] /front")
    run("docker", "build", "--quiet", "--tag", f"{release}-front", "-", input="\n".join(lines))
    for image in (f"{release}-front", release):
        run("docker", "push", "--quiet", image)


def build_variant(rehearsal: Rehearsal, name: str, *changes: str | Edit, position: int | None = None) -> str:
    """Build and push a release that differs from the last merge by these changes, and return its tag.

    `position` is its place on main, by default that of the last merge.
    """
    commits = rehearsal.commits
    base = next(commits[merge] for merge in ("forward", "compose", "code", "first") if merge in commits)
    commits[name] = build_image(rehearsal.server.image, base, name, *changes, position=position)
    return commits[name]


def expect_refused(rehearsal: Rehearsal, name: str, message: str, *changes: str | Edit, last_step: str = "") -> None:
    """Build and deploy a variant; expect that it is refused with this message, and that production is unchanged.

    With `last_step`, it is refused in this step: not before, and not after.
    """
    tag = build_variant(rehearsal, name, *changes)
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


def deploy_and_expect_live(rehearsal: Rehearsal, name: str, *changes: str | Edit, plain_up: bool = True) -> float:
    """Build and deploy a variant; expect that it goes live, and return the seconds that the deploy took.

    `plain_up` also expects that a plain `docker compose up` changes nothing.
    """
    tag, began = build_variant(rehearsal, name, *changes), time.monotonic()
    deploy = rehearsal.deploy_by_key(tag)
    seconds = time.monotonic() - began
    expect(deploy.returncode == 0, f"{name}: refused: {deploy.stdout}")
    expect(seconds < DEPLOY_LIMIT, f"{name}: live only after {seconds:.0f} s")
    if plain_up:
        rehearsal.expect_live(name)
    else:
        rehearsal.expect_only_release(tag)
    return seconds
