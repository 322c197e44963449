"""Changes that make a release faulty or unusual; they need no knowledge of the application.

Most are functions that edit the parsed compose file of the release (see `Compose`); the others are lines of a
Dockerfile.
"""

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

HEALTH_PATH_LABEL = "quai.health-path"
RELEASE_LABELS = ("quai.deploy", "quai.tag")


@dataclass(frozen=True)
class Compose:
    """A parsed compose file, and the command of the image: its entrypoint and its arguments."""

    content: dict[str, Any]
    command: list[str]

    @property
    def api(self) -> dict[str, Any]:
        """The service `api`, to be edited."""
        return self.content["services"]["api"]

    @property
    def services(self) -> dict[str, Any]:
        """All services, to be edited."""
        return self.content["services"]

    @property
    def health_path(self) -> str:
        """The health path of the API; empty without one."""
        return str((self.api.get("labels") or {}).get(HEALTH_PATH_LABEL) or "")

    def api_command(self) -> list[str]:
        """Return the command that the API runs."""
        entrypoint, command = self.api.get("entrypoint"), self.api.get("command")
        if entrypoint is None and command is None:
            return self.command
        return split(entrypoint or []) + split(command or [])

    def text(self) -> str:
        """Return the compose file; JSON is YAML."""
        return json.dumps(self.content, indent=1)


Edit = Callable[[Compose], None]


def parse(text: str, command: list[str]) -> Compose:
    """Parse a compose file; merge keys and anchors are resolved, variables stay."""
    return Compose(yaml.safe_load(text), command)


def split(command: str | list[str]) -> list[str]:
    """Return the words of a command, as Compose reads it."""
    return shlex.split(command) if isinstance(command, str) else command


def environment(service: dict[str, Any]) -> dict[str, Any]:
    """Return the environment of a service, to be edited: a mapping, also if the file has a list."""
    found = service.get("environment") or {}
    if isinstance(found, list):
        found = {name: value if equals else None for name, equals, value in (one.partition("=") for one in found)}
    service["environment"] = found = dict(found)  # the file may share it with other services
    return found


def run_python(code: str, service: str = "api") -> Edit:
    """Return an edit: the service runs this Python code, whose argument is API_PORT."""

    def edit(compose: Compose) -> None:
        script = code.replace("$", "$$")  # for Compose, a dollar sign begins a variable
        compose.services[service] |= {"entrypoint": ["python3", "-u", "-c", script, "${API_PORT}"], "command": []}

    return edit


def wrap_command(script: str) -> Edit:
    """Return an edit: the API runs this shell script, in which "$@" is the original command."""

    def edit(compose: Compose) -> None:
        command = compose.api_command()
        compose.api.update(entrypoint=["sh", "-c", script.replace("$", "$$"), "sh"], command=command)

    return edit


def migrate_with(code: str) -> Edit:
    """Return an edit: the release has a pending migration, which is this Python code."""

    def edit(compose: Compose) -> None:
        for service in ("check", "migrate"):
            if service not in compose.services:
                compose.services[service] = {"image": compose.api["image"], "deploy": {"replicas": 0}}
        run_python("raise SystemExit(3)", "check")(compose)
        run_python(code or "pass", "migrate")(compose)

    return edit


def limit_memory(limit: str) -> Edit:
    """Return an edit: the API may use this much memory."""

    def edit(compose: Compose) -> None:
        resources = compose.api.setdefault("deploy", {}).setdefault("resources", {})
        resources.setdefault("limits", {})["memory"] = limit

    return edit


def remove_health_check(compose: Compose) -> None:
    """Disable the health check of the API."""
    compose.api["healthcheck"] = {"disable": True}


def remove_services(*names: str) -> Edit:
    """Return an edit: the compose file does not have these services."""

    def edit(compose: Compose) -> None:
        for name in names:
            del compose.services[name]

    return edit


def report_another_release(compose: Compose) -> None:
    """Let the front report another release."""
    environment(compose.services["front"])["RELEASE"] = "another-release"


def require_setting(name: str) -> Edit:
    """Return an edit: the API becomes healthy only where this setting has a value."""

    def edit(compose: Compose) -> None:
        environment(compose.api)[name] = None  # from .env; not set without a line there
        test = f'test -n "$${name}" || {{ echo "{name} is not set on this server"; exit 1; }}'
        compose.api.setdefault("healthcheck", {})["test"] = ["CMD-SHELL", test]

    return edit


