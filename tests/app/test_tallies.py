"""The tallies are read as the library's own counters and histograms would be."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from app.tallies import Spreads, Tallies

BOUNDS = (0.0005, 0.001, 0.5, 1.0, 30.0)


def text(registry: CollectorRegistry) -> list[str]:
    """What is scraped, but for the times of creation."""
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if "_created" not in line]


@given(values=st.lists(st.sampled_from(BOUNDS) | st.floats(0, 100), max_size=30))
def test_a_histogram_reads_as_the_librarys(values: list[float]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    family = Spreads("seconds", "Time.", ("model",), BOUNDS, ours)
    library = Histogram("seconds", "Time.", ("model",), buckets=BOUNDS, registry=theirs)
    for value in values:
        family.labels('a"b').observe(value)
        library.labels('a"b').observe(value)
    assert text(ours) == text(theirs)


@given(amounts=st.lists(st.floats(0, 1e6), max_size=10))
def test_a_counter_reads_as_the_librarys(amounts: list[float]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    family = Tallies("cost", "Dollars.", ("model", "variant"), ours)
    library = Counter("cost", "Dollars.", ("model", "variant"), registry=theirs)
    for amount in amounts:
        family.labels("tiny", "int8").inc(amount)
        library.labels("tiny", "int8").inc(amount)
    assert text(ours) == text(theirs)
