"""Settings, read once from the environment and the .env files."""

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dotenv import dotenv_values
from sqlalchemy.engine import make_url

PLACEHOLDER = "change-me"


class SettingsError(Exception):
    """A setting is missing or malformed; the one-line message names the setting and where to fix it."""


@dataclass(frozen=True)
class Settings:
    """The settings of the service. Each environment variable has the name of its field in upper case."""

    app_env: str
    api_port: int
    db_conn: str = field(repr=False)
    api_token: tuple[str, ...] = field(repr=False)
    read_access: str

    @classmethod
    def read(cls, environ: Mapping[str, str] | None = None, directory: Path | None = None) -> "Settings":
        """Read the settings. The environment takes precedence over `.env`, and `.env` over `.env.<APP_ENV>`.

        `environ` defaults to os.environ, `directory` (of the files) to the current directory.
        Raises SettingsError for the first setting that is missing, empty or malformed.
        """
        directory = directory or Path.cwd()
        sources: dict[str, Mapping[str, str | None]] = {
            "the environment": os.environ if environ is None else environ,
            ".env": _read_file(directory / ".env"),
        }
        app_env = _parse_app_env(*_look_up("APP_ENV", sources))
        sources[f".env.{app_env}"] = _read_file(directory / f".env.{app_env}")

        def parse_setting(name: str, parse):
            value, source = _look_up(name, sources)
            if app_env == "prod" and PLACEHOLDER in value:
                raise SettingsError(f"{name} still contains the placeholder {PLACEHOLDER}: replace it in {source}")
            return parse(value, source)

        return cls(
            app_env=app_env,
            api_port=parse_setting("API_PORT", _parse_api_port),
            db_conn=parse_setting("DB_CONN", _parse_db_conn),
            api_token=parse_setting("API_TOKEN", _parse_api_token),
            read_access=parse_setting("READ_ACCESS", _parse_read_access),
        )


def read_settings_or_exit() -> Settings:
    """Read the settings; on an error, print one line to stderr and exit with status 2."""
    try:
        return Settings.read()
    except SettingsError as error:
        print(f"service: {error}", file=sys.stderr)
        sys.exit(2)


def _read_file(path: Path) -> Mapping[str, str | None]:
    try:
        return dotenv_values(path)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path.name} cannot be read: {error.__class__.__name__}; fix {path}") from None


def _look_up(name: str, sources: Mapping[str, Mapping[str, str | None]]) -> tuple[str, str]:
    """Return the value of a setting and its source. An empty value is an error, even if a later source has one."""
    for source, values in sources.items():
        value = values.get(name)
        if value is not None:
            if not value.strip():
                raise SettingsError(f"{name} is empty: set it in {source} (see .env.example)")
            return value, source
    raise SettingsError(f"{name} is missing: set it in .env (see .env.example)")


def _malformed(name: str, expected: str, source: str) -> SettingsError:
    # The message omits the value, which may be a secret.
    return SettingsError(f"{name} is malformed: expected {expected}; fix it in {source}")


def _parse_app_env(value: str, source: str) -> str:
    if value not in ("dev", "prod"):
        raise _malformed("APP_ENV", "dev or prod", source)
    return value


def _parse_api_port(value: str, source: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", value) or not 1 <= int(value) <= 65535:
        raise _malformed("API_PORT", "a number from 1 to 65535", source)
    return int(value)


def _parse_db_conn(value: str, source: str) -> str:
    """Return the URL of the database, with the driver added to a PostgreSQL scheme without one."""
    expected = "sqlite:///./FILE or postgresql+psycopg://USER:PASSWORD@HOST:PORT/NAME"
    try:
        url = make_url(value)
    except Exception:  # SQLAlchemy raises several types, and their messages contain the value
        raise _malformed("DB_CONN", expected, source) from None
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername not in ("sqlite", "postgresql+psycopg") or url.database in (None, "", ":memory:"):
        raise _malformed("DB_CONN", expected, source)
    return url.render_as_string(hide_password=False)


def _parse_api_token(value: str, source: str) -> tuple[str, ...]:
    tokens = tuple(value.split(","))
    if not all(re.fullmatch("[!-~]{16,}", token) for token in tokens):
        expected = "16 or more printable ASCII characters without spaces, or several such tokens separated by commas"
        raise _malformed("API_TOKEN", expected, source)
    return tokens


def _parse_read_access(value: str, source: str) -> str:
    if value not in ("public", "token"):
        raise _malformed("READ_ACCESS", "public or token", source)
    return value
