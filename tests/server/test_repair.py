"""After an interrupted deploy: which release is kept."""

import os
import subprocess
import sys
import time

import pytest
from server import engine, repair, state
from server.repair import find_live

from tests.server.conftest import NEW, OLD, container

BOTH = [container("100", OLD), container("200", NEW), container("100", OLD, "front"), container("200", NEW, "front")]
FIRST = [container("200", NEW), container("200", NEW, "front")]
STOPPED = [one._replace(state="exited") for one in FIRST]
STOPPED_OLD = [one._replace(state="exited") for one in BOTH[::2]]


@pytest.mark.parametrize(
    ("when", "containers", "deploy_id", "upstream", "kept"),
    [
        ("between deploys", BOTH[::2], "100", "front", OLD),
        ("before the switch", BOTH, "100", "front-100", OLD),
        ("after the switch", BOTH, "100", "front-200", OLD),
        ("with .env written", BOTH, "200", "front-200", NEW),
        ("with .env written and the upstream back", BOTH, "200", "front", NEW),
        ("in the first deploy", FIRST, "", "nobody", ""),
        ("in the first deploy, after the switch", FIRST, "", "front-200", NEW),
        ("when the release of .env is gone", FIRST, "100", "front-200", NEW),
        ("when neither names a running release", FIRST, "100", "front", NEW),
        ("when nothing runs", STOPPED, "200", "front", NEW),
        ("when nothing runs after a first deploy", STOPPED, "", "nobody", ""),
        ("next to a stopped release, before the switch", [*STOPPED_OLD, *FIRST], "100", "front-100", OLD),
        ("next to a stopped release, after the switch", [*STOPPED_OLD, *FIRST], "100", "front-200", NEW),
        ("when a first deploy after a removal was killed", FIRST, "100", "nobody", ""),
        ("when nothing exists", [], "100", "front", ""),
    ],
)
def test_one_release_is_kept(when, containers, deploy_id, upstream, kept):
    live = find_live(containers, deploy_id, upstream)
    assert live.tag == kept, when
    assert all(one.tag == kept for one in live.containers)


def test_exited_release_is_not_kept():
    assert find_live([*STOPPED, *BOTH[::2]], "200", "front").tag == OLD


def test_stopped_containers_of_the_live_release_are_kept():
    """An administrator may have stopped the API, for example to restore a dump."""
    containers = [STOPPED[0], FIRST[1]]
    assert find_live(containers, "200", "front") == ("200", NEW, tuple(containers))


def test_upstream_stays_nobody_if_the_first_release_never_went_live():
    assert find_live(FIRST, "", "nobody").front == "nobody"


@pytest.fixture
def docker(monkeypatch):
    """An engine that records what is removed, how, and what is started."""
    calls = {"stopped": [], "killed": [], "labels": [], "started": []}

    def one_shots(project, label):
        calls["labels"].append(label)
        return ["quai-migrate-200"]

    monkeypatch.setattr(engine, "containers", lambda project, *labels: BOTH)
    monkeypatch.setattr(engine, "one_shots", one_shots)
    monkeypatch.setattr(engine, "remove", lambda ids: calls["stopped"].extend(ids))
    monkeypatch.setattr(engine, "remove_now", lambda one: calls["killed"].append(one))
    monkeypatch.setattr(engine, "start", calls["started"].append)
    monkeypatch.setattr(repair, "DRAIN_SECONDS", 0)
    return calls


def test_the_interrupted_release_and_its_one_shots_are_removed(directory, settings, docker):
    state.write_upstream(directory, "front-200")
    (directory / "backups").mkdir()
    (directory / "backups/new").touch()
    live = repair.repair(directory, settings)
    assert live.tag == OLD
    assert docker["stopped"] == ["quai-api-200", "quai-front-200"]
    assert docker["killed"] == ["quai-unpack", "quai-migrate-200"]
    assert state.upstream(directory) == "front"
    assert not (directory / "backups/new").exists()


def test_scheduler_of_the_live_release_is_started_after_the_previous_one(directory, settings, docker, monkeypatch):
    """The deploy was killed after it wrote .env: its scheduler waits for the end of the previous one."""
    labels = {"quai.single": "true"}
    schedulers = [
        container("100", OLD, "scheduler", "created")._replace(labels=labels),
        container("200", NEW, "scheduler")._replace(labels=labels),
    ]
    monkeypatch.setattr(engine, "containers", lambda project, *labels: [*BOTH, *schedulers])
    monkeypatch.setattr(engine, "start", lambda one: docker["started"].append((one, list(docker["stopped"]))))
    repair.repair(directory, settings)
    [(started, stopped_before)] = docker["started"]
    assert started == "quai-scheduler-100"
    assert "quai-scheduler-200" in stopped_before


def test_scheduler_from_before_it_was_part_of_a_release_ends_before_the_new_one_starts(
    directory, settings, docker, monkeypatch
):
    """The deploy was killed after it wrote .env. The previous scheduler has no deploy id."""
    scheduler = container("100", OLD, "scheduler", "created")._replace(labels={"quai.single": "true"})
    others = [container("", "", "scheduler"), container("", "", "db")]
    monkeypatch.setattr(
        engine, "containers", lambda project, *labels: [*BOTH[::2], scheduler, *([] if labels else others)]
    )
    monkeypatch.setattr(engine, "start", lambda one: docker["started"].append((one, list(docker["stopped"]))))
    repair.repair(directory, settings)
    [(started, stopped_before)] = docker["started"]
    assert started == "quai-scheduler-100"
    assert stopped_before == ["quai-scheduler-"]
    assert "quai-db-" not in docker["stopped"]


def test_scheduler_that_cannot_start_does_not_block_the_next_deploy(directory, settings, docker, monkeypatch, capsys):
    """The next release may correct it."""

    def fail(one):
        raise engine.EngineError("no such file")

    scheduler = container("100", OLD, "scheduler", "created")._replace(labels={"quai.single": "true"})
    monkeypatch.setattr(engine, "containers", lambda project, *labels: [*BOTH, scheduler])
    monkeypatch.setattr(engine, "start", fail)
    assert repair.repair(directory, settings).tag == OLD
    assert "quai-scheduler-100 cannot be started: no such file" in capsys.readouterr().out


def test_manually_started_one_shots_are_kept(directory, settings, docker):
    """`docker compose run backup`, which the documentation recommends, has no label of a deploy."""
    repair.repair(directory, settings)
    assert docker["labels"] == ["quai.one-shot"]


def test_docker_commands_of_a_killed_deploy_are_killed(directory, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    environment = os.environ | {state.CHILD_MARK: str(directory)}
    command = [sys.executable, "-c", "print(1, flush=True); input()"]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    orphan = subprocess.Popen(command, env=environment, **streams)
    other = subprocess.Popen(command, env=environment | {state.CHILD_MARK: f"{directory}-2"}, **streams)
    try:
        orphan.stdout.readline()
        other.stdout.readline()
        state.end_orphans(directory)
        assert orphan.wait(10) == -9
        assert other.poll() is None
    finally:
        for process in (orphan, other):
            process.kill()
            process.communicate()
