"""Each test has its own database: a SQLite file, or a schema in the PostgreSQL of TEST_DB_CONN."""

import os
import socket
import subprocess
import sys
import time
import uuid
from http import HTTPStatus
from pathlib import Path

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from service.app import create_app
from service.database import create_engine
from service.migrate import upgrade
from service.settings import Settings

ROOT = Path(__file__).parents[2]
TOKEN = "test-token-0123456789"  # noqa: S105 - valid in tests only
AUTHENTICATED = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def db_conn(tmp_path):
    postgresql = os.environ.get("TEST_DB_CONN")
    if not postgresql:
        yield f"sqlite:///{tmp_path}/test.db"
        return
    schema = f"test_{uuid.uuid4().hex}"
    server = sa.create_engine(postgresql)
    with server.begin() as connection:
        connection.execute(sa.schema.CreateSchema(schema))
    yield f"{postgresql}{'&' if '?' in postgresql else '?'}options=-csearch_path%3D{schema}"
    with server.begin() as connection:
        connection.execute(sa.schema.DropSchema(schema, cascade=True))
    server.dispose()


@pytest.fixture
def engine(db_conn):
    engine = create_engine(db_conn)
    yield engine
    engine.dispose()


@pytest.fixture
def migrated(engine):
    upgrade(engine)
    return engine


@pytest.fixture
def settings(db_conn):
    return Settings(app_env="dev", api_port=8000, db_conn=db_conn, api_token=(TOKEN,), read_access="public")


@pytest.fixture
def client(settings, migrated):
    with TestClient(create_app(settings)) as client:
        yield client


@pytest.fixture
def set_revision(migrated):
    def set_revision(revision):
        with migrated.begin() as connection:
            connection.execute(sa.text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})

    return set_revision


@pytest.fixture
def environ(db_conn):
    """Return the environment variables for a real process, without settings from this process."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    service = {"APP_ENV": "dev", "API_PORT": str(free_port()), "DB_CONN": db_conn, "API_TOKEN": TOKEN}
    return inherited | service | {"READ_ACCESS": "public", "PYTHONPATH": str(ROOT)}


@pytest.fixture
def server(environ, migrated, tmp_path):
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command("service"), env=environ, cwd=tmp_path, stdout=log, stderr=log)
    process.port = int(environ["API_PORT"])
    process.log = tmp_path / "log"
    try:
        wait_until(lambda: process.poll() is not None or accepts_connections(process.port))
        assert process.poll() is None, process.log.read_text()
        yield process
    finally:
        process.kill()
        process.wait()


def accepts_connections(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def deploy(outcome="live", ended="2026-01-02T03:04:05Z", **more):
    """Return the request body that records a deploy."""
    return {"outcome": outcome, "ended_at": ended} | more


def record(client, tag, attempt=None, body=None):
    path = f"/releases/{tag}/deploys/{attempt or f'of-{tag}'[:64]}"
    return client.put(path, json=body or deploy(), headers=AUTHENTICATED)


def add_note(client, tag, text, key=None):
    headers = AUTHENTICATED | ({"Idempotency-Key": key} if key else {})
    return client.post(f"/releases/{tag}/notes", json={"text": text}, headers=headers)


def assert_problem(response, status):
    """Assert that the response has problem details with this status, and return them."""
    body = response.json()
    assert (response.status_code, body["status"]) == (status, status)
    assert response.headers["Content-Type"] == "application/problem+json"
    assert body.keys() - {"errors"} == {"type", "title", "status", "detail", "request_id"}
    assert body["type"] == "about:blank"
    assert body["title"] == HTTPStatus(status).phrase
    assert body["request_id"] == response.headers["X-Request-ID"]
    return body


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def command(module):
    return [sys.executable, "-m", module]


def run(module, environ, directory, *arguments):
    return subprocess.run(
        [*command(module), *arguments],
        env=environ,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def wait_until(condition, seconds=30):
    """Poll until the condition holds, and return its value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"{condition} does not hold after {seconds} s")
