"""One commit on a branch, made without touching the work tree until it is complete."""

import os
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from scripts.adopt.repository import Repository
from scripts.runner.process import Failure

MAIN_BRANCHES = ("main", "master", "dev", "develop")


def require_clean(repository: Repository) -> None:
    """Raise Failure unless the repository has a commit, no file that is not committed, and is on its main branch."""
    if not has_commits(repository):
        raise Failure("the repository has no commits. Commit your project first: git add -A && git commit")
    if changed := repository.git("status", "--porcelain"):
        lines = changed.splitlines()
        what = "1 file is" if len(lines) == 1 else f"{len(lines)} files are"
        raise Failure(
            f"{what} not committed, for example {lines[0][3:]}."
            " Commit or set aside your changes: git stash --include-untracked"
        )


def require_main_branch(repository: Repository) -> None:
    """Raise Failure on a topic branch: the new branches would contain it."""
    current = repository.git("branch", "--show-current")
    existing = [name for name in MAIN_BRANCHES if has_branch(repository, name)]
    if current not in MAIN_BRANCHES and existing:
        raise Failure(
            f"the current branch is {current or 'none'}, and the pipeline would be based on it."
            f" First: git switch {existing[0]}"
        )


def has_commits(repository: Repository) -> bool:
    """Return whether the current branch has a commit."""
    return _exists(repository, "HEAD")


def make_commit(
    repository: Repository, message: str, files: dict[str, bytes], executable: set[str], removed: tuple[str, ...] = ()
) -> str:
    """Return a new commit on HEAD, or the first commit, with these files and without the removed ones.

    No branch moves. Raise Failure if Git has no author.
    """
    parent = ["-p", "HEAD"] if has_commits(repository) else []
    files = {repository.place(name): content for name, content in files.items()}
    executable, removed = {*map(repository.place, executable)}, (*map(repository.place, removed),)
    with tempfile.TemporaryDirectory() as folder:
        index, tree = Path(folder, "index"), Path(folder, "tree")
        tree.mkdir()
        for name, content in files.items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes(content)
            (tree / name).chmod(0o755 if name in executable else 0o644)
        # Content and modes exactly as given, whatever the user's configuration is.
        options = ("-c", "core.autocrlf=false", "-c", "core.safecrlf=false", "-c", "core.fileMode=true")

        def git(*command: str, names: Iterable[str] = ()) -> str:
            words = ["git", f"--git-dir={repository.private_file('.').resolve()}", f"--work-tree={tree}", *options]
            done = subprocess.run(
                [*words, *command],
                input="".join(f"{name}\0" for name in names),
                capture_output=True,
                text=True,
                check=False,
                cwd=tree,
                env=os.environ | {"GIT_INDEX_FILE": str(index)},
            )
            if done.returncode:
                raise Failure(f"git {command[0]} failed: {done.stderr.strip()}")
            return done.stdout.strip()

        git("read-tree", "HEAD" if parent else "--empty")
        git("update-index", "--add", "-z", "--stdin", names=files)
        git("update-index", "--force-remove", "-z", "--stdin", names=removed)
        return git("commit-tree", git("write-tree"), *parent, "-m", message)


def require_no_branch(repository: Repository, name: str) -> None:
    """Raise Failure if a branch exists already."""
    if has_branch(repository, name):
        raise Failure(
            f"the branch {name} exists. If it is merged, or to start again: git branch --delete --force {name}"
        )


def switch_to(repository: Repository, branch: str, commit: str) -> None:
    """Create a branch at a commit and check it out. Git refuses if that would overwrite a file that it ignores.

    The repository's hooks do not run: one that fails would leave the switch half done.
    """
    words = ("-c", "core.hooksPath=/dev/null", "switch", "--quiet", "--no-overwrite-ignore", "--create", branch, commit)
    try:
        repository.git(*words)
    except subprocess.CalledProcessError as error:
        raise Failure(f"git switch failed, nothing has changed: {error.stderr.strip()}") from None


def has_branch(repository: Repository, name: str) -> bool:
    """Return whether a local branch has this name."""
    return _exists(repository, f"refs/heads/{name}")


def _exists(repository: Repository, revision: str) -> bool:
    try:
        repository.git("rev-parse", "--verify", "--quiet", revision)
    except subprocess.CalledProcessError:
        return False
    return True


def ensure_dev(repository: Repository, commit: str) -> bool:
    """Create the branch dev unless it exists here or at origin; return whether it was created here."""
    if has_branch(repository, "dev"):
        return False
    remote = repository.git("for-each-ref", "--format=%(refname)", "refs/remotes/origin/dev")
    is_remote = "refs/remotes/origin/dev" in remote.splitlines()
    repository.git("branch", "--no-track", "dev", "origin/dev" if is_remote else commit)
    return True
