"""What stays open keeps the budget, covers every model, and does not flap."""

from hypothesis import given
from hypothesis import strategies as st

from router.residency import Demand, Item, Placement, next_move, plan, total_bytes

KEYS = tuple("abcdefgh")
MODELS = ("x", "y", "z")


@st.composite
def worlds(draw: st.DrawFn) -> tuple[dict[str, Item], list[Demand], Placement, int]:
    """Up to eight variants of up to three models on up to three workers, and a budget."""
    keys = KEYS[: draw(st.integers(1, 8))]
    items = {
        key: Item(
            model=draw(st.sampled_from(MODELS)),
            size_bytes=draw(st.integers(1, 100)),
            load_s=draw(st.floats(0, 30)),
        )
        for key in keys
    }
    worth = st.dictionaries(st.sampled_from(keys), st.floats(0, 1), max_size=4)
    demands = draw(
        st.lists(st.builds(Demand, rate_per_s=st.floats(0, 1000), worth=worth), max_size=5)
    )
    holding = st.frozensets(st.sampled_from(keys))
    current = tuple(draw(st.lists(holding, min_size=1, max_size=3)))
    return items, demands, current, draw(st.integers(0, 600))


def smallest_cover(items: dict[str, Item]) -> int:
    """Bytes of the smallest variant of every model."""
    sizes: dict[str, int] = {}
    for item in items.values():
        sizes[item.model] = min(item.size_bytes, sizes.get(item.model, item.size_bytes))
    return sum(sizes.values())


@given(worlds())
def test_every_model_is_covered_within_the_budget_where_that_can_be(world: object) -> None:
    items, demands, current, budget = world  # type: ignore[misc]
    found = plan(items, demands, current=current, budget_bytes=budget)
    held = frozenset().union(*found)
    assert {items[key].model for key in held} == {item.model for item in items.values()}
    largest = max(item.size_bytes for item in items.values())
    models = len({item.model for item in items.values()})
    if budget >= largest * models:
        assert total_bytes(found, items) <= budget
    if budget >= len(current) * sum(item.size_bytes for item in items.values()):
        assert found == (frozenset(items),) * len(current)


@given(worlds())
def test_under_constant_demand_there_is_at_most_one_change(world: object) -> None:
    items, demands, current, budget = world  # type: ignore[misc]
    first = plan(items, demands, current=current, budget_bytes=budget)
    assert plan(items, demands, current=first, budget_bytes=budget) == first


@given(worlds(), st.sampled_from(KEYS))
def test_what_is_required_is_open_where_it_fits(world: object, wanted: str) -> None:
    items, demands, current, budget = world  # type: ignore[misc]
    found = plan(items, demands, current=current, budget_bytes=budget, required=(wanted,))
    if wanted in items and items[wanted].size_bytes <= budget:
        assert any(wanted in held for held in found)


@given(worlds())
def test_moves_lead_to_the_plan_and_never_close_a_models_last(world: object) -> None:
    items, demands, actual, budget = world  # type: ignore[misc]
    target = plan(items, demands, current=actual, budget_bytes=budget)
    for _ in range(100):
        move = next_move(actual, target, items, budget_bytes=budget)
        if move is None:
            break
        before = {items[key].model for held in actual for key in held}
        over = total_bytes(actual, items) > budget
        held = actual[move.worker]
        changed = held | {move.key} if move.kind == "load" else held - {move.key}
        assert changed != held
        actual = (*actual[: move.worker], changed, *actual[move.worker + 1 :])
        assert before <= {items[key].model for h in actual for key in h}
        if move.kind == "load" and not over and total_bytes(actual, items) > budget:
            # Only in place of what must not go before it.
            alone = [key for h in actual for key in h if items[key].model == items[move.key].model]
            assert len(alone) >= 1
    assert actual == target


def test_the_variants_that_are_asked_for_are_the_ones_that_stay() -> None:
    items = {
        key: Item(model="x", size_bytes=10, load_s=1.0) for key in ("best", "mid", "fast", "odd")
    }
    asked = [
        Demand(rate_per_s=90, worth={"fast": 1.0, "mid": 0.4}),
        Demand(rate_per_s=10, worth={"best": 1.0}),
    ]
    found = plan(items, asked, current=(frozenset({"odd"}), frozenset()), budget_bytes=30)
    assert sorted(key for held in found for key in held) == ["best", "fast", "fast"]


def test_a_gain_that_does_not_repay_its_loading_changes_nothing() -> None:
    def items(load_s: float) -> dict[str, Item]:
        return {key: Item(model="x", size_bytes=10, load_s=load_s) for key in ("best", "good")}

    asked = [Demand(rate_per_s=1, worth={"best": 1.0, "good": 0.9})]
    now = (frozenset({"good"}),)
    assert plan(items(1.0), asked, current=now, budget_bytes=10) == (frozenset({"best"}),)
    assert plan(items(100.0), asked, current=now, budget_bytes=10) == now
    nearly = [Demand(rate_per_s=1, worth={"best": 1.0, "good": 0.97})]
    assert plan(items(1.0), nearly, current=now, budget_bytes=10) == now
