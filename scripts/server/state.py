"""The files that say what is live, next to .env: the lock, the pointer and the link to the live release's files."""

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

from server.engine import CHILD_MARK
from server.errors import Refused

LOCK_SECONDS = 900  # how long a deploy waits for another one
NO_FRONT = "nobody"  # what the pointer names while the first release ever is not live yet


def say(text: str) -> None:
    """Print one line of progress."""
    print(f"==> {text}", flush=True)


def now() -> str:
    """The time as it is written into files: UTC, in seconds."""
    return f"{datetime.now(timezone.utc):%FT%TZ}"


@contextmanager
def lock(directory: Path, what: str) -> Iterator[None]:
    """Hold `directory`/deploy.lock; the kernel releases it with this process. Raises Refused after LOCK_SECONDS."""
    file = directory / "deploy.lock"
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _take(descriptor, file)
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{what}, process {os.getpid()}, since {now()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, file: Path) -> None:
    deadline, announced = time.monotonic() + LOCK_SECONDS, False
    while True:
        with suppress(BlockingIOError):
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        holder = file.read_text().strip()
        if not announced:
            say(f"waiting up to {LOCK_SECONDS} s for another deploy: {holder}")
            announced = True
        if time.monotonic() > deadline:
            raise Refused(f"another deploy still runs: {holder}; see it with 'ps'")
        time.sleep(0.2)


def end_orphans(directory: Path) -> None:
    """End the docker commands of a deploy that was killed: they would go on and create containers.

    Only with the lock held: no other deploy of this directory can have children then.
    """
    mark, found = f"{CHILD_MARK}={directory}".encode(), False
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)
                found = True
    if found:
        time.sleep(1)  # the engine may still finish what they asked for


def replace(file: Path, text: str) -> None:
    """Write a file atomically; readers see the old or the new content. Raises OSError."""
    new = file.with_name(f"{file.name}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(file)


def point_to(directory: Path, front: str) -> None:
    """Have the proxy send requests to this front: it reads the file for each request. Raises OSError."""
    replace(directory / "releases/upstream", front)


def pointer(directory: Path) -> str:
    """The front that the proxy sends requests to; empty if there is none yet."""
    with suppress(OSError):
        return (directory / "releases/upstream").read_text().strip()
    return ""


def link_current(directory: Path, tag: str) -> None:
    """Make the files of a release those of the server: deploy.sh and docker-compose.prod.yml lead there."""
    new = directory / "releases/current.new"
    new.unlink(missing_ok=True)
    new.symlink_to(tag)
    new.replace(directory / "releases/current")


def current(directory: Path) -> str:
    """The tag of the release whose files are the server's; empty if there is none."""
    with suppress(OSError):
        return str((directory / "releases/current").readlink())
    return ""
