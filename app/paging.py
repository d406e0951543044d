"""Listings that may grow, in pages: at most `limit` entries, those behind the mark `after`.

An answer's `next` is the `after` of the page that follows, None on the last one. What is there all
the while is shown once, whatever comes in between.
"""

from collections.abc import Callable, Iterable
from heapq import nsmallest
from operator import itemgetter
from typing import Annotated, TypeVar

from fastapi import Query

USUAL = 500
MOST = 1000

Limit = Annotated[int, Query(ge=1, le=MOST, description="most entries of one answer")]
After = Annotated[
    str, Query(max_length=128, description="`next` of the page before; none: from the start")
]
AfterId = Annotated[int, Query(ge=0, lt=2**31, description="only lines with a larger id")]

T = TypeVar("T")


def page(
    items: Iterable[T], mark: Callable[[T], str], *, after: str, limit: int
) -> tuple[list[T], str | None]:
    """The first items behind a mark, in the order of their marks, and the mark to go on from."""
    marked = ((mark(item), item) for item in items)
    found = nsmallest(limit + 1, (pair for pair in marked if pair[0] > after), key=itemgetter(0))
    shown = found[:limit]
    return [item for _, item in shown], shown[-1][0] if len(found) > limit else None
