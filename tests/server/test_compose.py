"""Which containers Compose may recreate, and its environment."""

import copy
import json
from dataclasses import replace

import pytest
from server import commands, compose, engine, state
from server.compose import Project
from server.errors import Refused

from tests.server.conftest import NEW, OLD, container


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


def test_a_swarm_adds_its_compose_file(directory, settings):
    assert Project(directory, settings, OLD, "100").files == ("docker-compose.prod.yml",)
    swarm = replace(settings, engine="swarm")
    assert Project(directory, swarm, OLD, "100").files == ("docker-compose.prod.yml", "docker-compose.swarm.yml")


def test_a_release_without_the_file_of_a_swarm_is_refused(directory, settings):
    (directory / "releases" / OLD / "docker-compose.prod.yml").write_text("")
    project = Project(directory, replace(settings, engine="swarm"), OLD, "100")
    message = r"no docker-compose.swarm.yml, so it cannot run with ENGINE=swarm in .env"
    with pytest.raises(Refused, match=message):
        compose.configuration(project)


def test_one_shots_of_a_swarm_use_its_networks_and_volumes(monkeypatch):
    networks = {"data": {"name": "quai_data", "driver": "overlay", "internal": True}}
    volumes = {"media": {"name": "quai_media"}, "dumps": {"name": "quai_dumps"}}
    services = {"api": {"image": "a", "hostname": "api", "healthcheck": {"test": ["CMD", "true"]}}}
    configuration = {"services": services, "networks": networks, "volumes": volumes}
    before = copy.deepcopy(configuration)
    monkeypatch.setattr(engine, "get", lambda path: {"Volumes": [{"Name": "quai_media"}]})
    found = compose.for_one_shots(configuration)
    assert found["networks"] == {"data": {"external": True, "name": "quai_data"}}
    # One that only a one-shot uses is not in the stack: Compose creates it.
    assert found["volumes"] == {"media": {"external": True, "name": "quai_media"}, "dumps": {"name": "quai_dumps"}}
    # Requests of users would reach a container with the host name api.
    assert found["services"] == {"api": {"image": "a", "healthcheck": {"test": ["CMD", "true"]}}}
    unchecked = compose.for_one_shots(configuration, is_checked=False)
    assert unchecked["services"] == {"api": {"image": "a", "healthcheck": {"disable": True}}}
    assert configuration == before


@pytest.mark.parametrize(("name", "file"), [("compose", None), ("swarm", {"services": {}})])
def test_a_one_shot_of_a_swarm_has_a_file_of_its_own(directory, settings, monkeypatch, name, file):
    files = []

    def run(project, *arguments, file, **_):
        files.append(file and json.load(file))
        assert not list(directory.glob("**/*json*"))  # it contains secrets
        return commands.Result(0, "", "")

    monkeypatch.setattr(compose, "configuration", lambda _: {"services": {}})
    monkeypatch.setattr(engine, "get", lambda path: {"Volumes": None})
    monkeypatch.setattr(compose, "run", run)
    compose.run_one_shot(Project(directory, replace(settings, engine=name), OLD, "100"), "check")
    assert files == [file]


@pytest.fixture
def releases(directory, settings, monkeypatch):
    """The live release and a new one, and the networks that each compose file has."""
    found = {OLD: {"data": {"internal": True}}, NEW: {"data": {"internal": True}}}
    for tag in found:
        folder = directory / "releases" / tag
        folder.mkdir(exist_ok=True)
        (folder / "docker-compose.prod.yml").write_text("services: {}")
        (folder / "docker-compose.swarm.yml").write_text(tag)
    monkeypatch.setattr(compose, "configuration", lambda project: {"networks": found[project.tag]})
    return found


@pytest.mark.parametrize(
    ("name", "command"), [("compose", "docker compose down --remove-orphans"), ("swarm", "docker stack rm quai")]
)
def test_a_changed_network_is_refused(directory, settings, releases, name, command):
    project = Project(directory, replace(settings, engine=name, project="quai"), NEW, "200")
    (project.release / "docker-compose.prod.yml").write_text("services: {api: {}}")
    compose.require_same_networks(project, {"networks": releases[NEW] | {"new": {}}}, OLD)
    with pytest.raises(Refused, match=rf"changes networks \(data\).*'{command}'"):
        compose.require_same_networks(project, {"networks": {"data": {}}}, OLD)


def test_a_network_that_only_the_file_of_a_swarm_changes_is_refused(directory, settings, releases):
    changed = {"networks": {"data": {}}}
    compose.require_same_networks(Project(directory, settings, NEW, "200"), changed, OLD)
    swarm = replace(settings, engine="swarm")
    with pytest.raises(Refused, match=r"changes networks \(data\)"):
        compose.require_same_networks(Project(directory, swarm, NEW, "200"), changed, OLD)


def test_networks_are_not_compared_without_the_files_of_the_live_release(directory, settings, releases):
    (directory / "releases" / OLD / "docker-compose.swarm.yml").unlink()
    swarm = replace(settings, engine="swarm")
    compose.require_same_networks(Project(directory, swarm, NEW, "200"), {"networks": {"data": {}}}, OLD)
