"""Each request: problem details for errors, the body limit, the request ID and the log line."""

import http.client
import json
import logging
import re
import socket
from contextlib import closing

import pytest
import sqlalchemy as sa
from conftest import AUTHENTICATED, TOKEN, add_note, assert_problem, deploy, read_json_log, record, wait_until

from service import ledger
from service.logs import JsonFormatter
from service.middleware import MAX_BODY_BYTES


@pytest.fixture
def read_log(caplog, monkeypatch):
    """Return the service's log lines so far, parsed."""
    monkeypatch.setenv("RELEASE", "a1b2c3")
    caplog.set_level(logging.INFO)
    return lambda: [json.loads(JsonFormatter().format(record)) for record in caplog.records if record.name == "service"]


# --- errors


def test_404_and_405_are_problems(client):
    assert assert_problem(client.get("/nothing"), 404)["detail"] == "Not Found"
    assert_problem(client.get("/releases/"), 404)
    for path, allowed in {
        "/releases": "GET, HEAD",
        "/releases/a/notes": "GET, HEAD, POST",
        "/deploys": "GET, HEAD, POST",
        "/releases/a/deploys/1": "PUT",
        "/healthz": "GET, HEAD",
    }.items():
        response = client.patch(path)
        assert_problem(response, 405)
        assert response.headers["Allow"] == allowed
    assert set(client.patch("/openapi.json").headers["Allow"].split(", ")) == {"GET", "HEAD"}


def test_head_returns_the_headers_of_get_without_a_body(shared_server):
    with closing(http.client.HTTPConnection("127.0.0.1", shared_server.port, timeout=10)) as connection:
        for path, status in {"/healthz": 200, "/version": 200, "/releases": 200, "/live": 404, "/nothing": 404}.items():
            connection.request("HEAD", path)
            response = connection.getresponse()
            assert (response.status, response.read()) == (status, b"")
            assert int(response.headers["Content-Length"]) > 10
    assert '"method": "HEAD", "path": "/version", "status": 200' in shared_server.log.read_text()


@pytest.mark.parametrize(
    ("size", "status"), [(MAX_BODY_BYTES, 422), (MAX_BODY_BYTES + 1, 413), (2**20, 413), (10 * 2**20, 413)]
)
@pytest.mark.parametrize("chunked", [False, True])
def test_body_limit(shared_server, size, status, chunked):
    body = json.dumps({"text": ""}).encode()
    body = body[:-2] + b"x" * (size - len(body)) + body[-2:]
    sent = (body[at : at + 10000] for at in range(0, size, 10000)) if chunked else body
    headers = AUTHENTICATED | {"Content-Type": "application/json"}
    with closing(http.client.HTTPConnection("127.0.0.1", shared_server.port, timeout=10)) as connection:
        try:
            connection.request("POST", "/releases/a/notes", sent, headers, encode_chunked=chunked)
            response = connection.getresponse()
        except (BrokenPipeError, ConnectionResetError):
            assert size > 2**20  # above the front's limit, so the server may close the connection early
            return
        assert (response.status, json.loads(response.read())["status"]) == (status, status)


def test_longest_reason_fits_even_when_escaped(client):
    body = json.dumps(deploy(reason="\U0001f6a2" * 10_000))
    assert len(body) > 10_000 * len(r"\ud83d\udea2")
    headers = AUTHENTICATED | {"Content-Type": "application/json"}
    assert client.put("/releases/a/deploys/1", content=body, headers=headers).status_code == 201


def test_openapi_documents_every_error(client):
    schema = client.get("/openapi.json").json()
    assert schema["info"]["version"] == client.get("/version").json()["tag"]
    assert "HTTPValidationError" not in schema["components"]["schemas"]
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            expected = {"500"} if path == "/version" else {"500", "503"}
            expected |= set() if path in ("/healthz", "/version") else {"422"}
            expected |= {"401", "413", "409"} if method in ("put", "post") else set()
            assert expected <= operation["responses"].keys(), (path, method)
            for status, response in operation["responses"].items():
                media = "application/json" if status < "400" else "application/problem+json"
                assert list(response["content"]) == [media]


def test_statements_have_a_timeout(client, engine):
    if engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no statement timeout")
    with client.app.state.engine.connect() as connection:
        assert connection.execute(sa.text("SHOW statement_timeout")).scalar() == "5s"


