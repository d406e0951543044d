"""A search's goal and budget are read, or refused with the part that is wrong."""

import pytest

from compressors import goal
from compressors.goal import Goal
from variants.errors import Invalid


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "accuracy>=ref-1pp, minimise=latency",
            Goal(minimise="latency", max_drop=0.01),
        ),
        ("accuracy >= 0.9,minimise = size", Goal(minimise="size", min_accuracy=0.9)),
        ("accuracy>=ref, minimise=memory", Goal(minimise="memory", max_drop=0.0)),
        ("minimise=latency", Goal(minimise="latency")),
    ],
)
def test_a_goal_is_read(text: str, expected: Goal) -> None:
    assert goal.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("accuracy>=ref-1pp", "say what to minimise"),
        ("minimise=speed", "latency, size, memory"),
        ("accuracy>=2, minimise=latency", "more than 1"),
        ("accuracy>=1.2.3, minimise=latency", "no number"),
        ("latency<5, minimise=latency", "'latency<5'"),
        ("", "write 'accuracy"),
    ],
)
def test_a_wrong_goal_says_which_part(text: str, told: str) -> None:
    with pytest.raises(Invalid, match=told):
        goal.parse(text)


def test_the_floor_is_the_stricter_one() -> None:
    assert Goal(minimise="latency", max_drop=0.01).floor(0.9) == pytest.approx(0.89)
    both = Goal(minimise="latency", max_drop=0.01, min_accuracy=0.895)
    assert both.floor(0.9) == 0.895


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400)])
def test_a_budget_is_read(text: str, seconds: float) -> None:
    assert goal.seconds(text) == seconds


@pytest.mark.parametrize("text", ["30", "0m", "-1m", "half", ""])
def test_a_wrong_budget_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="such as 30m"):
        goal.seconds(text)
