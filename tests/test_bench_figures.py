"""The figures of the benchmark, from synthetic requests and containers."""

import json

import pytest

from tests.rehearsal.bench.figures import (
    Container,
    compare_with_startup,
    container,
    describe,
    figures,
    incident_figures,
    new_bytes,
    only_new_seconds,
    seconds_until_switch,
    startup_seconds,
)
from tests.rehearsal.traffic import Summary

OLD, NEW = "a" * 40, "b" * 40


def request(at, tag=None, **more):
    record = {"at": at, "late": 0.0, "seconds": 0.5, "method": "GET", "status": 200, "expected": 200, "error": None}
    return {**record, "tag": tag, "counted": None, "id": None, **more}


def mark(began, ended, old=OLD, new=NEW):
    return {"began": began, "ended": ended, "old": old, "new": new}


def api(tag, number=1, state="running", restarts=0, service="api", is_task=False):
    return Container(f"quai-{service}-{number}", service, tag, state, restarts, None, is_task)


def inspected(image, labels, state="running", restarts=0):
    found = {"Name": "/quai-api-1", "Config": {"Image": image, "Labels": labels}, "RestartCount": restarts}
    return found | {"State": {"Status": state, "StartedAt": "2026-11-25T00:00:00.5Z"}}


def test_both_releases_answer_until_the_old_one_is_gone():
    records = [request(99, OLD), request(101, OLD), request(102, NEW), request(103, OLD), request(104, NEW)]
    assert only_new_seconds([*records, request(105)], mark(100, 110), 120) == 3.5


def test_no_release_answers_until_the_new_one_does():
    records = [request(100.1, OLD), request(101, status=502), request(102, NEW)]
    assert only_new_seconds(records, mark(100, 101), 120) == 2.5


def test_requests_of_the_next_replacement_are_not_counted():
    records = [request(101, NEW), request(121, OLD)]
    assert only_new_seconds(records, mark(100, 110), 120) == 1.5


def test_a_new_release_that_never_answers_has_no_seconds():
    assert only_new_seconds([request(101, OLD)], mark(100, 110), 120) is None


def test_figures_of_two_replacements():
    posts = [
        request(100 + n, method="POST", status=201, expected=201, counted="notes", id=f"note {n}") for n in range(4)
    ]
    records = [*posts, request(101, OLD), request(102, NEW, seconds=0.75), request(103, status=502)]
    records += [request(121, NEW), request(123, OLD)]
    marks = [mark(100, 106.25), mark(120, 127, NEW, OLD)]
    stored = ["note 0", "note 1", "note 1", "note 3", "of an earlier run", "of an earlier run"]
    assert figures(Summary(records), marks, stored) == {
        "requests": 9,
        "failed": 1,
        "first_failures": [request(103, status=502)],
        "acknowledged": 4,
        "lost": 1,
        "duplicated": 1,
        "longest_seconds": 0.75,
        "only_new_seconds": [2.75, 3.5],
        "command_seconds": [6.25, 7],
    }


def test_figures_of_an_incident_begin_with_the_requests_in_flight():
    records = [
        request(90, status=502, seconds=2),
        request(99.6, seconds=0.75, error="reset", status=None),
        request(101, NEW),
        request(110, NEW),
    ]
    incident = {"start": 100, "end": 105, "old": OLD, "new": NEW, "expected": NEW, "exit_code": 1}
    incident["containers"] = [api(NEW), api("", service="db")]
    found = incident_figures(Summary(records), incident, [])
    assert (found["failed"], found["requests"], found["answered_by_new"], found["exit_code"]) == (1, 3, 2, 1)
    assert found["longest_seconds"] == 0.75
    assert found["running"] == "new release"
    assert [one["name"] for one in json.loads(json.dumps(found))["containers"]] == ["quai-api-1"]


def test_a_container_belongs_to_a_release_by_its_image_or_its_label():
    compose = "com.docker.compose.service"
    assert container(inspected(f"localhost:5000/quai:{OLD}", {compose: "api"}, restarts=2)) == api(OLD, restarts=2)
    assert container(inspected("localhost:5000/front:1", {compose: "front", "quai.tag": NEW})).tag == NEW
    assert container(inspected("localhost:5000/front:1", {compose: "proxy"})).tag == ""
    task = container(inspected(f"localhost:5000/quai:{OLD}", {"com.docker.swarm.service.name": "quai_api"}))
    assert (task.service, task.is_task) == ("api", True)
    assert container(inspected(f"localhost:5000/quai:{OLD}", None)).service == ""


