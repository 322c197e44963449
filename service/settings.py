"""Settings: read once, from the environment and the .env files, into one frozen object."""

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
    """A setting is missing or wrong; the message is one line that names it and the file to mend."""


@dataclass(frozen=True)
class Settings:
    """What the service needs to run. The names in the environment are these in upper case."""

    app_env: str
    api_port: int
    db_conn: str = field(repr=False)
    api_token: tuple[str, ...] = field(repr=False)
    read_access: str

    @classmethod
    def read(cls, environ: Mapping[str, str] | None = None, directory: Path | None = None) -> "Settings":
        """Read the settings: the environment first, then `.env`, then `.env.<APP_ENV>`.

        `environ` is os.environ unless given, `directory` (of the files) the current one.
        Raises SettingsError for the first setting that is missing, empty or malformed.
        """
        directory = directory or Path.cwd()
        sources: dict[str, Mapping[str, str | None]] = {
            "the environment": os.environ if environ is None else environ,
            ".env": _file(directory / ".env"),
        }
        app_env = _app_env(*_find("APP_ENV", sources))
        sources[f".env.{app_env}"] = _file(directory / f".env.{app_env}")

        def setting(name: str, parse):
            value, source = _find(name, sources)
            if app_env == "prod" and PLACEHOLDER in value:
                raise SettingsError(f"{name} still holds the placeholder {PLACEHOLDER}: mend it in {source}")
            return parse(value, source)

        return cls(
            app_env=app_env,
            api_port=setting("API_PORT", _api_port),
            db_conn=setting("DB_CONN", _db_conn),
            api_token=setting("API_TOKEN", _api_token),
            read_access=setting("READ_ACCESS", _read_access),
        )


def settings_or_exit() -> Settings:
    """Read the settings; on an error print its one line on stderr and exit with status 2."""
    try:
        return Settings.read()
    except SettingsError as error:
        print(f"service: {error}", file=sys.stderr)
        sys.exit(2)


def _file(path: Path) -> Mapping[str, str | None]:
    try:
        return dotenv_values(path)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path.name} cannot be read: {error.__class__.__name__}, mend {path}") from None


def _find(name: str, sources: Mapping[str, Mapping[str, str | None]]) -> tuple[str, str]:
    """The value of a setting and where it was found. An empty value hides the sources below it."""
    for source, values in sources.items():
        value = values.get(name)
        if value is not None:
            if not value.strip():
                raise SettingsError(f"{name} is empty: set it in {source} (see .env.example)")
            return value, source
    raise SettingsError(f"{name} is missing: set it in .env (see .env.example)")


def _malformed(name: str, wanted: str, source: str) -> SettingsError:
    # The value is left out on purpose: it may be a secret.
    return SettingsError(f"{name} is malformed: {wanted} is wanted, mend it in {source}")


def _app_env(value: str, source: str) -> str:
    if value not in ("dev", "prod"):
        raise _malformed("APP_ENV", "dev or prod", source)
    return value


def _api_port(value: str, source: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", value) or not 1 <= int(value) <= 65535:
        raise _malformed("API_PORT", "a number from 1 to 65535", source)
    return int(value)


def _db_conn(value: str, source: str) -> str:
    """The database's URL, with PostgreSQL's short schemes turned into the driver's."""
    wanted = "sqlite:///./FILE or postgresql+psycopg://USER:PASSWORD@HOST:PORT/NAME"
    try:
        url = make_url(value)
    except Exception:  # the library raises several kinds, and their messages quote the value
        raise _malformed("DB_CONN", wanted, source) from None
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername not in ("sqlite", "postgresql+psycopg") or url.database in (None, "", ":memory:"):
        raise _malformed("DB_CONN", wanted, source)
    return url.render_as_string(hide_password=False)


def _api_token(value: str, source: str) -> tuple[str, ...]:
    tokens = tuple(value.split(","))
    if not all(re.fullmatch("[!-~]{16,}", token) for token in tokens):
        wanted = "16 or more printable ASCII characters without spaces (or several such, with commas between)"
        raise _malformed("API_TOKEN", wanted, source)
    return tokens


def _read_access(value: str, source: str) -> str:
    if value not in ("public", "token"):
        raise _malformed("READ_ACCESS", "public or token", source)
    return value
