"""The registry's tables, as SQLAlchemy Core describes them. `migrations/` creates them."""

from sqlalchemy import (
    Column,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData()

models = Table(
    "models",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("spec", Text, nullable=False),
    Column("evaluation_digest", String(64)),
    Column("reference", String(63)),
    Column("created_at", DateTime(timezone=True), nullable=False),
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
    Column("created_at", DateTime(timezone=True), nullable=False),
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
    Column("at", DateTime(timezone=True), nullable=False),
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
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("revoked_at", DateTime(timezone=True)),
)
