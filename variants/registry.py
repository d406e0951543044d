"""Which models and variants exist, in which state, and who may call: one database.

SQLite is the embedded default (rollback journal and `synchronous=EXTRA`: the SQLite that ships
with many Pythons has a WAL corruption bug). Never called on the request path: the gateway routes
from a snapshot in memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Connection, create_engine, event, insert, inspect, select, text, update
from sqlalchemy.exc import IntegrityError

from variants import tables
from variants.errors import Conflict, GearshiftError, NotFound
from variants.lifecycle import State, check_transition
from variants.spec import ModelSpec

SCHEMA_REVISION = "0001"
_spec: TypeAdapter[ModelSpec] = TypeAdapter(ModelSpec)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRecord:
    """A model: its promise, its stored evaluation set and its reference variant."""

    spec: ModelSpec
    evaluation_digest: str | None
    reference: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class VariantRecord:
    """A variant's place in its life. `manifest_id` is None until it has been profiled."""

    model: str
    name: str
    manifest_id: str | None
    artifact_digest: str
    state: State
    reason: str
    created_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyRecord:
    """An API key as it is stored: never the secret, only its HMAC."""

    id: str
    name: str
    secret_hmac: str
    scopes: frozenset[str]
    created_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One line of a variant's history."""

    old_state: State | None
    new_state: State
    actor: str
    reason: str
    at: datetime


class Registry:
    """The database behind a data folder, migrated to the present schema when opened."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 5})
        event.listen(self._engine, "connect", _configure_sqlite)
        self._migrate()

    def close(self) -> None:
        """Close the database's connections."""
        self._engine.dispose()

    # Models

    def put_model(self, spec: ModelSpec, evaluation_digest: str | None) -> None:
        """Create a model or renew its evaluation set.

        Raises `Conflict` where a model of this name promises other tensors or labels.
        """
        with self._change() as db:
            row = db.execute(select(tables.models).filter_by(name=spec.name)).first()
            if row is None:
                db.execute(
                    insert(tables.models).values(
                        name=spec.name,
                        spec=_spec.dump_json(spec).decode(),
                        evaluation_digest=evaluation_digest,
                        created_at=_now(),
                    )
                )
                return
            if _spec.validate_json(row.spec) != spec:
                raise Conflict(
                    f"model {spec.name!r} exists with other inputs, outputs, labels or "
                    "preprocessing; choose another name or another data folder"
                )
            db.execute(
                update(tables.models)
                .filter_by(name=spec.name)
                .values(evaluation_digest=evaluation_digest)
            )

    def models(self) -> tuple[ModelRecord, ...]:
        """Every model, by name."""
        with self._engine.connect() as db:
            rows = db.execute(select(tables.models).order_by(tables.models.c.name))
            return tuple(_model(row) for row in rows)

    def model(self, name: str) -> ModelRecord:
        """One model. Raises `NotFound`."""
        with self._engine.connect() as db:
            row = db.execute(select(tables.models).filter_by(name=name)).first()
        if row is None:
            raise NotFound(f"no model {name!r}")
        return _model(row)

    def set_reference(self, model: str, variant: str) -> None:
        """Count accuracy drops from it. Raises `NotFound`, or `Conflict` where it is not active."""
        with self._change() as db:
            if _variant(_one(db, model, variant)).state != "active":
                raise Conflict(f"only an active variant can be the reference, {variant!r} is not")
            db.execute(update(tables.models).filter_by(name=model).values(reference=variant))

    # Variants

    def add_variant(
        self, *, model: str, name: str, artifact_digest: str, actor: str, reason: str
    ) -> None:
        """Register a variant. Raises `NotFound` for its model and `Conflict` for a taken name."""
        self.model(model)
        try:
            with self._change() as db:
                db.execute(
                    insert(tables.variants).values(
                        model=model,
                        name=name,
                        artifact_digest=artifact_digest,
                        state="registered",
                        reason=reason,
                        created_at=_now(),
                    )
                )
                _record(db, model, name, None, "registered", actor=actor, reason=reason)
        except IntegrityError:
            raise Conflict(
                f"variant {name!r} of {model!r} exists, and variants are immutable: "
                "register the new file under another name"
            ) from None

    def move(
        self,
        model: str,
        name: str,
        state: State,
        *,
        actor: str,
        reason: str,
        manifest_id: str | None = None,
    ) -> None:
        """Move a variant to another state and record it. Raises `NotFound` or `Conflict`."""
        with self._change() as db:
            old = _variant(_one(db, model, name))
            check_transition(name, old.state, state)
            values: dict[str, Any] = {"state": state, "reason": reason}
            if manifest_id is not None:
                values["manifest_id"] = manifest_id
            db.execute(update(tables.variants).filter_by(model=model, name=name).values(**values))
            _record(db, model, name, old.state, state, actor=actor, reason=reason)

    def variants(self, model: str) -> tuple[VariantRecord, ...]:
        """The model's variants, by name."""
        with self._engine.connect() as db:
            rows = db.execute(
                select(tables.variants).filter_by(model=model).order_by(tables.variants.c.name)
            )
            return tuple(_variant(row) for row in rows)

    def variant(self, model: str, name: str) -> VariantRecord:
        """One variant. Raises `NotFound`."""
        with self._engine.connect() as db:
            return _variant(_one(db, model, name))

    def history(self, model: str, name: str) -> tuple[Change, ...]:
        """What happened to a variant, oldest first."""
        with self._engine.connect() as db:
            rows = db.execute(
                select(tables.history)
                .filter_by(model=model, variant=name)
                .order_by(tables.history.c.id)
            )
            return tuple(
                Change(
                    old_state=row.old_state,
                    new_state=row.new_state,
                    actor=row.actor,
                    reason=row.reason,
                    at=row.at,
                )
                for row in rows
            )

    # Keys

    def add_key(self, *, id: str, name: str, secret_hmac: str, scopes: frozenset[str]) -> None:
        """Store a key's HMAC."""
        with self._change() as db:
            db.execute(
                insert(tables.keys).values(
                    id=id,
                    name=name,
                    secret_hmac=secret_hmac,
                    scopes=" ".join(sorted(scopes)),
                    created_at=_now(),
                )
            )

    def revoke_key(self, id: str) -> None:
        """End a key. Raises `NotFound` for one that does not exist or has ended."""
        with self._change() as db:
            done = db.execute(
                update(tables.keys).filter_by(id=id, revoked_at=None).values(revoked_at=_now())
            )
            if done.rowcount == 0:
                raise NotFound(f"no valid key {id!r}")

    def api_keys(self) -> tuple[KeyRecord, ...]:
        """Every key, revoked ones too, oldest first."""
        with self._engine.connect() as db:
            rows = db.execute(select(tables.keys).order_by(tables.keys.c.created_at))
            return tuple(
                KeyRecord(
                    id=row.id,
                    name=row.name,
                    secret_hmac=row.secret_hmac,
                    scopes=frozenset(row.scopes.split()),
                    created_at=row.created_at,
                    revoked_at=row.revoked_at,
                )
                for row in rows
            )

    @contextmanager
    def _change(self) -> Iterator[Connection]:
        """One transaction that holds the write lock from its first statement.

        What it reads stays true until it commits, and schema changes are undone with the rest:
        the driver by itself begins a transaction only at the first INSERT or UPDATE.
        """
        with self._engine.begin() as db:
            db.exec_driver_sql("BEGIN IMMEDIATE")
            yield db

    def _migrate(self) -> None:
        with self._engine.connect() as db:
            if _revision(db) == SCHEMA_REVISION:
                return
        with self._change() as db:
            self._upgrade(db)

    def _upgrade(self, db: Connection) -> None:
        found = _revision(db)
        if found is not None and found > SCHEMA_REVISION:
            raise GearshiftError(
                f"the registry has schema {found}, newer than this program's {SCHEMA_REVISION}; "
                "start the newer version, or restore a backup made before it ran"
            )
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        config.attributes["connection"] = db
        command.upgrade(config, "head")


