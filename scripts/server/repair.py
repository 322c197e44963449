"""Cleans up after an interrupted deploy: one release stays, everything else of a deploy goes."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from server import compose, engine, release, state
from server.engine import Container
from server.settings import Settings

SETTLE_SECONDS = 1  # for requests that are on their way to a front that loses the pointer


class Live(NamedTuple):
    """The containers of the live release; all empty when nothing is live."""

    deploy: str
    tag: str
    containers: tuple[Container, ...]

    @property
    def front(self) -> str:
        """The name of its front while another release starts."""
        return front_name(self.deploy) if self.deploy else state.NO_FRONT


def front_name(deploy: str) -> str:
    """The network name of a deploy's front, as docker-compose.prod.yml sets it."""
    return f"front-{deploy}"


def releases(settings: Settings) -> list[Container]:
    """The containers of all releases, running or not; proxy, database and one-shots are none."""
    return engine.containers(settings.project, "quai.deploy", "com.docker.compose.oneoff=False")


def find_live(containers: Sequence[Container], deploy_id: str, pointer: str) -> Live:
    """The release that stays, from the running containers, DEPLOY_ID in .env and the pointer.

    A deploy that was killed leaves one of these states:

        killed                   DEPLOY_ID  pointer    stays
        before the switch        old        front-old  old
        after it                 old        front-new  old: the new one was not watched to the end
        with .env written        new        front-new  new
        in the first deploy      none       nobody     none; once requests go to it, the new one

    If neither names a running release, any that runs stays.
    """
    running = [container for container in containers if container.is_running]
    if pointer == state.NO_FRONT:
        running = []
    any_deploy = running[0].deploy if running else ""
    for deploy in (deploy_id, pointer.removeprefix(front_name("")), any_deploy):
        found = tuple(container for container in running if deploy and container.deploy == deploy)
        if found:
            return Live(deploy, found[0].tag, found)
    return Live("", "", ())


def repair(directory: Path, settings: Settings) -> Live:
    """Leave the live release alone on the server, and return it. Raises EngineError or OSError.

    The caller holds the lock. Requests go to the live release before anything else is stopped.
    """
    containers = releases(settings)
    live = find_live(containers, settings.deploy_id, state.pointer(directory))
    if live.containers and state.pointer(directory).startswith(front_name("")):
        move_pointer(directory, live.front)
    engine.kill(release.unpack_name(settings))
    # At once, without a grace period: a migration may hold locks, and commits at its end.
    engine.in_parallel(engine.kill, [one.id for one in engine.containers(settings.project, compose.ONE_SHOT)])
    (directory / "backups/new").unlink(missing_ok=True)
    keep = {container.id for container in live.containers}
    engine.remove(container.id for container in containers if container.id not in keep)
    state.point_to(directory, "front")
    return live


def move_pointer(directory: Path, front: str) -> None:
    """Send requests to this front, and give those on their way to another one time to arrive."""
    if state.pointer(directory) != front:
        state.point_to(directory, front)
        time.sleep(SETTLE_SECONDS)
