"""The state files next to .env: the lock, the upstream file, and the link to the live release's files."""

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

from server.errors import Refused

CHILD_MARK = "QUAI_DEPLOY_IN"  # environment variable of the lock holder's children: the directory of .env
LOCK_SECONDS = 900  # how long a deploy waits for another one
FRONT_PREFIX = "front-"  # with the id of a deploy: the network name of its front, as in docker-compose.prod.yml
NO_FRONT = "nobody"  # the upstream while a first release starts; no host has this name


def say(text: str) -> None:
    """Print one line of progress. A full disk must not end a deploy: the log is on it."""
    with suppress(OSError):
        print(f"==> {text}", flush=True)


def now() -> str:
    """Return the time in UTC, to the second, in the format of the state files."""
    return f"{datetime.now(timezone.utc):%FT%TZ}"


@contextmanager
def lock(directory: Path, holder: str) -> Iterator[None]:
    """Hold `directory`/deploy.lock; it is released when the process exits. Raises Refused after LOCK_SECONDS."""
    file = directory / "deploy.lock"
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _acquire(descriptor, file)
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{holder}, process {os.getpid()}, since {now()}\n".encode(), 0)
        os.environ[CHILD_MARK] = str(directory)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, file: Path) -> None:
    deadline, announced = time.monotonic() + LOCK_SECONDS, False
    while True:
        with suppress(BlockingIOError):
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        holder = file.read_text().strip()
        if not announced:
            say(f"waiting up to {LOCK_SECONDS} s for another deploy: {holder}")
            announced = True
        if time.monotonic() > deadline:
            raise Refused(f"another deploy is still running: {holder}")
        time.sleep(0.2)


def end_orphans(directory: Path) -> None:
    """Kill the docker commands of a deploy that was killed: they could still create containers.

    The caller holds the lock, so no other deploy of this directory can have children.
    """
    mark, found = f"{CHILD_MARK}={directory}".encode(), False
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)
                found = True
    if found:
        time.sleep(1)  # the engine may still be processing their requests


def replace(file: Path, text: str, mode: int = 0o644) -> None:
    """Write a file atomically: readers see the old or the new content, even after a power failure. Raises OSError."""
    new = file.with_name(f"{file.name}.new")
    with open(new, "w", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, mode)) as output:
        output.write(text)
        output.flush()
        os.fsync(output.fileno())
    rename(new, file)


def rename(new: Path, path: Path) -> None:
    """Rename a file or a folder, so that the new name survives a power failure. Raises OSError."""
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def open_private(path: str, flags: int) -> int:
    """An opener for files that hold secrets: only their owner can read them."""
    return os.open(path, flags, 0o600)


def write_upstream(directory: Path, front: str) -> None:
    """Have the proxy send requests to this front: it reads the file for each request. Raises OSError."""
    replace(directory / "releases/upstream", front)


def upstream(directory: Path) -> str:
    """Return the front that the proxy sends requests to; empty if there is none yet."""
    with suppress(OSError):
        return (directory / "releases/upstream").read_text().strip()
    return ""


def link_current(directory: Path, tag: str) -> None:
    """Link releases/current to a release: deploy.sh and docker-compose.prod.yml are links into it."""
    new = directory / "releases/current.new"
    new.unlink(missing_ok=True)
    new.symlink_to(tag)
    new.replace(directory / "releases/current")


def current_tag(directory: Path) -> str:
    """Return the tag that releases/current points to; empty if there is none."""
    with suppress(OSError):
        return str((directory / "releases/current").readlink())
    return ""
