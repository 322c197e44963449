"""Faulty and unusual releases and migrations, under load; no request may fail."""

import re

from scripts.runner.process import ROOT
from tests.rehearsal.dockerfiles import (
    CRASH,
    DATA_LOSS_MIGRATION,
    ERROR_SERVER,
    FAILING_SERVER,
    LOCKING_MIGRATION,
    migration_lines,
    server_lines,
)
from tests.rehearsal.failures import expect
from tests.rehearsal.rehearsal import Rehearsal
from tests.rehearsal.server import DIR, Server
from tests.rehearsal.variants import deploy_and_expect_live, expect_refused

DUMP_SPACE_MB = 6000  # it writes a file of 4000 MiB, and dumps of up to 1500 MiB
GRACE_SECONDS = 30  # stop_grace_period in docker-compose.prod.yml


def faulty_releases(rehearsal: Rehearsal) -> None:
    """Releases that crash, answer 500, fail after the switch, or have broken files are refused."""
    expect_refused(rehearsal, "crashes", "boom", CRASH)
    expect_refused(rehearsal, "answers 500", "not healthy within", *server_lines(ERROR_SERVER))
    # It exits after 100 lines of log, which is soon after the switch. Reads are retried.
    is_used = "[ $(wc -l </tmp/log) -gt 99 ]"
    exits = f'CMD ["sh", "-c", "python -m service >/tmp/log 2>&1 & until {is_used}; do sleep 0.1; done; kill $!; wait"]'
    with rehearsal.reads_only():
        expect_refused(rehearsal, "exits after the switch", "the api is crashing", exits, last_step="watch")
    message = f"consecutive probes while serving: /healthz of {rehearsal.server.project}-front-"
    with rehearsal.reads_only():
        expect_refused(
            rehearsal, "fails while it is watched", message, *server_lines(FAILING_SERVER), last_step="watch"
        )
    exits = """CMD ["python", "-c", "import sys, time; time.sleep(1); sys.exit(3)"]"""
    expect_refused(rehearsal, "exits with a code", "exit code 3\n", exits)
    # Its limit is 512 MiB, or 500 MiB after `configuration_and_page_change`.
    message = "out of memory: the kernel killed it (OOMKilled); its limit is 5"
    allocates = """CMD ["python", "-c", "len(b'x' * (1 << 30)); import time; time.sleep(9)"]"""
    expect_refused(rehearsal, "exceeds its memory limit", message, allocates)
    expect_refused(rehearsal, "no health check", "has no health check", "HEALTHCHECK NONE")
    expect_refused(rehearsal, "wrong tag", ", expected ", "ENV RELEASE=another-release", last_step="verify")
    compose_file = "RUN echo 'services: [' >/release/docker-compose.prod.yml"
    expect_refused(rehearsal, "broken compose file", "does not match .env", compose_file)
    caddyfile = "RUN echo '{' >>/release/front/Caddyfile"
    expect_refused(rehearsal, "broken Caddyfile", "the front is crashing", caddyfile)
    caddyfile = "RUN printf ':8080 {\\nrespond 500\\n}\\n' >/release/front/Caddyfile"
    expect_refused(rehearsal, "another Caddyfile", "returned 500", caddyfile, last_step="verify")
    program = "RUN echo 'if' >>/release/deploy.sh"
    expect_refused(rehearsal, "broken deploy.sh", "deploy program does not run", program)
    message = "cannot be copied from /release of the image"
    expect_refused(rehearsal, "no files", message, "RUN rm -r /release")
    deploy_and_expect_live(rehearsal, "good after faulty releases")


def faulty_migrations(rehearsal: Rehearsal) -> None:
    """Migrations that fail, hang or hold a lock are refused, and the lock is released."""
    with rehearsal.server.settings(MIGRATE_SECONDS="4"):
        fails = migration_lines("raise SystemExit('no such column')")
        expect_refused(rehearsal, "migration fails", "no such column", *fails)
        hangs = migration_lines("import time; time.sleep(600)")
        for name, lines in (("migration hangs", hangs), ("migration locks", migration_lines(LOCKING_MIGRATION))):
            expect_refused(rehearsal, name, "took more than 4 s", *lines)
            # A migration that fails at once has the same message.
            seconds = rehearsal.server.deploy_log()[-1]["seconds"]["migrate"]
            expect(seconds >= 4, f"{name}: it failed after {seconds} s")
    dump_without_space(rehearsal)
    deploy_and_expect_live(rehearsal, "good after faulty migrations")


