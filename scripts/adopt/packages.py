"""The packages that a project depends on, and the Python that it requires, from the files that state them."""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from scripts.adopt.repository import Repository, line_at, line_of
from scripts.adopt.wheels import find_missing_wheel
from scripts.runner.process import Failure
from scripts.runner.project import LOCK_FILES

REQUIREMENTS = "requirements.txt"
# The command that creates requirements.txt from a file that the image cannot be installed from.
CONVERSIONS = {
    "Pipfile.lock": "pipenv requirements >requirements.txt",
    "Pipfile": "pipenv lock && pipenv requirements >requirements.txt",
    "environment.yml": "pip freeze >requirements.txt",
    "setup.py": "uv pip compile setup.py --output-file requirements.txt",
    "setup.cfg": "uv pip compile setup.cfg --output-file requirements.txt",
}


# The application servers that other packages require, with these extras.
PROVIDED = [
    ("uvicorn", frozenset({"standard"}), "fastapi"),
    ("uvicorn", frozenset({"all"}), "fastapi"),
    ("hypercorn", frozenset[str](), "quart"),
]


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
    file adds to them, and `locked` its entries by name. `included` are the files that requirements.txt includes;
    `has_local`: it also lists packages of the project.
    """

    file: str
    packages: dict[str, Package]
    indirect: frozenset[str] = frozenset()
    locked: dict[str, dict[str, Any]] = field(default_factory=dict)
    included: tuple[str, ...] = ()
    has_local: bool = False
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
    local: list[str] = []
    for package in _requirements(repository, REQUIREMENTS, seen, notes, local):
        found.setdefault(package.name, package)
    if unpinned := [package.name for package in found.values() if not package.version]:
        notes.append(f"{REQUIREMENTS} does not pin {_some(unpinned)}: two builds can differ")
    provided = {name for name, extras, provider in PROVIDED if (at := found.get(provider)) and extras <= at.extras}
    included = tuple(name for name in seen if name != REQUIREMENTS)
    return Dependencies(
        REQUIREMENTS, found, frozenset(provided), included=included, has_local=bool(local), notes=tuple(notes)
    )


def _requirements(
    repository: Repository, name: str, seen: dict[str, None], notes: list[str], local: list[str]
) -> Iterator[Package]:
    """Yield the packages of a requirements file and of the files that it includes.

    `seen` gets the names of these files, `local` those that list packages of the project.
    """
    if name in seen:
        return
    seen[name] = None
    folder = name.rpartition("/")[0]
    for number, line in enumerate(repository.text(name).splitlines(), 1):
        text = re.sub(r"(^|\s)#.*|\s*\\$|\s--hash=.*", "", line).strip()
        if included := re.match(r"(-r|--requirement|-c|--constraint)[\s=]*(\S+)", text):
            if "://" in included[2]:
                continue  # pip reads it from there
            file = _normalize("/".join(filter(None, [folder, included[2]])))
            if not repository.has(file):
                raise Failure(
                    f"{name}:{number} includes {included[2]}, which is not in {repository.folder}, or not in Git"
                )
            nested = list(_requirements(repository, file, seen, notes, local))
            yield from nested if "r" in included[1][:3] else []
        elif remote := re.match(r"(?:(?:-e|--editable)[\s=]+)?git\+\S+?(?:\.git@(\S+))?#(?:\S*&)?egg=([\w.-]+)", text):
            yield Package(canonicalize_name(remote[2]), remote[1] or "", f"{name}:{number}")
        elif re.match(r"(-e|--editable)[\s=]+(?!git\+|\S+://)|\.{0,2}/|\.{1,2}$", text):
            notes.append(
                f"{name}:{number}: {text}: packages of the project can be imported, but are not installed in the image,"
                f" nor are the packages that they require: list those in {REQUIREMENTS}"
            )
            local.append(name)
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
