"""Deploys, the live release, the DORA metrics, idempotent notes, and access."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from conftest import AUTHENTICATED, READS, TOKEN, add_note, assert_problem, deploy, record
from fastapi.testclient import TestClient

from service.app import create_app

FULL = {
    "outcome": "refused",
    "reason": "the api has exited",
    "actor": "the deploy key",
    "committed_at": "2026-01-02T03:00:00Z",
    "ended_at": "2026-01-02T03:04:05.678000Z",
    "seconds": {"pull": 1.25, "wait": 2},
}
WEBHOOK = {
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


def send_webhook(client, **more):
    return client.post("/deploys", json=WEBHOOK | more, headers=AUTHENTICATED)


def time_ago(hours, minutes=0):
    """Return the time this many hours and minutes ago, in RFC 3339."""
    return (datetime.now(UTC) - timedelta(hours=hours, minutes=minutes)).isoformat()


def read_tags(response):
    assert response.status_code == 200
    return [item["tag"] for item in response.json()["items"]]


# --- deploys


def test_deploy_is_recorded_with_all_fields(client):
    response = record(client, "a", "1", FULL)
    assert response.status_code == 201
    recorded = response.json()
    assert datetime.fromisoformat(recorded.pop("recorded_at")).utcoffset() == timedelta(0)
    assert recorded == FULL | {"tag": "a", "attempt": "1"}
    assert client.get("/deploys").json() == {"items": [response.json()], "next": None}


def test_repeated_attempt_is_200_and_recorded_once(client):
    first = record(client, "a", "1", FULL)
    same_content = FULL | {
        "ended_at": "2026-01-02T04:04:05.678+01:00",
        "seconds": {"wait": 2.0, "pull": 1.25},
        "more": 1,
    }
    again = record(client, "a", "1", same_content)
    assert (again.status_code, again.json()) == (200, first.json())
    assert len(client.get("/deploys").json()["items"]) == 1


@pytest.mark.parametrize(
    "change",
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
def test_repeated_attempt_with_different_content_is_409_and_changes_nothing(client, change):
    first = record(client, "a", "1", FULL).json()
    assert assert_problem(record(client, "a", "1", FULL | change), 409)["detail"] == (
        f"attempt 1 is already recorded with a different {next(iter(change))}"
    )
    assert client.get("/deploys").json()["items"] == [first]


def test_attempt_belongs_to_one_release(client):
    record(client, "a", "1", FULL)
    problem = assert_problem(record(client, "b", "1", FULL), 409)
    assert problem["detail"] == "attempt 1 is already recorded with a different tag"
    assert read_tags(client.get("/releases")) == ["a"]


def test_concurrent_attempts_are_recorded_once(client):
    with ThreadPoolExecutor(16) as pool:
        same = list(pool.map(lambda _: record(client, "a", "1", FULL), range(32)))
        others = list(pool.map(lambda n: record(client, "b", str(n)), range(100, 116)))
        conflicting = list(pool.map(lambda n: record(client, "c", "2", FULL | {"reason": str(n)}), range(16)))
    assert sorted(response.status_code for response in same) == [200] * 31 + [201]
    assert len({response.text for response in same}) == 1
    assert [response.status_code for response in others] == [201] * 16
    assert sorted(response.status_code for response in conflicting) == [201] + [409] * 15
    assert sorted(read_tags(client.get("/releases"))) == ["a", "b", "c"]
    assert sorted(read_tags(client.get("/deploys?limit=100"))) == ["a"] + ["b"] * 16 + ["c"]


def test_webhook_records_the_same_deploy(client):
    response = send_webhook(client)
    assert response.status_code == 201
    same_deploy = deploy(ended=WEBHOOK["time"], actor=WEBHOOK["by"], seconds=WEBHOOK["seconds"])
    assert record(client, "a", WEBHOOK["id"], same_deploy).json() == response.json()
    assert send_webhook(client, text="another").status_code == 200
    assert_problem(send_webhook(client, outcome="refused"), 409)
    assert (
        send_webhook(client, id="2", committed="2026-01-02T03:00:00Z").json()["committed_at"] == "2026-01-02T03:00:00Z"
    )


def test_deploys_can_be_filtered(client):
    for number, (tag, outcome, day) in enumerate([("a", "live", 1), ("b", "refused", 2), ("b", "live", 3)]):
        record(client, tag, str(number), deploy(outcome, f"2026-01-0{day}T00:00:00Z"))
    assert read_tags(client.get("/deploys")) == ["b", "b", "a"]
    assert read_tags(client.get("/deploys?outcome=live")) == ["b", "a"]
    assert read_tags(client.get("/deploys?tag=a")) == ["a"]
    assert read_tags(client.get("/deploys?tag=b&outcome=refused")) == ["b"]
    assert read_tags(client.get("/deploys?since=2026-01-02T00:00:00Z")) == ["b", "b"]
    assert read_tags(client.get("/deploys?until=2026-01-02T00:00:00Z")) == ["a"]
    page = client.get("/deploys?limit=1&tag=b").json()
    assert read_tags(client.get(f"/deploys?tag=b&before={page['next']}")) == ["b"]
    assert assert_problem(client.get("/deploys?since=2026-01-02"), 422)["errors"][0]["field"] == "since"


def test_releases_can_be_filtered_by_tag_prefix(client):
    for tag in ("v1.0", "v1_0", "v1.1"):
        record(client, tag)
    assert read_tags(client.get("/releases?tag=v1.")) == ["v1.1", "v1.0"]
    assert read_tags(client.get("/releases?tag=v1_")) == ["v1_0"]  # the underscore is not a wildcard


@pytest.mark.parametrize(
    "time",
    [
        "2026-01-02 03:04:05Z",
        "2026-01-02T03:04:05",
        "2026-01-02",
        "1790000000",
        1790000000,
    ],
)
def test_invalid_time_is_422(client, time):
    errors = assert_problem(record(client, "a", "1", deploy(ended=time)), 422)["errors"]
    assert errors == [{"field": "ended_at", "message": "expected a time such as 2026-01-31T12:00:00Z"}]


@pytest.mark.parametrize(
    ("time", "recorded"),
    [
        ("2026-01-02t03:04:05.5+01:00", "2026-01-02T02:04:05.500000Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ("0001-01-01T00:00:00+14:00", "0001-01-01T00:00:00Z"),
        ("9999-12-31T23:59:59.999999-14:00", "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_times_are_stored_in_utc(client, time, recorded):
    assert record(client, "a", "1", deploy(ended=time)).status_code == 201
    assert record(client, "a", "1", deploy(ended=time)).json()["ended_at"] == recorded
    assert client.get("/live").json()["since"] == recorded


@pytest.mark.parametrize(
    "seconds", ['{"pull": -1}', '{"pull": NaN}', '{"pull": true}', '{"pull": "1"}', '{"\\ud800": 1}', '{"pull": 1e400}']
)
def test_invalid_seconds_are_422(client, seconds):
    body = f'{{"outcome": "live", "ended_at": "2026-01-02T03:04:05Z", "seconds": {seconds}}}'
    headers = AUTHENTICATED | {"Content-Type": "application/json"}
    response = client.put("/releases/a/deploys/1", content=body, headers=headers)
    assert assert_problem(response, 422)["errors"][0]["field"].startswith("seconds.")


# --- the former name of the outcome `rollback`


def record_by_put(client, outcome):
    return record(client, "a", "1", deploy(outcome))


def record_by_webhook(client, outcome):
    return send_webhook(client, id="1", outcome=outcome)


@pytest.mark.parametrize("send", [record_by_put, record_by_webhook])
@pytest.mark.parametrize("first", ["rollback", "rolled_back"])
@pytest.mark.parametrize("second", ["rollback", "rolled_back"])
def test_both_names_of_rollback_record_the_same_deploy(client, send, first, second):
    created, repeated = send(client, first), send(client, second)
    assert (created.status_code, repeated.status_code) == (201, 200)
    assert created.json()["outcome"] == "rollback"
    assert repeated.json() == created.json()
    assert client.get("/deploys").json()["items"] == [created.json()]
    assert client.get("/releases/a").json()["last_deploy"] == created.json()
    assert_problem(send(client, "live"), 409)


@pytest.mark.parametrize("name", ["rollback", "rolled_back"])
def test_both_names_of_rollback_filter_deploys(client, name):
    for number, outcome in enumerate(["live", "refused", "rollback", "rolled_back"]):
        record(client, f"a{number}", str(number), deploy(outcome))
    response = client.get(f"/deploys?outcome={name}")
    assert read_tags(response) == ["a3", "a2"]
    assert {item["outcome"] for item in response.json()["items"]} == {"rollback"}


@pytest.mark.parametrize("name", ["rollback", "rolled_back"])
def test_previous_release_can_read_a_stored_rollback(client, engine, name):
    record(client, "a", "1", deploy(name))
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT outcome FROM deploys")).scalars().all() == ["rolled_back"]


def test_rollback_recorded_by_the_previous_release_is_read(client, engine):
    record(client, "a", "1", deploy("live"))
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE deploys SET outcome = 'rolled_back'"))
    assert [item["outcome"] for item in client.get("/deploys").json()["items"]] == ["rollback"]
    assert client.get("/live").json()["tag"] == "a"
    assert record(client, "a", "1", deploy("rollback")).status_code == 200


def test_openapi_documents_the_former_name_as_input_only(client):
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    assert schemas["Deploy"]["properties"]["outcome"]["enum"] == ["live", "refused", "rollback"]
    for name in ("NewDeploy", "WebhookDeploy"):
        outcome = schemas[name]["properties"]["outcome"]
        assert outcome["enum"] == ["live", "refused", "rollback", "rolled_back"]
        assert "deprecated name of `rollback`" in outcome["description"]


@pytest.mark.parametrize("outcome", ["rolled back", "Rollback", "ROLLED_BACK", ""])
def test_unknown_outcome_is_422(client, outcome):
    for response in (record_by_put(client, outcome), record_by_webhook(client, outcome)):
        assert [error["field"] for error in assert_problem(response, 422)["errors"]] == ["outcome"]
    assert_problem(client.get(f"/deploys?outcome={quote(outcome)}"), 422)


# --- the live release


def test_no_release_is_live_at_first(client):
    record(client, "a", "1", deploy("refused"))
    assert assert_problem(client.get("/live"), 404)["detail"] == "no release is live yet"
    assert client.get("/rollbacks").json() == {"items": []}


def test_live_release_is_that_of_the_last_live_or_rollback_deploy(client):
    record(client, "a", "1", deploy(ended=time_ago(9), actor="anna", seconds={"pull": 2}))
    record(client, "b", "2", deploy(ended=time_ago(7)))
    record(client, "c", "3", deploy("refused", ended=time_ago(6)))
    assert client.get("/live").json()["tag"] == "b"
    assert read_tags(client.get("/rollbacks")) == ["a"]
    rollback = record(client, "a", "4", deploy("rollback", ended=time_ago(5), actor="anna", seconds={"pull": 1})).json()
    assert client.get("/live").json() == {
        "tag": "a",
        "since": rollback["ended_at"],
        "by": "anna",
        "seconds": {"pull": 1},
    }
    assert read_tags(client.get("/rollbacks")) == ["b"]
    record(client, "z", "5", deploy(ended=time_ago(8)))  # recorded late
    assert client.get("/live").json()["tag"] == "a"
    assert read_tags(client.get("/rollbacks")) == ["b", "z"]
    assert read_tags(client.get("/rollbacks?limit=1")) == ["b"]


def test_release_includes_the_deploy_that_ended_last(client):
    last = record(client, "a", "1", deploy(ended=time_ago(1))).json()
    record(client, "a", "2", deploy("refused", ended=time_ago(2)))
    record(client, "b", "3", deploy(ended=time_ago(0)))
    release = client.get("/releases/a").json()
    assert (release["tag"], release["last_deploy"]) == ("a", last)


# --- the DORA metrics


def test_metrics_are_null_without_data(client):
    record(client, "old", "1", deploy(ended=time_ago(31 * 24)))
    assert client.get("/figures").json() == {
        "days": 30,
        "deploys_per_day": None,
        "lead_time_seconds": None,
        "change_failure_rate": None,
        "time_to_restore_seconds": None,
    }


def test_dora_metrics(client):
    deploys = [
        # tag, outcome, ended (hours ago), committed (minutes before ended)
        ("ancient", "live", 11 * 24, 1),
        ("a", "live", 20, 10),
        ("b", "live", 18, 20),
        ("a", "rollback", 17, 10),  # b failed after an hour
        ("c", "refused", 16, 5),  # does not count
        ("c", "live", 15, 90),
        ("c", "live", 12, 270),  # a repeated deploy, without a new lead time
        ("ancient", "live", 10, 1 + 60 * (11 * 24 - 10)),
        ("c", "rollback", 7, 90),  # ancient failed after three hours
        ("a", "rollback", 6, 10),  # follows a rollback, so no change failed
    ]
    for number, (tag, outcome, hours, minutes) in enumerate(deploys):
        record(client, tag, str(number), deploy(outcome, time_ago(hours), committed_at=time_ago(hours, minutes)))
    metrics = client.get("/figures?days=10").json()
    assert metrics["deploys_per_day"] == 0.5
    assert metrics["lead_time_seconds"] == pytest.approx(20 * 60, abs=1)
    assert metrics["change_failure_rate"] == pytest.approx(2 / 5)
    assert metrics["time_to_restore_seconds"] == pytest.approx(2 * 3600, abs=1)
    last_day = client.get("/figures?days=1").json()
    assert last_day["deploys_per_day"] == 5
    assert assert_problem(client.get("/figures?days=0"), 422)["errors"][0]["field"] == "days"


# --- idempotent notes


def test_repeated_note_is_added_once(client):
    record(client, "a")
    record(client, "b")
    first = add_note(client, "a", "x", "key-1")
    again = add_note(client, "a", "x", "key-1")
    assert (first.status_code, again.status_code, again.json()) == (201, 200, first.json())
    assert_problem(add_note(client, "a", "y", "key-1"), 409)
    assert [add_note(client, *note).status_code for note in (("b", "x", "key-1"), ("a", "x", "key-2"))] == [201, 201]
    assert [add_note(client, "a", "x").status_code for _ in range(2)] == [201, 201]
    assert len(client.get("/releases/a/notes").json()["items"]) == 4


def test_concurrent_notes_are_added_once(client):
    record(client, "a")
    with ThreadPoolExecutor(16) as pool:
        responses = list(pool.map(lambda n: add_note(client, "a", f"note {n % 4}", f"key-{n % 4}"), range(64)))
    assert sorted(response.status_code for response in responses) == [200] * 60 + [201] * 4
    assert len({response.json()["id"] for response in responses}) == 4
    assert len(client.get("/releases/a/notes").json()["items"]) == 4


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 65, "é".encode()])
def test_invalid_idempotency_key_is_422(client, key):
    record(client, "a")
    headers = AUTHENTICATED | {"Idempotency-Key": key}
    response = client.post("/releases/a/notes", json={"text": "x"}, headers=headers)
    assert assert_problem(response, 422)["errors"][0]["field"] == "idempotency-key"


# --- access


def test_every_token_in_api_token_is_valid(settings, migrated):
    with TestClient(create_app(replace(settings, api_token=(TOKEN, "the-next-one-0123")))) as client:
        for token, status in ((TOKEN, 201), ("the-next-one-0123", 200), (f"{TOKEN},the-next-one-0123", 401), ("", 401)):
            headers = {"Authorization": f"Bearer {token}"}
            assert client.put("/releases/a/deploys/1", json=FULL, headers=headers).status_code == status


def test_read_access_token_protects_reads(settings, migrated):
    with TestClient(create_app(replace(settings, read_access="token"))) as client:
        record(client, "a")
        for path in READS:
            assert_problem(client.get(path), 401)
            assert client.get(path, headers=AUTHENTICATED).status_code == 200
        assert [client.get(path).status_code for path in ("/healthz", "/version")] == [200, 200]
        protected = client.get("/openapi.json").json()["paths"]
    with TestClient(create_app(settings)) as client:
        assert [client.get(path).status_code for path in READS] == [200] * len(READS)
        public = client.get("/openapi.json").json()["paths"]
    assert "security" in protected["/live"]["get"]
    assert "401" in protected["/live"]["get"]["responses"]
    assert "security" not in public["/live"]["get"]
    assert "security" in public["/deploys"]["post"]
