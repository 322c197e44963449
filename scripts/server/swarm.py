"""The rollout with Docker Swarm: Swarm replaces the tasks of api, workers and front; each service is verified."""

import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from server import (
    compose,
    health,
    migrations,
    nodes,
    prober,
    roles,
    stack,
    stackfile,
    swarm_repair,
    updates,
)
from server.attempt import Attempt, Live
from server.compose import Project
from server.errors import Refused
from server.plan import Plan, prepare
from server.probe import parse_site
from server.settings import Settings
from server.state import say

PORT = "API_PORT"  # the name of a setting, and of a variable of the front
SINGLETON_SECONDS = 4 * 3600  # time limit of stopping a singleton: its job may take hours to end


def find_live(directory: Path, settings: Settings) -> Live:
    """Return the live release."""
    return swarm_repair.find_live(settings)


def clean_up(directory: Path, settings: Settings) -> Live:
    """Remove what an interrupted deploy left, and return the live release. `roll_out` replaces its services."""
    return swarm_repair.clean_up(directory, settings)


def keep_live(attempt: Attempt) -> bool:
    """Keep the live release if it has this tag and these settings, and all its tasks run. Return whether it did."""
    project = attempt.for_live_release().project
    if attempt.live.tag != attempt.tag or not project.release.is_dir():
        return False
    configuration = compose.configuration(project)
    services, found = configuration["services"], stack.services(attempt.settings)
    names = roles.release_services(services, attempt.image)
    applied = [name for name in names if name in found and _is_applied(found[name], name, services)]
    for name in names:
        if name not in found and not _is_singleton(name, services, found):
            say(f"the {name} is not in the Swarm: deploying the release again")
            return False
        if name not in applied and not _is_singleton(name, services, found):  # `finish` replaces those
            say(f"the settings or the release of {name} have changed: replacing the release")
            return False
    _start_missing(project, configuration)
    try:
        updates.wait_until_updated(project, applied, is_new=False)
        with prober.start(project) as container:
            prober.verify_proxies(container, _make_target(attempt, services))
    except Refused as error:
        say(f"the live release fails a check ({error}): deploying it again")
        return False
    return True


def _is_applied(service: Mapping[str, Any], name: str, services: Mapping[str, Any]) -> bool:
    """Return whether a deployed service has the settings that the compose file gives it."""
    return stack.labels(service).get(stackfile.HASH) == stackfile.digest(name, services[name])


