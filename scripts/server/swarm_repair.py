"""Cleans up after an interrupted deploy to Docker Swarm, and finds the live release."""

import time
from contextlib import suppress
from pathlib import Path

from server import engine, repair, stack
from server.attempt import Live
from server.engine import Container
from server.errors import Refused
from server.settings import Settings

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
    """Remove what an interrupted deploy left, and return the live release. `roll_out` replaces its services."""
    require_manager()
    if engine.containers(settings.project):
        raise Refused(
            f"ENGINE in .env is swarm, but containers of Compose still run: see 'From one server to several' in "
            f"docs/swarm.md; to stop them, which interrupts the site: cd {directory} && sudo docker compose down"
        )
    repair.remove_leftovers(directory, settings)
    stack.end_jobs(settings)
    live = find_live(settings)
    repair.link_current(directory, live.tag)
    return live


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
