"""The database: its engine, its tables, and the schema it is at."""

from datetime import UTC, datetime
from pathlib import Path

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import BigInteger, Connection, DateTime, Engine, ForeignKey, Index, Integer, String, event
from sqlalchemy import create_engine as new_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

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
    __table_args__ = (Index("notes_of_release", "release_id", "id"),)

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    release_id: Mapped[int] = mapped_column(ForeignKey("releases.id"))
    text: Mapped[str] = mapped_column(String(2000))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=_now)


def create_engine(db_conn: str) -> Engine:
    """An engine for DB_CONN; it connects when first used.

    Waits at most 2 s to connect and 5 s for a free connection of the pool.
    """
    if db_conn.startswith("sqlite"):
        engine = new_engine(db_conn, connect_args={"timeout": 5})
        event.listen(engine, "connect", _prepare_sqlite)
        return engine
    return new_engine(
        db_conn,
        connect_args={"connect_timeout": 2},
        pool_pre_ping=True,
        pool_size=10,
        max_overflow=5,
        pool_timeout=5,
    )


def _prepare_sqlite(connection, _record) -> None:
    connection.execute("PRAGMA journal_mode = WAL")  # readers do not wait for a writer
    connection.execute("PRAGMA foreign_keys = ON")


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


def why(error: Exception) -> str:
    """The first line of what the driver said. SQLAlchemy's own message adds the statement and its values."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return next(iter(str(cause).splitlines()), type(cause).__name__)
