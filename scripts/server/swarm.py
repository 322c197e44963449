"""The rollout with Docker Swarm: Swarm replaces the tasks of api, workers and front; each service is verified."""

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from server import commands, compose, diagnostics, engine, health, migrations, nodes, prober, repair, roles, stack
from server.attempt import Attempt, Live
from server.compose import Project
from server.engine import Container
from server.errors import Refused
from server.plan import Plan, prepare
from server.probe import parse_site
from server.settings import Settings
from server.state import say

MANAGER_SECONDS = 60  # how long a node may take to become a manager again after a reboot
LOG_SECONDS = 20  # time limit of reading a task's log: its node may have died
SINGLETON_SECONDS = 4 * 3600  # time limit of replacing a singleton: its job may take hours to end


def find_live(directory: Path, settings: Settings) -> Live:
    """Return the live release: the one that .env names, or after a killed first deploy the one of the front."""
    running = [task for task in stack.tasks(settings) if task.is_running and task.deploy_id]
    fronts = [task.deploy_id for task in running if task.service == "front"]
    deploy_id = settings.deploy_id or next(iter(fronts), "")
    own = [task for task in running if task.deploy_id == deploy_id]
    if not own:
        return Live("", "", ())
    return Live(deploy_id, own[0].tag, tuple(map(_container, own)))


def _container(task: stack.Task) -> Container:
    name = f"{task.service} on {task.node}"
    return Container(task.id, name, task.service, task.deploy_id, task.tag, task.state, "", "", "", {})


def clean_up(directory: Path, settings: Settings) -> Live:
    """Remove what an interrupted deploy left, and return the live release. Its services are left to `roll_out`."""
    _require_manager()
    if engine.containers(settings.project):
        raise Refused(
            f"ENGINE in .env is swarm, but containers of Compose still run: see 'From one server to several' in "
            f"docs/swarm.md; to stop them, which interrupts the site: sudo docker compose --file "
            f"{directory}/docker-compose.prod.yml --project-directory {directory} down"
        )
    repair.remove_leftovers(directory, settings)
    nodes.end_jobs(settings)
    live = find_live(directory, settings)
    repair.link_current(directory, live.tag)
    return live


def _require_manager() -> None:
    deadline = time.monotonic() + MANAGER_SECONDS
    while True:
        state = {}
        with suppress(engine.EngineError):  # the engine may be restarting
            state = engine.get("/info")["Swarm"]
        if state.get("ControlAvailable"):
            return
        if state.get("LocalNodeState") == "inactive" or time.monotonic() > deadline:
            raise Refused("ENGINE in .env is swarm, but this server is no manager of a Swarm: see docs/swarm.md")
        time.sleep(stack.POLL_SECONDS)


def keep_live(attempt: Attempt) -> bool:
    """Keep the live release if it has this tag and these settings, and all its tasks run. Return whether it did."""
    project = attempt.for_live_release().project
    if attempt.live.tag != attempt.tag or not project.release.is_dir():
        return False
    configuration = compose.configuration(project)
    services, found = configuration["services"], stack.services(attempt.settings)
    for name in roles.release_services(services, attempt.image):
        if name not in found or found[name]["Spec"]["Labels"].get(stack.HASH) != stack.digest(name, services[name]):
            say(f"the settings or the release of {name} have changed: replacing the release")
            return False
    _start_missing(project, configuration)
    try:
        stack.wait_until_updated(project, roles.release_services(services, attempt.image), is_new=False)
        with prober.start(project) as container:
            prober.verify_proxies(container, _make_target(attempt, services))
    except Refused as error:
        say(f"the live release fails a check ({error}): deploying it again")
        return False
    return True


def roll_out(attempt: Attempt, refuse_older: bool) -> str:
    """Run all steps up to, not including, the write of .env. Return the outcome. Raises Refused."""
    plan = prepare(attempt, refuse_older)
    project, configuration = attempt.project, plan.configuration
    nodes.pull(project, {plan.services[name]["image"] for name in plan.replicas})
    _start_missing(project, configuration)
    if "migrate" in plan.services:
        attempt.steps.begin("migrate")
        if migrations.check_pending(project, plan.services):
            migrations.migrate(project, plan.services)
    attempt.steps.begin("start", "api")
    _update(attempt, configuration, ["api"])
    if workers := _workers(plan):
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


