"""Migrations: whether one is pending, the dump of the database before it, and the migration itself."""

import itertools
import os
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from server import compose, engine, history, release, roles, state
from server.compose import Project
from server.errors import Refused, TimedOut

# A label of the service `check`. Its value is the exit code which means that the release cannot run on this schema.
INCOMPATIBLE_LABEL = "quai.incompatible-exit-code"
PENDING = 3  # the only exit code of version 1 that means pending migrations
NOT_RUN = 125  # the exit codes from here on mean that a command did not run, or was killed
ID = "[0-9]{10}"  # the id of a deploy: seconds since 1970
GROWTH = 1.2  # the next dump is assumed to be at most this many times as large as the last one


def check_pending(project: Project, services: Mapping[str, Any]) -> bool:
    """Run the `check` service; return whether a migration is pending: whether the exit code is not 0.

    Without this service, assume that one is pending. Raises Refused if the release cannot run on the schema as it is.
    """
    if "check" not in services:
        return True
    seconds = project.settings.migrate_seconds
    try:
        code = compose.run_one_shot(project, "check")
    except TimedOut:
        raise Refused(f"the check for migrations took more than {seconds} s (MIGRATE_SECONDS in .env)") from None
    if not 0 <= code < NOT_RUN:  # negative: Compose was killed by a signal
        raise Refused(f"the check for migrations did not run (exit code {code}): see above")
    is_unknown_code = roles.is_version_1(services) and code not in (0, PENDING)
    if str(code) == roles.labels(services["check"]).get(INCOMPATIBLE_LABEL) or is_unknown_code:
        raise Refused("this release cannot run on the database as it is: see above")
    return code != 0


def migrate(project: Project, services: Collection[str]) -> None:
    """Dump the database if the release has a `backup` service, then migrate it. Raises Refused."""
    seconds = project.settings.migrate_seconds
    if "backup" in services:
        back_up(project)
    try:
        failed = compose.run_one_shot(project, "migrate")
    except TimedOut:
        failed = True
    if failed:
        raise Refused(f"the migration failed, or took more than {seconds} s (MIGRATE_SECONDS in .env)")


def back_up(project: Project) -> None:
    """Write the dump backups/<deploy id>.dump and prune old ones. Raises Refused, leaving no partial dump."""
    folder, seconds = project.directory / "backups", project.settings.migrate_seconds
    folder.mkdir(mode=0o700, exist_ok=True)
    docker_root = engine.get("/info")["DockerRootDir"]

    def free_mb() -> int:
        return release.free_mb(folder, docker_root)

    def require_free_space() -> None:
        if free_mb() < project.settings.min_free_mb:
            raise Refused(
                f"the dump was stopped: less than {project.settings.min_free_mb} MiB (MIN_FREE_MB) is free; "
                f"the migration did not run; {release.DISK_MESSAGE}"
            )

    keep, live_ids = project.settings.keep_releases, history.live_ids(project.directory)
    make_room(folder, keep, live_ids, project.settings.min_free_mb, free_mb)
    new = folder / "new"
    try:
        with open(new, "wb", opener=state.open_private) as output:
            failed = compose.run_one_shot(project, "backup", output, require_free_space)
            os.fsync(output.fileno())
    except TimedOut:
        failed = True
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    if failed:
        new.unlink(missing_ok=True)
        raise Refused(
            f"the backup failed, or took more than {seconds} s (MIGRATE_SECONDS in .env); the migration did not run"
        )
    state.rename(new, folder / f"{project.deploy_id}.dump")
    for old in prunable(folder, keep, live_ids):
        old.unlink()


def make_room(folder: Path, keep: int, live_ids: Collection[str], min_free_mb: int, free_mb: Callable[[], int]) -> None:
    """Raise Refused unless a dump a little larger than the last one leaves `min_free_mb` free.

    If space is short, first delete the dumps that would be pruned after this one anyway.
    """
    existing = dumps(folder)
    expected = int(existing[0].stat().st_size * GROWTH) // release.MIB if existing else 0
    missing = expected + min_free_mb - free_mb()
    spare = prunable(folder, max(1, keep - 1), live_ids)
    if missing > sum(old.stat().st_size for old in spare) // release.MIB:
        raise Refused(
            f"{free_mb()} MiB is free on the disk, the dump needs about {expected} MiB, and MIN_FREE_MB is "
            f"{min_free_mb}; the migration did not run; {release.DISK_MESSAGE}"
        )
    if missing > 0:
        for old in spare:
            old.unlink()


def prunable(folder: Path, keep: int, live_ids: Collection[str]) -> list[Path]:
    """Return the dumps to delete: all except the newest `keep` and the oldest since a deploy went live.

    If a migration fails half-way, each retry dumps a half-migrated database; only the first dump is clean.
    """
    existing = dumps(folder)
    refused = list(itertools.takewhile(lambda dump: dump.stem not in live_ids, existing))
    return [dump for dump in existing[keep:] if dump not in refused[-1:]]


def dumps(folder: Path) -> list[Path]:
    """Return the dumps of deploys, newest first; ids only increase. Other files in the folder are left alone."""
    own = [dump for dump in folder.glob("*.dump") if re.fullmatch(ID, dump.stem)]
    return sorted(own, key=lambda dump: dump.stem, reverse=True)