@pytest.mark.parametrize(
    ("containers", "records", "expected", "words"),
    [
        ([api(OLD)], [request(1, OLD)], OLD, "old release"),
        ([api(NEW), api(NEW, service="front")], [request(1, NEW)], NEW, "new release"),
        (
            [api(NEW, restarts=3, state="restarting")],
            [request(1, NEW), request(2, status=502), request(3), request(4)],
            OLD,
            "new release, crash-looping; 25% of requests fail",
        ),
        ([api(NEW, restarts=1)], [request(1, status=502)] * 2, OLD,
         "new release, crash-looping; answers: none; 100% of requests fail"),
        ([], [request(1, status=502)], NEW, "nothing; 100% of requests fail"),
        ([api(OLD)], [*[request(n, OLD) for n in range(999)], request(1000, status=502)], OLD,
         "old release; 1% of requests fail"),
        (
            [api(OLD), api(NEW, 2)],
            [request(1, OLD), request(2, NEW)],
            NEW,
            "old release and new release; left over: quai-api-1 (old release, running)",
        ),
        ([api(NEW), api(NEW, 2)], [request(1, NEW)], NEW,
         "new release; left over: quai-api-2 (new release, running)"),
        ([api(NEW), api(OLD, 2, "exited")], [request(1, NEW)], NEW,
         "new release; left over: quai-api-2 (old release, exited)"),
        ([api(NEW), api(NEW, service="check")], [request(1, NEW)], NEW,
         "new release; left over: quai-check-1 (new release, running)"),
        ([api(NEW), api(OLD, 2, "exited", is_task=True)], [request(1, NEW)], NEW, "new release"),
    ],
)  # fmt: skip
def test_the_state_afterwards_in_words(containers, records, expected, words):
    assert describe([*containers, api("", service="proxy")], records, OLD, NEW, expected) == words


def health(*codes):
    log = [{"ExitCode": code, "End": f"2026-11-25T01:00:0{n + 1}.750000000+01:00"} for n, code in enumerate(codes)]
    return {"StartedAt": "2026-11-25T00:00:00.500000001Z", "Health": {"Log": log}}


def test_startup_ends_with_the_first_successful_health_check():
    assert startup_seconds(health(1, 1, 0, 0)) == 3.25
    assert startup_seconds(health(0, 0)) == 1.25
    assert startup_seconds(health(1, 0, 0, 0, 0)) == 2.25
    assert startup_seconds(health(1, 1)) is None
    assert startup_seconds({"StartedAt": "2026-11-25T00:00:00Z"}) is None


def test_no_startup_when_docker_may_have_dropped_the_first_successful_check():
    assert startup_seconds(health(0, 0, 0, 0, 0)) is None


def test_no_startup_from_a_check_before_the_last_restart():
    assert startup_seconds(health(0, 0) | {"StartedAt": "2026-11-25T00:00:09Z"}) is None


def test_the_steps_before_the_switch_are_added():
    steps = {"repair": 0.1, "pull": 0.25, "wait": 1.5, "switch": 0.05, "watch": 5.0}
    assert seconds_until_switch(steps) == 1.85
    with pytest.raises(ValueError, match="no switch"):
        seconds_until_switch({"repair": 0.1})


def test_a_deploy_is_compared_with_the_startup():
    measured = {"error": None, "startup_seconds": [2.0, None, 2.2, 9.0], "only_new_seconds": [3.3, None, 3.3]}
    measured |= {"command_seconds": [9.2, 9.0, 9.4], "watch_seconds": 5}
    assert compare_with_startup(measured) == {"startup_seconds": 2.2, "ratio": 1.5, "other_seconds": 2.0}
    assert compare_with_startup(measured | {"startup_seconds": [None]}) is None
    assert compare_with_startup(measured | {"only_new_seconds": [None]}) is None
    assert compare_with_startup({"error": "no engine"}) is None


def test_blobs_that_the_registry_has_are_not_pushed():
    base, code, settings = ({"digest": f"sha256:{n}", "size": n} for n in (5000, 70, 3))
    before = {"config": settings, "layers": [base, {"digest": "sha256:old", "size": 60}]}
    after = {"config": {"digest": "sha256:new", "size": 4}, "layers": [base, code, code]}
    assert new_bytes(before, after) == 74
    assert new_bytes(before, before) == 0
