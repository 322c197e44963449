"""What is around each request: its id, its line in the log, the limit of its body, and one answer for errors."""

import http.client
import json
import logging
import re
import socket
from contextlib import closing

import pytest
import sqlalchemy as sa
from conftest import AUTHENTICATED, TOKEN, add_note, deploy, is_problem, record

from service import ledger
from service.answers import MOST_BYTES, JsonLines


@pytest.fixture
def lines(caplog, monkeypatch):
    """What has been written to the log, as it is written there."""
    monkeypatch.setenv("RELEASE", "a1b2c3")
    caplog.set_level(logging.INFO)
    return lambda: [json.loads(JsonLines().format(record)) for record in caplog.records if record.name == "service"]


# --- errors


def test_what_is_not_there_and_what_is_not_allowed_are_problems(client):
    assert is_problem(client.get("/nothing"), 404)["detail"] == "Not Found"
    assert is_problem(client.get("/releases/"), 404)
    for path, allowed in {
        "/releases": "GET, HEAD",
        "/releases/a/notes": "GET, HEAD, POST",
        "/deploys": "GET, HEAD, POST",
        "/releases/a/deploys/1": "PUT",
        "/healthz": "GET, HEAD",
    }.items():
        answer = client.patch(path)
        assert is_problem(answer, 405)
        assert answer.headers["Allow"] == allowed
    assert set(client.patch("/openapi.json").headers["Allow"].split(", ")) == {"GET", "HEAD"}


def test_head_is_answered_as_get_without_a_body(server):
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
        for path, status in {"/healthz": 200, "/version": 200, "/releases": 200, "/live": 404, "/nothing": 404}.items():
            connection.request("HEAD", path)
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (status, b"")
            assert int(answer.headers["Content-Length"]) > 10
    assert '"method": "HEAD", "path": "/version", "status": 200' in server.log.read_text()


@pytest.mark.parametrize(
    ("size", "status"), [(MOST_BYTES, 422), (MOST_BYTES + 1, 413), (2**20, 413), (10 * 2**20, 413)]
)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_long_is_413(server, size, status, chunked):
    body = json.dumps({"text": ""}).encode()
    body = body[:-2] + b"x" * (size - len(body)) + body[-2:]
    sent = (body[at : at + 10000] for at in range(0, size, 10000)) if chunked else body
    headers = AUTHENTICATED | {"Content-Type": "application/json"}
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
        try:
            connection.request("POST", "/releases/a/notes", sent, headers, encode_chunked=chunked)
            answer = connection.getresponse()
        except (BrokenPipeError, ConnectionResetError):
            assert size > 2**20  # more than the front lets through; the answer may go under in what is still sent
            return
        assert (answer.status, json.loads(answer.read())["status"]) == (status, status)


def test_the_longest_reason_is_taken_however_it_is_written(client):
    body = json.dumps(deploy(reason="\U0001f6a2" * 10_000))
    assert len(body) > 10_000 * len(r"\ud83d\udea2")
    headers = AUTHENTICATED | {"Content-Type": "application/json"}
    assert client.put("/releases/a/deploys/1", content=body, headers=headers).status_code == 201


def test_openapi_tells_each_error_as_it_is(client):
    schema = client.get("/openapi.json").json()
    assert schema["info"]["version"] == client.get("/version").json()["tag"]
    assert "HTTPValidationError" not in schema["components"]["schemas"]
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            wanted = {"500"} if path == "/version" else {"500", "503"}
            wanted |= set() if path in ("/healthz", "/version") else {"422"}
            wanted |= {"401", "413", "409"} if method in ("put", "post") else set()
            assert wanted <= operation["responses"].keys(), (path, method)
            for status, answer in operation["responses"].items():
                media = "application/json" if status < "400" else "application/problem+json"
                assert list(answer["content"]) == [media]


