"""Which services a deploy replaces, and what each is."""

import pytest
from server import deploy, engine, roles, rollout
from server.attempt import Attempt, Steps
from server.compose import Project
from server.errors import Refused
from server.repair import Live

from tests.server.conftest import NEW, OLD, container

IMAGE = f"registry/shop:{NEW}"
RELEASE = {"quai.deploy": "200", "quai.tag": NEW}
SERVICES = {
    "proxy": {"image": "caddy"},
    "api": {"image": IMAGE, "labels": RELEASE, "deploy": {"replicas": 2}},
    "front": {"image": "caddy", "labels": RELEASE},
    "worker": {"image": IMAGE, "labels": RELEASE, "scale": 3},
    "scheduler": {"image": IMAGE, "labels": RELEASE | {"quai.single": "true"}},
    "migrate": {"image": IMAGE, "deploy": {"replicas": 0}},
    "shell": {"image": IMAGE, "deploy": {"replicas": 0}},
    "db": {"image": "postgres"},
}


def test_services_of_a_release_and_their_roles():
    found = roles.release_services(SERVICES, IMAGE)
    assert found == {"api": 2, "front": 1, "worker": 3, "scheduler": 1}
    assert roles.workers(SERVICES, found) == ["worker"]
    assert roles.other_services(SERVICES) == ["proxy", "db"]


def test_service_that_no_deploy_would_replace_is_refused():
    """It would keep running the code of the release with which it was started."""
    with pytest.raises(Refused, match=r"the service mailer uses the release's image: add the labels quai\.deploy"):
        roles.release_services(SERVICES | {"mailer": {"image": IMAGE}}, IMAGE)


def test_release_without_api_is_refused():
    with pytest.raises(Refused, match=r"no service api with the label quai\.deploy"):
        roles.release_services({name: SERVICES[name] for name in ("proxy", "front")}, IMAGE)


@pytest.fixture
def attempt(directory, settings):
    return Attempt(Project(directory, settings, NEW, "200"), "a person", Live("100", OLD, ()), Steps())


@pytest.fixture
def calls(monkeypatch):
    """An engine that records what is started, stopped and renamed, in order."""
    single = {"quai.single": "true"}
    containers = [
        container(deploy_id, tag, service, state)._replace(labels=single if service == "scheduler" else {})
        for deploy_id, tag, state in (("100", OLD, "running"), ("200", NEW, "created"))
        for service in ("api", "front", "worker", "scheduler")
    ]
    calls = []
    monkeypatch.setattr(engine, "containers", lambda project, label: containers)
    monkeypatch.setattr(engine, "start", lambda one: calls.append(f"start {one}"))
    monkeypatch.setattr(engine, "remove", lambda ids: calls.extend(f"stop {one}" for one in ids))
    monkeypatch.setattr(engine, "rename", lambda one, name: calls.append(f"{one} becomes {name}"))
    return calls


def test_worker_starts_after_the_api_and_the_scheduler_later(attempt, calls, monkeypatch):
    monkeypatch.setattr(rollout.health, "wait_until_healthy", lambda ids, _: calls.append(f"wait for {ids}"))
    plan = rollout.Plan(SERVICES, roles.release_services(SERVICES, IMAGE), "live", False)
    assert rollout._start_workers(attempt, plan) == ["quai-worker-200"]
    assert calls == ["start quai-worker-200", "wait for ['quai-worker-200']"]


def test_scheduler_is_replaced_stop_first_when_the_release_is_live(attempt, calls, monkeypatch):
    for module, name in ((deploy.release, "prune"), (deploy.history, "notify"), (deploy, "_record")):
        monkeypatch.setattr(module, name, lambda *_: None)
    deploy._finish(attempt, "live")
    assert calls[:2] == ["stop quai-scheduler-100", "start quai-scheduler-200"]
    assert set(calls[2:6]) >= {"stop quai-api-100", "stop quai-front-100", "stop quai-worker-100"}
    assert "quai-worker-200 becomes quai-worker-1" in calls
