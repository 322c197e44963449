"""The load generator, with servers on this machine that fail on demand."""

import subprocess
import sys
import time
import uuid
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from tests.rehearsal.application import Request
from tests.rehearsal.fakes import (
    REQUESTS,
    TAG,
    WRITE,
    FaultyServer,
    scheduled_rate,
    send_load,
)
from tests.rehearsal.server import wait_for
from tests.rehearsal.traffic import (
    ROOT,
    Traffic,
    connect,
    is_acknowledged,
    is_failed,
    lost_and_duplicated,
    send,
)


@pytest.fixture
def server():
    with FaultyServer() as server:
        yield server


def test_load_has_the_requested_rate_and_mix(server, tmp_path):
    summary = send_load(server, tmp_path, requests=200, rate=500)
    kinds = Counter((record["method"], record["path"]) for record in summary.records)
    assert summary.failed == 0, summary.failures_between(0, time.time())
    assert summary.requests == len(server.received)
    assert server.connections <= 16
    assert 200 < summary.rate < 1000
    assert scheduled_rate(summary) == pytest.approx(500, rel=0.25)
    assert kinds.keys() == {("POST", "/notes"), ("GET", "/notes"), ("GET", "/version"), ("GET", "/")}
    assert kinds["POST", "/notes"] == pytest.approx(summary.requests / 5, abs=4)
    assert kinds["GET", "/version"] == pytest.approx(summary.requests * 2 / 5, abs=4)
    assert {path for _, path in server.received} == {request.path for request in REQUESTS}
    assert {record["tag"] for record in summary.records} == {TAG}
    assert summary.acknowledged.keys() == {"notes"}
    assert lost_and_duplicated(summary.acknowledged["notes"], server.stored) == (set(), set())


def test_closed_connections_are_failures_without_a_retry(server, tmp_path):
    server.fault = lambda number, method: "no response" if number % 20 == 0 else None
    summary = send_load(server, tmp_path)
    assert summary.requests == len(server.received)
    assert summary.failed == len(server.received) // 20 > 0
    assert not set(summary.acknowledged["notes"]) ^ set(server.stored)
    failure = min(summary.failures_between(0, time.time()), key=lambda record: record["at"])
    assert failure["status"] is None
    assert "closed" in failure["error"]
    assert summary.failures_between(0, failure["at"]) == []


def test_wrong_status_and_incomplete_responses_are_failures(server, tmp_path):
    server.fault = lambda number, method: {0: "500", 9: "incomplete"}.get(number % 18)
    summary = send_load(server, tmp_path)
    failures = summary.failures_between(0, time.time())
    assert len(failures) == len(server.received) // 18 + (len(server.received) + 9) // 18
    complete = [record for record in failures if record["error"] is None]
    assert {(record["status"], record["body"]) for record in complete} == {(500, '{"tag": "of /version"}')}
    assert not [record for record in summary.records if "body" in record and record not in failures]
    assert any("IncompleteRead" in record["error"] for record in failures if record["error"])


def test_connection_close_header_is_not_a_failure(server, tmp_path):
    server.fault = lambda number, method: "connection close" if number % 5 == 0 else None
    summary = send_load(server, tmp_path)
    assert summary.failed == 0, summary.failures_between(0, time.time())
    assert server.connections > 16


def test_stalled_server_delays_requests_and_drops_none(server, tmp_path):
    def stall(number, method):
        if number == 40:
            time.sleep(0.3)  # while it holds the lock, so that every worker waits

    server.fault = stall
    summary = send_load(server, tmp_path, rate=500)
    assert summary.failed == 0, summary.failures_between(0, time.time())
    assert summary.longest_delay > 0.1
    assert summary.longest > 0.25
    assert scheduled_rate(summary) == pytest.approx(500, rel=0.25)


def test_lost_and_duplicated_notes_are_found(server, tmp_path):
    acknowledged = send_load(server, tmp_path, requests=20).acknowledged["notes"]
    lost, duplicated = acknowledged[0], acknowledged[1]
    server.stored.remove(lost)
    server.stored += [duplicated, "never acknowledged", "never acknowledged"]
    assert lost_and_duplicated(acknowledged, server.stored) == ({lost}, {duplicated, "never acknowledged"})


def test_refused_connections_are_failures(tmp_path):
    with FaultyServer() as server:
        port = server.server_port
    traffic = Traffic([f"http://127.0.0.1:{port}"], REQUESTS, 500, tmp_path / "requests.jsonl")
    traffic.start()
    time.sleep(0.05)
    summary = traffic.stop()
    assert summary.failed == summary.requests > 0


def test_early_exit_of_the_load_generator_is_an_error(server, tmp_path):
    traffic = Traffic([server.url], REQUESTS, 50, tmp_path / "requests.jsonl", seconds=0.01)
    traffic.start()
    deadline = time.monotonic() + 10
    while traffic.running and time.monotonic() < deadline:
        time.sleep(0.005)
    with pytest.raises(RuntimeError, match="exited early"):
        traffic.stop()


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org",
        "http://192.0.2.1:80",
        "https://localhost",
        "http://",
        "http://127.evil.example",
        "ftp://::1",
    ],
)
def test_load_is_sent_to_loopback_only(url, tmp_path):
    with pytest.raises(ValueError, match="loopback"):
        Traffic([url], REQUESTS, 1, tmp_path / "requests.jsonl")


