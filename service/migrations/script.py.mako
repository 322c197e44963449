"""${message}.

Additive only: for about a second, and after a rollback, older code runs on this schema.
"""

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    """Add to the schema."""
    ${upgrades if upgrades else "pass"}
