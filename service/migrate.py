"""`python -m service.migrate`: bring the database to the schema that this code needs."""

import sys

from alembic import command
from alembic.util import CommandError
from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from service.database import alembic_config, create_engine, current_revision, needed_revision, why
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
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
        current = current_revision(connection)
        if current == head:
            return f"schema {head}: already there"
        if current is not None and current > head:
            return f"schema {current}: newer than this code's {head}, left alone"
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        return f"schema {current or 'none'} -> {head}"


def main() -> int:
    """Run the migrations; 0 when the schema is at least this code's, 1 when not, 2 for a bad setting."""
    settings = settings_or_exit()
    engine = create_engine(settings.db_conn)
    try:
        print(upgrade(engine))
    except (SQLAlchemyError, CommandError) as error:
        print(f"service: the migration failed: {why(error)}", file=sys.stderr)
        return 1
    finally:
        engine.dispose()
    return 0


if __name__ == "__main__":
    sys.exit(main())
