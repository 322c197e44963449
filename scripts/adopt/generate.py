"""The files of an adopted repository: those of the pipeline, and the configuration for this application."""

import json
import re
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from scripts.adopt.environment import Setting
from scripts.adopt.facts import Facts
from scripts.adopt.services import is_redis
from scripts.runner import project
from scripts.runner.process import ROOT, run

HERE = Path(__file__).parent
# Identical in every repository, without what is only for the repository of Quai.
PIPELINE = ("scripts",)
NOT_SHIPPED = ("scripts/adopt/", "scripts/ruff.toml")
PYTHON_IMAGES = {
    "3.13": "python:3.13.16-slim-trixie@sha256:bf44cdfcb76cd3b41e879bc058fc37ec5872002ccfde7fcb765e218cde0cd79c",
    "3.14": "python:3.14.8-slim-trixie@sha256:89fb7d3da20043c370643435258bdd7ab755d326d359001d02988ed15ae5219e",
}
CI, CD, DEPENDABOT = ".github/workflows/ci.yml", ".github/workflows/cd.yml", ".github/dependabot.yml"
TOOLS = {"uv.lock": "uv", "poetry.lock": "poetry", "pdm.lock": "pdm"}
OTHER_DATABASES = re.compile(r"(\w+_)?(TEST|TESTING|DEV|DEVELOPMENT|STAGING|READ|REPLICA)_\w+")
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
    r"ANTHROPIC|CLOUDINARY|FACEBOOK|OAUTH|OIDC|SOCIAL|AUTH0|FIREBASE|RECAPTCHA|TELEGRAM|DISCORD)_\w+"
)
# An optional one gets a value, too: a default in the code is public.
SIGNING_KEY = re.compile(r"(DJANGO_|FLASK_|APP_|SESSION_|JWT_|AUTH_)?SECRET(_KEY)?|JWT_SECRET\w*")
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


