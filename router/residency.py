"""The slow loop: which variants stay open on which worker, within a budget of bytes.

Every few seconds `plan` looks at what was asked for lately and at the measured sizes. Copies of
variants are taken greedily by value per byte, as is usual for a budgeted sum of coverages
(S. Khuller, A. Moss, J. Naor, "The budgeted maximum coverage problem", 1999). What it finds depends
on the demand alone, and it is adopted only where it is clearly worth more than what is open now and
than the loading costs: under constant demand there is at most one change. `next_move` leads from
what is open to what is planned, one load or unload at a time, and never leaves a model without any.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Placement = tuple[frozenset[str], ...]
"""Keys of the variants that each worker has open."""

SPREAD = 0.25
"""Share of a demand's value that depends on how many workers have the variant."""

CLEARLY = 1.05
HORIZON_S = 60.0
"""A plan must be worth 5 % more, and repay its loading within a minute."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A variant that could be open: its model, measured resident size, and time to open."""

    model: str
    size_bytes: int
    load_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """Alike requests: how many come a second, and what each variant is worth to them, from 0 to 1.

    Variants that may not serve them are left out of `worth`.
    """

    rate_per_s: float
    worth: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """One step towards a plan."""

    kind: Literal["load", "unload"]
    worker: int
    key: str


def plan(
    items: Mapping[str, Item],
    demands: Sequence[Demand],
    *,
    current: Placement,
    budget_bytes: int,
    required: Sequence[str] = (),
) -> Placement:
    """What each worker should have open.

    Everything everywhere where that fits. Otherwise each of `required` that fits, in that order,
    at least one variant of each model, even beyond the budget, and then what is worth most.
    """
    workers = len(current)
    if workers * sum(item.size_bytes for item in items.values()) <= budget_bytes:
        return (frozenset(items),) * workers
    current = tuple(frozenset(held & items.keys()) for held in current)
    copies = _choose(items, demands, workers, budget_bytes, required)
    found = _place(copies, current, items)
    has = _count(current)
    lacking = {key for key in copies if key in required} - has.keys()
    uncovered = {item.model for item in items.values()} - {items[key].model for key in has}
    if lacking or uncovered or total_bytes(current, items) > budget_bytes:
        return found
    was, value = _value(demands, has, workers), _value(demands, copies, workers)
    load_s = sum(
        items[k].load_s for new, old in zip(found, current, strict=True) for k in new - old
    )
    repaid = (value - was) * HORIZON_S > load_s * was / workers
    return found if value > was * CLEARLY and repaid else current


def next_move(
    actual: Placement,
    target: Placement,
    items: Mapping[str, Item],
    *,
    budget_bytes: int,
    kept: Collection[str] = (),
) -> Move | None:
    """The next load or unload, None where nothing is left to do or everything is `kept`.

    Loads come first as long as they fit, so that what is new serves before the old goes. A model's
    last open variant stays until its successor is open, if need be beyond the budget.
    """
    loads = [
        Move(kind="load", worker=worker, key=key)
        for worker, (new, old) in enumerate(zip(target, actual, strict=True))
        for key in sorted(new - old)
    ]
    has = _count(actual)
    open_of = {items[key].model for key in has if key in items}
    loads.sort(key=lambda move: (items[move.key].model in open_of, has.get(move.key, 0)))
    held = total_bytes(actual, items)
    for move in loads:
        if held + items[move.key].size_bytes <= budget_bytes:
            return move
    for worker, (new, old) in enumerate(zip(target, actual, strict=True)):
        for key in sorted(old - new - set(kept)):
            model = items[key].model if key in items else None
            left = sum(n for k, n in has.items() if k in items and items[k].model == model)
            if model is None or left > 1:
                return Move(kind="unload", worker=worker, key=key)
    return loads[0] if loads and not kept else None


def total_bytes(placement: Placement, items: Mapping[str, Item]) -> int:
    """What everything open takes."""
    return sum(items[key].size_bytes for held in placement for key in held if key in items)


