"""Planned answers: states kept from stride to stride, against rollouts that read the text so far again."""

import copy
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.comparison import Comparison, measure
from benchmarks.sampling import questions, with_ends
from benchmarks.scoring import random_model
from uwc.attacks.planning import Linear, PlannedBy, Planning, Reward, Texts
from uwc.data.benchmarks.fictional import fictional_authors
from uwc.models.generation import continue_greedily
from uwc.models.load import load_model
from uwc.models.model import Model
from uwc.models.samples import Prefix
from uwc.models.states import blocks, capturing_outputs

ROLLOUTS, HORIZON, STRIDE, NEW = 8, 8, 4, 64
SIZES = {
    "cpu": {"40 M, 32,000 tokens": (4, 32_000, 512, 8, 1376)},
    "cuda": {"1.2 B, 128,256 tokens": (64, 128_256, 2048, 16, 8192)},
}


def comparisons(device: str) -> Iterator[Comparison]:
    """Both baselines for each size; also for the model of the environment variable UWC_REAL_MODEL, if it is set."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    for size, (count, *sizes) in SIZES[device].items():
        model = with_ends(random_model(*sizes, device=device, dtype=dtype))
        yield from both(model, [list(e.before) for e in model.encode(questions(model, count))], device, size)
    if path := os.environ.get("UWC_REAL_MODEL"):
        model = load_model(path, device=device, dtype=str(dtype)[6:])
        asked = list(fictional_authors(authors=8, holdout=0, phrasings=1, general=False)["forget"])
        prompts = [list(e.before) for e in model.encode(asked[: 4 if device == "cpu" else 64])]
        yield from both(model, prompts, device, model.name)


def both(model: Model, prompts: list[list[int]], device: str, size: str) -> Iterator[Comparison]:
    random = np.random.default_rng(0)
    width, depth = model.model.config.hidden_size, (len(blocks(model.model)) + 1) // 2
    reward = Reward(*(Linear(random.normal(size=width), 0.0) for _ in range(2)))
    of = Planning(ROLLOUTS, HORIZON, STRIDE, depth)

    def answered(kind: type[PlannedBy], some: list[list[int]] = prompts, new: int = NEW) -> list[list[int]]:
        planned = replace(model, model=kind(model, reward, of))
        return [tokens for tokens, _ in continue_greedily(planned, some, max_new_tokens=new)]

    answered(PlannedBy, prompts[:1], 4)
    if device == "cpu":
        require_same(model, prompts[:2], reward, of)
    ours = measure(lambda: answered(PlannedBy), device=device)
    for kind, name in ((Alone, "each rollout reads it"), (Again, "read once a stride")):
        theirs = measure(lambda kind=kind: answered(kind), device=device)
        same = sum(a == b for a, b in zip(ours.value, theirs.value, strict=True))
        yield Comparison(
            f"planning, {size}, against the text so far, {name}",
            ours.seconds, theirs.seconds, ours.peak_bytes, theirs.peak_bytes, device,
            {"questions": len(prompts), "prompt tokens": float(np.mean([len(p) for p in prompts])),
             "tokens of an answer": float(np.mean([len(a) for a in ours.value])), "drawn for each": of.drawn,
             "same answers in this precision": same},
        )  # fmt: skip


def require_same(model: Model, prompts: list[list[int]], reward: Reward, of: Planning) -> None:
    """In double precision, in which no draw depends on the rounding of logits, all plan the same answers."""
    wide = replace(model, model=copy.deepcopy(model.model).double())
    kinds = [replace(wide, model=kind(wide, reward, of)) for kind in (PlannedBy, Alone, Again)]
    found = [continue_greedily(planned, prompts, max_new_tokens=3 * of.stride) for planned in kinds]
    if found[1:] != found[:-1]:
        raise RuntimeError(f"planned answers differ from the baselines': {found}")


class Alone(PlannedBy):
    """Planning in which every rollout reads the text so far by itself, as a call of `generate` for each stride does."""

    def _states(self, ids: Tensor, mask: Tensor, prompts: Sequence[list[int]], *, room: int) -> Texts:
        of = self._planning
        return Rereading(self.inner, ids, mask, of.rollouts, of.layer, of.horizon, alone=True)


class Again(PlannedBy):
    """Planning in which the rollouts of a stride share the text so far, which is read again for every stride."""

    def _states(self, ids: Tensor, mask: Tensor, prompts: Sequence[list[int]], *, room: int) -> Texts:
        of = self._planning
        return Rereading(self.inner, ids, mask, of.rollouts, of.layer, of.horizon, alone=False)


class Rereading(Texts):
    """Texts that are read again for every stride, in one row for each rollout if they are `alone`."""

    def __init__(
        self, model: Any, ids: Tensor, mask: Tensor, count: int, layer: int, room: int, *, alone: bool
    ) -> None:
        self.model, self.count, self.layer, self.room, self.alone = model, count, layer, room, alone
        self.read(ids, mask)

    def read(self, ids: Tensor, mask: Tensor) -> None:
        self.ids, self.mask, self.tokens = ids, mask, list[Tensor]()
        rows = [t.repeat_interleave(self.count, dim=0) if self.alone else t for t in (ids, mask)]
        counts = [1 if self.alone else self.count] * len(rows[0])
        self.states = Prefix(self.model, rows[0], None if bool(mask.all()) else rows[1], counts, room=self.room)
        self.logits = self.states.logits

    def step(self, token: Tensor, *, cut: bool) -> Tensor:
        with capturing_outputs(self.model, [self.layer]) as captured:
            self.logits = self.states.step(token)
        self.tokens.append(token)
        return captured[self.layer][:, -1]

    def keep(self, chosen: Tensor, take: int, left: Tensor) -> None:
        added = torch.stack(self.tokens[:take], dim=1)[chosen]
        ids, mask = torch.cat([self.ids, added], dim=1), torch.cat([self.mask, torch.ones_like(added)], dim=1)
        self.read(ids[left], mask[left])
