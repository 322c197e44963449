"""Applies changed settings of the services that a deploy does not replace: proxy, database and others."""

from pathlib import Path

from server import compose, engine, history, orchestrator, roles, state
from server.compose import Project
from server.errors import Interrupted, Refused, UsageError


def apply(directory: Path) -> int:
    """Recreate what has changed, holding the deploy lock, and return the exit code.

    It may interrupt requests for as long as the proxy or the database takes to start.
    """
    try:
        with state.lock(directory, "services"):
            current = history.read_settings(directory)
            state.end_orphans(directory)
            chosen = orchestrator.choose(current)
            live = chosen.clean_up(directory, current)
            if not live.containers:
                raise Refused("no release is live: deploy one, which also starts these services")
            project = Project(directory, current, live.tag, live.deploy_id)
            names = roles.other_services(compose.configuration(project)["services"])
            state.say(f"applying the settings of {', '.join(names)}")
            chosen.apply_services(project, names)
    except (Refused, UsageError, Interrupted, engine.EngineError, OSError) as error:
        state.say(f"failed: {error}")
        return 1
    state.say("done")
    return 0
