"""Faulty and unusual releases and migrations, under load; no request may fail."""

from operator import attrgetter

from tests.rehearsal.edits import (
    BROKEN_CADDYFILE,
    CRASH,
    ERROR_CADDYFILE,
    ERROR_SERVER,
    Compose,
    failing_server,
    limit_memory,
    migrate_with,
    remove_health_check,
    report_another_release,
    run_python,
    wrap_command,
)
from tests.rehearsal.failures import NotApplicable, expect
from tests.rehearsal.rehearsal import Rehearsal
from tests.rehearsal.server import DIR
from tests.rehearsal.variants import deploy_and_expect_live, expect_refused

DUMP_SPACE_MB = 6000  # it writes a file of 4000 MiB, and dumps of up to 1500 MiB
GRACE_SECONDS = 30  # stop_grace_period of the API in docker-compose.prod.yml
FAILURE_SECONDS = 2.5  # from the first request through the front: during the watch
is_read = attrgetter("is_read")


def faulty_releases(rehearsal: Rehearsal) -> None:
    """Releases that crash, answer 500, fail after the switch, or have broken files are refused."""
    expect_refused(rehearsal, "crashes", "boom", CRASH)
    expect_refused(rehearsal, "answers 500", "not healthy within", run_python(ERROR_SERVER))
    with rehearsal.send_only(is_read):  # a process that crashes loses the writes in flight; reads are retried
        crashes = failing_server(FAILURE_SECONDS, ends=True)
        expect_refused(rehearsal, "exits after the switch", "the api has exited", crashes, last_step="watch")
    message = "consecutive probes after the switch: "
    with rehearsal.send_only(is_read):
        fails = failing_server(FAILURE_SECONDS, ends=False)
        expect_refused(rehearsal, "fails while it is watched", message, fails, last_step="watch")
    exits = run_python("import time; time.sleep(1); raise SystemExit(3)")
    expect_refused(rehearsal, "exits with a code", "exit code 3\n", exits)
    message = "out of memory: the kernel killed it (OOMKilled); its limit is 64 MiB"
    allocates = run_python("len(b'x' * (1 << 30)); import time; time.sleep(9)")
    expect_refused(rehearsal, "exceeds its memory limit", message, allocates, limit_memory("64M"))
    expect_refused(rehearsal, "no health check", "has no health check", remove_health_check)
    message = "found another-release"
    expect_refused(rehearsal, "another release", message, report_another_release, last_step="verify")
    compose_file = "RUN echo 'services: [' >/release/docker-compose.prod.yml"
    expect_refused(rehearsal, "broken compose file", "does not match .env", compose_file)
    expect_refused(rehearsal, "broken Caddyfile", "the front has exited", BROKEN_CADDYFILE)
    expect_refused(rehearsal, "another Caddyfile", "returned 500", ERROR_CADDYFILE, last_step="verify")
    program = "RUN echo 'if' >>/release/deploy.sh"
    expect_refused(rehearsal, "broken deploy.sh", "the deploy program of this release does not run", program)
    message = "cannot be copied from /release of the image"
    expect_refused(rehearsal, "no files", message, "RUN rm -r /release")
    deploy_and_expect_live(rehearsal, "good after faulty releases")


def faulty_migrations(rehearsal: Rehearsal) -> None:
    """Migrations that fail or hang are refused."""
    with rehearsal.server.settings(MIGRATE_SECONDS="4"):
        expect_refused(
            rehearsal, "migration fails", "no such column", migrate_with("raise SystemExit('no such column')")
        )
        expect_migration_times_out(rehearsal, "migration hangs", "import time; time.sleep(600)")
    deploy_and_expect_live(rehearsal, "good after faulty migrations")


def expect_migration_times_out(rehearsal: Rehearsal, name: str, code: str) -> None:
    """Deploy a release with this migration; expect that it is refused after MIGRATE_SECONDS, which are 4."""
    expect_refused(rehearsal, name, "took more than 4 s", migrate_with(code))
    # A migration that fails at once has the same message.
    seconds = rehearsal.server.deploy_log()[-1]["seconds"]["migrate"]
    expect(seconds >= 4, f"{name}: it failed after {seconds} s")


def dump_without_space(rehearsal: Rehearsal) -> None:
    """A dump that would fill the disk is stopped, and one that is known to be too large does not start."""
    server, large_dump = rehearsal.server, f"{DIR}/backups/9999999999.dump"
    if "backup" not in rehearsal.compose_file().services:
        raise NotApplicable("there is no service backup")
    limit, list_dumps = server.setting("MIN_FREE_MB"), f"mkdir -p {DIR}/backups; ls {DIR}/backups"
    free = int(server.exec(f"df --output=avail --block-size=1M {DIR} | tail -n 1"))
    expect(free > DUMP_SPACE_MB, f"this scenario needs {DUMP_SPACE_MB} MiB of free disk space, {free} MiB is free")
    before = server.exec(list_dumps)
    try:
        server.set(MIN_FREE_MB=str(free - 1500))
        expect_refused(rehearsal, "dump grows", "the dump was stopped: less than", migrate_with(""), dump_endlessly)
        server.exec(f"fallocate --length 4000M {large_dump}")
        server.set(MIN_FREE_MB=str(free - 5500))
        expect_refused(rehearsal, "dump is large", "the dump needs about 4800 MiB", migrate_with(""))
    finally:
        server.exec(f"rm --force {large_dump}")
        server.set(MIN_FREE_MB=limit)
    after = server.exec(list_dumps)
    expect(after == before, f"the dumps were {before} and are {after}")


def dump_endlessly(compose: Compose) -> None:
    """Replace the dump by one that does not end."""
    compose.services["backup"] |= {"entrypoint": ["head", "-c", "500G", "/dev/zero"], "command": []}


def unusual_releases(rehearsal: Rehearsal) -> None:
    """A release that starts slowly goes live, and one that ignores SIGTERM is replaced."""
    with rehearsal.server.settings(HEALTH_SECONDS="60"):
        deploy_and_expect_live(rehearsal, "slow start", wrap_command('sleep 20; exec "$@"'))
    ignores = wrap_command('trap : TERM; "$@" & while :; do wait; done')
    deploy_and_expect_live(rehearsal, "ignores SIGTERM", ignores)
    seconds = deploy_and_expect_live(rehearsal, "good after unusual releases")
    expect(seconds >= GRACE_SECONDS, f"the release that ignores SIGTERM was replaced within {seconds:.0f} s")
