"""How a project starts its web server, workers and schedulers: from its Procfile, compose files and Dockerfiles."""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from scripts.adopt.repository import Repository, line_at

COMPOSE_FILES = ("docker-compose*.y*ml", "compose*.y*ml")
DOCKERFILES = re.compile(r"((docker|compose|deploy)/(\w+/)*)?(Dockerfile[\w.-]*|[\w-]+\.[Dd]ockerfile)")
PORT = "${API_PORT}"
ALL = "0.0.0.0"  # noqa: S104 - in a container; the front is in the same network
# For each application server: its options for the address, which are replaced, and the ones that it gets.
# Keep-alive must be longer than the 3 s of the front.
SERVERS = {
    "gunicorn": (("-b", "--bind"), ["--bind", f"{ALL}:{PORT}"], ("--keep-alive", "75")),
    "uvicorn": (("--host", "--port", "--uds", "--fd"), ["--host", ALL, "--port", PORT], ("--timeout-keep-alive", "75")),
    "hypercorn": (("-b", "--bind"), ["--bind", f"{ALL}:{PORT}", "--graceful-timeout", "30"], ("--keep-alive", "75")),
    "granian": (("--host", "--port"), ["--host", ALL, "--port", PORT], ()),
    "daphne": (("-b", "--bind", "-p", "--port", "-u"), ["--bind", ALL, "--port", PORT], ()),
    "waitress-serve": (("--listen", "--host", "--port"), [f"--listen={ALL}:{PORT}"], ()),
    "fastapi": (("--host", "--port"), ["--host", ALL, "--port", PORT], ()),
}
OTHER_NAMES = {"--keepalive": "--keep-alive"}
DEVELOPMENT_FLAGS = {"--reload", "--daemon", "-D", "--debug"}
DEVELOPMENT_OPTIONS = {"--reload-dir", "--reload-include", "--reload-exclude", "--reload-extra-file"}
WRAPPERS = (("poetry", "run"), ("uv", "run"), ("pipenv", "run"), ("pdm", "run"), ("exec",))
MODULES = (("python", "-m"), ("python3", "-m"))
WORKERS = (
    "celery",
    "rq",
    "rqworker",
    "dramatiq",
    "huey_consumer",
    "huey_consumer.py",
    "arq",
    "taskiq",
    "procrastinate",
)
# Lines of a Procfile that start no part of a Python application.
OTHER_PROGRAMS = {
    *("npm", "npx", "yarn", "pnpm", "node", "bun", "redis-server", "postgres", "mailpit", "mailhog", "caddy", "nginx"),
    *("docker", "docker-compose", "tailwindcss", "make", "ngrok", "stripe", "flower"),
}
SINGLE_NAMES = re.compile(r"(\w+[-_])?(scheduler|beat|clock|cron)([-_]\w+)?", re.IGNORECASE)
SHELL_SYNTAX = re.compile(r"&&|\|\||[;|<>`*?]|\$\(")
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
    for name, text, source in [*_procfile(repository), *_compose(repository), *_dockerfiles(repository)]:
        if words := server_words(text):
            found.web.append(Process("api", tuple(words), False, source))
            continue
        worker = worker_words(text) if name not in ("web", "release") else None
        if not worker or (not source.startswith("Procfile") and worker[0] not in WORKERS):
            continue
        if worker[0].rpartition("/")[2] in OTHER_PROGRAMS or (worker[0] == "celery" and "flower" in worker):
            found.notes.append(f"{source} starts {worker[0]}: it was left out")
            continue
        process = make_process(name, worker, source)
        if not any(item.name == process.name or item.words == process.words for item in found.others):
            found.others.append(process)
    return found


def make_process(name: str, words: list[str], source: str) -> Process:
    """Return a worker or scheduler. Celery's beat gets a place for its schedule that it can write to."""
    is_beat = words[0] == "celery" and "beat" in words
    if is_beat and not any(re.match(r"(-s|--schedule|-S|--scheduler)(=|$)", word) for word in words):
        words = [*words, "--schedule", "/tmp/celerybeat-schedule"]  # noqa: S108 - the only place that it can write to
    is_single = is_beat or bool(SINGLE_NAMES.fullmatch(name)) or "-B" in words or "--beat" in words
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


def server_words(text: str) -> list[str] | None:
    """Return the command of an application server on all interfaces and API_PORT; None if the text starts none."""
    for part in reversed(re.split(r"&&|\|\||;|\n", text)):
        words = _unwrap(_split(part))
        begin = words[1:] if words[:1] == ["env"] else words
        command = next((number for number, word in enumerate(begin) if "=" not in word), 0)
        for position in range(command, min(command + 2, len(begin))):  # one wrapper, such as newrelic-admin
            server = begin[position].rpartition("/")[2]
            if server in SERVERS and (server != "fastapi" or begin[position + 1 : position + 2] == ["run"]):
                before = [*words[: len(words) - len(begin)], *begin[:position]]
                return [*before, server, *_production_options(server, begin[position + 1 :])]
    return None


