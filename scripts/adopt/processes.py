"""How a project starts its web server, workers and schedulers: from its Procfile, compose files and Dockerfiles."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from scripts.adopt.commands import SERVERS, WORKERS, is_for_development, one_line, program, server_words, worker_words
from scripts.adopt.repository import Repository, line_at

COMPOSE_FILES = ("docker-compose*.y*ml", "compose*.y*ml")
DOCKERFILES = re.compile(r"((docker|compose|deploy)/(\w+/)*)?(Dockerfile[\w.-]*|[\w-]+\.[Dd]ockerfile)")
# Lines of a Procfile that start no part of a Python application.
OTHER_PROGRAMS = {
    *("npm", "npx", "yarn", "pnpm", "node", "bun", "redis-server", "postgres", "mailpit", "mailhog", "caddy", "nginx"),
    *("docker", "docker-compose", "tailwindcss", "make", "ngrok", "stripe", "flower"),
}
SINGLE_NAMES = re.compile(r"(\w+[-_])?(scheduler|beat|clock|cron)([-_]\w+)?", re.IGNORECASE)
# Commands that a container runs in development only, or once.
IN_DEVELOPMENT = re.compile(
    r"runserver|migrate|collectstatic|manage\.py (shell|test)|http\.server|(app|main|run)\.py|"
    r"pytest|flask|alembic|debugpy|loaddata|createsuperuser"
)
WORKER_HINT = "If it is a worker: --set worker="
JOINED = "\r"  # white space in a shell and in JSON
# Services that every application has.
RESERVED = {"api", "front", "proxy", "db", "redis", "check", "backup", "migrate"}


@dataclass(frozen=True)
class Process:
    """A process: its name, the words of its command, whether two must never run, and `file:line`."""

    name: str
    words: tuple[str, ...]
    is_single: bool
    source: str


@dataclass
class Processes:
    """The commands that start an application server, the best evidence first; workers and schedulers; notes."""

    web: list[Process] = field(default_factory=list)
    others: list[Process] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_processes(repository: Repository) -> Processes:
    """Return the processes that the files of a project start. Two workers never have the same name or command."""
    found = Processes()
    development: list[Process] = []  # servers that reload code: only if there is no other
    unknown: dict[str, str] = {}
    for name, text, source in [*_procfile(repository), *_compose(repository), *_dockerfiles(repository)]:
        if words := server_words(text):
            servers = development if is_for_development(text) else found.web
            servers.append(Process("api", tuple(words), False, source))
            continue
        is_procfile = source.startswith("Procfile")
        last = text if is_procfile else text.rpartition("&&")[2].strip()  # after migrations, for example
        name_of_program = program(last)
        if not name_of_program or name in ("web", "release"):
            continue
        if not is_procfile and name_of_program.startswith("python") and not IN_DEVELOPMENT.search(last):
            unknown.setdefault(last, f"{source} starts {last!r}: it was left out. {WORKER_HINT}")
        if name_of_program in SERVERS or (not is_procfile and name_of_program not in WORKERS):
            continue
        left_out = "flower" if re.search(r"\bflower\b", last) else name_of_program
        if left_out in OTHER_PROGRAMS:
            found.notes.append(f"{source} starts {left_out}: it was left out")
        elif words := worker_words(text if re.search(r"\bcd\s", text) else last):
            process = make_process(name, words, source)
            if not any(item.name == process.name or item.words == process.words for item in found.others):
                found.others.append(process)
    found.web += development
    found.notes += unknown.values()
    return found


def make_process(name: str, words: list[str], source: str) -> Process:
    """Return a worker or scheduler. Celery's beat gets a place for its schedule that it can write to."""
    is_beat = words[0] == "celery" and "beat" in words
    if is_beat and not any(re.match(r"(-s|--schedule|-S|--scheduler)(=|$)", word) for word in words):
        words = [*words, "--schedule", "/tmp/celerybeat-schedule"]  # noqa: S108 - the only place that it can write to
    has_beat = bool(re.search(r"\bcelery\b.*\s(beat|-B|--beat)(\s|$)", " ".join(words)))
    is_single = has_beat or bool(SINGLE_NAMES.fullmatch(name))
    service = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    is_usable = re.match("[a-z]", service) and service not in RESERVED | {
        "true",
        "false",
        "yes",
        "no",
        "on",
        "off",
        "null",
    }
    return Process(service if is_usable else f"worker-{service}".rstrip("-"), tuple(words), is_single, source)


def _procfile(repository: Repository) -> Iterator[tuple[str, str, str]]:
    for number, line in enumerate(repository.text("Procfile").splitlines(), 1):
        if found := re.match(r"\s*([\w-]+):\s*(\S.*)", line):
            yield found[1], found[2].strip(), f"Procfile:{number}"


def _dockerfiles(repository: Repository) -> Iterator[tuple[str, str, str]]:
    """Yield the commands of Dockerfiles, and of the shell scripts that those start."""
    for file in (name for name in repository.names if DOCKERFILES.fullmatch(name)):
        text = _join_lines(repository.text(file))
        for command, position in _instructions(text):
            yield "web", command, f"{file}:{line_at(text, position) + text.count(JOINED, 0, position)}"
            for script in re.findall(r"[\w./-]+\.sh\b", command):
                for name in repository.matching(script.rpartition("/")[2]):
                    yield "web", _join_lines(repository.text(name)), f"{name}:1"


def _join_lines(text: str) -> str:
    """Return the text with JOINED in place of a backslash and the end of the line."""
    return re.sub(r"\\[ \t]*\n", JOINED, text)


def _instructions(text: str) -> Iterator[tuple[str, int]]:
    """Yield the commands of CMD and ENTRYPOINT, with their positions.

    A CMD that follows an ENTRYPOINT can be a command or its arguments: both are yielded.
    """
    entrypoint, position = "", 0
    for found in re.finditer(r"^(FROM|CMD|ENTRYPOINT)\s+(.+)$", f"{text}\nFROM scratch", re.MULTILINE):
        command = one_line(found[2])
        if found[1] == "CMD":
            yield command, found.start()
            if entrypoint and not server_words(command):
                yield f"{entrypoint} {command}", found.start()
        elif entrypoint:
            yield entrypoint, position
        entrypoint, position = (command, found.start()) if found[1] == "ENTRYPOINT" else ("", 0)


class _Loader(yaml.SafeLoader):
    """Reads compose files: tags such as !reset are ignored."""


_Loader.add_multi_constructor("!", lambda loader, suffix, node: None)  # type: ignore[no-untyped-call]


def _compose(repository: Repository) -> Iterator[tuple[str, str, str]]:
    for file in repository.matching(*COMPOSE_FILES):
        text = repository.text(file)
        try:
            content: Any = yaml.load(text, _Loader)  # noqa: S506 - a safe loader
        except (yaml.YAMLError, ValueError, RecursionError, TypeError):
            continue
        services = content.get("services") if isinstance(content, dict) else None
        for name, service in services.items() if isinstance(services, dict) else []:
            command = service.get("command") if isinstance(service, dict) else None
            place = re.search(rf"^\s+[\"']?{re.escape(str(name))}[\"']?:", text, re.MULTILINE)
            if command:
                yield str(name), one_line(command), f"{file}:{line_at(text, place.end()) if place else 1}"
