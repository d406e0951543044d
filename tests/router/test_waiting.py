from hypothesis import given
from hypothesis import strategies as st

from router.fleet import arrival_order, queue_order
from router.waiting import Waiting
from tests.router import cases


@cases.examples
@given(cases.queues(), st.randoms(use_true_random=False), st.booleans())
def test_it_is_in_order_whatever_comes_and_goes(queue, random, by_arrival):
    order = arrival_order if by_arrival else queue_order
    waiting = Waiting(order=order)
    left = []
    for request in queue:
        waiting.add(request)
        left.append(request)
        if random.random() < 0.4:
            gone = random.choice(left)
            assert waiting.remove(gone.id) is gone
            left.remove(gone)
        assert waiting.requests == sorted(left, key=order)
        assert waiting.deadlines_s == [each.deadline_s for each in waiting.requests]
        assert [kind.eligible for kind in waiting.kinds] == [e.eligible for e in waiting.requests]
        assert sum(waiting.counts.values()) == len(waiting) == len(left)
        assert all(each.id in waiting for each in left)
        if waiting.by_deadline:
            assert waiting.deadlines_s == sorted(waiting.deadlines_s)


def test_requests_that_are_alike_share_their_kind():
    waiting = Waiting([cases.queued(1, "a", deadline_s=1.0), cases.queued(2, "a", deadline_s=2.0)])
    assert waiting.kinds[0] is waiting.kinds[1]
    waiting.add(cases.queued(3, "a", "b"))
    assert waiting.kinds[2] is not waiting.kinds[0]
