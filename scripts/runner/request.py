"""Ask the server over SSH to deploy a commit."""

import os
import secrets
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.runner.process import Failure, ensure_command
from scripts.runner.settings import required

VARIABLES = ("DEPLOY_HOST", "DEPLOY_USER", "DEPLOY_KEY", "DEPLOY_KNOWN_HOSTS")
STEP_PREFIX = "==> "
# No prompts, no agent, no other key, and only the pinned host key.
OPTIONS = (
    *("BatchMode=yes", "IdentitiesOnly=yes", "IdentityAgent=none"),
    *("StrictHostKeyChecking=yes", "GlobalKnownHostsFile=/dev/null"),
)
NOT_LIVE = (1, 2)  # exit codes of the deploy program; others come from ssh (255) or from a signal (137)
CONTINUES = "the command continues in the background"  # the last line if the printing was interrupted
KEEP_ALIVE = "ServerAliveInterval=15"  # seconds; detects dead connections


class UnknownResult(Failure):
    """The deploy has started, but its result did not arrive: the connection was lost, or the log is truncated."""


def ssh_command(target: Mapping[str, str], key: Path, known_hosts: Path, request: str) -> list[str]:
    """Return the ssh command for a request; `target` holds DEPLOY_USER, DEPLOY_HOST and optionally DEPLOY_PORT."""
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


def has_succeeded(commit: str, lines: Sequence[str], exit_code: int) -> bool:
    """Return whether the deploy succeeded.

    Both the last step and the exit code are checked, because the log may be truncated.
    """
    return exit_code == 0 and steps(lines)[-1:] == [f"live: {commit}"]


def stream(command: Sequence[str]) -> tuple[list[str], int]:
    """Run a command, print its output as it comes, and return its lines and exit code."""
    lines = []
    # The log of an application may contain anything, including GitHub workflow commands (::name::).
    token = secrets.token_hex(16) if os.environ.get("GITHUB_ACTIONS") else ""
    if token:
        print(f"::stop-commands::{token}", flush=True)
    try:
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            try:
                for line in process.stdout or ():
                    print(line, end="", flush=True)
                    lines.append(line)
            except BaseException:
                process.terminate()
                raise
    finally:
        if token:
            print(f"::{token}::", flush=True)
    return lines, process.returncode


def request_deploy(commit: str) -> None:
    """Ask the server to deploy a commit and print its log. Raise Failure unless the deploy succeeded."""
    target = {**required(*VARIABLES), "DEPLOY_PORT": os.environ.get("DEPLOY_PORT", "")}
    ensure_command("ssh", "openssh-client")
    with tempfile.TemporaryDirectory() as folder:
        key, known_hosts = Path(folder, "key"), Path(folder, "known_hosts")
        key.touch(mode=0o600)
        key.write_text(target["DEPLOY_KEY"].strip() + "\n")
        known_hosts.write_text(target["DEPLOY_KNOWN_HOSTS"].strip() + "\n")
        lines, exit_code = stream(ssh_command(target, key, known_hosts, f"deploy {commit}"))
    if not has_succeeded(commit, lines, exit_code):
        reason = "\n".join(steps(lines)[-2:]) or "".join(lines[-1:]).strip() or "the server printed nothing"
        if any(step.startswith(f"{commit} is live, but") for step in steps(lines)):
            raise Failure(f"{reason}\nRun this command again, and see docs/troubleshooting.md")
        is_unknown = exit_code not in NOT_LIVE or any(step.startswith(CONTINUES) for step in steps(lines)[-1:])
        if is_unknown and steps(lines):
            raise UnknownResult(
                f"the result did not arrive (ssh ended with exit code {exit_code}); the deploy of {commit} may still "
                f"be running:\n{reason}\n"
                "Run 'deploy.sh status' on the server, or run this command again: it waits for that deploy"
            )
        raise Failure(
            f"{commit} was not deployed (ssh ended with exit code {exit_code}):\n{reason}\n"
            "See the log above, and docs/troubleshooting.md"
        )
