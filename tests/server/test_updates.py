"""When the update of a service in Docker Swarm has completed, and how it is stopped. No engine is needed."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
from server import commands, engine, stack, stackfile, updates
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


class Swarm:
    """A Swarm as the engine describes it: one service `api`, its tasks, and one node."""

    def __init__(self):
        self.labels, self.update, self.desired, self.nodes, self.tasks = LABELS, "completed", 2, "ready", []
        self.mode, self.containers, self.monitor = {"Replicated": {"Replicas": 2}}, [], 0
        self.task("running"), self.task("running")

    def task(self, state, deploy_id="200", error="", code=0):
        labels = {"quai.deploy": deploy_id, "quai.hash": deploy_id}
        self.tasks.insert(0, {
            "ID": f"t{len(self.tasks)}", "ServiceID": "s1", "NodeID": "n1", "CreatedAt": f"2026-{len(self.tasks):02}",
            "DesiredState": "running", "Spec": {"ContainerSpec": {"Labels": labels}},
            "Status": {"State": state, "Err": error, "ContainerStatus": {"ExitCode": code}},
        })  # fmt: skip

    def get(self, path, query=None):
        if path == "/nodes":
            return [{"ID": "n1", "Description": {"Hostname": "node1"}, "Status": {"State": self.nodes}}]
        if path == "/containers/json":
            return [{"Id": one, "Labels": {"com.docker.swarm.service.name": "quai_api"}} for one in self.containers]
        if path == "/tasks":
            return list(self.tasks)
        labels = {"quai.hash": self.labels["quai.deploy"], **self.labels}
        spec = {"Name": "quai_api", "TaskTemplate": {"ContainerSpec": {"Labels": labels}}, "Mode": self.mode}
        spec |= {"UpdateConfig": {"Monitor": self.monitor * 10**9, "Delay": 10**9}} if self.monitor else {}
        service = {
            "ID": "s1",
            "Spec": spec,
            "ServiceStatus": {"DesiredTasks": self.desired, "RunningTasks": len(self.tasks)},
        }
        return [service | ({"UpdateStatus": {"State": self.update}} if self.update else {})]


@pytest.fixture
def swarm(monkeypatch):
    found = Swarm()
    monkeypatch.setattr(engine, "get", found.get)
    return found


@pytest.fixture
def polls(monkeypatch):
    """Replaces the time: each sleep takes a quarter of a second and calls `on_poll` with the number of sleeps."""

    class Polls:
        count, on_poll = 0, staticmethod(lambda count: None)

        def sleep(self, seconds):
            self.count += 1
            self.on_poll(self.count)

    found = Polls()
    monkeypatch.setattr(updates.time, "monotonic", lambda: found.count / 4)
    monkeypatch.setattr(updates.time, "sleep", found.sleep)
    return found


@pytest.mark.parametrize("update", ["completed", "rollback_completed", ""])
def test_an_update_has_completed_when_all_its_tasks_run(project, swarm, update):
    swarm.update = update
    updates.wait_until_updated(project, ["api"])


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
        updates.wait_until_updated(project, ["api"])


def test_a_task_that_ends_without_an_error_has_failed(project, swarm):
    """Swarm starts it again and again."""
    swarm.update = ""
    swarm.task("complete")
    with pytest.raises(Refused, match="the api has failed: api on node1: complete"):
        updates.wait_until_updated(project, ["api"])


def test_a_singleton_is_started_anew_so_each_failure_counts(project, swarm):
    swarm.task("failed", error="boom")
    updates.wait_until_updated(project, ["api"])
    swarm.labels = swarm.labels | {"quai.single": "true"}
    with pytest.raises(Refused, match="the api has failed: api on node1: boom"):
        updates.wait_until_updated(project, ["api"])


def test_changed_settings_of_another_service_are_awaited(project, swarm):
    """Swarm writes the state of an update some time after it accepted the service."""
    swarm.labels = {"quai.deploy": "", "quai.hash": "new"}
    for task in swarm.tasks:
        task["Spec"]["ContainerSpec"]["Labels"] = {"quai.hash": "old"}
    assert updates._count_steps(project, ["api"], False) == {"api": 4}


def test_an_old_failure_does_not_matter_to_a_release_that_runs(project, swarm):
    swarm.update = ""
    swarm.task("failed", error="a reboot")
    updates.wait_until_updated(project, ["api"], is_new=False)


@pytest.mark.parametrize("update", ["updating", "completed", ""])
def test_an_update_that_makes_no_progress_is_refused(project, swarm, update, monkeypatch):
    swarm.update = update
    swarm.tasks.pop()
    swarm.task("pending", error="no suitable node")
    times = iter(range(100))
    monkeypatch.setattr(updates.time, "monotonic", lambda: next(times) / 4)
    monkeypatch.setattr(updates.time, "sleep", lambda seconds: None)
    with pytest.raises(
        Refused, match=r"not healthy within 1 s \(HEALTH_SECONDS in .env\): api on node1: no suitable node"
    ):
        updates.wait_until_updated(project, ["api"])


def test_a_node_that_dies_extends_the_time_limit(project, swarm, polls):
    swarm.desired = 3

    def on_poll(count):
        if count == 3:
            swarm.nodes = "down"
        if count == 6:
            swarm.task("running")

    polls.on_poll = on_poll
    updates.wait_until_updated(project, ["api"])
    assert polls.count == 6  # more than HEALTH_SECONDS


def test_a_task_that_starts_late_has_the_whole_time_to_become_healthy(project, swarm, polls):
    """A node that joins a network may wait for 30 s before it creates the container."""
    status = swarm.tasks[0]["Status"]
    status["State"] = "preparing"
    polls.on_poll = lambda count: status.update(State={3: "starting", 6: "running"}.get(count, status["State"]))
    updates.wait_until_updated(project, ["api"])
    assert polls.count == 6  # more than HEALTH_SECONDS


def test_a_task_that_starts_again_and_again_is_refused(project, swarm, polls):
    """Only the first start of its container extends the time limit."""
    status = swarm.tasks[0]["Status"]
    status["State"] = "preparing"
    polls.on_poll = lambda count: status.update(State="starting" if count % 2 else "preparing")
    with pytest.raises(Refused, match="not healthy within 1 s"):
        updates.wait_until_updated(project, ["api"])
    assert polls.count < 8


def test_tasks_that_start_do_not_count_as_tasks_that_run(project, swarm):
    """For example those of more nodes than Swarm has counted, or of a node that died."""
    swarm.update, swarm.desired = "", 1
    for task in swarm.tasks:
        task["Status"]["State"] = "starting"
    assert "api" in updates._count_steps(project, ["api"], True)


def test_tasks_of_another_release_do_not_count(project, swarm):
    assert updates._count_steps(project, ["api"], True) == {}
    for task in swarm.tasks:
        task["Spec"]["ContainerSpec"]["Labels"] = {"quai.deploy": "100", "quai.tag": OLD, "quai.hash": "100"}
    assert updates._count_steps(project, ["api"], True) == {"api": 4}


@pytest.mark.parametrize(("replicas", "scaled"), [(2, [("service", "scale", "--detach", "quai_api=0")]), (0, [])])
def test_a_service_is_stopped_when_its_tasks_and_containers_have_ended(project, swarm, monkeypatch, replicas, scaled):
    """After a second change to 0, Swarm would no longer know tasks whose containers still run."""
    done, polls = [], []

    def docker(directory, *words, capture):
        done.append(words)
        return commands.Result(0, "", "")

    def sleep(seconds):
        polls.append("poll")
        if len(polls) == 2:
            swarm.tasks = []
        if len(polls) == 4:
            swarm.containers = []

    swarm.mode, swarm.containers = {"Replicated": {"Replicas": replicas}}, ["c1"]
    monkeypatch.setattr(stack.commands, "docker", docker)
    monkeypatch.setattr(updates.time, "sleep", sleep)
    updates.stop(project, ["api"], 100)
    assert done == scaled
    assert len(polls) == 4


def test_a_service_that_does_not_stop_is_named(project, swarm, monkeypatch):
    monkeypatch.setattr(stack.commands, "docker", lambda *_, **__: commands.Result(0, "", ""))
    with pytest.raises(Refused, match=r"api on node1: running, .* did not end within 0 s"):
        updates.stop(project, ["api"], 0)


@pytest.mark.parametrize(
    ("replicas", "running", "is_changed", "done"),
    [
        (1, 1, True, []),  # that is for `deploy.sh services`
        (1, 0, False, ["await"]),
        (1, 0, True, ["scale", "apply", "await"]),  # it may never have run, for example after a typo in DB_IMAGE
        (0, 0, False, ["apply", "await"]),  # a `deploy.sh services` that was killed may have left it so
    ],
)
def test_a_service_that_does_not_run_is_started(project, swarm, monkeypatch, replicas, running, is_changed, done):
    found, service = [], {"image": "api"}
    digest = "other" if is_changed else stackfile.digest("api", service)
    swarm.mode, swarm.desired, swarm.tasks = {"Replicated": {"Replicas": replicas}}, replicas, swarm.tasks[:running]
    swarm.labels = {"quai.deploy": "", "quai.hash": digest}
    monkeypatch.setattr(stack, "apply", lambda _, configuration, names: found.extend("apply" for _ in names))
    monkeypatch.setattr(stack, "scale", lambda *_: found.append("scale"))
    monkeypatch.setattr(updates, "wait_until_updated", lambda *_, **__: found.append("await"))
    updates.start_missing(project, {"services": {"api": service}})
    assert found == done


def test_a_removed_stack_has_ended_before_another_is_created(project, monkeypatch, capsys):
    """Swarm would not find the networks that the engine still lists."""
    left = {"/containers/json": [{"Id": "c1"}] * 3, "/networks": [{"Name": "quai_data"}] * 4}
    monkeypatch.setattr(engine, "get", lambda path, query: [left[path].pop()] if left[path] else [])
    monkeypatch.setattr(updates.time, "sleep", lambda seconds: None)
    updates.wait_for_removal(project)
    assert left == {"/containers/json": [], "/networks": []}
    assert "networks of a removed stack" in capsys.readouterr().out
    monkeypatch.setattr(engine, "get", lambda path, query: [{"Name": "quai_data"}] if path == "/networks" else [])
    monkeypatch.setattr(updates.time, "monotonic", iter(range(0, 10_000, 61)).__next__)
    with pytest.raises(Refused, match="still there after 60 s: run 'docker network rm quai_data'"):
        updates.wait_for_removal(project)


def test_a_task_on_a_dead_node_does_not_end(project, swarm, monkeypatch):
    """Swarm lists it as running for a day."""
    swarm.nodes, swarm.mode = "down", {"Replicated": {"Replicas": 0}}
    updates.stop(project, ["api"], 0)


@pytest.mark.parametrize(("is_new", "is_refused"), [(True, True), (False, False)])
def test_a_rollback_to_a_service_of_no_release_is_a_refusal(project, swarm, is_new, is_refused):
    swarm.labels, swarm.update = {"quai.deploy": "", "quai.hash": "200"}, "rollback_completed"
    with pytest.raises(Refused, match="Swarm has rolled back the api") if is_refused else nullcontext():
        updates.wait_until_updated(project, ["api"], is_new=is_new)


def test_a_service_starts_when_its_containers_of_a_removed_stack_have_ended(project, swarm, monkeypatch):
    """Otherwise two databases would use one volume."""
    done, get = [], swarm.get
    swarm.containers = ["c1"]

    def sleep(seconds):
        done.append("wait")
        swarm.containers = []

    monkeypatch.setattr(engine, "get", lambda path, query=None: [] if path == "/services" else get(path, query))
    monkeypatch.setattr(updates.time, "sleep", sleep)
    monkeypatch.setattr(stack, "apply", lambda _, configuration, names: done.append(names))
    monkeypatch.setattr(updates, "wait_until_updated", lambda *_, **__: None)
    updates.start_missing(project, {"services": {"api": {"image": "api"}}})
    assert done == ["wait", ["api"]]


def test_the_time_in_which_swarm_watches_tasks_is_added(project, swarm, polls):
    swarm.monitor, swarm.update = 3, "updating"

    def on_poll(count):
        if count == 18:  # 4.5 s: more than HEALTH_SECONDS
            swarm.update = "completed"

    polls.on_poll = on_poll
    updates.wait_until_updated(project, ["api"])
    assert polls.count == 18


def test_a_service_that_runs_on_each_node_has_at_least_one_task(project, swarm):
    """Swarm counts the tasks that it has created, and it creates them some time after the service."""
    swarm.mode, swarm.desired, swarm.tasks = {"Global": {}}, 0, []
    assert updates._count_steps(project, ["api"], True) == {"api": 2}


def test_the_command_that_shows_the_log_of_a_service_outside_a_release_is_named(project, swarm):
    swarm.labels, swarm.update = {"quai.deploy": ""}, "paused"
    log = r"; its log: sudo docker service logs --tail 50 quai_api$"
    with pytest.raises(Refused, match=f"has stopped the update of the api{log}"):
        updates.wait_until_updated(project, ["api"], is_new=False)
    swarm.update, swarm.monitor = "", 1
    swarm.tasks.clear()
    message = r"not healthy within 3 s \(HEALTH_SECONDS in .env, and 2 s for which Swarm watches it\)"
    with pytest.raises(Refused, match=message + log):
        updates.wait_until_updated(project, ["api"], is_new=False)
