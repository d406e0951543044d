"""One request from constraints to answer. Every protocol edge calls `Gateway.infer`."""

import asyncio
import time
from collections import defaultdict
from dataclasses import replace
from typing import NamedTuple

from app import cascade as cascades
from app.access import ANYONE, Caller
from app.catalog import Rollout, ServedModel
from app.decisions import DecisionRecord, Decisions
from app.engine.batch import Answer
from app.engine.engine import Engine
from app.engine.refusals import DeadlinePassed, Draining, QueueFull, Shed
from app.engine.worker import RunFailed, WorkerLost
from app.errors import Infeasible, NoHealthyVariant, Overloaded, VariantDisabled
from app.metrics import Metrics
from app.promises import Promises
from app.rollouts import Asker, RawHeaders, Rollouts
from app.settings import Options
from router import cascade as routing
from router.admission import RETRY_MAX_S
from router.constraints import Constraints
from router.decision import Decision, Verdict
from router.fleet import Queued
from router.narrow import allow_only
from router.pressure import BEST_EFFORT, Pressure
from variants.cost import Prices, usd_per_million
from variants.errors import NotFound
from variants.evidence import Cascade
from variants.runtimes import Tensors

HOLD = 2.0
"""So many times what a request should cost is held back while it runs."""

LOAD_MARGIN = 2.0
"""A load is taken to last so many times what was measured: the workers are at work meanwhile."""


class Reply(NamedTuple):
    """An answer with what was promised and what it took."""

    id: str
    answer: Answer
    decision: Decision
    predicted: Verdict
    reason: str
    total_s: float
    cost_usd_per_million: float
    cost_usd: float
    """Of this request, all its rows."""
    cascade: Cascade | None = None


