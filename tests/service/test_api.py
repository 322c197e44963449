import http.client
import json
import signal
import socket
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from conftest import (
    AUTHENTICATED,
    READS,
    TOKEN,
    accepts_connections,
    add_note,
    assert_problem,
    deploy,
    free_port,
    read_json_log,
    record,
    wait_until,
)
from fastapi.testclient import TestClient

from service.app import create_app
from service.database import required_revision


def is_recent_utc(time):
    return abs(datetime.now(UTC) - datetime.fromisoformat(time)) < timedelta(minutes=1)


# --- health and version


def test_healthy_with_required_schema(client):
    response = client.get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


def test_healthy_with_newer_schema(client, set_revision):
    set_revision("9999")
    assert client.get("/healthz").status_code == 200


def test_unhealthy_with_older_schema(client, set_revision):
    set_revision("0000")
    response = client.get("/healthz")
    assert assert_problem(response, 503)["detail"] == (
        f"the schema is at revision 0000, but this code requires {required_revision()}: run python -m service.migrate"
    )


def test_unhealthy_without_a_schema(settings):
    with TestClient(create_app(settings)) as client:
        assert assert_problem(client.get("/healthz"), 503)["detail"].startswith(
            "the database has no schema, but this code requires "
        )
        assert client.get("/version").status_code == 200


@pytest.fixture(params=["no such directory", "not a database", "refused connection"])
def client_without_database(request, settings, tmp_path):
    (tmp_path / "garbage.db").write_bytes(b"not a database, " * 100)
    db_conn = {
        "no such directory": f"sqlite:///{tmp_path}/none/x.db",
        "not a database": f"sqlite:///{tmp_path}/garbage.db",
        "refused connection": f"postgresql+psycopg://quai:hunter2@127.0.0.1:{free_port()}/quai",
    }[request.param]
    with TestClient(create_app(replace(settings, db_conn=db_conn))) as client:
        yield client


def test_unavailable_database_is_503_on_every_database_route(client_without_database):
    client = client_without_database
    health = client.get("/healthz")
    assert assert_problem(health, 503)["detail"].startswith("the database is unavailable: ")
    assert "\n" not in health.json()["detail"]
    responses = [record(client, "a"), add_note(client, "a", "x"), *(client.get(path) for path in READS)]
    assert {assert_problem(each, 503)["detail"] for each in responses} == {"the database is unavailable"}
    assert all("hunter2" not in each.text for each in [health, *responses])
    assert client.get("/version").status_code == 200


def test_missing_table_is_500_and_not_503(client, engine):
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE releases RENAME TO elsewhere"))
    detail = "internal error: search the log for this request_id"
    assert assert_problem(record(client, "a"), 500)["detail"] == detail
    assert assert_problem(client.get("/releases"), 500)["detail"] == detail
    assert client.get("/healthz").status_code == 200


def test_version_is_the_release_of_the_image(settings, monkeypatch):
    monkeypatch.setenv("RELEASE", "a1b2c3")
    with TestClient(create_app(replace(settings, app_env="prod"))) as client:
        version = client.get("/version").json()
    assert version.keys() == {"tag", "environment", "started_at"}
    assert (version["tag"], version["environment"]) == ("a1b2c3", "prod")
    assert is_recent_utc(version["started_at"])


@pytest.mark.parametrize("release", [None, ""])
def test_version_outside_an_image_is_dev(settings, monkeypatch, release):
    monkeypatch.setenv("RELEASE", "") if release == "" else monkeypatch.delenv("RELEASE", raising=False)
    with TestClient(create_app(settings)) as client:
        assert client.get("/version").json()["tag"] == "dev"


def test_docs_are_not_served_in_production(settings):
    with TestClient(create_app(replace(settings, app_env="prod"))) as client:
        assert client.get("/docs").status_code == 404


# --- releases and notes


def test_recording_a_deploy_records_its_release(client):
    assert record(client, "v1.0_a-B").status_code == 201
    listed = client.get("/releases").json()
    assert listed == {"items": [{"tag": "v1.0_a-B", "recorded_at": listed["items"][0]["recorded_at"]}], "next": None}
    assert is_recent_utc(listed["items"][0]["recorded_at"])


def test_acknowledged_note_is_committed(client, engine):
    record(client, "a")
    response = add_note(client, "a", "été ☕")
    assert response.status_code == 201
    assert response.json().keys() == {"id", "tag", "text", "created_at"}
    assert (response.json()["tag"], response.json()["text"]) == ("a", "été ☕")
    assert is_recent_utc(response.json()["created_at"])
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT id, text FROM notes")).all() == [(response.json()["id"], "été ☕")]
    assert client.get("/releases/a/notes").json() == {"items": [response.json()], "next": None}


def test_notes_belong_to_their_release(client):
    for tag in ("a", "b"):
        record(client, tag)
        add_note(client, tag, f"of {tag}")
    assert [note["text"] for note in client.get("/releases/b/notes").json()["items"]] == ["of b"]


def test_unknown_release_is_404(client):
    for response in (add_note(client, "a", "x"), client.get("/releases/a/notes"), client.get("/releases/a")):
        assert assert_problem(response, 404)["detail"] == "release a does not exist"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": b"Bearer \xe9\xff"},
    ],
    ids=repr,
)
def test_writes_require_the_token(client, headers):
    record(client, "a")
    for method, path, body in (
        ("PUT", "/releases/b/deploys/1", deploy()),
        ("POST", "/deploys", {"id": "1", "tag": "b", "time": "2026-01-02T03:04:05Z", "outcome": "live"}),
        ("POST", "/releases/a/notes", {"text": "x"}),
    ):
        response = client.request(method, path, json=body, headers=headers)
        assert assert_problem(response, 401)["detail"] == "a valid bearer token is required"
        assert response.headers["WWW-Authenticate"] == "Bearer"
    assert [release["tag"] for release in client.get("/releases").json()["items"]] == ["a"]
    assert client.get("/releases/a/notes").json()["items"] == []