def test_statement_timeout_is_503(client, engine):
    if engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no statement timeout")
    record(client, "a")

    @sa.event.listens_for(client.app.state.engine, "connect")
    def shorten_timeout(connection, _record):
        connection.execute("SET statement_timeout = '100ms'")
        connection.commit()

    client.app.state.engine.dispose()
    with engine.begin() as connection:
        connection.execute(sa.text("LOCK TABLE notes IN ACCESS EXCLUSIVE MODE"))
        response = add_note(client, "a", "x")
    assert assert_problem(response, 503)["detail"] == "the database is unavailable"
    assert response.headers["Retry-After"] == "1"
    assert add_note(client, "a", "x").status_code == 201


def test_closed_database_connection_is_replaced(client, engine):
    if engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no server connections")
    with client.app.state.engine.connect() as connection:
        pid = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar()
    with engine.begin() as connection:
        assert connection.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid}).scalar()
    assert client.get("/releases").status_code == 200


def test_invalid_query_is_500_and_not_503(client, monkeypatch):
    def fail(*_):
        raise sa.exc.InvalidRequestError("invalid")

    monkeypatch.setattr(ledger, "get_live_deploy", fail)
    assert_problem(client.get("/live"), 500)


# --- request IDs and log lines


def test_valid_request_id_is_kept_and_invalid_one_is_replaced(client, read_log):
    assert client.get("/version", headers={"X-Request-ID": "a.B_9-"}).headers["X-Request-ID"] == "a.B_9-"
    generated = [
        client.get("/version", headers=headers).headers["X-Request-ID"]
        for headers in ({}, {"X-Request-ID": "a b"}, {"X-Request-ID": "x" * 65}, {"X-Request-ID": "a\u00e9".encode()})
    ]
    assert len(set(generated)) == 4
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in generated)
    assert [line["request_id"] for line in read_log()] == ["a.B_9-", *generated]


def test_request_is_one_log_line_without_secrets(client, read_log):
    record(client, "a", body=deploy(reason="quiet"))
    client.get("/releases?tag=hunter2", headers={"Authorization": "Bearer hunter2", "Cookie": "hunter2"})
    client.get("/nothing%0A{")
    client.get("/healthz")
    logged = read_log()
    assert [(line["method"], line["path"], line["status"]) for line in logged] == [
        ("PUT", "/releases/a/deploys/of-a", 201),
        ("GET", "/releases", 200),
        ("GET", "/nothing\n{", 404),
    ]
    assert logged[0].keys() == {"time", "level", "tag", "request_id", "method", "path", "status", "ms", "client"}
    assert (logged[0]["tag"], logged[0]["client"]) == ("a1b2c3", "testclient")
    assert 0 < logged[0]["ms"] < 10000
    assert not re.search("hunter2|quiet|" + TOKEN, json.dumps(logged))


def test_exception_is_logged_with_its_request_id(client, engine, read_log, caplog):
    record(client, "a")
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE notes RENAME COLUMN created_at TO elsewhere"))
    caplog.clear()
    assert_problem(add_note(client, "a", "hunter2"), 500)
    failure, line = read_log()
    assert (failure["level"], failure["request_id"]) == ("error", line["request_id"])
    assert "Traceback" in failure["error"]
    assert "hunter2" not in json.dumps([failure, line])
    assert line["status"] == 500


def test_process_logs_only_json(shared_server):
    connection = http.client.HTTPConnection("127.0.0.1", shared_server.port, timeout=5)
    headers = {"X-Request-ID": "mine", "X-Forwarded-For": "192.0.2.7"}
    for path in ("/version", "/healthz", "/figures"):
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        assert response.getheader("X-Request-ID") == "mine"
        response.read()
    connection.close()
    with socket.create_connection(("127.0.0.1", shared_server.port), timeout=5) as garbage:
        garbage.sendall(b"not HTTP\r\n\r\n")
        garbage.recv(1000)
    wait_until(lambda: "/figures" in shared_server.log.read_text())
    logged = read_json_log(shared_server)
    assert [(line["path"], line["client"]) for line in logged if line.get("request_id") == "mine"] == [
        ("/version", "192.0.2.7"),
        ("/figures", "192.0.2.7"),
    ]
    assert any("Invalid HTTP request" in line.get("message", "") for line in logged)
