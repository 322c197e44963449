"""Faults of the database, under load."""

import time

from tests.rehearsal.edits import runs_within
from tests.rehearsal.failures import expect, say
from tests.rehearsal.rehearsal import SETTLE_SECONDS, Rehearsal
from tests.rehearsal.server import Server
from tests.rehearsal.traffic import is_failed
from tests.rehearsal.variants import build_variant


def change_database(server: Server, command: str) -> None:
    """Start or restart the database, and wait until it accepts connections."""
    name = f"{server.project}-db-1"
    server.exec(f"docker {command} {name}; until docker exec {name} pg_isready -qh 127.0.0.1; do sleep 0.1; done")


def database_outage(rehearsal: Rehearsal) -> None:
    """The database stops during a deploy: refused; the next deploy starts it again."""
    server = rehearsal.server
    with rehearsal.without_traffic():
        # It starts slowly: the check for migrations needs the database, and ends before the release is healthy.
        tag = build_variant(rehearsal, "database outage", runs_within('sleep 5; exec "$@"'))
        before = server.setting("IMAGE_TAG")
        try:
            with rehearsal.start_deploy(tag) as deploy:
                deploy.read_until("==> wait")
                server.exec(f"docker stop {server.project}-db-1")
                done = deploy.finish()
            refused = done.returncode != 0 and "not healthy within" in done.stdout
            expect(refused, f"not refused while the database was stopped: {done.stdout}")
            expect("the database is unavailable" in done.stdout, f"the output does not name the cause: {done.stdout}")
            expect(server.setting("IMAGE_TAG") == before, ".env was changed")
            done = rehearsal.deploy_by_key(tag)
            expect(done.returncode == 0, f"the next deploy did not go live: {done.stdout}")
            rehearsal.expect_only_release(tag)
        finally:
            change_database(server, "start")


def database_restart(rehearsal: Rehearsal) -> None:
    """The database restarts: 503 while it is unavailable, and no other container restarts."""
    server = rehearsal.server
    inspect = "docker inspect --format '{{.Name}} {{.State.StartedAt}}' $(docker ps --all --quiet)"
    inspect += f" | grep -v {server.project}-db-1"
    before = server.exec(inspect)
    with rehearsal.without_traffic():
        rehearsal.start_traffic()
        number = len(rehearsal.records)
        try:
            change_database(server, "restart")
            available = time.time()
            time.sleep(SETTLE_SECONDS)
        finally:
            rehearsal.stop_traffic()
            records = rehearsal.records[number:]
            # The failures of these requests are expected: the report omits them.
            rehearsal.records[number:] = [record for record in records if not is_failed(record)]
    failed = [record for record in records if is_failed(record)]
    say(f"{len(failed)} of {len(records)} requests failed while the database was unavailable")
    expect(bool(failed), "no request failed, so the database was never unavailable")
    expect({record["status"] for record in failed} == {503}, f"not all failed requests got 503: {failed[:5]}")
    afterwards = [record for record in failed if record["at"] > available]
    expect(not afterwards, f"{len(afterwards)} requests failed after the database was available: {afterwards[:5]}")
    after = server.exec(inspect)
    expect(after == before, f"the containers were {before}, and are {after}")
    expect(len(records) > rehearsal.rate * SETTLE_SECONDS, f"only {len(records)} requests")
