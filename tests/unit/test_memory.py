"""The most memory that a piece of work takes."""

import sys

import numpy as np
import pytest

from uwc.memory import peak_bytes, start_of_peak
from uwc.progress import gigabytes

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux starts a new peak")


@linux
def test_a_peak_is_that_since_its_start() -> None:
    before = start_of_peak("cpu")
    assert before is not None
    taken = np.ones(80_000_000 // 8)
    del taken
    peak = peak_bytes("cpu")
    assert peak is not None
    assert 79e6 < peak - before < 120e6
    again = start_of_peak("cpu")
    assert again is not None
    assert (peak_bytes("cpu") or 0) - again < 20e6, "the peak before it is forgotten"


def test_bytes_as_text() -> None:
    assert [gigabytes(count) for count in (310_400_000, 999_400_000, 999_600_000, 4_560_000_000)] == [
        "310 MB",
        "999 MB",
        "1.0 GB",
        "4.6 GB",
    ]
