"""Who waits for a silent server, and who is told at once."""

import time

import pytest

from variants.errors import RegistryUnavailable
from variants.silence import PAUSE_S, Silence


def test_one_tries_a_silent_server_and_the_others_are_told_at_once() -> None:
    silence = Silence(RegistryUnavailable, "silent")
    silence.begin(time.monotonic())
    with pytest.raises(OSError), silence.turn():
        assert silence.mine
        with pytest.raises(RegistryUnavailable), silence.turn():
            pytest.fail("two try")
        raise OSError
    with pytest.raises(RegistryUnavailable), silence.turn():
        pytest.fail("tried again at once")
    time.sleep(PAUSE_S)
    with silence.turn():
        pass
    assert not silence.silent
    assert not silence.mine


def test_a_wait_that_began_before_an_answer_tells_nothing_of_the_server() -> None:
    silence, begun_s = Silence(RegistryUnavailable, "silent"), time.monotonic()
    with silence.turn():
        pass
    silence.begin(begun_s)
    assert not silence.silent
    silence.begin(time.monotonic())
    assert silence.silent