@pytest.mark.parametrize("url", ["https://127.0.0.1", "https://example.org", "https://localhost.example"])
def test_certificate_must_be_for_localhost(url, tmp_path):
    with pytest.raises(ValueError, match="https://localhost"):
        Traffic([url], REQUESTS, 1, tmp_path / "requests.jsonl", ca=tmp_path / "ca.pem")


def test_requests_of_the_command_line_are_sent(server, tmp_path):
    def call(requests, *arguments, url=server.url):
        command = [sys.executable, "-m", "tests.rehearsal.traffic", "--base-url", url, "--records", str(tmp_path / "r")]
        command += ["--seconds", "0.1", *arguments]
        return subprocess.run(
            command, cwd=ROOT, input=requests, capture_output=True, text=True, timeout=20, check=False
        )

    assert "--rate" in call("", "--help").stdout
    sent = call('[{"path": "/one"}, {"path": "/two", "method": "HEAD"}]', "--rate", "100")
    assert (sent.returncode, sent.stderr) == (0, "")
    assert "requests at " in sent.stdout
    assert set(server.received) == {("GET", "/one"), ("HEAD", "/two")}
    for message, requests, arguments, url in (
        ("loopback", '[{"path": "/"}]', (), "http://192.0.2.1"),
        ("there must be a request to send", "[]", (), server.url),
        ("Expecting value", "", (), server.url),
        ("unexpected keyword argument", '[{"path": "/", "url": ""}]', (), server.url),
        ("greater than 0", '[{"path": "/"}]', ("--rate", "0"), server.url),
    ):
        rejected = call(requests, *arguments, url=url)
        assert rejected.returncode == 2
        assert message in rejected.stderr


def test_expected_status_of_a_request_decides(server, tmp_path):
    server.responses = {"/gone": (404, None), "/broken": (503, None)}
    load = [Request("/gone"), Request("/gone", status=404), Request("/broken"), Request("/gone", status=None)]
    load += [Request("/broken", status=None), Request("/broken", "HEAD", status=503)]
    records = send_load(server, tmp_path, load=load).records
    assert {(one["path"], one["method"], one["expected"], is_failed(one)) for one in records} == {
        ("/gone", "GET", 200, True),
        ("/gone", "GET", 404, False),
        ("/broken", "GET", 200, True),
        ("/gone", "GET", None, False),
        ("/broken", "GET", None, True),
        ("/broken", "HEAD", 503, False),
    }


def test_each_request_has_its_own_id(server, tmp_path):
    item = Request("/items/${id}", "POST", {"X-Id": "${id}"}, '{"text": "${id}"}', status=201, counted="items")
    summary = send_load(server, tmp_path, load=[WRITE, item, Request("/items/${id}?again=${id}")])
    assert (
        len(server.stored) == len(set(server.stored)) == sum(record["method"] == "POST" for record in summary.records)
    )
    assert set(server.stored) == {*summary.acknowledged["notes"], *summary.acknowledged["items"]}
    for (method, path), (headers, body) in zip(server.received, server.sent, strict=True):
        if method == "POST":
            assert body == f'{{"text": "{headers["X-Id"]}"}}'
            assert path in ("/notes?a=b", f"/items/{headers['X-Id']}")
        else:
            first, _, second = path.removeprefix("/items/").partition("?again=")
            assert len(first) == 36
            assert first == second
    reads = [record for record in summary.records if record["method"] == "GET"]
    assert all(record["id"] is record["counted"] is None and "?" not in record["path"] for record in reads)


def test_secrets_are_not_in_the_arguments_or_records(server, tmp_path):
    secret = uuid.uuid4().hex
    load = [Request(f"/?key={secret}", headers={"Authorization": secret})]
    traffic = Traffic([server.url], load, 200, tmp_path / "requests.jsonl")
    traffic.start()
    wait_for("a request", lambda: server.received)
    commands = ""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # the process has ended
            commands += file.read_bytes().decode(errors="replace")
    traffic.stop()
    assert "tests.rehearsal.traffic" in commands
    assert secret not in commands
    assert secret not in (tmp_path / "requests.jsonl").read_text()
    assert server.sent[0][0]["Authorization"] == secret


def test_release_of_a_json_response_replaces_the_one_of_the_header(server, tmp_path):
    records = send_load(server, tmp_path, version_path="/version").records
    assert {(one["path"], one["tag"]) for one in records if one["method"] == "GET"} == {
        ("/version", "of /version"),
        ("/notes", None),
        ("/", None),
    }


def test_slow_response_is_a_failure(server, tmp_path, monkeypatch):
    connection = connect(server.url)
    monkeypatch.setattr("tests.rehearsal.traffic.TIMEOUT", 0.1)
    server.fault = lambda number, method: time.sleep(0.2)
    record = send(connection, Request("/"), time.monotonic())
    assert (record["status"], record["error"]) == (200, "TimeoutError: longer than 0.1 s")
    assert is_failed(record)


def test_unexpected_or_incomplete_write_is_not_or_is_acknowledged():
    record = {"counted": "notes", "status": 201, "expected": 201, "error": "IncompleteRead"}
    assert is_acknowledged(record)
    assert not is_acknowledged(record | {"status": 200})
    assert not is_acknowledged(record | {"counted": None})
