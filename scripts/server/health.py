"""Whether containers are healthy, and whether a release responds through its front."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from server import engine, roles
from server.errors import Refused
from server.probe import Response, Site, parse_site, probe
from server.settings import Settings

FRONT_PORT = 8080
VERSION_PATH = "/version"  # of releases of version 1, which have no label quai.health-path
POLL_SECONDS = 0.05
WATCH_INTERVAL = 0.5  # seconds between two probes
FAILED_PROBES = 2  # consecutive failures that refuse a watched release
NO_HEALTH_CHECK = (
    "the {} has no health check, so its readiness is unknown: add a healthcheck to it in docker-compose.prod.yml"
)


class Target(NamedTuple):
    """What a probe requests: the health path of the site. The release with this tag must respond.

    Releases of version 1 have no label quai.health-path (None). Their /version returns the tag.
    """

    tag: str
    health_path: str | None
    site: Site


def make_target(containers: Sequence[engine.Container], settings: Settings, tag: str) -> Target:
    """Return the target of the probes of a release with these containers."""
    paths = [container.labels.get(roles.HEALTH_PATH_LABEL) for container in containers if container.service == "api"]
    return Target(tag, paths[0] if paths else None, parse_site(settings.site_address))


def wait_until_healthy(containers: Sequence[str], settings: Settings, *, may_have_restarted: bool = False) -> None:
    """Return once all containers are healthy. Raises Refused if one has failed, or after HEALTH_SECONDS.

    A new container that has restarted has failed; one that is live may have restarted long ago.
    """
    deadline, waiting = time.monotonic() + settings.health_seconds, list(containers)
    while unhealthy := _find_unhealthy(waiting, may_have_restarted):
        if time.monotonic() > deadline:
            service = next(iter(unhealthy.values()))
            raise Refused(f"the {service} was not healthy within {settings.health_seconds} s (HEALTH_SECONDS in .env)")
        time.sleep(POLL_SECONDS)
        waiting = list(unhealthy)


def _find_unhealthy(containers: Sequence[str], may_have_restarted: bool = False) -> dict[str, str]:
    """Return those that are starting or unhealthy, with their service. Raises Refused if one has failed."""
    return {one: service for one in containers if (service := _unhealthy_service(one, may_have_restarted))}


def _unhealthy_service(container: str, may_have_restarted: bool) -> str:
    """Return the container's service if it is not healthy yet, otherwise "". Raises Refused if it has failed."""
    try:
        found = engine.inspect(container)
    except engine.EngineError as error:
        if error.status == 404:
            raise Refused(f"the container {container[:12]} was removed") from None
        raise
    service, state = found["Config"]["Labels"].get("com.docker.compose.service", "container"), found["State"]
    if not state["Running"] or (found["RestartCount"] and not may_have_restarted):
        raise Refused(f"the {service} has exited")
    health = state.get("Health")
    if not health and service in ("api", "front"):
        raise Refused(NO_HEALTH_CHECK.format(service))
    # Without a health check, a worker only has to keep running.
    return "" if not health or health["Status"] == "healthy" else str(service)


def verify(container: engine.Container, target: Target) -> None:
    """Raise Refused unless a front, or the proxy, returns a response of this release."""
    if problem := find_problem(container.name, container.address, target):
        raise Refused(problem)


def find_problem(name: str, address: str, target: Target) -> str:
    """Return why a front, or the proxy, does not return a response of this release; empty if it does."""
    path = VERSION_PATH if target.health_path is None else target.health_path
    return describe_problem(name, probe(address, FRONT_PORT, path, target.site), target)


def describe_problem(name: str, response: Response, target: Target) -> str:
    """Return why this response of a front, or the proxy, is not one of this release; empty if it is."""
    path = VERSION_PATH if target.health_path is None else target.health_path
    if not response.is_ready:
        hint = f" (api has no label {roles.HEALTH_PATH_LABEL})" if target.health_path is None else ""
        return f"{path or '/'} of {name} {response}{hint}"
    found = response.release or "none"
    if target.health_path is None and f'"{target.tag}"' in response.text:
        found = target.tag
    return "" if found == target.tag else f"{path or '/'} of {name}: expected release {target.tag}, found {found}"


def watch(containers: Sequence[str], settings: Settings, probe_front: Callable[[], str], when: str) -> None:
    """Watch a release for WATCH_SECONDS. Raises Refused, with `when` it was, if it crashes, or if its probes fail.

    `probe_front` returns the problem of its front, or an empty string.

    A front sends requests to the API of the previous release while its own does not accept connections. The header
    of the response then names another release, and the probe fails.
    """
    end, failed = time.monotonic() + settings.watch_seconds, 0
    while time.monotonic() < end or failed:
        time.sleep(WATCH_INTERVAL)
        if unhealthy := _find_unhealthy(containers):
            raise Refused(f"the {next(iter(unhealthy.values()))} became unhealthy {when}")
        problem = probe_front()
        failed = failed + 1 if problem else 0
        if failed == FAILED_PROBES:
            raise Refused(f"the new release failed {failed} consecutive probes {when}: {problem}")
