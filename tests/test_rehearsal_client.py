"""The rehearsal as a client: settings, logins, the release that is live, and the writes that are stored at the end."""

import json
from dataclasses import replace

import pytest

from tests.rehearsal.application import Count, Credentials, Invariant, Request, WebSocket
from tests.rehearsal.client import Client
from tests.rehearsal.failures import Failed
from tests.rehearsal.fakes import APPLICATION, REQUESTS, TAG, FaultyServer, FolderServer
from tests.rehearsal.rehearsal import Rehearsal
from tests.rehearsal.server import wait_for

LOGIN = Credentials(
    {"Authorization": "Bearer ${token}"},
    Request("/login", "POST", body='{"password": "${PASSWORD}"}'),
    "data.access",
)


@pytest.fixture
def server():
    with FaultyServer() as server:
        yield server


@pytest.fixture
def rehearsal(server, tmp_path):
    rehearsal = Rehearsal(FolderServer(tmp_path), None, APPLICATION, {}, 200)
    rehearsal.server.url = server.url
    rehearsal.commits["first"] = TAG
    rehearsal.run["scenarios"] = [{"error": None, "passed": True}]
    return rehearsal


def test_settings_are_added_and_read_as_compose_does(rehearsal):
    rehearsal.server.add_settings({"HEALTH_SECONDS": "30", "KEY": "a&b|'c'", "URL": "http://${KEY}/${MISSING}"})
    text = rehearsal.server.exec("cat .env")
    assert text == "API_TOKEN=\nHEALTH_SECONDS=30\nKEY=a&b|'c'\nURL=http://${KEY}/${MISSING}"
    assert rehearsal.server.values() == {
        "API_TOKEN": "",
        "HEALTH_SECONDS": "30",
        "KEY": "a&b|'c'",
        "URL": "http://a&b|'c'/",
    }


def test_placeholders_and_credentials_are_filled_in(rehearsal, server):
    rehearsal.server.add_settings({"PASSWORD": "secret"})
    server.responses = {"/login": (200, {"data": {"access": "the-token"}})}
    headers = {"X-Password": "${PASSWORD}"}
    write = Request("/${first_commit}/${id}", "POST", headers, '"${token} ${id}"', credentials=True, status=201)
    client = Client(rehearsal.server, replace(APPLICATION, credentials=LOGIN, requests=(write, Request("/"))), TAG)
    assert server.received == [("POST", "/login")]
    assert json.loads(server.sent[0][1]) == {"password": "secret"}
    filled = {"Authorization": "Bearer the-token", "X-Password": "secret"}
    assert client.fill_requests() == [
        Request(f"/{TAG}/${{id}}", "POST", filled, '"the-token ${id}"', status=201),
        Request("/"),
    ]
    websocket = WebSocket("/ws?token=${token}", "${PASSWORD}", "from ${first_commit}")
    assert client.fill_websocket(websocket) == WebSocket("/ws?token=the-token", "secret", f"from {TAG}")


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, {"detail": "no"}, r'POST /login returned 401: {"detail": "no"}'),
        (200, {"data": "no"}, "expected JSON with data.access; POST /login returned 200"),
        (200, {"data": {"access": None}}, "expected one token in data.access, found 0"),
        (200, {"data": [{"access": 1}, {"access": 2}]}, "expected one token in data.access, found 2"),
    ],
)
def test_failed_login_is_an_error(rehearsal, server, status, body, message):
    server.responses = {"/login": (status, body)}
    rehearsal.server.add_settings({"PASSWORD": ""})
    with pytest.raises(Failed, match=message):
        Client(rehearsal.server, replace(APPLICATION, credentials=LOGIN), TAG)


def test_live_tag_is_in_the_header_of_each_response_without_a_server_error(rehearsal, server):
    server.responses = {"/healthz": (404, None)}
    assert rehearsal.live_tag() == TAG
    assert server.received == [("GET", "/healthz")]
    server.responses = {"/healthz": (503, None)}
    assert rehearsal.live_tag() is None
    server.responses = {}
    server.fault = lambda number, method: "no response"
    assert rehearsal.live_tag() is None


def test_body_of_an_error_is_not_returned(rehearsal, server):
    server.responses = {"/a": (301, "moved"), "/b": (400, "wrong")}
    assert rehearsal.get("/a") == '"moved"'
    with pytest.raises(Failed, match='GET /b returned 400: "wrong"'):
        rehearsal.get("/b")


def test_application_is_prepared_by_compose_commands(rehearsal, tmp_path):
    rehearsal.application = replace(APPLICATION, prepare=("touch 'a b'", "mv 'a b' c"))
    rehearsal.prepare()
    assert (tmp_path / "c").exists()


