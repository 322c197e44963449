"""Cleans up after an interrupted deploy: keeps one release and removes the rest."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from server import compose, engine, release, state
from server.engine import Container
from server.settings import Settings

DRAIN_SECONDS = 1  # for requests on their way to the previous front


class Live(NamedTuple):
    """The containers of the live release; all empty when nothing is live."""

    deploy_id: str
    tag: str
    containers: tuple[Container, ...]

    @property
    def front(self) -> str:
        """The name of its front while another release starts."""
        return front_name(self.deploy_id) if self.deploy_id else state.NO_FRONT


def front_name(deploy_id: str) -> str:
    """The network name of a deploy's front, as docker-compose.prod.yml sets it."""
    return f"front-{deploy_id}"


def release_containers(settings: Settings) -> list[Container]:
    """Return the containers of all releases, running or not, without proxy, database and one-shots."""
    return engine.containers(settings.project, "quai.deploy")


def find_live(containers: Sequence[Container], deploy_id: str, pointer: str) -> Live:
    """Return the release to keep, from the running containers, DEPLOY_ID in .env and the pointer.

    A deploy that was killed leaves one of these states:

        killed                   DEPLOY_ID  pointer    kept
        before the switch        old        front-old  old
        after it                 old        front-new  old: the new one was not fully watched
        with .env written        new        front-new  new
        in the first deploy      none       nobody     none; once requests go to it, the new one

    If neither names a running release, any running release is kept.
    """
    running = [container for container in containers if container.is_running]
    if pointer == state.NO_FRONT:
        running = []
    any_id = running[0].deploy_id if running else ""
    for candidate in (deploy_id, pointer.removeprefix(front_name("")), any_id):
        found = tuple(container for container in running if candidate and container.deploy_id == candidate)
        if found:
            return Live(candidate, found[0].tag, found)
    return Live("", "", ())


def repair(directory: Path, settings: Settings) -> Live:
    """Remove everything of a deploy except the live release, and return it. Raises EngineError or OSError.

    The caller holds the lock. Requests go to the live release before anything else is stopped.
    """
    containers = release_containers(settings)
    live = find_live(containers, settings.deploy_id, state.pointer(directory))
    if live.containers and state.pointer(directory).startswith(front_name("")):
        move_pointer(directory, live.front)
    engine.kill(release.unpack_name(settings))
    compose.end_one_shots(settings)
    (directory / "backups/new").unlink(missing_ok=True)
    keep = {container.id for container in live.containers}
    engine.remove(container.id for container in containers if container.id not in keep)
    state.point_to(directory, "front")
    return live


def move_pointer(directory: Path, front: str) -> None:
    """Point the proxy to this front, and wait for requests on their way to the previous one."""
    if state.pointer(directory) != front:
        state.point_to(directory, front)
        time.sleep(DRAIN_SECONDS)
