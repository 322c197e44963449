"""Alembic's environment.

It uses the connection of service.migrate, or connects to DB_CONN when run by the `alembic` command.
"""

from alembic import context

from service.database import Base, create_engine
from service.settings import read_settings_or_exit


def _run(connection) -> None:
    context.configure(connection=connection, target_metadata=Base.metadata)
    with context.begin_transaction():
        context.run_migrations()


shared_connection = context.config.attributes.get("connection")
if shared_connection is not None:
    _run(shared_connection)
else:
    with create_engine(read_settings_or_exit().db_conn).begin() as connection:
        _run(connection)
