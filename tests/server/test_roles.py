"""Which services a deploy replaces, and what each is."""

import pytest
from server import deploy, engine, roles, rollout, state
from server.attempt import Attempt, Live, Steps
from server.compose import Project
from server.errors import Refused

from tests.server.conftest import NEW, OLD, container

IMAGE = f"registry/shop:{NEW}"
RELEASE = {"quai.deploy": "200", "quai.tag": NEW}
SERVICES = {
    "proxy": {"image": "caddy"},
    "api": {"image": IMAGE, "labels": RELEASE | {"quai.health-path": ""}, "deploy": {"replicas": 2}},
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
    assert roles.other_services(SERVICES) == ["proxy", "db"]


def test_service_that_no_deploy_would_replace_is_refused():
    """It would keep running the code of the release with which it was started."""
    with pytest.raises(Refused, match=r"the service mailer uses the release's image: add the labels quai\.deploy"):
        roles.release_services(SERVICES | {"mailer": {"image": IMAGE}}, IMAGE)


def test_release_of_version_1_may_have_a_worker_without_labels():
    """It cannot be changed, and a rollback to it must be possible."""
    services = SERVICES | {"mailer": {"image": IMAGE}, "api": {"image": IMAGE, "labels": RELEASE}}
    assert "mailer" not in roles.release_services(services, IMAGE)
    assert "mailer" in roles.other_services(services)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"quai.deploy": "200"}, r"add the labels quai\.deploy and quai\.tag"),
        (RELEASE | {"quai.single": "yes"}, 'must be "true" or "false"'),
    ],
)
def test_invalid_labels_are_refused(labels, message):
    with pytest.raises(Refused, match=message):
        roles.release_services(SERVICES | {"worker": {"image": IMAGE, "labels": labels}}, IMAGE)


def test_single_worker_with_replicas_is_refused():
    services = SERVICES | {"scheduler": SERVICES["scheduler"] | {"scale": 2}}
    with pytest.raises(Refused, match=r"scheduler has the label quai\.single: it cannot have 2 replicas"):
        roles.release_services(services, IMAGE)


def test_release_without_api_is_refused():
    with pytest.raises(Refused, match=r"no service api with the label quai\.deploy"):
        roles.release_services({name: SERVICES[name] for name in ("proxy", "front")}, IMAGE)


@pytest.fixture
def calls(monkeypatch, request):
    """An engine that records what is started, stopped and renamed, in order.

    The parameter is the ids of the deploys whose scheduler has the label of singletons.
    """
    containers = [
        container(
            deploy_id, tag, service, "created" if (deploy_id, service) == ("200", "scheduler") else "running"
        )._replace(labels={"quai.single": "true"} if service == "scheduler" and deploy_id in request.param else {})
        for deploy_id, tag in (("100", OLD), ("200", NEW))
        for service in ("api", "front", "worker", "scheduler")
    ]
    calls = []
    monkeypatch.setattr(engine, "containers", lambda project, *labels: containers)
    monkeypatch.setattr(engine, "start", lambda one: calls.append(f"start {one}"))
    monkeypatch.setattr(engine, "remove", lambda ids: calls.extend(f"stop {one}" for one in ids))
    monkeypatch.setattr(engine, "rename", lambda one, name: calls.append(f"{one} becomes {name}"))
    return calls


@pytest.fixture
def attempt(directory, settings, calls):
    live = [one for one in engine.containers("", "") if one.deploy_id == "100"]
    return Attempt(Project(directory, settings, NEW, "200"), "a person", Live("100", OLD, tuple(live)), Steps())


# A release may add or remove the label.
LABELLED = pytest.mark.parametrize("calls", [("100", "200"), ("100",), ("200",)], indirect=True)


@LABELLED
def test_worker_starts_after_the_api_and_the_scheduler_later(attempt, calls, monkeypatch):
    monkeypatch.setattr(rollout.health, "wait_until_healthy", lambda ids, _: calls.append(f"wait for {ids}"))
    assert rollout._start_workers(attempt) == ["quai-worker-200"]
    assert calls == ["start quai-worker-200", "wait for ['quai-worker-200']"]


@LABELLED
def test_scheduler_is_replaced_stop_first_when_the_release_is_live(attempt, calls, monkeypatch):
    for module, name in ((deploy.release, "prune"), (deploy.history, "notify"), (deploy, "_record")):
        monkeypatch.setattr(module, name, lambda *_: None)
    deploy._finish(attempt, "live")
    assert calls[:2] == ["stop quai-scheduler-100", "start quai-scheduler-200"]
    assert {"stop quai-api-100", "stop quai-front-100", "stop quai-worker-100"} < set(calls[2:])
    assert "quai-worker-200 becomes quai-worker-1" in calls


@pytest.mark.parametrize("calls", [("100", "200")], indirect=True)
def test_scheduler_that_cannot_start_does_not_keep_the_previous_release(attempt, calls, monkeypatch):
    def fail(one):
        raise engine.EngineError("no such file")

    notified = []
    monkeypatch.setattr(engine, "start", fail)
    monkeypatch.setattr(deploy.history, "notify", lambda *_: notified.append(True))
    with pytest.raises(Refused, match="quai-scheduler-200 cannot be started: no such file"):
        deploy._finish(attempt, "live")
    assert notified
    assert state.upstream(attempt.directory) == "front"
    assert {"stop quai-scheduler-100", "stop quai-api-100", "stop quai-worker-100"} <= set(calls)


@pytest.mark.parametrize("calls", [("100", "200")], indirect=True)
def test_worker_from_before_it_was_part_of_the_release_is_removed(attempt, calls, monkeypatch):
    """It has no deploy id. Another service without one stays."""
    for module, name in ((deploy.release, "prune"), (deploy.history, "notify"), (deploy, "_record")):
        monkeypatch.setattr(module, name, lambda *_: None)
    engine.containers("", "").extend([container("", "", "worker"), container("", "", "db")])
    deploy._finish(attempt, "live")
    assert "stop quai-worker-" in calls
    assert "stop quai-db-" not in calls