class Gateway:
    """Admission, queueing and bookkeeping over one engine."""

    def __init__(
        self,
        *,
        engine: Engine,
        metrics: Metrics,
        decisions: Decisions,
        prices: Prices,
        options: Options,
        rollouts: Rollouts,
        promises: Promises,
    ) -> None:
        self._engine = engine
        self._promises = promises
        self._rollouts = rollouts
        self._metrics = metrics
        self._decisions = decisions
        self._prices = prices
        self._options = options
        self._pressure: defaultdict[str, Pressure] = defaultdict(Pressure)
        self._each_s: dict[str, float] = {}  # dollars per million runs of a second, by variant

    def model(self, name: str) -> ServedModel:
        """A model that is served now. Raises `NotFound`."""
        return self._engine.catalog.model(name)

    def route(
        self,
        model: ServedModel,
        constraints: Constraints,
        rows: int,
        only: frozenset[str] | None = None,
    ) -> Decision:
        """What would be decided now, without deciding it.

        `only` is what the caller may know of the model's variants; it learns of no other one.
        Raises `NotFound` for an unknown variant in the allow-list and `VariantDisabled` where every
        one that it names is not active.
        """
        _check_allowed(model, constraints, only)
        name = model.spec.name
        decision = self._engine.gate(model).decide(
            allow_only(constraints, only),
            queue=self._engine.queue(name),
            workers=self._engine.workers(name),
            now_s=time.monotonic(),
            rows=rows,
            overhead_s=self._engine.overhead.value_s,
            queue_limit=self._options.now.queue_limit,
            rivals=self._engine.rivals(name),
        )
        if only is None:
            return decision
        return decision._replace(verdicts=[v for v in decision.verdicts if v.variant in only])

    async def infer(
        self,
        model: ServedModel,
        inputs: Tensors,
        constraints: Constraints,
        *,
        arrival_s: float,
        caller: Caller = ANYONE,
        headers: RawHeaders = (),
    ) -> Reply:
        """Route and run one request that arrived at `arrival_s` (monotonic clock).

        `inputs` are whole tensors `[rows, …]` that fit the model. Raises what `submit` raises, and
        `DeadlinePassed`, `RunFailed` or `WorkerLost`. Cancelling it takes the request out of the
        queue.
        """
        record, answer = self.submit(
            model, inputs, constraints, arrival_s=arrival_s, caller=caller, headers=headers
        )
        try:
            return self.settle(record, await answer)
        except asyncio.CancelledError:
            self.left(record)
            raise
        except (DeadlinePassed, RunFailed, WorkerLost, Draining, QueueFull, Shed) as error:
            self.failed(record, error)
            raise

    def submit(
        self,
        model: ServedModel,
        inputs: Tensors,
        constraints: Constraints,
        *,
        arrival_s: float,
        caller: Caller = ANYONE,
        headers: RawHeaders = (),
    ) -> "tuple[DecisionRecord, asyncio.Future[Answer]]":
        """Route one request and queue it: `infer` up to where it waits.

        A request in a canary's share goes there, where the canary keeps every bound now.

        The answer goes to `settle`, what else comes of it to `failed` or `left`. Raises what
        `route` raises, and `Infeasible`, `Overloaded`, `NoHealthyVariant`, `BudgetSpent`,
        `QueueFull` or `Draining`.
        """
        model = self.model(model.spec.name)  # the newest snapshot: decoding may have taken a while
        rows = len(next(iter(inputs.values())))
        number = self._engine.next_id()
        only = caller.terms.variants_of(model.spec.name)
        on_canary = None
        if model.canary is not None:
            asker = Asker(key=caller.id, headers=headers, number=number)
            on_canary = self._on_canary(model, constraints, rows, only, asker)
        decision = on_canary or self.route(model, constraints, rows, only)
        now = time.monotonic()
        rung = self._rung(model.spec.name, now)
        if decision.outcome == "overloaded":
            decision = self._bring(model, constraints, decision, arrival_s)
            if rung == 2 and self._engine.shed(model.spec.name, constraints.urgency):
                decision = self.route(model, constraints, rows, only)
        elif rung and constraints.urgency == BEST_EFFORT and decision.outcome == "admitted":
            decision = _spared(decision, self._engine.backlog_s())
        record = self._decisions.open(
            number, model.spec.name, constraints, decision, arrival_s, rows=rows, caller=caller
        )
        if decision.outcome != "admitted":
            self._refuse(record)
        if caller.tenant is not None and caller.tenant.budget is not None:
            record.bill = caller.tenant.budget.hold(HOLD * _expected_usd(record))
        limit_s = constraints.max_latency_s
        queued = Queued(
            id=number,
            arrival_s=arrival_s,
            deadline_s=arrival_s
            + (self._options.now.max_latency_s if limit_s is None else limit_s),
            drop_late=limit_s is None or constraints.is_hard("max_latency"),
            urgency=constraints.urgency,
            rows=rows,
            eligible=decision.eligible,
            objective=decision.objective,
            percentile=constraints.latency_percentile,
        )
        try:
            if (
                on_canary is None
                and constraints.cascade
                and (found := self._cascade(model, record)) is not None
            ):
                record.cascade = found
                return record, self._run_cascade(model, record, queued, inputs)
            answer = self._engine.submit(model, queued, inputs)
            if model.rollout is not None:
                self._rollouts.watch(model.spec.name, inputs, answer, canary=on_canary is not None)
                if on_canary is not None:
                    return record, self._rescue(model.rollout, record, queued, inputs, answer)
            if self._promises.audits:
                self._promises.watch(model.spec.name, inputs, answer)
            return record, answer
        except (QueueFull, Draining) as error:
            self.failed(record, error)
            raise

    def _on_canary(
        self,
        model: ServedModel,
        constraints: Constraints,
        rows: int,
        only: frozenset[str] | None,
        asker: Asker,
    ) -> Decision | None:
        """The decision to send a request to the canary; None where that is not for it."""
        assert model.canary is not None and model.rollout is not None
        name, asked = model.rollout.name, constraints.variants
        if any(names is not None and name not in names for names in (asked, only)):
            return None
        if not self._rollouts.wants(model.rollout, asker):
            return None
        decision = self.route(model.canary, replace(constraints, variants=(name,)), rows, only)
        suited = decision.outcome == "admitted" and not decision.violated
        if not suited and decision.outcome == "overloaded":
            self._engine.bring(model.canary, (name,))  # so that the next one finds it open
        self._metrics.canary(model.rollout.served.manifest, "taken" if suited else "unsuited")
        return decision if suited else None

    def _rescue(
        self,
        rollout: Rollout,
        record: DecisionRecord,
        queued: Queued,
        inputs: Tensors,
        answer: "asyncio.Future[Answer]",
    ) -> "asyncio.Future[Answer]":
        """The canary's answer, or where it fails and there is time, that of another variant."""

        async def run() -> Answer:
            try:
                return await answer
            except (RunFailed, WorkerLost):
                model = self.model(record.model)
                only = record.caller.terms.variants_of(record.model)
                decision = self.route(model, record.constraints, queued.rows, only)
                if decision.outcome != "admitted" or time.monotonic() >= queued.deadline_s:
                    raise
                record.decision = decision
                self._metrics.canary(rollout.served.manifest, "rescued")
                again = queued._replace(id=self._engine.next_id(), eligible=decision.eligible)
                return await self._engine.submit(model, again, inputs)

        return asyncio.create_task(run())

    def _cascade(self, model: ServedModel, record: DecisionRecord) -> Cascade | None:
        """The cascade that may answer this admitted request."""
        if model.spec.task != "classification":
            return None
        reference = model.variants.get(model.record.reference or "")
        accuracy = None if reference is None else reference.manifest.accuracy
        return routing.best(
            record.constraints,
            (found for v in model.variants.values() for found in v.manifest.cascades),
            {verdict.variant: verdict for verdict in record.decision.verdicts},
            reference_accuracy=None if accuracy is None else accuracy.value,
        )

    def _run_cascade(
        self, model: ServedModel, record: DecisionRecord, queued: Queued, inputs: Tensors
    ) -> "asyncio.Future[Answer]":
        assert record.cascade is not None
        release = self._engine.lease(model, (record.cascade.first, record.cascade.then))
        verdicts = {verdict.variant: verdict for verdict in record.decision.verdicts}
        task = asyncio.create_task(
            cascades.run(
                self._engine,
                model,
                record.cascade,
                queued,
                inputs,
                first=verdicts[record.cascade.first],
                then=verdicts[record.cascade.then],
            )
        )
        task.add_done_callback(lambda _: release())
        return task

    def _bring(
        self, model: ServedModel, constraints: Constraints, decision: Decision, arrival_s: float
    ) -> Decision:
        """Have a variant opened where only such can serve that are not; wait if there is time."""
        able = [verdict for verdict in decision.verdicts if verdict.feasible]
        if not able or any(verdict.predicted_latency_s is not None for verdict in able):
            return decision
        coming = self._engine.bring(model, (verdict.variant for verdict in able))
        waiting = len(self._engine.queue(model.spec.name))
        if coming is None or waiting >= self._options.now.queue_limit:
            return decision
        name, load_s = coming
        limit_s = constraints.max_latency_s or self._options.now.max_latency_s
        idle_s = next(v.idle_latency_s or 0.0 for v in able if v.variant == name)
        if time.monotonic() - arrival_s + LOAD_MARGIN * load_s + idle_s > limit_s:
            return decision
        return decision._replace(
            outcome="admitted",
            eligible=tuple(verdict.variant for verdict in able),
            preferred=name,
            reason="only_feasible",
            retry_after_s=None,
            message=f"{name} is being loaded; nothing else would do",
        )

    def _refuse(self, record: DecisionRecord) -> None:
        decision = record.decision
        none_there = not decision.verdicts
        if decision.outcome == "infeasible" and (
            none_there or any(map(_only_blocked, decision.verdicts))
        ):
            self._metrics.rejected(record.model, "no_healthy_variant")
            raise NoHealthyVariant(decision, record.id)
        if decision.outcome == "infeasible":
            self._metrics.infeasible(record.model, decision.binding or "none")
            raise Infeasible(decision, record.id)
        if decision.outcome == "overloaded":
            self._metrics.rejected(record.model, "admission")
            self._count_shed(record)
            raise Overloaded(decision, record.id)

    def left(self, record: DecisionRecord) -> None:
        """Count an admitted request whose caller left; it pays what it was expected to cost."""
        self._paid(record, _expected_usd(record))

    def _paid(self, record: DecisionRecord, usd: float) -> None:
        tenant = record.caller.tenant
        if tenant is not None:
            tenant.pay(usd)
            if record.bill is not None:
                record.bill.settle(usd)

    def failed(self, record: DecisionRecord, error: BaseException) -> None:
        """Count an admitted request that got no answer; it costs nothing."""
        if record.bill is not None:
            record.bill.settle(0.0)
        match error:
            case DeadlinePassed():
                self._count_shed(record)
                self._metrics.failed(record.model, "timeout")
            case RunFailed() | WorkerLost():
                self._metrics.failed(record.model, "upstream_error")
            case QueueFull():
                self._count_shed(record)
                self._metrics.rejected(record.model, "memory")
            case Shed():
                self._metrics.rejected(record.model, "queue_full")
            case Draining():
                self._metrics.rejected(record.model, "draining")

    def rungs(self) -> dict[str, int]:
        """How far down the ladder of overload each model is."""
        now = time.monotonic()
        return {name: self._rung(name, now) for name in self._engine.catalog.models}

    def queue_fill(self) -> dict[str, float]:
        """How full the queues are, by model."""
        limit, fill_ratio = self._options.now.queue_limit, self._engine.fill_ratio
        return {name: fill_ratio(name, limit) for name in self._engine.catalog.models}

    def _rung(self, model: str, now_s: float) -> int:
        fill_ratio = self._engine.fill_ratio(model, self._options.now.queue_limit)
        return self._pressure[model].rung(now_s, fill_ratio=fill_ratio)

    def _count_shed(self, record: DecisionRecord) -> None:
        if record.constraints.urgency != BEST_EFFORT:
            self._pressure[record.model].count(time.monotonic(), shed=True)

    def settle(self, record: DecisionRecord, answer: Answer) -> Reply:
        """Count and remember an answer, and say what it took."""
        decision, name = record.decision, answer.variant.manifest.variant
        total_s = time.monotonic() - record.arrival_s
        if record.cascade is None:
            cost, reason = self._cost(answer), _reason(decision, name)
            cost_usd = cost * record.rows / 1e6
            predicted = decision.verdict(name)
        else:
            costs = [self._cost(part) for part in answer.parts]
            cost, reason = sum(costs), "cascade"
            rows = (record.rows, answer.unsure_rows)
            cost_usd = sum(each * n for each, n in zip(costs, rows, strict=False)) / 1e6
            predicted = routing.promise(record.cascade, {v.variant: v for v in decision.verdicts})
            self._metrics.cascaded(record.model, record.cascade, escalated=len(answer.parts) > 1)
        overhead_s = max(0.0, total_s - answer.queue_s - answer.run_s)
        self._engine.overhead.observe(overhead_s)
        if record.constraints.urgency != BEST_EFFORT:
            self._pressure[record.model].count(time.monotonic(), shed=False)
        record.variant, record.total_s = name, total_s
        record.queue_s, record.run_s = answer.queue_s, answer.run_s
        self._metrics.answered(
            record.model,
            name,
            reason,
            queue_s=answer.queue_s,
            overhead_s=overhead_s,
            cost_usd=cost_usd,
        )
        self._paid(record, cost_usd)
        limit_s = record.constraints.max_latency_s
        if limit_s is not None and total_s > limit_s and record.constraints.is_hard("max_latency"):
            self._metrics.violated(record.model, name, "max_latency")
        return Reply(
            id=record.id,
            answer=answer,
            decision=decision,
            predicted=predicted,
            cascade=record.cascade,
            reason=reason,
            total_s=total_s,
            cost_usd_per_million=cost,
            cost_usd=cost_usd,
        )

    def _cost(self, answer: Answer) -> float:
        """US dollars per million inferences like this one."""
        manifest = answer.variant.manifest
        each_s = self._each_s.get(manifest.id)
        if each_s is None:
            profile = manifest.profile
            each_s = self._each_s[manifest.id] = usd_per_million(
                self._prices,
                service_s=1.0,
                batch=1,
                threads=profile.threads if profile is not None else 1,
                memory_bytes=profile.memory_bytes if profile is not None else 0,
            )
        return each_s * answer.run_s / answer.batch_rows


