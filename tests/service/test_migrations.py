import importlib
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from conftest import add_note, free_port, is_problem, record, run
from fastapi.testclient import TestClient

from service.app import create_app
from service.database import Base, alembic_config, create_engine, current_revision, needed_revision
from service.migrate import main, upgrade

HEAD = needed_revision()
SCRIPTS = list(reversed(list(ScriptDirectory.from_config(alembic_config()).walk_revisions())))
BEFORE = SCRIPTS[-2].revision
# A new migration needs a new file of this kind, with what the code before it asked of the database.
STATEMENTS = importlib.import_module(f"statements_of_{BEFORE}").STATEMENTS


@pytest.fixture
def migrate(environ, tmp_path, monkeypatch, capsys):
    """`python -m service.migrate` in this process: its status and what it said on stdout and stderr."""

    def migrate(*arguments, db_conn=environ["DB_CONN"]):
        for name, value in (environ | {"DB_CONN": db_conn}).items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        return main(list(arguments)), *capsys.readouterr()

    return migrate


def revision(engine):
    with engine.connect() as connection:
        return current_revision(connection)


def test_revisions_are_numbers_in_one_line():
    # "At least" is a comparison of these names.
    names = [script.revision for script in SCRIPTS]
    assert names == [f"{number:04}" for number in range(1, len(names) + 1)]
    assert [script.down_revision for script in SCRIPTS] == [None, *names[:-1]]
    assert names[-1] == HEAD


def test_there_is_no_way_down():
    for script in SCRIPTS:
        assert not hasattr(script.module, "downgrade")


def upgrade_to(engine, revision):
    """As the release whose last migration this is did it."""
    config = alembic_config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def shape(engine):
    """The type of each column, whether it may be null, and whether it has a default."""
    inspector = sa.inspect(engine)
    return {
        (table, column["name"]): (str(column["type"]), column["nullable"], column["default"] is not None)
        for table in inspector.get_table_names()
        for column in inspector.get_columns(table)
    }


def test_each_migration_only_adds(engine):
    before = {}
    for script in SCRIPTS:
        upgrade_to(engine, script.revision)
        after = shape(engine)
        assert before.keys() <= after.keys(), f"{script.revision} drops or renames {before.keys() - after.keys()}"
        tables = {table for table, _ in before}
        for column, (kind, nullable, default) in after.items():
            if column in before:
                was_kind, was_nullable, _ = before[column]
                assert kind == was_kind, f"{script.revision} changes the type of {column}"
                assert nullable or not was_nullable, f"{script.revision} forbids null in {column}"
            elif column[0] in tables:
                assert nullable or default, f"{script.revision} adds {column}, which older code does not fill"
        before = after


def test_each_migration_says_which_code_can_still_run(engine):
    floors = [script.module.floor for script in SCRIPTS]
    assert floors == sorted(floors)
    assert all(floor <= script.revision for floor, script in zip(floors, SCRIPTS, strict=True))
    for script in SCRIPTS:
        upgrade_to(engine, script.revision)
        if script.revision > "0001":  # which has no place for it
            with engine.connect() as connection:
                rows = connection.execute(sa.text("SELECT revision FROM schema_floor")).scalars().all()
            assert rows == [script.module.floor]


def test_the_statements_of_the_code_before_still_do(engine):
    upgrade_to(engine, HEAD)
    with engine.begin() as connection:
        results = [connection.exec_driver_sql(*each) for each in STATEMENTS[engine.dialect.name]]
        rows = [len(result.all()) for result in results if result.returns_rows]
        assert rows[-2:] == [2, 2]  # the notes that it left, in both ways to ask for them


def test_what_the_code_before_wrote_is_read(engine, settings):
    upgrade_to(engine, BEFORE)
    with engine.begin() as connection:
        for each in STATEMENTS[engine.dialect.name]:
            connection.exec_driver_sql(*each).close()
    with TestClient(create_app(settings)) as client:
        assert is_problem(client.get("/healthz"), 503)["detail"] == (
            f"schema is {BEFORE}, this code needs {HEAD}: run python -m service.migrate"
        )
        assert client.get("/version").status_code == 200
        for path in ("/live", "/deploys", "/rollbacks", "/figures", "/releases", "/releases/a", "/releases/a/notes"):
            answer = client.get(path)
            assert answer.status_code == 200 or is_problem(answer, 500)
        assert is_problem(record(client, "b"), 500)
        assert is_problem(add_note(client, "a", "z"), 500)
        assert upgrade(engine) == f"schema {BEFORE} -> {HEAD}"
        assert client.get("/healthz").status_code == 200
        assert [release["tag"] for release in client.get("/releases").json()["items"]] == ["a"]
        assert [note["text"] for note in client.get("/releases/a/notes").json()["items"]] == ["x", "x"]
        assert client.get("/releases/a").json()["last_deploy"] is None
        assert [add_note(client, "a", "y", "key").status_code for _ in range(2)] == [201, 200]


def test_check_says_what_there_is_to_do_and_changes_nothing(migrate, engine, environ, tmp_path):
    behind = f"this code needs {HEAD}: run python -m service.migrate\n"
    assert migrate("--check") == (3, f"schema is none, {behind}", "")
    assert revision(engine) is None
    upgrade_to(engine, "0001")
    assert migrate("--check") == (3, f"schema is 0001, {behind}", "")
    assert revision(engine) == "0001"
    assert migrate()[0] == 0
    done = run("service.migrate", environ, tmp_path, "--check")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"schema {HEAD}: already there\n", "")


@pytest.mark.parametrize(("floor", "status"), [("0001", 0), (HEAD, 0), ("0999", 4)])
def test_newer_schemas_say_whether_this_code_can_run_on_them(migrate, migrated, set_revision, settings, floor, status):
    set_revision("9999")
    with migrated.begin() as connection:
        connection.execute(sa.text("UPDATE schema_floor SET revision = :floor"), {"floor": floor})
    with TestClient(create_app(settings)) as client:
        health = client.get("/healthz")
    if status == 0:
        assert health.status_code == 200
        assert migrate("--check") == (0, f"schema 9999: newer than this code's {HEAD}, left alone\n", "")
        return
    line = (
        f"schema is 9999, on which only code of 0999 or later can run, and this code is of {HEAD}: "
        "take a later release, or put back the backup from before that migration"
    )
    assert is_problem(health, 503)["detail"] == line
    assert migrate("--check") == (4, f"{line}\n", "")
    assert migrate() == (1, "", f"service: the migration failed: {line}\n")


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
    db_conn = {
        "file": f"sqlite:///{tmp_path}/none/x.db",
        "server": f"postgresql://quai:hunter2@127.0.0.1:{free_port()}/quai",
    }[where]
    for arguments, failed in ([], "the migration failed"), (["--check"], "the schema cannot be read"):
        status, out, err = migrate(*arguments, db_conn=db_conn)
        assert (status, out) == (1, "")
        assert re.fullmatch(f"service: {failed}: .+\n", err)
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
