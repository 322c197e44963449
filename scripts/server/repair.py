"""Cleans up after an interrupted deploy: keeps one release and removes the rest."""

import time
from collections.abc import Sequence
from pathlib import Path

from server import compose, engine, release, roles, state
from server.attempt import Live
from server.engine import Container
from server.settings import Settings

DRAIN_SECONDS = 1  # for requests on their way to the previous front


def release_containers(settings: Settings) -> list[Container]:
    """Return the containers of all releases, running or not, without proxy, database and one-shots."""
    return engine.containers(settings.project, roles.RELEASE_LABEL)


def find_live(containers: Sequence[Container], deploy_id: str, upstream: str) -> Live:
    """Return the release to keep, from its containers, DEPLOY_ID in .env and the upstream file.

    A deploy that was killed leaves one of these states:

        killed                            DEPLOY_ID  upstream   kept
        before the switch                 old        front-old  old
        after it                          old        front-new  old: the new one was not fully watched
        after .env was written            new        front-new  new
        first deploy, before the switch   none       NO_FRONT   none
        first deploy, after it            none       front-new  new

    Of the releases with a running container, the first of these is kept:

    1. the one that DEPLOY_ID names;
    2. the one that upstream names;
    3. another one, if it has been live: none if upstream is NO_FRONT, because a first deploy was starting it; if
       there are stopped containers of DEPLOY_ID, only one with a lower id.

    Without any, the stopped containers of DEPLOY_ID are kept.
    """
    running = [container.deploy_id for container in containers if container.is_running]
    others = [] if upstream == state.NO_FRONT else running
    if any(container.deploy_id == deploy_id for container in containers):
        others = [other for other in others if _number(other) < _number(deploy_id)]
    candidates = (deploy_id, upstream.removeprefix(state.FRONT_PREFIX), *others)
    kept = next((candidate for candidate in candidates if candidate in running), deploy_id)
    found = tuple(container for container in containers if kept and container.deploy_id == kept)
    return Live(kept, next((one.tag for one in found if one.tag), ""), found) if found else Live("", "", ())


def _number(deploy_id: str) -> int:
    return int(deploy_id) if deploy_id.isdecimal() else 0


def repair(directory: Path, settings: Settings) -> Live:
    """Keep the live release, remove what interrupted deploys left, and return it. Raises EngineError or OSError.

    The caller holds the lock. Requests go to the live release before anything else is stopped.
    """
    containers = release_containers(settings)
    live = find_live(containers, settings.deploy_id, state.upstream(directory))
    if live.containers and state.upstream(directory).startswith(state.FRONT_PREFIX):
        move_upstream(directory, live.front)
    remove_leftovers(directory, settings)
    # Only a message: the release to be deployed may correct it.
    if problem := keep_only(directory, settings, live.deploy_id):
        state.say(problem)
    live = find_live(release_containers(settings), live.deploy_id, "")  # again: singletons may have been started
    link_current(directory, live.tag)
    return live


def remove_leftovers(directory: Path, settings: Settings) -> None:
    """Remove what an interrupted deploy left of its preparation: containers, and a partial dump."""
    engine.remove_now(release.unpack_name(settings))
    compose.end_one_shots(settings)
    (directory / "backups/new").unlink(missing_ok=True)


def link_current(directory: Path, live: str) -> None:
    """Link releases/current to the live release, unless its files are missing."""
    if live != state.current_tag(directory) and (directory / "releases" / live / "deploy.sh").exists():
        state.link_current(directory, live)


def keep_only(directory: Path, settings: Settings, deploy_id: str) -> str:
    """Make the release with this deploy id the only one: start its singletons, and remove all other releases.

    Without an id, all releases are removed.
    Return which singletons cannot be started, and why; empty if all were. Raises EngineError or OSError.
    """
    containers = engine.containers(settings.project)
    kept = [container for container in containers if deploy_id and container.deploy_id == deploy_id]
    services, others = {container.service for container in kept}, [one for one in containers if one not in kept]
    # A worker without a deploy id was started before its service became part of the release.
    previous = [container for container in others if container.deploy_id or container.service in services]
    problem = _replace_containers(previous, kept)
    state.write_upstream(directory, "front")
    return problem


def _replace_containers(previous: Sequence[Container], kept: Sequence[Container]) -> str:
    """Remove the previous containers, and start those kept that were only created: singletons.

    Singletons are replaced first, so that they do not wait for the end of slow workers.
    """
    singletons, problems = roles.singletons([*previous, *kept]), []
    engine.remove(container.id for container in previous if container.service in singletons)
    for container in kept:
        if container.state == "created":
            try:
                engine.start(container.id)
            except engine.EngineError as error:
                problems.append(f"{container.name} cannot be started: {error}")
    engine.remove(container.id for container in previous)
    return "; ".join(problems)


def move_upstream(directory: Path, front: str) -> None:
    """Send requests to this front, and wait until those already sent to the previous one have reached it."""
    if state.upstream(directory) != front:
        state.write_upstream(directory, front)
        time.sleep(DRAIN_SECONDS)
