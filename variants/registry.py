"""Which models and variants exist, and in which state."""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Connection, exists, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from variants import audit, tables, versions
from variants.database import Database
from variants.errors import Conflict, ModelNotFound, VariantNotFound
from variants.lifecycle import CANDIDATES, State, check_transition
from variants.spec import ModelSpec

_spec: TypeAdapter[ModelSpec] = TypeAdapter(ModelSpec)

Mark = tuple[int, int]
"""Of a model at one moment, as `mark` makes it: another one after any change of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRecord:
    """A model: its promise, its stored evaluation set and its reference variant.

    `version` grows at each change.
    """

    spec: ModelSpec
    evaluation_digest: str | None
    reference: str | None
    version: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class VariantRecord:
    """A variant's place in its life. `manifest_id` is None until it has been profiled.

    `version` grows at each change. `plan` is how a shadow or canary is tried, as JSON text that
    `router.rollout` reads; None in every other state.
    """

    model: str
    name: str
    manifest_id: str | None
    artifact_digest: str
    state: State
    reason: str
    created_at: datetime
    version: int = 1
    plan: str | None = None


def mark(model: ModelRecord, variants: Iterable[VariantRecord]) -> Mark:
    """A model's version, and those of its variants together: they only grow."""
    return model.version, sum(variant.version for variant in variants)


class Registry:
    """Models and variants in a database. Every change is recorded in the audit."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Models

    def put_model(self, spec: ModelSpec, evaluation_digest: str | None, *, actor: str) -> None:
        """Create a model or renew its evaluation set.

        Raises `Conflict` where a model of this name promises other tensors or labels.
        """
        with self._database.change() as db:
            row = db.execute(select(tables.models).filter_by(name=spec.name)).first()
            audit.record(
                db,
                actor=actor,
                action="model.create" if row is None else "model.evaluation",
                reason="",
                model=spec.name,
                evidence={"evaluation": evaluation_digest},
            )
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
            versions.advance("model", row.version, name=spec.name)
            db.execute(
                update(tables.models)
                .filter_by(name=spec.name)
                .values(evaluation_digest=evaluation_digest, version=tables.models.c.version + 1)
            )

    def models(self) -> tuple[ModelRecord, ...]:
        """Every model, by name."""
        with self._database.read() as db:
            rows = db.execute(select(tables.models).order_by(tables.models.c.name))
            return tuple(_model(row) for row in rows)

    def model(self, name: str) -> ModelRecord:
        """One model. Raises `NotFound`."""
        with self._database.read() as db:
            return _the_model(db, name)

    def whole(self, name: str) -> tuple[ModelRecord, tuple[VariantRecord, ...]]:
        """A model and its variants by name, at one moment. Raises `NotFound`."""
        with self._database.read() as db:
            return _the_model(db, name), _its_variants(db, name)

    def set_reference(self, model: str, variant: str, *, actor: str, reason: str = "") -> None:
        """Count accuracy drops from it. Raises `NotFound`, or `Conflict` where it is not active."""
        with self._database.change() as db:
            if _variant(_one(db, model, variant)).state != "active":
                raise Conflict(f"only an active variant can be the reference, {variant!r} is not")
            old = db.execute(select(tables.models).filter_by(name=model)).one()
            versions.advance("model", old.version, name=model)
            db.execute(
                update(tables.models)
                .filter_by(name=model)
                .values(reference=variant, version=tables.models.c.version + 1)
            )
            audit.record(
                db,
                actor=actor,
                action="model.reference",
                reason=reason,
                model=model,
                variant=variant,
                evidence={"before": old.reference},
            )

    # Variants

    def add_variant(
        self, *, model: str, name: str, artifact_digest: str, actor: str, reason: str
    ) -> None:
        """Register a variant. Raises `NotFound` for its model and `Conflict` for a taken name."""
        self.model(model)
        try:
            with self._database.change() as db:
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
                audit.record(
                    db,
                    actor=actor,
                    action="variant.register",
                    reason=reason,
                    model=model,
                    variant=name,
                    new_state="registered",
                    evidence={"artifact_digest": artifact_digest},
                )
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
        plan: str | None = None,
        evidence: Mapping[str, Any] | None = None,
        only: State | None = None,
        spare_only: bool = False,
    ) -> None:
        """Move a variant to another state and record it. Raises `NotFound` or `Conflict`.

        With `only` it must be in that state still: of several who decide so, one carries it out.
        With `spare_only` it must be neither the reference nor the last active one. A model has one
        candidate at a time: `Conflict` where another one is a shadow or canary.
        """
        with self._database.change() as db:
            old = _to_change(db, model, name)
            check_transition(name, old.state, state)
            if only is not None and old.state != only:
                raise Conflict(f"variant {name!r} is {old.state}, no longer {only}")
            if state in CANDIDATES:
                _check_alone(db, model, name)
            if spare_only:
                _check_spare(db, model, name)
            values: dict[str, Any] = {"state": state, "plan": plan, "reason": reason}
            if manifest_id is not None:
                values["manifest_id"] = manifest_id
            _renew(db, old, **values)
            audit.record(
                db,
                actor=actor,
                action="variant.move",
                reason=reason,
                model=model,
                variant=name,
                old_state=old.state,
                new_state=state,
                evidence=evidence,
            )

    def replan(self, model: str, name: str, plan: str, *, actor: str, reason: str) -> None:
        """Try a shadow or canary in another way. Raises `NotFound`, or `Conflict` for others."""
        with self._database.change() as db:
            record = _to_change(db, model, name)
            if record.state not in CANDIDATES:
                raise Conflict(f"variant {name!r} is {record.state}: there is no plan to change")
            _renew(db, record, plan=plan)
            audit.record(
                db,
                actor=actor,
                action="variant.plan",
                reason=reason,
                model=model,
                variant=name,
                old_state=record.state,
                new_state=record.state,
                evidence={
                    "plan": json.loads(plan),
                    "before": None if record.plan is None else json.loads(record.plan),
                },
            )

    def manifests_renewed(self, model: str, names: Collection[str], *, actor: str) -> None:
        """Have every gateway read these variants' manifests again. Raises `NotFound`."""
        with self._database.change() as db:
            for name in names:
                record = _to_change(db, model, name)
                _renew(db, record)
                audit.record(
                    db,
                    actor=actor,
                    action="variant.manifest",
                    reason="measurements renewed",
                    model=model,
                    variant=name,
                    old_state=record.state,
                    new_state=record.state,
                )

    def variants(self, model: str) -> tuple[VariantRecord, ...]:
        """The model's variants, by name."""
        with self._database.read() as db:
            return _its_variants(db, model)

    def unsettled(self, states: Collection[State]) -> tuple[VariantRecord, ...]:
        """The variants of every model that are in one of these states."""
        table = tables.variants
        with self._database.read() as db:
            rows = db.execute(select(table).where(table.c.state.in_(states)))
            return tuple(_variant(row) for row in rows)

    def let_go_since(self, moment: datetime) -> frozenset[str]:
        """Digests of blobs that a variant or model referred to until it was retired or got
        another evaluation set, at this moment or later."""
        variants, lines = tables.variants.c, tables.audit.c
        retired = select(variants.artifact_digest).where(
            variants.state == "retired",
            exists().where(
                lines.model == variants.model,
                lines.variant == variants.name,
                lines.new_state == "retired",
                lines.at >= moment,
            ),
        )
        given = (
            select(lines.model, lines.at, lines.evidence)
            .where(lines.action.in_(("model.create", "model.evaluation")))
            .order_by(lines.model, lines.id)
        )
        with self._database.read() as db:
            found = set(db.execute(retired).scalars())
            sets = [(r.model, r.at, json.loads(r.evidence or "{}")) for r in db.execute(given)]
        for (model, _, was), (next_model, until, _) in pairwise(sets):
            if model == next_model and until >= moment and was.get("evaluation"):
                found.add(was["evaluation"])
        return frozenset(found)

    def marks(self) -> dict[str, Mark]:
        """Every model's mark."""
        models, variants = tables.models.c, tables.variants.c
        changed = select(func.coalesce(func.sum(variants.version), 0)).where(
            variants.model == models.name
        )
        with self._database.read() as db:
            rows = db.execute(select(models.name, models.version, changed.scalar_subquery()))
            return {name: (version, int(sum_)) for name, version, sum_ in rows}

    def variant(self, model: str, name: str) -> VariantRecord:
        """One variant. Raises `NotFound`."""
        with self._database.read() as db:
            return _variant(_one(db, model, name))


