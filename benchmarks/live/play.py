"""One policy in the real gateway under one series of arrivals."""

import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import orjson

from benchmarks.live.client import Reply, replay
from benchmarks.live.ladder import Served
from benchmarks.routing import metrics
from router.simulate import Arrival, Outcome, Run, Status
from tests import world

WORKERS = 1
_MISSED: dict[int, Status] = {200: "late", 422: "infeasible", 503: "overloaded"}
_TIMING = re.compile(r"(queue|run|total);dur=([0-9.]+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """What came of one arrival. Times in seconds; None where nothing ran.

    `run` is the number of the run that it shared with others of `batch_rows` together.
    """

    arrival: Arrival
    status: int
    in_time: bool
    right: float
    variant: str | None
    latency_s: float
    queue_s: float | None
    run_s: float | None
    total_s: float | None
    run: int | None
    batch_rows: int
    sent_late_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Played:
    """A run: outcomes in order of arrival, and the policy that was in force."""

    policy: str
    answers: tuple[Answered, ...]

    def scores(self, served: Served) -> dict[str, Any]:
        """Shares of all arrivals. Effective accuracy counts a variant's measured accuracy."""
        found = metrics.scores(self._run(), [a.arrival for a in self.answers], served.ladder)
        return {
            "n": len(self.answers),
            "effective_accuracy": found.effective_accuracy,
            "right_in_time": sum(a.right for a in self.answers if a.in_time) / len(self.answers),
            "attainment": found.attainment,
            "floor_violations": found.floor_violations,
            "p50_ms": 1e3 * found.p50_s,
            "p99_ms": 1e3 * found.p99_s,
            "statuses": dict(Counter(str(each.status) for each in self.answers)),
            "variants": dict(Counter(each.variant or "none" for each in self.answers)),
            "sent_late_p99_ms": 1e3
            * float(np.quantile([a.sent_late_s for a in self.answers], 0.99)),
        }

    def _run(self) -> Run:
        """The same as the simulator would tell it."""
        outcomes = tuple(
            Outcome(
                arrival=number,
                status="answered" if each.in_time else _MISSED.get(each.status, "dropped"),
                variant=each.variant,
                finish_us=each.arrival.at_us + round(1e6 * each.latency_s),
            )
            for number, each in enumerate(self.answers)
        )
        return Run(outcomes=outcomes, decision_ns=(), loads=0, switches=0)

    @property
    def overheads_s(self) -> list[tuple[float, float]]:
        """What was neither waiting nor running: the gateway's own seconds, and those outside it."""
        return [
            (each.total_s - each.queue_s - each.run_s, each.latency_s - each.total_s)
            for each in self.answers
            if each.total_s is not None and each.queue_s is not None and each.run_s is not None
        ]


def play(served: Served, policy: str, arrivals: Sequence[Arrival], *, seed: int) -> Played:
    """Start a gateway with this policy, warm it up, and send the arrivals at their times."""
    arrivals = [_sendable(arrival) for arrival in arrivals]
    rng = np.random.default_rng(seed)
    last = len(served.rows.labels) - max(arrival.rows for arrival in arrivals)
    rows = rng.integers(last + 1, size=len(arrivals)).tolist()
    with world.gateway(
        served.root, served.key, "--policy", policy, "--workers", str(WORKERS)
    ) as gateway:
        requests = [
            (arrival.at_us / 1e6, _request(served, arrival, row))
            for arrival, row in zip(arrivals, rows, strict=True)
        ]
        first_row = replace(arrivals[0], at_us=0)
        for each in served.ladder.candidates:  # every variant has run before the clock starts
            warm = _request(served, first_row, 0, variant=each.variant)
            asyncio.run(replay(gateway.port, [(0.02 * k, warm) for k in range(20)]))
        replies = asyncio.run(replay(gateway.port, requests))
    return Played(policy=policy, answers=_answers(served, arrivals, rows, replies))


def _request(served: Served, arrival: Arrival, row: int, variant: str | None = None) -> bytes:
    asked = arrival.constraints
    inputs = {
        name: np.ascontiguousarray(values[row : row + arrival.rows])
        for name, values in served.rows.inputs.items()
    }
    if len(inputs) == 1:
        (values,) = inputs.values()
        kind, body = "application/octet-stream", values.tobytes()
    else:
        lists = {name: values.tolist() for name, values in inputs.items()}
        kind, body = "application/json", orjson.dumps({"inputs": lists})
    headers = {
        "host": "127.0.0.1",
        "authorization": f"Bearer {served.key}",
        "content-type": kind,
        "infer-model": f'"{served.spec.name}"',
        "content-length": str(len(body)),
    }
    if variant is not None:
        headers["infer-variants"] = f'"{variant}"'
    else:
        headers["infer-objective"] = "accuracy"
        if asked.max_latency_s is not None:
            headers["infer-max-latency-ms"] = f"{1e3 * asked.max_latency_s:.3f}"
        if asked.min_accuracy is not None:
            headers["infer-min-accuracy"] = f"{asked.min_accuracy:.3f};point"
        if asked.max_cost_usd_per_million is not None:
            headers["infer-max-cost"] = f"{asked.max_cost_usd_per_million + 0.0005:.3f}"
    lines = ["POST /infer HTTP/1.1", *(f"{name}: {text}" for name, text in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _sendable(arrival: Arrival) -> Arrival:
    """The same with a floor of the three digits that a header can carry, never a stricter one."""
    floor = arrival.constraints.min_accuracy
    if floor is None:
        return arrival
    asked = replace(arrival.constraints, min_accuracy=int(floor * 1000) / 1000)
    return replace(arrival, constraints=asked)


def _answers(
    served: Served, arrivals: Sequence[Arrival], rows: Sequence[int], replies: Sequence[Reply]
) -> tuple[Answered, ...]:
    runs = [_timing(reply) for reply in replies]
    together = _together(arrivals, replies, runs)
    found = []
    for number, (arrival, row, reply, timing) in enumerate(
        zip(arrivals, rows, replies, runs, strict=True)
    ):
        ok = reply.status == 200
        limit_s = arrival.constraints.max_latency_s
        variant = _variant(reply) if ok else None
        found.append(
            Answered(
                arrival=arrival,
                status=reply.status,
                in_time=ok and (limit_s is None or reply.latency_s <= limit_s),
                right=_right(served, reply.body, row, arrival.rows) if ok else 0.0,
                variant=variant,
                latency_s=reply.latency_s,
                queue_s=timing.get("queue"),
                run_s=timing.get("run"),
                total_s=timing.get("total"),
                run=together[number][0] if ok else None,
                batch_rows=together[number][1] if ok else 0,
                sent_late_s=reply.sent_late_s,
            )
        )
    return tuple(found)


def _variant(reply: Reply) -> str:
    return reply.headers.get("infer-variant", "").strip('"')


def _together(
    arrivals: Sequence[Arrival], replies: Sequence[Reply], runs: Sequence[dict[str, float]]
) -> dict[int, tuple[int, int]]:
    """Number and rows of the run that each answer came from: answers of one run tell the same
    seconds, and come sooner after one another than another run could have ended."""
    ended = sorted(
        (arrivals[number].at_us / 1e6 + reply.latency_s, number)
        for number, reply in enumerate(replies)
        if reply.status == 200
    )
    batches: list[list[int]] = []
    last_s, last = 0.0, ("", 0.0)
    for end_s, number in ended:
        run = (_variant(replies[number]), runs[number].get("run", 0.0))
        if run != last or end_s - last_s >= run[1] / 2:
            batches.append([])
        batches[-1].append(number)
        last_s, last = end_s, run
    return {
        number: (run, sum(arrivals[each].rows for each in batch))
        for run, batch in enumerate(batches)
        for number in batch
    }


def _timing(reply: Reply) -> dict[str, float]:
    found = _TIMING.findall(reply.headers.get("server-timing", ""))
    return {name: float(ms) / 1e3 for name, ms in found} if reply.status == 200 else {}


def _right(served: Served, body: bytes, row: int, rows: int) -> float:
    """The share of right answers."""
    answer, wanted = orjson.loads(body), served.rows.labels[row : row + rows]
    if "predictions" in answer:
        found = [served.spec.labels.index(each["label"]) for each in answer["predictions"]]
    else:
        (output,) = answer["outputs"].values()
        found = np.argmax(output, axis=1)
    return float(np.mean(np.asarray(found) == wanted))
