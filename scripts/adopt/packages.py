"""The packages that a project depends on, and the Python that it requires, from the files that state them."""

import configparser
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from scripts.adopt.repository import Repository, line_at, line_of
from scripts.adopt.wheels import find_missing_wheel
from scripts.runner.process import Failure

# In the order in which the sessions look for them.
LOCK_FILES = ("uv.lock", "poetry.lock", "pdm.lock")
REQUIREMENTS = "requirements.txt"
# The command that creates requirements.txt from a file that the image cannot be installed from.
CONVERSIONS = {
    "Pipfile.lock": "pipenv requirements >requirements.txt",
    "Pipfile": "pipenv lock && pipenv requirements >requirements.txt",
    "environment.yml": "pip freeze >requirements.txt",
    "setup.py": "uv pip compile setup.py --output-file requirements.txt",
    "setup.cfg": "uv pip compile setup.cfg --output-file requirements.txt",
}
# Tried in this order: the version of the other images of Quai, then the ones before it, then newer ones.
PYTHONS = ("3.13", "3.12", "3.11", "3.10", "3.14")
PATCH_RELEASES = range(40)


@dataclass(frozen=True)
class Package:
    """A dependency: its normalized name, its version (empty if not pinned), and `file:line` that names it."""

    name: str
    version: str
    source: str
    extras: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Dependencies:
    """What the image is installed from.

    `packages` are the direct dependencies; with requirements.txt, all that it lists. `indirect` are those that a lock
    file adds to them, and `locked` its entries by name. `folders` contain requirements files that requirements.txt
    includes.
    """

    file: str
    packages: dict[str, Package]
    indirect: frozenset[str] = frozenset()
    locked: dict[str, dict[str, Any]] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def find(self, *names: str) -> Package | None:
        """Return the first of these packages that the project depends on directly."""
        return next((self.packages[name] for name in names if name in self.packages), None)

    def is_installed(self, name: str) -> bool:
        """Return whether the image contains a package, also as a dependency of another one."""
        return name in self.packages or name in self.indirect

    def find_missing_wheel(self, python: str) -> str:
        """Return a package and its version that has wheels, but none for this Python; empty if the lock names none."""
        return find_missing_wheel(self.locked, {*self.packages, *self.indirect}, python)


def read_toml(repository: Repository, name: str) -> dict[str, Any]:
    """Return the content of a tracked TOML file; empty without it. Raise Failure if it is invalid."""
    try:
        return tomllib.loads(repository.text(name))
    except tomllib.TOMLDecodeError as error:
        raise Failure(f"{name} is not valid TOML: {error}") from None


def table(tables: Any, *names: str) -> dict[str, Any]:
    """Return a nested table; empty if there is none, or something else in its place."""
    for name in names:
        tables = tables.get(name) if isinstance(tables, dict) else None
    return tables if isinstance(tables, dict) else {}


def read_dependencies(repository: Repository) -> Dependencies:
    """Return the dependencies. Raise Failure if there is not exactly one file that the image can be installed from."""
    locks = [name for name in LOCK_FILES if repository.has(name)]
    if len(locks) > 1:
        raise Failure(f"the project has {' and '.join(locks)}: remove the one that it does not use")
    if locks:
        notes = [f"{locks[0]} is used, {REQUIREMENTS} is not"] if repository.has(REQUIREMENTS) else []
        tables = read_toml(repository, "pyproject.toml")
        if members := table(tables, "tool", "uv", "workspace").get("members"):
            listed = f"members of the uv workspace ({', '.join(map(str, members))})"
            if not table(tables, "project"):
                raise Failure(f"the application is one of the {listed}: add --app FOLDER")
            notes.append(f"the {listed} are not installed in the image")
        entries = _lock_entries(repository, locks[0])
        packages = _direct(repository, entries)
        indirect = frozenset(_reachable(entries, packages))
        return Dependencies(locks[0], packages, indirect, entries, notes=tuple(notes))
    if repository.has(REQUIREMENTS):
        return _from_requirements(repository)
    raise Failure(_no_lock_file(repository))


