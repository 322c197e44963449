"""Releases of the sample with faulty migrations, under load; no request may fail."""

import re

from scripts.runner.process import ROOT
from tests.rehearsal.failures import expect
from tests.rehearsal.rehearsal import Rehearsal
from tests.rehearsal.sample.ledger import expect_same_records
from tests.rehearsal.scenarios.releases import expect_migration_times_out
from tests.rehearsal.server import DIR, Server
from tests.rehearsal.swarm.cluster import Cluster
from tests.rehearsal.variants import deploy_and_expect_live

LOCKING_MIGRATION = """
import os, psycopg
connection = psycopg.connect(os.environ["DB_CONN"].replace("+psycopg", ""))
connection.execute("LOCK TABLE notes")
connection.execute("SELECT pg_sleep(600)")  # PostgreSQL does not notice by itself that the client is gone
"""
# An Alembic migration; no earlier release runs on its schema.
DATA_LOSS_MIGRATION = """
from pathlib import Path
import sqlalchemy as sa
from alembic import op
revision = floor = "0999"
down_revision = max(file.name[:4] for file in Path(__file__).parent.glob("0*.py") if file.name[:4] < revision)
def upgrade():
    op.execute("DELETE FROM notes")
    op.execute(sa.text("UPDATE schema_floor SET revision = :floor").bindparams(floor=floor))
"""


def locking_migration(rehearsal: Rehearsal) -> None:
    """A migration that holds a lock is refused, and the lock is released."""
    with rehearsal.server.settings(MIGRATE_SECONDS="4"):
        expect_migration_times_out(rehearsal, "migration locks", LOCKING_MIGRATION)
    deploy_and_expect_live(rehearsal, "good after a locking migration")


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
            data_loss, after = server.setting("DEPLOY_ID"), count_notes()
            expect(before != "0" and after == "0", f"{after} of {before} notes are left")
            with rehearsal.expect_unchanged("a release that cannot run on the schema"):
                server.set(IMAGE_TAG=old)
                output = server.run(f"{DIR}/deploy.sh").stdout
        finally:
            if count_notes() != before:
                restore_dump(server, old, data_loss)
        restored = count_notes()
        expect(restored == before, f"{restored} of {before} notes were restored")
        expect_same_records(rehearsal)
        rehearsal.expect_only_release(old)
        for message in ("restore the backup", "refused: this release cannot run on the database"):
            expect(message in output, f"the output does not contain {message!r}: {output}")


def restore_dump(server: Server, commit: str, deploy_id: str) -> None:
    """Run the commands of the documentation, with the dump of a deploy and the release that was live before.

    If that deploy wrote no dump, use the one before: the next scenarios need a database.
    """
    dumps = server.exec(f"cd {DIR}/backups; ls *.dump").split()
    dump = max(name for name in dumps if name <= f"{deploy_id}.dump").removesuffix(".dump")
    page = "docs/swarm.md" if isinstance(server, Cluster) else "docs/rollback-and-restore.md"
    commands = re.search(r"### How to restore .*?```console\n(.*?)```", (ROOT / page).read_text(), re.DOTALL).group(1)
    for line in commands.replace("\\\n", "").splitlines():
        command = line.partition("   #")[0].replace("<id>", dump).replace("<commit>", commit)
        server.exec(f"cd {DIR}; {command}")
