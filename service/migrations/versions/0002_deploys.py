"""Deploys, idempotency keys of notes, and the oldest code that can run on the schema."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
floor = "0001"

ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create both tables and add an idempotency key to notes."""
    schema_floor = op.create_table("schema_floor", sa.Column("revision", sa.String(32), primary_key=True))
    op.bulk_insert(schema_floor, [{"revision": floor}])
    op.create_table(
        "deploys",
        sa.Column("id", ID, primary_key=True),
        sa.Column("release_id", ID, sa.ForeignKey("releases.id"), nullable=False),
        sa.Column("attempt", sa.String(64), nullable=False, unique=True),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(10000), nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("committed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seconds", sa.JSON(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("deploys_of_release", "deploys", ["release_id", "id"])
    op.create_index("deploys_ended", "deploys", ["ended_at", "id"])
    op.add_column("notes", sa.Column("key", sa.String(64), nullable=True))
    op.create_index("notes_once", "notes", ["release_id", "key"], unique=True)
