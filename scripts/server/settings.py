"""The server's .env: read as Docker Compose reads it, validated, and written back atomically."""

import fcntl
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from server.errors import UsageError
from server.state import CHILD_MARK, replace

COMMIT = "[0-9a-f]{40}"
INHERITED_VARIABLES = rf"PATH|HOME|USER|LC_ALL|TMPDIR|DOCKER_\w+|{CHILD_MARK}"
COMPOSE, SWARM = "compose", "swarm"  # values of ENGINE: what runs the containers
DEFAULTS = {
    "ENGINE": COMPOSE,
    "API_REPLICAS": "1",
    "KEEP_RELEASES": "5",
    "MIN_FREE_MB": "1024",
    "HEALTH_SECONDS": "60",
    "WATCH_SECONDS": "5",
    "MIGRATE_SECONDS": "300",
    "NOTIFY_URL": "",
    "NOTIFY_TOKEN": "",
}

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_LINE = re.compile(
    rf"""^[ \t]*(?:export[ \t]+)?(?P<name>{_NAME})[ \t]*[=:][ \t]*
    (?: '(?P<literal>[^']*)' | "(?P<quoted>(?:\\.|[^"\\])*)" | (?P<plain>[^\n]*) )""",
    re.MULTILINE | re.VERBOSE | re.DOTALL,
)
_REFERENCE = re.compile(
    rf"\$(?:(?P<escaped>\$)|(?P<bare>{_NAME})|{{(?P<name>{_NAME})(?:(?P<operator>:?[-+?])(?P<operand>[^}}]*))?}})"
)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


@dataclass(frozen=True)
class Settings:
    """What the deploy program reads from .env. Times are in seconds, sizes in MiB."""

    engine: str
    project: str
    image: str
    image_tag: str
    deploy_id: str
    site_address: str
    keep_releases: int
    min_free_mb: int
    health_seconds: int
    watch_seconds: int
    migrate_seconds: int
    notify_url: str
    notify_token: str = field(repr=False)
    is_stale: bool = False  # IMAGE_TAG and DEPLOY_ID in .env are older than these: see history.read_settings

    def release_image(self, tag: str) -> str:
        """The full name of a release's image."""
        return f"{self.image}:{tag}"


def inherited_environment() -> dict[str, str]:
    """Return the variables of the caller that Compose gets. Others could override a line of .env."""
    return {name: value for name, value in os.environ.items() if re.fullmatch(INHERITED_VARIABLES, name)}


def parse(text: str, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the names and values of a .env file, with quotes, comments and ${NAME} resolved as Compose does.

    The last assignment wins. References are resolved from earlier lines, then from `environment`.
    """
    values: dict[str, str] = {}
    for line in _LINE.finditer(text):
        if line["literal"] is not None:
            values[line["name"]] = line["literal"]
            continue
        known = {**(environment or {}), **values}
        if line["quoted"] is not None:
            value = re.sub(r"\\([nrt\"\\])", lambda found: _ESCAPES.get(found[1], found[1]), line["quoted"])
        else:
            value = re.split(r"(?:^|[ \t])#", line["plain"], maxsplit=1)[0].strip()
        values[line["name"]] = _expand(value, known)
    return values


def _expand(value: str, known: Mapping[str, str]) -> str:
    def replacement(found: re.Match[str]) -> str:
        if found["escaped"]:
            return "$"
        name, operator, operand = found["bare"] or found["name"], found["operator"] or "", found["operand"] or ""
        is_set = bool(known.get(name)) if operator.startswith(":") else name in known
        if operator.endswith("+"):
            return operand if is_set else ""
        if operator.endswith("-") and not is_set:
            return operand
        return known.get(name, "")

    return _REFERENCE.sub(replacement, value)


def read(directory: Path) -> Settings:
    """Read and validate `directory`/.env.

    Raises UsageError with one line that names the setting, the file and the expected form, never the value:
    it may be a secret.
    """
    file = directory / ".env"
    try:
        values = parse(file.read_text(encoding="utf-8"), inherited_environment())
    except FileNotFoundError:
        raise UsageError(f"no .env in {directory}: setup-server.sh creates it from .env.prod") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot read {file}: {error}; run with sudo; the file must keep its owner and mode 0600"
        ) from None
    for name in ("IMAGE_TAG", "DEPLOY_ID"):
        if name not in values:
            raise UsageError(f"the line {name}= is missing in {file}; .env.prod shows where it belongs")

    def value(name: str, pattern: str, expected: str) -> str:
        found = values.get(name) or DEFAULTS.get(name, "")
        if not re.fullmatch(pattern, found):
            raise UsageError(f"{name} in {file} must be {expected}; .env.prod shows an example")
        return found

    def number(name: str) -> int:
        return int(value(name, "[1-9][0-9]{0,8}", "a whole number, 1 or more"))

    number("API_REPLICAS")  # only Compose uses it, but its message would not name the setting
    return Settings(
        engine=value("ENGINE", f"{COMPOSE}|{SWARM}", f"{COMPOSE} or {SWARM}"),
        project=value("COMPOSE_PROJECT_NAME", "[a-z0-9][a-z0-9_-]*", "a name in lower case"),
        image=value("IMAGE", r"\S+", "the name of an image"),
        image_tag=values["IMAGE_TAG"],
        deploy_id=values["DEPLOY_ID"],
        site_address=values.get("SITE_ADDRESS") or ":80",
        keep_releases=number("KEEP_RELEASES"),
        min_free_mb=number("MIN_FREE_MB"),
        health_seconds=number("HEALTH_SECONDS"),
        watch_seconds=number("WATCH_SECONDS"),
        migrate_seconds=number("MIGRATE_SECONDS"),
        notify_url=value("NOTIFY_URL", r"|https?://[^\s\"]+", "a URL (https://...)"),
        notify_token=values.get("NOTIFY_TOKEN", ""),
    )


def write_release(directory: Path, tag: str, deploy_id: str, *, only_if: tuple[str, str] | None = None) -> None:
    """Set IMAGE_TAG and DEPLOY_ID in `directory`/.env; other lines are unchanged.

    The file is replaced atomically. With `only_if` nothing happens unless IMAGE_TAG and DEPLOY_ID have these
    values. Raises OSError.
    """
    folder = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # a deploy that stops waiting for the lock writes without it
        file = directory / ".env"
        text = before = file.read_text(encoding="utf-8")
        values = parse(text)
        if only_if is not None and (values.get("IMAGE_TAG"), values.get("DEPLOY_ID")) != only_if:
            return
        for name, value in (("IMAGE_TAG", tag), ("DEPLOY_ID", deploy_id)):
            text = re.sub(rf"^[ \t]*(export[ \t]+)?{name}[ \t]*[=:].*", f"{name}={value}", text, flags=re.MULTILINE)
        if text != before:
            replace(file, text, mode=0o600)
        elif (unfinished := directory / ".env.new").is_file():  # left by a deploy that was interrupted in `replace`
            unfinished.unlink()
    finally:
        os.close(folder)
