import importlib
import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from conftest import READS, add_note, assert_problem, free_port, record, run
from fastapi.testclient import TestClient

from service.app import create_app
from service.database import Base, alembic_config, create_engine, current_revision, required_revision
from service.migrate import ADVISORY_LOCK_KEY, main, upgrade

HEAD = required_revision()
NEWER = (
    f"the schema is at revision 9999, newer than revision {HEAD}, which this code requires; compatible, left unchanged"
)
SCRIPTS = list(reversed(list(ScriptDirectory.from_config(alembic_config()).walk_revisions())))
PREVIOUS = SCRIPTS[-2].revision
# Each new migration requires such a file, with the statements that the previous revision's code executes.
STATEMENTS = importlib.import_module(f"statements_of_{PREVIOUS}").STATEMENTS


@pytest.fixture
def migrate(environ, tmp_path, monkeypatch, capsys):
    """Run `python -m service.migrate` in this process; return its exit code, stdout and stderr."""

    def migrate(*arguments, db_conn=environ["DB_CONN"]):
        for name, value in (environ | {"DB_CONN": db_conn}).items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        return main(list(arguments)), *capsys.readouterr()

    return migrate


def read_revision(engine):
    with engine.connect() as connection:
        return current_revision(connection)


def test_revisions_are_consecutive_numbers():
    # schema_state() compares revisions as strings.
    names = [script.revision for script in SCRIPTS]
    assert names == [f"{number:04}" for number in range(1, len(names) + 1)]
    assert [script.down_revision for script in SCRIPTS] == [None, *names[:-1]]
    assert names[-1] == HEAD


def test_no_migration_has_a_downgrade():
    for script in SCRIPTS:
        assert not hasattr(script.module, "downgrade")


def upgrade_to(engine, revision):
    """Migrate as the release with this revision would."""
    config = alembic_config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def read_columns(engine):
    """Return the type of each column, whether it is nullable, and whether it has a default."""
    inspector = sa.inspect(engine)
    return {
        (table, column["name"]): (str(column["type"]), column["nullable"], column["default"] is not None)
        for table in inspector.get_table_names()
        for column in inspector.get_columns(table)
    }


def test_migrations_only_add(engine):
    before = {}
    for script in SCRIPTS:
        upgrade_to(engine, script.revision)
        after = read_columns(engine)
        assert before.keys() <= after.keys(), f"{script.revision} drops or renames {before.keys() - after.keys()}"
        tables = {table for table, _ in before}
        for column, (column_type, nullable, default) in after.items():
            if column in before:
                type_before, nullable_before, _ = before[column]
                assert column_type == type_before, f"{script.revision} changes the type of {column}"
                assert nullable or not nullable_before, f"{script.revision} forbids null in {column}"
            elif column[0] in tables:
                assert nullable or default, (
                    f"{script.revision} adds {column} as NOT NULL without a default, so older code cannot insert"
                )
        before = after


def test_migrations_record_the_oldest_compatible_revision(engine):
    floors = [script.module.floor for script in SCRIPTS]
    assert floors == sorted(floors)
    assert all(floor <= script.revision for floor, script in zip(floors, SCRIPTS, strict=True))
    for script in SCRIPTS:
        upgrade_to(engine, script.revision)
        if script.revision > "0001":  # revision 0001 has no schema_floor table
            with engine.connect() as connection:
                rows = connection.execute(sa.text("SELECT revision FROM schema_floor")).scalars().all()
            assert rows == [script.module.floor]


def test_statements_of_the_previous_revision_still_work(engine):
    upgrade_to(engine, HEAD)
    with engine.begin() as connection:
        results = [connection.exec_driver_sql(*each) for each in STATEMENTS[engine.dialect.name]]
        rows = [len(result.all()) for result in results if result.returns_rows]
        assert rows[-2:] == [2, 2]  # both queries for notes find the two that were inserted


def test_rows_of_the_previous_revision_are_read(engine, settings):
    upgrade_to(engine, PREVIOUS)
    with engine.begin() as connection:
        for each in STATEMENTS[engine.dialect.name]:
            connection.exec_driver_sql(*each).close()
    with TestClient(create_app(settings)) as client:
        assert assert_problem(client.get("/healthz"), 503)["detail"] == (
            f"the schema is at revision {PREVIOUS}, but this code requires {HEAD}: run python -m service.migrate"
        )
        assert client.get("/version").status_code == 200
        for path in READS:
            response = client.get(path)
            assert response.status_code == 200 or assert_problem(response, 500)
        assert_problem(record(client, "b"), 500)
        assert_problem(add_note(client, "a", "z"), 500)
        assert upgrade(engine) == f"schema {PREVIOUS} -> {HEAD}"
        assert client.get("/healthz").status_code == 200
        assert [release["tag"] for release in client.get("/releases").json()["items"]] == ["a"]
        assert [note["text"] for note in client.get("/releases/a/notes").json()["items"]] == ["x", "x"]
        assert client.get("/releases/a").json()["last_deploy"] is None
        assert [add_note(client, "a", "y", "key").status_code for _ in range(2)] == [201, 200]


