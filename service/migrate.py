"""`python -m service.migrate`: run pending migrations; with `--check`, only report whether there are any."""

import argparse
import sys

from alembic import command
from alembic.util import CommandError
from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from service.database import (
    SchemaState,
    alembic_config,
    create_engine,
    current_revision,
    error_message,
    required_revision,
    schema_state,
)
from service.settings import read_settings_or_exit

ADVISORY_LOCK_KEY = 0x51756169  # "Quai"; arbitrary, but every release must use the same key
# How long a migration waits for the lock of a table. Meanwhile, the live release's requests queue up behind it.
LOCK_TIMEOUT = "5s"


def upgrade(engine: Engine) -> str:
    """Run pending migrations and return a one-line summary.

    A newer schema is left unchanged, because after a rollback old code runs on it.
    Raises SQLAlchemyError or Alembic's CommandError; PostgreSQL then rolls everything back.
    """
    head = required_revision()
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK_KEY})
            connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
        current = current_revision(connection)
        state, message = schema_state(connection, head)
        if state == SchemaState.TOO_NEW:
            raise CommandError(message)
        if state == SchemaState.COMPATIBLE:
            return message
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        return f"schema {current or 'none'} -> {head}"


def check(engine: Engine) -> int:
    """Print the state of the schema in one line and return it as an exit code (see SchemaState)."""
    with engine.connect() as connection:
        state, message = schema_state(connection, required_revision())
    print(message)
    return state


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0 on success, 1 on failure, 3 or 4 from `--check`.

    Exits with status 2 for an invalid setting or option.
    """
    parser = argparse.ArgumentParser(prog="python -m service.migrate", description="Run pending database migrations.")
    parser.add_argument(
        "--check",
        action="store_true",
        help="change nothing; exit with 3 if migrations are pending, with 4 if the schema is too new for this code",
    )
    options = parser.parse_args(arguments)
    settings = read_settings_or_exit()
    engine = create_engine(settings.db_conn)
    try:
        if options.check:
            return check(engine)
        print(upgrade(engine))
    except (SQLAlchemyError, CommandError) as error:
        failure = "the schema cannot be read" if options.check else "the migration failed"
        print(f"service: {failure}: {error_message(error)}", file=sys.stderr)
        return 1
    finally:
        engine.dispose()
    return 0


if __name__ == "__main__":
    sys.exit(main())
