"""Cleans up after an interrupted deploy to Docker Swarm, and finds the live release."""

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from server import compose, engine, repair, roles, singletons, stack, updates
from server.attempt import Attempt, Live
from server.compose import Project
from server.engine import Container
from server.errors import Refused
from server.settings import Settings
from server.state import say

MANAGER_SECONDS = 60  # how long a node may take to become a manager again after a reboot


def find_live(settings: Settings) -> Live:
    """Return the live release: the one that .env names, or after a killed first deploy the one of the front.

    It is empty if no task of it runs.
    """
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
    """Return to the live release after an interrupted deploy, remove what it left, and return the live release."""
    require_manager()
    if left := [container.name for container in engine.containers(settings.project)]:
        raise Refused(
            f"ENGINE in .env is swarm, but containers of Compose are still there ({', '.join(left)}): see 'From one "
            f"server to several' in docs/swarm.md; to remove them, which interrupts the site: cd {directory} && sudo "
            "docker compose down --remove-orphans"
        )
    repair.remove_leftovers(directory, settings)
    stack.end_jobs(settings)
    if settings.deploy_id:
        for problem in _restore(Project(directory, settings, "", settings.deploy_id), use_files=False):
            say(problem)  # only a message: the release to be deployed may correct it
    live = find_live(settings)
    repair.link_current(directory, live.tag)
    return live


def withdraw(attempt: Attempt) -> None:
    """Go back to the release that was live, in the reverse order. After a refused first deploy, remove it."""
    live, settings = attempt.live, attempt.settings
    require_manager()
    before = stack.services(settings)
    deployed = [name for name in before if stack.deploy_id(before[name])]
    if not live.tag:
        stack.remove(settings, deployed)
        return
    project = Project(attempt.directory, settings, live.tag, live.deploy_id)
    problems, found = _restore(project, use_files=True), stack.services(settings)
    # After a deploy that was killed behind the write of .env, the live release has not replaced or started them yet.
    singles = [one for one in found.values() if stack.is_singleton(one)]
    is_stale = any(stack.deploy_id(one) not in ("", live.deploy_id) or not stack.replicas(one) for one in singles)
    if is_stale or len(found) < len(before) or _lacks_singleton(project, found):
        configuration = compose.configuration(project)
        updates.start_missing(project, configuration)
        problems += filter(None, [singletons.replace(project, configuration)])
    if problems:
        raise Refused("; ".join(problems))


def _lacks_singleton(project: Project, found: Mapping[str, Any]) -> bool:
    """Return whether a singleton of a release was not started; False if its compose file does not match `.env`."""
    try:
        services = compose.configuration(project)["services"]
        names = roles.release_services(services, project.settings.release_image(project.tag))
    except Refused:
        return False
    single = [name for name in names if singletons.is_singleton(name, services, found)]
    return any(name not in found or not stack.deploy_id(found[name]) for name in single)


def _restore(project: Project, *, use_files: bool) -> list[str]:
    """Return the services of a release, except singletons, to the live release: the front first. Return problems.

    With `use_files`, those of which Swarm no longer knows the live release get it from its files and today's `.env`.
    """
    found, problems = stack.services(project.settings), []
    names = [name for name in found if stack.deploy_id(found[name]) and not stack.is_singleton(found[name])]
    for name in sorted(names, key=lambda name: {"front": 0, "api": 2}.get(name, 1)):
        try:
            if _restore_service(project, name, use_files):
                say(f"returning the {name} to the live release")
                updates.wait_until_updated(project, [name], is_new=False)
        except (Refused, engine.EngineError) as error:  # the others must go back, too
            problems.append(f"the {name} did not return to the live release: {error}")
    return problems


def _restore_service(project: Project, name: str, use_files: bool) -> bool:
    """Return a service to the live release, unless it has it. Return whether Swarm replaces its tasks."""
    service = stack.services(project.settings).get(name)  # again: Swarm itself may have rolled it back
    if service is None:
        return False
    if stack.deploy_id(service) == project.deploy_id:
        return stack.is_updating(service)
    # Before its last update it was part of the live release, or of none.
    if stack.previous_deploy_id(service) in ("", project.deploy_id):
        return _roll_back(project, name)
    if not use_files:
        return False
    configuration = compose.configuration(project)
    if roles.RELEASE_LABEL not in roles.labels(configuration["services"].get(name, {})):
        stack.remove(project.settings, [name])
        return False
    stack.apply(project, configuration, [name], may_roll_back=False)
    return True


def _roll_back(project: Project, name: str) -> bool:
    """Let Swarm roll a service back. Return whether it replaces its tasks. Raises Refused."""
    try:
        stack.roll_back(project, name)
    except Refused:
        service = stack.services(project.settings)[name]
        if stack.deploy_id(service) not in ("", project.deploy_id):
            raise
        return stack.is_updating(service)  # Swarm itself has just rolled it back
    return True


def require_manager() -> None:
    """Wait until this server is a manager of a Swarm: after a reboot, that takes a moment. Raises Refused."""
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
