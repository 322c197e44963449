"""The repository that gets the pipeline: its files as text, and its Git commands."""

import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from scripts.runner.process import Failure

# Larger files are data, or generated.
MAX_BYTES = 1_000_000


class Repository:
    """The files that Git tracks in a repository. Reading a file never leaves the repository."""

    def __init__(self, folder: Path) -> None:
        """Open the repository at `folder`. Raise Failure if that is not the top level of a Git repository."""
        self.top = folder.resolve()
        if not self.top.is_dir():
            raise Failure(f"{folder} is not a folder")
        try:
            top = self.git("rev-parse", "--show-toplevel")
        except subprocess.CalledProcessError as error:
            raise Failure(f"{self.top} is not a usable Git repository: {error.stderr.strip()}") from None
        if Path(top) != self.top:
            raise Failure(f"{self.top} is a folder of the repository {top}, and only the top level can be adopted")
        names = self.git("ls-files", "-z").split("\0")
        self.names = sorted(name for name in names if name and name.isprintable())  # adopt reads no other names
        self._texts: dict[str, str] = {}

    def hide(self, names: set[str]) -> None:
        """Leave out files, such as those that adopt generated: they say nothing about the application."""
        self.names = [name for name in self.names if name not in names]

    def git(self, *command: str) -> str:
        """Run git at the top level and return its output. Raise CalledProcessError on failure."""
        done = subprocess.run(
            ["git", "-C", str(self.top), *command], capture_output=True, text=True, check=True, errors="surrogateescape"
        )
        return done.stdout.rstrip("\n")

    def private_file(self, name: str) -> Path:
        """Return the path of a file that Git does not track, in its own directory."""
        return self.top / self.git("rev-parse", "--git-path", name)

    def has(self, name: str) -> bool:
        """Return whether Git tracks this file."""
        return name in self.names

    def text(self, name: str) -> str:
        """Return the text of a tracked file; empty if Git tracks no such file.

        Raise Failure if the file cannot be read as UTF-8, or is a link to a file outside the repository.
        """
        if name not in self.names:
            return ""
        if name not in self._texts:
            self._texts[name] = self._read(name)
        return self._texts[name]

    def _read(self, name: str) -> str:
        path = self.top / name
        try:
            if not path.resolve().is_relative_to(self.top):
                raise Failure(f"{name} is a link to {path.resolve()}, outside the repository: replace it by a file")
            if path.stat().st_size > MAX_BYTES:
                raise Failure(f"{name} is larger than {MAX_BYTES} bytes")
            return path.read_text(encoding="utf-8-sig")
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
            raise Failure(f"cannot read {name}: {error}") from None
        except UnicodeDecodeError as error:
            raise Failure(f"cannot read {name}: it is not UTF-8 (byte {error.start})") from None

    def matching(self, *patterns: str) -> Iterator[str]:
        """Yield the tracked files that match one of these patterns, as `PurePath.match` does."""
        return (name for name in self.names if any(PurePosixPath(name).match(pattern) for pattern in patterns))


def line_of(text: str, part: str) -> int:
    """Return the number of the first line that contains a text; 1 if there is none."""
    return line_at(text, max(text.find(part), 0))


def line_at(text: str, position: int) -> int:
    """Return the number of the line at a position of a text."""
    return text.count("\n", 0, position) + 1
