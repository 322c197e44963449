"""WebSockets of the application: open one, and exchange messages on it while something else happens."""

import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from websockets.exceptions import WebSocketException
from websockets.sync import client
from websockets.sync.client import ClientConnection

from tests.rehearsal.application import WebSocket
from tests.rehearsal.failures import Failed, expect
from tests.rehearsal.traffic import connect

INTERVAL = 0.2  # seconds between an answer and the next message
TIMEOUT = 10.0  # seconds, for the handshake and for each answer


@contextmanager
def open_websocket(base_url: str, path: str, ca: Path | None = None) -> Iterator[ClientConnection]:
    """Open a WebSocket once, and close it at the end of the block; the URL is one that `traffic.connect` accepts.

    OSError or WebSocketException if the handshake fails.
    """
    connect(base_url, ca).close()
    url = base_url.replace("http", "ws", 1) + path
    context = ssl.create_default_context(cafile=ca) if ca else None
    if context:
        # With TLS 1.3, session tickets arrive after the handshake. On a busy machine, one connection in a thousand hung
        # when one thread read them while another one sent the request; with TLS 1.2, none did.
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    options = {"ssl": context, "proxy": None, "open_timeout": TIMEOUT, "ping_interval": None}
    with client.connect(url, **options) as connection:
        yield connection


def exchange(connection: ClientConnection, websocket: WebSocket, timeout: float = TIMEOUT) -> None:
    """Send the message and expect its answer; other messages, such as a greeting, are ignored.

    Raises Failed without the answer within the timeout, WebSocketException if the connection is closed.
    """
    connection.send(websocket.send)
    deadline, received = time.monotonic() + timeout, []
    while websocket.receive not in received:
        try:
            received.append(connection.recv(max(0.0, deadline - time.monotonic())))
        except TimeoutError:
            expected = f"expected {websocket.receive!r} within {timeout:g} s"
            raise Failed(f"{websocket.send!r} was not answered: {expected}, received {received}") from None


class Conversation:
    """Exchanges the message again and again, from another thread, until one is not answered or the block ends."""

    def __init__(self, connection: ClientConnection, websocket: WebSocket, timeout: float = TIMEOUT) -> None:
        self.answered = 0
        self.error: Exception | None = None  # why the last message was not answered
        self.sent_at = self.ended_at = 0.0  # epoch seconds: of the last message, of the error
        self._connection, self._websocket, self._timeout = connection, websocket, timeout
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._exchange, daemon=True)

    def __enter__(self) -> "Conversation":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    @property
    def is_closed(self) -> bool:
        """Whether it ended because the connection was closed."""
        return isinstance(self.error, WebSocketException)

    def _exchange(self) -> None:
        try:
            while not self._stopping.is_set():
                self.sent_at = time.time()
                exchange(self._connection, self._websocket, self._timeout)
                self.answered += 1
                self._stopping.wait(INTERVAL)
        except (Failed, WebSocketException, OSError) as error:
            self.error, self.ended_at = error, time.time()

    def wait_for_end(self, seconds: float) -> None:
        """Wait up to this time for a message that is not answered."""
        self._thread.join(seconds)

    def expect_answered_until(self, at: float) -> None:
        """Expect that each message sent before this time was answered."""
        is_answered = self.error is None or self.sent_at >= at
        problem = f"a message sent {at - self.sent_at:.1f} s before was not answered: {self.error}"
        expect(is_answered, f"{self.answered} messages were answered, then {problem}")
