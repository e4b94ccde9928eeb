"""A study of a few seconds, and the real command line in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TINY = """
name: tiny
benchmark: {name: fictional-authors, settings: {authors: 10, forget_share: 0.2, facts: 1, phrasings: 1, heldout: 2}}
model: {build: {vocabulary: 600, hidden_size: 32, layers: 2, heads: 2, context: 128}}
finetune: {epochs: 40, batch_size: 8, lr: 1.0e-2, schedule: cosine}
gold: true
unlearn:
  training: {epochs: 2, batch_size: 2, lr: 1.0e-3}
  runs: [{method: gd}, {method: npo}, {method: rmu}]
score: {max_new_tokens: 8}
calibrate: {tau: 0.9, scan: 4, resolution: 0.05}
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The tiny study's file."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    return path


def command(*arguments: str | Path) -> list[str]:
    """The command line to start uwc with these arguments."""
    return [sys.executable, "-m", "uwc", *map(str, arguments)]


@pytest.fixture
def uwc(tmp_path: Path) -> Run:
    """Run uwc to its end in `tmp_path`; gives exit status and both outputs."""

    def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments), cwd=tmp_path, env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run
