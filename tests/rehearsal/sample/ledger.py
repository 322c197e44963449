"""The ledger and the pipeline, under load; no request may fail."""

import json
import re
import threading
import uuid
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from tests.rehearsal.application import Request
from tests.rehearsal.client import send_once
from tests.rehearsal.failures import expect, say
from tests.rehearsal.rehearsal import Rehearsal
from tests.rehearsal.server import DIR, Server
from tests.rehearsal.traffic import connect
from tests.rehearsal.variants import deploy_and_expect_live

CLIENTS = 50
PAUSE_SECONDS = 0.5  # between two notes of a client


def record_release(server: Server, tag: str) -> None:
    """Record a live release in the ledger, so that notes can be added to it."""
    body = json.dumps({"outcome": "live", "ended_at": f"{datetime.now(UTC):%FT%TZ}"})
    headers = {"Authorization": f"Bearer {server.setting('API_TOKEN')}", "Content-Type": "application/json"}
    response = send_once(server, Request(f"/releases/{tag}/deploys/rehearsal", "PUT", headers, body))
    expect(response.status in (200, 201), f"the release {tag} was not recorded: {response}")


def expect_same_records(rehearsal: Rehearsal) -> list[dict]:
    """Expect that deploys.log and the ledger record the same deploys; return those of the ledger, oldest first."""
    logged = rehearsal.server.deploy_log()
    recorded = json.loads(rehearsal.get("/deploys?limit=100"))["items"][::-1]
    same = ("tag", "outcome", "reason", "seconds")
    expect(
        [(one["attempt"], one["actor"], *(one[key] for key in same)) for one in recorded]
        == [(one["id"], one["by"], *(one[key] for key in same)) for one in logged],
        f"the log records {logged}, the ledger {recorded}",
    )
    live, tag = json.loads(rehearsal.get("/live"))["tag"], rehearsal.live_tag()
    expect(live == tag, f"the live release is {live} in the ledger, and {tag} at the public URL")
    return recorded


def consistent_records(rehearsal: Rehearsal) -> None:
    """The deploy log, the ledger, status and this report agree on every deploy."""
    deploys = expect_same_records(rehearsal)
    outcomes = {deploy["outcome"] for deploy in deploys}
    expect({"live", "refused", "rollback"} <= outcomes, f"an outcome is missing: {deploys}")
    status = rehearsal.server.ssh("status").stdout
    offered = re.findall(r"^sudo sed .*IMAGE_TAG=\.\*/IMAGE_TAG=([0-9a-f]{40})/", status, re.MULTILINE)
    candidates = [release["tag"] for release in json.loads(rehearsal.get("/rollbacks"))["items"]]
    expect(len(offered) >= 2, f"status prints {len(offered)} rollback commands: {status}")
    expected = candidates[: int(rehearsal.server.setting("KEEP_RELEASES"))]
    expect(offered == expected, f"status prints rollback commands for {offered}, the ledger names {expected}")
    for scenario in rehearsal.run["scenarios"][:-1]:
        live = [
            deploy["tag"]
            for deploy in deploys
            if deploy["outcome"] != "refused"
            and datetime.fromisoformat(deploy["ended_at"]).timestamp() <= scenario["ended"]
        ]
        expect(live[-1] == scenario["live_after"], f"after {scenario['name']!r} the ledger says {live[-1]}")


def write_notes(rehearsal: Rehearsal, stopping: threading.Event) -> dict[str, set[int]]:
    """Write notes until `stopping` is set, every second one twice; return the ids that each key got."""
    path, ids, repeated = f"/releases/{rehearsal.commits['first']}/notes", defaultdict(set), ""
    token = rehearsal.server.setting("API_TOKEN")
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connection = connect(rehearsal.server.url, rehearsal.server.ca)
    while not stopping.wait(PAUSE_SECONDS):
        new = f"key-{uuid.uuid4()}"
        for key in filter(None, (new, repeated)):
            connection.request("POST", path, json.dumps({"text": key}), headers | {"Idempotency-Key": key})
            response = connection.getresponse()
            body, expected = response.read(), 201 if key == new else 200
            expect(response.status == expected, f"the note {key} got {response.status}, expected {expected}: {body}")
            ids[key].add(json.loads(body)["id"])
        repeated = "" if repeated else new
    connection.close()
    return ids


def idempotent_notes(rehearsal: Rehearsal) -> None:
    """50 clients write notes with keys, half of them twice, during two deploys and a rollback: each is stored once."""
    stopping, previous = threading.Event(), rehearsal.server.setting("IMAGE_TAG")
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(write_notes, rehearsal, stopping) for _ in range(CLIENTS)]
        try:
            deploy_and_expect_live(rehearsal, "first during notes")
            deploy_and_expect_live(rehearsal, "second during notes")
            rehearsal.server.set(IMAGE_TAG=previous)
            rehearsal.server.exec(f"{DIR}/deploy.sh")
        finally:
            stopping.set()
        ids = {key: key_ids for client in clients for key, key_ids in client.result().items()}
    query = "select text from notes where text ~ '^key-'"
    stored = rehearsal.server.compose(f'exec -T db psql -U quai -d quai -At -c "{query}"').splitlines()
    expect(sorted(stored) == sorted(ids), "the database does not contain each note exactly once")
    expect(all(len(key_ids) == 1 for key_ids in ids.values()), "a note that was sent twice got two ids")
    say(f"{CLIENTS} clients, {len(ids)} keys: each note stored once")
