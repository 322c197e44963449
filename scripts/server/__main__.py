"""The command line of deploy.sh: `python3 -m server <directory of .env> [arguments]`."""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from server import deploy, history, services, settings, status
from server.engine import EngineError
from server.errors import UsageError
from server.follow import follow

USAGE = """\
Usage: deploy.sh                  deploy the release that IMAGE_TAG in .env names (also for a rollback)
       deploy.sh deploy <commit>  deploy a commit (40 hex digits), unless it is older than the live release
       deploy.sh status           show the live release, its containers and the rollback commands
       deploy.sh services         apply changed settings of the proxy, the database and other services that a
                                  deploy does not replace (a short interruption)
       deploy.sh --ssh            handle a request from the deploy key: 'deploy <commit>' or 'status' only
       deploy.sh --help           show this help

A release starts next to the current one and goes live only when it is healthy. Otherwise it is removed, its
log is shown, and the exit code is 1 (2: invalid arguments or settings). If you stop this command, the exit
code is also 1, but the deploy continues. If a deploy was killed, run the same command again: it cleans up first.
"""
KEY_ACTOR = "the deploy key"


class Command(NamedTuple):
    """A parsed command: help, status, services, deploy (of `tag`), or reconcile (with .env)."""

    name: str
    tag: str = ""
    by_key: bool = False


def parse(arguments: Sequence[str], ssh_command: str) -> Command:
    """Parse the command line; with --ssh, the untrusted text `ssh_command` instead. Raises UsageError."""
    by_key = list(arguments) == ["--ssh"]
    text = ssh_command if by_key else " ".join(arguments)
    if found := re.fullmatch(rf"deploy ({settings.COMMIT})", text):
        return Command("deploy", found[1], by_key)
    if text == "status":
        return Command("status", by_key=by_key)
    if not by_key:
        if text in ("-h", "--help"):
            return Command("help")
        if not arguments:
            return Command("reconcile")
        if text == "services":
            return Command("services")
    if by_key:
        raise UsageError(f"the deploy key accepts only 'status' and 'deploy <commit, 40 hex digits>', not '{text}'")
    raise UsageError(f"unknown command '{text}': see deploy.sh --help")


def main(arguments: Sequence[str]) -> int:
    """Run one command of deploy.sh and return its exit code."""
    directory, *rest = arguments
    os.environ["LC_ALL"] = "C"
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    os.umask(0o022)
    try:
        return run(Path(directory), parse(rest, os.environ.get("SSH_ORIGINAL_COMMAND", "")))
    except UsageError as error:
        print(f"deploy.sh: {error}", file=sys.stderr)
        return 2
    except (EngineError, OSError) as error:
        print(f"deploy.sh: {error}", file=sys.stderr)
        return 1


def run(directory: Path, command: Command) -> int:
    """Run a command in the directory of .env. Raises UsageError, EngineError or OSError."""
    if command.name == "help":
        print(USAGE, end="")
        return 0
    actor = KEY_ACTOR if command.by_key else os.environ.get("DEPLOYED_BY") or os.environ.get("SUDO_USER") or _user()
    current = history.read_settings(directory)
    os.chdir(directory)
    if command.name == "status":
        return status.show(directory, current)
    if command.name == "services":
        return follow(directory, lambda: services.apply(directory))
    if command.name == "deploy":
        return follow(directory, lambda: deploy.run(directory, command.tag, actor, refuse_older=True))
    if (current.image_tag or current.deploy_id) and not re.fullmatch(settings.COMMIT, current.image_tag):
        raise UsageError(f"IMAGE_TAG in {directory}/.env must be a commit (40 hex digits)")
    # If IMAGE_TAG names a release other than the live one, request that release. Otherwise IMAGE_TAG is read under
    # the lock: a deploy that is running may change it.
    entry = history.find_live_entry(directory, current.deploy_id)
    tag = current.image_tag if entry and entry.tag != current.image_tag else ""
    return follow(directory, lambda: deploy.run(directory, tag, actor, refuse_older=False))


def _user() -> str:
    return os.environ.get("USER") or str(os.getuid())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
