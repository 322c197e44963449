"""Alembic's entry: on service.migrate's connection, or on one to DB_CONN for the alembic command."""

from alembic import context

from service.database import Base, create_engine
from service.settings import settings_or_exit


def _run(connection) -> None:
    context.configure(connection=connection, target_metadata=Base.metadata)
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    _run(given)
else:
    with create_engine(settings_or_exit().db_conn).begin() as connection:
        _run(connection)
