"""What is applied to Docker Swarm. No engine is needed."""

import json
from contextlib import nullcontext
from dataclasses import replace

import pytest
from server import commands, engine, stack
from server.compose import Project
from server.errors import Refused

from tests.server.conftest import NEW


@pytest.fixture
def project(directory, settings):
    return Project(directory, replace(settings, engine="swarm", health_seconds=1), NEW, "200")


@pytest.fixture(autouse=True)
def no_images(monkeypatch):
    monkeypatch.setattr(engine, "image", lambda name: None)


def test_services_are_applied_without_the_others(project, monkeypatch):
    given = []

    def run(command, directory, **options):
        given.append((command, json.load(options["input"])))
        return commands.Result(0, "", "")

    monkeypatch.setattr(stack.commands, "run", run)
    configuration = {"name": "quai", "services": {name: {"image": name} for name in ("api", "front")}, "networks": {}}
    stack.apply(project, configuration, ["api"])
    [(command, content)] = given
    assert command[:4] == ["docker", "stack", "deploy", "--with-registry-auth"]
    assert command[-1] == "quai"
    assert content["services"].keys() == {"api"}
    assert "name" not in content


def test_a_change_by_swarm_in_the_meantime_is_repeated(project, monkeypatch):
    results = [commands.Result(1, "", "update out of sequence"), commands.Result(0, "", "")]
    monkeypatch.setattr(stack.commands, "run", lambda *_, **__: results.pop(0))
    stack.apply(project, {"services": {"api": {"image": "api"}}}, ["api"])
    assert not results


def test_an_error_of_swarm_is_not_repeated(project, monkeypatch):
    results = [commands.Result(1, "", "no such network"), commands.Result(0, "", "")]
    monkeypatch.setattr(stack.commands, "run", lambda *_, **__: results.pop(0))
    with pytest.raises(Refused, match="Swarm does not accept api: no such network"):
        stack.apply(project, {"services": {"api": {"image": "api"}}}, ["api"])


def test_networks_that_no_service_of_the_stack_uses_yet_are_created(project, monkeypatch):
    """A one-shot may be the first to use them, for example with a database outside of the stack."""
    applied, networks = [], {"edge": {"name": "quai_edge"}, "data": {"name": "quai_data"}}
    networks["shared"] = {"name": "shared", "external": True}
    monkeypatch.setattr(engine, "get", lambda path, query=None: [{"Name": "quai_edge"}] if path == "/networks" else [])
    monkeypatch.setattr(stack, "apply", lambda _, configuration, names: applied.append(configuration["services"]))
    stack.create_networks(project, {"services": {}, "networks": networks}, "quai:1")
    [[service]] = [list(services.values()) for services in applied]
    assert service["networks"] == ["data"]
    assert service["deploy"]["replicas"] == 0


def test_ignored_options_are_shown(project, monkeypatch, capsys):
    warning = "Since --detach=false was not specified, ...\nIgnoring unsupported options: shm_size\n"
    monkeypatch.setattr(stack.commands, "run", lambda *_, **__: commands.Result(0, "", warning))
    stack.apply(project, {"services": {"db": {"image": "postgres"}}}, ["db"])
    assert capsys.readouterr().out == "==> db: Ignoring unsupported options: shm_size\n"


@pytest.mark.parametrize(
    ("deployed", "configured", "is_refused"),
    [
        ({"Global": {}}, {"deploy": {"mode": "global"}}, False),
        ({"Global": {}}, {}, True),
        ({"Global": {}}, {"deploy": {"mode": "global"}, "labels": {"quai.single": "true"}}, True),
        ({"Replicated": {"Replicas": 1}}, {"deploy": {"mode": "global"}}, True),
        ({"Replicated": {"Replicas": 1}}, {"deploy": {"replicas": 2}}, False),
    ],
)
def test_another_mode_is_refused(project, deployed, configured, is_refused):
    """Swarm refuses it, but only when the service has been stopped."""
    found = {"api": {"Spec": {"Mode": deployed}}}
    with pytest.raises(Refused, match="docker service rm quai_api") if is_refused else nullcontext():
        stack.require_same_modes(project, {"api": configured, "new": {}}, found)


def test_services_are_applied_one_at_a_time(project, monkeypatch):
    """A repeated update would make Swarm forget what the other service was before."""
    given = []

    def run(command, directory, **options):
        given.append(list(json.load(options["input"])["services"]))
        return commands.Result(len(given) == 2, "", "update out of sequence" * (len(given) == 2))

    monkeypatch.setattr(stack.commands, "run", run)
    stack.apply(project, {"services": {"one": {"image": "a"}, "two": {"image": "a"}}}, ["one", "two"])
    assert given == [["one"], ["two"], ["two"]]
