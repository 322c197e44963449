"""The rehearsal as a client of the application: it logs in, fills in placeholders, and lists the stored ids."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from email.message import Message
from typing import Any, NamedTuple

from tests.rehearsal.application import FIRST_COMMIT, TOKEN, Application, Count, Invariant, Request, WebSocket, fill
from tests.rehearsal.failures import Failed, expect, say
from tests.rehearsal.server import Server
from tests.rehearsal.traffic import connect, lost_and_duplicated

POLL_SECONDS = 0.5  # between two lists of the ids that are stored
MAX_SHOWN = 200  # characters of an unexpected response


class Response(NamedTuple):
    """A complete response."""

    status: int
    headers: Message
    body: str


def send_once(server: Server, request: Request) -> Response:
    """Send a request without placeholders. OSError or HTTPException without a complete response."""
    connection = connect(server.url, server.ca)
    try:
        connection.request(request.method, request.path, request.body.encode() or None, dict(request.headers))
        response = connection.getresponse()
        return Response(response.status, response.headers, response.read().decode(errors="replace"))
    finally:
        connection.close()


class Client:
    """Sends the requests that a description names: with the values of the server's .env, logged in if necessary."""

    def __init__(self, server: Server, application: Application, first_commit: str) -> None:
        """Log in. Raises Failed if the login fails, ValueError for a placeholder without a value."""
        self.server, self.application = server, application
        self._values = server.values() | {FIRST_COMMIT: first_commit}
        credentials = application.credentials
        if credentials and credentials.request:
            tokens = self._fetch(credentials.request, credentials.token)
            expect(len(tokens) == 1, f"expected one token in {credentials.token}, found {len(tokens)}")
            self._values[TOKEN] = tokens[0]

    def fill_request(self, request: Request) -> Request:
        """Return the request with the headers of the credentials, and with all placeholders filled in but `${id}`."""
        headers = dict(request.headers)
        if request.credentials and self.application.credentials:
            headers = {**self.application.credentials.headers, **headers}
        headers = {name: fill(value, self._values) for name, value in headers.items()}
        path, body = fill(request.path, self._values), fill(request.body, self._values)
        return replace(request, path=path, headers=headers, body=body, credentials=False)

    def fill_websocket(self, websocket: WebSocket) -> WebSocket:
        """Return the WebSocket with all placeholders filled in."""
        path, send, receive = (fill(one, self._values) for one in (websocket.path, websocket.send, websocket.receive))
        return WebSocket(path, send, receive)

    def fill_requests(self) -> list[Request]:
        """Return the requests of the load, with all placeholders filled in but `${id}`."""
        return [self.fill_request(request) for request in self.application.requests]

    def list_ids(self, count: Count) -> list[str]:
        """Return the ids that are stored."""
        if count.request:
            return self._fetch(count.request, count.field)
        return list(filter(None, map(str.strip, self.server.compose(count.command).splitlines())))

    def count_writes(self, count: Count, acknowledged: Iterable[str]) -> tuple[set[str], set[str]]:
        """Return the ids that are lost, and those that are duplicated; wait until none is lost, up to the limit."""
        deadline = time.monotonic() + count.wait
        while True:
            lost, duplicated = lost_and_duplicated(acknowledged, self.list_ids(count))
            if not lost or time.monotonic() > deadline:
                return lost, duplicated
            time.sleep(POLL_SECONDS)

    def count_all_writes(self, acknowledged: Mapping[str, Sequence[str]]) -> dict[str, int]:
        """Return how many writes of all counts are lost, and how many are duplicated."""
        totals = {"lost": 0, "duplicated": 0}
        for name, count in self.application.counts.items():
            found = self.count_writes(count, acknowledged.get(name, []))
            for result, ids in zip(totals, found, strict=True):
                totals[result] += len(ids)
                if ids:
                    say(f"{name}: {len(ids)} {result}, for example {', '.join(sorted(ids)[:3])}")
        return totals

    def _fetch(self, request: Request, field: str) -> list[str]:
        """Return the values of a field of the JSON response."""
        response = send_once(self.server, self.fill_request(request))
        found = f"{request.method} {request.path} returned {response.status}: {response.body[:MAX_SHOWN]}"
        expect(200 <= response.status < 300, found)
        try:
            values = select(json.loads(response.body), field.split(".") if field else [])
        except (ValueError, LookupError, TypeError):
            raise Failed(f"expected JSON with {field or 'a list of ids'}; {found}") from None
        return [str(value) for value in values if value is not None]


def check_invariant(server: Server, invariant: Invariant) -> list[str]:
    """Return the name of an invariant that is violated; nothing if it holds."""
    found = server.compose(invariant.command)
    if found.strip() == invariant.expected.strip():
        return []
    say(f"VIOLATED: {invariant.name}: expected {invariant.expected!r}, found {found[:MAX_SHOWN]!r}")
    return [invariant.name]


def select(value: Any, names: Sequence[str]) -> list[Any]:
    """Return the values at the end of the names of nested fields, those of each element of a list."""
    if isinstance(value, list):
        return [found for one in value for found in select(one, names)]
    return select(value[names[0]], names[1:]) if names else [value]
