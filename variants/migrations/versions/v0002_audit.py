"""The audit takes over the history; a counter of changes; a version of each row."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Copy the history into the audit, and refuse to change what is there."""
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(128), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("model", sa.String(63)),
        sa.Column("variant", sa.String(63)),
        sa.Column("old_state", sa.String(16)),
        sa.Column("new_state", sa.String(16)),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("evidence", sa.Text),
    )
    op.create_index("audit_of_variant", "audit", ["model", "variant"])
    op.execute(
        "INSERT INTO audit (at, actor, action, model, variant, old_state, new_state, reason) "
        "SELECT at, actor, "
        "CASE WHEN old_state IS NULL THEN 'variant.register' ELSE 'variant.move' END, "
        "model, variant, old_state, new_state, reason FROM history ORDER BY id"
    )
    op.drop_table("history")
    _append_only()
    op.create_table("changes", sa.Column("version", sa.BigInteger, nullable=False))
    op.execute("INSERT INTO changes (version) VALUES (1)")
    for table in ("models", "variants", "keys"):
        op.add_column(table, sa.Column("version", sa.Integer, nullable=False, server_default="1"))


def _append_only() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER audit_no_{verb.lower()} BEFORE {verb} ON audit "
                "BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the audit is append-only'; END $$"
    )
    op.execute(
        "CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
        "FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()"
    )
