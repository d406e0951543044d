"""What was used and set aside, on either database."""

from concurrent.futures import ThreadPoolExecutor
from datetime import date

import pytest

from variants.database import Database
from variants.key_table import KeyTable, Secret
from variants.usage_table import Entry, UsageTable

DAY = date(2026, 1, 31)


@pytest.fixture
def usage(database: Database) -> UsageTable:
    KeyTable(database).add(
        id="k",
        name="shop",
        secret=Secret(hmac="0" * 64, pepper=None),
        scopes=frozenset({"infer"}),
        actor="test",
    )
    return UsageTable(database)


def wish(usd: float, *, per_day_usd: float = 1.0, **rest: float) -> Entry:
    return Entry(key="k", day=DAY, wish_usd=usd, per_day_usd=per_day_usd, **rest)  # type: ignore[arg-type]


def test_days_are_counted_apart_and_shown_newest_first(usage: UsageTable) -> None:
    later = date(2026, 2, 1)
    usage.book([Entry(key="k", day=DAY, requests=2, usd=0.5)])
    usage.book([Entry(key="k", day=later, requests=1, usd=0.25)])
    usage.book([Entry(key="k", day=DAY, requests=3, usd=0.25)])
    found = [(u.day, u.requests, u.usd) for u in usage.of("k", days=10)]
    assert found == [(later, 1, 0.25), (DAY, 5, 0.75)]
    assert [u.day for u in usage.of("k", days=1)] == [later]
    assert usage.of("other", days=1) == ()


def test_no_more_is_granted_than_the_day_has(usage: UsageTable) -> None:
    assert usage.book([wish(0.75)]) == [0.75]
    assert usage.book([wish(0.75)]) == [0.25]
    assert usage.book([wish(0.75)]) == [0.0]


def test_what_is_given_back_can_be_granted_again(usage: UsageTable) -> None:
    usage.book([wish(1.0)])
    usage.book([Entry(key="k", day=DAY, back_usd=0.5)])
    assert usage.book([wish(1.0)]) == [0.5]


def test_what_was_spent_beyond_is_counted(usage: UsageTable) -> None:
    usage.book([wish(0.5)])
    usage.book([Entry(key="k", day=DAY, back_usd=-0.25)])
    assert usage.book([wish(1.0)]) == [0.25]


def test_gateways_that_ask_at_once_get_no_more_than_the_day_has(usage: UsageTable) -> None:
    with ThreadPoolExecutor(8) as pool:
        granted = list(pool.map(lambda _: usage.book([wish(0.09)])[0], range(24)))
    assert sum(granted) == pytest.approx(1.0)
    assert usage.of("k", days=1)[0].set_aside_usd == pytest.approx(1.0)


def test_either_all_is_booked_or_nothing(usage: UsageTable) -> None:
    with pytest.raises(Exception, match=r"(?i)foreign|constraint|conflict"):
        usage.book([Entry(key="k", day=DAY, requests=1), Entry(key="none", day=DAY, requests=1)])
    assert usage.of("k", days=1) == ()
