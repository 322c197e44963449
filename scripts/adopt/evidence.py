"""What the detectors share: the files, the user's answers, and what was found out so far."""

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass

from scripts.adopt import code
from scripts.adopt.packages import read_dependencies
from scripts.adopt.repository import Repository

ANSWERS = {
    "name": "name of the application, for Compose and the image",
    "application": "module:name of the application",
    "command": "command that starts the application server on API_PORT",
    "server": "pinned application server to install in the image, for example gunicorn==27.0.1",
    "dockerfile": "Dockerfile, to build the release image from your own one",
    "settings-module": "settings module of Django in production",
    "python": "Python of the image, for example 3.13",
    "health-path": "path for the health check; empty if the application has none",
    "database": "postgresql, external or none",
    "migrate": "command that migrates the database; empty if there are no migrations",
    "check": "command that exits with 0 if no migration is pending; empty if there is none",
    "test-database": "yes if the tests need PostgreSQL, else no",
    "worker": "command of a worker; empty if there is none",
    "scheduler": "command of a scheduler; empty if there is none",
}


@dataclass(frozen=True)
class Finding:
    """A fact: its value, and the place that says so."""

    value: str
    source: str


class Undecided(Exception):
    """Neither the files nor the answers decide a fact: the name of the answer, why, and the candidates."""

    def __init__(self, name: str, reason: str, candidates: tuple[str, ...] = ()) -> None:
        """Describe the question."""
        super().__init__(reason)
        self.name, self.reason, self.candidates = name, reason, candidates


class Evidence:
    """The files and answers, and the findings and notes that result from them."""

    def __init__(self, repository: Repository, answers: Mapping[str, str]) -> None:
        """Read the dependencies and the code. Raise Failure if the project cannot be installed in an image."""
        self.repository, self.answers = repository, answers
        self.findings: dict[str, Finding] = {}
        self.dependencies = read_dependencies(repository)
        installed = {*self.dependencies.packages, *self.dependencies.indirect}
        parsed = code.parse(repository, frozenset(name.replace("-", "_") for name in installed))
        self.modules, self.source_folder = parsed.modules, parsed.source_folder
        self.notes = [*self.dependencies.notes, *(f"{reason}: it was not read" for reason in parsed.failed)]

    def add(self, name: str, value: str, source: str) -> str:
        """Record a fact; return its value."""
        self.findings[name] = Finding(value, source)
        return value

    def answer(self, name: str) -> str | None:
        """Return and record the user's answer; None without one."""
        return self.add(name, self.answers[name], f"--set {name}") if name in self.answers else None

    def texts(self, pattern: str) -> list[str]:
        """Return the `file:line` of each string literal that matches a pattern."""
        return [
            module.at(node)
            for module in self.modules
            for node in ast.walk(module.tree)
            if (text := code.text_of(node)) and re.search(pattern, text)
        ]
