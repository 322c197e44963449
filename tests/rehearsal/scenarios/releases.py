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
    goes_live,
    is_refused,
    python,
    serve,
)


def bad_releases(r: Rehearsal) -> None:
    """Releases that crash, answer 500, fail after the switch, or have broken files are refused."""
    is_refused(r, "crashes", "boom", CRASH)
    is_refused(r, "answers 500", "not healthy within", *serve("500", SERVE_500))
    # After some requests, so soon after the switch. What only reads is asked again.
    served = "[ $(wc -l </tmp/log) -gt 99 ]"
    ends = f'CMD ["sh", "-c", "python -m service >/tmp/log 2>&1 & until {served}; do sleep 0.1; done; kill $!; wait"]'
    with r.reading_only():
        is_refused(r, "ends", "the new api is crashing", ends)
    with r.reading_only():
        is_refused(r, "sick", "times in a row: /healthz of quai-front-", *serve("sick", SERVE_SICK))
    died = "exit code 3\n"
    is_refused(r, "dies with a code", died, """CMD ["python", "-c", "import sys, time; time.sleep(1); sys.exit(3)"]""")
    memory = "out of memory: the kernel killed it (OOMKilled), its limit is 5"
    is_refused(
        r,
        "takes too much memory",
        memory,
        """CMD ["python", "-c", "len(b'x' * (1 << 30)); import time; time.sleep(9)"]""",
    )
    is_refused(r, "cannot tell its health", "has no health check", "HEALTHCHECK NONE")
    is_refused(r, "lies", ", not ", "ENV RELEASE=somebody-else")
    is_refused(r, "broken compose file", "do not fit", "RUN echo 'services: [' >/release/docker-compose.prod.yml")
    is_refused(r, "broken Caddyfile", "the new front is crashing", "RUN echo '{' >>/release/front/Caddyfile")
    nowhere = "RUN printf ':8080 {\\nrespond 500\\n}\\n' >/release/front/Caddyfile"
    is_refused(r, "another Caddyfile", "answers 500", nowhere)
    is_refused(r, "broken deploy.sh", "deploy program does not run", "RUN echo 'if' >>/release/deploy.sh")
    is_refused(r, "no files", "/release", "RUN rm -r /release")
    goes_live(r, "good after bad")


def bad_migrations(r: Rehearsal) -> None:
    """Migrations that fail, hang or hold a lock are refused, and the lock is released."""
    r.server.set(MIGRATE_SECONDS="4")
    is_refused(r, "migration fails", "no such column", python("raise SystemExit('no such column')"))
    is_refused(r, "migration hangs", "took more than 4 s", python("import time; time.sleep(600)"))
    is_refused(r, "migration locks", "took more than 4 s", python(HOLD_A_LOCK))
    r.server.set(MIGRATE_SECONDS="300")
    dump_fills_the_disk(r)
    goes_live(r, "good after a bad migration")


def dump_fills_the_disk(r: Rehearsal) -> None:
    """A dump that would fill the disk is stopped, and one that is known to be too large does not start."""
    was, dumps = r.server.setting("MIN_FREE_MB"), f"ls {DIR}/backups"
    free = int(r.server.exec(f"df --output=avail --block-size=1M {DIR} | tail -n 1"))
    grows = (
        "sed -i 's|entrypoint: .pg_dump.*|entrypoint: [head, -c, 500G, /dev/zero]|' /release/docker-compose.prod.yml"
    )
    before = r.server.exec(dumps)
    try:
        r.server.set(MIN_FREE_MB=str(free - 1500))
        is_refused(r, "dump grows", "the dump was stopped: less than", python(""), f"RUN {grows}")
        r.server.exec(f"fallocate --length 4000M {DIR}/backups/9999999999.dump")
        r.server.set(MIN_FREE_MB=str(free - 5500))
        is_refused(r, "dump is large", "the dump takes about 4800 MB", python(""))
    finally:
        r.server.exec(f"rm --force {DIR}/backups/9999999999.dump")
        r.server.set(MIN_FREE_MB=was)
    expect(r.server.exec(dumps) == before, f"the dumps were {before} and are {r.server.exec(dumps)}")


def restores(r: Rehearsal) -> None:
    """A migration loses data, and no older release runs on its schema: the dump is restored."""

    def notes() -> str:
        return r.server.compose("exec -T db psql -U quai -d quai -At -c 'select count(*) from notes'").strip()

    with r.without_traffic():
        before, old = notes(), r.server.setting("IMAGE_TAG")
        goes_live(
            r, "loses notes", f"COPY <<END /app/service/migrations/versions/0999_lose_notes.py\n{LOSE_NOTES}\nEND"
        )
        expect(before != "0" and notes() == "0", f"{notes()} notes are left of {before}")
        with r.refused("a release that cannot run on the schema"):
            r.server.set(IMAGE_TAG=old)
            back = ["docker", "exec", r.server.name, f"{DIR}/deploy.sh"]
            got = subprocess.run(back, capture_output=True, text=True, check=False)
        told = "restore the backup" in got.stdout and "refused: this release cannot run on the database" in got.stdout
        dump = r.server.exec(f"cd {DIR}/backups; ls *.dump | tail -n 1")
        section = re.search(
            r"### How to restore .*?```console\n(.*?)```",
            (ROOT / "docs/rollback-and-restore.md").read_text(),
            re.DOTALL,
        )
        for line in section.group(1).replace("\\\n", "").splitlines():
            line = line.partition("   #")[0].replace("<id>", dump.removesuffix(".dump")).replace("<commit>", old)
            r.server.exec(f"cd {DIR}; {line}")
        expect(notes() == before, f"{notes()} notes came back, of {before}")
        r.told()
        r.at_rest(old)
        expect(told, f"it does not say what to do: {got.stdout}")


def odd_releases(r: Rehearsal) -> None:
    """A release that starts slowly goes live, and one that ignores SIGTERM is replaced."""
    r.server.set(HEALTH_SECONDS="60")
    goes_live(r, "slow", 'CMD ["sh", "-c", "sleep 20; exec python -m service"]')
    r.server.set(HEALTH_SECONDS="20")
    goes_live(r, "deaf", 'CMD ["sh", "-c", "trap : TERM; python -m service & while :; do wait; done"]')
    goes_live(r, "after deaf")
