"""Migrations: whether one is pending, the dump of the database before it, and the migration itself."""

from collections.abc import Callable, Collection
from pathlib import Path

from server import compose, engine, release
from server.compose import Project
from server.errors import Refused, TimedOut
from server.settings import open_private

PENDING = 3  # the exit code of `check` when there are pending migrations
GROWTH = 1.2  # how much larger than the last dump the next one may be, as a factor


def is_migration_pending(project: Project, services: Collection[str]) -> bool:
    """Whether the release has pending migrations; without a `check` service it may always have some.

    Raises Refused when the release cannot run on the schema as it is.
    """
    if "check" not in services:
        return True
    code = compose.run_one_shot(project, "check")
    if code not in (0, PENDING):
        raise Refused("this release cannot run on the database as it is: see above")
    return code == PENDING


def migrate(project: Project, services: Collection[str]) -> None:
    """Dump the database if the release has a `backup` service, then migrate it. Raises Refused."""
    seconds = project.settings.migrate_seconds
    if "backup" in services:
        back_up(project)
    try:
        failed = compose.run_one_shot(project, "migrate", seconds)
    except TimedOut:
        failed = True
    if failed:
        raise Refused(f"the migration failed, or took more than {seconds} s (MIGRATE_SECONDS in .env)")


def back_up(project: Project) -> None:
    """Write the dump backups/<deploy>.dump; KEEP_RELEASES dumps stay. Raises Refused, without half a dump."""
    folder, seconds = project.directory / "backups", project.settings.migrate_seconds
    folder.mkdir(mode=0o700, exist_ok=True)
    docker_root = engine.get("/info")["DockerRootDir"]

    def free_mb() -> int:
        return release.free_mb(folder, docker_root)

    def stop_before_the_disk_is_full() -> None:
        if free_mb() < project.settings.min_free_mb:
            raise Refused(
                f"the dump was stopped, less than {project.settings.min_free_mb} MB (MIN_FREE_MB) are free, "
                f"so no migration: {release.DISK_MESSAGE}"
            )

    make_room(folder, project.settings.keep_releases, project.settings.min_free_mb, free_mb)
    new = folder / "new"
    try:
        with open(new, "wb", opener=open_private) as output:
            failed = compose.run_one_shot(project, "backup", seconds, output, stop_before_the_disk_is_full)
    except TimedOut:
        failed = True
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    if failed:
        new.unlink(missing_ok=True)
        raise Refused(f"no backup within {seconds} s (MIGRATE_SECONDS in .env), so no migration: see above")
    new.rename(folder / f"{project.deploy}.dump")
    for old in dumps(folder)[project.settings.keep_releases :]:
        old.unlink()


def make_room(folder: Path, keep: int, min_free_mb: int, free_mb: Callable[[], int]) -> None:
    """Refused unless a dump a little larger than the last one leaves `min_free_mb` free.

    Where it does not, the oldest dumps go now if that is enough: of `keep`, they go after this dump in any case.
    """
    last = dumps(folder)
    expected = int(last[0].stat().st_size * GROWTH) // release.MIB if last else 0
    missing = expected + min_free_mb - free_mb()
    spare = last[max(1, keep - 1) :]
    if missing > sum(old.stat().st_size for old in spare) // release.MIB:
        raise Refused(
            f"{free_mb()} MB are free on the disk, the dump takes about {expected} MB, and MIN_FREE_MB is "
            f"{min_free_mb}: no migration; {release.DISK_MESSAGE}"
        )
    if missing > 0:
        for old in spare:
            old.unlink()


def dumps(folder: Path) -> list[Path]:
    """The dumps, newest first."""
    return sorted(folder.glob("*.dump"), key=lambda dump: dump.name.zfill(32), reverse=True)
