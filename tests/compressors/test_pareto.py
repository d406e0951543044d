"""The front holds exactly the points that nobody beats."""

from hypothesis import given
from hypothesis import strategies as st

from compressors.pareto import Point, dominates, front

POINTS = st.lists(
    st.builds(
        Point,
        accuracy=st.sampled_from([0.8, 0.85, 0.9, 0.95]) | st.floats(0, 1),
        latency_s=st.sampled_from([0.001, 0.002, 0.003]) | st.floats(1e-6, 1),
    ),
    max_size=12,
)


@given(POINTS)
def test_a_point_is_on_the_front_unless_another_dominates_it(points: list[Point]) -> None:
    for point, on in zip(points, front(points), strict=True):
        better = [
            other
            for other in points
            if other.accuracy >= point.accuracy
            and other.latency_s <= point.latency_s
            and other != point
        ]
        assert on == (not better)


@given(POINTS)
def test_every_point_off_the_front_is_dominated_by_one_on_it(points: list[Point]) -> None:
    marks = front(points)
    best = [point for point, on in zip(points, marks, strict=True) if on]
    for point, on in zip(points, marks, strict=True):
        assert on or any(dominates(other, point) for other in best)


@given(POINTS)
def test_order_does_not_matter(points: list[Point]) -> None:
    pairs = set(zip(points, front(points), strict=True))
    assert set(zip(points[::-1], front(points[::-1]), strict=True)) == pairs


def test_equal_points_share_the_front() -> None:
    same = Point(accuracy=0.9, latency_s=0.001)
    assert front([same, same]) == (True, True)
