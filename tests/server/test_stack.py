"""How services are given to Docker Swarm, and when their update has completed. No engine is needed."""

import json
from dataclasses import replace

import pytest
from server import commands, engine, stack
from server.compose import Project
from server.errors import Refused

from tests.server.conftest import NEW, OLD

LABELS = {"quai.deploy": "200", "quai.tag": NEW}


@pytest.fixture
def project(directory, settings):
    return Project(directory, replace(settings, engine="swarm", health_seconds=1), NEW, "200")


@pytest.fixture(autouse=True)
def no_images(monkeypatch):
    monkeypatch.setattr(engine, "image", lambda name: None)


def test_what_a_stack_does_not_accept_is_converted(directory):
    service = {
        "image": "quai:1",
        "command": None,
        "depends_on": {"db": {}},
        "restart": "unless-stopped",
        "security_opt": ["no-new-privileges:true"],
        "tmpfs": ["/tmp", "/logs:uid=10001"],  # noqa: S108
        "read_only": True,
        "ports": [{"target": 80, "published": "8080", "protocol": "tcp", "mode": "ingress"}],
        "volumes": [
            {"type": "bind", "source": f"{directory}/releases", "target": "/live", "bind": {"create_host_path": True}},
            {"type": "bind", "source": "/srv/media", "target": "/media", "bind": {"create_host_path": True}},
        ],
    }
    found = stack.convert("proxy", service, directory)
    assert {"command", "depends_on", "restart", "security_opt", "tmpfs"}.isdisjoint(found)
    assert found["read_only"]
    assert found["ports"] == [{"target": 80, "published": 8080, "protocol": "tcp", "mode": "host"}]
    assert found["volumes"] == [
        {"type": "bind", "source": "/srv/media", "target": "/media"},
        {"type": "tmpfs", "target": "/tmp", "tmpfs": {"mode": 0o1777}},  # noqa: S108
        {"type": "tmpfs", "target": "/logs", "tmpfs": {"mode": 0o1777}},
    ]
    assert found["deploy"]["endpoint_mode"] == "dnsrr"
    assert "update_config" not in found["deploy"]  # not a service of the release


@pytest.mark.parametrize(("replicas", "parallelism"), [(1, 1), (3, 1), (4, 2), (12, 4)])
def test_a_third_of_a_release_is_replaced_at_a_time_and_rolled_back(directory, replicas, parallelism):
    service = {"image": "quai:1", "labels": LABELS, "deploy": {"replicas": replicas}}
    deploy = stack.convert("api", service, directory)["deploy"]
    expected = {"order": "start-first", "failure_action": "rollback", "monitor": "5s", "parallelism": parallelism}
    assert deploy["update_config"] == expected
    assert deploy["rollback_config"] == {"order": "start-first", "parallelism": parallelism}


def test_the_compose_file_takes_precedence(directory):
    service = {"image": "quai:1", "labels": LABELS, "deploy": {"update_config": {"parallelism": 7}}}
    assert stack.convert("api", service, directory)["deploy"]["update_config"] == {"parallelism": 7}


def test_a_singleton_stops_first_and_stays_on_the_main_machine(directory):
    """On another machine, a new one could start while the previous one still runs on a machine that is cut off."""
    labels = LABELS | {"quai.single": "true"}
    placement = {"constraints": ["node.labels.disk == ssd"]}
    unsafe = {"update_config": {"order": "start-first"}, "placement": placement}
    deploy = stack.convert("scheduler", {"image": "quai:1", "labels": labels, "deploy": unsafe}, directory)["deploy"]
    assert deploy["update_config"]["order"] == deploy["rollback_config"]["order"] == "stop-first"
    assert deploy["placement"]["constraints"] == ["node.labels.disk == ssd", "node.labels.quai.main == true"]


@pytest.mark.parametrize(
    ("name", "digests", "expected"),
    [
        ("localhost:5000/quai:1", ["localhost:5000/quai@sha256:a"], "localhost:5000/quai:1@sha256:a"),
        ("localhost:5000/quai:1", ["mirror/quai@sha256:a"], "localhost:5000/quai:1"),
        ("localhost:5000/quai", ["localhost:5000/quai@sha256:a"], "localhost:5000/quai@sha256:a"),
        ("caddy:2@sha256:b", ["caddy@sha256:b"], "caddy:2@sha256:b"),
        ("local:1", [], "local:1"),
    ],
)
def test_all_nodes_run_the_digest_that_this_node_pulled(monkeypatch, name, digests, expected):
    monkeypatch.setattr(engine, "image", lambda image: {"RepoDigests": digests})
    assert stack.pinned(name) == expected


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


