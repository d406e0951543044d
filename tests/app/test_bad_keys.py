"""Peers that try keys."""

from app.bad_keys import PEERS, BadKeys


def test_a_peer_with_too_many_failures_is_told_to_wait_and_others_are_not() -> None:
    bad = BadKeys(10, clock=lambda: 7.0)
    told = [bad.count("10.0.0.1") for _ in range(10_000)]
    assert told[:10] == [0.0] * 10
    assert all(wait_s > 0 for wait_s in told[10:])
    assert bad.count("10.0.0.2") == 0.0


def test_a_peer_that_rests_starts_afresh() -> None:
    now = [0.0]
    bad = BadKeys(10, clock=lambda: now[0])
    while not bad.count("a"):
        pass
    now[0] = 1.0
    assert bad.count("a") == 0.0


def test_no_number_of_peers_takes_more_memory() -> None:
    bad = BadKeys(10, clock=lambda: 0.0)
    for number in range(3 * PEERS):
        bad.count(f"peer-{number}")
    assert len(bad) == PEERS
