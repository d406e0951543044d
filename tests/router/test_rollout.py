"""Which requests a candidate gets, and when it has shown enough."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from router.promise import LATE_RATIO
from router.rollout import ENOUGH, Criteria, Seen, Share, in_share, judge, told
from router.sequential import Count

ratios = st.floats(0, 1)
ids = st.from_regex(r"[a-z0-9-]{0,12}", fullmatch=True)


def falls(share: Share, *, id: str = "", key: str = "k", seed: str = "s", **headers: str) -> bool:
    return in_share(share, seed=seed, key=key, headers=headers, request_id=id)


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.1, 0.5, 1.0])
def test_the_share_is_the_ratio(ratio: float) -> None:
    n = 20_000
    found = sum(falls(Share(ratio=ratio), id=f"request-{i}") for i in range(n)) / n
    assert abs(found - ratio) <= 5 * np.sqrt(ratio * (1 - ratio) / n)


@given(ids, ratios, ratios)
def test_a_growing_share_keeps_whom_it_had(id: str, one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert falls(Share(ratio=small), id=id) <= falls(Share(ratio=large), id=id)


@given(ids, ratios, st.lists(ids, min_size=2, max_size=5))
def test_a_sticky_header_keeps_a_caller_on_one_side(
    user: str, ratio: float, requests: list[str]
) -> None:
    share = Share(ratio=ratio, sticky="User-Id")
    found = {
        in_share(share, seed="s", key="", headers={"user-id": user}, request_id=id)
        for id in requests
    }
    assert len(found) == 1


def test_the_next_candidate_gets_other_callers_first() -> None:
    share = Share(ratio=0.1)
    users = [f"user-{i}" for i in range(2000)]
    first = {user for user in users if falls(share, id=user, seed="a")}
    second = {user for user in users if falls(share, id=user, seed="b")}
    assert len(first & second) < 0.3 * len(first)


def test_keys_and_headers_take_part_whatever_the_ratio() -> None:
    share = Share(ratio=0.0, keys=("k1",), headers={"Cohort": "beta"})
    assert falls(share, key="k1") and falls(share, cohort="beta")
    assert not falls(share, key="k2") and not falls(share, cohort="stable") and not falls(share)


def seen(*, failed: int = 0, slow: int = 0, agreed: int = 1000, n: int = 1000) -> Seen:
    return Seen(
        failed=Count(hits=failed, n=n),
        slow=Count(hits=slow, n=n),
        others_failed=Count(hits=0, n=4000),
        others_slow=Count(hits=0, n=4000),
        agreed=Count(hits=agreed, n=1000),
    )


def test_a_good_canary_is_promoted_and_an_unseen_one_waits() -> None:
    assert judge(Criteria(), seen())[0] == "promote"
    verdict, findings = judge(Criteria(), Seen())
    assert verdict == "wait"
    assert {finding.standing for finding in findings} == {"open"}


@pytest.mark.parametrize(
    ("bad", "criterion"),
    [
        (seen(failed=100), "errors"),
        (seen(slow=300), "latency"),
        (seen(agreed=300), "agreement"),
    ],
)
def test_one_broken_criterion_demotes_and_is_named(bad: Seen, criterion: str) -> None:
    verdict, findings = judge(Criteria(), bad)
    assert verdict == "demote"
    assert [f.criterion for f in findings if f.standing == "broken"] == [criterion]


def test_what_the_others_suffer_as_well_is_not_held_against_it() -> None:
    busy = Seen(
        failed=Count(hits=100, n=1000),
        slow=Count(hits=600, n=1000),
        others_failed=Count(hits=400, n=4000),
        others_slow=Count(hits=2400, n=4000),
        agreed=Count(hits=1000, n=1000),
    )
    assert judge(Criteria(), busy)[0] == "wait"
    wide = Criteria(max_error_excess=0.1, max_slow_excess=0.2)
    assert judge(wide, busy)[0] == "promote"


@pytest.mark.parametrize(
    ("alone", "criterion"),
    [
        (Seen(failed=Count(hits=1000, n=1000), slow=Count(n=1000)), "errors"),
        (Seen(failed=Count(n=1000), slow=Count(hits=1000, n=1000)), "latency"),
        (
            Seen(failed=Count(hits=60, n=120), others_failed=Count(n=3), others_slow=Count(n=3)),
            "errors",
        ),
    ],
)
def test_a_canary_with_all_the_traffic_is_held_against_bounds_of_its_own(
    alone: Seen, criterion: str
) -> None:
    verdict, findings = judge(Criteria(), alone)
    assert verdict == "demote"
    (broken,) = (finding for finding in findings if finding.standing == "broken")
    assert (broken.criterion, broken.alone) == (criterion, True)
    assert "beyond" not in told(broken) and "too little seen of the others" in told(broken)
    wide = Criteria(max_error_ratio=1.0, max_slow_excess=0.96)
    assert judge(wide, alone)[0] == "wait"


def test_a_hard_moment_at_the_beginning_is_not_held_against_it() -> None:
    seen = Seen(
        failed=Count(n=9),
        slow=Count(hits=9, n=9),
        others_failed=Count(n=4),
        others_slow=Count(hits=4, n=4),
    )
    assert judge(Criteria(), seen)[0] == "wait"


def test_alone_it_is_promoted_once_it_surely_fails_less_than_others_may() -> None:
    alone = Seen(failed=Count(n=1000), slow=Count(hits=30, n=1000))
    assert judge(Criteria(min_agreement=None), alone)[0] == "promote"


def test_few_others_that_are_surely_as_bad_are_not_overlooked() -> None:
    seen = Seen(
        failed=Count(hits=500, n=1000),
        slow=Count(n=1000),
        others_failed=Count(hits=ENOUGH - 1, n=ENOUGH - 1),
    )
    assert judge(Criteria(min_agreement=None), seen)[0] == "promote"


@pytest.mark.parametrize("others", [0, ENOUGH - 1])
def test_alone_at_its_bounds_it_is_seldom_demoted_by_looking_often(others: int) -> None:
    """The others are as good; both criteria are looked at after every run."""
    runs, length, alpha = 60, 200, 0.1
    criteria = Criteria(confidence=1 - alpha, max_error_ratio=0.2, min_agreement=None)
    beside = Count(hits=0, n=others)
    known: dict[tuple[int, int], str] = {}
    rng, alarms = np.random.default_rng(5), 0
    for _ in range(runs):
        failed = (rng.random(length) < criteria.max_error_ratio).cumsum()
        slow = (rng.random(length) < LATE_RATIO + criteria.max_slow_excess).cumsum()
        for n, (k, late) in enumerate(zip(failed, slow, strict=True), start=1):
            if (n, int(k), int(late)) not in known:
                seen = Seen(
                    failed=Count(hits=int(k), n=n),
                    slow=Count(hits=int(late), n=n),
                    others_failed=beside,
                    others_slow=beside,
                )
                known[n, int(k), int(late)] = judge(criteria, seen)[0]
            if known[n, int(k), int(late)] == "demote":
                alarms += 1
                break
    assert alarms <= runs * alpha + 4.75 * np.sqrt(runs * alpha * (1 - alpha))


def test_agreement_that_was_never_measured_holds_up_the_promotion_unless_none_is_asked() -> None:
    unmeasured = Seen(
        failed=Count(hits=0, n=1000),
        slow=Count(hits=0, n=1000),
        others_failed=Count(hits=0, n=4000),
        others_slow=Count(hits=0, n=4000),
    )
    assert judge(Criteria(), unmeasured)[0] == "wait"
    assert judge(Criteria(min_agreement=None), unmeasured)[0] == "promote"


@pytest.mark.parametrize("seed", range(20))
def test_a_canary_that_is_as_good_as_the_others_is_not_demoted_by_looking_often(seed: int) -> None:
    rng = np.random.default_rng(seed)
    criteria = Criteria(max_error_excess=0.0, max_slow_excess=0.0)
    failed = slow = others_failed = others_slow = Count()
    for _ in range(300):
        failed, slow = failed.plus(rng.random() < 0.02), slow.plus(rng.random() < 0.05)
        others_failed = others_failed.plus(rng.random() < 0.02)
        others_slow = others_slow.plus(rng.random() < 0.05)
        if failed.n % 10 == 0:
            now = Seen(
                failed=failed,
                slow=slow,
                others_failed=others_failed,
                others_slow=others_slow,
            )
            assert judge(criteria, now)[0] == "wait"


def test_plans_go_through_json_and_unknown_fields_are_refused() -> None:
    adapter: TypeAdapter[Share] = TypeAdapter(Share)
    share = Share(ratio=0.25, keys=("k",), headers={"cohort": "beta"}, sticky="user-id")
    assert adapter.validate_json(adapter.dump_json(share)) == share
    for wrong in ('{"ratio": 2}', '{"percent": 5}', '{"sticky": "a b"}'):
        with pytest.raises(ValueError):
            adapter.validate_json(wrong)