class Swarm:
    """A Swarm as the engine describes it: one service `api`, its tasks, and one node."""

    def __init__(self):
        self.labels, self.update, self.desired, self.nodes, self.tasks = LABELS, "completed", 2, "ready", []
        self.task("running"), self.task("running")

    def task(self, state, deploy_id="200", error="", code=0):
        self.tasks.insert(0, {
            "ID": f"t{len(self.tasks)}", "ServiceID": "s1", "NodeID": "n1", "CreatedAt": f"2026-{len(self.tasks):02}",
            "DesiredState": "running", "Spec": {"ContainerSpec": {"Labels": {"quai.deploy": deploy_id}}},
            "Status": {"State": state, "Err": error, "ContainerStatus": {"ExitCode": code}},
        })  # fmt: skip

    def get(self, path, query=None):
        if path == "/nodes":
            return [{"ID": "n1", "Description": {"Hostname": "node1"}, "Status": {"State": self.nodes}}]
        if path == "/tasks":
            return list(self.tasks)
        spec = {"Name": "quai_api", "TaskTemplate": {"ContainerSpec": {"Labels": self.labels}}}
        service = {"ID": "s1", "Spec": spec, "ServiceStatus": {"DesiredTasks": self.desired}}
        return [service | ({"UpdateStatus": {"State": self.update}} if self.update else {})]


@pytest.fixture
def swarm(monkeypatch):
    found = Swarm()
    monkeypatch.setattr(engine, "get", found.get)
    return found


@pytest.mark.parametrize("update", ["completed", "rollback_completed", ""])
def test_an_update_has_completed_when_all_its_tasks_run(project, swarm, update):
    swarm.update = update
    stack.wait_until_updated(project, ["api"])


@pytest.mark.parametrize(
    ("update", "deploy_id", "message"),
    [
        # `docker stack deploy` exits with 0 in all these cases.
        ("rollback_started", "100", r"Swarm has rolled back the api: api on node1: no such file \(exit code 3\)"),
        ("rollback_completed", "100", "Swarm has rolled back the api: api on node1"),
        ("paused", "200", "Swarm has stopped the update of the api: api on node1"),
        ("rollback_paused", "200", "Swarm has stopped the update of the api"),
        ("", "200", "the api has failed: api on node1"),
    ],
)
def test_a_refused_update_is_reported_with_its_task(project, swarm, update, deploy_id, message):
    swarm.update, swarm.labels = update, LABELS | {"quai.deploy": deploy_id}
    swarm.task("failed", error="no such file", code=3)
    with pytest.raises(Refused, match=message):
        stack.wait_until_updated(project, ["api"])


def test_an_old_failure_does_not_matter_to_a_release_that_runs(project, swarm):
    swarm.update = ""
    swarm.task("failed", error="a reboot")
    stack.wait_until_updated(project, ["api"], is_new=False)


@pytest.mark.parametrize("update", ["updating", "completed", ""])
def test_an_update_that_makes_no_progress_is_refused(project, swarm, update, monkeypatch):
    swarm.update = update
    swarm.tasks.pop()
    swarm.task("starting")
    times = iter(range(100))
    monkeypatch.setattr(stack.time, "monotonic", lambda: next(times) / 4)
    monkeypatch.setattr(stack.time, "sleep", lambda seconds: None)
    with pytest.raises(Refused, match=r"the api was not healthy within 1 s \(HEALTH_SECONDS in .env\)"):
        stack.wait_until_updated(project, ["api"])


def test_a_node_that_dies_extends_the_time_limit(project, swarm, monkeypatch):
    swarm.desired = 3
    times = []

    def sleep(seconds):
        times.append(len(times))
        if len(times) == 3:
            swarm.nodes = "down"
        if len(times) == 6:
            swarm.task("running")

    monkeypatch.setattr(stack.time, "monotonic", lambda: len(times) / 4)
    monkeypatch.setattr(stack.time, "sleep", sleep)
    stack.wait_until_updated(project, ["api"])
    assert len(times) == 6  # more than HEALTH_SECONDS


def test_tasks_of_another_release_do_not_count(project, swarm):
    assert stack._count_missing(project, ["api"], True) == {}
    for task in swarm.tasks:
        task["Spec"]["ContainerSpec"]["Labels"] = {"quai.deploy": "100", "quai.tag": OLD}
    assert stack._count_missing(project, ["api"], True) == {"api": 2}
