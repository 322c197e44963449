"""Whether containers are healthy and requests get answers; and diagnostics of those that are not."""

import http.client
import json
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from server import commands, engine
from server.errors import Refused
from server.settings import Settings
from server.state import say

FRONT_PORT = 8080
HEALTH_PATH = "/healthz"
VERSION_PATH = "/version"
PROBE_SECONDS = 10
POLL_SECONDS = 0.1
WATCH_INTERVAL = 0.5  # seconds between two probes
FAILED_PROBES = 2  # consecutive failures that refuse a watched release
LOG_LINES = "50"


class Answer(NamedTuple):
    """The answer to a probe; status 0 and an error message if there was none."""

    status: int
    text: str


def wait_until_healthy(containers: Sequence[str], settings: Settings) -> None:
    """Return once all containers are healthy. Raises Refused if one has failed, or after HEALTH_SECONDS."""
    deadline, waiting = time.monotonic() + settings.health_seconds, list(containers)
    while waiting := [container for container in waiting if not _check_health(container)]:
        if time.monotonic() > deadline:
            raise Refused(
                f"the new release was not healthy within {settings.health_seconds} s (HEALTH_SECONDS in .env)"
            )
        time.sleep(POLL_SECONDS)


def _check_health(container: str) -> bool:
    """Return False while it is starting. Raises Refused if it has failed."""
    try:
        found = engine.inspect(container)
    except engine.EngineError as error:
        if error.status == 404:
            raise Refused(f"the container {container[:12]} is gone") from None
        raise
    service, run = found["Config"]["Labels"].get("com.docker.compose.service", "container"), found["State"]
    if found["RestartCount"] or not run["Running"]:
        raise Refused(f"the new {service} is crashing")
    health = run.get("Health")
    if not health:
        raise Refused(
            f"the new {service} has no health check, so its readiness is unknown: add HEALTHCHECK to its image"
        )
    if health["Status"] == "unhealthy":
        raise Refused(f"the new {service} is unhealthy")
    return bool(health["Status"] == "healthy")


def probe(address: str, path: str, seconds: float = PROBE_SECONDS) -> Answer:
    """Send one GET to port FRONT_PORT of a container."""
    connection = http.client.HTTPConnection(address, FRONT_PORT, timeout=seconds)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return Answer(answer.status, answer.read(10_000).decode(errors="replace"))
    except (OSError, http.client.HTTPException) as error:
        return Answer(0, str(error) or type(error).__name__)
    finally:
        connection.close()


def verify_version(container: engine.Container, tag: str) -> None:
    """Raise Refused unless the version path of a front, or of the proxy, answers with this tag."""
    if problem := _version_problem(container, tag):
        raise Refused(problem)


def _version_problem(container: engine.Container, tag: str) -> str:
    """Return why the version path does not answer with this tag; empty if it does."""
    answer = probe(container.address, VERSION_PATH)
    where = f"{VERSION_PATH} of {container.name}"
    if answer.status != 200:
        return f"{where} answers {answer.status or 'nothing'}: {answer.text[:200]}"
    return "" if f'"{tag}"' in answer.text else f"{where} answers {answer.text[:200]}, not {tag}"


def watch(containers: Sequence[str], front: engine.Container, tag: str, settings: Settings) -> None:
    """Watch a release that serves, for WATCH_SECONDS. Raises Refused if it crashes, or if its health path fails.

    The version is requested, too: a front may send requests to the API of the previous release while its own
    does not accept connections.
    """
    end, failed = time.monotonic() + settings.watch_seconds, 0
    while time.monotonic() < end or failed:
        time.sleep(WATCH_INTERVAL)
        wait_until_healthy(containers, settings)
        answer = probe(front.address, HEALTH_PATH)
        if 200 <= answer.status < 400:
            problem = _version_problem(front, tag)
        else:
            problem = f"{HEALTH_PATH} of {front.name} answers {answer.status or 'nothing'}: {answer.text[:200]}"
        failed = failed + 1 if problem else 0
        if failed == FAILED_PROBES:
            raise Refused(f"the new release fails while it serves, {failed} times in a row: {problem}")


def show_evidence(directory: Path, containers: Sequence[engine.Container]) -> None:
    """Print diagnostics: the last lines of each log, how each container exited, the health checks."""
    for container in containers:
        say(f"last log lines of {container.name}:")
        commands.docker(directory, "logs", "--tail", LOG_LINES, container.id)
        for line in describe_exit(container.id):
            print(line, flush=True)


def describe_exit(container: str) -> list[str]:
    """Describe how a container exited, and the output of its last health checks."""
    try:
        found = engine.inspect(container)
        events = _events(container)
    except engine.EngineError as error:
        return [str(error)]
    run, limit = found["State"], found["HostConfig"].get("Memory", 0)
    codes = [int(event["Actor"]["Attributes"].get("exitCode", 0)) for event in events if event["Action"] == "die"]
    if not codes and not run["Running"] and run["Status"] != "created":
        codes = [run["ExitCode"]]
    lines = [f"exit code {code}{_signal(code)}" for code in codes[-1:]]
    if run.get("OOMKilled") or any(event["Action"] == "oom" for event in events):
        lines.append(f"out of memory: the kernel killed it (OOMKilled), its limit is {limit >> 20} MiB")
    if found["RestartCount"]:
        lines.append(f"restarts: {found['RestartCount']}")
    checks = (run.get("Health") or {}).get("Log") or []
    outputs = [check["Output"].strip().splitlines() for check in checks[-3:]]
    return lines + [f"health check: {output[-1]}" for output in outputs if output]


def _events(container: str) -> list[Any]:
    filters = json.dumps({"container": [container], "event": ["die", "oom"]})
    answer = engine.request("GET", "/events", {"since": "1", "until": f"{time.time():.6f}", "filters": filters})
    return [json.loads(line) for line in answer.splitlines() if line.strip()]


def _signal(code: int) -> str:
    if code > 128:
        try:
            return f" ({signal.Signals(code - 128).name})"
        except ValueError:
            pass
    return ""
