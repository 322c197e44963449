"""Work on each node of a Swarm: pull, prune, and what is not where it should be. No engine is needed."""

from types import SimpleNamespace

import pytest
from server import commands, engine, nodes, on_node, stack
from server.compose import Project
from server.errors import Refused

from tests.server.conftest import NEW

NODES = {"n1": "node1", "n2": "node2"}


def task(job, node, state, error=""):
    return stack.Task("t", job, NODES[node], node, state, "complete", error, 0, "", "")


@pytest.fixture
def swarm(monkeypatch):
    """A Swarm of two nodes. The attribute `tasks` of the fixture has the tasks of the jobs that are created."""

    found = SimpleNamespace(created=[], removed=[], tasks=[], states=dict.fromkeys(NODES, ("ready", "active")))

    def docker(directory, *words, capture=False):
        found.created.append(words)
        return commands.Result(0, "", "")

    def get(path, query=None):
        return [
            {
                "ID": one,
                "Description": {"Hostname": NODES[one]},
                "Status": {"State": found.states[one][0]},
                "Spec": {"Availability": found.states[one][1]},
            }
            for one in NODES
        ]

    monkeypatch.setattr(nodes.commands, "docker", docker)
    monkeypatch.setattr(engine, "get", get)
    monkeypatch.setattr(engine, "image", lambda name: {"RepoDigests": ["quai@sha256:a"]})
    monkeypatch.setattr(engine, "remove_service", found.removed.append)
    monkeypatch.setattr(stack, "find_services", lambda label: {"quai-pull-0": {"ID": "j0"}})
    monkeypatch.setattr(stack, "find_tasks", lambda label, jobs: found.tasks)
    monkeypatch.setattr(stack, "POLL_SECONDS", 0)
    monkeypatch.setattr(nodes.commands, "COMMAND_SECONDS", 0.2)
    return found


@pytest.fixture
def project(directory, settings):
    return Project(directory, settings, NEW, "200")


def test_the_release_is_pulled_by_digest_on_each_node(project, swarm):
    swarm.tasks = [task("quai-pull-0", "n1", "complete"), task("quai-pull-0", "n2", "failed", "no such command")]
    nodes.pull(project, ["quai:1"])
    [words] = swarm.created
    assert "global-job" in words
    assert words[-1] == "quai:1@sha256:a"
    assert swarm.removed == ["j0"]


def test_a_node_that_cannot_pull_is_named(project, swarm):
    swarm.tasks = [task("quai-pull-0", "n1", "complete"), task("quai-pull-0", "n2", "rejected", "No such image")]
    with pytest.raises(Refused, match="the node node2 cannot pull the release: No such image"):
        nodes.pull(project, ["quai:1"])
    assert swarm.removed == ["j0"]


def test_a_node_that_does_not_end_is_named(project, swarm):
    swarm.tasks = [task("quai-pull-0", "n1", "complete"), task("quai-pull-0", "n2", "preparing")]
    with pytest.raises(Refused, match="node2: the job pull took more than"):
        nodes.pull(project, ["quai:1"])


def test_a_node_that_becomes_available_later_has_no_task(project, swarm, monkeypatch):
    monkeypatch.setattr(nodes, "CREATION_SECONDS", 0.1)
    swarm.tasks = [task("quai-pull-0", "n1", "complete")]
    nodes.pull(project, ["quai:1"])


@pytest.mark.parametrize("state", [("down", "active"), ("ready", "drain"), ("ready", "pause")])
def test_a_node_that_runs_no_tasks_pulls_nothing(project, swarm, state):
    swarm.states = swarm.states | {"n2": state}
    swarm.tasks = [task("quai-pull-0", "n1", "complete")]
    nodes.pull(project, ["quai:1"])


def test_a_prune_that_fails_is_reported(project, swarm):
    swarm.tasks = [task("quai-pull-0", "n1", "complete"), task("quai-pull-0", "n2", "failed", "exit code 1")]
    assert nodes.prune(project, "quai:1", ["sha256:a"]) == ["quai-pull-0 on node2: exit code 1"]
    assert swarm.created[0][-4:] == ("/release/server/on_node.py", "prune", project.settings.image, "sha256:a")


