"""The words of a command: that of an application server for a container, or of a worker."""

import json
import re
import shlex
from typing import Any

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
# Left out with their values: no .env file is in the image.
DEVELOPMENT_OPTIONS = {"--reload-dir", "--reload-include", "--reload-exclude", "--reload-extra-file", "--env-file"}
FLAGS = {"--preload", "--proxy-headers", "--factory"}  # of servers: they have no value
# Tools that run a command in the project's environment, and their options that have a value.
TOOLS = ("poetry", "uv", "pipenv", "pdm")
TOOL_OPTIONS = {
    *("--env-file", "--package", "--extra", "--group", "--only-group", "--with", "--python", "-p", "--project"),
    *("--directory", "-P", "-C"),
}
MODULES = (("python", "-m"), ("python3", "-m"))
# Words before an application server. Programs that observe it stay; those that an image has for signals are left out.
OBSERVERS = {"newrelic-admin", "run-program", "ddtrace-run", "opentelemetry-instrument"}
INITS = {"env", "tini", "dumb-init", "catatonit", "nohup", "-g", "--", "then", "else", "do"}
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
SHELL_SYNTAX = re.compile(r"&&|\|\||[;|<>`*?]|\$\(")


def server_words(text: str) -> list[str] | None:
    """Return the command of an application server on all interfaces and API_PORT; None if the text starts none."""
    for part in reversed(re.split(r"&&|\|\||;|\n", text)):
        words, before = _unwrap(_split(part)), []
        while words and _base(words[0]) not in SERVERS:
            word = words.pop(0)
            if word in OBSERVERS or re.match(r"[A-Za-z_]\w*=", word):
                before.append(word)
            elif _base(word) not in INITS and not _starts_server(word, words):
                words = []
            words = _unwrap(words)
        server = _base(words[0]) if words else ""
        if server and (server != "fastapi" or words[1:2] == ["run"]):
            options = _production_options(server, words[1:])
            env = ["env"] if before and "=" in before[0] else []
            return [*env, *before, server, *options] if options else None
    return None


def _base(word: str) -> str:
    """Return the name of a program without its folder."""
    return word.rpartition("/")[2]


def _starts_server(word: str, others: list[str]) -> bool:
    """Return whether an unknown program starts the server that follows, such as `bin/start-nginx gunicorn app:app`."""
    return "/" in word and bool(others) and _base(others[0]) in SERVERS


def _production_options(server: str, options: list[str]) -> list[str]:
    """Return the options with the address of a container, and without those for development or with variables.

    Empty if the application is in a variable.
    """
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
        elif re.fullmatch(r"\d*[<>].*|&|fi|done", word):
            break  # redirections, and the end of a shell statement
        elif "$" in word.replace(PORT, ""):
            is_option = bool(kept) and bool(re.fullmatch(r"--?[A-Za-z][\w-]*", kept[-1])) and kept[-1] not in FLAGS
            if is_option and not word.startswith("-"):
                kept.pop()  # the option that gets the variable: the server's default applies
            elif not word.startswith("-") and not any(re.search(r"[:.]", other) for other in kept):
                return []
        elif word and word not in DEVELOPMENT_FLAGS:
            kept.append(word)
    kept += replacement
    names = {OTHER_NAMES.get(name, name) for name in (word.partition("=")[0] for word in kept)}
    return kept if not keep_alive or keep_alive[0] in names else [*kept, *keep_alive]


def _with_defaults(word: str) -> str:
    """Return a word in which the port is API_PORT, and `${WORKERS:-2}` is its default."""
    word = re.sub(r"\$PORT\b|\$\{PORT(:?-[^}]*)?\}", PORT, word)
    return re.sub(r"\$\{(?!API_PORT)\w+:?-([^}]*)\}", r"\1", word)


def program(text: str) -> str:
    """Return the name of the program that a command starts; empty for an empty text."""
    words = _unwrap(_split(text))
    return _base(words[0]) if words else ""


def is_for_development(text: str) -> bool:
    """Return whether a command reloads code, or is made for development in another way."""
    return bool(DEVELOPMENT_FLAGS & {*_split(text)})


def worker_words(text: str) -> list[str] | None:
    """Return the command of a worker, in a shell only if it needs one; None for an empty text."""
    words = _unwrap(_split(text))
    if not words:
        return None
    if SHELL_SYNTAX.search(text) or "$" in text:
        text = re.sub(rf"^\s*(exec\s+)?({'|'.join(TOOLS)})\s+run\s+(?!-)", "", text)
        text = text.replace("$", "$$")  # Compose reads $$ as $
        return ["sh", "-c", re.sub(r"\$\$(API_PORT\b|\{API_PORT\})", PORT, text)]
    return words


def _split(text: str) -> list[str]:
    try:
        words = shlex.split(re.sub(r"(?m)(^|\s)#.*", "", text))
    except ValueError:
        return []
    is_assignment = bool(words) and bool(re.match(r"[A-Za-z_]\w*=", words[0]))
    return ["env", *words] if is_assignment else words


def _unwrap(words: list[str]) -> list[str]:
    """Return the command without the tool that runs it: the image's environment is on PATH."""
    while True:
        if words[:1] == ["exec"]:
            words = words[1:]
        elif words[:1] and words[0] in TOOLS and words[1:2] == ["run"] and len(words) > 2:
            words = words[2:]
            while words and words[0].startswith("-"):
                words = words[2 if words[0] in TOOL_OPTIONS else 1 :]
        elif tuple(words[:2]) in MODULES and len(words) > 2 and words[2] in {*SERVERS, *WORKERS}:
            words = words[2:]
        else:
            return words


def one_line(value: Any) -> str:
    """Return a command in shell or exec form as one line; `sh -c` is removed."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value, strict=False)  # a line can continue within a word
        except json.JSONDecodeError:
            return str(value)
    words = [str(word) for word in value] if isinstance(value, list) else _split(str(value))
    if len(words) == 3 and _base(words[0]) in ("sh", "bash") and re.fullmatch(r"-\w*c", words[1]):
        return words[2]
    if not isinstance(value, list):
        return str(value).strip()
    return " ".join(word if re.fullmatch(r"[\w$@%+=:,./{}-]+", word) else shlex.quote(word) for word in words)
