"""Between the tenants in memory and the database: usage goes there, dollars come from there.

Requests never wait for it. Dollars are set aside ahead, a share of the day's at a time, so that
several gateways on one database together never hand out more than a day's, and one that is killed
costs the key what it had left of its share, never the other way round.
"""

import asyncio
import contextlib
from collections.abc import Iterator

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.keys import Keys
from app.tenant import Tenant, today
from variants.errors import GearshiftError
from variants.usage_table import Entry, UsageTable

log = structlog.get_logger()

TICK_S = 0.5
PAUSE_S = 0.02
"""Between two looks at the database, however fast dollars are spent."""


class Ledger:
    """Books what was used, and sets aside what will be; one task of the gateway."""

    def __init__(self, table: UsageTable, keys: Keys) -> None:
        self._table = table
        self._keys = keys
        self._booking = asyncio.Lock()
        self._woken = asyncio.Event()

    async def run(self) -> None:
        """Book twice a second, and where dollars have run out, until cancelled.

        Keys whose time is over end by the way.
        """
        while True:
            await asyncio.sleep(PAUSE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._woken.wait()
            self._woken.clear()
            try:
                await asyncio.to_thread(self._keys.renew)
            except (GearshiftError, OSError, SQLAlchemyError) as error:  # what is known goes on
                log.warning("keys_not_renewed", error=type(error).__name__)
            await self.book()

    async def book(self, *, last: bool = False) -> None:
        """Book what was used; set dollars aside where they run low, or give all back at the last.

        Where the database is away nothing is lost, and the next time books it.
        """
        async with self._booking:
            tenants = self._keys.tenants()
            for tenant in tenants:
                if tenant.budget is not None:
                    tenant.budget.wake = self._woken.set
            entries = [(tenant, entry) for tenant in tenants for entry in _taken(tenant, last=last)]
            if not entries:
                return
            try:
                granted = await asyncio.to_thread(self._table.book, [e for _, e in entries])
            except Exception as error:
                for tenant, entry in entries:
                    _undo(tenant, entry)
                log.warning("usage_not_booked", error=type(error).__name__)
                return
            for (tenant, entry), usd in zip(entries, granted, strict=True):
                if tenant.budget is not None and entry.wish_usd:
                    tenant.budget.grant(usd, wish_usd=entry.wish_usd, day=entry.day)


def _taken(tenant: Tenant, *, last: bool) -> Iterator[Entry]:
    """What is to be booked for one key, taken out of its counters."""
    budget, day = tenant.budget, today()
    wish_usd = per_day_usd = 0.0
    if budget is not None:
        if last:
            budget.close()
        for old, left_usd in budget.over:
            yield Entry(key=tenant.id, day=old, back_usd=left_usd)
        budget.over = []
        if not last and (budget.low or budget.day != day):
            wish_usd, per_day_usd = budget.wish_usd(day), budget.per_day_usd
    requests, usd = tenant.requests, tenant.usd
    if not (requests or wish_usd):
        return
    tenant.requests, tenant.usd = 0, 0.0
    yield Entry(
        key=tenant.id,
        day=day,
        requests=requests,
        usd=usd,
        wish_usd=wish_usd,
        per_day_usd=per_day_usd,
    )


def _undo(tenant: Tenant, entry: Entry) -> None:
    tenant.requests += entry.requests
    tenant.usd += entry.usd
    if tenant.budget is not None and entry.back_usd:
        tenant.budget.over.append((entry.day, entry.back_usd))