def _revision(db: Connection) -> str | None:
    if not inspect(db).has_table("alembic_version"):
        return None
    found: str | None = db.scalar(text("SELECT version_num FROM alembic_version"))
    return found


def _configure_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=DELETE")
    cursor.execute("PRAGMA synchronous=EXTRA")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _now() -> datetime:
    return datetime.now(UTC)


def _one(db: Connection, model: str, name: str) -> Any:
    row = db.execute(select(tables.variants).filter_by(model=model, name=name)).first()
    if row is None:
        raise NotFound(f"no variant {name!r} of model {model!r}")
    return row


def _record(
    db: Connection,
    model: str,
    variant: str,
    old: State | None,
    new: State,
    *,
    actor: str,
    reason: str,
) -> None:
    db.execute(
        insert(tables.history).values(
            model=model,
            variant=variant,
            old_state=old,
            new_state=new,
            actor=actor,
            reason=reason,
            at=_now(),
        )
    )


def _model(row: Any) -> ModelRecord:
    return ModelRecord(
        spec=_spec.validate_json(row.spec),
        evaluation_digest=row.evaluation_digest,
        reference=row.reference,
    )


def _variant(row: Any) -> VariantRecord:
    return VariantRecord(
        model=row.model,
        name=row.name,
        manifest_id=row.manifest_id,
        artifact_digest=row.artifact_digest,
        state=row.state,
        reason=row.reason,
        created_at=row.created_at,
    )
