"""A release: its image, its position on main, its files, and pruning."""

import os
import re
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from server import commands, engine, history, state
from server.errors import Refused
from server.settings import COMMIT, Settings

POSITION = "quai.position"  # the number of first-parent commits on main, a label of the image
MIGRATIONS = "quai.migrations"  # a digest of the migrations' files, a label of the image
CREATED = "org.opencontainers.image.created"  # the time of the commit, RFC 3339
FRONT_SUFFIX = "-front"  # of the tag of a release's front, as in docker-compose.prod.yml
DISK_MESSAGE = "free some space; 'docker system df' shows what Docker uses"
MIB = 1 << 20
PROGRAM_SECONDS = 60  # time limit of `deploy.sh --help` of a new release


def free_mb(*folders: str | Path) -> int:
    """Return the smallest free space of these folders' file systems, in MiB; ignore folders that are not readable."""
    free = []
    for folder in folders:
        with suppress(PermissionError):
            free.append(shutil.disk_usage(folder).free // MIB)
    return min(free)


def require_disk_space(directory: Path, settings: Settings) -> None:
    """Raise Refused if the disk of this directory or of Docker has less than MIN_FREE_MB free."""
    free = free_mb(directory, engine.get("/info")["DockerRootDir"])
    if free < settings.min_free_mb:
        raise Refused(f"only {free} MiB free on the disk; MIN_FREE_MB is {settings.min_free_mb}: {DISK_MESSAGE}")


def pull(directory: Path, settings: Settings, tag: str) -> Any:
    """Pull the image of a release if it is not on this server, and return its inspect data. Raises Refused.

    A release whose image and files are here needs no space: a rollback must work with less than MIN_FREE_MB.
    """
    image = settings.release_image(tag)
    found = engine.image(image)
    if found is None or not (directory / "releases" / tag).is_dir():
        require_disk_space(directory, settings)
    if found is None:
        if commands.docker(directory, "pull", "--quiet", image).code:
            raise Refused(f"{image} cannot be pulled")
        found = engine.image(image)
    return found


def label(image: Any | None, name: str) -> str:
    """Return a label of an image; empty if it has none."""
    labels = ((image or {}).get("Config") or {}).get("Labels") or {}
    return str(labels.get(name, ""))


def is_older(image: Any, other: Any | None) -> bool:
    """Return whether an image's commit comes before the other's on main; False if that is unknown.

    The positions decide. Images of version 1 (the previous program, in Bash) have none; then the times of the commits
    decide.
    """
    ours, theirs = label(image, POSITION), label(other, POSITION)
    if ours.isdecimal() and theirs.isdecimal():
        return int(ours) < int(theirs)
    return "" < label(image, CREATED) < label(other, CREATED)


def has_same_migrations(image: Any, other: Any | None) -> bool:
    """Return whether two images have the same migrations; False if that is unknown."""
    return "" != label(image, MIGRATIONS) == label(other, MIGRATIONS)


def describe_order(image: Any | None) -> str:
    """Describe the position of an image, for messages."""
    position, created = label(image, POSITION), label(image, CREATED)
    return f"commit {position} on main, {created}" if position else created


def unpack(directory: Path, settings: Settings, tag: str) -> None:
    """Copy /release out of the release's image into releases/<tag>.

    Raises Refused if it cannot be copied, or if its deploy program does not run on this server.
    """
    folder = directory / "releases" / tag
    if folder.is_dir():
        return
    new, container = folder.with_name(f"{tag}.new"), unpack_name(settings)
    shutil.rmtree(new, ignore_errors=True)
    words = (
        "--name",
        container,
        settings.release_image(tag),
        "unused",
    )  # an image may have no command; it never starts
    created = commands.docker(directory, "create", *words, capture=True)
    if created.code:
        raise Refused(f"cannot create a container from {settings.release_image(tag)}: {created.error.strip()}")
    copied = commands.docker(directory, "cp", "--quiet", f"{container}:/release", str(new), capture=True)
    engine.remove_now(container)
    if copied.code:
        raise Refused(f"the release files cannot be copied from /release of the image: {copied.error.strip()}")
    require_runnable_program(new)
    _sync(new)
    state.rename(new, folder)


def _sync(folder: Path) -> None:
    """Write the files of a folder to the disk: after a power failure, .env could name a release without them."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def unpack_name(settings: Settings) -> str:
    """Return the name of the container that release files are copied from."""
    return f"{settings.project}-unpack"


def require_runnable_program(folder: Path) -> None:
    """Raise Refused if the deploy program of a release cannot run on this server: the next deploy uses it."""
    checks = [["bash", "-n", str(folder / "deploy.sh")]]
    if (folder / "server").is_dir():
        checks.append([sys.executable, "-B", "-m", "server", str(folder), "--help"])
    for check in checks:
        result = commands.run(check, folder, seconds=PROGRAM_SECONDS, capture=True)
        if result.code:
            message = (result.error.strip().splitlines() or ["no message"])[-1]
            raise Refused(f"the deploy program of this release does not run on this server: {message}")


def prune(directory: Path, settings: Settings, live: str) -> None:
    """Remove images and files of releases, except the live one and the last KEEP_RELEASES that were live.

    Images in use are kept. If the engine is unavailable, nothing is removed. A failure does not fail the deploy.
    """
    releases = directory / "releases"
    try:
        keep = kept_tags(directory, settings, live)
        if not keep:
            return
        for folder in releases.glob("*.new"):
            shutil.rmtree(folder, ignore_errors=True)
        for name in sorted(engine.tags(settings.image) | {folder.name for folder in releases.iterdir()}):
            tag = name.removesuffix(FRONT_SUFFIX)
            if re.fullmatch(COMMIT, tag) and tag not in keep:
                engine.untag(settings.release_image(name))
                _remove_folder(releases / name)
    except (engine.EngineError, OSError) as error:
        state.say(f"old releases were not pruned: {error}")


def kept_tags(directory: Path, settings: Settings, live: str) -> set[str]:
    """Return the live release and those that a rollback may need; empty if the log was lost: keep everything then."""
    candidates = history.rollback_candidates(directory, live, settings.keep_releases)
    return {live, state.current_tag(directory), *candidates} if candidates else set()


def _remove_folder(folder: Path) -> None:
    """Remove a release's folder. It is renamed first, so that a partial removal is not mistaken for a release."""
    if folder.is_dir():
        shutil.rmtree(folder.rename(folder.with_name(f"{folder.name}.new")), ignore_errors=True)
