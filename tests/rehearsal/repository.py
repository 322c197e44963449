"""A Git repository with a history. A push to main runs the real cd.yml with act."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.runner.process import ROOT, run
from scripts.runner.project import compose_file, env_template
from scripts.runner.settings import read_env_file
from tests.rehearsal.running import RunningCommand

JOB_SECONDS = 1200
WORKFLOWS = (".github/workflows/pipeline.yml", ".github/workflows/cd.yml")  # the first one next to another cd.yml
# The line of deploy.sh when a step begins, alone or in act's log.
STEP = re.compile(r"(?:^|\| )==> (repair|pull|migrate|start|wait|workers|switch|verify|watch|clean|live|refused)\b")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def runner_environment() -> dict[str, str]:
    """Return the environment of a runner, without the Python of this session."""
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    paths = [path for path in environment["PATH"].split(os.pathsep) if not path.startswith(str(ROOT))]
    return environment | {"PATH": os.pathsep.join(paths)}


def read_project(source: Path) -> str:
    """Return the name of the Compose project of an application; empty without one."""
    return read_env_file(source / env_template(source)).get("COMPOSE_PROJECT_NAME", "")


def find_top(source: Path) -> Path | None:
    """Return the top level of the repository that contains a folder; None if there is none."""
    command = ("git", "-C", str(source), "rev-parse", "--show-toplevel")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode else Path(done.stdout.strip())


def find_missing_file(source: Path) -> str:
    """Return the first file of the pipeline that the application in a folder lacks; empty if it has all."""
    files = (compose_file(source), env_template(source), "scripts/setup-server.sh")
    missing = [name for name in files if not (source / name).is_file()]
    return next(iter(missing), "") or ("" if find_workflow(source) else WORKFLOWS[-1])


def find_workflow(source: Path) -> str:
    """Return the workflow that deploys the application in a folder; empty if there is none."""
    top = find_top(source)
    return next((name for name in WORKFLOWS if top and (top / name).is_file()), "")


class Repository:
    """A copy of a repository, with a history of its own. `folder` is the one of the application."""

    def __init__(self, copy: Path, source: Path, omitted: str = "") -> None:
        """Copy the files that Git does not ignore, as they are now, of the repository with the application `source`.

        Paths that begin with the regular expression `omitted` are left out.
        """
        top = find_top(source)
        if not top:
            raise ValueError(f"{source} is not in a Git repository")
        self.copy, self.folder = copy, copy / source.resolve().relative_to(top)
        self.workflow = find_workflow(source)
        self.log = copy.parent / "act.log"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir(parents=True)
        listed = run("git", "-C", str(top), "ls-files", "--cached", "--others", "--exclude-standard", "-z")
        names = [name for name in filter(None, listed.split("\0")) if not (omitted and re.match(omitted, name))]
        for name in names:
            if (top / name).is_file() or (top / name).is_symlink():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(top / name, copy / name, follow_symlinks=False)
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("config", "user.name", "rehearsal")
        self.git("config", "user.email", "rehearsal@example.com")
        self.git("config", "commit.gpgsign", "false")
        self.git("remote", "add", "origin", "https://github.com/example/quai.git")
        self.log.write_text("")

    def git(self, *command: str) -> str:
        """Run git in the repository."""
        return run("git", "-C", str(self.copy), *command)

    def replace(self, name: str, old: str, new: str) -> None:
        """Replace text in a file. Raises ValueError unless it occurs exactly once."""
        path = self.folder / name
        text = path.read_text()
        if text.count(old) != 1:
            raise ValueError(f"{name} contains {old!r} {text.count(old)} times: fix the scenario")
        path.write_text(text.replace(old, new))

    def commit(self, message: str, date: str = "") -> str:
        """Commit everything, at another date if given, and return the commit."""
        self.git("add", "--all")
        dates = {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date} if date else {}
        command = ("git", "-C", str(self.copy), "commit", "--quiet", "--allow-empty", "--message", message)
        run(*command, env=os.environ | dates)
        return self.git("rev-parse", "HEAD")

    @contextmanager
    def reverted(self) -> Iterator[None]:
        """Revert the commit made inside the block, or discard the changes if there is no commit."""
        before = self.git("rev-parse", "HEAD")
        try:
            yield
        finally:
            self.git("reset", "--quiet", "--hard")
            if self.git("rev-parse", "HEAD") != before:
                self.git("revert", "--no-edit", "HEAD")

    def push(
        self, variables: dict, secrets: dict, environment: dict, on_step: Callable[[str], None]
    ) -> tuple[int, str]:
        """Run cd.yml as GitHub would for a push of HEAD to main; return its exit code and its log.

        `on_step` is called when a step of deploy.sh begins. TimeoutError after JOB_SECONDS.
        """
        command = [
            *(shutil.which("act"), "push", "--workflows", self.workflow),
            *("--platform", "ubuntu-latest=-self-hosted"),
            *("--env-file", "", "--var-file", "", "--secret-file", "", "--no-cache-server", "--action-offline-mode"),
            *(word for name, value in variables.items() for word in ("--var", f"{name}={value}")),
            *(word for name in secrets for word in ("--secret", name)),
            *(word for name, value in environment.items() for word in ("--env", f"{name}={value}")),
        ]
        began = time.monotonic()

        def record(line: str) -> None:
            line = COLOUR.sub("", line)
            with self.log.open("a") as log:
                log.write(line)
            if name := re.search(r"Run Main (.*)", line):
                print(f"  {time.monotonic() - began:4.0f} s  cd.yml: {name.group(1)}", flush=True)
            if step := STEP.search(line):
                on_step(step.group(1))

        with RunningCommand(command, record, cwd=self.copy, env={**runner_environment(), **secrets}) as act:
            try:
                done = act.finish(JOB_SECONDS)
            except TimeoutError:
                raise TimeoutError(f"cd.yml ran for more than {JOB_SECONDS} s; see {self.log}") from None
        return done.returncode, COLOUR.sub("", done.stdout)