def _no_lock_file(repository: Repository) -> str:
    names = [name for name in repository.matching(*LOCK_FILES, REQUIREMENTS) if name.count("/") in (1, 2)]
    folders = dict.fromkeys(name.rpartition("/")[0] for name in names)
    hint = f". If the application is in a folder: --app {' or --app '.join([*folders][:3])}" if folders else ""
    return _missing_lock_file(repository) + hint


def _missing_lock_file(repository: Repository) -> str:
    wanted = f"{', '.join(LOCK_FILES)} or {REQUIREMENTS}"
    tables = read_toml(repository, "pyproject.toml")
    if repository.app and (repository.top / "uv.lock").is_file():
        package = table(tables, "project").get("name", "NAME")
        return (
            f"uv.lock is that of a workspace, and not in {repository.app}. Create and commit {REQUIREMENTS} there, and"
            " create it again whenever uv.lock changes: uv export --frozen --no-dev --no-emit-workspace"
            f" --package {package} --output-file {repository.app}/{REQUIREMENTS}"
        )
    if table(tables, "tool", "poetry"):
        return "the project uses Poetry, but Git tracks no poetry.lock. Create and commit it: poetry lock"
    if table(tables, "project"):
        return f"pyproject.toml has no lock file ({wanted}). Create and commit one: uv lock"
    for name, command in CONVERSIONS.items():
        if repository.has(name):
            return f"the image cannot be installed from {name}. Create and commit {REQUIREMENTS}: {command}"
    if found := sorted(repository.matching("requirements*.txt", "requirements/*.txt"), key=lambda x: "prod" not in x):
        return f"{_some(found)} found, but no {REQUIREMENTS}. Create and commit one with the line: -r {found[0]}"
    if not any(repository.matching("*.py")):
        return f"{repository.folder} contains no Python project"
    return f"the project has no {wanted}. Create and commit one: pip freeze >{REQUIREMENTS}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _from_requirements(repository: Repository) -> Dependencies:
    seen: dict[str, None] = {}
    found: dict[str, Package] = {}
    notes: list[str] = []
    for package in _requirements(repository, REQUIREMENTS, seen, notes):
        found.setdefault(package.name, package)
    if unpinned := [package.name for package in found.values() if not package.version]:
        notes.append(f"{REQUIREMENTS} does not pin {_some(unpinned)}: two builds can differ")
    folders = tuple(sorted({name.rpartition("/")[0] for name in seen if "/" in name}))
    return Dependencies(REQUIREMENTS, found, folders=folders, notes=tuple(notes))


def _requirements(repository: Repository, name: str, seen: dict[str, None], notes: list[str]) -> Iterator[Package]:
    """Yield the packages of a requirements file and of the files that it includes; `seen` gets their names."""
    if name in seen:
        return
    seen[name] = None
    folder = name.rpartition("/")[0]
    for number, line in enumerate(repository.text(name).splitlines(), 1):
        text = re.sub(r"(^|\s)#.*|\s*\\$|\s--hash=.*", "", line).strip()
        if included := re.match(r"(-r|--requirement|-c|--constraint)[\s=]*(\S+)", text):
            file = _normalize("/".join(filter(None, [folder, included[2]])))
            nested = list(_requirements(repository, file, seen, notes))
            yield from nested if "r" in included[1][:3] else []
        elif re.match(r"(-e|--editable)\b|\.{0,2}/|\.$", text):
            notes.append(f"{name}:{number}: {text}: packages of the project are not installed in the image")
        elif text and not text.startswith("-") and (package := _package(text, f"{name}:{number}")):
            yield package


