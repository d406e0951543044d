"""Series are bounded in number, whatever comes and goes."""

from prometheus_client import CollectorRegistry, generate_latest

from app.label_names import LabelNames
from app.tallies import Spreads, Tallies


def test_the_first_have_names_of_their_own_and_the_rest_share_one() -> None:
    names = LabelNames(models=2, variants=3)
    assert [names.variant("a", name) for name in "pqpr"] == ["p", "q", "p", "r"]
    assert names.variant("a", "s") == "_other_"
    assert [names.model(name) for name in "abcb"] == ["a", "b", "_other_", "b"]
    assert names.folded == 2
    assert names.variant("a", "s") == "_other_" and names.folded == 2
    assert names.own("a", "p") and not names.own("a", "s") and not names.own("c")


def test_a_model_without_a_name_has_no_variants_with_one() -> None:
    names = LabelNames(models=1, variants=9)
    names.model("a")
    assert names.variant("b", "x") == "_other_"


def test_what_stands_for_no_name_takes_no_place() -> None:
    names = LabelNames(models=1, variants=1)
    assert names.model("_unknown_") == "_unknown_"
    assert names.variant("a", "") == ""
    assert names.variant("a", "x") == "x"
    assert names.folded == 0


def test_counters_and_histograms_hold_no_more_series_than_names() -> None:
    names, registry = LabelNames(models=1, variants=2), CollectorRegistry()
    labels = ("model", "first", "then", "outcome")
    tallies = Tallies("requests", "Requests.", labels, registry, names=names)
    spreads = Spreads("seconds", "Time.", ("model", "variant"), (1.0,), registry, names=names)
    for number in range(10):
        tallies.labels("m", f"v{number}", "v0", "ok").inc()
        spreads.labels("m", f"v{number}").observe(0.5)
    lines = generate_latest(registry).decode().splitlines()
    counted = [line for line in lines if line.startswith("requests_total{")]
    assert counted == [
        'requests_total{first="v0",model="m",outcome="ok",then="v0"} 1.0',
        'requests_total{first="v1",model="m",outcome="ok",then="v0"} 1.0',
        'requests_total{first="_other_",model="m",outcome="ok",then="v0"} 8.0',
    ]
    assert 'seconds_count{model="m",variant="_other_"} 8.0' in lines
    assert names.folded == 8
