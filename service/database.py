"""The database: the engine, the tables, and the state of the schema."""

from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import JSON, BigInteger, Connection, DateTime, Engine, ForeignKey, Index, Integer, String, event, select
from sqlalchemy import create_engine as create_sqlalchemy_engine
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    InternalError,
    NotSupportedError,
    ProgrammingError,
    SQLAlchemyError,
    TimeoutError,
)
from sqlalchemy.ext.associationproxy import association_proxy
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeDecorator

from service.outcomes import OutcomeColumn

# SQLite generates keys only for a column whose type is exactly INTEGER.
IdType = BigInteger().with_variant(Integer, "sqlite")


class SchemaState(IntEnum):
    """The state of the schema for this code. The values are the exit codes of `migrate --check`."""

    COMPATIBLE = 0
    PENDING = 3
    TOO_NEW = 4


class UtcDateTime(TypeDecorator):
    """A time in UTC. SQLite does not store the time zone, so reading adds it again."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect) -> datetime | None:
        """Return the time as an aware datetime in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _now() -> datetime:
    return datetime.now(UTC)


class Base(DeclarativeBase):
    """The tables that this code uses; the migrations create them."""


class Release(Base):
    """A recorded release."""

    __tablename__ = "releases"

    id: Mapped[int] = mapped_column(IdType, primary_key=True)
    tag: Mapped[str] = mapped_column(String(64), unique=True)
    recorded_at: Mapped[datetime] = mapped_column(UtcDateTime, default=_now)


class Note(Base):
    """A note on a release."""

    __tablename__ = "notes"
    __table_args__ = (
        Index("notes_of_release", "release_id", "id"),
        Index("notes_once", "release_id", "key", unique=True),
    )

    id: Mapped[int] = mapped_column(IdType, primary_key=True)
    release_id: Mapped[int] = mapped_column(ForeignKey("releases.id"))
    text: Mapped[str] = mapped_column(String(2000))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=_now)
    key: Mapped[str | None] = mapped_column(String(64))
    release: Mapped[Release] = relationship(lazy="joined", innerjoin=True)
    tag = association_proxy("release", "tag")


class Deploy(Base):
    """An attempt to make a release live, and its outcome; `seconds` holds the duration of each step."""

    __tablename__ = "deploys"
    __table_args__ = (Index("deploys_of_release", "release_id", "id"), Index("deploys_ended", "ended_at", "id"))

    id: Mapped[int] = mapped_column(IdType, primary_key=True)
    release_id: Mapped[int] = mapped_column(ForeignKey("releases.id"))
    attempt: Mapped[str] = mapped_column(String(64), unique=True)
    outcome: Mapped[str] = mapped_column(OutcomeColumn)
    reason: Mapped[str] = mapped_column(String(10000))
    actor: Mapped[str] = mapped_column(String(200))
    committed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    ended_at: Mapped[datetime] = mapped_column(UtcDateTime)
    seconds: Mapped[dict[str, float]] = mapped_column(JSON)
    recorded_at: Mapped[datetime] = mapped_column(UtcDateTime, default=_now)
    release: Mapped[Release] = relationship(lazy="joined", innerjoin=True)
    tag = association_proxy("release", "tag")


class SchemaFloor(Base):
    """One row: the oldest revision whose code can run on this schema. Migrations from 0002 on update it."""

    __tablename__ = "schema_floor"

    revision: Mapped[str] = mapped_column(String(32), primary_key=True)


def create_engine(db_conn: str) -> Engine:
    """Return an engine for DB_CONN; it connects on first use.

    Timeouts on PostgreSQL: 2 s to connect, 5 s for a free connection in the pool, 5 s for a statement.
    On SQLite: 5 s for the database lock.
    """
    if db_conn.startswith("sqlite"):
        engine = create_sqlalchemy_engine(db_conn, connect_args={"timeout": 5}, hide_parameters=True)
        event.listen(engine, "connect", _prepare_sqlite)
        return engine
    engine = create_sqlalchemy_engine(
        db_conn,
        # Milliseconds without an acknowledgement, after which a connection to a vanished server fails.
        connect_args={"connect_timeout": 2, "tcp_user_timeout": 5000},
        hide_parameters=True,
        pool_pre_ping=True,
        pool_size=5,
        max_overflow=5,  # PostgreSQL allows 100 connections, and a deploy runs two containers for each replica
        pool_timeout=5,
    )
    event.listen(engine, "connect", _prepare_postgresql)
    return engine


def _prepare_sqlite(connection, _record) -> None:
    connection.execute("PRAGMA journal_mode = WAL")  # readers do not wait for a writer
    connection.execute("PRAGMA foreign_keys = ON")


def _prepare_postgresql(connection, _record) -> None:
    connection.execute("SET statement_timeout = '5s'")
    connection.execute("SET timezone = 'UTC'")  # in other time zones, year 1 can be outside the range of datetime
    connection.commit()


def alembic_config() -> Config:
    """Return Alembic's configuration, which needs no alembic.ini."""
    config = Config()
    # Alembic interpolates percent signs in its options.
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config


def required_revision() -> str:
    """Return the schema revision that this code requires: that of its latest migration."""
    return ScriptDirectory.from_config(alembic_config()).get_current_head()


def current_revision(connection: Connection) -> str | None:
    """Return the revision of the database, or None if it has no schema."""
    return MigrationContext.configure(connection).get_current_revision()


def schema_state(connection: Connection, required: str) -> tuple[SchemaState, str]:
    """Return the state of the schema for code that requires at least this revision, and a one-line message."""
    current = current_revision(connection)
    if current is None or current < required:
        state = f"the schema is at revision {current}" if current else "the database has no schema"
        return SchemaState.PENDING, f"{state}, but this code requires {required}: run python -m service.migrate"
    if current == required:
        return SchemaState.COMPATIBLE, f"the schema is up to date ({required})"
    floor = connection.scalar(select(SchemaFloor.revision))
    if floor is not None and floor > required:
        return SchemaState.TOO_NEW, (
            f"the schema is at revision {current}, which supports code at revision {floor} or later, "
            f"but this code is at {required}: deploy a later release, or restore the backup from before that migration"
        )
    return SchemaState.COMPATIBLE, (
        f"the schema is at revision {current}, newer than revision {required}, which this code requires; "
        "compatible, left unchanged"
    )


def is_unavailable(error: SQLAlchemyError) -> bool:
    """Return whether the database is unreachable or timed out. Otherwise, the statement or its data is invalid."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, TimeoutError)  # the pool had no free connection
    statement_errors = (DataError, IntegrityError, InternalError, NotSupportedError, ProgrammingError)
    return not isinstance(error, statement_errors) and getattr(error.orig, "sqlite_errorname", "") != "SQLITE_ERROR"


def error_message(error: Exception) -> str:
    """Return the first line of the driver's message. SQLAlchemy's own message adds the statement and its values."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return next(iter(str(cause).splitlines()), type(cause).__name__)
