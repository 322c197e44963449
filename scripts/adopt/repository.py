"""The repository that gets the pipeline: its files as text, and its Git commands."""

import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from scripts.runner.process import Failure

# Larger files are data, or generated; lock files are up to some MB.
MAX_BYTES, MAX_LOCK_BYTES = 1_000_000, 50_000_000


class Repository:
    """The files that Git tracks in a repository, or in a folder of it. Reading a file never leaves the repository.

    Names are relative to the folder of the application; those that begin with `.github/`, to the top level.
    """

    def __init__(self, top: Path, app: str = "") -> None:
        """Open the repository at `top` with the application in the folder `app`.

        Raise Failure if `top` is not the top level of a Git repository, or has no such folder.
        """
        self.top = top.resolve()
        if not self.top.is_dir():
            raise Failure(f"{top} is not a folder")
        try:
            found = self.git("rev-parse", "--show-toplevel")
        except subprocess.CalledProcessError as error:
            raise Failure(f"{self.top} is not a usable Git repository: {error.stderr.strip()}") from None
        if Path(found) != self.top:
            raise Failure(
                f"{self.top} is a folder of the repository {found}. If the application is in it:"
                f" adopt {found} --app {self.top.relative_to(found)}"
            )
        self.folder = (self.top / app).resolve()
        is_inside = self.folder.is_relative_to(self.top) and ".git" not in self.folder.relative_to(self.top).parts
        if not is_inside or not self.folder.is_dir():
            raise Failure(f"--app {app}: expected a folder of the repository, for example backend")
        self.app = "" if self.folder == self.top else self.folder.relative_to(self.top).as_posix()
        names = self.git("ls-files", "-z", "--full-name", "--", self.app or ".").split("\0")
        names = [name.removeprefix(f"{self.app}/") for name in names]
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

    def place(self, name: str) -> str:
        """Return the path of a file relative to the top level."""
        return name if name.startswith(".github/") or not self.app else f"{self.app}/{name}"

    def path(self, name: str) -> Path:
        """Return the path of a file."""
        return self.top / self.place(name)

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
        path = self.path(name)
        try:
            if not path.resolve().is_relative_to(self.top):
                raise Failure(f"{name} is a link to {path.resolve()}, outside the repository: replace it by a file")
            limit = MAX_LOCK_BYTES if name.endswith(".lock") else MAX_BYTES
            if path.stat().st_size > limit:
                raise Failure(f"{name} is larger than {limit} bytes")
            return path.read_text(encoding="utf-8-sig")
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
            raise Failure(f"cannot read {name}: {error}") from None
        except UnicodeDecodeError as error:
            raise Failure(f"cannot read {name}: it is not UTF-8 (byte {error.start})") from None

    def workflows(self) -> dict[str, str]:
        """Return the text of each workflow that Git tracks, by its name. Raise Failure as `text` does."""
        patterns = (".github/workflows/*.yml", ".github/workflows/*.yaml")
        names = self.git("ls-files", "-z", "--full-name", "--", *patterns).split("\0")
        return {name: self._read(name) for name in names if name and name.isprintable()}

    def matching(self, *patterns: str) -> Iterator[str]:
        """Yield the tracked files that match one of these patterns, as `PurePath.match` does."""
        return (name for name in self.names if any(PurePosixPath(name).match(pattern) for pattern in patterns))


def line_of(text: str, part: str) -> int:
    """Return the number of the first line that contains a text; 1 if there is none."""
    return line_at(text, max(text.find(part), 0))


def line_at(text: str, position: int) -> int:
    """Return the number of the line at a position of a text."""
    return text.count("\n", 0, position) + 1
