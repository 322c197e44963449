"""Whether a release is healthy, and diagnostics if it is not."""

from functools import partial

import pytest
from server import diagnostics, engine, health
from server.engine import Container
from server.errors import Refused
from server.health import Target
from server.probe import Response, Site

FRONT = Container("f" * 12, "quai-front-2", "front", "200", "2" * 40, "running", "sha256:0", "127.0.0.1", "", {})
TARGET = Target(FRONT.tag, "/ready", Site("localhost", False))


def inspected(status="healthy", *, running=True, restarts=0, service="api", **run):
    health_state = {} if status is None else {"Health": {"Status": status, "Log": run.pop("log", [])}}
    return {
        "Config": {"Labels": {"com.docker.compose.service": service}},
        "HostConfig": {"Memory": 512 << 20},
        "RestartCount": restarts,
        "State": {"Running": running, "Status": "running", "ExitCode": 0, "OOMKilled": False, **health_state, **run},
    }


@pytest.fixture
def containers(monkeypatch):
    """Successive states reported by the engine; the last one repeats."""
    states = []
    monkeypatch.setattr(engine, "inspect", lambda one: states.pop(0) if len(states) > 1 else states[0])
    monkeypatch.setattr(health, "POLL_SECONDS", 0)
    return states


def test_it_waits_until_all_are_healthy(containers, settings):
    containers += [inspected("starting"), inspected("starting"), inspected()]
    health.wait_until_healthy(["one", "two"], settings)
    assert len(containers) == 1


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (inspected(None), "the api has no health check"),
        (inspected("starting", running=False), "the api has exited"),
        (inspected("healthy", restarts=1), "the api has exited"),
    ],
)
def test_a_container_that_cannot_become_healthy_is_refused_at_once(containers, settings, found, message):
    containers.append(found)
    with pytest.raises(Refused, match=message):
        health.wait_until_healthy(["one"], settings)


def test_worker_without_a_health_check_has_to_run(containers, settings):
    containers.append(inspected(None, service="worker"))
    health.wait_until_healthy(["one"], settings)
    containers[:] = [inspected(None, service="worker", restarts=1)]
    with pytest.raises(Refused, match="the worker has exited"):
        health.wait_until_healthy(["one"], settings)


def test_it_does_not_wait_for_ever(containers, settings, monkeypatch):
    ticks = iter(range(1000))
    monkeypatch.setattr(health.time, "monotonic", lambda: float(next(ticks)))
    containers.append(inspected("starting"))
    with pytest.raises(Refused, match=r"the api was not healthy within 60 s \(HEALTH_SECONDS in .env\)"):
        health.wait_until_healthy(["one"], settings)


def test_unhealthy_container_may_become_healthy_within_the_time_limit(containers, settings):
    """Docker's own limit can be shorter than HEALTH_SECONDS."""
    containers += [inspected("unhealthy"), inspected()]
    health.wait_until_healthy(["one"], settings)


def test_live_container_may_have_restarted_long_ago(containers, settings):
    containers.append(inspected("healthy", restarts=1))
    health.wait_until_healthy(["one"], settings, may_have_restarted=True)


@pytest.fixture
def watched(containers, settings, monkeypatch):
    """A watch of ten probes, with these answers to the health path through the front."""
    containers.append(inspected())
    clock = [0.0]
    monkeypatch.setattr(health.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(health.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))

    def watch(*statuses, check=TARGET, releases=()):
        answers, releases = iter(statuses), iter(releases)
        probes = []

        def probe(*arguments):
            probes.append(arguments)
            status, release = next(answers, 200), next(releases, FRONT.tag)
            return Response(status, "why", release, is_ready=status == 200)

        monkeypatch.setattr(health, "probe", probe)
        probe_front = partial(health.find_problem, FRONT.name, FRONT.address, check)
        health.watch(["one"], settings, probe_front, "after the switch")
        return probes

    return watch


