"""Probes that are sent from a container in the networks of a stack. No engine is needed."""

import json
from contextlib import nullcontext
from dataclasses import replace

import pytest
from server import commands, diagnostics, engine, prober
from server.compose import Project
from server.errors import Refused
from server.health import Target
from server.probe import Response, parse_site

from tests.server.conftest import NEW

TARGET = Target(NEW, "/healthz", parse_site("https://api.example.com"))
GOOD = Response(200, "ok", NEW, True)


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
def front(monkeypatch):
    """The state of the front that is started."""
    found = {"Running": True}
    networks = {"quai_edge": {"IPAddress": "10.0.1.9"}}
    monkeypatch.setattr(prober, "_one_shot", lambda project, *words: nullcontext("front"))
    monkeypatch.setattr(engine, "inspect", lambda one: {"State": found, "NetworkSettings": {"Networks": networks}})
    monkeypatch.setattr(diagnostics, "show", lambda directory, containers: print(f"the log of {containers[0].name}"))
    return found


@pytest.fixture
def project(directory, settings):
    return Project(directory, replace(settings, engine="swarm", health_seconds=5), NEW, "200")


def test_a_front_is_verified_when_it_is_ready(project, responses, front):
    responses[0][:] = [{"10.0.1.9": Response(0, "refused")}, {"10.0.1.9": GOOD}]
    prober.verify_front(project, "box", TARGET)
    assert responses[1][-1][-5] == "10.0.1.9"


@pytest.mark.parametrize(("running", "problem"), [(True, "returned 500"), (False, "the front has exited")])
def test_a_faulty_front_is_refused_with_its_log(project, responses, front, running, problem, capsys):
    front["Running"] = running
    responses[0][:] = [{"10.0.1.9": Response(500, "no", NEW, False)}]
    with pytest.raises(Refused, match=problem):
        prober.verify_front(project, "box", TARGET)
    assert "the log of front" in capsys.readouterr().out
