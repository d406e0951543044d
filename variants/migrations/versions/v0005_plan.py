"""How a shadow or canary is tried."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """One more column of a variant."""
    op.add_column("variants", sa.Column("plan", sa.Text))
