"""The rollout on Docker Swarm: its order, what it goes back to, and what is live. No engine is needed."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
from server import (
    compose,
    engine,
    migrations,
    nodes,
    prober,
    release,
    repair,
    singletons,
    stack,
    stackfile,
    swarm,
    updates,
)
from server.attempt import Attempt, Live, Steps
from server.compose import Project
from server.errors import Refused
from server.orchestrator import choose
from server.plan import Plan

from tests.server.conftest import NEW, OLD, container

LABELS = {"quai.deploy": "200", "quai.tag": NEW}
RELEASE = {"image": "quai:new", "labels": LABELS, "healthcheck": {"test": ["CMD", "true"]}}
SERVICES = {
    "proxy": {"image": "caddy"},
    "db": {"image": "postgres"},
    "api": RELEASE,
    "front": RELEASE | {"image": "quai:new-front"},
    "worker": RELEASE,
    "scheduler": RELEASE | {"labels": LABELS | {"quai.single": "true"}},
    "migrate": {"image": "quai:new", "deploy": {"replicas": 0}},
}
REPLICAS = dict.fromkeys(("api", "front", "worker", "scheduler"), 1)


def task(service, deploy_id, tag, state="running"):
    return stack.Task("t", service, "node1", "n1", state, "running", "", 0, deploy_id, tag)


def deployed(deploy_id="100", digest="", previous=None, single=False, replicas=1, update=""):
    """Return a service of a release as the engine describes it; `previous` is the deploy id before its last update."""

    def spec(one):
        labels = {"quai.deploy": one} if one else {}
        template = {"ContainerSpec": {"Labels": labels | {stackfile.HASH: digest} | singleton}}
        return {"TaskTemplate": template, "Mode": {"Replicated": {"Replicas": replicas}}}

    singleton = {"quai.single": "true"} if single else {}
    status = {"RunningTasks": replicas}
    found = {"ID": "s", "Spec": spec(deploy_id), "UpdateStatus": {"State": update}, "ServiceStatus": status}
    return found | ({} if previous is None else {"PreviousSpec": spec(previous)})


OTHERS = {"db": deployed(""), "proxy": deployed("")}
SCHEDULER = {"scheduler": deployed("100", single=True)}


@pytest.fixture
def attempt(directory, settings):
    live = Live("100", OLD, ())
    return Attempt(Project(directory, replace(settings, engine="swarm"), NEW, "200"), "a person", live, Steps())


@pytest.fixture
def calls(monkeypatch):
    """What the rollout does, in order; `refused` names services whose update is refused, and the deploy."""
    found = SimpleNamespace(done=[], refused={}, services={}, tasks=[], proxies=[])

    def wait(project, names, **_):
        for name in names:
            if found.refused.get(name) == project.deploy_id:
                raise Refused(f"Swarm has rolled back the {name}")

    def apply(project, configuration, names, *, may_roll_back=True):
        found.done.append(f"{' '.join(names)} {project.deploy_id}{'' if may_roll_back else ', not rolled back'}")

    def verify_proxies(container, target):
        found.done.append("proxies")
        if found.proxies:
            raise Refused(found.proxies.pop())

    def verify_release(project, *_):
        found.done.append("verify")
        if "verify" in found.refused:
            raise Refused("the api has exited")

    def record(text):
        return lambda *_, **__: found.done.append(text)

    monkeypatch.setattr(swarm, "prepare", lambda *_: Plan({"services": SERVICES}, REPLICAS, "live", True))
    monkeypatch.setattr(compose, "configuration", lambda project: {"services": SERVICES})
    monkeypatch.setattr(nodes, "pull", record("pull"))
    monkeypatch.setattr(nodes, "prune", lambda *_: found.done.append("prune") or [])
    monkeypatch.setattr(stack, "apply", apply)
    monkeypatch.setattr(updates, "wait_until_updated", wait)
    monkeypatch.setattr(stack, "services", lambda _: found.services)
    monkeypatch.setattr(stack, "tasks", lambda _: found.tasks)
    monkeypatch.setattr(stack, "roll_back", lambda _, name: found.done.append(f"{name} back"))
    monkeypatch.setattr(updates, "stop", lambda _, names: found.done.append(" ".join(["stop", *names])))
    monkeypatch.setattr(stack, "create_networks", record("networks"))
    monkeypatch.setattr(stackfile, "check", record("check"))
    monkeypatch.setattr(compose, "require_same_networks", record("same networks"))
    monkeypatch.setattr(stack, "remove", lambda _, names: names and found.done.append(" ".join(["remove", *names])))
    monkeypatch.setattr(stack, "scale", lambda _, name, count: found.done.append(f"{name}={count}"))
    monkeypatch.setattr(migrations, "check_pending", lambda *_: True)
    monkeypatch.setattr(migrations, "migrate", record("migrate"))
    monkeypatch.setattr(prober, "start", lambda *_: nullcontext("prober"))
    monkeypatch.setattr(prober, "verify_release", verify_release)
    monkeypatch.setattr(prober, "verify_proxies", verify_proxies)
    monkeypatch.setattr(swarm, "_watch", record("watch"))
    monkeypatch.setattr(
        engine, "get", lambda path, query=None: {"Swarm": {"ControlAvailable": True}} if path == "/info" else []
    )
    monkeypatch.setattr(updates, "wait_for_removal", lambda _: None)
    monkeypatch.setattr(updates, "show_failed", lambda _, names: found.done.append(f"log of {' '.join(names)}"))
    monkeypatch.setattr(swarm.roles, "release_services", lambda services, image: REPLICAS)
    monkeypatch.setattr(
        engine, "image", lambda name: {"RepoDigests": [f"{name.rpartition(':')[0]}@sha256:{name[-9:]}"]}
    )
    return found


def test_the_setting_chooses(attempt, settings):
    assert choose(attempt.settings) is swarm
    assert choose(settings) is not swarm


def test_each_service_is_updated_after_the_one_before(attempt, calls):
    calls.services = {"proxy": deployed("")}
    assert swarm.roll_out(attempt, True) == "live"
    prepared = ["check", "same networks", "pull", "db 200", "networks"]
    steps = ["migrate", "verify", "api 200", "worker 200", "front 200", "proxies", "watch"]
    assert calls.done == prepared + steps


def test_a_scheduler_that_becomes_a_worker_is_replaced_at_the_end(attempt, calls, monkeypatch):
    """Its previous task must end first."""
    monkeypatch.setattr(release, "kept_tags", lambda *_: set())
    calls.services = OTHERS | {"worker": deployed("100", single=True)}
    swarm.roll_out(attempt, True)
    assert "worker 200" not in calls.done
    calls.done.clear()
    assert swarm.finish(attempt) == ""
    assert calls.done == ["stop worker", "worker scheduler 200"]


def test_the_live_release_gets_more_tasks_first(attempt, calls):
    """A rollback to fewer tasks could end those of the live release."""
    calls.services = OTHERS | {"api": deployed("100", replicas=1), "front": deployed("100", replicas=3)}
    plan = Plan({"services": {}}, {"api": 3, "front": 2, "new": 2}, "live", True)
    swarm._update(attempt, plan, ["api", "front", "new"])
    assert calls.done == ["api=3", "api front new 200"]


def test_the_live_release_keeps_its_tasks_if_more_do_not_start(attempt, calls):
    calls.services, calls.refused = OTHERS | {"api": deployed("100", replicas=1)}, {"api": "100"}
    with pytest.raises(Refused):
        swarm._add_tasks(attempt, Plan({}, {"api": 3}, "live", True), ["api"])
    assert calls.done == ["api=3", "api=1"]


def test_a_release_that_was_scaled_to_0_gets_no_tasks_first(attempt, calls):
    """For example for a restore: it may not run on the database as it is now."""
    calls.services = OTHERS | {"api": deployed("100", replicas=0)}
    swarm._update(attempt, Plan({"services": {}}, {"api": 3}, "live", True), ["api"])
    assert calls.done == ["api 200"]


@pytest.mark.parametrize(("port", "is_refused"), [("8000", False), ("8001", True)])
def test_another_port_of_the_api_is_refused(attempt, calls, monkeypatch, port, is_refused):
    """The front of the live release would forward to the new API, at the previous port."""
    front = deployed("100")
    front["Spec"]["TaskTemplate"]["ContainerSpec"]["Env"] = ["A=b=c", "API_PORT=8000"]
    calls.services = {"proxy": deployed(""), "front": front}
    services = SERVICES | {"front": RELEASE | {"environment": {"API_PORT": port}}}
    monkeypatch.setattr(swarm, "prepare", lambda *_: Plan({"services": services}, REPLICAS, "live", True))
    with (
        pytest.raises(Refused, match=r"API_PORT in \.env has changed from 8000 to 8001")
        if is_refused
        else nullcontext()
    ):
        swarm.roll_out(attempt, True)
    assert ("pull" in calls.done) != is_refused


def test_nothing_is_updated_if_the_release_fails_before_the_switch(attempt, calls):
    calls.refused = {"verify": "200"}
    with pytest.raises(Refused, match="the api has exited"):
        swarm.roll_out(attempt, True)
    assert calls.done[-2:] == ["migrate", "verify"]


@pytest.mark.parametrize("refused", ["api", "worker", "front"])
def test_nothing_is_updated_after_a_refused_service(attempt, calls, refused):
    calls.refused = {refused: "200"}
    with pytest.raises(Refused, match=f"rolled back the {refused}"):
        swarm.roll_out(attempt, True)
    assert calls.done[-2:] == [f"{refused} 200", f"log of {refused}"]


def test_the_live_release_comes_back_in_the_reverse_order(attempt, calls):
    calls.services = {name: deployed("200", previous="100") for name in ("api", "front", "worker")}
    calls.services |= OTHERS | SCHEDULER | {"new-worker": deployed("200")}
    swarm.withdraw(attempt)
    assert calls.done == ["front back", "worker back", "remove new-worker", "api back"]


def test_a_rollback_by_swarm_is_awaited(attempt, calls):
    calls.services = OTHERS | SCHEDULER | {"front": deployed("100")}
    calls.services["api"] = deployed("100", update="rollback_started")
    calls.refused = {"api": "100", "front": "100"}
    message = r"^the api did not return to the live release: Swarm has rolled back the api$"
    with pytest.raises(Refused, match=message):
        swarm.withdraw(attempt)
    assert calls.done == []


def test_without_a_previous_state_the_files_of_the_live_release_are_applied(attempt, calls):
    """Swarm knows one previous release only."""
    calls.services = OTHERS | SCHEDULER | {"front": deployed("200", previous="100")}
    calls.services["api"] = deployed("200", previous="150")
    swarm.withdraw(attempt)
    assert calls.done == ["front back", "api 100, not rolled back"]


def test_a_service_that_became_part_of_the_refused_release_comes_back(attempt, calls, monkeypatch):
    calls.services = {"db": deployed("200", previous=""), "proxy": deployed("200", previous="150")}

    def remove(settings, names):
        calls.done.append(f"remove {' '.join(names)}")
        calls.services = {name: one for name, one in calls.services.items() if name not in names}

    monkeypatch.setattr(stack, "remove", remove)
    monkeypatch.setattr(singletons, "replace", lambda *_: "")
    swarm.withdraw(attempt)
    assert calls.done == ["db back", "remove proxy", "proxy 100"]


def test_a_refusal_before_any_update_touches_nothing(attempt, calls):
    """`.env` may have changed since the live release was deployed."""
    calls.services = {name: deployed("100") for name in REPLICAS} | OTHERS
    swarm.withdraw(attempt)
    calls.services["front"] = deployed("200", previous="100")
    swarm.withdraw(attempt)
    assert calls.done == ["front back"]


def test_all_services_go_back_even_if_one_fails(attempt, calls):
    calls.services = SCHEDULER | {name: deployed("200", previous="100") for name in ("front", "worker", "api")}
    calls.refused = {"front": "100"}
    with pytest.raises(Refused, match="rolled back the front"):
        swarm.withdraw(attempt)
    assert calls.done == ["front back", "worker back", "api back"]


def test_a_scheduler_of_a_release_before_the_live_one_is_stopped_and_replaced(attempt, calls):
    """The live release was killed after the write of .env; then another one is refused."""
    calls.services = OTHERS | {"api": deployed("100"), "scheduler": deployed("50", previous="40", single=True)}
    swarm.withdraw(attempt)
    assert calls.done == ["stop scheduler", "scheduler 100"]


def test_a_scheduler_that_the_live_release_has_not_started_is_started(attempt, calls):
    """The live release has added it, and was killed after the write of .env; then another one is refused."""
    calls.services = OTHERS | {"api": deployed("100"), "front": deployed("100")}
    swarm.withdraw(attempt)
    assert calls.done == ["scheduler 100"]
    calls.services["scheduler"] = deployed("")  # it was part of no release before
    calls.done.clear()
    swarm.withdraw(attempt)
    assert calls.done == ["stop scheduler", "scheduler 100"]


def test_a_live_release_whose_files_are_missing_still_comes_back(attempt, calls, monkeypatch):
    def refuse(project):
        raise Refused("this release has no docker-compose.prod.yml")

    calls.services = OTHERS | {name: deployed("200", previous="100") for name in ("api", "front")}
    monkeypatch.setattr(compose, "configuration", refuse)
    swarm.withdraw(attempt)
    assert calls.done == ["front back", "api back"]


def test_a_refused_first_deploy_leaves_no_release(attempt, calls):
    calls.services = {"api": deployed("200"), "db": deployed("")}
    swarm.withdraw(replace(attempt, live=Live("", "", ())))
    assert calls.done == ["remove api"]


def test_after_a_killed_deploy_the_live_release_comes_back_first(attempt, calls, info):
    """With the settings that it had: `.env` may have changed."""
    calls.services = OTHERS | {"api": deployed("150", previous="100"), "front": deployed("100")}
    calls.services |= {"worker": deployed("150"), "scheduler": deployed("50", single=True)}
    calls.tasks = [task("front", "100", OLD)]
    live = swarm.clean_up(attempt.directory, attempt.settings)
    assert calls.done == ["api back"]
    assert live.deploy_id == "100"


def test_a_live_release_that_does_not_come_back_is_only_reported(attempt, calls, info, capsys):
    """The release that is to be deployed may correct it."""
    calls.services, calls.refused = {"api": deployed("150", previous="100")}, {"api": "100"}
    swarm.clean_up(attempt.directory, attempt.settings)
    assert "Swarm has rolled back the api" in capsys.readouterr().out


def test_singletons_are_replaced_when_the_release_is_live(attempt, calls, monkeypatch):
    monkeypatch.setattr(release, "kept_tags", lambda *_: {NEW, OLD})
    calls.services = OTHERS | {"api": deployed("200"), "scheduler": deployed("100", single=True)}
    calls.services |= {"beat": deployed("100", single=True), "old-worker": deployed("100")}
    assert swarm.finish(attempt) == ""
    steps = ["stop scheduler beat", "remove beat", "scheduler 200", "remove old-worker", "prune"]
    assert calls.done == steps


def test_a_former_singleton_that_does_not_end_is_not_removed(attempt, calls, monkeypatch):
    """The next run waits for it, too."""

    def stop(project, names):
        raise Refused("beat on node1 did not end")

    monkeypatch.setattr(release, "kept_tags", lambda *_: set())
    monkeypatch.setattr(updates, "stop", stop)
    calls.services = OTHERS | {"beat": deployed("100", single=True)}
    assert swarm.finish(attempt) == "beat on node1 did not end"
    assert calls.done == []


@pytest.mark.parametrize(("replicas", "steps"), [(1, []), (0, ["stop scheduler", "scheduler 200"])])
def test_a_singleton_that_has_not_changed_keeps_running(attempt, calls, monkeypatch, replicas, steps):
    monkeypatch.setattr(release, "kept_tags", lambda *_: set())
    digest = stackfile.digest("scheduler", SERVICES["scheduler"])
    calls.services = OTHERS | {"scheduler": deployed("200", digest, single=True, replicas=replicas)}
    assert swarm.finish(attempt) == ""
    assert calls.done == steps


def test_a_service_that_is_no_longer_part_of_a_release_is_started_again(attempt, calls, monkeypatch):
    monkeypatch.setattr(release, "kept_tags", lambda *_: set())
    digest = stackfile.digest("scheduler", SERVICES["scheduler"])
    calls.services = {"scheduler": deployed("200", digest, single=True), "db": deployed("100"), "proxy": deployed("")}
    monkeypatch.setattr(stack, "remove", lambda _, names: [calls.services.pop(name) for name in names])
    assert swarm.finish(attempt) == ""
    assert calls.done == ["db 200"]


def test_a_singleton_that_fails_is_a_problem_of_a_release_that_is_live(attempt, calls, monkeypatch):
    monkeypatch.setattr(release, "kept_tags", lambda *_: set())  # the log was lost: nothing is pruned
    calls.refused, calls.services = {"scheduler": "200"}, OTHERS
    assert swarm.finish(attempt) == "Swarm has rolled back the scheduler"
    assert calls.done == ["scheduler 200"]


def test_a_service_with_one_task_ends_before_its_settings_are_applied(attempt, calls):
    """Swarm would start the next database after a minute, next to the previous one."""
    services = {"db": deployed(""), "proxy": deployed(""), "redis": deployed("", stackfile.digest("redis", {}))}
    services["proxy"]["Spec"]["Mode"] = {"Global": {}}
    calls.services = services
    configuration = {"services": SERVICES | {"redis": {}, "proxy": {"deploy": {"mode": "global"}}}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compose, "configuration", lambda project: configuration)
        patch.setattr(compose, "pull_missing", lambda _, services: calls.done.append(f"pull {' '.join(services)}"))
        swarm.apply_services(attempt.project, ["db", "proxy", "redis"])
    assert calls.done == ["check", "pull db proxy", "stop db", "db proxy 200"]


def test_a_service_whose_update_is_paused_is_applied_again(attempt, calls, monkeypatch):
    """Swarm does not continue by itself."""
    calls.services = {"redis": deployed("", stackfile.digest("redis", {}), update="paused")}
    monkeypatch.setattr(compose, "configuration", lambda project: {"services": {"redis": {}}})
    monkeypatch.setattr(compose, "pull_missing", lambda *_: None)
    swarm.apply_services(attempt.project, ["redis"])
    assert calls.done == ["check", "stop redis", "redis 200"]


def test_a_release_that_fails_while_it_serves_is_explained_after_the_rollback(attempt, calls, monkeypatch):
    monkeypatch.undo()
    failed = [task("front", "200", NEW, "failed")]
    monkeypatch.setattr(stack, "tasks", lambda _: failed)
    monkeypatch.setattr(swarm.health, "WATCH_INTERVAL", 0)
    with pytest.raises(Refused, match="the front has failed after the switch"):
        swarm._watch(attempt, "prober", None)
    shown = []
    monkeypatch.setattr(updates, "show_failed", lambda _, names: shown.extend(names))
    swarm.diagnose(attempt)
    assert shown == ["front"]


@pytest.fixture
def watched(attempt, monkeypatch):
    """Watch a release for 5 s, with one probe of the proxies each second; each returns the next problem, or none."""
    times = iter(range(100))
    monkeypatch.undo()
    monkeypatch.setattr(stack, "tasks", lambda _: [])
    monkeypatch.setattr(swarm.time, "monotonic", lambda: next(times))
    monkeypatch.setattr(swarm.time, "sleep", lambda seconds: None)

    def watch(problems):
        found = iter(problems)
        monkeypatch.setattr(prober, "probe", lambda *_: {"10.0.1.2": "", "10.0.1.3": next(found, "")})
        swarm._watch(replace(attempt, project=replace(attempt.project, settings=five_seconds)), "prober", None)
        return list(found)

    five_seconds = replace(attempt.settings, watch_seconds=5)
    return watch


def test_a_proxy_may_fail_for_as_long_as_a_machine_that_died_is_in_the_dns(watched):
    """The watch ends when each proxy returns the release."""
    assert watched([*["down"] * 20, "", "not requested"]) == ["not requested"]


def test_a_proxy_that_fails_for_longer_refuses_the_release(watched):
    with pytest.raises(Refused, match=r"^still down$"):
        watched([*["down"] * 21, "still down"])


def test_a_release_that_the_proxies_do_not_return_is_explained_by_the_logs_of_api_and_front(attempt, calls):
    calls.proxies = ["proxy returned 500"]
    with pytest.raises(Refused, match="proxy returned 500"):
        swarm.roll_out(attempt, True)
    assert attempt.failed == ["api", "front"]


def test_networks_of_a_removed_stack_are_not_compared(attempt, calls, monkeypatch):
    """Otherwise the command of the message would lead to the same message again."""
    monkeypatch.setattr(updates, "wait_for_removal", lambda _: calls.done.append("wait"))
    swarm.roll_out(attempt, True)
    assert "same networks" not in calls.done
    assert calls.done.pop(0) == "check"
    assert calls.done.pop(0) == "wait"
    calls.done, calls.services = [], OTHERS
    swarm.roll_out(attempt, True)
    assert "same networks" in calls.done
    assert "wait" not in calls.done


def test_a_scheduler_that_was_being_replaced_by_the_live_release_comes_back(attempt, calls):
    calls.services = OTHERS | live_services() | {"scheduler": deployed("100", single=True, replicas=0)}
    swarm.withdraw(attempt)
    assert calls.done == ["stop scheduler", "scheduler 100"]


def test_a_rollback_by_swarm_itself_is_not_a_problem(attempt, calls, monkeypatch):
    """It may come just before ours, which Swarm then refuses: it knows no state before."""
    calls.services = live_services() | {"api": deployed("200", previous="100")}

    def roll_back(project, name):
        calls.services[name] = deployed("100", update="rollback_started")
        raise Refused("does not have a previous spec")

    monkeypatch.setattr(stack, "roll_back", roll_back)
    swarm.withdraw(attempt)
    monkeypatch.setattr(stack, "roll_back", lambda *_: (_ for _ in ()).throw(Refused("no connection")))
    calls.services = live_services() | {"api": deployed("200", previous="100")}
    with pytest.raises(Refused, match="no connection"):
        swarm.withdraw(attempt)


def live_services(**changed):
    found = {name: deployed("100", stackfile.digest(name, SERVICES[name])) for name in REPLICAS}
    return found | {name: deployed("100", digest) for name, digest in changed.items()} | OTHERS


@pytest.mark.parametrize(
    ("changed", "is_kept"), [({}, True), ({"api": "other"}, False), ({"worker": ""}, False), ({"scheduler": ""}, True)]
)
def test_the_live_release_is_kept_if_nothing_has_changed(attempt, calls, changed, is_kept):
    calls.services = live_services(**changed)
    (attempt.directory / "releases" / NEW).mkdir()
    assert swarm.keep_live(replace(attempt, live=Live("100", NEW, ()))) == is_kept
    assert calls.done == ["proxies"] * is_kept


def test_a_live_release_that_was_scaled_by_hand_is_replaced(attempt, calls):
    calls.services = live_services()
    calls.services["worker"] = deployed("100", stackfile.digest("worker", SERVICES["worker"]), replicas=0)
    (attempt.directory / "releases" / NEW).mkdir()
    assert not swarm.keep_live(replace(attempt, live=Live("100", NEW, ())))


def test_a_live_release_that_fails_a_check_is_deployed_again(attempt, calls, capsys):
    calls.services, calls.proxies = live_services(), ["/healthz of proxy (10.0.1.2) returned 503"]
    (attempt.directory / "releases" / NEW).mkdir()
    assert not swarm.keep_live(replace(attempt, live=Live("100", NEW, ())))
    assert "fails a check (/healthz of proxy (10.0.1.2) returned 503)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("deploy_id", "tasks", "expected"),
    [
        ("100", [task("api", "100", OLD), task("front", "100", OLD)], ("100", OLD, 2)),
        # A deploy was killed: Swarm runs both, and .env decides.
        ("100", [task("api", "200", NEW), task("front", "100", OLD)], ("100", OLD, 1)),
        ("100", [task("api", "200", NEW), task("front", "200", NEW)], ("", "", 0)),
        # A first deploy was killed after the front was updated, or before.
        ("", [task("api", "200", NEW), task("front", "200", NEW)], ("200", NEW, 2)),
        ("", [task("api", "200", NEW)], ("", "", 0)),
        ("100", [task("api", "100", OLD, "starting")], ("", "", 0)),
    ],
)
def test_what_is_live_after_a_killed_deploy(attempt, calls, deploy_id, tasks, expected):
    calls.tasks = tasks
    found = swarm.find_live(attempt.directory, replace(attempt.settings, deploy_id=deploy_id))
    assert (found.deploy_id, found.tag, len(found.containers)) == expected


@pytest.fixture
def info(monkeypatch):
    """The state of the engine's Swarm."""
    found = {"LocalNodeState": "active", "ControlAvailable": True}
    monkeypatch.setattr(engine, "get", lambda path, query=None: {"Swarm": found})
    monkeypatch.setattr(engine, "containers", lambda project, *labels: [])
    monkeypatch.setattr(repair, "remove_leftovers", lambda *_: None)
    monkeypatch.setattr(stack, "end_jobs", lambda _: None)
    return found


def test_a_server_without_a_swarm_is_refused(attempt, calls, info):
    info |= {"LocalNodeState": "inactive", "ControlAvailable": False}
    with pytest.raises(Refused, match=r"this server is no manager of a Swarm: see docs/swarm\.md"):
        swarm.clean_up(attempt.directory, attempt.settings)


def test_containers_of_compose_are_not_touched(attempt, calls, info, monkeypatch):
    monkeypatch.setattr(engine, "containers", lambda project, *labels: [container("100", OLD)])
    message = (
        r"containers of Compose are still there \(quai-api-100\): .* && sudo docker compose down --remove-orphans$"
    )
    with pytest.raises(Refused, match=message):
        swarm.clean_up(attempt.directory, attempt.settings)
    assert calls.done == []
