"""The scenario for WebSockets, and the messages it exchanges, with a server on this machine."""

import json
import ssl
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.server import serve

from tests.rehearsal import conversation as conversations
from tests.rehearsal.application import WebSocket
from tests.rehearsal.conversation import Conversation, exchange, open_websocket
from tests.rehearsal.failures import Failed, NotApplicable
from tests.rehearsal.fakes import APPLICATION, TAG, FolderServer, create_certificate, create_context
from tests.rehearsal.rehearsal import Rehearsal
from tests.rehearsal.scenarios import connections
from tests.rehearsal.server import wait_for

ECHO = WebSocket("/ws", "hello", "echo: hello")
NEXT_TAG = "f" * 40


class EchoServer:
    """Answers each message on `/ws` while `is_answering`; `release` is in the response to each handshake."""

    def __init__(self, **options):
        self.release, self.greeting, self.is_answering, self.open = TAG, "", True, []
        options |= {"process_request": self.route, "process_response": self.add_release}
        self.server = serve(self.handle, "127.0.0.1", 0, **options)
        self.port = self.server.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def route(self, connection, request):
        return None if request.path == "/ws" else connection.respond(404, "not found")

    def add_release(self, connection, request, response):
        response.headers["X-Release"] = self.release

    def handle(self, connection):
        self.open.append(connection)
        if self.greeting:
            connection.send(self.greeting)
        for message in connection:
            if self.is_answering:
                connection.send(f"echo: {message}")

    def close_all(self):
        for connection in self.open:
            connection.close(1001)

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.close_all()
        self.server.shutdown()


@pytest.fixture
def server():
    with EchoServer() as server:
        yield server


@pytest.fixture(autouse=True)
def short_interval(monkeypatch):
    monkeypatch.setattr(conversations, "INTERVAL", 0.01)


def test_message_is_answered_after_a_greeting(server):
    server.greeting = "welcome"
    with open_websocket(server.url, "/ws") as connection:
        exchange(connection, ECHO)
        exchange(connection, ECHO)


def test_missing_answer_is_described(server):
    with open_websocket(server.url, "/ws") as connection:
        other = WebSocket("/ws", "hello", "hello")
        message = r"^'hello' was not answered: expected 'hello' within 0\.1 s, received \['echo: hello'\]$"
        with pytest.raises(Failed, match=message):
            exchange(connection, other, 0.1)


def test_closed_connection_is_an_error(server):
    with open_websocket(server.url, "/ws") as connection:
        exchange(connection, ECHO)
        server.close_all()
        with pytest.raises(ConnectionClosed):
            exchange(connection, ECHO)


def test_refused_handshake_is_an_error(server):
    with pytest.raises(InvalidStatus, match="404"), open_websocket(server.url, "/other"):
        pass


def test_websockets_are_opened_over_tls(tmp_path):
    ca, other = (create_certificate(tmp_path, name) for name in ("ca", "other"))
    with EchoServer(ssl=create_context(ca, "localhost")) as server:
        url = f"https://localhost:{server.port}"
        with open_websocket(url, "/ws", ca) as connection:
            exchange(connection, ECHO)
        with pytest.raises(ssl.SSLError, match="certificate verify failed"), open_websocket(url, "/ws", other):
            pass


def test_websockets_are_opened_on_loopback_only():
    with pytest.raises(ValueError, match="loopback"), open_websocket("http://192.0.2.1", "/ws"):
        pass


def test_conversation_lasts_until_the_end_of_its_block(server):
    with open_websocket(server.url, "/ws") as connection, Conversation(connection, ECHO) as conversation:
        wait_for("answers", lambda: conversation.answered > 5)
    conversation.expect_answered_until(time.time())
    assert conversation.error is None
    assert not conversation.is_closed


def test_conversation_ends_when_the_server_closes_the_connection(server):
    with open_websocket(server.url, "/ws") as connection, Conversation(connection, ECHO) as conversation:
        wait_for("answers", lambda: conversation.answered > 5)
        closed_at = time.time()
        server.close_all()
        conversation.wait_for_end(20)
        assert conversation.is_closed
        assert conversation.ended_at >= closed_at
    conversation.expect_answered_until(conversation.sent_at)
    with pytest.raises(Failed, match=r"messages were answered, then a message sent 1\.0 s before was not answered"):
        conversation.expect_answered_until(conversation.sent_at + 1)


