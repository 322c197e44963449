"""The values of an application's settings: generated, addresses of services, or known to the user only."""

import re
from dataclasses import dataclass, field

from scripts.adopt.commands import PORT
from scripts.adopt.environment import Setting
from scripts.adopt.facts import Facts
from scripts.adopt.services import is_redis

# Settings with similar names that are not for the database, or the Redis, of the application.
NOT_THIS_SERVICE = re.compile(
    r"(\w+_)?(TEST|TESTING|DEV|DEVELOPMENT|STAGING|READ|REPLICA|SQS|MONGO|MONGODB|VECTOR|QDRANT|CHROMA|INFLUX|MYSQL|"
    r"ELASTIC|ELASTICSEARCH|NEO4J|RABBIT|RABBITMQ|AMQP|CLICKHOUSE)_\w+"
)
DATABASE_ENGINE = re.compile(r"(\w+_)?(DATABASE|DB|POSTGRES|POSTGRESQL|PG|SQL)_(ENGINE|BACKEND)")
DATABASE_URL = re.compile(
    r"(\w+_)?(DATABASE|DB|POSTGRES|POSTGRESQL|PG|SQLALCHEMY|SQL)\w*_(URL|URI|DSN|CONN|CONNECTION)|DATABASE"
)
DATABASE_PART = re.compile(
    r"(\w+_)?(?:DATABASE|DB|POSTGRES|POSTGRESQL|PG|SQL)_?"
    r"(HOST|SERVER|HOSTNAME|ADDRESS|PORT|NAME|DB|DATABASE|USER|USERNAME|PASSWORD|PASS)"
)
# Secrets that any random text can be. Those of other services must be the user's own.
OWN_SECRET = re.compile(
    r"(\w+_)?(SECRET|SECRET_KEY|SALT|SIGNING_KEY|ENCRYPTION_KEY)|(API|AUTH|ADMIN|APP)_(KEY|TOKEN|PASSWORD)"
)
OTHER_SERVICES = re.compile(
    r"(AWS|S3|AZURE|GOOGLE|GCP|GITHUB|GITLAB|STRIPE|PAYPAL|TWILIO|SENDGRID|MAILGUN|MAIL|EMAIL|SMTP|SLACK|SENTRY|OPENAI|"
    r"ANTHROPIC|CLOUDINARY|FACEBOOK|OAUTH|OIDC|SOCIAL|AUTH0|FIREBASE|RECAPTCHA|TELEGRAM|DISCORD)_\w+|"
    r"(\w+_)?(CLIENT|CONSUMER|WEBHOOK|REDIS)_\w+"
)
# An optional one gets a value, too: a default in the code is public.
SIGNING_KEY = re.compile(r"(DJANGO_|FLASK_|APP_|SESSION_|JWT_|AUTH_)?SECRET(_KEY)?|JWT_SECRET(_KEY)?")
HOSTS = re.compile(r"(\w+_)?ALLOWED_HOSTS?")
ORIGINS = re.compile(r"(\w+_)?TRUSTED_ORIGINS?")
DEBUG = re.compile(r"(DJANGO_)?DEBUG")
SAMPLES = {"int": "1", "bool": "false", "email": "admin@example.com", "url": "https://example.com"}


@dataclass
class Configuration:
    """The settings of an application, sorted by what their values are; each with its name."""

    environment: list[tuple[str, str]] = field(default_factory=list)  # value in the compose file; empty: optional
    secrets: list[tuple[str, str]] = field(default_factory=list)  # generated on the server
    composed: list[tuple[str, str]] = field(default_factory=list)  # addresses of services
    derived: list[tuple[str, str]] = field(default_factory=list)  # from SITE_ADDRESS
    unknown: list[tuple[str, str]] = field(default_factory=list)  # required, and nothing says what they are


def sort_settings(facts: Facts) -> Configuration:
    """Return the settings of the application with their values."""
    found = Configuration()
    for setting in facts.settings:
        if setting.name == "PORT":
            found.environment.append(("PORT", PORT))
        elif name := _sort(facts, setting, found):
            found.environment.append((name, f"${{{name}:?set {name} in .env}}"))
        else:
            found.environment.append((setting.name, ""))
    found.environment.sort(key=lambda item: not item[1])  # the optional ones last
    if facts.has_database:
        found.secrets.append(("POSTGRES_PASSWORD", "change-me"))
    return found


