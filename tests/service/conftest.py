"""A database for each test: SQLite in a file, or a schema of its own in TEST_DB_CONN's PostgreSQL."""

import os
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from service.app import create_app
from service.database import create_engine
from service.migrate import upgrade
from service.settings import Settings

ROOT = Path(__file__).parents[2]
TOKEN = "test-token-0123456789"  # noqa: S105 - opens nothing
AUTHENTICATED = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def db_conn(tmp_path):
    given = os.environ.get("TEST_DB_CONN")
    if not given:
        yield f"sqlite:///{tmp_path}/test.db"
        return
    schema = f"test_{uuid.uuid4().hex}"
    server = sa.create_engine(given)
    with server.begin() as connection:
        connection.execute(sa.schema.CreateSchema(schema))
    yield f"{given}{'&' if '?' in given else '?'}options=-csearch_path%3D{schema}"
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
    return Settings(app_env="dev", api_port=8000, db_conn=db_conn, api_token=TOKEN)


@pytest.fixture
def client(settings, migrated):
    with TestClient(create_app(settings)) as client:
        yield client


@pytest.fixture
def set_revision(migrated):
    def set_revision(revision):
        with migrated.begin() as connection:
            connection.execute(sa.text("UPDATE alembic_version SET version_num = :r"), {"r": revision})

    return set_revision


@pytest.fixture
def environ(db_conn):
    """The environment of a real process, with nothing of this one's settings."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    service = {"APP_ENV": "dev", "API_PORT": str(free_port()), "DB_CONN": db_conn, "API_TOKEN": TOKEN}
    return inherited | service | {"PYTHONPATH": str(ROOT)}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def command(module):
    return [sys.executable, "-m", module]


def run(module, environ, directory):
    return subprocess.run(
        command(module), env=environ, cwd=directory, capture_output=True, text=True, timeout=30, check=False
    )


def until(condition, seconds=15):
    """Poll until the condition holds; its value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {condition}")
