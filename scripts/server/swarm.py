"""The rollout with Docker Swarm: one API and one front are verified, then Swarm replaces api, workers and front."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from server import (
    compose,
    health,
    migrations,
    nodes,
    prober,
    roles,
    singletons,
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


def find_live(directory: Path, settings: Settings) -> Live:
    """Return the live release."""
    return swarm_repair.find_live(settings)


def clean_up(directory: Path, settings: Settings) -> Live:
    """Return to the live release after an interrupted deploy, remove what it left, and return the live release."""
    return swarm_repair.clean_up(directory, settings)


def keep_live(attempt: Attempt) -> bool:
    """Keep the live release if it has this tag and these settings, and all its tasks run. Return whether it did."""
    project = attempt.for_live_release().project
    if attempt.live.tag != attempt.tag or not project.release.is_dir():
        return False
    configuration = compose.configuration(project)
    services, found = configuration["services"], stack.services(attempt.settings)
    names = roles.release_services(services, attempt.image)
    applied = [name for name in names if stack.is_applied(found.get(name), name, services[name], names[name])]
    for name in names:
        if name not in applied and not singletons.is_singleton(name, services, found):  # `finish` replaces those
            what = (
                "the settings or the release of the {} have changed" if name in found else "the {} is not in the Swarm"
            )
            say(f"{what.format(name)}: replacing the release")
            return False
    updates.start_missing(project, configuration)
    try:
        updates.wait_until_updated(project, applied, is_new=False)
        with prober.start(project, configuration) as container:
            prober.verify_proxies(container, _make_target(attempt, services))
    except Refused as error:
        say(f"the live release fails a check ({error}): deploying it again")
        return False
    return True


def roll_out(attempt: Attempt, refuse_older: bool) -> str:
    """Run all steps up to, not including, the write of .env. Return the outcome. Raises Refused."""
    plan = prepare(attempt, refuse_older)
    project, configuration = attempt.project, plan.configuration
    others = roles.other_services(plan.services)
    stackfile.check(project, configuration, [*plan.replicas, *others])
    found = stack.services(attempt.settings)
    if not found:
        updates.wait_for_removal(project)
    elif attempt.live.tag:
        compose.require_same_networks(project, configuration, attempt.live.tag)
        _require_same_port(project, plan.services, found)
        stack.require_same_modes(project, plan.services, found)
    nodes.pull(project, {plan.services[name]["image"] for name in plan.replicas})
    updates.start_missing(project, configuration)
    stack.create_networks(project, configuration, attempt.image)
    if "migrate" in plan.services:
        attempt.steps.begin("migrate")
        if migrations.check_pending(project, plan.services):
            migrations.migrate(project, plan.services)
    target = _make_target(attempt, plan.services)
    attempt.steps.begin("start", "one api and one front, which get no requests of users")
    with prober.start(project, configuration) as container:
        prober.verify_release(project, configuration, container, target, attempt.steps)
        attempt.steps.begin("switch", "api")
        _update(attempt, plan, ["api"])
        if workers := _workers(plan, stack.services(attempt.settings)):
            attempt.steps.begin("workers", ", ".join(workers))
            _update(attempt, plan, workers)
        attempt.steps.begin("switch", "front")
        _update(attempt, plan, ["front"])
        try:
            prober.verify_proxies(container, target)
            attempt.steps.begin("watch")
            _watch(attempt, container, target)
        except Refused:
            if not attempt.failed:
                attempt.failed.extend(roles.SERVING)  # shown when the live release serves again
            raise
    return plan.outcome


def _require_same_port(project: Project, services: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Raise Refused if API_PORT has changed: for a while, the front forwards to the API of both releases."""
    live = stack.environment(found.get("front")).get(PORT)
    new = (services["front"].get("environment") or {}).get(PORT)
    if live and new and live != new:
        raise Refused(
            f"{PORT} in .env has changed from {live} to {new}: requests would fail, because on a Swarm the tasks of "
            f"both releases have the name api; set it back, or plan an interruption: 'docker stack rm "
            f"{project.settings.project}', then deploy"
        )


