"""A release: its image, its place in the order of main, its files, and which of both stay on the server."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from server import engine, history, state
from server.errors import Refused
from server.settings import COMMIT, Settings

POSITION = "quai.position"  # the number of first-parent commits on main, a label of the image
CREATED = "org.opencontainers.image.created"  # the time of the commit, RFC 3339
DISK_MESSAGE = "make room, for example with 'docker image prune'"
MIB = 1 << 20


def free_mb(*folders: str | Path) -> int:
    """MiB that are free on the fullest disk of these folders."""
    return min(shutil.disk_usage(folder).free for folder in folders) // MIB


def check_disk(directory: Path, settings: Settings) -> None:
    """Refused when the disk of the deploys or of Docker has less than MIN_FREE_MB free."""
    free = free_mb(directory, engine.get("/info")["DockerRootDir"])
    if free < settings.min_free_mb:
        raise Refused(f"only {free} MB free on the disk, MIN_FREE_MB is {settings.min_free_mb}: {DISK_MESSAGE}")


def pull(directory: Path, image: str) -> Any:
    """What the engine knows of the image, which is pulled if it is not on this server. Raises Refused."""
    found = engine.image(image)
    if found is None:
        if engine.docker(directory, "pull", "--quiet", image).code:
            raise Refused(f"{image} cannot be pulled")
        found = engine.image(image)
    return found


def label(image: Any | None, name: str) -> str:
    """A label of an image; empty without one."""
    labels = ((image or {}).get("Config") or {}).get("Labels") or {}
    return str(labels.get(name, ""))


def is_older(image: Any, other: Any | None) -> bool:
    """Whether an image's commit comes before the other's on main. False when that cannot be known.

    Positions decide. Without them, as in images of the first edition, the times of the commits do.
    """
    ours, theirs = label(image, POSITION), label(other, POSITION)
    if ours.isdecimal() and theirs.isdecimal():
        return int(ours) < int(theirs)
    return label(image, CREATED) < label(other, CREATED)


def describe_order(image: Any) -> str:
    """Where the image stands in the order, for a message."""
    position, created = label(image, POSITION), label(image, CREATED)
    return f"commit {position} on main, {created}" if position else created


def unpack(directory: Path, settings: Settings, tag: str) -> None:
    """Copy /release out of the release's image into releases/<tag>. Raises Refused when it is not complete."""
    folder = directory / "releases" / tag
    if folder.is_dir():
        return
    new, box = folder.with_name(f"{tag}.new"), unpack_name(settings)
    shutil.rmtree(new, ignore_errors=True)
    if engine.docker(directory, "create", "--name", box, settings.release_image(tag), quiet=True).code:
        raise Refused(f"no container can be created from {settings.release_image(tag)}")
    copied = engine.docker(directory, "cp", "--quiet", f"{box}:/release", str(new), quiet=True)
    engine.kill(box)
    if copied.code:
        raise Refused("the image has no /release: see the Dockerfile")
    check_program(new)
    new.rename(folder)


def unpack_name(settings: Settings) -> str:
    """The name of the container that a release's files are copied from."""
    return f"{settings.project}-unpack"


def check_program(folder: Path) -> None:
    """Refused when the deploy program of a release does not run here: the next deploy would need it."""
    commands = [["bash", "-n", str(folder / "deploy.sh")]]
    if (folder / "server").is_dir():
        commands.append([sys.executable, "-B", "-m", "server", str(folder), "--help"])
    for command in commands:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise Refused(f"the release's own deploy program does not run on this server: {said}")


def prune(directory: Path, settings: Settings, live: str) -> None:
    """Remove images and files of releases, except the live one and the last KEEP_RELEASES that were live.

    An image that is in use stays; so does everything when the engine does not answer.
    """
    keep = {live, state.current(directory)}
    keep |= set(history.rollback_candidates(directory, live, settings.keep_releases))
    folders = {folder.name for folder in (directory / "releases").iterdir()}
    try:
        for tag in sorted((engine.tags(settings.image) | folders) - keep):
            if re.fullmatch(rf"{COMMIT}(\.new)?", tag):
                engine.untag(settings.release_image(tag))
                shutil.rmtree(directory / "releases" / tag, ignore_errors=True)
    except engine.EngineError as error:
        state.say(f"old releases stay for now: {error}")
