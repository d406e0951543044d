"""The gate decides as `admit` does, whatever was asked before."""

from hypothesis import given
from hypothesis import strategies as st

from router.admission import admit
from router.constraints import Constraints
from router.gate import Gate
from router.waiting import Waiting
from tests.router import cases

asked = st.lists(cases.constraints, min_size=1, max_size=3)


@cases.examples
@given(
    asked,
    cases.candidates(),
    cases.queues(),
    cases.fleets(),
    st.floats(0, 0.01),
    st.integers(1, 8),
    st.integers(0, 3),
    st.integers(0, 2),
)
def test_the_gate_decides_as_admission_does(
    constraints, candidates, queue, fleet, overhead_s, rows, place, rivals
):
    reference = candidates[place % len(candidates)].variant if candidates else None
    gate = Gate(candidates, reference)
    for wanted in constraints:
        load = {
            "workers": fleet,
            "now_s": 0.0,
            "rows": rows,
            "queue_limit": 8,
            "rivals": rivals,
        }
        found = gate.decide(wanted, queue=Waiting(queue), overhead_s=overhead_s, **load)
        rounded = gate.rounded_up(overhead_s)
        plain = admit(
            wanted,
            candidates,
            reference=reference,
            queue=Waiting(queue).requests,
            overhead_s=rounded,
            **load,
        )
        assert overhead_s <= rounded <= 1.1001 * overhead_s
        assert found._replace(verdicts=tuple(found.verdicts)) == plain
        for verdict in plain.verdicts:
            assert found.verdict(verdict.variant) == verdict


def test_a_description_is_worked_out_once():
    gate = Gate(cases.ladder(), "fp32")
    everything = cases.worker("fp32", "int8", "tiny")
    asked = Constraints(max_latency_s=0.05)

    def decide(free_at_s: float):
        return gate.decide(
            asked,
            queue=Waiting(),
            workers=[everything._replace(free_at_s=free_at_s)],
            now_s=0.0,
            rows=1,
            overhead_s=0.0,
            queue_limit=8,
        )

    assert decide(0.0).preferred == "fp32"
    assert decide(0.02).preferred == "int8"
    assert decide(0.02).verdict("int8").predicted_latency_s == 0.03
    assert decide(1.0).outcome == "overloaded"
