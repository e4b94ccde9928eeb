"""A model whose logits overflow is told by name, with the question and the remedy, wherever it is read."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import copied, people

from uwc import progress
from uwc.models.generation import generate, generate_as_open_unlearning
from uwc.models.model import Model
from uwc.models.samples import sample
from uwc.models.scoring import score_tokens

READS: dict[str, Callable[[Model], Any]] = {
    "score": lambda model: score_tokens(model, people(2)),
    "generate": lambda model: generate(model, people(2), max_new_tokens=2),
    "generate as OpenUnlearning": lambda model: generate_as_open_unlearning(model, people(2), max_new_tokens=2),
    "sample": lambda model: sample(model, people(2), count=2, max_new_tokens=2),
}


@pytest.mark.parametrize("how", READS)
def test_float16_overflows_where_bfloat16_does_not(how: str, knowing: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A factor of 60,000 in the last norm: its products are beyond 65,504, the most of float16."""
    told: list[str] = []
    monkeypatch.setattr(progress, "warn", told.append)
    found = {}
    for dtype in (torch.float16, torch.bfloat16):
        model = copied(knowing)
        with torch.no_grad():
            model.model.model.norm.weight.fill_(60_000.0)
        model.model.to(dtype)
        found[dtype] = READS[how](model).finite
    assert not found[torch.float16].any() and found[torch.bfloat16].all()
    assert len(told) == 1
    for words in (knowing.name, "float16", "4 of 4", repr(people(2)[0].id), "model.dtype=float32", "bfloat16"):
        assert words in told[0]
    assert isinstance(found[torch.float16], np.ndarray)