# JSON has no NaN, UTF-8 no lone surrogates, and PostgreSQL text no NUL.
@pytest.mark.parametrize("value", ['""', "null", "1", "NaN", '"\\ud800"', '"a\\u0000"', "[]", json.dumps("x" * 10001)])
@pytest.mark.parametrize(
    ("method", "path", "name"),
    [("PUT", "/releases/a/deploys/1", "outcome"), ("PUT", "/releases/a/deploys/1", "ended_at")]
    + [("POST", "/deploys", name) for name in ("id", "tag", "time", "outcome")]
    + [("POST", "/releases/a/notes", "text")],
)
def test_invalid_body_is_422_and_names_the_field(client, method, path, name, value):
    record(client, "a")
    valid = {"text": "x", "id": "2", "tag": "a", "time": "2026-01-02T03:04:05Z", **deploy()}
    body = json.dumps(valid | {name: "PLACEHOLDER"}).replace('"PLACEHOLDER"', value)
    headers = AUTHENTICATED | {"Content-Type": "application/json"}
    response = client.request(method, path, content=body, headers=headers)
    assert [error["field"] for error in assert_problem(response, 422)["errors"]] == [name]
    assert name in response.json()["detail"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'"x"', b'{"text": "\xff"}'], ids=repr)
def test_body_other_than_a_json_object_is_422(client, content):
    record(client, "a")
    headers = AUTHENTICATED | {"Content-Type": "application/json"}
    assert_problem(client.post("/releases/a/notes", content=content, headers=headers), 422)


@pytest.mark.parametrize("tag", ["x" * 65, "a b", "a\n", "é", ".a", "-a"])
def test_invalid_tag_is_422(client, tag):
    assert assert_problem(record(client, quote(tag), "1"), 422)["errors"][0]["field"] == "tag"


def test_longest_values_fit(client):
    assert record(client, "x" * 64).status_code == 201
    assert add_note(client, "x" * 64, "☕" * 2000).status_code == 201


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "before=0", "before=x", "before=9223372036854775808"]
)
@pytest.mark.parametrize("path", ["/releases", "/releases/a/notes", "/deploys"])
def test_invalid_query_parameter_is_422(client, path, query):
    record(client, "a")
    response = assert_problem(client.get(f"{path}?{query}"), 422)
    assert [error["field"] for error in response["errors"]] == [query.partition("=")[0]]


def test_tag_with_nul_is_422(client):
    assert client.get("/releases/%00/notes").status_code == 422


@pytest.mark.parametrize("resource", ["releases", "notes", "deploys"])
@pytest.mark.parametrize("count", [0, 1, 6, 7, 20])
def test_pages_are_complete_and_stable_while_rows_are_added(client, resource, count):
    record(client, "first")
    path, name = {"notes": ("/releases/first/notes", "text")}.get(resource, (f"/{resource}", "tag"))
    if resource != "notes":
        add, expected = (lambda value: record(client, value)), ["first"]
    else:
        add, expected = (lambda value: add_note(client, "first", value)), []
    for number in range(count):
        assert add(f"n{number}").status_code == 201
        expected.insert(0, f"n{number}")

    seen, before = [], ""
    for number in range(10):
        page = client.get(f"{path}?limit=3{before}").json()
        assert min(1, len(expected)) <= len(page["items"]) <= 3
        seen += [item[name] for item in page["items"]]
        if page["next"] is None:
            break
        before = f"&before={page['next']}"
        assert add(f"added-{number}").status_code == 201
    assert seen == expected


# --- real processes


def test_process_serves_without_server_header(shared_server):
    connection = http.client.HTTPConnection("127.0.0.1", shared_server.port, timeout=5)
    connection.request("GET", "/healthz")
    response = connection.getresponse()
    assert (response.status, response.read()) == (200, b'{"status":"ok"}')
    assert response.getheader("Server") is None
    connection.close()


def test_sigterm_finishes_the_request_in_flight(server, engine):
    body = json.dumps(deploy()).encode()
    idle = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    request = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    with idle, request:
        # "100 Continue" means that the application has the request and waits for its body.
        request.sendall(
            b"PUT /releases/in-flight/deploys/1 HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
            b"Expect: 100-continue\r\nAuthorization: Bearer " + TOKEN.encode() + b"\r\n"
            b"Content-Length: " + str(len(body)).encode() + b"\r\n\r\n"
        )
        assert request.recv(1000).startswith(b"HTTP/1.1 100 ")
        request.sendall(body[:10])

        server.send_signal(signal.SIGTERM)
        wait_until(lambda: not accepts_connections(server.port))
        assert server.poll() is None
        request.sendall(body[10:])
        response = http.client.HTTPResponse(request)
        response.begin()
        assert response.status == 201
        assert json.loads(response.read())["tag"] == "in-flight"
    assert server.wait(10) == 0
    assert "/releases/in-flight/deploys/1" in [line.get("path") for line in read_json_log(server)]
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT tag FROM releases")).scalar() == "in-flight"


def test_factory_reads_settings_from_the_environment(settings, environ, monkeypatch):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with TestClient(create_app()) as client:
        assert client.get("/version").json()["environment"] == "dev"
