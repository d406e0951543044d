"""SlackFit: the head's slack chooses a latency bucket, the bucket a variant and a batch.

Khare et al., "SuperServe: Fine-Grained Inference Serving for Unpredictable Workloads", NSDI 2025.
[l_min, l_max] over the Pareto front × batches is cut into equal buckets; each keeps the control
tuple with the largest batch (ties: accuracy), or, as its paper's other mode, with the highest
accuracy; the bucket with the largest latency within the slack is served.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.routing.baselines import Setting
from benchmarks.routing.baselines.gears import batch, left_s
from benchmarks.routing.ladder import pareto, value
from router.view import Choice, Options, View


def grid(setting: Setting) -> Sequence[Mapping[str, Any]]:
    """Number of buckets, the largest batch, and what a bucket keeps."""
    kept = ((1, "batch"), (32, "batch"), (32, "accuracy"))
    return tuple({"buckets": n, "most": m, "by": by} for n in (8, 32) for m, by in kept)


Tuple = tuple[float, int, float, str]
"""Latency in seconds, batch, accuracy, variant."""


class SlackFit:
    """The policy; it remembers the buckets of alike requests only."""

    def __init__(self, setting: Setting, buckets: int, most: int, by: str) -> None:
        self._buckets, self._most, self._by = buckets, min(most, setting.max_batch), by
        self._known: dict[tuple[str, ...], list[Tuple]] = {}

    def choose(self, view: View) -> Choice:
        """The bucket with the largest latency within the head's slack."""
        options, slack_s = view.head, left_s(view)
        names = tuple(sorted(options.tail_s))
        control = self._known.get(names)
        if control is None:
            control = self._known[names] = self._cut(view, options, names)
        variant, size = options.fastest, 1
        for latency_s, rows, _, name in control:
            if latency_s <= slack_s and options.tail_s[name] <= slack_s:
                variant, size = name, rows
        return Choice(variant=variant, requests=batch(view, variant, size))

    def _cut(self, view: View, options: Options, names: Sequence[str]) -> list[Tuple]:
        found: list[Tuple] = [
            (quantiles.at(options.percentile), size, value(each), each.variant)
            for each in pareto([view.candidates[name] for name in names])
            for size, quantiles in each.service.items()
            if size <= max(self._most, min(each.service))
        ]
        low, high = min(found)[0], max(found)[0]
        width = (high - low) / self._buckets or 1.0
        kept: dict[int, Tuple] = {}
        for control in found:
            bucket = min(self._buckets - 1, int((control[0] - low) / width))
            if bucket not in kept or self._rank(control) > self._rank(kept[bucket]):
                kept[bucket] = control
        return [kept[bucket] for bucket in sorted(kept)]

    def _rank(self, control: Tuple) -> tuple[float, float, float, str]:
        latency_s, size, accuracy, name = control
        if self._by == "batch":
            return (size, accuracy, -latency_s, name)
        return (accuracy, size, -latency_s, name)


def build(setting: Setting, *, buckets: int, most: int, by: str) -> SlackFit:
    """A fresh policy."""
    return SlackFit(setting, buckets, most, by)
