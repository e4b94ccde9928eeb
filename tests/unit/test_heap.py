"""Freed blocks go back to the system, for large models only."""

import subprocess
import sys

import pytest
import torch

from uwc.training.heap import LARGE_MODEL, return_large_blocks

RESIDENT = """
import ctypes, sys, torch
from pathlib import Path
from uwc.training.heap import LARGE_MODEL, return_large_blocks
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
model = torch.nn.Linear(1, LARGE_MODEL // 4)
torch.ones(24 << 18)  # once freed, glibc raises its threshold to this size
if sys.argv[1] == "yes" and not return_large_blocks(model):
    print("other"); sys.exit()
before = resident()
blocks = [torch.ones(2 << 18) for _ in range(40)]  # 2 MiB each
wall = torch.ones(100)
small = blocks[-1]
del blocks
print(resident() - before < 20 << 20)
"""


def test_small_models_are_left_alone() -> None:
    assert not return_large_blocks(torch.nn.Linear(2, 2))
    assert LARGE_MODEL > 1 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_freed_blocks_are_returned() -> None:
    def printed(wanted: str) -> str:
        done = subprocess.run([sys.executable, "-c", RESIDENT, wanted], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert printed("yes") in ("True", "other")
    assert printed("no") == "False"
