"""Request a deploy from the server over SSH."""

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.runner.process import Failure
from scripts.runner.settings import required

VARIABLES = ("DEPLOY_HOST", "DEPLOY_USER", "DEPLOY_KEY", "DEPLOY_KNOWN_HOSTS")
STEP_PREFIX = "==> "
# No prompts, no agent, no other key, and no server but the pinned one.
OPTIONS = (
    *("BatchMode=yes", "IdentitiesOnly=yes", "IdentityAgent=none"),
    *("StrictHostKeyChecking=yes", "GlobalKnownHostsFile=/dev/null"),
)
KEEP_ALIVE = "ServerAliveInterval=15"  # seconds; a connection that the network dropped ends, instead of hanging


def ssh_command(target: Mapping[str, str], key: Path, known_hosts: Path, request: str) -> list[str]:
    """Return the ssh command for a request; `target` holds DEPLOY_USER, DEPLOY_HOST and perhaps DEPLOY_PORT."""
    options = (*OPTIONS, f"UserKnownHostsFile={known_hosts}", KEEP_ALIVE)
    return [
        *("ssh", "-T", "-F", "none", "-i", str(key)),
        *(word for option in options for word in ("-o", option)),
        *("-p", target.get("DEPLOY_PORT") or "22"),
        *("--", f"{target['DEPLOY_USER']}@{target['DEPLOY_HOST']}", request),
    ]


def steps(lines: Sequence[str]) -> list[str]:
    """Return the steps among the lines that the server printed."""
    return [line.removeprefix(STEP_PREFIX).strip() for line in lines if line.startswith(STEP_PREFIX)]


def succeeded(commit: str, lines: Sequence[str], exit_code: int) -> bool:
    """Return whether the deploy succeeded: by its last step and its exit code, since a log can be cut short."""
    return exit_code == 0 and steps(lines)[-1:] == [f"live: {commit}"]


def follow(command: Sequence[str]) -> tuple[list[str], int]:
    """Run a command, print its output as it comes, and return its lines and exit code."""
    lines = []
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line)
    return lines, process.returncode


def request_deploy(commit: str) -> None:
    """Request the deploy of a commit and print the server's log. Raise Failure unless it succeeded."""
    target = {**required(*VARIABLES), "DEPLOY_PORT": os.environ.get("DEPLOY_PORT", "")}
    with tempfile.TemporaryDirectory() as folder:
        key, known_hosts = Path(folder, "key"), Path(folder, "known_hosts")
        key.touch(mode=0o600)
        key.write_text(target["DEPLOY_KEY"].strip() + "\n")
        known_hosts.write_text(target["DEPLOY_KNOWN_HOSTS"].strip() + "\n")
        lines, exit_code = follow(ssh_command(target, key, known_hosts, f"deploy {commit}"))
    if not succeeded(commit, lines, exit_code):
        reason = "\n".join(steps(lines)[-2:]) or "the server printed nothing"
        raise Failure(
            f"{commit} was not deployed (ssh ended with exit code {exit_code}):\n{reason}\n"
            "See the log above, and docs/troubleshooting.md"
        )
