"""The most memory that a piece of work takes."""

import ctypes
import sys

import numpy as np
import pytest

from uwc import memory
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


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="only glibc gives memory back on demand")
def test_gaps_are_given_back_once_memory_has_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of 100 kB, every second one of which is freed: the heap keeps the gaps."""
    memory.give_back()
    before = memory._status("VmRSS:")
    pieces = [np.ones(100_000, dtype=np.uint8) for _ in range(2000)]
    kept = pieces[::2]
    del pieces
    memory.give_back(growth=1 << 40)
    grown = memory._status("VmRSS:")
    memory.give_back(growth=20 << 20)
    after = memory._status("VmRSS:")
    assert before is not None and grown is not None and after is not None
    assert grown - before > 180e6 and 90e6 < after - before < 130e6 and len(kept) == 1000


def test_bytes_as_text() -> None:
    assert [gigabytes(count) for count in (310_400_000, 999_400_000, 999_600_000, 4_560_000_000)] == [
        "310 MB",
        "999 MB",
        "1.0 GB",
        "4.6 GB",
    ]
