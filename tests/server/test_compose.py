"""Which containers Compose may recreate, and its environment."""

import pytest
from server import commands, compose, state
from server.compose import Project

from tests.server.conftest import OLD, container


@pytest.mark.parametrize(
    ("state", "status", "command"),
    [
        ("running", "Up 2 days (healthy)", None),
        ("running", "Up 2 days", None),
        # A restart of the database or the proxy would fail requests.
        ("running", "Up 2 days (unhealthy)", ["--no-recreate", "--wait", "db"]),
        # It could not start, for example because its port was in use: it needs the corrected settings.
        ("created", "Created", ["--wait", "db"]),
        ("restarting", "Restarting (1)", ["--wait", "db"]),
        ("", "", ["--wait", "db"]),
    ],
)
def test_only_containers_that_do_not_run_may_be_recreated(directory, settings, monkeypatch, state, status, command):
    commands_run = []

    def run(project, *arguments):
        commands_run.append(list(arguments))
        return commands.Result(0, "", "")

    monkeypatch.setattr(compose, "run", run)
    existing = [container("", "", "db", state)._replace(status=status)] if state else []
    compose.start_missing(Project(directory, settings, OLD, "100"), ["db"], existing)
    assert commands_run == ([] if command is None else [["up", "--detach", "--no-deps", *command]])


def test_variables_of_the_caller_do_not_become_settings(directory, settings, monkeypatch):
    """An optional setting without a line in .env would get the value of the caller."""
    for name in ("TZ", "SENTRY_DSN", "COMPOSE_FILE", "API_TOKEN"):
        monkeypatch.setenv(name, "mine")
    for name in ("DOCKER_HOST", state.CHILD_MARK):
        monkeypatch.setenv(name, "kept")
    environment = Project(directory, settings, OLD, "100").environment()
    assert "mine" not in environment.values()
    assert {"PATH", "DOCKER_HOST", state.CHILD_MARK} < environment.keys()
    assert (environment["IMAGE_TAG"], environment["DEPLOY_ID"]) == (OLD, "100")
