"""The published policies, re-implemented from their papers; one file each, the name registers it.

A file offers

    grid    (setting) → the settings that are tried on the training window
    build   (setting, **tunables) → a policy: `choose(view)`, and state where its paper has some

and, where the paper fixes a request's variant on arrival, `pin(setting, eligible, number,
**tunables)` → the variant to which the request is bound. `HINDSIGHT` says that the best setting is
taken for each window that is reported on.

All of them get what ours gets: requests whose eligible variants keep every bound, earliest deadline
first, and early drop. Where a paper's choice is not eligible for the head, or would make it late,
the nearest one that is takes its place (`gears.nearest`): more than the papers promise.
"""

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from benchmarks.routing.ladder import Ladder
from router import policies
from router.policies import Policy
from router.simulate import Arrival

OURS = policies.DEFAULT

PUBLISHED = frozenset({"greedy_deadline"})
"""Baselines that users can select too, and so are policies of the router."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Setting:
    """What a policy may know before it starts: the ladder, the fleet and the training window.

    `deadlines_s` are the classes' in ascending order, `unit_s` the most accurate variant's median
    alone: intervals of the papers are told in it, so that they fit any ladder's time scale.
    """

    ladder: Ladder
    workers: int
    max_batch: int
    deadlines_s: tuple[float, ...]
    training: Sequence[Arrival]

    @property
    def unit_s(self) -> float:
        """Median of the most accurate variant alone, in seconds."""
        return self.ladder.best.service_s(1, 50)


class Baseline(Protocol):
    """What a file in this folder offers."""

    def grid(self, setting: Setting) -> Sequence[Mapping[str, Any]]:
        """The settings that are tried."""
        ...

    def build(self, setting: Setting, **tunables: Any) -> Policy:
        """A fresh policy."""
        ...


class _Router:
    """A policy of `router.policies`: nothing to tune."""

    def __init__(self, name: str) -> None:
        self._name = name

    def grid(self, setting: Setting) -> Sequence[Mapping[str, Any]]:
        return ({},)

    def build(self, setting: Setting) -> Policy:
        return policies.find(self._name)


_HELPERS = {"gears", "load"}


def names() -> tuple[str, ...]:
    """Every policy of the proof, ours first; `find` knows those of the router besides."""
    here = {module.name for module in pkgutil.iter_modules(__path__)} - _HELPERS
    return (OURS, *sorted(here | PUBLISHED))


def find(name: str) -> Baseline:
    """The policy of this name. Raises `UnknownPolicy` (a `LookupError`) where there is none."""
    if name in policies.names():
        return cast(Baseline, _Router(name))
    if name not in names():
        raise UnknownBaseline(name)
    return cast(Baseline, importlib.import_module(f"{__name__}.{name}"))


class UnknownBaseline(LookupError):
    """No policy has this name; the message lists those that exist."""

    def __init__(self, name: str) -> None:
        super().__init__(f"unknown policy {name!r}; known: {', '.join(names())}")
