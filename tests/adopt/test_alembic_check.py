"""The check for pending migrations that adopt generates for Alembic, with the real Alembic and SQLite."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.adopt.conftest import FLASK

ENVIRONMENT = """
from alembic import context
from sqlalchemy import create_engine

with create_engine("sqlite:///data.db").connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""
REVISION = 'revision = "{name}"\ndown_revision = {parent!r}\nupgrade = downgrade = lambda: None\n'
ALEMBIC = {"alembic.ini": "[alembic]\nscript_location = db\n", "db/env.py": ENVIRONMENT}


class Application:
    """A project with Alembic, and its check."""

    def __init__(self, folder: Path, check: list[str]) -> None:
        self.folder, self.check = folder, [word.replace("$$", "$") for word in check]

    def run(self, *words: str) -> int:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return subprocess.run(words, cwd=self.folder, env=os.environ | {"PATH": path}, check=False).returncode

    def add(self, name: str, parent: str | None = None) -> None:
        (self.folder / f"db/versions/{name}.py").write_text(REVISION.format(name=name, parent=parent))

    def is_migrated(self) -> bool:
        return self.run(*self.check) == 0


@pytest.fixture
def application(make_project, facts_of) -> Application:
    files = FLASK | ALEMBIC | {"db/versions/.gitkeep": ""}
    files["requirements.txt"] += "alembic==1.18\npsycopg[binary]==3.3\n"
    check = facts_of(files).check
    return Application(make_project(files, name="application"), check)


def test_without_revisions_nothing_is_pending(application):
    assert application.is_migrated()


def test_a_revision_is_pending_until_the_upgrade(application):
    application.add("a")
    assert not application.is_migrated()
    assert application.run("alembic", "upgrade", "head") == 0
    assert application.is_migrated()
    application.add("b", "a")
    assert not application.is_migrated()


def test_a_second_head_is_pending(application):
    application.add("a")
    application.add("b", "a")
    assert application.run("alembic", "upgrade", "head") == 0
    application.add("c", "a")
    assert not application.is_migrated()
    assert application.run("alembic", "upgrade", "heads") == 0
    assert application.is_migrated()


def test_nothing_is_pending_after_a_rollback(application):
    application.add("a")
    application.add("b", "a")
    assert application.run("alembic", "upgrade", "head") == 0
    (application.folder / "db/versions/b.py").unlink()
    assert application.is_migrated()


def test_a_failure_is_not_success(application):
    application.add("a")
    (application.folder / "db/env.py").write_text("raise OSError('no database')\n")
    assert not application.is_migrated()
    (application.folder / "alembic.ini").unlink()
    assert not application.is_migrated()
