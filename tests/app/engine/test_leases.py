"""A variant stays open while any admitted request may use it."""

import asyncio

from app.engine.leases import Leases


def test_a_key_that_nobody_holds_is_drained_at_once() -> None:
    asyncio.run(asyncio.wait_for(Leases().drained("a"), 1))


def test_drained_returns_after_the_last_release() -> None:
    async def story() -> list[str]:
        leases, order = Leases(), []
        leases.acquire(("a", "b"))
        leases.acquire(("a",))

        async def wait(key: str) -> None:
            await leases.drained(key)
            order.append(f"{key} drained")

        waiters = [asyncio.create_task(wait(key)) for key in ("a", "a", "b")]
        await asyncio.sleep(0)
        leases.release(("a", "b"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        order.append("one left")
        leases.release(("a",))
        await asyncio.gather(*waiters)
        return order

    assert asyncio.run(story()) == ["b drained", "one left", "a drained", "a drained"]


def test_a_waiter_that_gives_up_disturbs_no_other() -> None:
    async def story() -> None:
        leases = Leases()
        leases.acquire(("a",))
        impatient = asyncio.create_task(leases.drained("a"))
        patient = asyncio.create_task(leases.drained("a"))
        await asyncio.sleep(0)
        impatient.cancel()
        await asyncio.sleep(0)
        leases.release(("a",))
        await asyncio.wait_for(patient, 1)

    asyncio.run(story())


def test_a_key_taken_again_after_it_was_drained_must_be_drained_again() -> None:
    async def story() -> None:
        leases = Leases()
        for _ in range(2):
            leases.acquire(("a",))
            waiter = asyncio.create_task(leases.drained("a"))
            await asyncio.sleep(0)
            assert not waiter.done()
            leases.release(("a",))
            await asyncio.wait_for(waiter, 1)

    asyncio.run(story())