def _now() -> datetime:
    return datetime.now(UTC)


def _the_model(db: Connection, name: str) -> ModelRecord:
    row = db.execute(select(tables.models).filter_by(name=name)).first()
    if row is None:
        raise ModelNotFound(name)
    return _model(row)


def _its_variants(db: Connection, model: str) -> tuple[VariantRecord, ...]:
    chosen = select(tables.variants).filter_by(model=model).order_by(tables.variants.c.name)
    return tuple(_variant(row) for row in db.execute(chosen))


def _one(db: Connection, model: str, name: str) -> Any:
    row = db.execute(select(tables.variants).filter_by(model=model, name=name)).first()
    if row is None:
        raise VariantNotFound(model, name)
    return row


def _to_change(db: Connection, model: str, name: str) -> VariantRecord:
    """A variant that is changed from its present version on: see `versions.advance`."""
    record = _variant(_one(db, model, name))
    versions.advance("variant", record.version, model=model, name=name)
    return record


def _renew(db: Connection, record: VariantRecord, **values: Any) -> None:
    """Write these values and the version after the record's."""
    db.execute(
        update(tables.variants)
        .filter_by(model=record.model, name=record.name)
        .values(version=tables.variants.c.version + 1, **values)
    )


def _check_alone(db: Connection, model: str, name: str) -> None:
    table = tables.variants
    other = db.execute(
        select(table)
        .filter_by(model=model)
        .where(table.c.state.in_(CANDIDATES), table.c.name != name)
    ).first()
    if other is not None:
        raise Conflict(
            f"{other.name!r} is the {other.state} of {model!r}, and one is tried at a time: "
            "promote or deactivate it first"
        )


def _check_spare(db: Connection, model: str, name: str) -> None:
    variants = tables.variants.c
    reference = db.scalar(select(tables.models.c.reference).filter_by(name=model))
    if reference == name:
        raise Conflict(f"{name!r} is the reference of {model!r}: count from another one first")
    others = select(func.count()).where(
        variants.model == model, variants.state == "active", variants.name != name
    )
    if not db.scalar(others):
        raise Conflict(f"{name!r} is the last active variant of {model!r}: activate another first")


def _model(row: Any) -> ModelRecord:
    return ModelRecord(
        spec=_spec.validate_json(row.spec),
        evaluation_digest=row.evaluation_digest,
        reference=row.reference,
        version=row.version,
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
        version=row.version,
        plan=row.plan,
    )
