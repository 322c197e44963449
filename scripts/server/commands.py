"""Commands with a time limit, without input, whose output goes to the log of the deploy."""

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from server.errors import TimedOut

COMMAND_SECONDS = 600  # time limit of one command


class Result(NamedTuple):
    """The result of a command. Output and error are empty unless they were captured."""

    code: int
    output: str
    error: str


def run(
    command: Sequence[str],
    directory: Path,
    environment: Mapping[str, str] | None = None,
    *,
    seconds: float = COMMAND_SECONDS,
    input: IO[bytes] | None = None,
    output: IO[bytes] | None = None,
    capture: bool = False,
    meanwhile: Callable[[], None] | None = None,
) -> Result:
    """Run a command in `directory`; its output goes to the log of the deploy.

    It reads `input`, by default nothing. With `output`, its standard output goes there instead; with `capture`, both
    streams are captured. `meanwhile` is called several times a second and may raise to end the command. Raises
    TimedOut after `seconds`.
    """
    pipe = subprocess.PIPE if capture else None
    with subprocess.Popen(
        command,
        cwd=directory,
        env=environment,
        stdin=input or subprocess.DEVNULL,
        stdout=output if pipe is None else pipe,
        stderr=pipe,
        text=True,
    ) as process:
        deadline = time.monotonic() + seconds
        try:
            while True:
                try:
                    out, err = process.communicate(timeout=0.2 if meanwhile else seconds)
                    return Result(process.returncode, out or "", err or "")
                except subprocess.TimeoutExpired:
                    if time.monotonic() >= deadline:
                        raise TimedOut(f"'{_describe(command)}' took more than {seconds:g} s") from None
                if meanwhile:
                    meanwhile()
        except BaseException:
            process.kill()
            raise


def _describe(command: Sequence[str]) -> str:
    """Return the program and its subcommand, for example `docker pull`."""
    words = list(command[1:])
    while words and words[0].startswith("--"):  # Compose's options; each has a value
        words = words[2:]
    return " ".join([Path(command[0]).name, *(word for word in words[:1] if not word.startswith("-"))])


def docker(directory: Path, *arguments: str, capture: bool = False) -> Result:
    """Run the docker command; see run."""
    return run(["docker", *arguments], directory, capture=capture)
