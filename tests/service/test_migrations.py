import re
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from conftest import free_port, run

from service.database import Base, alembic_config, create_engine, current_revision, needed_revision
from service.migrate import main, upgrade

HEAD = needed_revision()


@pytest.fixture
def migrate(environ, tmp_path, monkeypatch, capsys):
    """`python -m service.migrate` in this process: its status and what it said on stdout and stderr."""

    def migrate(db_conn=environ["DB_CONN"]):
        for name, value in (environ | {"DB_CONN": db_conn}).items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        return main(), *capsys.readouterr()

    return migrate


def revision(engine):
    with engine.connect() as connection:
        return current_revision(connection)


def test_revisions_are_numbers_in_one_line():
    # "At least" is a comparison of these names.
    scripts = list(ScriptDirectory.from_config(alembic_config()).walk_revisions())
    names = [script.revision for script in reversed(scripts)]
    assert names == [f"{number:04}" for number in range(1, len(names) + 1)]
    assert [script.down_revision for script in reversed(scripts)] == [None, *names[:-1]]
    assert names[-1] == HEAD


def test_no_migration_takes_anything_away():
    for script in ScriptDirectory.from_config(alembic_config()).walk_revisions():
        assert not hasattr(script.module, "downgrade")


def test_migrations_make_what_the_code_uses(migrated):
    with migrated.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_the_command_says_what_it_did_and_can_be_repeated(environ, engine, migrate, tmp_path):
    done = run("service.migrate", environ, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"schema none -> {HEAD}\n", "")
    assert migrate() == (0, f"schema {HEAD}: already there\n", "")
    assert revision(engine) == HEAD


def test_repeating_keeps_the_rows(migrated):
    with migrated.begin() as connection:
        connection.execute(sa.text("INSERT INTO releases (tag, recorded_at) VALUES ('a', '2026-01-02 03:04:05')"))
    upgrade(migrated)
    with migrated.connect() as connection:
        assert connection.execute(sa.text("SELECT tag FROM releases")).scalars().all() == ["a"]


def test_a_newer_schema_is_left_alone(migrate, engine, set_revision):
    set_revision("9999")
    assert migrate() == (0, f"schema 9999: newer than this code's {HEAD}, left alone\n", "")
    assert revision(engine) == "9999"


def test_a_migration_that_fails_says_so_in_one_line(migrate, engine):
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE notes (mine INTEGER)"))
    status, out, err = migrate()
    assert (status, out) == (1, "")
    assert re.fullmatch("service: the migration failed: .*notes.* already exists\n", err)
    assert revision(engine) is None


@pytest.mark.parametrize("where", ["file", "server"])
def test_a_database_that_cannot_be_reached_is_one_line(migrate, tmp_path, where):
    status, out, err = migrate(
        {
            "file": f"sqlite:///{tmp_path}/none/x.db",
            "server": f"postgresql://quai:hunter2@127.0.0.1:{free_port()}/quai",
        }[where]
    )
    assert (status, out) == (1, "")
    assert re.fullmatch("service: the migration failed: .+\n", err)
    assert "hunter2" not in err


def test_two_at_once_both_succeed(engine, db_conn):
    if engine.dialect.name == "sqlite":
        # The lock is PostgreSQL's; here the second one comes after the first.
        assert [upgrade(engine), upgrade(engine)] == [
            f"schema none -> {HEAD}",
            f"schema {HEAD}: already there",
        ]
        return
    engines = [create_engine(db_conn) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        said = sorted(pool.map(upgrade, engines))
    for each in engines:
        each.dispose()
    assert said == [f"schema {HEAD}: already there"] * 3 + [f"schema none -> {HEAD}"]
