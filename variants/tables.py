"""The registry's tables, as SQLAlchemy Core describes them. `migrations/` creates them."""

from datetime import UTC, datetime

from sqlalchemy import (
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)


class Instant(TypeDecorator[datetime]):
    """A moment in UTC; SQLite keeps no time zone, so it is given back on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """The moment with its time zone."""
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


metadata = MetaData()

models = Table(
    "models",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("spec", Text, nullable=False),
    Column("evaluation_digest", String(64)),
    Column("reference", String(63)),
    Column("created_at", Instant, nullable=False),
)

variants = Table(
    "variants",
    metadata,
    Column("model", String(63), ForeignKey("models.name"), primary_key=True),
    Column("name", String(63), primary_key=True),
    Column("manifest_id", String(64)),
    Column("artifact_digest", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
)

history = Table(
    "history",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("model", String(63), nullable=False),
    Column("variant", String(63), nullable=False),
    Column("old_state", String(16)),
    Column("new_state", String(16), nullable=False),
    Column("actor", String(128), nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", Instant, nullable=False),
    ForeignKeyConstraint(["model", "variant"], ["variants.model", "variants.name"]),
)
"""Append-only: who moved which variant, when and why."""

keys = Table(
    "keys",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("secret_hmac", String(64), nullable=False),
    Column("scopes", String(128), nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("revoked_at", Instant),
)
