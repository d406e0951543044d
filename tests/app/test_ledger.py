"""Dollars: set aside before they are spent, by several gateways, through crashes and midnights."""

import asyncio
import random
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from app import tenant as tenants
from app.errors import BudgetSpent
from app.keys import Keys
from app.ledger import Ledger
from app.peppers import PepperSource
from app.tenant import SHARES, Budget, Tenant, today
from variants.data_folder import DataFolder, open_data_folder
from variants.terms import Terms

PER_DAY_USD = 1.0


@pytest.fixture
def data_folder(place: Path | str, tmp_path: Path) -> Iterator[DataFolder]:
    """An empty data folder on either database."""
    url = place if isinstance(place, str) else None
    with open_data_folder(tmp_path / "data", database_url=url) as folder:
        yield folder


def gateway(data: DataFolder) -> tuple[Ledger, Keys]:
    """What one gateway has of tenants."""
    keys = Keys(data.keys, PepperSource.of(None, data.root), required=True)
    keys.refresh()
    return Ledger(data.usage, keys), keys


@pytest.fixture
def key(data_folder: DataFolder) -> str:
    _, keys = gateway(data_folder)
    terms = Terms(usd_per_day=PER_DAY_USD)
    return keys.create("shop", frozenset({"infer"}), actor="test", terms=terms).split("_")[1]


def budget_of(keys: Keys) -> Budget:
    (one,) = keys.tenants()
    assert one.budget is not None
    return one.budget


def pay(tenant: Tenant, usd: float) -> float:
    """One request that costs half of what is held for it; what was paid."""
    assert tenant.budget is not None
    try:
        bill = tenant.budget.hold(2 * usd)
    except BudgetSpent:
        return 0.0
    tenant.pay(usd)
    bill.settle(usd)
    return usd


def test_gateways_together_never_pay_more_than_the_day_has(
    data_folder: DataFolder, key: str
) -> None:
    """Three gateways, some of them killed at random moments and started anew."""
    chance = random.Random(5)
    paid = 0.0

    async def run() -> None:
        nonlocal paid
        running = [gateway(data_folder) for _ in range(3)]
        for step in range(3000):
            index = chance.randrange(3)
            ledger, keys = running[index]
            if step % 500 == 499:
                running[index] = gateway(data_folder)  # killed: what it had is gone
                continue
            if chance.random() < 0.1:
                await ledger.book()
            paid += pay(keys.tenants()[0], chance.uniform(0.0, 0.002))
        for ledger, _ in running:
            await ledger.book(last=True)

    asyncio.run(run())
    (day,) = data_folder.usage.of(key, days=2)
    lost_most = 6 * PER_DAY_USD / SHARES
    assert PER_DAY_USD - lost_most - 0.01 <= paid <= PER_DAY_USD
    assert day.usd <= paid + 1e-9
    assert day.set_aside_usd <= PER_DAY_USD + 1e-9


def test_what_is_on_its_way_when_a_key_ends_is_booked_all_the_same(
    data_folder: DataFolder,
) -> None:
    ledger, keys = gateway(data_folder)
    key = keys.create("shop", frozenset({"infer"}), actor="test")
    id = key.split("_")[1]
    tenant = keys.check([f"Bearer {key}"], "infer").tenant
    assert tenant is not None
    keys.revoke(id, actor="test")
    asyncio.run(ledger.book())
    for _ in range(2):
        tenant.pay(0.25)
        asyncio.run(ledger.book())
    (day,) = data_folder.usage.of(id, days=2)
    assert (day.requests, day.usd) == (2, 0.5)
    assert keys.tenants() == []


def test_a_crash_costs_what_was_set_aside_and_never_more(data_folder: DataFolder, key: str) -> None:
    ledger, keys = gateway(data_folder)
    asyncio.run(ledger.book())
    assert budget_of(keys).left_usd == pytest.approx(PER_DAY_USD / SHARES)
    pay(keys.tenants()[0], 0.001)  # and dies
    ledger, keys = gateway(data_folder)
    asyncio.run(ledger.book())
    (day,) = data_folder.usage.of(key, days=1)
    assert day.set_aside_usd == pytest.approx(2 * PER_DAY_USD / SHARES)