def test_release_is_refused_if_the_previous_one_answers(watched):
    """The front asks any API while that of its own release accepts no connection."""
    message = (
        f"2 consecutive probes after the switch: /ready of quai-front-2: expected release {FRONT.tag}, found another"
    )
    with pytest.raises(Refused, match=message):
        watched(releases=[FRONT.tag, "another", "another"])


def test_the_health_path_is_requested_through_the_front(watched):
    assert watched() == [("127.0.0.1", 8080, "/ready", TARGET.site)] * 10


def test_releases_without_a_health_path_return_their_tag_as_version(settings, monkeypatch):
    """Releases of version 1, to which a rollback must remain possible."""
    api = FRONT._replace(service="api")
    target = health.make_target([FRONT, api], settings, FRONT.tag)
    assert target == (FRONT.tag, None, ("localhost", False))
    text = [f'{{"tag": "{FRONT.tag}"}}', '{"tag": "1"}']
    monkeypatch.setattr(health, "probe", lambda *arguments: Response(200, text.pop(0), is_ready=True))
    assert health.find_problem("one", "127.0.0.1", target) == ""
    assert (
        health.find_problem("one", "127.0.0.1", target) == f"/version of one: expected release {FRONT.tag}, found none"
    )


def test_check_has_the_health_path_of_the_api(settings):
    api = FRONT._replace(service="api", labels={"quai.health-path": ""})
    assert health.make_target([FRONT, api], settings, FRONT.tag).health_path == ""


def test_container_that_becomes_unhealthy_is_refused_at_once(watched, containers):
    containers += [inspected(), inspected("unhealthy")]
    with pytest.raises(Refused, match="the api became unhealthy after the switch"):
        watched()


def test_one_failed_probe_is_not_enough(watched):
    assert len(watched(200, 503, 200, 0, 200)) == 10


@pytest.mark.parametrize(
    ("status", "message"), [(503, "returned 503"), (500, "returned 500"), (0, "did not respond"), (404, "returned 404")]
)
def test_two_failed_probes_in_a_row_refuse_the_release(watched, status, message):
    with pytest.raises(Refused, match=f"2 consecutive probes after the switch: /ready of quai-front-2 {message}: why"):
        watched(200, 200, status, status)


def test_a_watch_does_not_end_with_a_failed_probe(watched):
    with pytest.raises(Refused):
        watched(*[200] * 9, 503, 503)
    assert len(watched(*[200] * 9, 503)) == 11


@pytest.mark.parametrize(
    ("found", "events", "lines"),
    [
        (inspected(restarts=2), [("die", 3)], ["exit code 3", "restarts: 2"]),
        (inspected(restarts=1), [("die", 1), ("die", 139)], ["exit code 139 (SIGSEGV)", "restarts: 1"]),
        (inspected(running=False, Status="exited", ExitCode=143), [], ["exit code 143 (SIGTERM)"]),
        (
            inspected(restarts=1),
            [("oom", None), ("die", 137)],
            [
                "exit code 137 (SIGKILL)",
                "out of memory: the kernel killed it (OOMKilled); its limit is 512 MiB",
                "restarts: 1",
            ],
        ),
        (
            inspected(running=False, Status="exited", ExitCode=137, OOMKilled=True),
            [],
            ["exit code 137 (SIGKILL)", "out of memory: the kernel killed it (OOMKilled); its limit is 512 MiB"],
        ),
        (
            inspected("starting", log=[{"Output": "Traceback:\nrefused\n"}, {"Output": ""}]),
            [],
            ["health check: refused"],
        ),
    ],
)
def test_diagnostics_describe_the_exit(containers, monkeypatch, found, events, lines):
    containers.append(found)
    monkeypatch.setattr(
        diagnostics,
        "_events",
        lambda one: [
            {"Action": action, "Actor": {"Attributes": {} if code is None else {"exitCode": str(code)}}}
            for action, code in events
        ],
    )
    assert diagnostics.describe_exit("one") == lines
