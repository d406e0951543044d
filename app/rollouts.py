"""New variants on their way in: who is sent to them, what is seen of them, and what follows.

Each gateway counts its own traffic and writes its verdict by itself; where somebody has changed
anything of the variant since it was judged, as its state or its plan, the verdict is void. Costs
nothing while no variant is being tried.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import structlog

from app.catalog import Rollout, ServedModel, ServedVariant
from app.engine.batch import Answer
from app.engine.engine import Engine
from app.engine.refusals import DeadlinePassed
from app.engine.worker import LoadFailed, RunFailed, WorkerLost
from app.metrics import Metrics
from app.shadow import Shadow
from app.switches import Switches
from router.rollout import Judged, Seen, Verdict, in_share, judge, told
from router.sequential import Count
from variants.agreement import Likeness
from variants.errors import Conflict, GearshiftError, NotFound
from variants.profile import Quantiles
from variants.runtimes import Tensors
from variants.versions import Resource, held

log = structlog.get_logger()

JUDGE_S = 0.25
"""Time between two looks at what has been counted."""

AGAIN_S = 5.0
"""Time after which a verdict is carried out again that could not be."""

ACTOR = "gateway"

RawHeaders = tuple[tuple[bytes, bytes], ...]


class Asker(NamedTuple):
    """What tells requests apart: the key's id, the headers, and a number of its own."""

    key: str
    headers: RawHeaders
    number: int


class Trial:
    """What one gateway has seen of one candidate, and of the variants beside it meanwhile."""

    def __init__(
        self, engine: Engine, metrics: Metrics, model: ServedModel, rollout: Rollout
    ) -> None:
        self.rollout = rollout
        self.reference = model.record.reference
        self.shadow = Shadow(
            engine,
            model.spec,
            candidate=rollout.served if rollout.state == "shadow" else None,
            reference=model.variants.get(model.record.reference or ""),
            tell=self._compared,
        )
        self.times_s = self.shadow.times_s
        self.skipped = 0
        """Answers in its share that were not compared: no worker was idle, or the last one runs."""
        self._metrics = metrics
        self._agreed = Count()
        self._copies_failed = Count()
        self.again_s = 0.0
        self._failed = {True: Count(), False: Count()}
        self._slow = {True: Count(), False: Count()}
        self._due = 0.0
        self._last: object = None

    def answered(self, inputs: Tensors, answer: Answer) -> None:
        """Count one answer of the candidate or of another variant."""
        mine = answer.variant.key == self.rollout.served.key
        if answer.run_s != self._last:  # once for each run, however many requests it answered
            self._last = answer.run_s
            self._failed[mine] = self._failed[mine].plus(False)
            prior = answer.variant.candidate
            if prior.service:
                limit_s = prior.service_s(answer.batch_rows, 95)
                slow = answer.run_s > self.rollout.plan.criteria.slow_factor * limit_s
                self._slow[mine] = self._slow[mine].plus(slow)
            if mine:
                self.times_s.append(answer.run_s)
        if self.rollout.state == "canary":
            if mine and self.shadow.reference is not None:
                self._offer(inputs, answer)
            return
        self._due += self.rollout.plan.share.ratio
        if self._due >= 1.0:
            self._due -= 1.0
            self._offer(inputs, answer)

    def _offer(self, inputs: Tensors, answer: Answer) -> None:
        if not self.shadow.offer(inputs, answer):
            self.skipped += 1
            self._metrics.skipped(self.rollout.served.manifest)

    def _compared(self, served: ServedVariant, alike: Likeness | None) -> None:
        self._metrics.compared(served.manifest, alike)
        if served.key != self.rollout.served.key:  # it is the reference that failed
            return
        self._copies_failed = self._copies_failed.plus(alike is None)
        if alike is not None:
            agreed = self._agreed
            self._agreed = Count(hits=agreed.hits + alike.agreed, n=agreed.n + alike.n)

    def failed(self, error: BaseException, *, mine: bool) -> None:
        """Count one request that got no answer; those of one run are one."""
        if error is not self._last:
            self._last = error
            self._failed[mine] = self._failed[mine].plus(True)

    @property
    def seen(self) -> Seen:
        """All counts so far."""
        shadow = self.rollout.state == "shadow"
        return Seen(
            failed=self._copies_failed if shadow else self._failed[True],
            slow=None if shadow else self._slow[True],
            others_failed=self._failed[False],
            others_slow=self._slow[False],
            agreed=self._agreed,
        )

    @property
    def latency_s(self) -> Quantiles | None:
        """Of its last runs: on copies as a shadow, for callers as a canary."""
        if len(self.times_s) < 2:
            return None
        p50, p95, p99 = (float(q) for q in np.quantile(list(self.times_s), (0.50, 0.95, 0.99)))
        return Quantiles(p50=p50, p95=p95, p99=p99)

    def judge(self) -> tuple[Verdict, tuple[Judged, ...]]:
        """The verdict now."""
        return judge(self.rollout.plan.criteria, self.seen)


