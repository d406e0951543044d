"""The database's tables, as SQLAlchemy Core describes them. `migrations/` creates them."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Date,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)


class Instant(TypeDecorator[datetime]):
    """A moment in UTC. SQLite keeps no time zone: it is turned to UTC before, and so read back."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """The same moment in UTC."""
        return None if value is None else value.astimezone(UTC)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any] | None:
        """As SQLAlchemy's own, but what is no text of a date is a `ValueError`, too."""
        read = super().result_processor(dialect, coltype)

        def instant(value: Any) -> Any:
            try:
                return value if read is None else read(value)
            except TypeError as error:
                raise ValueError(f"a {type(value).__name__} as a date") from error

        return instant

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
    Column("version", Integer, nullable=False, server_default="1"),
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
    Column("version", Integer, nullable=False, server_default="1"),
    Column("plan", Text),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Instant, nullable=False),
    Column("actor", String(128), nullable=False),
    Column("action", String(32), nullable=False),
    Column("model", String(63)),
    Column("variant", String(63)),
    Column("old_state", String(16)),
    Column("new_state", String(16)),
    Column("reason", Text, nullable=False),
    Column("evidence", Text),
    Index("audit_of_variant", "model", "variant"),
)
"""Append-only: triggers refuse to change or remove a line."""

changes = Table("changes", metadata, Column("version", BigInteger, nullable=False))
"""One row with a number that grows at each change: gateways look at it."""

keys = Table(
    "keys",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("secret_hmac", String(64), nullable=False),
    Column("scopes", String(128), nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("revoked_at", Instant),
    Column("version", Integer, nullable=False, server_default="1"),
    Column("pepper", String(12)),
    Column("old_hmac", String(64)),
    Column("old_pepper", String(12)),
    Column("old_until", Instant),
    Column("expires_at", Instant),
    Column("allow", Text),
    Column("max_latency_s", Float),
    Column("max_cost_usd_per_million", Float),
    Column("min_accuracy", Float),
    Column("max_accuracy_drop_points", Float),
    Column("requests_per_s", Float),
    Column("usd_per_day", Float),
)

replies = Table(
    "replies",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("renewed_at", Instant, nullable=False),
    Column("sealed", LargeBinary),
    Index("replies_by_age", "created_at"),
)
"""Answers to requests with an `Idempotency-Key`; `sealed` is empty while one is in flight."""

usage = Table(
    "usage",
    metadata,
    Column("key", String(16), ForeignKey("keys.id"), primary_key=True),
    Column("day", Date, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("usd", Float, nullable=False),
    Column("set_aside_usd", Float, nullable=False),
)
"""What each key used on a day (UTC). `set_aside_usd`: what gateways took out of its budget."""
