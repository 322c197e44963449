"""Runs a command in the background and prints its log, so that it survives a dropped connection."""

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType

from server.errors import Interrupted
from server.state import say

KEEP_DAYS = 90  # how long logs are kept
POLL_SECONDS = 0.05


def follow(directory: Path, action: Callable[[], int]) -> int:
    """Run `action` in a session of its own, print its log until it ends, and return its exit code.

    In this process, SIGINT, SIGHUP and SIGTERM only stop the printing: the exit code is 1, and the action continues.
    In the child process, which runs the action, the first SIGTERM or SIGINT raises Interrupted; SIGHUP is ignored.
    """
    log = _new_log(directory / "logs")
    child = os.fork()
    if not child:
        _run(action, log)
    signals = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)

    def leave(*_: int | FrameType | None) -> None:
        with suppress(OSError):  # the terminal may be gone
            os.write(1, f"==> the command continues in the background: tail -f {log}\n".encode())
        os._exit(1)

    for number in signals:
        signal.signal(number, leave)
    return _print(log, child)


def _new_log(folder: Path) -> Path:
    folder.mkdir(mode=0o700, exist_ok=True)
    oldest = time.time() - KEEP_DAYS * 86400
    for old in folder.glob("*.log"):
        with suppress(FileNotFoundError):
            if old.stat().st_mtime < oldest:
                old.unlink()
    log = folder / f"{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}-{os.getpid()}.log"
    log.touch()
    return log


def _run(action: Callable[[], int], log: Path) -> None:
    """The child process: it has no terminal, and its standard streams are the log."""
    code = 1
    try:
        os.setsid()
        for descriptor, file, flags in ((0, os.devnull, os.O_RDONLY), (1, log, os.O_WRONLY | os.O_APPEND)):
            os.dup2(os.open(file, flags), descriptor)
        os.dup2(1, 2)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, _interrupt)
        signal.signal(signal.SIGINT, _interrupt)
        code = action()
    except BaseException as error:
        say(f"failed: {type(error).__name__}: {error}")
    finally:
        ignore_signals()
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(code)


def _interrupt(*_: int | FrameType | None) -> None:
    ignore_signals()
    raise Interrupted("interrupted")


def ignore_signals() -> None:
    """Ignore TERM and INT for the rest of this process; children inherit this."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _print(log: Path, child: int) -> int:
    """Print the log as it grows, until the child exits, and return its exit code."""
    with log.open("rb") as lines:
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            while part := lines.read(65536):
                _write(part)
            if ended:
                return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
            time.sleep(POLL_SECONDS)


def _write(part: bytes) -> None:
    try:
        sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()
    except OSError:  # the reader is gone; the deploy continues
        os._exit(1)