def _normalize(path: str) -> str:
    """Return a relative path without `.` and `..`."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == ".." and parts:
            parts.pop()
        elif part not in (".", ""):
            parts.append(part)
    return "/".join(parts)


def _package(text: str, source: str) -> Package | None:
    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        return None
    exact = [item.version for item in requirement.specifier if item.operator in ("==", "===")]
    version = exact[0] if len(exact) == 1 and not exact[0].endswith("*") else ""
    return Package(canonicalize_name(requirement.name), version, source, frozenset(requirement.extras))


def _lock_entries(repository: Repository, lock: str) -> dict[str, dict[str, Any]]:
    """Return the packages of a lock file by their names."""
    tables = read_toml(repository, lock)
    entries = packages if isinstance(packages := tables.get("package"), list) else []
    found: dict[str, dict[str, Any]] = {
        canonicalize_name(str(x["name"])): x for x in entries if isinstance(x, dict) and "name" in x
    }
    for name, files in table(tables, "metadata", "files").items():  # of older versions of Poetry
        found.get(canonicalize_name(name), {}).setdefault("files", files)
    return found


def _reachable(entries: dict[str, dict[str, Any]], packages: dict[str, Package]) -> set[str]:
    """Return the packages that the direct dependencies require, so without those for development.

    Extras are not distinguished: a package that an unused extra requires counts, too.
    """
    found: set[str] = set()
    waiting = list(packages)
    while waiting:
        entry = entries.get(waiting.pop(), {})
        listed = [*_names(entry.get("dependencies"))]
        for extra in table(entry, "optional-dependencies").values():
            listed += _names(extra)
        new = set(listed) - found
        found |= new
        waiting += new
    return found


def _names(dependencies: Any) -> Iterator[str]:
    """Yield the names of a locked package's dependencies: tables with a name (uv), text (pdm), or keys (Poetry)."""
    for item in dependencies if isinstance(dependencies, (list, dict)) else []:
        text = item.get("name", "") if isinstance(item, dict) else item
        if name := re.match(r"[\w.-]+", str(text)):
            yield canonicalize_name(name[0])


def _direct(repository: Repository, entries: dict[str, dict[str, Any]]) -> dict[str, Package]:
    """Return the direct dependencies in pyproject.toml, with the versions of the lock file."""
    text = repository.text("pyproject.toml")
    tables = read_toml(repository, "pyproject.toml")
    listed = table(tables, "project").get("dependencies")
    stated = [str(item) for item in listed] if isinstance(listed, list) else []
    for name, value in table(tables, "tool", "poetry", "dependencies").items():
        if name.lower() != "python":
            extras = value.get("extras", []) if isinstance(value, dict) else []
            stated.append(f"{name}[{','.join(map(str, extras))}]" if extras else name)
    found = {}
    for item in stated:
        name = re.split(r"[^\w.-]", item)[0]
        place = re.search(rf"""^\s*["']?{re.escape(name)}(?![\w.-])""", text, re.MULTILINE | re.IGNORECASE)
        source = f"pyproject.toml:{line_at(text, place.end()) if place else line_of(text, name)}"
        if package := _package(item, source):
            version = str(entries.get(package.name, {}).get("version", ""))
            found[package.name] = Package(package.name, version, source, package.extras)
    return found


def read_python(repository: Repository, dependencies: Dependencies) -> tuple[str, str]:
    """Return the Python of the image, for example `3.13`, and where it comes from.

    In a range, it is the first of PYTHONS for which the lock file has wheels. Raise Failure if the project requires a
    Python that the image cannot have.
    """
    for value, source in _python_statements(repository):
        try:
            ranges = [SpecifierSet(part) for part in _ranges(value)]
        except InvalidSpecifier:
            raise Failure(f"{source} states the Python {value!r}, which is not a version or range") from None
        allowed = [version for version in PYTHONS if _is_allowed(version, ranges)]
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
    text = repository.text("Dockerfile")
    if found := re.search(r"^FROM\s+(?:--\S+\s+)?(?:\S+/)?python:(\d+\.\d+)", text, re.MULTILINE):
        yield found[1], f"Dockerfile:{line_at(text, found.start(1))}"


def _ranges(text: str) -> Iterator[str]:
    """Yield the alternatives of a version or range in the notation of PEP 440; Poetry has ^, ~, * and ||."""

    def translate(part: str) -> str:
        if found := re.fullmatch(r"\^(\d+)(\.[\d.]+)?", part):
            return f">={part[1:]},<{int(found[1]) + 1}"
        if found := re.fullmatch(r"~(\d+)\.(\d+)(\.\d+)?", part):
            return f">={part[1:]},<{found[1]}.{int(found[2]) + 1}"
        if re.fullmatch(r"\d+\.\d+", part):
            return f"=={part}.*"
        return f"=={part}" if re.fullmatch(r"\d+\.\d+\.[\d*]+", part) else "" if part == "*" else part

    for alternative in re.split(r"\|\|?", text):
        yield ",".join(translate(part.strip()) for part in alternative.split(","))
