"""The demo's budgets tell a measured ladder apart."""

from typing import Any

from app.demo import budgets


def candidate(accuracy: float, latency_ms: float, cost: float) -> dict[str, Any]:
    return {
        "accuracy": accuracy,
        "accuracy_low": accuracy - 0.006,
        "idle_latency_ms": latency_ms,
        "cost_usd_per_million": cost,
    }


LADDER = [candidate(0.915, 3.1, 0.022), candidate(0.914, 1.9, 0.0076), candidate(0.9, 1.1, 0.0006)]


def test_the_deadline_keeps_the_second_best_and_not_the_best() -> None:
    deadline_ms = float(budgets(LADDER)[1].headers["Infer-Max-Latency-Ms"])
    assert 1.9 < deadline_ms < 3.1


def test_all_three_bounds_at_once_leave_the_second_best_alone() -> None:
    headers = budgets(LADDER)[3].headers
    kept = [
        c
        for c in LADDER
        if c["idle_latency_ms"] <= float(headers["Infer-Max-Latency-Ms"])
        and c["accuracy_low"] >= float(headers["Infer-Min-Accuracy"])
        and c["cost_usd_per_million"] <= float(headers["Infer-Max-Cost"])
    ]
    assert kept == [LADDER[1]]


def test_the_impossible_deadline_is_below_the_fastest() -> None:
    assert float(budgets(LADDER)[-1].headers["Infer-Max-Latency-Ms"]) < 1.1