def test_ids_are_listed_by_a_command_or_a_request(rehearsal, server, tmp_path):
    (tmp_path / "ids").write_text("\na b\n  c  \n")
    server.responses = {"/ids": (200, {"items": [{"id": 1}, {"id": None}, {"id": "x"}]}), "/list": (200, ["a", "b"])}
    client = Client(rehearsal.server, APPLICATION, TAG)
    assert client.list_ids(Count(command="cat ids")) == ["a b", "c"]
    assert client.list_ids(Count(request=Request("/ids"), field="items.id")) == ["1", "x"]
    assert client.list_ids(Count(request=Request("/list"))) == ["a", "b"]
    with pytest.raises(Failed, match=r"expected JSON with items\.name; GET /ids returned 200"):
        client.list_ids(Count(request=Request("/ids"), field="items.name"))


def send_and_stop(rehearsal, server):
    rehearsal.start_traffic()
    wait_for("writes", lambda: len(server.stored) > 4)
    rehearsal.stop_traffic()


def test_a_part_of_the_load_can_be_sent(rehearsal, server):
    others = Request("/count", counted="notes"), Request("/head", "HEAD")
    rehearsal.application = replace(APPLICATION, requests=(*REQUESTS, *others))
    rehearsal.start_traffic()
    with rehearsal.send_only(lambda request: request.is_read):
        number = len(server.received)
        wait_for("all reads, twice", lambda: len(server.received) > number + 9)
        reads = {("GET", "/version"), ("GET", "/notes?limit=5"), ("GET", "/"), ("HEAD", "/head")}
        assert set(server.received[number:]) == reads
    with rehearsal.send_only(lambda request: False):
        assert rehearsal.traffic is None
    number = len(server.received)
    wait_for("the whole load", lambda: ("GET", "/count") in server.received[number:])
    rehearsal.stop_traffic()


def test_lost_and_duplicated_writes_of_all_counts_are_added(rehearsal, server, tmp_path, capsys):
    other = replace(REQUESTS[0], counted="other")
    counts = {"notes": Count(command="cat notes"), "other": Count(request=Request("/all"))}
    rehearsal.application = replace(APPLICATION, requests=(*REQUESTS, other), counts=counts)
    send_and_stop(rehearsal, server)
    ids = {name: [one["id"] for one in rehearsal.records if one["counted"] == name] for name in counts}
    (tmp_path / "notes").write_text("\n".join([*ids["notes"][1:], ids["notes"][1]]))
    server.responses = {"/all": (200, [*ids["other"][1:], "x", "x", ids["other"][1]])}
    rehearsal.end_traffic()
    assert (rehearsal.run["lost"], rehearsal.run["duplicated"]) == (2, 3)
    assert f"notes: 1 lost, for example {ids['notes'][0]}" in capsys.readouterr().out


def test_writes_of_a_queue_are_awaited(rehearsal, server, tmp_path):
    (tmp_path / "notes").touch()
    count = Count(command="bash -c 'cat notes; cp stored notes'", wait=20)  # complete the second time
    rehearsal.application = replace(APPLICATION, counts={"notes": count})
    send_and_stop(rehearsal, server)
    (tmp_path / "stored").write_text("\n".join(server.stored))
    rehearsal.end_traffic()
    assert (rehearsal.run["lost"], rehearsal.run["duplicated"]) == (0, 0)


def test_wait_for_writes_ends(rehearsal, tmp_path):
    (tmp_path / "notes").touch()
    client = Client(rehearsal.server, APPLICATION, TAG)
    assert client.count_writes(Count(command="cat notes", wait=0.1), ["a"]) == ({"a"}, set())


def test_uncounted_writes_are_not_zero(rehearsal, server):
    send_and_stop(rehearsal, server)
    rehearsal.end_traffic()
    assert rehearsal.run["lost"] is rehearsal.run["duplicated"] is None
    assert rehearsal.run["scenarios"][0]["passed"]


def test_failed_count_fails_the_last_scenario_and_counts_nothing(rehearsal, server):
    counts = {"notes": Count(command="true"), "other": Count(command="false")}
    invariants = (
        Invariant("fails", "false", ""),
        Invariant("holds", "echo ' 0'", "0\n"),
        Invariant("no", "echo 1", "0"),
    )
    rehearsal.application = replace(APPLICATION, counts=counts, invariants=invariants)
    send_and_stop(rehearsal, server)
    rehearsal.end_traffic()
    assert rehearsal.run["lost"] is rehearsal.run["duplicated"] is None
    assert rehearsal.run["scenarios"][0]["error"].count("CalledProcessError") == 2
    assert rehearsal.run["violations"] == ["no"]


def test_failed_requests_of_all_loads_are_counted(rehearsal, server):
    server.fault = lambda number, method: "500"
    rehearsal.start_traffic()
    for _ in range(2):
        received = len(server.received)
        wait_for("more requests", lambda received=received: len(server.received) > received)
        with rehearsal.without_traffic():
            assert rehearsal.count_failed_requests() == len(server.received) > received
    rehearsal.stop_traffic()
    assert rehearsal.count_failed_requests() == len(server.received)
