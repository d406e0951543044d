"""Dollars from seconds and bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from variants.cost import GIB, Prices, usd_per_million

PRICES = Prices(core_hour_usd=0.04, gib_hour_usd=0.005)


def test_cost_of_one_millisecond_on_one_core_is_what_the_formula_says() -> None:
    cost = usd_per_million(PRICES, service_s=0.001, batch=1, threads=1, memory_bytes=2 * GIB)
    assert cost == pytest.approx(1000 / 3600 * (0.04 + 2 * 0.005))


@given(st.floats(1e-6, 10), st.integers(1, 1024), st.integers(1, 64), st.integers(0, 2**40))
def test_cost_falls_with_the_batch_and_never_below_zero(
    service_s: float, batch: int, threads: int, memory_bytes: int
) -> None:
    def cost(rows: int) -> float:
        return usd_per_million(
            PRICES, service_s=service_s, batch=rows, threads=threads, memory_bytes=memory_bytes
        )

    assert 0 < cost(batch) <= cost(1)
    assert cost(batch) * batch == pytest.approx(cost(1))
