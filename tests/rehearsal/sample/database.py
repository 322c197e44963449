"""Faults of the database, under load, and a database that is not in the compose file."""

import secrets
import time

from tests.rehearsal.edits import remove_services, wrap_command
from tests.rehearsal.failures import expect, say
from tests.rehearsal.production import OTHER_PROJECT
from tests.rehearsal.rehearsal import SETTLE_SECONDS, Rehearsal
from tests.rehearsal.server import DIR, Server
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
        tag = build_variant(rehearsal, "database outage", wrap_command('sleep 5; exec "$@"'))
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


def external_database(rehearsal: Rehearsal) -> None:
    """The database is not in the compose file, but on the host: only `db` and `backup` are left out."""
    server, password = rehearsal.server, secrets.token_hex(16)
    tag = build_variant(rehearsal, "external database", remove_services("db", "backup"))
    live, connection = server.setting("IMAGE_TAG"), server.setting("DB_CONN")
    with rehearsal.without_traffic():
        gateway = server.exec("docker network inspect bridge --format '{{(index .IPAM.Config 0).Gateway}}'")
        settings = f"-e POSTGRES_USER=app -e POSTGRES_DB=app -e POSTGRES_PASSWORD={password}"
        options = f"--detach --name {OTHER_PROJECT} --user postgres --publish {gateway}:5432:5432 {settings}"
        try:
            server.exec(f"docker run {options} {server.setting('DB_IMAGE')}")
            server.exec(f"until docker exec {OTHER_PROJECT} pg_isready -qh 127.0.0.1; do sleep 0.1; done")
            server.set(DB_CONN=f"postgresql+psycopg://app:{password}@{gateway}:5432/app")
            done = rehearsal.deploy_by_key(tag)
            expect(done.returncode == 0, f"not live with an external database: {done.stdout}")
            expect(rehearsal.live_tag() == tag, f"the public URL returns {rehearsal.live_tag()}, expected {tag}")
            revision = server.exec(f"docker exec {OTHER_PROJECT} psql -U app -d app -At -c 'table alembic_version'")
            expect(revision != "", "the external database was not migrated")
        finally:
            server.set(DB_CONN=connection, IMAGE_TAG=live)
            server.exec(f"{DIR}/deploy.sh; docker rm --force --volumes {OTHER_PROJECT}")
    rehearsal.expect_only_release(live)
