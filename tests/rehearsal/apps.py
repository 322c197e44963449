"""The applications in tests/apps as repositories: their own files, and those of the pipeline."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.runner.process import ROOT, run

APPS = ROOT / "tests/apps"
CONFIGURATION = APPS / "configuration"  # of each application: what differs from the files for any application
FILES = ROOT / "scripts/adopt/files"  # for any application
PIPELINE = (".github/workflows/cd.yml", "scripts")  # identical in every repository
NOT_SHIPPED = ("scripts/adopt/", "scripts/ruff.toml")  # the rules are for this repository


def app_names() -> list[str]:
    """Return the names of the applications."""
    return sorted(folder.name for folder in CONFIGURATION.iterdir() if folder.is_dir())


def list_files(folder: Path, *paths: str) -> list[str]:
    """Return the files of a folder that Git does not ignore, relative to the folder."""
    command = ("git", "-C", str(folder), "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *paths)
    return [name for name in run(*command).split("\0") if name and (folder / name).is_file()]


def copy_files(source: Path, target: Path, *paths: str) -> list[str]:
    """Copy these files, or all, that Git does not ignore; return their names. Files in the target are replaced."""
    names = [name for name in list_files(source, *paths) if not name.startswith(NOT_SHIPPED)]
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source / name, target / name)
    return names


@contextmanager
def app_repository(name: str) -> Iterator[Path]:
    """Provide a Git repository with an application and the pipeline, and remove it at the end."""
    with tempfile.TemporaryDirectory(prefix=f"quai-{name}-") as folder:
        repository = Path(folder)
        own = copy_files(APPS / name, repository)
        added = [
            *copy_files(FILES, repository),
            *copy_files(CONFIGURATION / name, repository),
            *copy_files(ROOT, repository, *PIPELINE),
        ]
        changed = sorted(set(own) & set(added))
        if changed:
            raise ValueError(f"the pipeline would change files of {name}: {', '.join(changed)}")
        print(f"rehearsal: {name}: {len(own)} files of the application, {len(set(added))} of the pipeline", flush=True)
        run("git", "-C", folder, "init", "--quiet", "--initial-branch=main")
        run("git", "-C", folder, "add", "--all")
        yield repository
