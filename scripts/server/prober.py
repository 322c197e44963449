"""Probes of a release in Swarm, sent from a container: this server is not in the networks of the stack."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from server import commands, compose, diagnostics, engine, health, stack
from server.attempt import Steps
from server.compose import Project
from server.errors import Refused
from server.probe import Response

NODE_SECONDS = 20  # how long a proxy may fail: the addresses of a node that died stay in the DNS of Swarm for a while
PROBE_PROGRAM = "/release/server/probe.py"
SHORT_ID = 12  # characters of the id of a container that are its name in the DNS of its networks
SLEEP = "import time; time.sleep(86400)"


@contextmanager
def _one_shot(project: Project, configuration: Mapping[str, Any], *words: str) -> Iterator[str]:
    """Run a container of a service in the networks of the stack, on this node; provide its id, and remove it."""
    # Without --interactive=false its stdin would stay open, as that of no task does.
    command = compose.one_shot_command(project, "--detach", "--interactive=false", *words)
    with compose.private_file(configuration) as file:
        result = compose.run(project, *command, file=file, capture=True)
    if result.code:
        raise Refused(f"a container of the release cannot be started: {result.error.strip()}")
    container = result.output.split()[-1]
    try:
        yield container
    finally:
        engine.remove_now(container)


def start(project: Project, configuration: Mapping[str, Any]) -> AbstractContextManager[str]:
    """Provide the id of a container that sends probes."""
    unchecked = compose.for_one_shots(configuration, is_checked=False)
    return _one_shot(project, unchecked, "--entrypoint", "python3", "api", "-c", SLEEP)


def probe(prober: str, host: str, target: health.Target, name: str = "") -> dict[str, str]:
    """Request the health path from each address of a host; return their problems, empty for each without one.

    In problems, the host has this name (default: `host`).
    """
    site, name = ("https://" if target.site.is_https else "http://") + target.site.host, name or host
    words = (host, str(health.FRONT_PORT), target.health_path or "", site, "--all")
    command = ("exec", prober, "python3", "-IS", PROBE_PROGRAM, *words)
    result = commands.docker(Path("/"), *command, capture=True)
    if result.code:
        raise Refused(f"{name} cannot be probed: {(result.error or result.output).strip()}")
    responses = {address: Response(*values) for address, values in json.loads(result.output).items()}
    found = {one: health.describe_problem(f"{name} ({one})", responses[one], target) for one in responses}
    return found or {"": f"{name} has no address: no task of it runs, or it shares no network with api"}


def verify_release(
    project: Project, configuration: Mapping[str, Any], prober: str, target: health.Target, steps: Steps
) -> None:
    """Run one API and one front of the release, which get no requests of users, and watch them for WATCH_SECONDS.

    Raises Refused, and shows their logs: Swarm has replaced nothing yet.
    """
    one_shots = compose.for_one_shots(configuration)
    with (
        _one_shot(project, one_shots, "api") as api,
        _one_shot(project, one_shots, f"--env=API_HOST={api[:SHORT_ID]}", "front") as front,
    ):
        try:
            steps.begin("wait", "until healthy")
            health.wait_until_healthy([api, front], project.settings)
            steps.begin("verify")
            address = engine.address(engine.inspect(front))
            if not address:
                raise Refused("the front has no address")

            def probe_front() -> str:
                return next(iter(probe(prober, address, target, "the front").values()))

            health.watch([api, front], project.settings, probe_front, "before the switch")
        except Refused:
            diagnostics.show(project.directory, {"api": api, "front": front})
            raise
        engine.stop(api)  # it may have begun something by itself


def verify_proxies(prober: str, target: health.Target) -> None:
    """Return when each proxy returns a response of the release. Raises Refused after NODE_SECONDS."""
    deadline = time.monotonic() + NODE_SECONDS
    while problems := list(filter(None, probe(prober, "proxy", target).values())):
        if time.monotonic() > deadline:
            raise Refused(problems[0])
        time.sleep(stack.POLL_SECONDS)
