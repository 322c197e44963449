"""Probes of a release in Swarm, sent from a container: this server is not in the networks of the stack."""

import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from server import commands, compose, diagnostics, engine, health, stack
from server.compose import Project
from server.engine import Container
from server.errors import Refused
from server.probe import Response

NODE_SECONDS = 20  # how long the addresses of a node that died may stay in the DNS of Swarm
PROBE_PROGRAM = "/release/server/probe.py"
SLEEP = "import time; time.sleep(86400)"


@contextmanager
def _one_shot(project: Project, *words: str) -> Iterator[str]:
    """Run a container of a service in the networks of the stack, on this node; provide its id, and remove it."""
    command = compose.one_shot_command(project, "--detach", *words)
    with compose.one_shot_file(project) as file:
        result = compose.run(project, *command, file=file, capture=True)
    if result.code:
        raise Refused(f"a container of the release cannot be started: {result.error.strip()}")
    container = result.output.split()[-1]
    try:
        yield container
    finally:
        engine.remove_now(container)


def start(project: Project) -> AbstractContextManager[str]:
    """Provide the id of a container that sends probes."""
    return _one_shot(project, "--entrypoint", "python3", "api", "-c", SLEEP)


def probe(prober: str, host: str, target: health.Target) -> dict[str, str]:
    """Request the health path from each address of a host; return their problems, empty for each without one."""
    site = ("https://" if target.site.is_https else "http://") + target.site.host
    words = (host, str(health.FRONT_PORT), target.health_path or "", site, "--all")
    command = ("exec", prober, "python3", "-IS", PROBE_PROGRAM, *words)
    result = commands.docker(Path("/"), *command, capture=True)
    if result.code:
        raise Refused(f"{host} cannot be probed: {(result.error or result.output).strip()}")
    responses = {address: Response(*values) for address, values in json.loads(result.output).items()}
    found = {one: health.describe_problem(f"{host} ({one})", responses[one], target) for one in responses}
    return found or {"": f"{host} has no address: no task of it runs"}


def verify_front(project: Project, prober: str, target: health.Target) -> None:
    """Start one front of the release, which gets no requests of users, and verify its response. Raises Refused."""
    with _one_shot(project, "front") as container:
        deadline = time.monotonic() + project.settings.health_seconds
        while True:
            found = engine.inspect(container)
            addresses = [network["IPAddress"] for network in found["NetworkSettings"]["Networks"].values()]
            address = next(filter(None, addresses), "")
            problem = next(iter(probe(prober, address, target).values())) if address else "the front has no address"
            if not problem:
                return
            if not found["State"]["Running"] or time.monotonic() > deadline:
                front = Container(container, "front", "front", project.deploy_id, project.tag, "", "", "", "", {})
                diagnostics.show(project.directory, [front])
                raise Refused(problem if found["State"]["Running"] else "the front has exited")
            time.sleep(stack.POLL_SECONDS)


def verify_proxies(prober: str, target: health.Target) -> None:
    """Return when each proxy returns a response of the release. Raises Refused after NODE_SECONDS."""
    deadline = time.monotonic() + NODE_SECONDS
    while problems := list(filter(None, probe(prober, "proxy", target).values())):
        if time.monotonic() > deadline:
            raise Refused(problems[0])
        time.sleep(stack.POLL_SECONDS)
