"""How the rehearsal checks the server and runs scenarios, without Docker."""

import json
import re
from dataclasses import replace

import pytest

from tests.rehearsal.application import Request
from tests.rehearsal.failures import BUILT_BY, Failed, describe_error, expect
from tests.rehearsal.fakes import APPLICATION, TAG, FolderServer
from tests.rehearsal.production import find_problem, parse
from tests.rehearsal.rehearsal import Rehearsal
from tests.rehearsal.running import RunningCommand
from tests.rehearsal.scenarios import SCENARIOS


@pytest.fixture
def rehearsal(tmp_path):
    return Rehearsal(FolderServer(tmp_path), None, APPLICATION, {}, 200)


def test_recreated_container_changes_production(rehearsal, tmp_path, monkeypatch):
    (tmp_path / "containers").write_text("quai-db-1 db 1a")
    with pytest.raises(Failed, match="nothing is live before it"), rehearsal.expect_unchanged("it"):
        pass
    monkeypatch.setattr(rehearsal, "live_tag", lambda: TAG)
    with rehearsal.expect_unchanged("nothing"):
        pass
    with pytest.raises(Failed, match="an update changed production"), rehearsal.expect_unchanged("an update"):
        (tmp_path / "containers").write_text("quai-db-1 db 1b")


RELEASE = {"labels": {"quai.deploy": "17"}, "image": f"image:{TAG}"}
ONE_SHOT = {"deploy": {"replicas": 0}}


def production(*more, project="quai", tag=TAG, replicas=2, **values):
    services = {"api": RELEASE | {"deploy": {"replicas": replicas}}, "worker": RELEASE}
    services["front"] = RELEASE | {"image": f"image:{TAG}-front"}
    services |= {"db": {}, "proxy": {}, "migrate": ONE_SHOT, "shell": ONE_SHOT}
    values = {"tag": tag, "deploy_id": "17", "link": TAG, "upstream": "front"} | values
    values["compose"] = json.dumps({"name": project, "services": services})
    names = {"quai-api-1": TAG, "quai-api-2": TAG, "quai-front-1": TAG, "quai-worker-1": TAG}
    names |= {"quai-db-1": "", "quai-proxy-1": ""}
    images = {"quai-front-1": f"{TAG}-front"}
    containers = [
        f"{name}\timage:{images.get(name, own or 'x')}\tUp 1 s (healthy)\t{'17' if own else ''}\t{own}\t"
        for name, own in names.items()
    ]
    return "\n".join([*(f"{name}={value}" for name, value in values.items()), *containers, *more])


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        (production(), ""),
        (production("quai-backup-run-1\tdb\tUp 1 s\t\t\t"), ""),
        (production("quai-backup-run-1\tdb\tUp 1 s\t\t\t17"), "expected the containers"),
        (production("quai-migrate-run-1\tdb\tUp 1 s\t\t\t"), "expected the containers"),
        (production("./backups/new"), "an interrupted deploy left ['./backups/new']"),
        (production(link=""), "found {'link': ''}"),
        (production(upstream="front-18"), "found {'upstream': 'front-18'}"),
        (production(deploy_id="18"), "expected a healthy container"),
        (production(replicas=1), "expected the containers"),
        (production().replace("quai-api-2\timage:01", "quai-api-2\timage:02"), "expected a healthy container"),
        (production().replace(f"front-1\timage:{TAG}-front", f"front-1\timage:{TAG}"), "expected a healthy container"),
        (production().replace("(healthy)", "(unhealthy)", 1), "expected a healthy container"),
        (production().replace("Up 1 s", "Exited", 1), "expected a healthy container"),
        (production().replace("worker-1\timage:01", "worker-1\timage:02"), "expected a healthy container"),
        # A worker needs no health check.
        (re.sub(r"(worker-1\t.*) \(healthy\)", r"\1", production()), ""),
        (re.sub(r"(worker-1\t.*)Up 1 s", r"\1Exited", production()), "expected a healthy container"),
    ],
)
def test_release_is_the_only_one_on_the_server(output, problem):
    found = find_problem(parse(output.strip()), TAG)
    assert problem in found
    assert bool(found) == bool(problem)


