"""Policies that choose the next run of a free worker; the file name is the registration.

Each file offers one function, `choose(view)`, and keeps no state: what it answers depends on the
view alone. It may count on the promises of `View` and must keep four: the variant is loaded here
and eligible for every request of the choice, the rows stay within `max_batch` (unless the first
request alone exceeds it), whoever is dropped when late is in time, and no worker stays idle.
"""

import importlib
import pkgutil
from typing import Protocol, cast

from router.view import Choice, View

DEFAULT = "shadow_price"
"""The policy of those who do not choose one."""


class UnknownPolicy(LookupError):
    """No policy has this name; the message lists those that exist."""

    def __init__(self, name: str) -> None:
        super().__init__(f"unknown policy {name!r}; known: {', '.join(names())}")
        self.name = name


class Policy(Protocol):
    """What a file in this folder offers."""

    def choose(self, view: View) -> Choice | None:
        """The next run for the free worker; None leaves it idle."""
        ...


def names() -> tuple[str, ...]:
    """Every policy, by name."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def find(name: str) -> Policy:
    """The policy of this name. Raises `UnknownPolicy` where there is none."""
    if name not in names():
        raise UnknownPolicy(name)
    return cast(Policy, importlib.import_module(f"{__name__}.{name}"))
