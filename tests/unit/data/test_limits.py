"""Limits of time for pure Python."""

import os
import threading
import time

import pytest

from uwc.data.limits import time_limit


def loop(seconds: float) -> None:
    """Never ends by itself."""
    with time_limit(seconds):
        while True:
            pass


def test_a_loop_is_interrupted_in_any_thread() -> None:
    found: list[str] = []

    def interrupted() -> None:
        with pytest.raises(TimeoutError):
            loop(0.05)
        found.append("interrupted")

    interrupted()
    other = threading.Thread(target=interrupted, daemon=True)
    other.start()
    other.join(30)
    assert found == ["interrupted", "interrupted"]


def test_what_ends_in_time_is_left_alone() -> None:
    with time_limit(30):
        value = sum(range(1000))
    assert value == 499_500
    with pytest.raises(KeyError), time_limit(30):
        raise KeyError


def test_blocks_one_after_the_other_have_limits_of_their_own() -> None:
    for _ in range(100):
        with time_limit(60):
            pass
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        loop(0.05)
    assert time.monotonic() - began < 30, "a shorter limit after longer ones is kept"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_limits_too() -> None:
    with time_limit(60):
        pass
    child = os.fork()
    if child == 0:
        try:
            loop(0.05)
        except TimeoutError:
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
