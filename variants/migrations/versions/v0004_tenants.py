"""What keys may do and until when, their secret before the last rotation, and what they used."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Keys that are there have no limits, and are stored under the one pepper there was."""
    for column in (
        sa.Column("pepper", sa.String(12)),
        sa.Column("old_hmac", sa.String(64)),
        sa.Column("old_until", sa.DateTime(timezone=True)),
        sa.Column("expires_at", sa.DateTime(timezone=True)),
        sa.Column("allow", sa.Text),
        sa.Column("max_latency_s", sa.Float),
        sa.Column("max_cost_usd_per_million", sa.Float),
        sa.Column("min_accuracy", sa.Float),
        sa.Column("max_accuracy_drop_points", sa.Float),
        sa.Column("requests_per_s", sa.Float),
        sa.Column("usd_per_day", sa.Float),
    ):
        op.add_column("keys", column)
    op.create_table(
        "usage",
        sa.Column("key", sa.String(16), sa.ForeignKey("keys.id"), primary_key=True),
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("usd", sa.Float, nullable=False),
        sa.Column("set_aside_usd", sa.Float, nullable=False),
    )
