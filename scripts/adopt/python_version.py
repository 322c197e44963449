"""The Python that a project requires, from the files that state it."""

import configparser
import re
from collections.abc import Iterator

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from scripts.adopt.packages import Dependencies, read_toml, table
from scripts.adopt.repository import Repository, line_at, line_of
from scripts.runner.process import Failure

# Tried in this order: the version of the other images of Quai, then the ones before it, then newer ones.
PYTHONS = ("3.13", "3.12", "3.11", "3.10", "3.14")
PATCH_RELEASES = range(40)


def read_python(repository: Repository, dependencies: Dependencies) -> tuple[str, str]:
    """Return the Python of the image, for example `3.13`, and where it comes from.

    In a range, it is that of the project's Dockerfile, or the first of PYTHONS for which the lock file has wheels.
    Raise Failure if the project requires a Python that the image cannot have.
    """
    dockerfile = _from_dockerfile(repository)
    for value, source in [*_python_statements(repository), *dockerfile]:
        try:
            ranges = [SpecifierSet(part) for part in _ranges(value)]
        except InvalidSpecifier:
            raise Failure(f"{source} states the Python {value!r}, which is not a version or range") from None
        allowed = [version for version in PYTHONS if _is_allowed(version, ranges)]
        for stated, place in dockerfile:
            if stated in allowed:
                return stated, place
        if allowed:
            return _with_wheels(allowed, source, dependencies)
        raise Failure(
            f"{source} requires Python {value}, and Quai supports 3.10 to 3.14. If the application runs on one of them:"
            " --set python=3.13"
        )
    return _with_wheels([*PYTHONS], "the default: no file states a version", dependencies)


def _is_allowed(version: str, ranges: list[SpecifierSet]) -> bool:
    return any(allowed.contains(f"{version}.{patch}") for allowed in ranges for patch in PATCH_RELEASES)


def _with_wheels(versions: list[str], source: str, dependencies: Dependencies) -> tuple[str, str]:
    """Return the first version for which the lock file has wheels, or else the first, and the source."""
    missing = {version: dependencies.find_missing_wheel(version) for version in versions}
    chosen = next((version for version in versions if not missing[version]), versions[0])
    if package := missing[versions[0]]:
        return chosen, f"{source}; {package} has no wheel for {versions[0]}"
    return chosen, source


def _python_statements(repository: Repository) -> Iterator[tuple[str, str]]:
    """Yield (version or range, source), the most specific statement first."""
    for name, pattern in ((".python-version", r"^\s*"), ("runtime.txt", r"^\s*"), (".tool-versions", r"^python\s+")):
        text = repository.text(name)
        if found := re.search(pattern + r"(?:python-?|cpython-)?(\d+\.\d+)", text, re.MULTILINE):
            yield found[1], f"{name}:{line_at(text, found.start(1))}"
    text = repository.text("pyproject.toml")
    tables = read_toml(repository, "pyproject.toml")
    if requires := table(tables, "project").get("requires-python"):
        yield str(requires), f"pyproject.toml:{line_of(text, 'requires-python')}"
    if isinstance(python := table(tables, "tool", "poetry", "dependencies").get("python"), str):
        yield python, f"pyproject.toml:{line_of(text, 'python =')}"
    text = repository.text("Pipfile")
    if requires := table(read_toml(repository, "Pipfile"), "requires").get("python_version"):
        yield str(requires), f"Pipfile:{line_of(text, 'python_version')}"
    parser = configparser.ConfigParser(interpolation=None)
    text = repository.text("setup.cfg")
    try:
        parser.read_string(text)
        if requires := parser.get("options", "python_requires", fallback=""):
            yield requires, f"setup.cfg:{line_of(text, 'python_requires')}"
    except configparser.Error:
        pass


def _from_dockerfile(repository: Repository) -> list[tuple[str, str]]:
    text = repository.text("Dockerfile")
    found = re.search(r"^FROM\s+(?:--\S+\s+)?(?:\S+/)?python:(\d+\.\d+)", text, re.MULTILINE)
    return [(found[1], f"Dockerfile:{line_at(text, found.start(1))}")] if found else []


def _ranges(text: str) -> Iterator[str]:
    """Yield the alternatives of a version or range in the notation of PEP 440; Poetry has ^, ~, * and ||."""

    def translate(part: str) -> str:
        if found := re.fullmatch(r"\^(\d+)(\.[\d.]+)?", part):
            return f">={part[1:]},<{int(found[1]) + 1}"
        if found := re.fullmatch(r"~(\d+)", part):
            return f">={found[1]},<{int(found[1]) + 1}"
        if found := re.fullmatch(r"~(\d+)\.(\d+)(\.\d+)?", part):
            return f">={part[1:]},<{found[1]}.{int(found[2]) + 1}"
        if re.fullmatch(r"\d+\.\d+", part):
            return f"=={part}.*"
        return f"=={part}" if re.fullmatch(r"\d+\.\d+\.[\d*]+", part) else "" if part == "*" else part

    for alternative in re.split(r"\|\|?", text):
        spaced = re.sub(r"([<>=!~^])\s+", r"\1", alternative)
        yield ",".join(translate(part) for part in re.split(r"[,\s]+", spaced.strip()))
