"""The immutable snapshot of models and variants that requests are routed by.

Built from registry and store at start and after each admin change, then swapped in one
assignment, so that no request ever waits for the database or sees half a change.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import structlog

from router.candidate import Candidate
from router.rollout import PLAN, Plan
from variants import tokenizer as tokenizers
from variants.cost import Prices, usd_per_million
from variants.data_folder import DataFolder
from variants.errors import Invalid, ModelNotFound, NotFound, StorageBroken
from variants.lifecycle import CANDIDATES, State
from variants.manifest import Manifest
from variants.registry import Mark, ModelRecord, VariantRecord, mark
from variants.spec import ModelSpec, TextPreprocess
from variants.store import Store
from variants.tokenizer import Tokenizer

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedVariant:
    """An active variant: its manifest and its prior as the router sees it."""

    manifest: Manifest
    candidate: Candidate

    @property
    def key(self) -> str:
        """What workers know it by."""
        return self.manifest.id


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """A variant on its way in: a `shadow` gets copies of requests, a `canary` a share of them.

    `version` is that of its record; it may grow though nothing else has changed.
    """

    served: ServedVariant
    state: State
    plan: Plan
    version: int

    @property
    def name(self) -> str:
        """The variant's name."""
        return self.served.manifest.variant

    def goes_on_as(self, other: "Rollout | None") -> bool:
        """Whether the other one is the same trial, of whatever version."""
        return other is not None and self == replace(other, version=self.version)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedModel:
    """A model with its active variants; `others` are known but not routable, with their state.

    `tokenizer` is that of a text model, None where it could not be loaded. `rollout` is the one of
    the others that is being tried. `canary` is this model with that one among its variants, once
    workers have it; `is_canary` says that this is such a model. `mark` is the registry's at the
    moment that this shows, and not compared: it may be another one though nothing served is.
    """

    record: ModelRecord
    variants: Mapping[str, ServedVariant]
    others: Mapping[str, State]
    tokenizer: Tokenizer | None = None
    rollout: Rollout | None = None
    canary: "ServedModel | None" = None
    is_canary: bool = False
    mark: Mark | None = field(default=None, compare=False)

    @property
    def spec(self) -> ModelSpec:
        """The model's promise to its clients."""
        return self.record.spec

    @property
    def routed(self) -> Mapping[str, ServedVariant]:
        """The variants that requests may be routed to, by name: a canary is one of them."""
        rollout = self.rollout
        if rollout is None or rollout.state != "canary":
            return self.variants
        return {**self.variants, rollout.name: rollout.served}

    def without(self, variant: str) -> "ServedModel":
        """The same model, no longer routing to `variant`."""
        rest = {name: served for name, served in self.variants.items() if name != variant}
        return replace(
            self,
            variants=rest,
            others={**self.others, variant: "draining"},
            canary=None if self.canary is None else self.canary.without(variant),
        )

    def with_canary(self) -> "ServedModel | None":
        """The same model with the canary among its variants, None where there is none."""
        if self.rollout is None or self.rollout.state != "canary":
            return None
        return replace(self, variants=self.routed, is_canary=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalog:
    """Every model by name."""

    models: Mapping[str, ServedModel] = field(default_factory=dict)

    def model(self, name: str) -> ServedModel:
        """One model. Raises `NotFound`."""
        try:
            return self.models[name]
        except KeyError:
            raise ModelNotFound(name) from None

    def replace(self, model: ServedModel) -> "Catalog":
        """The same catalog with one model renewed."""
        return Catalog(models={**self.models, model.spec.name: model})

    def served(self) -> dict[str, ServedVariant]:
        """Every variant that requests are routed to, canaries too, by its key."""
        return {
            served.key: served for model in self.models.values() for served in model.routed.values()
        }


def read_model(
    data: DataFolder, name: str, prices: Prices, *, was: ServedModel | None = None
) -> ServedModel:
    """One model as registry and store have it now. Raises `NotFound`.

    A tokenizer never changes, so that of the model as it `was` is kept.
    """
    record, variants = data.registry.whole(name)
    active: dict[str, ServedVariant] = {}
    others: dict[str, State] = {}
    rollout: Rollout | None = None
    bring = data.store.heal if was is None else data.store.blob_path  # healed once, it is big
    for variant in variants:
        others[variant.name] = variant.state
        if variant.state not in {"active", *CANDIDATES} or variant.manifest_id is None:
            continue
        try:
            found = served(data.store.manifest(variant.manifest_id), prices)
            bring(found.manifest.artifact.digest)  # so that workers find it here
            plan = _plan(variant)
        except (Invalid, NotFound, StorageBroken) as error:  # the others are served
            log.error("manifest_damaged", model=name, variant=variant.name, error=str(error))
            continue
        if variant.state == "active":
            active[variant.name] = found
            del others[variant.name]
        else:
            rollout = Rollout(served=found, state=variant.state, plan=plan, version=variant.version)
    tokenizer = None if was is None else was.tokenizer
    return ServedModel(
        record=record,
        variants=active,
        others=others,
        rollout=rollout,
        tokenizer=tokenizer or _tokenizer(data.store, record.spec),
        mark=mark(record, variants),
    )


def _plan(variant: VariantRecord) -> Plan:
    """Raises `Invalid` for one that another version wrote and this one cannot read."""
    try:
        return Plan() if variant.plan is None else PLAN.validate_json(variant.plan)
    except ValueError as error:
        raise Invalid(f"the plan of {variant.name!r}: {error}", field="plan") from error


def _tokenizer(store: Store, spec: ModelSpec) -> Tokenizer | None:
    """A text model's tokenizer, held against its digest; None where it is lost."""
    if not isinstance(spec.preprocess, TextPreprocess):
        return None
    try:
        raw = store.read_bytes(spec.preprocess.tokenizer, max_bytes=tokenizers.MAX_BYTES)
        return tokenizers.loads(raw, spec.preprocess.max_tokens)
    except (Invalid, NotFound, StorageBroken) as error:  # its tensors are served all the same
        log.error("tokenizer_lost", model=spec.name, error=str(error))
        return None


def read(data: DataFolder, prices: Prices) -> Catalog:
    """All models as registry and store have them now."""
    names = [record.spec.name for record in data.registry.models()]
    return Catalog(models={name: read_model(data, name, prices) for name in names})


def served(manifest: Manifest, prices: Prices) -> ServedVariant:
    """A variant as it is served."""
    return ServedVariant(manifest=manifest, candidate=candidate(manifest, prices))


def candidate(manifest: Manifest, prices: Prices) -> Candidate:
    """A variant's measured numbers as the router takes them."""
    profile = manifest.profile
    if profile is None:
        return Candidate(
            variant=manifest.variant,
            accuracy=manifest.accuracy,
            cost_usd_per_million=None,
            service={},
        )
    return Candidate(
        variant=manifest.variant,
        accuracy=manifest.accuracy,
        cost_usd_per_million=cost_usd_per_million(manifest, prices),
        service=profile.latency_s,
        load_s=profile.load_s,
    )


def cost_usd_per_million(manifest: Manifest, prices: Prices) -> float | None:
    """What a million single inferences cost here, None for an unmeasured variant."""
    profile = manifest.profile
    if profile is None:
        return None
    return usd_per_million(
        prices,
        service_s=profile.latency_s[1].p50,
        batch=1,
        threads=profile.threads,
        memory_bytes=profile.memory_bytes,
    )