def test_conversation_ends_with_a_message_that_is_not_answered(server):
    with open_websocket(server.url, "/ws") as connection, Conversation(connection, ECHO, 0.1) as conversation:
        server.is_answering = False
        conversation.wait_for_end(20)
    assert not conversation.is_closed
    with pytest.raises(Failed, match="'hello' was not answered"):
        conversation.expect_answered_until(time.time())


@pytest.fixture
def rehearsal(server, tmp_path, monkeypatch):
    """A rehearsal whose deploys log that they went live, after `before`, and then call `after`."""
    rehearsal = Rehearsal(FolderServer(tmp_path), None, replace(APPLICATION, websocket=ECHO), {}, 200)
    rehearsal.server.url, rehearsal.live_tag = server.url, lambda: server.release
    rehearsal.commits["first"] = TAG

    def switch():
        server.release = NEXT_TAG

    rehearsal.before, rehearsal.switch, rehearsal.after = (lambda: None), switch, server.close_all

    def deploy(rehearsal, name):
        rehearsal.commits[name] = NEXT_TAG
        rehearsal.before()
        rehearsal.switch()
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        (tmp_path / "deploys.log").write_text(json.dumps({"tag": NEXT_TAG, "time": now}))
        time.sleep(0.3)  # for messages in flight
        rehearsal.after()

    monkeypatch.setattr(connections, "deploy_and_expect_live", deploy)
    monkeypatch.setattr(connections, "GRACE_SECONDS", 0.5)
    monkeypatch.setattr(connections, "MARGIN_SECONDS", 1.5)
    return rehearsal


def test_websocket_is_closed_after_the_deploy(rehearsal, server, capsys):
    connections.websockets(rehearsal)
    assert len(server.open) == 2
    assert "messages answered; closed" in capsys.readouterr().out


@contextmanager
def expect_failure(message):
    with pytest.raises(Failed, match=message):
        yield


def test_websocket_that_is_closed_before_the_release_is_live_is_a_failure(rehearsal, server):
    def close_early():
        wait_for("the connection", lambda: server.open)
        server.close_all()
        time.sleep(0.5)

    rehearsal.before = close_early
    with expect_failure("messages were answered, then a message sent .* was not answered: .*1001"):
        connections.websockets(rehearsal)


def test_websocket_that_stays_open_is_a_failure(rehearsal, monkeypatch):
    monkeypatch.setattr(connections, "MARGIN_SECONDS", 0.2)
    rehearsal.after = lambda: None
    with expect_failure("the WebSocket to the previous release was not closed$"):
        connections.websockets(rehearsal)


def test_websocket_that_stays_open_without_answers_is_a_failure(rehearsal, server, monkeypatch):
    def stop_answering():
        server.is_answering = False

    monkeypatch.setattr(connections, "Conversation", partial(Conversation, timeout=0.2))
    rehearsal.after = stop_answering
    with expect_failure("was not closed: the last error is 'hello' was not answered"):
        connections.websockets(rehearsal)


def test_websocket_that_is_closed_too_late_is_a_failure(rehearsal, server, monkeypatch):
    monkeypatch.setattr(connections, "MARGIN_SECONDS", 0.2)

    def close_late():
        time.sleep(1)
        server.close_all()

    rehearsal.after = close_late
    with expect_failure("the WebSocket was closed only after . s"):
        connections.websockets(rehearsal)


def test_websocket_to_another_release_is_a_failure(rehearsal):
    rehearsal.switch = lambda: None
    with expect_failure(rf"has X-Release \['{TAG}'\], expected {NEXT_TAG}"):
        connections.websockets(rehearsal)


def test_release_is_live_since_its_last_deploy(tmp_path):
    server = FolderServer(tmp_path)
    times = {"2026-01-02T03:04:05Z": TAG, "2026-01-02T03:04:06Z": TAG, "2026-01-02T03:04:07Z": NEXT_TAG}
    lines = [json.dumps({"tag": tag, "time": text}) for text, tag in times.items()]
    (tmp_path / "deploys.log").write_text("\n".join(lines))
    assert connections.read_live_at(server, TAG) == datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC).timestamp()
    with expect_failure("deploys.log has no deploy of 000"):
        connections.read_live_at(server, "0" * 40)


def test_websocket_that_is_not_described_is_not_applicable(rehearsal):
    rehearsal.application = APPLICATION
    with pytest.raises(NotApplicable, match=r"^rehearsal\.toml has no table \[websocket\]$"):
        connections.websockets(rehearsal)
