import http.client
import json
import re
import signal
import socket
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from conftest import AUTHENTICATED, TOKEN, add_note, answers, deploy, free_port, is_problem, record, until
from fastapi.testclient import TestClient

from service.app import create_app
from service.database import needed_revision

READS = ("/releases", "/releases/a", "/releases/a/notes", "/deploys", "/live", "/rollbacks", "/figures")


def is_recent_utc(moment):
    return abs(datetime.now(UTC) - datetime.fromisoformat(moment)) < timedelta(minutes=1)


# --- health and version


def test_healthy_when_the_schema_is_there(client):
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_healthy_when_the_schema_is_newer(client, set_revision):
    set_revision("9999")
    assert client.get("/healthz").status_code == 200


def test_unhealthy_when_the_schema_is_older(client, set_revision):
    set_revision("0000")
    answer = client.get("/healthz")
    assert is_problem(answer, 503)["detail"] == (
        f"schema is 0000, this code needs {needed_revision()}: run python -m service.migrate"
    )


def test_unhealthy_without_a_schema(settings):
    with TestClient(create_app(settings)) as client:
        assert is_problem(client.get("/healthz"), 503)["detail"].startswith("schema is none, this code needs ")
        assert client.get("/version").status_code == 200


@pytest.fixture(params=["no such directory", "not a database", "nobody listens"])
def broken(request, settings, tmp_path):
    (tmp_path / "garbage.db").write_bytes(b"not a database, " * 100)
    db_conn = {
        "no such directory": f"sqlite:///{tmp_path}/none/x.db",
        "not a database": f"sqlite:///{tmp_path}/garbage.db",
        "nobody listens": f"postgresql+psycopg://quai:hunter2@127.0.0.1:{free_port()}/quai",
    }[request.param]
    with TestClient(create_app(replace(settings, db_conn=db_conn))) as client:
        yield client


def test_a_database_that_does_not_answer_is_503_everywhere(broken):
    health = broken.get("/healthz")
    assert is_problem(health, 503)["detail"].startswith("database does not answer: ")
    assert "\n" not in health.json()["detail"]
    answers = [record(broken, "a"), add_note(broken, "a", "x"), *(broken.get(path) for path in READS)]
    assert {is_problem(answer, 503)["detail"] for answer in answers} == {"the database is not available"}
    assert all("hunter2" not in answer.text for answer in [health, *answers])
    assert broken.get("/version").status_code == 200


def test_what_is_wrong_in_our_own_sql_is_500_and_not_the_database_away(client, engine):
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE releases RENAME TO elsewhere"))
    detail = "the service failed; its log has the reason"
    assert is_problem(record(client, "a"), 500)["detail"] == detail
    assert is_problem(client.get("/releases"), 500)["detail"] == detail
    assert client.get("/healthz").status_code == 200


def test_version_names_the_release_of_the_image(settings, monkeypatch):
    monkeypatch.setenv("RELEASE", "a1b2c3")
    with TestClient(create_app(replace(settings, app_env="prod"))) as client:
        version = client.get("/version").json()
    assert version.keys() == {"tag", "environment", "started_at"}
    assert (version["tag"], version["environment"]) == ("a1b2c3", "prod")
    assert is_recent_utc(version["started_at"])


@pytest.mark.parametrize("release", [None, ""])
def test_version_outside_an_image(settings, monkeypatch, release):
    monkeypatch.setenv("RELEASE", "") if release == "" else monkeypatch.delenv("RELEASE", raising=False)
    with TestClient(create_app(settings)) as client:
        assert client.get("/version").json()["tag"] == "dev"


def test_the_page_of_docs_stays_out_of_production(settings):
    with TestClient(create_app(replace(settings, app_env="prod"))) as client:
        assert client.get("/docs").status_code == 404


# --- releases and notes


def test_a_deploy_records_its_release(client):
    assert record(client, "v1.0_a-B").status_code == 201
    listed = client.get("/releases").json()
    assert listed == {"items": [{"tag": "v1.0_a-B", "recorded_at": listed["items"][0]["recorded_at"]}], "next": None}
    assert is_recent_utc(listed["items"][0]["recorded_at"])


def test_a_note_that_is_acknowledged_is_committed(client, engine):
    record(client, "a")
    answer = add_note(client, "a", "été ☕")
    assert answer.status_code == 201
    assert answer.json().keys() == {"id", "tag", "text", "created_at"}
    assert (answer.json()["tag"], answer.json()["text"]) == ("a", "été ☕")
    assert is_recent_utc(answer.json()["created_at"])
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT id, text FROM notes")).all() == [(answer.json()["id"], "été ☕")]
    assert client.get("/releases/a/notes").json() == {"items": [answer.json()], "next": None}


def test_notes_are_of_their_release(client):
    for tag in ("a", "b"):
        record(client, tag)
        add_note(client, tag, f"of {tag}")
    assert [note["text"] for note in client.get("/releases/b/notes").json()["items"]] == ["of b"]


