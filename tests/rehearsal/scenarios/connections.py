"""Connections that outlive a request, during a deploy under load."""

import time
from datetime import datetime

from websockets.sync.client import ClientConnection

from tests.rehearsal.application import FILE
from tests.rehearsal.client import Client
from tests.rehearsal.conversation import Conversation, exchange, open_websocket
from tests.rehearsal.failures import NotApplicable, expect, say
from tests.rehearsal.rehearsal import Rehearsal
from tests.rehearsal.server import Server
from tests.rehearsal.traffic import RELEASE_HEADER
from tests.rehearsal.variants import deploy_and_expect_live

GRACE_SECONDS = 30.0  # of the previous release: docs/application.md
MARGIN_SECONDS = 5.0  # for the end of the deploy on a busy machine
NAME = "with an open WebSocket"


def websockets(rehearsal: Rehearsal) -> None:
    """A WebSocket works until the next release is live, is then closed, and a new one reaches the new release."""
    server, application = rehearsal.server, rehearsal.application
    if application.websocket is None:
        raise NotApplicable(f"{FILE} has no table [websocket]")
    websocket = Client(server, application, rehearsal.commits["first"]).fill_websocket(application.websocket)
    with open_websocket(server.url, websocket.path, server.ca) as connection:
        expect_release(connection, rehearsal.live_tag())
        with Conversation(connection, websocket) as conversation:
            deploy_and_expect_live(rehearsal, NAME)
            live_at = read_live_at(server, rehearsal.commits[NAME])
            conversation.wait_for_end(max(MARGIN_SECONDS, live_at + GRACE_SECONDS + MARGIN_SECONDS - time.time()))
    conversation.expect_answered_until(live_at)
    seconds = conversation.ended_at - live_at
    problem = f": the last error is {conversation.error}" if conversation.error else ""
    expect(conversation.is_closed, f"the WebSocket to the previous release was not closed{problem}")
    expect(seconds <= GRACE_SECONDS + MARGIN_SECONDS, f"the WebSocket was closed only after {seconds:.0f} s")
    say(f"{conversation.answered} messages answered; closed {seconds:.0f} s after the deploy: {conversation.error}")
    with open_websocket(server.url, websocket.path, server.ca) as connection:
        expect_release(connection, rehearsal.commits[NAME])
        exchange(connection, websocket)


def expect_release(connection: ClientConnection, tag: str | None) -> None:
    """Expect that this release answered the handshake."""
    found = connection.response.headers.get_all(RELEASE_HEADER)
    expect(found == [tag], f"the handshake of the WebSocket has {RELEASE_HEADER} {found}, expected {tag}")


def read_live_at(server: Server, tag: str) -> float:
    """Return when the last deploy of this release made it live: the previous release stops after that.

    By deploys.log, because a line of the output may be read after the previous release has stopped. To the second.
    """
    times = [entry["time"] for entry in server.deploy_log() if entry["tag"] == tag]
    expect(bool(times), f"deploys.log has no deploy of {tag}")
    return datetime.fromisoformat(times[-1]).timestamp()