def test_containers_have_the_name_of_the_project():
    output = production(project="shop")
    assert "expected the containers ['shop-api-1'" in find_problem(parse(output), TAG)
    assert find_problem(parse(output.replace("quai-", "shop-")), TAG) == ""


def test_settings_are_restored_after_a_failure(rehearsal):
    with pytest.raises(Failed, match="it changed"), rehearsal.server.settings(HEALTH_SECONDS="60"):
        expect(rehearsal.server.setting("HEALTH_SECONDS") == "20", "it changed")
    assert rehearsal.server.setting("HEALTH_SECONDS") == "20"


def test_each_error_fails_its_scenario_and_the_run_continues(rehearsal, monkeypatch):
    reconciled = []
    monkeypatch.setattr(rehearsal, "deploy_by_hand", lambda: reconciled.append(len(rehearsal.run["scenarios"])))

    def named(name, action):
        def scenario(rehearsal):
            action()

        scenario.__name__ = scenario.__doc__ = name
        return scenario

    needs_release = named("needs a release", lambda: rehearsal.commits["code"])
    errors = named("errors", lambda: next(iter(())))
    build = named("build", lambda: rehearsal.commits.update(first=TAG))
    rehearsal.application = replace(APPLICATION, requests=(Request("/${NAME}"),))
    no_load = named("without load", lambda: None)  # the load does not start without a value for ${NAME}
    rehearsal.run_scenarios([named("passes", lambda: None), needs_release, errors, build, no_load], [""])
    assert rehearsal.end_traffic().requests == 0
    results = [scenario["error"] for scenario in rehearsal.run["scenarios"]]
    missing = "no scenario of this run built the release 'code': add code_change to --only"
    not_started = "ValueError: ${NAME} in rehearsal.toml has no value: the server's .env has no such setting"
    assert results == [None, missing, "StopIteration: ", None, not_started]
    assert [scenario["passed"] for scenario in rehearsal.run["scenarios"]] == [not error for error in results]
    assert reconciled == [2, 3, 5]  # after each scenario that failed
    ends = [scenario["ended"] for scenario in rehearsal.run["scenarios"]]
    assert ends == [*(scenario["started"] for scenario in rehearsal.run["scenarios"][1:]), rehearsal.run["ended"]]


def test_scenarios_that_build_releases_exist():
    assert set(BUILT_BY.values()) <= {scenario.__name__ for scenario in SCENARIOS}


def test_failure_is_described_with_the_failure_before_it():
    error = TimeoutError("no end")
    error.__context__ = Failed("not live")
    assert describe_error(error) == "not live; then TimeoutError: no end"


def test_lines_are_read_while_the_command_runs():
    lines = []
    with RunningCommand(
        ["sh", "-c", "echo one; echo two; echo three; sleep 0.1; echo four; exit 3"], lines.append
    ) as command:
        command.read_until("one", 10)
        command.read_until("three", 10)
        done = command.finish(10)
    assert (done.returncode, done.stdout) == (3, "one\ntwo\nthree\nfour\n")
    assert "".join(lines) == done.stdout


def test_commands_end_with_their_block():
    with RunningCommand(["sh", "-c", "echo one; exec sleep 60"], print) as command:
        command.read_until("one", 10)
        with pytest.raises(TimeoutError, match="'two' in the output: one"):
            command.read_until("two", 0.1)
        with pytest.raises(TimeoutError, match="still running"):
            command.finish(0.1)
    assert command.finish(0).returncode == -15
    with RunningCommand(["sleep", "60"], print) as command:
        command.kill()
    assert command.finish(0).returncode == -9
    with RunningCommand(["echo", "one"], print) as command, pytest.raises(RuntimeError, match="ended before 'two'"):
        command.read_until("two", 10)
