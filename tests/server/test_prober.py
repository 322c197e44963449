"""Probes that are sent from a container in the networks of a stack. No engine is needed."""

import json
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
from server import commands, compose, diagnostics, engine, health, prober
from server.attempt import Steps
from server.compose import Project
from server.errors import Refused
from server.health import Target
from server.probe import Response, parse_site

from tests.server.conftest import NEW

TARGET = Target(NEW, "/healthz", parse_site("https://api.example.com"))
GOOD = Response(200, "ok", NEW, True)
CONFIGURATION = {"services": {"api": {"image": "a", "healthcheck": {"test": ["CMD", "true"]}}}}


@pytest.fixture
def responses(monkeypatch):
    """The responses of the next probes; the last one is repeated. `sent` has the arguments of the probes."""
    found, sent = [], []

    def docker(directory, *words, capture=False):
        sent.append(words)
        answers = found.pop(0) if len(found) > 1 else found[0]
        return commands.Result(0, json.dumps(answers), "")

    times = iter(range(1000))
    monkeypatch.setattr(prober.commands, "docker", docker)
    monkeypatch.setattr(prober.time, "monotonic", lambda: next(times))
    monkeypatch.setattr(prober.time, "sleep", lambda seconds: None)
    found.append({"10.0.1.2": GOOD, "10.0.1.3": GOOD})
    found.append({"10.0.1.2": GOOD, "10.0.1.3": GOOD})
    return found, sent


def test_each_address_is_probed_as_a_browser_requests_the_site(responses):
    assert prober.probe("box", "proxy", TARGET) == {"10.0.1.2": "", "10.0.1.3": ""}
    assert responses[1][0][-5:] == ("proxy", "8080", "/healthz", "https://api.example.com", "--all")


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ({"10.0.1.2": GOOD, "10.0.1.3": GOOD._replace(release="another")}, "(10.0.1.3): expected release 2222"),
        ({"10.0.1.2": GOOD, "10.0.1.3": Response(503, "down", NEW, False)}, "(10.0.1.3) returned 503: down"),
        ({"10.0.1.3": Response(0, "timed out")}, "(10.0.1.3) did not respond: timed out"),
        ({}, "proxy has no address: no task of it runs"),
    ],
)
def test_a_proxy_that_does_not_serve_the_release_refuses_it(responses, answers, problem):
    responses[0][:] = [answers]
    with pytest.raises(Refused) as error:
        prober.verify_proxies("box", TARGET)
    assert problem in str(error.value)


def test_the_address_of_a_machine_that_died_may_disappear_in_time(responses):
    responses[0][:] = [{"10.0.1.2": GOOD, "10.0.1.3": Response(0, "timed out")}, {"10.0.1.2": GOOD}]
    prober.verify_proxies("box", TARGET)


@pytest.fixture
def containers(monkeypatch):
    """The state of the API and the front that are started, and what happens, in order."""
    found = {name: {"Running": True, "Health": {"Status": "healthy"}} for name in ("api", "front")}

    @contextmanager
    def one_shot(project, configuration, *words):
        done.append(f"start {' '.join(words)}")
        try:
            yield f"{words[-1]}-with-a-long-id"
        finally:
            done.append(f"remove {words[-1]}")

    def inspect(container):
        service = container.partition("-")[0]
        labels = {"com.docker.compose.service": service}
        networks = {"quai_data": {"IPAddress": ""}, "quai_edge": {"IPAddress": "10.0.1.9"}}
        network = {"NetworkSettings": {"Networks": networks}}
        return {"State": found[service], "RestartCount": 0, "Config": {"Labels": labels}, **network}

    done = found["done"] = []
    monkeypatch.setattr(prober, "_one_shot", one_shot)
    monkeypatch.setattr(engine, "get", lambda path: {"Volumes": []})
    monkeypatch.setattr(engine, "inspect", inspect)
    monkeypatch.setattr(engine, "stop", lambda container: done.append(f"stop {container[:3]}"))
    monkeypatch.setattr(diagnostics, "show", lambda directory, ids: print(f"the logs of {ids}"))
    return found


@pytest.fixture
def project(directory, settings):
    return Project(directory, replace(settings, engine="swarm", health_seconds=5, watch_seconds=5), NEW, "200")