def dump_without_space(rehearsal: Rehearsal) -> None:
    """A dump that would fill the disk is stopped, and one that is known to be too large does not start."""
    server, large_dump = rehearsal.server, f"{DIR}/backups/9999999999.dump"
    limit, list_dumps = server.setting("MIN_FREE_MB"), f"ls {DIR}/backups"
    free = int(server.exec(f"df --output=avail --block-size=1M {DIR} | tail -n 1"))
    expect(free > DUMP_SPACE_MB, f"this scenario needs {DUMP_SPACE_MB} MiB of free disk space, {free} MiB is free")
    endless = "entrypoint: [head, -c, 500G, /dev/zero]"
    edit = f"RUN sed -i 's|entrypoint: .pg_dump.*|{endless}|' /release/docker-compose.prod.yml"
    before = server.exec(list_dumps)
    try:
        server.set(MIN_FREE_MB=str(free - 1500))
        expect_refused(rehearsal, "dump grows", "the dump was stopped: less than", *migration_lines(""), edit)
        server.exec(f"fallocate --length 4000M {large_dump}")
        server.set(MIN_FREE_MB=str(free - 5500))
        expect_refused(rehearsal, "dump is large", "the dump needs about 4800 MiB", *migration_lines(""))
    finally:
        server.exec(f"rm --force {large_dump}")
        server.set(MIN_FREE_MB=limit)
    after = server.exec(list_dumps)
    expect(after == before, f"the dumps were {before} and are {after}")


def restore_after_data_loss(rehearsal: Rehearsal) -> None:
    """A migration loses data, and no older release runs on its schema: the dump is restored."""
    server = rehearsal.server

    def count_notes() -> str:
        return server.compose("exec -T db psql -U quai -d quai -At -c 'select count(*) from notes'").strip()

    with rehearsal.without_traffic():
        before, old = count_notes(), server.setting("IMAGE_TAG")
        file = "/app/service/migrations/versions/0999_data_loss.py"
        try:
            deploy_and_expect_live(rehearsal, "data loss", f"COPY <<END {file}\n{DATA_LOSS_MIGRATION}\nEND")
            after = count_notes()
            expect(before != "0" and after == "0", f"{after} of {before} notes are left")
            with rehearsal.expect_unchanged("a release that cannot run on the schema"):
                server.set(IMAGE_TAG=old)
                output = server.run(f"{DIR}/deploy.sh").stdout
        finally:
            if count_notes() != before:
                restore_last_dump(server, old)
        restored = count_notes()
        expect(restored == before, f"{restored} of {before} notes were restored")
        rehearsal.expect_same_records()
        rehearsal.expect_only_release(old)
        for message in ("restore the backup", "refused: this release cannot run on the database"):
            expect(message in output, f"the output does not contain {message!r}: {output}")


def restore_last_dump(server: Server, commit: str) -> None:
    """Run the commands of docs/rollback-and-restore.md, with the last dump and the release that was live before it."""
    dump = server.exec(f"cd {DIR}/backups; ls *.dump | tail -n 1").removesuffix(".dump")
    page = (ROOT / "docs/rollback-and-restore.md").read_text()
    commands = re.search(r"### How to restore .*?```console\n(.*?)```", page, re.DOTALL).group(1)
    for line in commands.replace("\\\n", "").splitlines():
        command = line.partition("   #")[0].replace("<id>", dump).replace("<commit>", commit)
        server.exec(f"cd {DIR}; {command}")


def unusual_releases(rehearsal: Rehearsal) -> None:
    """A release that starts slowly goes live, and one that ignores SIGTERM is replaced."""
    with rehearsal.server.settings(HEALTH_SECONDS="60"):
        deploy_and_expect_live(rehearsal, "slow start", 'CMD ["sh", "-c", "sleep 20; exec python -m service"]')
    ignores = 'CMD ["sh", "-c", "trap : TERM; python -m service & while :; do wait; done"]'
    deploy_and_expect_live(rehearsal, "ignores SIGTERM", ignores)
    seconds = deploy_and_expect_live(rehearsal, "good after unusual releases")
    expect(seconds >= GRACE_SECONDS, f"the release that ignores SIGTERM was replaced within {seconds:.0f} s")
