"""`python -m service.migrate`: bring the database to the schema that this code needs; `--check` only looks."""

import argparse
import sys

from alembic import command
from alembic.util import CommandError
from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from service.database import BEHIND, TOO_NEW, alembic_config, create_engine, current_revision, fit, needed_revision, why
from service.settings import settings_or_exit

LOCK = 0x51756169  # any number, as long as every release uses the same: "Quai"


def upgrade(engine: Engine) -> str:
    """Upgrade to this code's schema and say in one line what was done.

    A database that is ahead is left alone: a rollback runs old code on a newer schema.
    Raises SQLAlchemyError or alembic's CommandError; on PostgreSQL nothing is changed then.
    """
    head = needed_revision()
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            # Waiting longer for a lock would block the live release's requests behind this one.
            connection.execute(text("SET LOCAL lock_timeout = '5s'"))
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
        current = current_revision(connection)
        suits, line = fit(connection, head)
        if suits == TOO_NEW:
            raise CommandError(line)
        if suits != BEHIND:
            return line
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        return f"schema {current or 'none'} -> {head}"


def check(engine: Engine) -> int:
    """Say in one line how the schema suits this code; 0 when it does, 3 to migrate, 4 when it is too new."""
    with engine.connect() as connection:
        suits, line = fit(connection, needed_revision())
    print(line)
    return suits


def main(arguments: list[str] | None = None) -> int:
    """Run the migrations; 0 when the schema is at least this code's, 1 when not, 2 for a bad setting."""
    parser = argparse.ArgumentParser(prog="python -m service.migrate", description="Migrate the database's schema.")
    parser.add_argument("--check", action="store_true", help="change nothing; 3: to migrate, 4: too new for this code")
    options = parser.parse_args(arguments)
    settings = settings_or_exit()
    engine = create_engine(settings.db_conn)
    try:
        if options.check:
            return check(engine)
        print(upgrade(engine))
    except (SQLAlchemyError, CommandError) as error:
        failed = "the schema cannot be read" if options.check else "the migration failed"
        print(f"service: {failed}: {why(error)}", file=sys.stderr)
        return 1
    finally:
        engine.dispose()
    return 0


if __name__ == "__main__":
    sys.exit(main())