def _is_singleton(name: str, services: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Return whether a service of the compose file is a singleton, or the deployed one: its tasks must end first."""
    is_deployed = name in found and stack.is_singleton(found[name])
    return is_deployed or roles.is_singleton(roles.labels(services[name]))


def roll_out(attempt: Attempt, refuse_older: bool) -> str:
    """Run all steps up to, not including, the write of .env. Return the outcome. Raises Refused."""
    plan = prepare(attempt, refuse_older)
    project, configuration = attempt.project, plan.configuration
    others = roles.other_services(plan.services)
    stackfile.check(project, configuration, [*plan.replicas, *others])
    if attempt.live.tag:
        compose.require_same_networks(project, configuration, attempt.live.tag)
        _require_same_port(project, plan.services)
    nodes.pull(project, {plan.services[name]["image"] for name in plan.replicas})
    _start_missing(project, configuration)
    stack.create_networks(project, configuration, attempt.image)
    if "migrate" in plan.services:
        attempt.steps.begin("migrate")
        if migrations.check_pending(project, plan.services):
            migrations.migrate(project, plan.services)
    attempt.steps.begin("start", "api")
    _update(attempt, configuration, ["api"])
    if workers := _workers(plan, stack.services(attempt.settings)):
        attempt.steps.begin("workers", ", ".join(workers))
        _update(attempt, configuration, workers)
    target = _make_target(attempt, plan.services)
    with prober.start(project) as container:
        attempt.steps.begin("verify")
        prober.verify_front(project, container, target)
        attempt.steps.begin("switch")
        _update(attempt, configuration, ["front"])
        prober.verify_proxies(container, target)
        attempt.steps.begin("watch")
        _watch(attempt, container, target)
    return plan.outcome


def _require_same_port(project: Project, services: Mapping[str, Any]) -> None:
    """Raise Refused if API_PORT has changed: for a while, the front forwards to the API of both releases."""
    live = stack.environment(stack.services(project.settings).get("front")).get(PORT)
    new = (services["front"].get("environment") or {}).get(PORT)
    if live and new and live != new:
        raise Refused(
            f"{PORT} in .env has changed from {live} to {new}: requests would fail, because on a Swarm the tasks of "
            f"both releases have the name api; set it back, or plan an interruption: 'docker stack rm "
            f"{project.settings.project}', then deploy"
        )


def _update(attempt: Attempt, configuration: Mapping[str, Any], names: Collection[str]) -> None:
    """Update services, and wait until Swarm has replaced their tasks. Raises Refused, and shows the log of a task."""
    stack.apply(attempt.project, configuration, names)
    if attempt.steps.name == "start":
        attempt.steps.begin("wait", "until Swarm has replaced each task")
    try:
        updates.wait_until_updated(attempt.project, names)
    except Refused:
        updates.show_failed(attempt.project, names)
        raise


def _workers(plan: Plan, found: Mapping[str, Any]) -> list[str]:
    """Return the services of a release that are replaced after the API. Singletons are replaced at the end."""
    names = [name for name in plan.replicas if name not in roles.SERVING]
    return [name for name in names if not _is_singleton(name, plan.services, found)]


def _start_missing(project: Project, configuration: Mapping[str, Any]) -> None:
    """Create the services that a deploy does not replace, unless the stack has them. Swarm keeps them running."""
    found = stack.services(project.settings)
    missing = [name for name in roles.other_services(configuration["services"]) if name not in found]
    if missing:
        stack.apply(project, configuration, missing)
        updates.wait_until_updated(project, missing)


def _make_target(attempt: Attempt, services: Mapping[str, Any]) -> health.Target:
    path = roles.labels(services["api"]).get(roles.HEALTH_PATH_LABEL)
    return health.Target(attempt.tag, path, parse_site(attempt.settings.site_address))


def _watch(attempt: Attempt, container: str, target: health.Target) -> None:
    """Watch a release that serves, for WATCH_SECONDS. Raises Refused if a task fails, or the probes of a proxy."""
    end = time.monotonic() + attempt.settings.watch_seconds
    while time.monotonic() < end:
        time.sleep(health.WATCH_INTERVAL)
        own = [task for task in stack.tasks(attempt.settings) if task.deploy_id == attempt.project.deploy_id]
        if failed := [task for task in own if task.has_failed]:
            updates.show_failed(attempt.project, [failed[0].service])
            raise Refused(f"the {failed[0].service} has failed after the switch: {failed[0]}")
        if any(prober.probe(container, "proxy", target).values()):
            prober.verify_proxies(container, target)


def withdraw(attempt: Attempt) -> None:
    """Go back to the release that was live, in the reverse order. After a refused first deploy, remove it.

    Services that Swarm has rolled back, or that were not updated yet, are left alone: `.env` may have changed.
    """
    live, settings, problems = attempt.live, attempt.settings, []
    swarm_repair.require_manager()
    found = stack.services(settings)
    deployed = [name for name in found if stack.deploy_id(found[name])]
    if not live.tag:
        stack.remove(settings, deployed)
        return
    project = Project(attempt.directory, settings, live.tag, live.deploy_id)
    changed = [name for name in deployed if stack.deploy_id(found[name]) != live.deploy_id]
    # Swarm knows what they were before their last update: the live release, or no part of a release. After a killed
    # deploy, that may be another release.
    known = [name for name in changed if stack.previous_deploy_id(found[name]) in ("", live.deploy_id)]
    configuration = compose.configuration(project) if known != changed else {"services": {}}
    for name in sorted(changed, key=lambda name: {"front": 0, "api": 2}.get(name, 1)):
        try:
            if name in known:
                stack.roll_back(project, name)
            elif roles.RELEASE_LABEL in roles.labels(configuration["services"].get(name, {})):
                stack.apply(project, configuration, [name], may_roll_back=False)
            else:
                stack.remove(settings, [name])
                continue
            updates.wait_until_updated(project, [name], is_new=False)
        except Refused as error:  # the others must go back, too
            problems.append(str(error))
    _start_missing(project, configuration)
    if problems:
        raise Refused("; ".join(problems))


def diagnose(attempt: Attempt) -> None:
    """Show nothing: `_update` and `_watch` have shown why a service failed, while its tasks existed."""


def finish(attempt: Attempt) -> str:
    """Replace singletons, remove services of previous releases, and prune images. Return a problem, or nothing."""
    configuration, found = compose.configuration(attempt.project), stack.services(attempt.settings)
    services, problem = configuration["services"], ""
    names = roles.release_services(services, attempt.image)
    former = [name for name in found if name not in names and stack.deploy_id(found[name])]
    new = [name for name in names if _is_singleton(name, services, found)]
    new = [name for name in new if name not in found or not _is_applied(found[name], name, services)]
    previous = [name for name in found if name in new or (name in former and stack.is_singleton(found[name]))]
    try:
        # Not left to Swarm: it waits at most one minute for the end of a previous task.
        if previous:
            say(f"waiting for the end of {', '.join(previous)}")
            stack.stop(attempt.project, previous, SINGLETON_SECONDS)
        if new:
            stack.apply(attempt.project, configuration, new)
            updates.wait_until_updated(attempt.project, new)
    except Refused as error:
        problem = str(error)
    stack.remove(attempt.settings, former)
    _start_missing(attempt.project, configuration)
    nodes.prune_releases(attempt)
    return problem


def apply_services(project: Project, names: Sequence[str]) -> None:
    """Apply changed settings of services that a deploy does not replace. Raises Refused."""
    stack.apply(project, compose.configuration(project), names)
    updates.wait_until_updated(project, names, is_new=False)


def show_containers(directory: Path, settings: Settings) -> None:
    """Print the nodes and the tasks, and what is not where it should be."""
    nodes.show(directory, settings)
