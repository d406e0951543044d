"""Under which pepper a key's secret before the last rotation is stored."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """One more column of a key."""
    op.add_column("keys", sa.Column("old_pepper", sa.String(12)))
