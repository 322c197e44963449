"""Settings from environment variables and .env files."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from scripts.runner.process import Failure

COMPOSE_FILE = "docker-compose.prod.yml"  # in a release
VARIABLES_PAGE = "'Secrets and variables' in docs/server.md"
SETTING = re.compile(
    r"""^[ \t]*(?:export[ \t]+)?(?P<name>\w+)[ \t]*=[ \t]*
    (?: '(?P<single>(?:\\.|[^'\\\n])*)'[ \t]*(?:\#.*)?$
      | "(?P<double>(?:\\.|[^"\\\n])*)"[ \t]*(?:\#.*)?$
      | (?P<plain>.*)$ )""",
    re.MULTILINE | re.VERBOSE,
)


def required(*names: str, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return these environment variables. Raise Failure that names all that are missing or empty."""
    missing = [name for name in names if not environment.get(name)]
    if missing:
        verb, object_ = ("is", "it") if len(missing) == 1 else ("are", "them")
        raise Failure(f"{', '.join(missing)} {verb} missing or empty: set {object_} as described in {VARIABLES_PAGE}")
    return {name: environment[name] for name in names}


def image_name(environment: Mapping[str, str] = os.environ) -> str:
    """Return the image's name without tag: IMAGE, or `quai` for a local build."""
    return environment.get("IMAGE", "").lower() or "quai"


def parse_env(text: str) -> dict[str, str]:
    """Return the settings of an .env file, parsed as python-dotenv does, without interpolation."""
    settings = {}
    for line in SETTING.finditer(text):
        quoted = line["single"] if line["single"] is not None else line["double"]
        if quoted is None:
            settings[line["name"]] = re.sub(r"\s+#.*", "", line["plain"]).strip()
        else:
            settings[line["name"]] = re.sub(r"\\([\\'\"])", r"\1", quoted)
    return settings


def read_env_file(path: Path) -> dict[str, str]:
    """Return the settings of an .env file; empty if there is no such file."""
    return parse_env(path.read_text()) if path.exists() else {}


def compose_environment(names: Mapping[str, str], environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment without the variables that would override these settings of .env."""
    return {key: value for key, value in environment.items() if key not in names and not key.startswith("COMPOSE_")}
