"""What nobody can beat: an upper bound on the effective accuracy of every policy.

A linear programme with every arrival known beforehand. x[i, v] is the probability that request i is
answered in time by variant v:

    maximise   Σ accuracy[v] · x[i, v] ÷ requests
    subject to Σ_v x[i, v] ≤ P(i's likeliest variant answers within its deadline)
               Σ_{i: arrival ≥ s, deadline ≤ t} Σ_v w[v] · x[i, v] ≤ workers · (t − s), all s < t

Why it bounds any policy that does not foresee how long a run will take (preemptive or not, with any
batches, clairvoyant about arrivals): a request of the third line can only be worked on between s
and t, where there are workers · (t − s) seconds. A run of b rows that may use c seconds there takes
E[min(T, c)] of them and answers each of its rows in time with probability at most P(T ≤ c), so an
answer costs at least w[v] = min over b and c of E[min(T, c)] ÷ (b · P(T ≤ c)). The bound holds for
the mean over the luck of runs; a single window may exceed it by its luck, by nothing where runs
always take the same time.

Each subset of the intervals gives a bound; those that a solution violates are added until none is,
or for `ROUNDS` rounds. Solved by HiGHS (Q. Huangfu and J. Hall, "Parallelizing the dual revised
simplex method", 2018).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import coo_matrix, csr_matrix, vstack

from benchmarks.routing.ladder import Ladder, Samples, value
from router.candidate import Candidate
from router.constraints import Constraints
from router.judge import eligible
from router.simulate import Arrival

ROUNDS = 12
CUTS = 40
"""Intervals added in a round."""

GAIN = 1e-4
"""A round that lowers the bound by a smaller share is the last."""

SLACK = 1e-4
"""Overload of an interval, as a share of its length, that is let pass."""

Array = NDArray[np.float64]


def effective_accuracy(
    ladder: Ladder,
    arrivals: Sequence[Arrival],
    *,
    workers: int,
    max_batch: int,
    believed: Ladder | None = None,
) -> float:
    """No policy's mean effective accuracy over these arrivals is above this.

    `believed` is the ladder by which variants are found eligible, where that is another one.
    """
    seconds = {name: answer_s(samples, max_batch) for name, samples in ladder.service.items()}
    choices = _choices(ladder, arrivals, seconds, max_batch, believed or ladder)
    if not choices.gain.size:
        return 0.0
    due_s = np.array([a.at_us / 1e6 + (a.constraints.max_latency_s or np.inf) for a in arrivals])
    at_s = np.array([a.at_us / 1e6 for a in arrivals])
    n, m = len(arrivals), len(choices.gain)
    once = csr_matrix((np.ones(m), (choices.request, np.arange(m))), shape=(n, m))
    matrix, limits = once, choices.most
    best = np.inf
    for _ in range(ROUNDS):
        solution = linprog(
            -choices.gain,
            A_ub=matrix,
            b_ub=limits,
            bounds=(0, 1),
            method="highs",
        )
        before, best = best, -float(solution.fun)
        load = np.bincount(choices.request, choices.seconds * solution.x, minlength=n)
        cuts = violated(at_s, due_s, load, workers)
        if not cuts or before - best < GAIN * best:
            break
        rows = [
            np.flatnonzero((at_s[choices.request] >= s) & (due_s[choices.request] <= t))
            for s, t in cuts
        ]
        added = coo_matrix(
            (
                np.concatenate([choices.seconds[row] for row in rows]),
                (
                    np.repeat(np.arange(len(rows)), [len(row) for row in rows]),
                    np.concatenate(rows),
                ),
            ),
            shape=(len(rows), m),
        )
        matrix = vstack([matrix, added.tocsr()])
        limits = np.concatenate([limits, [workers * (t - s) for s, t in cuts]])
    return best / n


def answer_s(samples: Samples, max_batch: int) -> float:
    """The least expected seconds of a worker that one answer in time can cost."""
    least = np.inf
    for size, sorted_s in samples.items():
        k = np.arange(1, len(sorted_s) + 1)
        spent = np.cumsum(sorted_s) + (len(sorted_s) - k) * sorted_s
        least = min(least, float(np.min(spent / k)) / min(size, max_batch))
    return least


class Choices(NamedTuple):
    """The variables (whose, what an answer is worth and costs) and each request's likeliest."""

    request: NDArray[np.int64]
    gain: Array
    seconds: Array
    most: Array


def _choices(
    ladder: Ladder,
    arrivals: Sequence[Arrival],
    seconds: Mapping[str, float],
    max_batch: int,
    believed: Ladder,
) -> Choices:
    """Of each request's eligible variants those that no mixture of others equals."""
    known: dict[Constraints, tuple[list[tuple[float, float]], float]] = {}
    rows: list[tuple[int, float, float]] = []
    most = np.zeros(len(arrivals))
    for index, arrival in enumerate(arrivals):
        kind = arrival.constraints
        if kind not in known:
            able = eligible(kind, believed.candidates, reference=None, rows=arrival.rows)
            known[kind] = _worth(ladder, arrival, able, seconds, max_batch)
        worth, most[index] = known[kind]
        rows += [(index, *each) for each in worth]
    table = np.array(rows, dtype=np.float64).reshape(len(rows), 3)
    return Choices(table[:, 0].astype(np.int64), table[:, 1], table[:, 2], most)


def _worth(
    ladder: Ladder,
    arrival: Arrival,
    found: Sequence[Candidate],
    seconds: Mapping[str, float],
    max_batch: int,
) -> tuple[list[tuple[float, float]], float]:
    """(accuracy, seconds) along the upper hull from (0, 0), and the likeliest answer in time."""
    limit_s = arrival.constraints.max_latency_s or np.inf
    most = max((_likely(ladder.service[c.variant], limit_s, max_batch) for c in found), default=0.0)
    hull: list[tuple[float, float]] = []
    for gain, cost in sorted((value(c), seconds[c.variant]) for c in found):
        while hull and (hull[-1][1] >= cost or _below(hull, gain, cost)):
            hull.pop()
        hull.append((gain, cost))
    return hull, most


def _below(hull: Sequence[tuple[float, float]], gain: float, cost: float) -> bool:
    """Whether the last point of the hull lies under the line from the one before to this one."""
    (before, spent), (last, more) = (hull[-2] if len(hull) > 1 else (0.0, 0.0)), hull[-1]
    return (last - before) * (cost - spent) <= (gain - before) * (more - spent)


def _likely(samples: Samples, limit_s: float, max_batch: int) -> float:
    sizes = [size for size in samples if size <= max_batch] or [min(samples)]
    return max(float(np.mean(samples[size] <= limit_s)) for size in sizes)


def violated(at_s: Array, due_s: Array, load: Array, workers: int) -> list[tuple[float, float]]:
    """Up to `CUTS` intervals with more work than time; for each start the worst end."""
    starts, row = np.unique(at_s, return_inverse=True)
    ends, column = np.unique(due_s[np.isfinite(due_s)], return_inverse=True)
    finite = np.isfinite(due_s)
    work = np.zeros((len(starts), len(ends)))
    np.add.at(work, (row[finite], column), load[finite])
    work = np.cumsum(np.cumsum(work[::-1], axis=0)[::-1], axis=1)
    span = ends[None, :] - starts[:, None]
    over = np.where(span > 0, work - workers * span * (1 + SLACK), -np.inf)
    worst = over.argmax(axis=1)
    amount = over[np.arange(len(starts)), worst]
    order = [index for index in np.argsort(-amount)[:CUTS] if amount[index] > 1e-12]
    return [(float(starts[index]), float(ends[worst[index]])) for index in order]