def test_a_release_that_was_not_recorded_is_404(client):
    for answer in (add_note(client, "a", "x"), client.get("/releases/a/notes"), client.get("/releases/a")):
        assert is_problem(answer, 404)["detail"] == "no release a was recorded"


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
def test_writing_needs_the_token(client, headers):
    record(client, "a")
    for method, path, body in (
        ("PUT", "/releases/b/deploys/1", deploy()),
        ("POST", "/deploys", {"id": "1", "tag": "b", "time": "2026-01-02T03:04:05Z", "outcome": "live"}),
        ("POST", "/releases/a/notes", {"text": "x"}),
    ):
        answer = client.request(method, path, json=body, headers=headers)
        assert is_problem(answer, 401)["detail"] == "a valid bearer token is needed"
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert [release["tag"] for release in client.get("/releases").json()["items"]] == ["a"]
    assert client.get("/releases/a/notes").json()["items"] == []


# NaN, halves of surrogate pairs and NUL are what JSON, UTF-8 and PostgreSQL cannot hold.
@pytest.mark.parametrize("value", ['""', "null", "1", "NaN", '"\\ud800"', '"a\\u0000"', "[]", json.dumps("x" * 10001)])
@pytest.mark.parametrize(
    ("method", "path", "name"),
    [("PUT", "/releases/a/deploys/1", "outcome"), ("PUT", "/releases/a/deploys/1", "ended_at")]
    + [("POST", "/deploys", name) for name in ("id", "tag", "time", "outcome")]
    + [("POST", "/releases/a/notes", "text")],
)
def test_a_body_that_is_wrong_is_422_and_names_the_field(client, method, path, name, value):
    record(client, "a")
    good = {"text": "x", "id": "2", "tag": "a", "time": "2026-01-02T03:04:05Z", **deploy()}
    body = json.dumps(good | {name: "HERE"}).replace('"HERE"', value)
    headers = AUTHENTICATED | {"Content-Type": "application/json"}
    answer = client.request(method, path, content=body, headers=headers)
    assert [error["field"] for error in is_problem(answer, 422)["errors"]] == [name]
    assert name in answer.json()["detail"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'"x"', b'{"text": "\xff"}'], ids=repr)
def test_a_body_that_is_not_an_object_of_json_is_422(client, content):
    record(client, "a")
    headers = AUTHENTICATED | {"Content-Type": "application/json"}
    assert is_problem(client.post("/releases/a/notes", content=content, headers=headers), 422)


@pytest.mark.parametrize("tag", ["x" * 65, "a b", "a\n", "é", ".a", "-a"])
def test_a_tag_that_is_wrong_is_422(client, tag):
    assert is_problem(record(client, quote(tag), "1"), 422)["errors"][0]["field"] == "tag"


def test_the_longest_values_fit(client):
    assert record(client, "x" * 64).status_code == 201
    assert add_note(client, "x" * 64, "☕" * 2000).status_code == 201


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "before=0", "before=x", "before=9223372036854775808"]
)
@pytest.mark.parametrize("path", ["/releases", "/releases/a/notes", "/deploys"])
def test_a_query_that_is_wrong_is_422(client, path, query):
    record(client, "a")
    answer = is_problem(client.get(f"{path}?{query}"), 422)
    assert [error["field"] for error in answer["errors"]] == [query.partition("=")[0]]


def test_a_tag_that_no_database_holds_is_422(client):
    assert client.get("/releases/%00/notes").status_code == 422


@pytest.mark.parametrize("what", ["releases", "notes", "deploys"])
@pytest.mark.parametrize("count", [0, 1, 6, 7, 20])
def test_pages_are_complete_and_steady_while_rows_are_added(client, what, count):
    record(client, "first")
    path, name = {"notes": ("/releases/first/notes", "text")}.get(what, (f"/{what}", "tag"))
    if what != "notes":
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


# --- the real process


def test_the_process_serves_and_keeps_to_itself(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    connection.request("GET", "/healthz")
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b'{"status":"ok"}')
    assert answer.getheader("Server") is None
    connection.close()
    server.send_signal(signal.SIGTERM)
    assert server.wait(10) == 0
    assert not re.search("healthz|Traceback", server.log.read_text())


def test_sigterm_finishes_a_request_in_flight(server, engine):
    body = json.dumps(deploy()).encode()
    idle = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    request = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    with idle, request:
        # "100 Continue" says that the application has the request and waits for its body.
        request.sendall(
            b"PUT /releases/in-flight/deploys/1 HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
            b"Expect: 100-continue\r\nAuthorization: Bearer " + TOKEN.encode() + b"\r\n"
            b"Content-Length: " + str(len(body)).encode() + b"\r\n\r\n"
        )
        assert request.recv(1000).startswith(b"HTTP/1.1 100 ")
        request.sendall(body[:10])

        server.send_signal(signal.SIGTERM)
        until(lambda: not answers(server.port))
        assert server.poll() is None
        request.sendall(body[10:])
        answer = http.client.HTTPResponse(request)
        answer.begin()
        assert answer.status == 201
        assert json.loads(answer.read())["tag"] == "in-flight"
    assert server.wait(10) == 0
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT tag FROM releases")).scalar() == "in-flight"


def test_uvicorn_can_reload_the_factory(settings, environ, monkeypatch):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with TestClient(create_app()) as client:
        assert client.get("/version").json()["environment"] == "dev"
