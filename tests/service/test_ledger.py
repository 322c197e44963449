"""Deploys, what is live, the four figures, and notes that are sent twice."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from conftest import AUTHENTICATED, TOKEN, add_note, deploy, is_problem, record
from fastapi.testclient import TestClient

from service.app import create_app

FULL = {
    "outcome": "refused",
    "reason": "the new container is crashing",
    "actor": "the deploy key",
    "committed_at": "2026-01-02T03:00:00Z",
    "ended_at": "2026-01-02T03:04:05.678000Z",
    "seconds": {"pull": 1.25, "wait": 2},
}
TOLD = {
    "id": "1790000000",
    "time": "2026-01-02T03:04:05Z",
    "tag": "a",
    "outcome": "live",
    "by": "the deploy key",
    "reason": "",
    "committed": "",
    "seconds": {"pull": 1.25, "wait": 2.5},
    "text": "image:a is live",
}


def tell(client, **more):
    return client.post("/deploys", json=TOLD | more, headers=AUTHENTICATED)


def at(hours, minutes=0):
    """That long ago."""
    return (datetime.now(UTC) - timedelta(hours=hours, minutes=minutes)).isoformat()


def tags(answer):
    assert answer.status_code == 200
    return [item["tag"] for item in answer.json()["items"]]


# --- deploys


def test_a_deploy_is_recorded_with_all_that_was_said(client):
    answer = record(client, "a", "1", FULL)
    assert answer.status_code == 201
    recorded = answer.json()
    assert datetime.fromisoformat(recorded.pop("recorded_at")).utcoffset() == timedelta(0)
    assert recorded == FULL | {"tag": "a", "attempt": "1"}
    assert client.get("/deploys").json() == {"items": [answer.json()], "next": None}


def test_the_same_attempt_again_is_200_and_recorded_once(client):
    first = record(client, "a", "1", FULL)
    same = FULL | {"ended_at": "2026-01-02T04:04:05.678+01:00", "seconds": {"wait": 2.0, "pull": 1.25}, "more": 1}
    again = record(client, "a", "1", same)
    assert (again.status_code, again.json()) == (200, first.json())
    assert len(client.get("/deploys").json()["items"]) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"outcome": "live"},
        {"reason": ""},
        {"actor": "root"},
        {"committed_at": None},
        {"ended_at": "2026-01-02T03:04:06Z"},
        {"seconds": {"pull": 1.25}},
    ],
    ids=str,
)
def test_the_same_attempt_with_other_content_is_409_and_changes_nothing(client, other):
    first = record(client, "a", "1", FULL).json()
    assert is_problem(record(client, "a", "1", FULL | other), 409)["detail"] == (
        f"attempt 1 was recorded with another {next(iter(other))}"
    )
    assert client.get("/deploys").json()["items"] == [first]


def test_an_attempt_belongs_to_one_release(client):
    record(client, "a", "1", FULL)
    assert is_problem(record(client, "b", "1", FULL), 409)["detail"] == "attempt 1 was recorded with another tag"
    assert tags(client.get("/releases")) == ["a"]


def test_attempts_at_the_same_time_are_recorded_once(client):
    with ThreadPoolExecutor(16) as pool:
        same = list(pool.map(lambda _: record(client, "a", "1", FULL), range(32)))
        others = list(pool.map(lambda n: record(client, "b", str(n)), range(100, 116)))
        contrary = list(pool.map(lambda n: record(client, "c", "2", FULL | {"reason": str(n)}), range(16)))
    assert sorted(answer.status_code for answer in same) == [200] * 31 + [201]
    assert len({answer.text for answer in same}) == 1
    assert [answer.status_code for answer in others] == [201] * 16
    assert sorted(answer.status_code for answer in contrary) == [201] + [409] * 15
    assert sorted(tags(client.get("/releases"))) == ["a", "b", "c"]
    assert sorted(tags(client.get("/deploys?limit=100"))) == ["a"] + ["b"] * 16 + ["c"]


def test_a_webhook_records_the_same(client):
    answer = tell(client)
    assert answer.status_code == 201
    told = deploy(ended=TOLD["time"], actor=TOLD["by"], seconds=TOLD["seconds"])
    assert record(client, "a", TOLD["id"], told).json() == answer.json()
    assert tell(client, text="another").status_code == 200
    assert is_problem(tell(client, outcome="refused"), 409)
    assert tell(client, id="2", committed="2026-01-02T03:00:00Z").json()["committed_at"] == "2026-01-02T03:00:00Z"


def test_deploys_can_be_searched(client):
    for number, (tag, outcome, day) in enumerate([("a", "live", 1), ("b", "refused", 2), ("b", "live", 3)]):
        record(client, tag, str(number), deploy(outcome, f"2026-01-0{day}T00:00:00Z"))
    assert tags(client.get("/deploys")) == ["b", "b", "a"]
    assert tags(client.get("/deploys?outcome=live")) == ["b", "a"]
    assert tags(client.get("/deploys?tag=a")) == ["a"]
    assert tags(client.get("/deploys?tag=b&outcome=refused")) == ["b"]
    assert tags(client.get("/deploys?since=2026-01-02T00:00:00Z")) == ["b", "b"]
    assert tags(client.get("/deploys?until=2026-01-02T00:00:00Z")) == ["a"]
    page = client.get("/deploys?limit=1&tag=b").json()
    assert tags(client.get(f"/deploys?tag=b&before={page['next']}")) == ["b"]
    assert is_problem(client.get("/deploys?since=2026-01-02"), 422)["errors"][0]["field"] == "since"


def test_releases_can_be_searched_by_how_their_tag_begins(client):
    for tag in ("v1.0", "v1_0", "v1.1"):
        record(client, tag)
    assert tags(client.get("/releases?tag=v1.")) == ["v1.1", "v1.0"]
    assert tags(client.get("/releases?tag=v1_")) == ["v1_0"]  # not LIKE's wildcard


@pytest.mark.parametrize(
    "moment",
    [
        "2026-01-02 03:04:05Z",
        "2026-01-02T03:04:05",
        "2026-01-02",
        "1790000000",
        1790000000,
    ],
)
def test_a_time_that_is_no_moment_is_422(client, moment):
    errors = is_problem(record(client, "a", "1", deploy(ended=moment)), 422)["errors"]
    assert errors == [{"field": "ended_at", "message": "a time such as 2026-01-31T12:00:00Z is wanted"}]


@pytest.mark.parametrize(
    ("moment", "recorded"),
    [
        ("2026-01-02t03:04:05.5+01:00", "2026-01-02T02:04:05.500000Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ("0001-01-01T00:00:00+14:00", "0001-01-01T00:00:00Z"),
        ("9999-12-31T23:59:59.999999-14:00", "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_moments_are_kept_in_utc(client, moment, recorded):
    assert record(client, "a", "1", deploy(ended=moment)).status_code == 201
    assert record(client, "a", "1", deploy(ended=moment)).json()["ended_at"] == recorded
    assert client.get("/live").json()["since"] == recorded


@pytest.mark.parametrize(
    "seconds", ['{"pull": -1}', '{"pull": NaN}', '{"pull": true}', '{"pull": "1"}', '{"\\ud800": 1}', '{"pull": 1e400}']
)
def test_seconds_that_are_none_are_422(client, seconds):
    body = f'{{"outcome": "live", "ended_at": "2026-01-02T03:04:05Z", "seconds": {seconds}}}'
    headers = AUTHENTICATED | {"Content-Type": "application/json"}
    answer = client.put("/releases/a/deploys/1", content=body, headers=headers)
    assert is_problem(answer, 422)["errors"][0]["field"].startswith("seconds.")


# --- what is live


def test_nothing_is_live_at_first(client):
    record(client, "a", "1", deploy("refused"))
    assert is_problem(client.get("/live"), 404)["detail"] == "nothing is live yet"
    assert client.get("/rollbacks").json() == {"items": []}


def test_live_is_what_went_live_or_back_last(client):
    record(client, "a", "1", deploy(ended=at(9), actor="anna", seconds={"pull": 2}))
    record(client, "b", "2", deploy(ended=at(7)))
    record(client, "c", "3", deploy("refused", ended=at(6)))
    assert client.get("/live").json()["tag"] == "b"
    assert tags(client.get("/rollbacks")) == ["a"]
    back = record(client, "a", "4", deploy("rolled_back", ended=at(5), actor="anna", seconds={"pull": 1})).json()
    assert client.get("/live").json() == {"tag": "a", "since": back["ended_at"], "by": "anna", "seconds": {"pull": 1}}
    assert tags(client.get("/rollbacks")) == ["b"]
    record(client, "z", "5", deploy(ended=at(8)))  # told late
    assert client.get("/live").json()["tag"] == "a"
    assert tags(client.get("/rollbacks")) == ["b", "z"]
    assert tags(client.get("/rollbacks?limit=1")) == ["b"]


def test_a_release_is_shown_with_the_deploy_that_ended_last(client):
    last = record(client, "a", "1", deploy(ended=at(1))).json()
    record(client, "a", "2", deploy("refused", ended=at(2)))
    record(client, "b", "3", deploy(ended=at(0)))
    release = client.get("/releases/a").json()
    assert (release["tag"], release["last_deploy"]) == ("a", last)


# --- the four figures


def test_nothing_is_computed_from_nothing(client):
    record(client, "old", "1", deploy(ended=at(31 * 24)))
    assert client.get("/figures").json() == {
        "days": 30,
        "deploys_per_day": None,
        "lead_time_seconds": None,
        "change_failure_rate": None,
        "time_to_restore_seconds": None,
    }


def test_the_four_figures(client):
    told = [
        # tag, outcome, hours ago that it ended, minutes before that it was committed
        ("ancient", "live", 11 * 24, 1),
        ("a", "live", 20, 10),
        ("b", "live", 18, 20),
        ("a", "rolled_back", 17, 10),  # b failed for an hour
        ("c", "refused", 16, 5),  # never served
        ("c", "live", 15, 90),
        ("c", "live", 12, 270),  # with other settings: no new lead time
        ("ancient", "live", 10, 1 + 60 * (11 * 24 - 10)),
        ("c", "rolled_back", 7, 90),  # ancient failed for three hours
        ("a", "rolled_back", 6, 10),  # no change failed by this
    ]
    for number, (tag, outcome, hours, minutes) in enumerate(told):
        record(client, tag, str(number), deploy(outcome, at(hours), committed_at=at(hours, minutes)))
    figures = client.get("/figures?days=10").json()
    assert figures["deploys_per_day"] == 0.5
    assert figures["lead_time_seconds"] == pytest.approx(20 * 60, abs=1)
    assert figures["change_failure_rate"] == pytest.approx(2 / 5)
    assert figures["time_to_restore_seconds"] == pytest.approx(2 * 3600, abs=1)
    only_rollbacks = client.get("/figures?days=1").json()
    assert only_rollbacks["deploys_per_day"] == 5
    assert is_problem(client.get("/figures?days=0"), 422)["errors"][0]["field"] == "days"


# --- notes


def test_a_note_that_is_sent_twice_is_left_once(client):
    record(client, "a")
    record(client, "b")
    first = add_note(client, "a", "x", "key-1")
    again = add_note(client, "a", "x", "key-1")
    assert (first.status_code, again.status_code, again.json()) == (201, 200, first.json())
    assert is_problem(add_note(client, "a", "y", "key-1"), 409)
    assert [add_note(client, *note).status_code for note in (("b", "x", "key-1"), ("a", "x", "key-2"))] == [201, 201]
    assert [add_note(client, "a", "x").status_code for _ in range(2)] == [201, 201]
    assert len(client.get("/releases/a/notes").json()["items"]) == 4


def test_notes_at_the_same_time_are_left_once(client):
    record(client, "a")
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: add_note(client, "a", f"note {n % 4}", f"key-{n % 4}"), range(64)))
    assert sorted(answer.status_code for answer in answers) == [200] * 60 + [201] * 4
    assert len({answer.json()["id"] for answer in answers}) == 4
    assert len(client.get("/releases/a/notes").json()["items"]) == 4


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 65, "é".encode()])
def test_a_key_that_is_wrong_is_422(client, key):
    record(client, "a")
    headers = AUTHENTICATED | {"Idempotency-Key": key}
    answer = client.post("/releases/a/notes", json={"text": "x"}, headers=headers)
    assert is_problem(answer, 422)["errors"][0]["field"] == "idempotency-key"


# --- who may


def test_each_of_several_tokens_is_valid(settings, migrated):
    with TestClient(create_app(replace(settings, api_token=(TOKEN, "the-next-one-0123")))) as client:
        for token, status in ((TOKEN, 201), ("the-next-one-0123", 200), (f"{TOKEN},the-next-one-0123", 401), ("", 401)):
            headers = {"Authorization": f"Bearer {token}"}
            assert client.put("/releases/a/deploys/1", json=FULL, headers=headers).status_code == status


def test_reading_can_need_a_token_too(settings, migrated):
    paths = ("/releases", "/releases/a", "/releases/a/notes", "/deploys", "/live", "/rollbacks", "/figures")
    with TestClient(create_app(replace(settings, read_access="token"))) as client:
        record(client, "a")
        for path in paths:
            assert is_problem(client.get(path), 401)
            assert client.get(path, headers=AUTHENTICATED).status_code == 200
        assert [client.get(path).status_code for path in ("/healthz", "/version")] == [200, 200]
        described = client.get("/openapi.json").json()["paths"]
    with TestClient(create_app(settings)) as client:
        assert [client.get(path).status_code for path in paths] == [200] * len(paths)
        public = client.get("/openapi.json").json()["paths"]
    assert "security" in described["/live"]["get"]
    assert "401" in described["/live"]["get"]["responses"]
    assert "security" not in public["/live"]["get"]
    assert "security" in public["/deploys"]["post"]
