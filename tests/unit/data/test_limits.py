"""Limits of time for pure Python."""

import threading

import pytest

from uwc.data.limits import time_limit


def test_a_loop_is_interrupted_in_any_thread() -> None:
    found: list[str] = []

    def loop() -> None:
        try:
            with time_limit(0.05):
                while True:
                    pass
        except TimeoutError:
            found.append("interrupted")

    loop()
    other = threading.Thread(target=loop, daemon=True)
    other.start()
    other.join(30)
    assert found == ["interrupted", "interrupted"]


def test_what_ends_in_time_is_left_alone() -> None:
    with time_limit(30):
        value = sum(range(1000))
    assert value == 499_500
    with pytest.raises(KeyError), time_limit(30):
        raise KeyError
