"""The command line of deploy.sh: `python3 -m server <directory of .env> [arguments]`."""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from server import deploy, services, settings, status
from server.engine import EngineError
from server.errors import UsageError
from server.follow import follow

USAGE = """\
Usage: deploy.sh                  make the release live that IMAGE_TAG in .env names (this applies a rollback)
       deploy.sh deploy <commit>  make a commit (40 hex digits) live, unless it is older than the live release
       deploy.sh status           show what is live, its containers, and the commands that roll back
       deploy.sh services         apply changed settings of proxy, database and the like (a short interruption)
       deploy.sh --ssh            do what an SSH key requests: 'deploy <commit>' or 'status', nothing else
       deploy.sh --help           show this help

A release goes live only after it is healthy next to the current one. Otherwise it is removed, its log is
shown, and the exit code is 1 (2: the request or a setting is wrong). After an interruption, run the same
command again: it cleans up first.
"""
KEY = "the deploy key"


class Request(NamedTuple):
    """What is requested: help, status, services, deploy (of `tag`), or reconcile (with .env)."""

    command: str
    tag: str = ""


def parse(arguments: Sequence[str], ssh_command: str) -> Request:
    """The request of a command line. With --ssh it is the text `ssh_command`, which an attacker may have written.

    Raises UsageError.
    """
    by_key = list(arguments) == ["--ssh"]
    text = ssh_command if by_key else " ".join(arguments)
    if found := re.fullmatch(rf"deploy ({settings.COMMIT})", text):
        return Request("deploy", found[1])
    if text == "status":
        return Request("status")
    if not by_key:
        if text in ("-h", "--help"):
            return Request("help")
        if text in ("", "services"):
            return Request(text or "reconcile")
    raise UsageError(f"'{text}' is not 'status' or 'deploy <commit, 40 hex digits>'; see deploy.sh --help")


def main(arguments: Sequence[str]) -> int:
    """Run one command of deploy.sh and return its exit code."""
    directory, *rest = arguments
    os.environ["LC_ALL"] = "C"
    os.umask(0o022)
    try:
        return run(Path(directory), parse(rest, os.environ.get("SSH_ORIGINAL_COMMAND", "")), rest)
    except UsageError as error:
        print(f"deploy.sh: {error}", file=sys.stderr)
        return 2
    except EngineError as error:
        print(f"deploy.sh: {error}", file=sys.stderr)
        return 1


def run(directory: Path, request: Request, arguments: Sequence[str]) -> int:
    """Run a request in the directory of .env. Raises UsageError or EngineError."""
    if request.command == "help":
        print(USAGE, end="")
        return 0
    by = KEY if "--ssh" in arguments else os.environ.get("DEPLOYED_BY") or os.environ.get("SUDO_USER") or _user()
    current = settings.read(directory)
    os.chdir(directory)
    if request.command == "status":
        return status.show(directory, current)
    if request.command == "services":
        return follow(directory, lambda: services.apply(directory))
    tag = request.tag or current.image_tag
    if not re.fullmatch(settings.COMMIT, tag):
        raise UsageError(f"IMAGE_TAG in {directory}/.env must be a commit (40 hex digits); .env.prod shows an example")
    forward = request.command == "deploy"
    return follow(directory, lambda: deploy.run(directory, tag, by, forward=forward))


def _user() -> str:
    return os.environ.get("USER") or str(os.getuid())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
