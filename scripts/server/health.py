"""Whether containers are healthy and requests get answers; and what is known of a container that is not."""

import http.client
import json
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from server import engine
from server.errors import Refused
from server.settings import Settings
from server.state import say

FRONT_PORT = 8080
HEALTH_PATH = "/healthz"
VERSION_PATH = "/version"
PROBE_SECONDS = 10
POLL_SECONDS = 0.1
WATCH_INTERVAL = 0.5  # seconds between two probes
FAILED_PROBES = 2  # in a row, until a release that is watched is refused
LOG_LINES = "50"


class Answer(NamedTuple):
    """The answer to a probe; status 0 and the reason as text when there is none."""

    status: int
    text: str


def wait_until_healthy(containers: Sequence[str], settings: Settings) -> None:
    """Return once all containers are healthy. Raises Refused if one cannot be, or not within HEALTH_SECONDS."""
    deadline, waiting = time.monotonic() + settings.health_seconds, list(containers)
    while waiting := [container for container in waiting if not _is_healthy(container)]:
        if time.monotonic() > deadline:
            raise Refused(
                f"the new release was not healthy within {settings.health_seconds} s (HEALTH_SECONDS in .env)"
            )
        time.sleep(POLL_SECONDS)


def _is_healthy(container: str) -> bool:
    """Whether it is healthy by now; Refused if it runs and never will be."""
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


def prove_version(container: engine.Container, tag: str) -> None:
    """Refused unless the release answers with its tag through this container: its front, or the proxy."""
    answer = probe(container.address, VERSION_PATH)
    where = f"{VERSION_PATH} of {container.name}"
    if answer.status != 200:
        raise Refused(f"{where} answers {answer.status or 'nothing'}: {answer.text[:200]}")
    if f'"{tag}"' not in answer.text:
        raise Refused(f"{where} answers {answer.text[:200]}, not {tag}")


def watch(containers: Sequence[str], front: engine.Container, settings: Settings) -> None:
    """Watch a release that serves for WATCH_SECONDS. Refused when it crashes or its health path fails."""
    end, failed = time.monotonic() + settings.watch_seconds, 0
    while time.monotonic() < end or failed:
        time.sleep(WATCH_INTERVAL)
        wait_until_healthy(containers, settings)
        answer = probe(front.address, HEALTH_PATH)
        failed = 0 if 200 <= answer.status < 400 else failed + 1
        if failed == FAILED_PROBES:
            raise Refused(
                f"{HEALTH_PATH} answers {answer.status or 'nothing'} through the new front, {failed} times in a row: "
                f"{answer.text[:200]}"
            )


def show_evidence(directory: Path, containers: Sequence[engine.Container]) -> None:
    """Print what explains a failure: the last lines of each log, how each run ended, the health checks."""
    for container in containers:
        say(f"the last lines of {container.name}:")
        engine.docker(directory, "logs", "--tail", LOG_LINES, container.id)
        for line in ends(container.id):
            print(line, flush=True)


def ends(container: str) -> list[str]:
    """How the runs of a container ended, and what its last health checks printed."""
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
    return lines + [f"health check: {check['Output'].strip()}" for check in checks[-3:] if check["Output"].strip()]


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
