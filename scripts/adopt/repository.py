"""The repository that gets the pipeline: its files as text, and its Git commands."""

import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from scripts.runner.process import Failure

# Larger files are data, or generated.
MAX_BYTES = 1_000_000


class Repository:
    """The files that Git tracks in a repository, or in one of its folders. Reading a file never leaves the repository.

    Names of files are relative to the folder of the application, with `/`.
    """

    def __init__(self, folder: Path, app: str = "") -> None:
        """Open the repository at `folder`, for the application in its folder `app` (empty: the top level).

        Raise Failure if `folder` is not the top level of a Git repository, or if it has no such folder.
        """
        self.top = folder.resolve()
        if not self.top.is_dir():
            raise Failure(f"{folder} is not a folder")
        try:
            top = self.git("rev-parse", "--show-toplevel")
        except subprocess.CalledProcessError:
            raise Failure(f"{self.top} is not a Git repository. Create one: git -C {self.top} init") from None
        if Path(top) != self.top:
            raise Failure(f"{self.top} is a folder of the repository {top}: pass {top}, and --app for the folder")
        self.app = str(PurePosixPath(app)) if app and app != "." else ""
        self.folder = self.top / self.app
        if not self.folder.resolve().is_relative_to(self.top) or not self.folder.is_dir():
            raise Failure(f"--app {app}: the repository has no such folder")
        listed = self.git("ls-files", "-z", "--", self.app or ".")
        prefix = f"{self.app}/" if self.app else ""
        names = (name.removeprefix(prefix) for name in listed.split("\0") if name)
        self.names = sorted(name for name in names if name.isprintable())  # others are in no format that adopt reads
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
        path = self.folder / name
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
