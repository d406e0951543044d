"""No model can take another's share of the workers, whatever it claims."""

import heapq
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from router.sharing import ALLOWANCE_S, Head, Shares

RUN_S = st.floats(0.0005, 0.2)
HEAD = st.tuples(st.integers(0, 7), st.floats(0, 10))


@dataclass
class Host:
    """Workers that models share, in simulated time; `due` claims whatever it likes."""

    workers: int
    run_s: dict[str, float]
    heads: dict[str, Head]
    shares: Shares = field(default_factory=Shares)
    used_s: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.used_s = dict.fromkeys(self.run_s, 0.0)
        self.free = [0.0] * self.workers

    def step(self, waiting: set[str]) -> tuple[str, float]:
        """The next free worker takes a run; which model's, and when."""
        now = heapq.heappop(self.free)
        model = self.shares.order({name: self.heads[name] for name in sorted(waiting)})[0]
        self.shares.begin(model, self.run_s[model], waiting)
        self.used_s[model] += self.run_s[model]
        heapq.heappush(self.free, now + self.run_s[model])
        return model, now


@given(st.lists(st.tuples(RUN_S, HEAD), min_size=2, max_size=5), st.integers(1, 4))
def test_models_that_always_wait_get_equal_worker_seconds(
    models: list[tuple[float, Head]], workers: int
) -> None:
    runs = {f"m{n}": run_s for n, (run_s, _) in enumerate(models)}
    host = Host(workers, runs, {f"m{n}": head for n, (_, head) in enumerate(models)})
    for _ in range(300):
        host.step(set(runs))
        apart_s = max(host.used_s.values()) - min(host.used_s.values())
        assert apart_s <= ALLOWANCE_S + max(runs.values()) + 1e-9


@given(
    greedy=st.lists(RUN_S, min_size=1, max_size=3),
    modest_s=st.floats(0.0005, 0.02),
    workers=st.integers(1, 4),
    before=st.integers(0, 200),
    head=HEAD,
)
def test_a_model_within_its_share_waits_for_each_other_an_allowance_and_a_run(
    greedy: list[float], modest_s: float, workers: int, before: int, head: Head
) -> None:
    """The others always wait, and are more urgent."""
    runs = {f"greedy{n}": run_s for n, run_s in enumerate(greedy)} | {"modest": modest_s}
    heads: dict[str, Head] = dict.fromkeys(runs, (0, 0.0)) | {"modest": (7, 10.0 + head[1])}
    host = Host(workers, runs, heads)
    others = set(runs) - {"modest"}
    for _ in range(before):
        host.step(others)
    for _ in range(20):
        arrived = min(host.free)
        model, at = "", arrived
        while model != "modest":
            model, at = host.step(set(runs))
        limit_s = sum(ALLOWANCE_S + runs[name] for name in others) / workers
        residual_s = max(runs.values()) * (workers - 1) / workers
        assert at - arrived <= limit_s + residual_s + modest_s + 1e-9
        # Its share of the time is over before it asks again.
        until = at + modest_s * len(runs) / workers
        while min(host.free) < until:
            host.step(others)


@given(st.dictionaries(st.sampled_from("abcdef"), HEAD, min_size=1))
def test_every_model_is_tried_and_at_first_by_urgency_and_deadline(heads: dict[str, Head]) -> None:
    order = Shares().order(heads)
    assert order == sorted(heads, key=lambda name: (heads[name], name))


def test_who_did_not_wait_has_saved_nothing_up() -> None:
    shares = Shares()
    for _ in range(1000):
        shares.begin("busy", 0.1, {"busy"})
    turns = []
    for _ in range(100):
        model = shares.order({"busy": (0, 0.0), "late": (7, 1.0)})[0]
        shares.begin(model, 0.1, {"busy", "late"})
        turns.append(model)
    assert 45 <= turns.count("late") <= 55


def test_a_run_that_took_longer_is_charged_in_full() -> None:
    shares = Shares()
    heads: dict[str, Head] = {"a": (3, 0.0), "b": (3, 1.0)}
    assert shares.order(heads)[0] == "a"
    shares.begin("a", 0.001, heads)
    assert shares.order(heads)[0] == "a"
    shares.correct("a", 0.5)
    assert shares.order(heads)[0] == "b"