def _choose(
    items: Mapping[str, Item],
    demands: Sequence[Demand],
    workers: int,
    budget_bytes: int,
    required: Sequence[str],
) -> dict[str, int]:
    """How many workers should have each variant."""
    copies: dict[str, int] = {}
    free_bytes = budget_bytes
    wanted_by: dict[str, list[tuple[int, float, float]]] = {key: [] for key in items}
    for number, demand in enumerate(demands):
        for key, worth in demand.worth.items():
            if key in wanted_by:
                wanted_by[key].append((number, demand.rate_per_s, worth))
    served = [0.0] * len(demands)

    def gain(key: str) -> float:
        part = _spread(copies.get(key, 0) + 1, workers)
        return sum(
            rate * max(0.0, worth * part - served[number]) for number, rate, worth in wanted_by[key]
        )

    def take(key: str) -> None:
        nonlocal free_bytes
        copies[key] = copies.get(key, 0) + 1
        free_bytes -= items[key].size_bytes
        part = _spread(copies[key], workers)
        for number, _, worth in wanted_by[key]:
            served[number] = max(served[number], worth * part)

    for key in required:
        if key in items and key not in copies and items[key].size_bytes <= free_bytes:
            take(key)
    for model in sorted({item.model for item in items.values()}):
        own = [key for key in items if items[key].model == model]
        if not any(key in copies for key in own):
            fitting = [key for key in own if items[key].size_bytes <= free_bytes]
            smallest = [min(own, key=lambda key: (items[key].size_bytes, key))]
            take(max(fitting or smallest, key=lambda key: (_density(gain(key), items[key]), key)))
    # What is left of the budget goes to those who would be next: not the best, but liked.
    liked = {key: sum(rate * worth for _, rate, worth in wanted_by[key]) for key in items}
    while fitting := [
        key for key in items if copies.get(key, 0) < workers and items[key].size_bytes <= free_bytes
    ]:
        take(
            max(
                fitting,
                key=lambda k: (_density(gain(k), items[k]), -copies.get(k, 0), liked[k], k),
            )
        )
    return copies


def _spread(copies: int, workers: int) -> float:
    """The part of its worth that a variant has where so many workers hold it."""
    return 1 - SPREAD + SPREAD * copies / workers


def _density(gain: float, item: Item) -> float:
    return gain / max(1, item.size_bytes)


def _place(copies: Mapping[str, int], current: Placement, items: Mapping[str, Item]) -> Placement:
    """Put copies on workers: where they are already, else where the fewest bytes are."""
    placed: list[set[str]] = [{key for key in held if key in copies} for held in current]
    for key, wanted in copies.items():
        holders = [worker for worker, held in enumerate(placed) if key in held]
        for worker in holders[wanted:]:
            placed[worker].discard(key)
    for key, wanted in sorted(copies.items(), key=lambda pair: (-items[pair[0]].size_bytes, pair)):
        for _ in range(wanted - sum(key in held for held in placed)):
            worker = min(
                (w for w, held in enumerate(placed) if key not in held),
                key=lambda w: (sum(items[k].size_bytes for k in placed[w]), w),
            )
            placed[worker].add(key)
    return tuple(frozenset(held) for held in placed)


def _value(demands: Sequence[Demand], copies: Mapping[str, int], workers: int) -> float:
    """Worth served a second: each demand by its best open variant, more if more workers have it."""
    total = 0.0
    for demand in demands:
        best = max(
            (
                worth * _spread(copies[key], workers)
                for key, worth in demand.worth.items()
                if copies.get(key)
            ),
            default=0.0,
        )
        total += demand.rate_per_s * best
    return total


def _count(placement: Placement) -> dict[str, int]:
    found: dict[str, int] = {}
    for held in placement:
        for key in held:
            found[key] = found.get(key, 0) + 1
    return found