def generate(facts: Facts) -> dict[str, str]:
    """Return the text of each file of the configuration, by its name."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - the files are not HTML
    )
    environment.filters |= {"flow": flow, "quote": shlex.quote}
    context = _context(facts)
    names = [name.removesuffix(".jinja") for name in environment.list_templates()]
    texts = {name: environment.get_template(f"{name}.jinja").render(context) for name in sorted(names)}
    for path in (path for path in (HERE / "files").rglob("*") if path.is_file()):
        texts[path.relative_to(HERE / "files").as_posix()] = path.read_text()
    for name, text in ((CI, texts[CI]), (CD, (ROOT / CD).read_text())):
        texts[name] = _in_folder(text, facts.folder)
    return texts


def _in_folder(workflow: str, folder: str) -> str:
    """Return a workflow that runs its commands in a folder; an empty one is the top level."""
    if not folder:
        return workflow
    defaults = f"# The application is in this folder.\ndefaults:\n  run:\n    working-directory: {json.dumps(folder)}\n"
    return workflow.replace("permissions: {}\n", f"permissions: {{}}\n\n{defaults}")


def pipeline_files() -> dict[str, Path]:
    """Return the files of the pipeline, by their names in the adopted repository."""
    files = {name: path for name, path in quai_files(*PIPELINE).items() if not name.startswith(NOT_SHIPPED)}
    return files | {"scripts/LICENSE": ROOT / "LICENSE"}


def quai_files(*folders: str) -> dict[str, Path]:
    """Return the files of Quai in these folders, or all, by their names."""
    listed = run("git", "-C", str(ROOT), "ls-files", "-z", "--", *folders)
    return {name: ROOT / name for name in listed.split("\0") if name}


def is_executable(path: Path) -> bool:
    """Return whether the owner of a file can execute it."""
    return bool(path.stat().st_mode & 0o100)


def flow(words: list[str]) -> str:
    """Return words as a YAML list on one line."""
    return f"[{', '.join(word if _is_plain(word) else json.dumps(word) for word in words)}]"


def _is_plain(word: str) -> bool:
    is_special = re.fullmatch(r"(true|false|yes|no|on|off|null|y|n)", word, re.IGNORECASE)
    return bool(re.fullmatch(r"-{0,2}[A-Za-z_/][\w./=@-]*", word)) and not is_special


def sort_settings(facts: Facts) -> Configuration:
    """Return the settings of the application with their values."""
    found = Configuration()
    for setting in facts.settings:
        if name := _sort(facts, setting, found):
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
        found.derived.append((name, f"${{SITE_ADDRESS}}{setting.separator or ','}localhost"))
    elif is_django and ORIGINS.fullmatch(name) and setting.is_required:
        found.derived.append((name, "https://${SITE_ADDRESS}"))
    elif is_django and DEBUG.fullmatch(name) and setting.is_truthy:
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
    if facts.uses_redis and is_redis(name):
        if name.endswith("_PORT"):
            return "6379"
        return "redis" if name.endswith("_HOST") else "redis://redis:6379/0"
    if not facts.has_database or OTHER_DATABASES.fullmatch(name):
        return ""
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


def _context(facts: Facts) -> dict[str, Any]:
    configuration = sort_settings(facts)
    file = facts.dependency_file
    # A site that redirects plain HTTP, or checks the host, needs a name.
    site = "localhost" if facts.requires_https or configuration.derived else ":80"
    return {
        **vars(facts),
        **vars(configuration),
        "environment": [*_fixed_environment(facts), *configuration.environment],
        "has_database": facts.has_database,
        "database_name": facts.database_name,
        "has_data": facts.has_database or facts.uses_redis,
        "site": site,
        "rehearsal_settings": [
            *configuration.unknown,
            *([("SITE_ADDRESS", site)] if site == "localhost" else []),
            *([("COMPOSE_PROFILES", "smoke-test")] if facts.database == "external" and facts.has_database else []),
        ],
        "needs_dns": any(process.words[0] == "celery" for process in facts.processes),
        "python_image": PYTHON_IMAGES.get(facts.python, f"python:{facts.python}-slim-trixie"),
        "tool": " ".join(project.pins(TOOLS[file])) if file in TOOLS else "",
        "test_settings": _test_settings(facts, configuration),
        "throwaway_settings": _throwaway_settings(facts, configuration),
        "copied": "/app /release" if facts.static_prefix else "/app",
    }


def _test_settings(facts: Facts, configuration: Configuration) -> list[tuple[str, str]]:
    """Return the variables of the tests: secrets, required settings, and the address of the database that they need."""
    required = [*configuration.secrets, *configuration.unknown]
    required = [item for item in required if item[0] != "POSTGRES_PASSWORD"]
    if not facts.tests_need_database:
        return required
    name = facts.database_name
    address = {"db": "{host}", "5432": "{port}", name: "{name}", "${POSTGRES_PASSWORD}": "{password}"}
    url = f"://{name}:${{POSTGRES_PASSWORD}}@db:5432/{name}"
    found = [
        (setting, address.get(value, value.replace(url, "://{user}:{password}@{host}:{port}/{name}")))
        for setting, value in configuration.composed
    ]
    if any(setting.name == "POSTGRES_PASSWORD" for setting in facts.settings):
        found.append(("POSTGRES_PASSWORD", "{password}"))
    return [*found, *required]


def _fixed_environment(facts: Facts) -> list[tuple[str, str]]:
    """Return the variables whose values depend on the code alone."""
    found = []
    if facts.framework == "flask" and facts.migrate[:1] == ["flask"] and facts.target:
        found.append(("FLASK_APP", facts.target))
    if facts.uses_redis and any(process.words[0] == "rq" for process in facts.processes):
        found.append(("RQ_REDIS_URL", "redis://redis:6379/0"))  # the command does not read the settings of the code
    if facts.settings_module:
        found.append(("DJANGO_SETTINGS_MODULE", facts.settings_module))
    return found


def _throwaway_settings(facts: Facts, configuration: Configuration) -> str:
    """Return assignments with which the project can be imported during the build."""
    kinds = {setting.name: SAMPLES.get(setting.kind, "none") for setting in facts.settings}
    values = dict(_fixed_environment(facts)) | {
        name: kinds.get(name, "none") for name, value in configuration.environment if value
    }
    values |= {name: value.replace("${POSTGRES_PASSWORD}", "none") for name, value in configuration.composed}
    values |= {name: value.replace("${SITE_ADDRESS}", "localhost") for name, value in configuration.derived}
    return "".join(f"{name}={shlex.quote(value)} " for name, value in values.items())


def main() -> None:
    """Write the configuration for the facts in a file into a folder: `adopt --update` runs it in an older version."""
    facts = Facts.from_json(json.loads(Path(sys.argv[1]).read_text()))
    for name, text in generate(facts).items():
        path = Path(sys.argv[2], name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