def test_problems_are_found(settings, swarm, monkeypatch):
    swarm.states = swarm.states | {"n2": ("down", "active")}

    def service(count, update=""):
        mode = {"Replicated": {"Replicas": count}}
        return {
            "Spec": {"Mode": mode, "Name": "quai_api"},
            "ServiceStatus": {"DesiredTasks": count},
            "UpdateStatus": {"State": update},
        }

    services = {"api": service(2, "paused"), "front": service(1), "db": service(1), "redis": service(0)}
    running = stack.Task("t", "api", "node1", "n1", "running", "running", "", 0, "200", NEW)
    pending = task("db", "n1", "pending", "no suitable node")
    tasks = [running, running._replace(service="front", deploy_id="100"), pending]
    monkeypatch.setattr(stack, "services", lambda _: services)
    monkeypatch.setattr(stack, "tasks", lambda *_: tasks)
    found = nodes.find_problems(settings)
    assert found[0] == "the node node2 runs no tasks: down, active"
    assert found[1] == "1 of 2 tasks of api run"
    why = "to see why, run 'docker service ps --no-trunc quai_api'"
    assert found[2] == f"the update of api has not completed: paused; {why}"
    assert found[3] == "0 of 1 tasks of db run: db on node1: no suitable node"
    assert found[4] == "redis is scaled to 0: deploy.sh starts it"
    assert found[5].startswith("tasks of another release than that of .env run: api of 2222222")


def test_a_release_that_env_does_not_name_is_a_problem(settings, swarm, monkeypatch):
    """A deploy was killed after the switch: all tasks are of the new release."""
    running = stack.Task("t", "api", "node1", "n1", "running", "running", "", 0, "200", NEW)
    monkeypatch.setattr(stack, "services", lambda _: {})
    monkeypatch.setattr(stack, "tasks", lambda *_: [running])
    [problem] = nodes.find_problems(settings)
    assert "another release than that of .env run: api of 2222222" in problem
    monkeypatch.setattr(stack, "tasks", lambda *_: [running._replace(deploy_id=settings.deploy_id)])
    assert nodes.find_problems(settings) == []


def test_old_digests_of_the_releases_are_found():
    images = [
        {"RepoDigests": ["host/quai@sha256:old", "host/other@sha256:old"]},
        {"RepoDigests": ["host/quai@sha256:kept"]},
        {"RepoDigests": None},
    ]
    assert on_node.find_old(images, "host/quai", {"sha256:kept"}) == ["host/quai@sha256:old"]


def test_a_task_is_explained_by_its_node(project, swarm, monkeypatch):
    logs = []
    swarm.tasks = [task("quai-pull-0", "n2", "complete")]
    monkeypatch.setattr(nodes.commands, "run", lambda words, directory, seconds: logs.append(words))
    nodes.explain(project, task("api", "n2", "failed"))
    [words] = swarm.created
    assert "--constraint=node.id==n2" in words
    assert words[-3:] == ("/release/server/on_node.py", "explain", "t")
    assert [one[:3] for one in logs] == [["docker", "service", "logs"]]


def test_an_explanation_takes_no_longer_than_a_log(project, swarm, monkeypatch):
    monkeypatch.setattr(nodes, "LOG_SECONDS", 0.1)
    monkeypatch.setattr(nodes.commands, "COMMAND_SECONDS", 1000)
    swarm.tasks = [task("quai-explain-0", "n2", "preparing")]
    with pytest.raises(Refused, match=r"node2: the job explain took more than 0\.1 s"):
        nodes.explain(project, task("api", "n2", "failed"))


def test_a_task_on_a_node_that_died_is_not_waited_for(project, swarm, monkeypatch):
    swarm.states = swarm.states | {"n2": ("down", "active")}
    nodes.explain(project, task("api", "n2", "failed"))
    assert swarm.removed == ["j0"]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({"Running": False, "ExitCode": 3}, ["exit code 3"]),
        ({"Running": True, "Health": None}, []),
        (
            {"Running": False, "ExitCode": 137, "OOMKilled": True},
            ["exit code 137", "out of memory: the kernel killed it (OOMKilled); its limit is 64 MiB"],
        ),
        (
            {"Running": True, "Health": {"Log": [{"Output": "a\nPARTNER is not set\n"}, {"Output": ""}]}},
            ["health check: PARTNER is not set"],
        ),
    ],
)
def test_the_state_of_a_container_is_described(state, expected):
    assert on_node.describe(state, 64) == expected
