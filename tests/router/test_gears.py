import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.gears import Gears, front, price_list
from tests.router import cases

NAMES = ("a", "b", "c", "d", "e", "f")
points = st.dictionaries(
    st.sampled_from(NAMES), st.tuples(cases.seconds, st.floats(0.01, 1.0)), min_size=1
)


def split(drawn):
    return {n: s for n, (s, _) in drawn.items()}, {n: w for n, (_, w) in drawn.items()}


@cases.examples
@given(points)
def test_the_front_is_concave_and_nothing_lies_above_it(drawn):
    busy_s, worth = split(drawn)
    hull = front(busy_s, worth)
    for a, b in pairwise(hull):
        assert a.busy_s < b.busy_s
        assert a.worth < b.worth
    assert hull[0].busy_s == min(busy_s.values())
    assert hull[-1].worth == max(worth.values())


@cases.examples
@given(points)
def test_each_level_takes_what_is_worth_most_at_its_price(drawn):
    busy_s, worth = split(drawn)
    prices = price_list([front(busy_s, worth)], 8.0)
    gears = Gears(prices, busy_s, busy_s, worth)
    assert prices[0] == 0.0
    assert prices[-1] == math.inf
    for price, variant in zip(prices[:-1], gears.variants, strict=False):
        net = {name: worth[name] - price * busy_s[name] for name in busy_s}
        assert net[variant] == pytest.approx(max(net.values()), abs=1e-9)
    assert busy_s[gears.variants[-1]] == min(busy_s.values())


@cases.examples
@given(points)
def test_a_higher_price_never_takes_longer(drawn):
    busy_s, worth = split(drawn)
    gears = Gears(price_list([front(busy_s, worth)], 8.0), busy_s, busy_s, worth)
    assert all(a >= b for a, b in pairwise(gears.busy_s))
    assert all(a >= b for a, b in pairwise(gears.served_s))
    assert gears.served_s[-1] == 0.0
