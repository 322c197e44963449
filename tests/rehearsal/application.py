"""What the rehearsal must know about an application: `rehearsal.toml` at the root of its repository."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.runner.project import env_template
from scripts.runner.settings import read_env_file
from tests.rehearsal.checked_toml import CheckedFile, CheckedTable, InvalidFile

FILE = "rehearsal.toml"
READ_METHODS = ("GET", "HEAD")
METHODS = (*READ_METHODS, "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
MAX_WAIT = 600  # seconds

PLACEHOLDER = re.compile(r"\$\{([^}]*)\}")
ID, TOKEN, FIRST_COMMIT = "id", "token", "first_commit"  # the placeholders that are not settings

SETTING_NAME, COUNT_NAME = "[A-Za-z_][A-Za-z0-9_]*", "[A-Za-z0-9_-]+"
ONE_LINE = r"[^\r\n\0]*"
PATH = r"/[!-~]*"  # ASCII, without spaces
HEADER_NAME, HEADER_VALUE = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", r"[ -~]*"


@dataclass(frozen=True)
class Request:
    """A request to the application. Path, headers and body may contain placeholders."""

    path: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    credentials: bool = False  # also send the headers of the credentials
    status: int | None = 200  # expected; None: any below 500
    counted: str = ""  # the name of the count that must contain its id; empty if it is not counted
    needs_dns: bool = False  # it may open a connection to another container, or start a job that does

    @property
    def is_read(self) -> bool:
        """Whether it writes nothing."""
        return self.method in READ_METHODS and not self.counted


@dataclass(frozen=True)
class Credentials:
    """Headers for requests that require a login. `${token}` is a field of the JSON response to `request`."""

    headers: Mapping[str, str]
    request: Request | None = None
    token: str = ""  # the name of the field; dots separate the names of nested fields


@dataclass(frozen=True)
class Count:
    """How to list the ids that are stored: a docker compose command, or a request with a JSON response."""

    command: str = ""
    request: Request | None = None
    field: str = ""  # where the ids are in the JSON response; dots separate the names of nested fields
    wait: float = 0  # seconds until all acknowledged ids must be stored


@dataclass(frozen=True)
class Invariant:
    """A docker compose command, and what it must print at the end."""

    name: str
    command: str
    expected: str


@dataclass(frozen=True)
class Change:
    """An example of a code change: `old` in `file` becomes `new`, and the response at `path` contains `text`."""

    file: str
    old: str
    new: str
    path: str
    text: str


@dataclass(frozen=True)
class WebSocket:
    """The path of a WebSocket, a message, and the message that answers it. All may contain placeholders."""

    path: str
    send: str
    receive: str


@dataclass(frozen=True)
class Application:
    """What the rehearsal sends to an application, and how it counts writes."""

    health_path: str
    requests: tuple[Request, ...]
    settings: Mapping[str, str] = field(default_factory=dict)  # added to the server's .env before the first deploy
    prepare: tuple[str, ...] = ()  # docker compose commands, once after the first deploy
    credentials: Credentials | None = None
    counts: Mapping[str, Count] = field(default_factory=dict)
    invariants: tuple[Invariant, ...] = ()
    change: Change | None = None
    websocket: WebSocket | None = None

    @property
    def can_count(self) -> bool:
        """Whether writes are counted at the end."""
        return bool(self.counts)


def read(folder: Path, health_path: str) -> Application:
    """Return the application that the file describes, or without a file the default for its health path.

    Raises InvalidFile, whose message has one line for each problem.
    """
    if not (folder / FILE).exists():
        return Application(health_path, default_requests(health_path, needs_dns=False))
    try:
        file = CheckedFile(FILE, (folder / FILE).read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidFile(f"{FILE}:1: not UTF-8: {error}") from None
    application = _Reader(file.root, folder).read_application(health_path)
    file.raise_problems()
    return application


def default_requests(health_path: str, *, needs_dns: bool) -> tuple[Request, ...]:
    """Return the requests for an application that describes none: GETs with any status below 500."""
    paths = dict.fromkeys((health_path or "/", "/"))
    return tuple(Request(path, status=None, needs_dns=needs_dns) for path in paths)


def fill(text: str, values: Mapping[str, str]) -> str:
    """Replace the placeholders, except `${id}`. Raises ValueError for one without a value."""

    def find(placeholder: re.Match) -> str:
        if placeholder[1] not in values and placeholder[1] != ID:
            raise ValueError(f"{placeholder[0]} in {FILE} has no value: the server's .env has no such setting")
        return values.get(placeholder[1], placeholder[0])

    return PLACEHOLDER.sub(find, text)


class _Reader:
    """Reads and checks the tables of the file. A problem is reported to the file, which raises it at the end."""

    def __init__(self, root: CheckedTable, folder: Path) -> None:
        self.root, self.folder = root, folder
        self.settings = root.mapping("settings", SETTING_NAME, ONE_LINE, "text of one line")
        # setup-server.sh makes the server's .env from the template.
        self.placeholders = [FIRST_COMMIT, *read_env_file(folder / env_template(folder)), *self.settings]
        self.credentials = self._read_credentials()
        self.needs_dns = root.flag("needs_dns")

    def read_application(self, health_path: str) -> Application:
        requests = self._read_requests()
        application = Application(
            health_path,
            requests or default_requests(health_path, needs_dns=self.needs_dns),
            self.settings,
            self.root.texts("prepare"),
            self.credentials,
            self._read_counts({request.counted for request in requests}),
            tuple(map(self._read_invariant, self.root.tables("invariants"))),
            self._read_change(),
            self._read_websocket(),
        )
        self.root.report_unknown_keys()
        return application

    def _read_credentials(self) -> Credentials | None:
        table = self.root.table("credentials")
        if table is None:
            return None
        request, token = None, ""
        if login := table.table("request"):
            request = Request(**self._read_parts(login))
            login.report_unknown_keys()
            token = table.text("token", "the name of a field of the JSON response")
            self.placeholders.append(TOKEN)
        headers = self._read_headers(table, self.placeholders)
        if "headers" not in table.names:
            table.report("headers", "must be a table of headers, found nothing")
        table.report_unknown_keys()
        return Credentials(headers, request, token)

    def _read_requests(self) -> tuple[Request, ...]:
        """Return the requests of the load."""
        counts, requests = self.root.table("counts"), []
        for table in self.root.tables("requests"):
            request = Request(
                **self._read_parts(table, ID),
                credentials=self._read_flag(table),
                status=table.number("status", 100, 599, 200, whole=True),
                counted=table.text("counted", "the NAME of a table [counts.NAME]", default=""),
                needs_dns=table.flag("needs_dns") or self.needs_dns,
            )
            table.report_unknown_keys()
            if request.counted and request.counted not in (counts.names if counts else ()):
                table.report("counted", f'must be the NAME of a table [counts.NAME], found "{request.counted}"')
            if request.counted and "${id}" not in "".join((request.path, request.body, *request.headers.values())):
                table.report("counted", "requires ${id} in the path, a header or the body")
            requests.append(request)
        if requests and not any(request.is_read for request in requests):
            self.root.report("requests", "must include a GET or HEAD that is not counted: some scenarios only read")
        return tuple(requests)

    def _read_parts(self, table: CheckedTable, *more_placeholders: str) -> dict[str, Any]:
        """Return the values that each kind of request has."""
        placeholders = [*more_placeholders, *self.placeholders]
        parts = {
            "path": table.text("path", 'a path such as "/orders?limit=5"', PATH),
            "method": table.text("method", f"one of {', '.join(METHODS)}", "|".join(METHODS), "GET"),
            "body": table.text("body", default=""),
        }
        for key in ("path", "body"):
            _check_placeholders(table, key, parts[key], placeholders)
        return parts | {"headers": self._read_headers(table, placeholders)}

    def _read_headers(self, table: CheckedTable, placeholders: Sequence[str]) -> dict[str, str]:
        headers = table.mapping("headers", HEADER_NAME, HEADER_VALUE, "ASCII text of one line")
        for name, value in headers.items():
            _check_placeholders(table.table("headers"), name, value, placeholders)
        return headers

    def _read_flag(self, table: CheckedTable) -> bool:
        """Return whether a request is sent with the credentials."""
        flag = table.flag("credentials")
        if flag and self.credentials is None:
            table.report("credentials", "is true, but there is no table [credentials]")
        return flag

    def _read_counts(self, used: set[str]) -> dict[str, Count]:
        counts, root = {}, self.root.table("counts")
        for name in root.names if root else ():
            table = root.table(name)
            if table is None:  # reported
                continue
            request, field = None, ""
            if ("command" in table.names) == ("request" in table.names):
                root.report(name, "must have either a command or a request")
            if listing := table.table("request"):
                request = Request(**self._read_parts(listing), credentials=self._read_flag(listing))
                listing.report_unknown_keys()
                field = table.text("field", "the name of a field of the JSON response", default="")
            command, wait = (
                table.text("command", "a docker compose command", default=""),
                table.number("wait", 0, MAX_WAIT, 0),
            )
            table.report_unknown_keys()
            if name not in used:
                root.report(name, f'is not used: no request has counted = "{name}"')
            counts[name] = Count(command, request, field, wait)
        return counts

    def _read_invariant(self, table: CheckedTable) -> Invariant:
        expected = table.text("expected", "the text that the command must print", r"(?s:.*)")
        invariant = Invariant(table.text("name"), table.text("command", "a docker compose command"), expected)
        table.report_unknown_keys()
        return invariant

    def _read_change(self) -> Change | None:
        table = self.root.table("change")
        if table is None:
            return None
        path = table.text("path", 'a path such as "/openapi.json"', PATH)
        change = Change(table.text("file"), table.text("old"), table.text("new"), path, table.text("text"))
        table.report_unknown_keys()
        file = self.folder / change.file
        if change.file and not file.is_file():
            table.report("file", f'must be the name of a file, found "{change.file}"')
        elif change.file and change.old and (number := file.read_text(errors="replace").count(change.old)) != 1:
            table.report("old", f"must occur once in {change.file}, found {number} occurrences")
        return change

    def _read_websocket(self) -> WebSocket | None:
        table = self.root.table("websocket")
        if table is None:
            return None
        path = table.text("path", 'a path such as "/ws"', PATH)
        websocket = WebSocket(path, table.text("send"), table.text("receive"))
        for key in ("path", "send", "receive"):
            _check_placeholders(table, key, getattr(websocket, key), self.placeholders)
        table.report_unknown_keys()
        return websocket


def _check_placeholders(table: CheckedTable, key: str, text: str, known: Sequence[str]) -> None:
    for name in PLACEHOLDER.findall(text):
        if name not in known:
            settings = f"or a setting of .env.prod or {FILE}"
            named = [f"${{{one}}}" for one in (ID, TOKEN, FIRST_COMMIT) if one in known]
            table.report(key, f"has the unknown placeholder ${{{name}}}: expected {', '.join(named)}, {settings}")
