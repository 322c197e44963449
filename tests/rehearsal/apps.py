"""The applications in tests/apps as repositories, to which `adopt` adds the pipeline."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.adopt.__main__ import main as adopt
from scripts.runner.process import ROOT, run

APPS = ROOT / "tests/apps"
REHEARSALS = APPS / "rehearsals"  # the rehearsal.toml of each application


def app_names() -> list[str]:
    """Return the names of the applications."""
    return sorted(path.stem for path in REHEARSALS.glob("*.toml"))


def list_files(folder: Path) -> list[str]:
    """Return the files of a folder that Git does not ignore, relative to the folder."""
    command = ("git", "-C", str(folder), "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    return [name for name in run(*command).split("\0") if name and (folder / name).is_file()]


@contextmanager
def app_repository(name: str) -> Iterator[Path]:
    """Provide a Git repository with an application, adopted by one command, and remove it at the end.

    Its rehearsal.toml is that of REHEARSALS: adopt cannot know which requests write.
    """
    with tempfile.TemporaryDirectory(prefix="quai-") as folder:
        repository = Path(folder) / name
        for file in list_files(APPS / name):
            (repository / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(APPS / name / file, repository / file)
        git = ("git", "-C", str(repository))
        run(*git[:1], "init", "--quiet", "--initial-branch=main", str(repository))
        run(*git, "config", "user.name", "rehearsal")
        run(*git, "config", "user.email", "rehearsal@example.com")
        run(*git, "add", "--all")
        run(*git, "commit", "--quiet", "--message", name)
        adopt([str(repository), "--yes", "--no-proof"])
        if changed := run(*git, "diff", "--diff-filter=a", "--name-only", "main", "HEAD"):
            raise ValueError(f"adopt changed files of {name}: {changed}")
        shutil.copy(REHEARSALS / f"{name}.toml", repository / "rehearsal.toml")
        yield repository
