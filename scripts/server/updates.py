"""Waits until Docker Swarm has updated or stopped services, and says why it has not."""

import json
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from server import engine, nodes, roles, stack, stackfile
from server.compose import Project
from server.errors import Refused
from server.state import say

NETWORK_SECONDS = 60  # time limit of the removal of a network, after that of its last container
PAUSED = ("paused", "rollback_paused")  # states of an update that Swarm has given up
NANOSECONDS = 1e9  # in a second; the engine's unit of durations


def wait_until_updated(project: Project, names: Collection[str], *, is_new: bool = True) -> None:
    """Return when all tasks of these services run as they were applied. Raises Refused, with why, if they do not.

    Swarm rolls back a service whose new tasks fail. If for HEALTH_SECONDS no further task starts or becomes healthy,
    and no node dies, the update has failed, too. Tasks of a release that is not new may have failed long ago.
    """
    found = stack.services(project.settings)
    pauses = max((_pauses(found[name]) for name in names), default=0)
    limit = project.settings.health_seconds + pauses
    deadline, before = time.monotonic() + limit, (math.inf, 0)
    while missing := _count_steps(project, names, is_new):
        now = (sum(missing.values()), sum(node["Status"]["State"] == "ready" for node in engine.get("/nodes")))
        if now[0] < before[0] or now[1] != before[1]:  # Swarm moves the tasks of a dead node to others
            deadline, before = time.monotonic() + limit, now
        if time.monotonic() > deadline:
            name = next(iter(missing))
            own = [task for task in stack.tasks(project.settings) if task.service == name and task.desired == "running"]
            why = _describe([task for task in own if task.error and not task.is_running])
            seconds = f"HEALTH_SECONDS in .env{f', and {pauses:g} s for which Swarm watches it' if pauses else ''}"
            raise Refused(
                f"the {name} was not healthy within {limit:g} s ({seconds}){why}{_hint(project, found[name])}"
            )
        time.sleep(stack.POLL_SECONDS)


def _count_steps(project: Project, names: Collection[str], is_new: bool) -> dict[str, int]:
    """Return the missing steps of each service whose update has not completed: a task starts, and becomes healthy.

    Both are counted, because a task may start late: a node that joins a network may wait 30 s for each other node
    (https://github.com/moby/moby/issues/47396). Raises Refused.
    """
    found = stack.services(project.settings)
    listed, missing = stack.tasks(project.settings, found), {}
    for name in names:
        current, digest = stack.deploy_id(found[name]), stack.labels(found[name]).get(stackfile.HASH, "")
        own = [task for task in listed if task.service == name and task.hash == digest]
        update = stack.update_state(found[name])
        failed = [task for task in listed if task.service == name and task.has_failed]
        # A service that was not part of a release before has no deploy id after a rollback.
        is_rolled_back = is_new and not current and update.startswith("rollback")
        if is_rolled_back or current not in ("", project.deploy_id):
            raise Refused(f"Swarm has rolled back the {name}{_describe(failed)}")
        if update in PAUSED:
            hint = _hint(project, found[name])
            raise Refused(f"Swarm has stopped the update of the {name}{_describe(failed)}{hint}")
        # Swarm restarts the failed tasks of a service that it does not update, and a singleton is started anew.
        is_restarted = not update or stack.is_singleton(found[name])
        if is_new and current and is_restarted and any(task.has_failed for task in own):
            raise Refused(f"the {name} has failed{_describe(failed)}")
        desired = found[name]["ServiceStatus"]["DesiredTasks"]
        if stack.replicas(found[name]) is None:  # one on each node; Swarm counts those that it has created
            desired = max(desired, 1)
        count = desired - sum(task.is_running for task in own)
        if count > 0 or stack.is_updating(found[name]):
            missing[name] = max(2 * count - sum(task.is_starting for task in own), 0)
    return missing


def stop(project: Project, names: Collection[str], seconds: float = engine.STOP_SECONDS) -> None:
    """Stop all tasks of these services, each within its own grace period, and keep the services. Raises Refused."""
    found = stack.services(project.settings)
    for name in names:
        if stack.replicas(found[name]):  # a second change to 0 would make Swarm forget tasks that still run
            stack.scale(project, name, 0)
    wait_until_ended(project, names, seconds)


def wait_until_ended(project: Project, names: Collection[str], seconds: float = engine.STOP_SECONDS) -> None:
    """Return when no task of these services runs, and print what it waits for. Raises Refused after `seconds`.

    A task that ends may already be unknown to Swarm: the containers of this machine count, too.
    """
    if left := _poll_until_gone(lambda: _running(project, names), seconds):
        raise Refused(f"{', '.join(left)} did not end within {seconds:g} s")