def _update(attempt: Attempt, plan: Plan, names: Collection[str]) -> None:
    """Update services, and wait until Swarm has replaced their tasks. Raises Refused, and shows the log of a task."""
    _add_tasks(attempt, plan, names)
    stack.apply(attempt.project, plan.configuration, names)
    try:
        updates.wait_until_updated(attempt.project, names)
    except Refused:
        updates.show_failed(attempt.project, names)
        raise


def _add_tasks(attempt: Attempt, plan: Plan, names: Collection[str]) -> None:
    """Run the live release with as many tasks as the new one. Raises Refused.

    Otherwise a rollback would reduce their number, and Swarm might end those of the live release first.
    """
    found = stack.services(attempt.settings)
    for name in names:
        before = stack.replicas(found[name]) if name in found else None
        if before and before < plan.replicas[name]:
            stack.scale(attempt.project, name, plan.replicas[name])
            project = replace(attempt.project, deploy_id=stack.deploy_id(found[name]))
            try:
                updates.wait_until_updated(project, [name], is_new=False)
            except Refused:
                stack.scale(attempt.project, name, before)
                raise


def _workers(plan: Plan, found: Mapping[str, Any]) -> list[str]:
    """Return the services of a release that are replaced after the API. Singletons are replaced at the end."""
    names = [name for name in plan.replicas if name not in roles.SERVING]
    return [name for name in names if not singletons.is_singleton(name, plan.services, found)]


def _make_target(attempt: Attempt, services: Mapping[str, Any]) -> health.Target:
    path = roles.labels(services["api"]).get(roles.HEALTH_PATH_LABEL)
    return health.Target(attempt.tag, path, parse_site(attempt.settings.site_address))


def _watch(attempt: Attempt, container: str, target: health.Target) -> None:
    """Watch a release that serves, for WATCH_SECONDS. Raises Refused if a task fails, or the probes of a proxy.

    A proxy may fail for NODE_SECONDS: see there.
    """
    now = time.monotonic()
    end, failing = now + attempt.settings.watch_seconds, 0.0
    while now < end or failing:
        time.sleep(health.WATCH_INTERVAL)
        now = time.monotonic()
        own = [task for task in stack.tasks(attempt.settings) if task.deploy_id == attempt.project.deploy_id]
        if failed := [task for task in own if task.has_failed]:
            attempt.failed.append(failed[0].service)
            raise Refused(f"the {failed[0].service} has failed after the switch: {failed[0]}")
        problems = list(filter(None, prober.probe(container, "proxy", target).values()))
        failing = (failing or now) if problems else 0.0
        if problems and now - failing > prober.NODE_SECONDS:
            raise Refused(problems[0])


def withdraw(attempt: Attempt) -> None:
    """Go back to the release that was live."""
    swarm_repair.withdraw(attempt)


def diagnose(attempt: Attempt) -> None:
    """Show why a service failed that served. `_update` has shown it for a service that Swarm rolled back."""
    updates.show_failed(attempt.project, attempt.failed)


def finish(attempt: Attempt) -> str:
    """Replace singletons, remove services of previous releases, and prune images. Return a problem, or nothing."""
    configuration = compose.configuration(attempt.project)
    problem = singletons.replace(attempt.project, configuration)
    names = roles.release_services(configuration["services"], attempt.image)
    found = stack.services(attempt.settings)
    former = [name for name in found if name not in names and stack.deploy_id(found[name])]
    stack.remove(attempt.settings, [name for name in former if not stack.is_singleton(found[name])])
    updates.start_missing(attempt.project, configuration)
    nodes.prune_releases(attempt)
    return problem


def apply_services(project: Project, names: Sequence[str]) -> None:
    """Apply changed settings of services that a deploy does not replace. Raises Refused."""
    configuration, found = compose.configuration(project), stack.services(project.settings)
    services = configuration["services"]
    changed = [name for name in names if not updates.is_applied(found, name, services[name])]
    stackfile.check(project, configuration, names)
    stack.require_same_modes(project, services, found)
    compose.pull_missing(project, {name: services[name] for name in changed})
    updates.replace(project, configuration, changed)
    updates.wait_until_updated(project, names, is_new=False)


def show_containers(directory: Path, settings: Settings) -> None:
    """Print the nodes and the tasks, and what is not where it should be."""
    nodes.show(directory, settings)