def _production_options(server: str, options: list[str]) -> list[str]:
    """Return the options with the address of a container, and without those for development or with variables."""
    address, replacement, keep_alive = SERVERS[server]
    kept: list[str] = []
    skip = False
    for word in (_with_defaults(word) for word in options):
        name = word.partition("=")[0]
        is_short = any(len(option) == 2 and word.startswith(option) for option in address)
        if skip:
            skip = False
        elif name in address or is_short or name in DEVELOPMENT_OPTIONS:
            skip = word in address or word in DEVELOPMENT_OPTIONS
        elif re.fullmatch(r"\d*[<>].*|&", word):
            break  # redirections
        elif "$" in word.replace(PORT, ""):
            if kept and kept[-1].startswith("-") and not word.startswith("-"):
                kept.pop()  # the option that gets the variable: the server's default applies
        elif word not in DEVELOPMENT_FLAGS:
            kept.append(word)
    kept += replacement
    names = {OTHER_NAMES.get(name, name) for name in (word.partition("=")[0] for word in kept)}
    return kept if not keep_alive or keep_alive[0] in names else [*kept, *keep_alive]


def _with_defaults(word: str) -> str:
    """Return a word in which the port is API_PORT, and `${WORKERS:-2}` is its default."""
    word = re.sub(r"\$PORT\b|\$\{PORT(:?-[^}]*)?\}", PORT, word)
    return re.sub(r"\$\{(?!API_PORT)\w+:?-([^}]*)\}", r"\1", word)


def worker_words(text: str) -> list[str] | None:
    """Return the command of a worker, in a shell only if it needs one; None for an empty text."""
    words = _unwrap(_split(text))
    if not words:
        return None
    if SHELL_SYNTAX.search(text) or "$" in text:
        return ["sh", "-c", text.replace("$", "$$")]  # Compose reads $$ as $
    return words


def _split(text: str) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError:
        return []
    is_assignment = bool(words) and bool(re.match(r"[A-Za-z_]\w*=", words[0]))
    return ["env", *words] if is_assignment else words


def _unwrap(words: list[str]) -> list[str]:
    """Return the command without the tool that runs it: the image's environment is on PATH."""
    while True:
        if any(tuple(words[: len(wrapper)]) == wrapper and len(words) > len(wrapper) for wrapper in WRAPPERS):
            words = words[1:] if words[0] == "exec" else words[2:]
            while words and words[0].startswith("-"):  # options of the tool
                words = words[1:]
        elif tuple(words[:2]) in MODULES and len(words) > 2 and words[2] in {*SERVERS, *WORKERS}:
            words = words[2:]
        else:
            return words


def _procfile(repository: Repository) -> Iterator[tuple[str, str, str]]:
    for number, line in enumerate(repository.text("Procfile").splitlines(), 1):
        if found := re.match(r"\s*([\w-]+):\s*(\S.*)", line):
            yield found[1], found[2].strip(), f"Procfile:{number}"


def _dockerfiles(repository: Repository) -> Iterator[tuple[str, str, str]]:
    """Yield the commands of Dockerfiles, and of the shell scripts that those start."""
    for file in (name for name in repository.names if DOCKERFILES.fullmatch(name)):
        text = re.sub(r"\\\s*\n", " ", repository.text(file))
        for command, position in _instructions(text):
            yield "web", command, f"{file}:{line_at(text, position)}"
            for script in re.findall(r"[\w./-]+\.sh\b", command):
                for name in repository.matching(script.rpartition("/")[2]):
                    yield "web", re.sub(r"\\\s*\n", " ", repository.text(name)), f"{name}:1"


def _instructions(text: str) -> Iterator[tuple[str, int]]:
    """Yield the commands of CMD and ENTRYPOINT, with their positions.

    A CMD that follows an ENTRYPOINT can be a command or its arguments: both are yielded.
    """
    entrypoint, position = "", 0
    for found in re.finditer(r"^(FROM|CMD|ENTRYPOINT)\s+(.+)$", f"{text}\nFROM scratch", re.MULTILINE):
        command = _command(found[2])
        if found[1] == "CMD":
            yield command, found.start()
            if entrypoint:
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
                yield str(name), _command(command), f"{file}:{line_at(text, place.end()) if place else 1}"


def _command(value: Any) -> str:
    """Return a command in shell or exec form as one line; `sh -c` is removed."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            return str(value)
    words = [str(word) for word in value] if isinstance(value, list) else _split(str(value))
    if len(words) == 3 and words[0].rpartition("/")[2] in ("sh", "bash") and re.fullmatch(r"-\w*c", words[1]):
        return words[2]
    if not isinstance(value, list):
        return str(value).strip()
    return " ".join(word if re.fullmatch(r"[\w$@%+=:,./{}-]+", word) else shlex.quote(word) for word in words)