def _update(attempt: Attempt, configuration: Mapping[str, Any], names: Collection[str]) -> None:
    """Update services, and wait until Swarm has replaced their tasks. Raises Refused, and shows the log of a task."""
    stack.apply(attempt.project, configuration, names)
    if attempt.steps.name == "start":
        attempt.steps.begin("wait", "until Swarm has replaced each task")
    try:
        stack.wait_until_updated(attempt.project, names)
    except Refused:
        with suppress(Refused, engine.EngineError):  # the node of the task may have died
            _show_failed(attempt, names)
        raise


def _workers(plan: Plan) -> list[str]:
    """Return the services of a release that are replaced after the API. Singletons are replaced at the end."""
    names = [name for name in plan.replicas if name not in roles.SERVING]
    return [name for name in names if not roles.is_singleton(roles.labels(plan.services[name]))]


def _start_missing(project: Project, configuration: Mapping[str, Any]) -> None:
    """Create the services that a deploy does not replace, unless the stack has them. Swarm keeps them running."""
    found = stack.services(project.settings)
    missing = [name for name in roles.other_services(configuration["services"]) if name not in found]
    if missing:
        stack.apply(project, configuration, missing)
        stack.wait_until_updated(project, missing)


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
            _show_failed(attempt, [failed[0].service])
            raise Refused(f"the {failed[0].service} has failed after the switch: {failed[0]}")
        if any(prober.probe(container, "proxy", target).values()):
            prober.verify_proxies(container, target)


def withdraw(attempt: Attempt) -> None:
    """Go back to the release that was live, in the reverse order. After a refused first deploy, remove it.

    Services that Swarm has rolled back, or that were not updated yet, are left alone: `.env` may have changed.
    """
    live, settings = attempt.live, attempt.settings
    _require_manager()
    found = stack.services(settings)
    ids = {name: stack.deploy_id(service) for name, service in found.items()}
    deployed = [name for name in found if ids[name]]
    if not live.tag:
        stack.remove(settings, deployed)
        return
    if all(ids[name] == live.deploy_id for name in deployed):
        return
    project, problems = Project(attempt.directory, settings, live.tag, live.deploy_id), []
    configuration = compose.configuration(project)
    names = roles.release_services(configuration["services"], settings.release_image(live.tag))
    for name in ("front", *(name for name in names if name not in roles.SERVING), "api"):
        if ids.get(name) == live.deploy_id:
            continue
        try:
            stack.apply(project, configuration, [name])
            stack.wait_until_updated(project, [name], is_new=False)
        except Refused as error:  # the others must go back, too
            problems.append(str(error))
    stack.remove(settings, [name for name in deployed if name not in names])
    if problems:
        raise Refused("; ".join(problems))


def diagnose(attempt: Attempt) -> None:
    """Nothing more: `_update` and `_watch` show why a service failed while its tasks exist."""


def _show_failed(attempt: Attempt, names: Collection[str]) -> None:
    """Show the log of the newest task of each service that failed, or else of one that is not running."""
    tasks = [task for task in stack.tasks(attempt.settings) if task.deploy_id == attempt.project.deploy_id]
    for name in names:
        own = [task for task in tasks if task.service == name and not task.is_running]
        for task in sorted(own, key=lambda task: not task.has_failed)[:1]:
            say(f"last log lines of {task}:")
            words = ("service", "logs", "--raw", "--tail", diagnostics.LOG_LINES, task.id)
            commands.run(["docker", *words], attempt.directory, seconds=LOG_SECONDS)


def finish(attempt: Attempt) -> str:
    """Replace singletons, remove services of previous releases, and prune images. Return a problem, or nothing."""
    project, settings = attempt.project, attempt.settings
    configuration, problems = compose.configuration(project), []
    names = roles.release_services(configuration["services"], attempt.image)
    for name in names:
        if roles.is_singleton(roles.labels(configuration["services"][name])):
            try:
                stack.apply(project, configuration, [name])
                stack.wait_until_updated(project, [name], is_new=False, seconds=SINGLETON_SECONDS)
            except Refused as error:
                problems.append(str(error))
    found = stack.services(settings)
    former = [name for name in found if name not in names and stack.deploy_id(found[name])]
    stack.remove(settings, former)
    nodes.prune_releases(attempt)
    return "; ".join(problems)


def apply_services(project: Project, names: Sequence[str]) -> None:
    """Apply changed settings of services that a deploy does not replace. Raises Refused."""
    stack.apply(project, compose.configuration(project), names)
    stack.wait_until_updated(project, names, is_new=False)


def show_containers(directory: Path, settings: Settings) -> None:
    """Print the nodes and the tasks, and what is not where it should be."""
    nodes.show(directory, settings)
