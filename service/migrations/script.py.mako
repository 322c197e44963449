"""${message}.

Only add to the schema: during a deploy and after a rollback, older code runs on it.
"""

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
floor = ${repr(down_revision)}  # the oldest revision whose code can still run on this schema


def upgrade() -> None:
    """Add to the schema."""
    ${upgrades if upgrades else "pass"}
    op.execute(sa.text("UPDATE schema_floor SET revision = :floor").bindparams(floor=floor))
