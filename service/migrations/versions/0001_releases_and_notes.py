"""Releases and notes."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
floor = "0001"  # the oldest revision whose code can still run on this schema

ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create both tables."""
    op.create_table(
        "releases",
        sa.Column("id", ID, primary_key=True),
        sa.Column("tag", sa.String(64), nullable=False, unique=True),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "notes",
        sa.Column("id", ID, primary_key=True),
        sa.Column("release_id", ID, sa.ForeignKey("releases.id"), nullable=False),
        sa.Column("text", sa.String(2000), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("notes_of_release", "notes", ["release_id", "id"])
