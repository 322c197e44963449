"""Faulty and unusual releases and migrations, under load; no request may fail."""

import re
import subprocess

from scripts.runner.process import ROOT
from tests.rehearsal.rehearsal import Rehearsal, expect
from tests.rehearsal.server import DIR
from tests.rehearsal.variants import (
    CRASH,
    HOLD_A_LOCK,
    LOSE_NOTES,
    SERVE_500,
    SERVE_SICK,
    deploy_and_expect_live,
    expect_refused,
    migration_lines,
    server_lines,
)


def faulty_releases(rehearsal: Rehearsal) -> None:
    """Releases that crash, answer 500, fail after the switch, or have broken files are refused."""
    expect_refused(rehearsal, "crashes", "boom", CRASH)
    expect_refused(rehearsal, "answers 500", "not healthy within", *server_lines("500", SERVE_500))
    # After some requests, so soon after the switch. What only reads is asked again.
    served = "[ $(wc -l </tmp/log) -gt 99 ]"
    ends = f'CMD ["sh", "-c", "python -m service >/tmp/log 2>&1 & until {served}; do sleep 0.1; done; kill $!; wait"]'
    with rehearsal.reads_only():
        expect_refused(rehearsal, "ends", "the new api is crashing", ends)
    with rehearsal.reads_only():
        expect_refused(rehearsal, "sick", "times in a row: /healthz of quai-front-", *server_lines("sick", SERVE_SICK))
    died = "exit code 3\n"
    expect_refused(
        rehearsal, "dies with a code", died, """CMD ["python", "-c", "import sys, time; time.sleep(1); sys.exit(3)"]"""
    )
    memory = "out of memory: the kernel killed it (OOMKilled), its limit is 5"
    expect_refused(
        rehearsal,
        "takes too much memory",
        memory,
        """CMD ["python", "-c", "len(b'x' * (1 << 30)); import time; time.sleep(9)"]""",
    )
    expect_refused(rehearsal, "cannot tell its health", "has no health check", "HEALTHCHECK NONE")
    expect_refused(rehearsal, "lies", ", not ", "ENV RELEASE=somebody-else")
    expect_refused(
        rehearsal, "broken compose file", "do not fit", "RUN echo 'services: [' >/release/docker-compose.prod.yml"
    )
    expect_refused(
        rehearsal, "broken Caddyfile", "the new front is crashing", "RUN echo '{' >>/release/front/Caddyfile"
    )
    nowhere = "RUN printf ':8080 {\\nrespond 500\\n}\\n' >/release/front/Caddyfile"
    expect_refused(rehearsal, "another Caddyfile", "answers 500", nowhere)
    expect_refused(rehearsal, "broken deploy.sh", "deploy program does not run", "RUN echo 'if' >>/release/deploy.sh")
    expect_refused(rehearsal, "no files", "/release", "RUN rm -r /release")
    deploy_and_expect_live(rehearsal, "good after bad")


def faulty_migrations(rehearsal: Rehearsal) -> None:
    """Migrations that fail, hang or hold a lock are refused, and the lock is released."""
    rehearsal.server.set(MIGRATE_SECONDS="4")
    expect_refused(
        rehearsal, "migration fails", "no such column", migration_lines("raise SystemExit('no such column')")
    )
    expect_refused(rehearsal, "migration hangs", "took more than 4 s", migration_lines("import time; time.sleep(600)"))
    expect_refused(rehearsal, "migration locks", "took more than 4 s", migration_lines(HOLD_A_LOCK))
    rehearsal.server.set(MIGRATE_SECONDS="300")
    dump_without_space(rehearsal)
    deploy_and_expect_live(rehearsal, "good after a bad migration")


def dump_without_space(rehearsal: Rehearsal) -> None:
    """A dump that would fill the disk is stopped, and one that is known to be too large does not start."""
    was, dumps = rehearsal.server.setting("MIN_FREE_MB"), f"ls {DIR}/backups"
    free = int(rehearsal.server.exec(f"df --output=avail --block-size=1M {DIR} | tail -n 1"))
    grows = (
        "sed -i 's|entrypoint: .pg_dump.*|entrypoint: [head, -c, 500G, /dev/zero]|' /release/docker-compose.prod.yml"
    )
    before = rehearsal.server.exec(dumps)
    try:
        rehearsal.server.set(MIN_FREE_MB=str(free - 1500))
        expect_refused(rehearsal, "dump grows", "the dump was stopped: less than", migration_lines(""), f"RUN {grows}")
        rehearsal.server.exec(f"fallocate --length 4000M {DIR}/backups/9999999999.dump")
        rehearsal.server.set(MIN_FREE_MB=str(free - 5500))
        expect_refused(rehearsal, "dump is large", "the dump takes about 4800 MB", migration_lines(""))
    finally:
        rehearsal.server.exec(f"rm --force {DIR}/backups/9999999999.dump")
        rehearsal.server.set(MIN_FREE_MB=was)
    expect(rehearsal.server.exec(dumps) == before, f"the dumps were {before} and are {rehearsal.server.exec(dumps)}")


def restore_after_data_loss(rehearsal: Rehearsal) -> None:
    """A migration loses data, and no older release runs on its schema: the dump is restored."""

    def notes() -> str:
        return rehearsal.server.compose("exec -T db psql -U quai -d quai -At -c 'select count(*) from notes'").strip()

    with rehearsal.without_traffic():
        before, old = notes(), rehearsal.server.setting("IMAGE_TAG")
        deploy_and_expect_live(
            rehearsal,
            "loses notes",
            f"COPY <<END /app/service/migrations/versions/0999_lose_notes.py\n{LOSE_NOTES}\nEND",
        )
        expect(before != "0" and notes() == "0", f"{notes()} notes are left of {before}")
        with rehearsal.expect_unchanged("a release that cannot run on the schema"):
            rehearsal.server.set(IMAGE_TAG=old)
            back = ["docker", "exec", rehearsal.server.name, f"{DIR}/deploy.sh"]
            got = subprocess.run(back, capture_output=True, text=True, check=False)
        told = "restore the backup" in got.stdout and "refused: this release cannot run on the database" in got.stdout
        dump = rehearsal.server.exec(f"cd {DIR}/backups; ls *.dump | tail -n 1")
        section = re.search(
            r"### How to restore .*?```console\n(.*?)```",
            (ROOT / "docs/rollback-and-restore.md").read_text(),
            re.DOTALL,
        )
        for line in section.group(1).replace("\\\n", "").splitlines():
            line = line.partition("   #")[0].replace("<id>", dump.removesuffix(".dump")).replace("<commit>", old)
            rehearsal.server.exec(f"cd {DIR}; {line}")
        expect(notes() == before, f"{notes()} notes came back, of {before}")
        rehearsal.expect_same_records()
        rehearsal.expect_only_release(old)
        expect(told, f"it does not say what to do: {got.stdout}")


def unusual_releases(rehearsal: Rehearsal) -> None:
    """A release that starts slowly goes live, and one that ignores SIGTERM is replaced."""
    rehearsal.server.set(HEALTH_SECONDS="60")
    deploy_and_expect_live(rehearsal, "slow", 'CMD ["sh", "-c", "sleep 20; exec python -m service"]')
    rehearsal.server.set(HEALTH_SECONDS="20")
    deploy_and_expect_live(
        rehearsal, "deaf", 'CMD ["sh", "-c", "trap : TERM; python -m service & while :; do wait; done"]'
    )
    deploy_and_expect_live(rehearsal, "after deaf")
