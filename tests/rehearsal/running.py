"""Commands whose output is read line by line while they run; each wait for them has a deadline."""

import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

STEP_SECONDS = 300.0  # for one step of a deploy
DEPLOY_SECONDS = 600.0  # for a deploy, which may first wait for another one
END_SECONDS = 20.0  # for a command to end after SIGTERM


class RunningCommand:
    """A command that runs on this machine, without input. At the end of its block it is ended if it still runs."""

    def __init__(self, command: Sequence[str], on_line: Callable[[str], None], **options: Any) -> None:
        """`on_line` is called with each line of its output, from another thread."""
        self._lines: list[str] = []
        self._is_complete = False
        self._on_line, self._changed = on_line, threading.Condition()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            **options,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> "RunningCommand":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def output(self) -> str:
        """The output until now."""
        return "".join(self._lines)

    def _read(self) -> None:
        try:
            for line in self._process.stdout:
                self._on_line(line)
                with self._changed:
                    self._lines.append(line)
                    self._changed.notify_all()
        finally:
            with self._changed:
                self._is_complete = True
                self._changed.notify_all()

    def read_until(self, text: str, seconds: float = STEP_SECONDS) -> None:
        """Wait for this text in the output. Raises RuntimeError if it ends first, TimeoutError after `seconds`."""
        with self._changed:
            is_done = self._changed.wait_for(lambda: text in self.output or self._is_complete, seconds)
        if not is_done:
            raise TimeoutError(f"waited {seconds:g} s for {text!r} in the output: {self.output}")
        if text not in self.output:
            raise RuntimeError(f"ended before {text!r} in the output: {self.output}")

    def finish(self, seconds: float = DEPLOY_SECONDS) -> subprocess.CompletedProcess:
        """Wait for the end; the result has all output in `stdout`. TimeoutError after `seconds`."""
        self._reader.join(seconds)
        if self._reader.is_alive():
            raise TimeoutError(f"still running after {seconds:g} s: {self.output}")
        return subprocess.CompletedProcess(self._process.args, self._process.wait(END_SECONDS), self.output)

    def end(self) -> None:
        """End the command if it still runs. A deploy on the server continues: it survives its connection."""
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        self.kill()

    def kill(self) -> None:
        """Kill the command if it still runs."""
        self._process.kill()
        self._process.wait()
        self._reader.join(END_SECONDS)
        if not self._reader.is_alive():  # else a child still has the output open
            self._process.stdout.close()
