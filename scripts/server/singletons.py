"""Singletons in Docker Swarm: at most one task of each runs, on the main machine. They are replaced last."""

from collections.abc import Mapping
from typing import Any

from server import engine, roles, stack, updates
from server.compose import Project
from server.errors import Refused


def is_singleton(name: str, services: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Return whether a service of the compose file is a singleton, or the deployed one is: its tasks must end first."""
    is_deployed = name in found and stack.is_singleton(found[name])
    return is_deployed or roles.is_singleton(roles.labels(services[name]))


def replace(project: Project, configuration: Mapping[str, Any]) -> str:
    """Stop the singletons of other releases, then start those of this one. Return a problem; empty without one.

    The end is not left to Swarm, which waits for a previous task at most one minute.
    """
    services, found = configuration["services"], stack.services(project.settings)
    names = roles.release_services(services, project.settings.release_image(project.tag))
    new = [name for name in names if is_singleton(name, services, found)]
    new = [name for name in new if not stack.is_applied(found.get(name), name, services[name], names[name])]
    former = [name for name in found if name not in names and stack.deploy_id(found[name])]
    former = [name for name in former if stack.is_singleton(found[name])]
    previous = [name for name in found if name in (*new, *former)]
    try:
        if previous:
            updates.stop(project, previous)
        stack.remove(project.settings, former)
        if new:
            stack.apply(project, configuration, new)
            updates.wait_until_updated(project, new)
    except (Refused, engine.EngineError) as error:
        return str(error)
    return ""