def unknown_settings(facts: Facts) -> list[str]:
    """Return the names of the settings that the user has to set before the first deploy."""
    return [name for name, _ in sort_settings(facts).unknown]


def _sort(facts: Facts, setting: Setting, found: Configuration) -> str:
    """Add a setting to the list for its kind of value; return its name, or an empty text if it stays optional."""
    name = setting.name
    is_django = facts.framework == "django"
    if value := _address(facts, setting):
        found.composed.append((name, value))
    elif name == "POSTGRES_PASSWORD" and facts.has_database:
        pass
    elif is_django and HOSTS.fullmatch(name):
        separator = setting.separator if setting.separator in (";", " ", "|") else ","
        found.derived.append((name, f"${{SITE_ADDRESS}}{separator}localhost"))
    elif is_django and ORIGINS.fullmatch(name) and setting.is_required:
        found.derived.append((name, "https://${SITE_ADDRESS}"))
    elif is_django and DEBUG.fullmatch(name) and setting.default.lower() in ("true", "1", "yes", "on"):
        found.derived.append((name, "0" if setting.kind == "int" else "False"))
    elif SIGNING_KEY.fullmatch(name):
        found.secrets.append((name, "change-me"))
    elif not setting.is_required:
        return ""
    elif OWN_SECRET.fullmatch(name) and not OTHER_SERVICES.fullmatch(name) and not setting.kind:
        found.secrets.append((name, "change-me"))
    else:
        found.unknown.append((name, SAMPLES.get(setting.kind, "change-me")))
    return name


def _address(facts: Facts, setting: Setting) -> str:
    """Return the value of a setting that says where the database or Redis is; empty for other settings."""
    name, database = setting.name, facts.database_name
    if NOT_THIS_SERVICE.fullmatch(name):
        return ""
    if facts.uses_redis and is_redis(name):
        if name.endswith("_PORT"):
            return "6379"
        return "redis" if name.endswith("_HOST") else "redis://redis:6379/0"
    if not facts.has_database:
        return ""
    if facts.framework == "django" and DATABASE_ENGINE.fullmatch(name):
        is_sqlite = re.fullmatch(r"django\..*sqlite3", setting.default)
        return "django.db.backends.postgresql" if is_sqlite or setting.is_required else ""
    if DATABASE_URL.fullmatch(name):
        parts = {part[2] for item in facts.settings if (part := DATABASE_PART.fullmatch(item.name))}
        if not setting.is_required and parts >= {"PASSWORD"} and parts & {"HOST", "SERVER", "HOSTNAME", "ADDRESS"}:
            return ""  # the code composes it from the parts
        return f"{facts.database_scheme}://{database}:${{POSTGRES_PASSWORD}}@db:5432/{database}"
    if (part := DATABASE_PART.fullmatch(name)) and name != "POSTGRES_PASSWORD":
        values = {
            **dict.fromkeys(("HOST", "SERVER", "HOSTNAME", "ADDRESS"), "db"),
            "PORT": "5432",
            **dict.fromkeys(("NAME", "DB", "DATABASE", "USER", "USERNAME"), database),
            **dict.fromkeys(("PASSWORD", "PASS"), "${POSTGRES_PASSWORD}"),
        }
        return values[part[2]]
    return ""


def find_gaps(facts: Facts) -> list[str]:
    """Return notes about services whose addresses no setting has."""
    if facts.database != "postgresql" or not facts.has_database:
        return []
    values = [value for _, value in sort_settings(facts).composed]
    if any(value == "db" or "@db:" in value for value in values):
        return []
    url = f"{facts.database_scheme}://{facts.database_name}:<POSTGRES_PASSWORD>@db:5432/{facts.database_name}"
    return [
        "no setting was found that says where the database is: the application must read it from one. Its address is"
        f" {url}"
    ]
