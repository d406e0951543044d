"""The router on a clock of its own: the policies that serve live, in discrete events.

Time is counted in integer microseconds and ties go by sequence number, so equal inputs give equal
runs. What a run really takes is drawn from measured samples; the draw depends on the seed and on
the request at the head of the batch alone, so that every policy meets the same luck (common random
numbers; A. M. Law, "Simulation Modeling and Analysis", section 11.2).
"""

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Literal, Protocol

from router.admission import admit, on_axes
from router.candidate import Candidate
from router.constraints import Constraints
from router.dispatch import dispatch
from router.fleet import Queued, WorkerView, arrival_order, queue_order
from router.forecast import Forecast
from router.judge import eligible
from router.outlook import Outlooks
from router.policies import Policy
from router.waiting import Waiting

Service = Mapping[str, Mapping[int, Sequence[float]]]
"""Measured seconds of runs, by variant and batch size."""

NEVER_US = 1 << 62


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrival:
    """One request; `group` names the class that fairness is told by."""

    at_us: int
    constraints: Constraints
    rows: int = 1
    group: str = ""


Status = Literal["answered", "late", "dropped", "infeasible", "overloaded"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of an arrival (its index). Times are None where it never ran."""

    arrival: int
    status: Status
    variant: str | None = None
    start_us: int | None = None
    finish_us: int | None = None
    batch_rows: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Outcomes by arrival, nanoseconds of each decision, and what was changed on the way."""

    outcomes: tuple[Outcome, ...]
    decision_ns: tuple[int, ...]
    loads: int
    switches: int


class Corrected(Protocol):
    """A candidate whose service times follow what runs take."""

    def candidate(self, now_s: float) -> Candidate:
        """The candidate as it is believed now."""
        ...

    def observe(self, rows: int, run_s: float, now_s: float) -> object:
        """Take in one run."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class _Finish:
    worker: "_Worker"
    variant: str
    numbers: tuple[int, ...]
    rows: int
    start_us: int
    run_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Loaded:
    worker: "_Worker"
    variant: str


class _Worker:
    def __init__(self, id: int, loaded: frozenset[str]) -> None:
        self.id = id
        self.loaded = loaded
        self.expected_free_s = 0.0
        self.busy = False
        self.loading: dict[str, int] = {}
        self.last: str | None = None

    def view(self) -> WorkerView:
        return WorkerView(id=self.id, free_at_s=self.expected_free_s, loaded=self.loaded)


class _Simulation:
    def __init__(
        self,
        policy: Policy,
        *,
        candidates: Sequence[Candidate],
        service: Service,
        arrivals: Sequence[Arrival],
        workers: int,
        seed: int,
        reference: str | None,
        max_batch: int,
        queue_limit: int,
        overhead_s: float,
        admission: bool,
        early_drop: bool,
        edf: bool,
        correction: Callable[[Candidate], Corrected] | None,
        drift: Callable[[float], float] | None,
        resident: frozenset[str] | None,
    ) -> None:
        self.policy = policy
        self.priors = {candidate.variant: candidate for candidate in candidates}
        self.service = {
            name: {batch: sorted(samples) for batch, samples in batches.items()}
            for name, batches in service.items()
        }
        self.arrivals = arrivals
        self.seed = seed
        self.reference = reference
        self.max_batch = max_batch
        self.queue_limit = queue_limit
        self.overhead_s = overhead_s
        self.admission = admission
        self.early_drop = early_drop
        self.drift = drift
        names = frozenset(self.priors) if resident is None else resident
        self.workers = [_Worker(number, names) for number in range(workers)]
        self.corrections = (
            {}
            if correction is None
            else {name: correction(prior) for name, prior in self.priors.items()}
        )
        self.queue = Waiting(order=queue_order if edf else arrival_order)
        self.forecast = Forecast()
        self.outlooks = Outlooks()
        self.believed = dict(self.priors)
        self.outcomes: list[Outcome | None] = [None] * len(arrivals)
        self.decision_ns: list[int] = []
        self.events: list[tuple[int, int, _Finish | _Loaded]] = []
        self.sequence = 0
        self.loads = self.switches = 0
        self._eligible: dict[tuple[Constraints, int], tuple[str, ...]] = {}
        self._arrived = getattr(policy, "arrived", None)
        self._finished = getattr(policy, "finished", None)
        self._tick = getattr(policy, "tick", None)

    def run(self) -> Run:
        every_us = round(getattr(self.policy, "every_s", 0.0) * 1e6)
        last_us = self.arrivals[-1].at_us if self.arrivals else 0
        next_arrival = 0
        tick_us = every_us if self._tick is not None and every_us > 0 else NEVER_US
        while True:
            arrival_us = (
                self.arrivals[next_arrival].at_us if next_arrival < len(self.arrivals) else NEVER_US
            )
            event_us = self.events[0][0] if self.events else NEVER_US
            now_us = min(arrival_us, event_us, tick_us)
            if now_us == NEVER_US or (
                now_us == tick_us and now_us > last_us and event_us == NEVER_US and not self.queue
            ):
                break
            if now_us == event_us:
                self._happens(now_us, heappop(self.events)[2])
            elif now_us == arrival_us:
                self._arrives(next_arrival, now_us)
                next_arrival += 1
                if next_arrival < len(self.arrivals) and (
                    self.arrivals[next_arrival].at_us == now_us
                ):
                    continue
            else:
                self._slow_loop(now_us)
                tick_us += every_us
            self._dispatch(now_us)
            if next_arrival == len(self.arrivals) and not self.events:
                break
        for request in self.queue:
            self._end(request.id, "dropped")
        return Run(
            outcomes=tuple(o for o in self.outcomes if o is not None),
            decision_ns=tuple(self.decision_ns),
            loads=self.loads,
            switches=self.switches,
        )

    # Arrivals

    def _arrives(self, number: int, now_us: int) -> None:
        arrival = self.arrivals[number]
        asked, now_s = arrival.constraints, now_us / 1e6
        if self.admission:
            decision = admit(
                asked,
                list(self._candidates(now_s).values()),
                reference=self.reference,
                queue=self.queue.requests,
                workers=[worker.view() for worker in self.workers],
                now_s=now_s,
                rows=arrival.rows,
                overhead_s=self.overhead_s,
                queue_limit=self.queue_limit,
            )
            if decision.outcome != "admitted":
                status: Status = "infeasible" if decision.outcome == "infeasible" else "overloaded"
                self._end(number, status)
                return
            eligible = decision.eligible
        else:
            eligible = self._allowed(asked, arrival.rows)
            if not eligible:
                self._end(number, "infeasible")
                return
        limit_s = asked.max_latency_s
        deadline_s = math.inf if limit_s is None else now_s + limit_s
        queued = Queued(
            id=number,
            arrival_s=now_s,
            deadline_s=deadline_s,
            drop_late=limit_s is not None and asked.is_hard("max_latency") and self.early_drop,
            urgency=asked.urgency,
            rows=arrival.rows,
            eligible=eligible,
            objective=on_axes(asked, self.priors.values()),
            percentile=asked.latency_percentile,
        )
        kind = self.queue.add(queued)
        if limit_s is not None:
            self.forecast.arrived(now_s, kind, limit_s)
        if self._arrived is not None:
            self._arrived(now_s, queued)

    def _allowed(self, asked: Constraints, rows: int) -> tuple[str, ...]:
        """The variants that keep every bound on an idle machine, whatever the load."""
        key = (asked, rows)
        if key not in self._eligible:
            reference = None if self.reference is None else self.priors.get(self.reference)
            self._eligible[key] = tuple(
                sorted(
                    each.variant
                    for each in eligible(
                        asked,
                        self.priors.values(),
                        reference=reference,
                        rows=rows,
                        overhead_s=self.overhead_s,
                    )
                )
            )
        return self._eligible[key]

    # Dispatch

    def _dispatch(self, now_us: int) -> None:
        now_s = now_us / 1e6
        for worker in self.workers:
            while not worker.busy and self.queue:
                others = [other.view() for other in self.workers if other is not worker]
                begun = time.perf_counter_ns()
                outcome = dispatch(
                    self.policy,
                    queue=self.queue,
                    outlook=self.outlooks.of(self._candidates(now_s), worker.loaded),
                    others=others,
                    now_s=now_s,
                    overhead_s=self.overhead_s,
                    max_batch=self.max_batch,
                    forecast=self.forecast,
                )
                self.decision_ns.append(time.perf_counter_ns() - begun)
                for number in outcome.drop:
                    self._end(number, "dropped")
                    self.queue.remove(number)
                if outcome.choice is None:
                    break
                self._start(worker, outcome.choice.variant, outcome.choice.requests, now_us)

    def _start(self, worker: _Worker, variant: str, numbers: tuple[int, ...], now_us: int) -> None:
        rows = sum(self.queue.remove(number).rows for number in numbers)
        now_s = now_us / 1e6
        run_s = self._true_s(variant, rows, numbers[0])
        if self.drift is not None:
            run_s *= self.drift(now_s)
        believed = self._candidates(now_s)[variant]
        worker.busy = True
        worker.expected_free_s = now_s + believed.service_s(rows, 50)
        self.switches += worker.last not in (None, variant)
        worker.last = variant
        finish = _Finish(
            worker=worker,
            variant=variant,
            numbers=numbers,
            rows=rows,
            start_us=now_us,
            run_s=run_s,
        )
        self._at(now_us + max(1, round(run_s * 1e6)), finish)

    def _true_s(self, variant: str, rows: int, number: int) -> float:
        batches = self.service[variant]
        fitting = [batch for batch in batches if batch >= rows]
        batch = min(fitting) if fitting else max(batches)
        samples = batches[batch]
        digest = hashlib.blake2b(f"{self.seed}:{number}".encode(), digest_size=8).digest()
        position = int.from_bytes(digest, "big") * len(samples) >> 64
        return samples[position] * max(1.0, rows / batch)

    def _candidates(self, now_s: float) -> dict[str, Candidate]:
        if self.corrections:
            now = {name: one.candidate(now_s) for name, one in self.corrections.items()}
            if any(now[name] is not was for name, was in self.believed.items()):
                self.believed = now
        return self.believed

    # Events

    def _at(self, at_us: int, what: _Finish | _Loaded) -> None:
        self.sequence += 1
        heappush(self.events, (at_us, self.sequence, what))

    def _happens(self, now_us: int, what: _Finish | _Loaded) -> None:
        worker = what.worker
        if isinstance(what, _Loaded):
            if worker.loading.pop(what.variant, None) is not None:
                worker.loaded |= {what.variant}
            return
        worker.busy = False
        worker.expected_free_s = now_us / 1e6
        reply_us = now_us + round(self.overhead_s * 1e6)
        for number in what.numbers:
            self._answer(number, what, reply_us)
        if what.variant in self.corrections:
            self.corrections[what.variant].observe(what.rows, what.run_s, now_us / 1e6)
        if self._finished is not None:
            self._finished(now_us / 1e6, what.variant, what.rows, what.run_s)

    def _slow_loop(self, now_us: int) -> None:
        assert self._tick is not None
        wanted = self._tick(now_us / 1e6)
        for number, names in (wanted or {}).items():
            worker = self.workers[number]
            worker.loaded &= names
            worker.loading = {name: us for name, us in worker.loading.items() if name in names}
            for name in sorted(names - worker.loaded - worker.loading.keys()):
                self.loads += 1
                ready_us = now_us + round(self.priors[name].load_s * 1e6)
                worker.loading[name] = ready_us
                self._at(ready_us, _Loaded(worker=worker, variant=name))

    def _answer(self, number: int, run: _Finish, finish_us: int) -> None:
        arrival = self.arrivals[number]
        limit_s = arrival.constraints.max_latency_s
        late = limit_s is not None and finish_us - arrival.at_us > round(limit_s * 1e6)
        self.outcomes[number] = Outcome(
            arrival=number,
            status="late" if late else "answered",
            variant=run.variant,
            start_us=run.start_us,
            finish_us=finish_us,
            batch_rows=run.rows,
        )

    def _end(self, number: int, status: Status) -> None:
        self.outcomes[number] = Outcome(arrival=number, status=status)


def simulate(
    policy: Policy,
    *,
    candidates: Sequence[Candidate],
    service: Service,
    arrivals: Sequence[Arrival],
    workers: int,
    seed: int,
    reference: str | None = None,
    max_batch: int = 32,
    queue_limit: int = 1 << 30,
    overhead_s: float = 0.0,
    admission: bool = False,
    early_drop: bool = True,
    edf: bool = True,
    correction: Callable[[Candidate], Corrected] | None = None,
    drift: Callable[[float], float] | None = None,
    resident: frozenset[str] | None = None,
) -> Run:
    """Play `arrivals` (in order of time) through a policy.

    `candidates` is what the policy believes, `service` what runs really take. `admission` refuses
    at arrival what the load leaves no time for; without it only the bounds are held. `drift`
    multiplies true times by a factor of the time in seconds. A reply comes `overhead_s` after its
    run. `resident` is what each worker has loaded at first, everything by default.

    A policy with state may have `arrived(now_s, queued)`, `finished(now_s, variant, rows, run_s)`
    and a slow loop: `tick(now_s)` every `every_s` seconds answers what each worker (by number)
    should hold, or None. A load takes the candidate's `load_s` while the worker goes on.
    """
    return _Simulation(
        policy,
        candidates=candidates,
        service=service,
        arrivals=arrivals,
        workers=workers,
        seed=seed,
        reference=reference,
        max_batch=max_batch,
        queue_limit=queue_limit,
        overhead_s=overhead_s,
        admission=admission,
        early_drop=early_drop,
        edf=edf,
        correction=correction,
        drift=drift,
        resident=resident,
    ).run()