@pytest.mark.parametrize("seconds", ["0.1", None])
def test_a_statement_that_takes_too_long_is_503(client, engine, monkeypatch, seconds):
    if engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no such timeout")
    with client.app.state.engine.connect() as connection:
        assert connection.execute(sa.text("SHOW statement_timeout")).scalar() == "5s"
    if seconds is None:
        return
    record(client, "a")

    @sa.event.listens_for(client.app.state.engine, "connect")
    def hurry(connection, _record):
        connection.execute(f"SET statement_timeout = '{seconds}s'")
        connection.commit()

    client.app.state.engine.dispose()
    with engine.begin() as connection:
        connection.execute(sa.text("LOCK TABLE notes IN ACCESS EXCLUSIVE MODE"))
        answer = add_note(client, "a", "x")
    assert is_problem(answer, 503)["detail"] == "the database is not available"
    assert answer.headers["Retry-After"] == "1"
    assert add_note(client, "a", "x").status_code == 201


def test_a_connection_that_the_database_ended_is_replaced_unseen(client, engine):
    if engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no connections to end")
    with client.app.state.engine.connect() as connection:
        pid = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar()
    with engine.begin() as connection:
        assert connection.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid}).scalar()
    assert client.get("/releases").status_code == 200


def test_a_statement_of_ours_that_is_wrong_is_500_and_not_the_database_away(client, monkeypatch):
    def wrong(*_):
        raise sa.exc.InvalidRequestError("ours")

    monkeypatch.setattr(ledger, "live", wrong)
    assert is_problem(client.get("/live"), 500)


# --- ids and lines


def test_a_sane_id_is_taken_and_another_is_made(client, lines):
    assert client.get("/version", headers={"X-Request-ID": "a.B_9-"}).headers["X-Request-ID"] == "a.B_9-"
    made = [
        client.get("/version", headers=headers).headers["X-Request-ID"]
        for headers in ({}, {"X-Request-ID": "a b"}, {"X-Request-ID": "x" * 65}, {"X-Request-ID": "a\u00e9".encode()})
    ]
    assert len(set(made)) == 4
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in made)
    assert [line["request_id"] for line in lines()] == ["a.B_9-", *made]


def test_a_request_is_one_line_without_secrets(client, lines):
    record(client, "a", body=deploy(reason="quiet"))
    client.get("/releases?tag=hunter2", headers={"Authorization": "Bearer hunter2", "Cookie": "hunter2"})
    client.get("/nothing%0A{")
    client.get("/healthz")
    written = lines()
    assert [(line["method"], line["path"], line["status"]) for line in written] == [
        ("PUT", "/releases/a/deploys/of-a", 201),
        ("GET", "/releases", 200),
        ("GET", "/nothing\n{", 404),
    ]
    assert written[0].keys() == {"time", "level", "tag", "request_id", "method", "path", "status", "ms", "client"}
    assert (written[0]["tag"], written[0]["client"]) == ("a1b2c3", "testclient")
    assert 0 < written[0]["ms"] < 10000
    assert not re.search("hunter2|quiet|" + TOKEN, json.dumps(written))


def test_what_failed_stands_in_the_log_with_its_request(client, engine, lines, caplog):
    record(client, "a")
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE notes RENAME COLUMN created_at TO elsewhere"))
    caplog.clear()
    assert is_problem(add_note(client, "a", "hunter2"), 500)
    failure, line = lines()
    assert (failure["level"], failure["request_id"]) == ("error", line["request_id"])
    assert "Traceback" in failure["error"]
    assert "hunter2" not in json.dumps([failure, line])
    assert line["status"] == 500


def test_the_process_writes_lines_of_json_only(server, environ):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    connection.request("GET", "/version", headers={"X-Request-ID": "mine", "X-Forwarded-For": "192.0.2.7"})
    assert connection.getresponse().getheader("X-Request-ID") == "mine"
    connection.close()
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as garbage:
        garbage.sendall(b"no HTTP\r\n\r\n")
        garbage.recv(1000)
    for path in ("/healthz", "/figures"):
        connection.request("GET", path)
        connection.getresponse().read()
    connection.close()
    server.terminate()
    assert server.wait(10) == 0
    written = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert [line["client"] for line in written if line.get("request_id") == "mine"] == ["192.0.2.7"]
    assert all({"time", "level", "tag"} <= line.keys() for line in written)
    assert any("startup complete" in line.get("message", "") for line in written)
    assert [line["path"] for line in written if "path" in line] == ["/version", "/figures"]
    assert "Context impl" not in server.log.read_text()  # Alembic's, at each look at the schema
    assert TOKEN not in server.log.read_text()