def _expected_usd(record: DecisionRecord) -> float:
    """What the preferred variant costs by its profile; twice that where a second may be asked."""
    decision = record.decision
    if decision.preferred is None:
        return 0.0
    cost = decision.verdict(decision.preferred).cost_usd_per_million or 0.0
    return cost * record.rows / 1e6 * (2 if record.constraints.cascade else 1)


def _only_blocked(verdict: Verdict) -> bool:
    """Whether the variant would do, were it not quarantined."""
    return all(rejection.bound == "blocked" for rejection in verdict.rejections)


def _spared(decision: Decision, retry_after_s: float) -> Decision:
    """Best effort is not served while others are short of time."""
    return decision._replace(
        outcome="overloaded",
        eligible=(),
        preferred=None,
        reason=None,
        retry_after_s=min(RETRY_MAX_S, max(1.0, retry_after_s)),
        message="under load, requests of urgency 7 are not taken",
    )


def _reason(decision: Decision, variant: str) -> str:
    """The admission's reason, or `load` where the queue made another eligible variant better."""
    if decision.reason is None or variant != decision.preferred:
        return "load"
    return decision.reason


def _check_allowed(
    model: ServedModel, constraints: Constraints, only: frozenset[str] | None
) -> None:
    if constraints.variants is None:
        return
    for name in constraints.variants:
        unknown = name not in model.variants and name not in model.others
        if unknown or (only is not None and name not in only):
            active = [v for v in model.variants if only is None or v in only]
            known = ", ".join(sorted(active)) or "none"
            raise NotFound(
                f"model {model.spec.name!r} has no variant {name[:80]!r}; active: {known}"
            )
    if not any(name in model.variants for name in constraints.variants):
        states = ", ".join(f"{name} is {model.others[name]}" for name in constraints.variants)
        raise VariantDisabled(f"no variant of the allow-list is active: {states}")