def test_one_api_and_one_front_are_watched_before_users_reach_the_release(project, responses, containers):
    answers, sent = responses
    answers[:] = [{"10.0.1.9": GOOD}, {"10.0.1.9": Response(0, "refused")}, {"10.0.1.9": GOOD}]  # one may fail
    steps = Steps()
    prober.verify_release(project, CONFIGURATION, "box", TARGET, steps)
    started = ["start api", "start --env=API_HOST=api-with-a-l front"]
    assert containers["done"] == [*started, "stop api", "remove front", "remove api"]
    assert len(sent) > 2
    assert {words[-5] for words in sent} == {"10.0.1.9"}
    assert [*steps.seconds, steps.name] == ["wait", "verify"]


@pytest.mark.parametrize("service", ["api", "front"])
def test_a_release_that_exits_is_refused_with_its_logs(project, responses, containers, service, capsys):
    containers[service]["Running"] = False
    with pytest.raises(Refused, match=f"the {service} has exited"):
        prober.verify_release(project, CONFIGURATION, "box", TARGET, Steps())
    assert "the logs of {'api': 'api-with-a-long-id', 'front': 'front-with-a-long-id'}" in capsys.readouterr().out
    assert responses[1] == []


def test_a_release_that_exits_while_it_is_watched_is_refused(project, responses, containers, monkeypatch):
    states = iter([True, False])

    def sleep(seconds):
        containers["api"]["Running"] = next(states)

    monkeypatch.setattr(health.time, "sleep", sleep)
    with pytest.raises(Refused, match="the api has exited"):
        prober.verify_release(project, CONFIGURATION, "box", TARGET, Steps())
    assert len(responses[1]) == 1


@pytest.mark.parametrize("service", ["api", "front"])
def test_a_release_without_a_health_check_is_refused(project, responses, containers, service):
    """Swarm would stop the live tasks as soon as the process of a new one has started."""
    containers[service]["Health"] = None
    with pytest.raises(Refused, match=f"the {service} has no health check"):
        prober.verify_release(project, CONFIGURATION, "box", TARGET, Steps())


def test_a_release_that_does_not_respond_is_refused_with_its_logs(project, responses, containers, capsys):
    responses[0][:] = [{"10.0.1.9": GOOD}, {"10.0.1.9": Response(500, "no", NEW, False)}]
    with pytest.raises(Refused, match=r"/healthz of the front \(10.0.1.9\) returned 500"):
        prober.verify_release(project, CONFIGURATION, "box", TARGET, Steps())
    assert "the logs of" in capsys.readouterr().out
    assert "stop api" not in containers["done"]


def test_a_front_without_an_address_is_refused(project, responses, containers, monkeypatch):
    monkeypatch.setattr(engine, "address", lambda found: "")
    with pytest.raises(Refused, match="the front has no address"):
        prober.verify_release(project, CONFIGURATION, "box", TARGET, Steps())
    assert responses[1] == []


@pytest.fixture
def composed(project, monkeypatch):
    """The commands of Compose and the files that they read, and the containers that are removed."""
    found = SimpleNamespace(commands=[], files=[], removed=[], result=commands.Result(0, "pulling\nab12\n", ""))

    def run(project, *arguments, file, capture):
        found.commands.append(" ".join(arguments))
        found.files.append(json.load(file))
        return found.result

    monkeypatch.setattr(compose, "run", run)
    monkeypatch.setattr(engine, "get", lambda path: {"Volumes": []})
    monkeypatch.setattr(engine, "remove_now", found.removed.append)
    return found


def test_the_container_that_probes_has_no_health_check_and_is_removed(project, composed):
    with prober.start(project, CONFIGURATION) as container:
        assert (container, composed.removed) == ("ab12", [])
    assert composed.removed == ["ab12"]
    assert composed.files[0]["services"]["api"]["healthcheck"] == {"disable": True}
    (command,) = composed.commands
    # Its label is how the next deploy finds it if this one is killed. The stdin of a task is closed, too.
    assert command.startswith("run -T --no-deps --label quai.one-shot=200 --detach --interactive=false ")
    assert command.endswith(f"--entrypoint python3 api -c {prober.SLEEP}")


def test_a_container_is_removed_after_an_error(project, composed):
    with pytest.raises(Refused, match="boom"), prober.start(project, CONFIGURATION):
        raise Refused("boom")
    assert composed.removed == ["ab12"]


def test_a_container_that_cannot_be_started_refuses_the_release(project, composed):
    composed.result = commands.Result(1, "", "no space left\n")
    message = "a container of the release cannot be started: no space left"
    with pytest.raises(Refused, match=message), prober.start(project, CONFIGURATION):
        pass
    assert composed.removed == []