def add_worker(name: str, code: str, *, single: bool = False, labelled: bool = True) -> Edit:
    """Return an edit: the release has a worker that runs this Python code; `single`: never two at the same time."""

    def edit(compose: Compose) -> None:
        labels = {label: compose.api["labels"][label] for label in RELEASE_LABELS} if labelled else {}
        labels |= {"quai.single": "true"} if single else {}
        compose.services[name] = {"image": compose.api["image"], "labels": labels, "network_mode": "none"}
        run_python(code, name)(compose)

    return edit


def shorten_monitor(compose: Compose) -> None:
    """Let Swarm watch new tasks for a second: a series of deploys takes less time. Compose ignores it."""
    for service in compose.services.values():
        if RELEASE_LABELS[0] in (service.get("labels") or {}):
            service["deploy"] = {**(service.get("deploy") or {}), "update_config": {"monitor": "1s"}}


WORKER = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit())\nwhile True: time.sleep(1)"
CRASH = run_python("raise SystemExit('boom')")
BROKEN_CADDYFILE = "RUN echo '{' >>/release/front/Caddyfile"
ERROR_CADDYFILE = "RUN printf ':8080 {\\nrespond 500\\n}\\n' >/release/front/Caddyfile"
# Serves all paths, and exits after two requests: one before and one after the switch.
SHORT_LIVED_SERVER = """
import http.server, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
class Handler(http.server.BaseHTTPRequestHandler):
    requests = 0
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        Handler.requests += 1
server = http.server.HTTPServer(("", int(sys.argv[1])), Handler)
while Handler.requests < 2:
    server.handle_request()
sys.exit("boom")
"""
ERROR_SERVER = """
import os, signal, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(500)
HTTPServer(("", int(sys.argv[1])), Handler).serve_forever()
"""
# Healthy until SECONDS after the first request that the front forwards, which the deploy program sends before the
# switch. Then it ends, or, without ENDS, returns 503 to the deploy program only: requests of users have passed two
# proxies.
FAILING_SERVER = """
import os, signal, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
failing = threading.Event()
class Handler(BaseHTTPRequestHandler):
    timer = None
    def do_GET(self):
        proxies = self.headers.get("X-Forwarded-For", "").split(",")
        if proxies != [""] and not Handler.timer:
            Handler.timer = threading.Timer(SECONDS, lambda: os._exit(1) if ENDS else failing.set())
            Handler.timer.start()
        self.send_response(503 if failing.is_set() and len(proxies) == 1 and proxies != [""] else 200)
        self.end_headers()
class Server(ThreadingHTTPServer):
    request_queue_size = 100
Server(("", int(sys.argv[1])), Handler).serve_forever()
"""


def failing_server(seconds: float, *, ends: bool) -> Edit:
    """Return an edit: `seconds` after the first request through the front, the API ends, or its probes fail."""
    return run_python(FAILING_SERVER.replace("SECONDS", str(seconds)).replace("ENDS", str(ends)))


def reduce_to_short_lived_api(compose: Compose) -> None:
    """Reduce a release to an API without an image of its own, which exits after two requests."""
    run_python(SHORT_LIVED_SERVER)(compose)
    compose.api["healthcheck"] = {"test": ["CMD", "true"], "start_period": "60s", "start_interval": "1s"}
    for name, service in list(compose.services.items()):
        if name != "api" and service.get("image") == compose.api["image"]:
            del compose.services[name]


# A complete first release but for its compose file; the build context is the folder scripts.
FIRST_RELEASE = """
ARG BASE
FROM $BASE
COPY deploy.sh /release/
COPY server /release/server
COPY front /release/front
"""


def write_compose_file(compose: Compose) -> str:
    """Return the line of a Dockerfile that writes the compose file of a release."""
    return write_file("docker-compose.prod.yml", compose.text())


def write_file(name: str, text: str) -> str:
    """Return the line of a Dockerfile that writes a file of a release."""
    return f"COPY <<'END_OF_FILE' /release/{name}\n{text}\nEND_OF_FILE\n"
