"""The proof of an adoption: the new sessions run, and the image is built, started and requested."""

import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

SESSIONS = ("lint", "tests", "image")
SECONDS = 1800  # a first build installs all dependencies
# Lines that hide the cause of a failure: the text of the Dockerfile, long commands, and logs of the proxy.
NOISE = re.compile(
    r"\s*\d+ \|( >>>)? |-{4,}$|ERROR: failed to solve|runner: .*docker buildx|.*\"level\":\"info\"|Dockerfile\S*:\d+$"
)


@dataclass(frozen=True)
class Result:
    """The result of a session: passed, skipped or failed, its duration in seconds, and its last lines."""

    session: str
    outcome: str
    seconds: float
    output: str


def run_session(folder: Path, session: str) -> Result:
    """Run a nox session of the adopted repository; its whole output goes to .nox/adopt-<session>.log."""
    began = time.monotonic()
    log = folder / ".nox" / f"adopt-{session}.log"
    log.parent.mkdir(exist_ok=True)
    if not (log.parent / ".gitignore").exists():
        (log.parent / ".gitignore").write_text("*\n")
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "NOX_ENVIRONMENTS")}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"  # a .gitignore may not have the pipeline's folders
    with log.open("w") as file:
        try:
            done = subprocess.run(
                ["scripts/nox", "-s", session],
                cwd=folder,
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                check=False,
                timeout=SECONDS,
                env=environment,
            )
            code = done.returncode
        except subprocess.TimeoutExpired:
            file.write(f"ended after {SECONDS} seconds\n")
            code = 1
    text = log.read_text(errors="replace")
    outcome = "failed" if code else "skipped" if f"Session {session} skipped" in text else "passed"
    lines = [line for line in text.splitlines() if line.strip() and not NOISE.match(line)]
    return Result(session, outcome, time.monotonic() - began, "\n".join(lines[-20:]))