class Rollouts:
    """The trials of all models."""

    def __init__(self, *, engine: Engine, switches: Switches, metrics: Metrics) -> None:
        self._engine = engine
        self._switches = switches
        self._metrics = metrics
        self._trials: dict[str, Trial] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to judge."""
        self._task = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """End all trials' workers."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.gather(*(trial.shadow.stop() for trial in self._trials.values()))

    def trial(self, model: str) -> Trial | None:
        """What has been seen of the candidate of a model; None where none is tried."""
        return self._trials.get(model)

    def wants(self, rollout: Rollout, asker: Asker) -> bool:
        """Whether a request falls into a canary's share."""
        return in_share(
            rollout.plan.share,
            seed=rollout.served.key,
            key=asker.key,
            headers=_Headers(asker.headers),
            request_id=str(asker.number),
        )

    def watch(
        self, model: str, inputs: Tensors, answer: "asyncio.Future[Answer]", *, canary: bool
    ) -> None:
        """Count what becomes of a request."""
        trial = self._trials.get(model)
        if trial is not None:
            answer.add_done_callback(partial(_count, trial, inputs, canary))

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(JUDGE_S)
            try:
                await self._follow()
                for model, trial in list(self._trials.items()):
                    await self._judge(model, trial)
            except Exception:  # whatever it is, the next look comes
                log.exception("rollouts_not_judged")

    async def _follow(self) -> None:
        """Begin and end trials as the snapshot says."""
        models = self._engine.catalog.models
        for name, trial in list(self._trials.items()):
            model = models.get(name)
            same = model is not None and trial.rollout.goes_on_as(model.rollout)
            if not same or (model is not None and model.record.reference != trial.reference):
                del self._trials[name]
                await trial.shadow.stop()
        for name, model in models.items():
            if model.rollout is not None and name not in self._trials:
                self._trials[name] = Trial(self._engine, self._metrics, model, model.rollout)

    async def _judge(self, model: str, trial: Trial) -> None:
        served = self._engine.catalog.models.get(model)
        rollout = None if served is None else served.rollout
        if time.monotonic() < trial.again_s:
            return
        if rollout is None or not trial.rollout.goes_on_as(rollout):
            return
        verdict, findings = trial.judge()
        criteria = trial.rollout.plan.criteria
        reason = "; ".join(map(told, findings))
        if trial.rollout.served.key in self._engine.pool.quarantine.keys:
            verdict, reason = "demote", "quarantined: it broke its workers"
        carried_out = criteria.promote if verdict == "promote" else criteria.demote
        if verdict == "wait" or not carried_out:
            return
        trial.again_s = time.monotonic() + AGAIN_S
        log.info("verdict_begun", model=model, variant=trial.rollout.name, verdict=verdict)
        evidence = {"verdict": verdict, "counts": asdict(trial.seen), "findings": _plain(findings)}
        try:
            with held(_resource(model, rollout), rollout.version):
                await self._carry_out(model, rollout, verdict, reason, evidence)
        except (Conflict, NotFound) as error:
            log.info("verdict_void", model=model, variant=trial.rollout.name, reason=str(error))
            await self._switches.show(model)
        except (GearshiftError, LoadFailed) as error:
            log.error("verdict_not_carried_out", model=model, verdict=verdict, error=str(error))
        else:
            self._metrics.judged(trial.rollout.served.manifest, verdict)

    async def _carry_out(
        self, model: str, rollout: Rollout, verdict: str, reason: str, evidence: Mapping[str, Any]
    ) -> None:
        name, switches = rollout.name, self._switches
        if verdict == "demote":
            why = f"demoted as {rollout.state}: {reason}"
            await switches.deactivate(
                model, name, ACTOR, only=rollout.state, reason=why, evidence=evidence
            )
            return
        why = f"promoted: {reason}"
        if rollout.state == "canary":
            await switches.activate(
                model, name, ACTOR, only=rollout.state, reason=why, evidence=evidence
            )
        else:
            await switches.try_out(
                model,
                name,
                "canary",
                rollout.plan,
                ACTOR,
                only=rollout.state,
                reason=why,
                evidence=evidence,
            )


def _resource(model: str, rollout: Rollout) -> Resource:
    return Resource(kind="variant", names=(("model", model), ("name", rollout.name)))


class _Headers(Mapping[str, str]):
    """A request's headers by lower-case name, looked up one at a time."""

    def __init__(self, raw: RawHeaders) -> None:
        self._raw = raw

    def __getitem__(self, name: str) -> str:
        wanted = name.encode("latin-1")
        for found, value in self._raw:
            if found == wanted:
                return value.decode("latin-1")
        raise KeyError(name)

    def __iter__(self) -> Any:
        return (name.decode("latin-1") for name, _ in self._raw)

    def __len__(self) -> int:
        return len(self._raw)


def _count(trial: Trial, inputs: Tensors, canary: bool, future: "asyncio.Future[Answer]") -> None:
    if future.cancelled():
        return
    error = future.exception()
    if error is None:
        trial.answered(inputs, future.result())
    elif isinstance(error, RunFailed | WorkerLost | DeadlinePassed):
        trial.failed(error, mine=canary)


def _plain(findings: tuple[Judged, ...]) -> list[dict[str, Any]]:
    return [asdict(finding) for finding in findings]
