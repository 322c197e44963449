"""The database: its engine, its tables, and the schema it is at."""

from datetime import UTC, datetime
from pathlib import Path

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import JSON, BigInteger, Connection, DateTime, Engine, ForeignKey, Index, Integer, String, event, select
from sqlalchemy import create_engine as new_engine
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

FITS, BEHIND, TOO_NEW = 0, 3, 4  # how a schema suits the code; what `migrate --check` exits with

# SQLite numbers rows by itself only in a column that is exactly INTEGER.
Id = BigInteger().with_variant(Integer, "sqlite")


class UtcDateTime(TypeDecorator):
    """A moment in UTC. SQLite forgets the time zone, so it is put back on the way out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect) -> datetime | None:
        """Give the moment as an aware datetime in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _now() -> datetime:
    return datetime.now(UTC)


class Base(DeclarativeBase):
    """The tables of this release; migrations/ is how a database gets there."""


class Release(Base):
    """A release that was recorded."""

    __tablename__ = "releases"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    tag: Mapped[str] = mapped_column(String(64), unique=True)
    recorded_at: Mapped[datetime] = mapped_column(UtcDateTime, default=_now)


class Note(Base):
    """What somebody left on a release."""

    __tablename__ = "notes"
    __table_args__ = (
        Index("notes_of_release", "release_id", "id"),
        Index("notes_once", "release_id", "key", unique=True),
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    release_id: Mapped[int] = mapped_column(ForeignKey("releases.id"))
    text: Mapped[str] = mapped_column(String(2000))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=_now)
    key: Mapped[str | None] = mapped_column(String(64))
    release: Mapped[Release] = relationship(lazy="joined", innerjoin=True)
    tag = association_proxy("release", "tag")


class Deploy(Base):
    """An attempt to make a release live, and how it ended; `seconds` are those of each step."""

    __tablename__ = "deploys"
    __table_args__ = (Index("deploys_of_release", "release_id", "id"), Index("deploys_ended", "ended_at", "id"))

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    release_id: Mapped[int] = mapped_column(ForeignKey("releases.id"))
    attempt: Mapped[str] = mapped_column(String(64), unique=True)
    outcome: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(String(10000))
    actor: Mapped[str] = mapped_column(String(200))
    committed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    ended_at: Mapped[datetime] = mapped_column(UtcDateTime)
    seconds: Mapped[dict[str, float]] = mapped_column(JSON)
    recorded_at: Mapped[datetime] = mapped_column(UtcDateTime, default=_now)
    release: Mapped[Release] = relationship(lazy="joined", innerjoin=True)
    tag = association_proxy("release", "tag")


class SchemaFloor(Base):
    """One row: the oldest revision whose code can run on this schema. Migrations write it, from 0002 on."""

    __tablename__ = "schema_floor"

    revision: Mapped[str] = mapped_column(String(32), primary_key=True)


def create_engine(db_conn: str) -> Engine:
    """An engine for DB_CONN; it connects when first used.

    Waits at most 2 s to connect, 5 s for a free connection of the pool, and on PostgreSQL 5 s for a statement.
    """
    if db_conn.startswith("sqlite"):
        engine = new_engine(db_conn, connect_args={"timeout": 5}, hide_parameters=True)
        event.listen(engine, "connect", _prepare_sqlite)
        return engine
    engine = new_engine(
        db_conn,
        # A server that vanished without a word is given up after as many milliseconds.
        connect_args={"connect_timeout": 2, "tcp_user_timeout": 5000},
        hide_parameters=True,
        pool_pre_ping=True,
        pool_size=5,
        max_overflow=5,  # PostgreSQL takes 100 connections, and in a deploy there are two of each replica
        pool_timeout=5,
    )
    event.listen(engine, "connect", _prepare_postgresql)
    return engine


def _prepare_sqlite(connection, _record) -> None:
    connection.execute("PRAGMA journal_mode = WAL")  # readers do not wait for a writer
    connection.execute("PRAGMA foreign_keys = ON")


def _prepare_postgresql(connection, _record) -> None:
    connection.execute("SET statement_timeout = '5s'")
    connection.execute("SET timezone = 'UTC'")  # in another zone, year 1 may be no year that Python has
    connection.commit()


def alembic_config() -> Config:
    """Alembic's configuration, without an alembic.ini to ship."""
    config = Config()
    # A percent sign starts an interpolation in Alembic's options.
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config


def needed_revision() -> str:
    """The schema that this code needs at least: the last of its migrations."""
    return ScriptDirectory.from_config(alembic_config()).get_current_head()


def current_revision(connection: Connection) -> str | None:
    """The schema that the database is at, None when it has none."""
    return MigrationContext.configure(connection).get_current_revision()


def fit(connection: Connection, needed: str) -> tuple[int, str]:
    """FITS, BEHIND or TOO_NEW: how the schema suits code that needs at least this one; and the same in a line."""
    current = current_revision(connection)
    if current is None or current < needed:
        return BEHIND, f"schema is {current or 'none'}, this code needs {needed}: run python -m service.migrate"
    if current == needed:
        return FITS, f"schema {needed}: already there"
    floor = connection.scalar(select(SchemaFloor.revision))
    if floor is not None and floor > needed:
        return TOO_NEW, (
            f"schema is {current}, on which only code of {floor} or later can run, and this code is of {needed}: "
            "take a later release, or put back the backup from before that migration"
        )
    return FITS, f"schema {current}: newer than this code's {needed}, left alone"


def is_away(error: SQLAlchemyError) -> bool:
    """Whether the database does not answer, or not in time; otherwise what it was asked is wrong."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, TimeoutError)  # no connection of the pool was free
    wrong = (DataError, IntegrityError, InternalError, NotSupportedError, ProgrammingError)
    return not isinstance(error, wrong) and getattr(error.orig, "sqlite_errorname", "") != "SQLITE_ERROR"


def why(error: Exception) -> str:
    """The first line of what the driver said. SQLAlchemy's own message adds the statement and its values."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return next(iter(str(cause).splitlines()), type(cause).__name__)
