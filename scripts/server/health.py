"""Whether containers are healthy, and whether a release responds with its version."""

import http.client
import time
from collections.abc import Sequence
from typing import NamedTuple

from server import engine
from server.errors import Refused
from server.settings import Settings

FRONT_PORT = 8080
HEALTH_PATH = "/healthz"
VERSION_PATH = "/version"
PROBE_SECONDS = 10  # time limit of each connection, request and read of a probe
POLL_SECONDS = 0.05
WATCH_INTERVAL = 0.5  # seconds between two probes
FAILED_PROBES = 2  # consecutive failures that refuse a watched release


class Response(NamedTuple):
    """The response to a probe; status 0 and an error message if there was none."""

    status: int
    text: str

    def __str__(self) -> str:
        """What was returned, for messages."""
        return f"returned {self.status}: {self.text[:200]}" if self.status else f"did not respond: {self.text[:200]}"


def wait_until_healthy(containers: Sequence[str], settings: Settings, *, may_have_restarted: bool = False) -> None:
    """Return once all containers are healthy. Raises Refused if one has failed, or after HEALTH_SECONDS.

    A new container that has restarted has failed; one that is live may have restarted long ago.
    """
    deadline, waiting = time.monotonic() + settings.health_seconds, list(containers)
    while waiting := [container for container in waiting if not _is_healthy(container, may_have_restarted)]:
        if time.monotonic() > deadline:
            raise Refused(f"the release was not healthy within {settings.health_seconds} s (HEALTH_SECONDS in .env)")
        time.sleep(POLL_SECONDS)


def _is_healthy(container: str, may_have_restarted: bool = False) -> bool:
    """Return False while it is starting or unhealthy. Raises Refused if it cannot become healthy."""
    try:
        found = engine.inspect(container)
    except engine.EngineError as error:
        if error.status == 404:
            raise Refused(f"the container {container[:12]} was removed") from None
        raise
    service, state = found["Config"]["Labels"].get("com.docker.compose.service", "container"), found["State"]
    if not state["Running"] or (found["RestartCount"] and not may_have_restarted):
        raise Refused(f"the {service} is crashing")
    health = state.get("Health")
    if not health:
        raise Refused(f"the {service} has no health check, so its readiness is unknown: add HEALTHCHECK to its image")
    return bool(health["Status"] == "healthy")


def probe(address: str, path: str) -> Response:
    """Send one GET to port FRONT_PORT of a container; status 0 without a response within PROBE_SECONDS."""
    connection = http.client.HTTPConnection(address, FRONT_PORT, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return Response(response.status, response.read(10_000).decode(errors="replace"))
    except (OSError, http.client.HTTPException) as error:
        return Response(0, str(error) or type(error).__name__)
    finally:
        connection.close()


def verify_version(container: engine.Container, tag: str) -> None:
    """Raise Refused unless the version path of a front, or of the proxy, returns this tag."""
    if problem := _find_version_problem(container, tag):
        raise Refused(problem)


def _find_version_problem(container: engine.Container, tag: str) -> str:
    """Return why the version path does not return this tag; empty if it does."""
    response = probe(container.address, VERSION_PATH)
    if response.status == 200 and f'"{tag}"' in response.text:
        return ""
    expected = f", expected {tag}" if response.status == 200 else ""
    return f"{VERSION_PATH} of {container.name} {response}{expected}"


def watch(containers: Sequence[str], front: engine.Container, tag: str, settings: Settings) -> None:
    """Watch a release that serves, for WATCH_SECONDS. Raises Refused if it crashes, or if its probes fail.

    The version is requested, too: a front may send requests to the API of the previous release while its own
    does not accept connections.
    """
    end, failed = time.monotonic() + settings.watch_seconds, 0
    while time.monotonic() < end or failed:
        time.sleep(WATCH_INTERVAL)
        if not all(_is_healthy(container) for container in containers):
            raise Refused("the new release became unhealthy while serving")
        response = probe(front.address, HEALTH_PATH)
        if 200 <= response.status < 400:
            problem = _find_version_problem(front, tag)
        else:
            problem = f"{HEALTH_PATH} of {front.name} {response}"
        failed = failed + 1 if problem else 0
        if failed == FAILED_PROBES:
            raise Refused(f"the new release failed {failed} consecutive probes while serving: {problem}")