def test_what_is_left_at_the_end_is_given_back(data_folder: DataFolder, key: str) -> None:
    ledger, keys = gateway(data_folder)
    asyncio.run(ledger.book())
    pay(keys.tenants()[0], 0.01)
    asyncio.run(ledger.book(last=True))
    (day,) = data_folder.usage.of(key, days=1)
    assert (day.requests, day.usd) == (1, 0.01)
    assert day.set_aside_usd == pytest.approx(0.01)


def test_a_request_that_costs_more_than_a_share_is_paid_where_the_day_has_it(
    data_folder: DataFolder, key: str
) -> None:
    ledger, keys = gateway(data_folder)
    asyncio.run(ledger.book())
    budget = budget_of(keys)
    with pytest.raises(BudgetSpent) as refused:
        budget.hold(0.5)
    assert refused.value.retry_after_s == 1.0
    asyncio.run(ledger.book())
    budget.hold(0.5).settle(0.25)
    with pytest.raises(BudgetSpent):
        budget.hold(2.0)
    asyncio.run(ledger.book())
    with pytest.raises(BudgetSpent, match="are spent") as spent:
        budget.hold(2.0)
    assert 0 < spent.value.retry_after_s <= 86400


def test_a_bill_of_yesterday_does_not_touch_today() -> None:
    yesterday = today() - timedelta(days=1)
    budget = Budget(1.0, yesterday)
    budget.grant(0.5, wish_usd=0.5, day=yesterday)
    bill = budget.hold(0.25)
    budget.grant(0.125, wish_usd=0.125, day=today())
    assert (budget.left_usd, budget.over) == (0.125, [(yesterday, 0.25)])
    bill.settle(0.1)
    assert budget.left_usd == 0.125


def test_at_midnight_nobody_waits_for_the_new_days_dollars() -> None:
    yesterday = today() - timedelta(days=1)
    budget = Budget(1.0, yesterday)
    budget.grant(0.25, wish_usd=0.25, day=yesterday)
    wish_usd = budget.wish_usd(today())
    budget.hold(0.1).settle(0.1)
    budget.grant(wish_usd, wish_usd=wish_usd, day=today())
    budget.hold(wish_usd).settle(0.0)


def test_the_wall_clock_set_back_and_forth_spends_no_day_twice(
    data_folder: DataFolder, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    day, paid = today(), dict[object, float]()
    ledger, keys = gateway(data_folder)
    from app import ledger as module

    async def run() -> None:
        for step in range(80):
            now = day + timedelta(days=step % 2)
            monkeypatch.setattr(module, "today", lambda now=now: now)
            for _ in range(5):
                await ledger.book()
                paid[now] = paid.get(now, 0.0) + pay(keys.tenants()[0], 0.015)

    asyncio.run(run())
    assert len(paid) == 2
    assert all(usd <= PER_DAY_USD + 1e-9 for usd in paid.values())
    assert all(usd >= PER_DAY_USD * 0.95 for usd in paid.values()), "each day can be spent whole"


def test_what_cannot_be_booked_is_booked_later(data_folder: DataFolder, key: str) -> None:
    ledger, keys = gateway(data_folder)
    asyncio.run(ledger.book())
    pay(keys.tenants()[0], 0.001)
    with data_folder.database.write() as db:
        db.exec_driver_sql("ALTER TABLE usage RENAME TO away")
    asyncio.run(ledger.book())
    with data_folder.database.write() as db:
        db.exec_driver_sql("ALTER TABLE away RENAME TO usage")
    assert data_folder.usage.of(key, days=1)[0].requests == 0
    asyncio.run(ledger.book())
    (found,) = data_folder.usage.of(key, days=1)
    assert (found.requests, found.usd) == (1, 0.001)


def test_a_key_without_limits_has_no_rate_and_no_budget() -> None:
    plain = Tenant("k", Terms())
    plain.enter(paid=True)
    assert (plain.rate, plain.budget, plain.lines()) == (None, None, b"")
    assert tenants.SHARES > 1
