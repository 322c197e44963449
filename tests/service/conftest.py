"""Each test has its own database: a SQLite file, or a schema in the PostgreSQL of TEST_DB_CONN."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from service.app import connect_database, create_app
from service.database import create_engine
from service.migrate import upgrade
from service.settings import Settings

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TOKEN = "test-token-0123456789"  # noqa: S105 - valid in tests only
AUTHENTICATED = {"Authorization": f"Bearer {TOKEN}"}
READS = ("/releases", "/releases/a", "/releases/a/notes", "/deploys", "/live", "/rollbacks", "/figures")


def pytest_collection_modifyitems(items):
    """Mark these tests for `nox -s postgres`."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("database")


@contextmanager
def create_database(directory):
    """Yield the DB_CONN of a new, empty database."""
    postgresql = os.environ.get("TEST_DB_CONN")
    if not postgresql:
        yield f"sqlite:///{directory}/test.db"
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
def db_conn(tmp_path):
    with create_database(tmp_path) as db_conn:
        yield db_conn


@pytest.fixture
def engine(db_conn):
    engine = create_engine(db_conn)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory):
    """A migrated SQLite database; copying it is 100 times as fast as running the migrations."""
    path = tmp_path_factory.mktemp("migrated") / "template.db"
    engine = create_engine(f"sqlite:///{path}")
    upgrade(engine)
    engine.dispose()
    return path


@pytest.fixture
def migrated(engine, migrated_file):
    if engine.dialect.name == "sqlite":
        shutil.copyfile(migrated_file, engine.url.database)
    else:
        upgrade(engine)
    return engine


def create_settings(db_conn):
    return Settings(app_env="dev", api_port=8000, db_conn=db_conn, api_token=(TOKEN,), read_access="public")


@pytest.fixture
def settings(db_conn):
    return create_settings(db_conn)


@pytest.fixture(scope="session")
def shared_client():
    """A client of one application for all tests, because the first request to each route takes 20 ms."""
    with TestClient(create_app(create_settings("sqlite:///./unused.db"))) as client:
        yield client


@pytest.fixture
def client(shared_client, db_conn, migrated):
    """A client whose application uses this test's database."""
    connect_database(shared_client.app, db_conn)
    yield shared_client
    shared_client.app.state.engine.dispose()


@pytest.fixture
def set_revision(migrated):
    def set_revision(revision):
        with migrated.begin() as connection:
            connection.execute(sa.text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})

    return set_revision


def create_environ(db_conn):
    """Return the environment variables for a real process, without settings from this process."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    service = {"APP_ENV": "dev", "API_PORT": str(free_port()), "DB_CONN": db_conn, "API_TOKEN": TOKEN}
    return inherited | service | {"READ_ACCESS": "public", "PYTHONPATH": str(ROOT)}


@pytest.fixture
def environ(db_conn):
    return create_environ(db_conn)


@contextmanager
def start_server(environ, directory):
    """Yield a running `python -m service` with its `port` and `log`; kill it at the end."""
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(command("service"), env=environ, cwd=directory, stdout=log, stderr=log)
    process.port = int(environ["API_PORT"])
    process.log = directory / "log"
    try:
        wait_until(lambda: process.poll() is not None or accepts_connections(process.port))
        assert process.poll() is None, process.log.read_text()
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def server(environ, migrated, tmp_path):
    """A process for one test, which may stop it."""
    with start_server(environ, tmp_path) as process:
        yield process


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory):
    """A process for all tests that neither stop it nor write to its database."""
    directory = tmp_path_factory.mktemp("shared")
    with create_database(directory) as db_conn:
        engine = create_engine(db_conn)
        upgrade(engine)
        engine.dispose()
        with start_server(create_environ(db_conn), directory) as process:
            yield process


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


def read_json_log(process):
    """Assert that the process logs only lines of JSON without secrets, and return them."""
    text = process.log.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert all({"time", "level", "tag"} <= line.keys() for line in lines)
    assert any("startup complete" in line.get("message", "") for line in lines)
    assert not re.search("healthz|Traceback", text)
    assert "Context impl" not in text  # logged by Alembic at each health check
    assert TOKEN not in text
    return lines


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def command(module):
    return [sys.executable, "-m", module]


def run(module, environ, directory, *arguments):
    """Run a module in a real process, and return its exit code, stdout and stderr."""
    options = {"env": environ, "cwd": directory, "capture_output": True, "text": True, "timeout": 30}
    done = subprocess.run([*command(module), *arguments], check=False, **options)
    return done.returncode, done.stdout, done.stderr


def wait_until(condition, seconds=30):
    """Poll until the condition holds, and return its value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"{condition} does not hold after {seconds} s")