def _poll_until_gone(find: Callable[[], list[str]], seconds: float, what: str = "") -> list[str]:
    """Poll until `find()` returns nothing, and print first what it waits for. Return what is left after `seconds`."""
    deadline, left = time.monotonic() + seconds, find()
    if left:
        say(f"waiting for the end of {what or ', '.join(left)}")
    while left and time.monotonic() <= deadline:
        time.sleep(stack.POLL_SECONDS)
        left = find()
    return left


def _get_own(project: Project, path: str) -> Any:
    """Return the containers or networks of the stack on this machine."""
    label = f"{stack.NAMESPACE}={project.settings.project}"
    return engine.get(path, {"filters": json.dumps({"label": [label]})})


def _running(project: Project, names: Collection[str]) -> list[str]:
    """Return the tasks of these services that have not ended, and their containers on this machine."""
    dead = {node["ID"] for node in engine.get("/nodes") if node["Status"]["State"] == "down"}
    own = [task for task in stack.tasks(project.settings) if task.service in names and task.node_id not in dead]
    left = [str(task) for task in own if task.state not in stack.ENDED]
    for container in _get_own(project, "/containers/json"):
        name = container["Labels"].get(stack.SERVICE_NAME, "").removeprefix(f"{project.settings.project}_")
        if name in names:
            left.append(f"the container {container['Id'][:12]} of {name}")
    return left


def wait_for_removal(project: Project) -> None:
    """Return when this machine has nothing left of a stack that was removed. Raises Refused.

    While a container is left, the engine still lists its networks, although Swarm has removed them.
    """
    for path, what, seconds, command in (
        ("/containers/json", "containers", engine.STOP_SECONDS, "docker rm --force"),
        ("/networks", "networks", NETWORK_SECONDS, "docker network rm"),
    ):

        def find(path: str = path) -> list[str]:
            return [one.get("Name") or one["Id"][:12] for one in _get_own(project, path)]

        if left := _poll_until_gone(find, seconds, f"the {what} of a removed stack"):
            raise Refused(
                f"the {what} of a removed stack are still there after {seconds} s: run '{command} {' '.join(left)}', "
                "then the same command again"
            )


def start_missing(project: Project, configuration: Mapping[str, Any]) -> None:
    """Start the services that a deploy does not replace, if none of their tasks runs. Raises Refused.

    Changed settings are applied first: with the previous ones, a service may never have run.
    """
    services, found = configuration["services"], stack.services(project.settings)
    names = roles.other_services(services)
    idle = [name for name in names if name not in found or not found[name]["ServiceStatus"]["RunningTasks"]]
    if idle:
        replace(project, configuration, [name for name in idle if not is_applied(found, name, services[name])])
        wait_until_updated(project, idle, is_new=False)


def is_applied(found: Mapping[str, Any], name: str, configured: Mapping[str, Any]) -> bool:
    """Return whether a service that a deploy does not replace is deployed as the compose file says.

    While its update is paused, it is not: Swarm continues only when the service is applied again.
    """
    if name in found and stack.update_state(found[name]) in PAUSED:
        return False
    return stack.is_applied(found.get(name), name, configured, roles.replicas(configured))


def replace(project: Project, configuration: Mapping[str, Any], names: Collection[str]) -> None:
    """Apply services when their tasks have ended: two databases must not use one volume. Raises Refused.

    The end is not left to Swarm, which waits at most one minute. A removed stack may also leave containers behind.
    """
    found = stack.services(project.settings)
    if stopped := [name for name in names if name in found and stack.replicas(found[name]) is not None]:
        stop(project, stopped)
    if missing := [name for name in names if name not in found]:
        wait_until_ended(project, missing)
    stack.apply(project, configuration, names)


def _pauses(service: Mapping[str, Any]) -> float:
    """Return for how many seconds Swarm may start no task although an update goes on: it watches tasks, or waits."""
    configs = [service["Spec"].get(key) or {} for key in ("UpdateConfig", "RollbackConfig")]
    return float(max(config.get("Monitor", 0) + config.get("Delay", 0) for config in configs)) / NANOSECONDS


def _hint(project: Project, service: Mapping[str, Any]) -> str:
    """Return where to find the log of a service that is not part of a release: a deploy does not show it."""
    if stack.deploy_id(service):
        return ""
    return f"; its log: sudo docker service logs --tail 50 {service['Spec']['Name']}"


def _describe(failed: Sequence[stack.Task]) -> str:
    return f": {failed[0]}" if failed else ""


def show_failed(project: Project, names: Collection[str]) -> None:
    """Show why the newest task of each service failed, or else why one is not running; nothing if its node is dead."""
    with suppress(Refused, engine.EngineError):
        tasks = [task for task in stack.tasks(project.settings) if task.deploy_id == project.deploy_id]
        for name in names:
            own = [task for task in tasks if task.service == name and not task.is_running]
            for task in sorted(own, key=lambda task: not task.has_failed)[:1]:
                say(f"last log lines of {task}:")
                nodes.print_log(project, task)
                nodes.explain(project, task)