def test_check_reports_pending_migrations_and_changes_nothing(migrate, engine, environ, tmp_path):
    pending = f"but this code requires {HEAD}: run python -m service.migrate\n"
    assert migrate("--check") == (3, f"the database has no schema, {pending}", "")
    assert read_revision(engine) is None
    upgrade_to(engine, "0001")
    assert migrate("--check") == (3, f"the schema is at revision 0001, {pending}", "")
    assert read_revision(engine) == "0001"
    assert migrate()[0] == 0
    assert run("service.migrate", environ, tmp_path, "--check") == (0, f"the schema is up to date ({HEAD})\n", "")


@pytest.mark.parametrize(("floor", "status"), [("0001", 0), (HEAD, 0), ("0999", 4)])
def test_newer_schema_is_compatible_or_too_new(migrate, migrated, set_revision, settings, floor, status):
    set_revision("9999")
    with migrated.begin() as connection:
        connection.execute(sa.text("UPDATE schema_floor SET revision = :floor"), {"floor": floor})
    with TestClient(create_app(settings)) as client:
        health = client.get("/healthz")
    if status == 0:
        assert health.status_code == 200
        assert migrate("--check") == (0, f"{NEWER}\n", "")
        return
    message = (
        f"the schema is at revision 9999, which supports code at revision 0999 or later, but this code is at {HEAD}: "
        "deploy a later release, or restore the backup from before that migration"
    )
    assert assert_problem(health, 503)["detail"] == message
    assert migrate("--check") == (4, f"{message}\n", "")
    assert migrate() == (1, "", f"service: the migration failed: {message}\n")


def test_migrations_match_the_tables_in_the_code(migrated):
    with migrated.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_command_reports_the_migration_and_can_be_repeated(environ, engine, migrate, tmp_path):
    assert run("service.migrate", environ, tmp_path) == (0, f"schema none -> {HEAD}\n", "")
    assert migrate() == (0, f"the schema is up to date ({HEAD})\n", "")
    assert read_revision(engine) == HEAD


def test_repeated_upgrade_keeps_the_rows(migrated):
    with migrated.begin() as connection:
        connection.execute(sa.text("INSERT INTO releases (tag, recorded_at) VALUES ('a', '2026-01-02 03:04:05')"))
    upgrade(migrated)
    with migrated.connect() as connection:
        assert connection.execute(sa.text("SELECT tag FROM releases")).scalars().all() == ["a"]


def test_newer_schema_is_left_unchanged(migrate, engine, set_revision):
    set_revision("9999")
    assert migrate() == (0, f"{NEWER}\n", "")
    assert read_revision(engine) == "9999"


def test_failed_migration_is_reported_in_one_line(migrate, engine):
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE notes (other INTEGER)"))
    status, out, err = migrate()
    assert (status, out) == (1, "")
    assert re.fullmatch("service: the migration failed: .*notes.* already exists\n", err)
    assert read_revision(engine) is None


@pytest.mark.parametrize("kind", ["file", "server"])
def test_unavailable_database_is_reported_in_one_line(migrate, tmp_path, kind):
    db_conn = {
        "file": f"sqlite:///{tmp_path}/none/x.db",
        "server": f"postgresql://quai:hunter2@127.0.0.1:{free_port()}/quai",
    }[kind]
    for arguments, failure in ([], "the migration failed"), (["--check"], "the schema cannot be read"):
        status, out, err = migrate(*arguments, db_conn=db_conn)
        assert (status, out) == (1, "")
        assert re.fullmatch(f"service: {failure}: .+\n", err)
        assert "hunter2" not in err


def test_concurrent_upgrades_all_succeed(engine, db_conn):
    if engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no advisory lock")
    engines = [create_engine(db_conn) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        messages = sorted(pool.map(upgrade, engines))
    for each in engines:
        each.dispose()
    assert messages == [f"schema none -> {HEAD}"] + [f"the schema is up to date ({HEAD})"] * 3


@pytest.fixture
def short_lock_timeout(engine, monkeypatch):
    if engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no lock timeout")
    monkeypatch.setattr("service.migrate.LOCK_TIMEOUT", "100ms")


def test_upgrade_waits_until_another_one_has_finished(engine, short_lock_timeout):
    with ThreadPoolExecutor(1) as pool:
        with engine.begin() as connection:
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK_KEY})
            waiting = pool.submit(upgrade, engine)
            time.sleep(0.5)
        assert waiting.result() == f"schema none -> {HEAD}"


def test_migration_does_not_wait_for_a_locked_table(engine, short_lock_timeout):
    upgrade_to(engine, PREVIOUS)
    with engine.begin() as connection:
        connection.execute(sa.text("LOCK TABLE notes IN ACCESS EXCLUSIVE MODE"))
        with pytest.raises(sa.exc.OperationalError, match="lock timeout"):
            upgrade(engine)
    assert read_revision(engine) == PREVIOUS
