"""Start programs, report progress, and fail with a message."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def given_path(text: str) -> Path:
    """Return a path that the user gave, relative to the directory in which scripts/nox was called."""
    return Path(os.environ.get("NOX_CALLED_FROM", ""), text)


class Failure(SystemExit):
    """A command cannot continue. The message says what happened, why, and what to run next.

    A SystemExit, so that a program that does not catch it prints the message and ends with exit code 1.
    """


def say(text: str) -> None:
    """Print one line of progress."""
    print(f"runner: {text}", flush=True)


def run(*command: str, **options: Any) -> str:
    """Run a program and return its output. On failure, print the output and raise CalledProcessError."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr)
        raise subprocess.CalledProcessError(done.returncode, command)
    return str(done.stdout).strip()


def show(*command: str, **options: Any) -> None:
    """Run a program whose output is shown. Raise CalledProcessError on failure."""
    subprocess.run(command, check=True, **options)


def git(*command: str) -> str:
    """Run git and return its output."""
    return run("git", *command)


def ensure_command(command: str, package: str) -> None:
    """Make sure that a program exists: install its Debian package if possible, else raise Failure."""
    if shutil.which(command):
        return
    if not shutil.which("apt-get") or os.geteuid():
        raise Failure(f"{command!r} is not installed. On Debian and Ubuntu: sudo apt-get install {package}")
    say(f"installing a system package: {package}")
    run("apt-get", "update", "--quiet")
    run("apt-get", "install", "--quiet", "--yes", "--no-install-recommends", package)


def ensure_engine() -> None:
    """Make sure that a Docker engine with compose and buildx is running; scripts/engine.sh installs one if it can."""
    show(str(ROOT / "scripts/engine.sh"))
