"""The sample's ledger and the pipeline, under load; no request may fail."""

import json
import threading
import uuid
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from http.client import HTTPConnection

from tests.rehearsal.rehearsal import Rehearsal, expect
from tests.rehearsal.server import DIR
from tests.rehearsal.traffic import loopback_address
from tests.rehearsal.variants import deploy_and_expect_live

CLIENTS = 50
PAUSE = 0.5  # seconds between two notes of a client


def consistent_records(rehearsal: Rehearsal) -> None:
    """The deploy log, the ledger, status and this report agree on every deploy."""
    told = rehearsal.expect_same_records()
    expect({"live", "refused", "rollback"} <= {one["outcome"] for one in told}, f"not of every kind: {told}")
    lines = [line for line in rehearsal.server.ssh("status").stdout.splitlines() if "IMAGE_TAG=.*" in line]
    earlier = [one["tag"] for one in json.loads(rehearsal.get("/rollbacks"))["items"]]
    expect(len(lines) >= 2, f"status names {len(lines)} releases to roll back to")
    expect(all(map(str.__contains__, lines, earlier)), f"to roll back to, status names {lines}, the ledger {earlier}")
    for scenario in rehearsal.run["scenarios"][:-1]:
        then = [
            one["tag"]
            for one in told
            if one["outcome"] != "refused" and datetime.fromisoformat(one["ended_at"]).timestamp() <= scenario["ended"]
        ]
        expect(then[-1] == scenario["live_after"], f"after {scenario['name']!r} the ledger says {then[-1]}")


def write_notes(rehearsal: Rehearsal, over: threading.Event) -> dict[str, set[int]]:
    """Write notes until `over` is set, every second one twice; return the ids that each key got."""
    where, ids, again = f"/releases/{rehearsal.commits['first']}/notes", defaultdict(set), ""
    headers = {"Authorization": f"Bearer {rehearsal.server.setting('API_TOKEN')}", "Content-Type": "application/json"}
    connection = HTTPConnection(*loopback_address(rehearsal.server.url), timeout=10)
    while not over.wait(PAUSE):
        new = f"key-{uuid.uuid4()}"
        for key in filter(None, (new, again)):
            connection.request("POST", where, json.dumps({"text": key}), headers | {"Idempotency-Key": key})
            answer = connection.getresponse()
            body, wanted = answer.read(), 201 if key == new else 200
            expect(answer.status == wanted, f"the note {key} got {answer.status}, not {wanted}: {body}")
            ids[key].add(json.loads(body)["id"])
        again = "" if again else new
    connection.close()
    return ids


def idempotent_notes(rehearsal: Rehearsal) -> None:
    """50 clients write notes with keys, half of them twice, during two deploys and a rollback: each is stored once."""
    over, back = threading.Event(), rehearsal.server.setting("IMAGE_TAG")
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(write_notes, rehearsal, over) for _ in range(CLIENTS)]
        try:
            deploy_and_expect_live(rehearsal, "under notes")
            deploy_and_expect_live(rehearsal, "under more notes")
            rehearsal.server.set(IMAGE_TAG=back)
            rehearsal.server.exec(f"{DIR}/deploy.sh")
        finally:
            over.set()
        ids = {key: got for client in clients for key, got in client.result().items()}
    stored = rehearsal.server.compose(
        "exec -T db psql -U quai -d quai -At -c \"select text from notes where text ~ '^key-'\""
    )
    expect(sorted(stored.splitlines()) == sorted(ids), "the database has not each note exactly once")
    expect(all(len(got) == 1 for got in ids.values()), "a note that was sent twice got two ids")
    print(f"  {CLIENTS} clients, {len(ids)} keys: each note there once", flush=True)
