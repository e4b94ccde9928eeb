"""Which examples meet in which training step: a pure function of the seed and the epoch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

BUCKET_STEPS = 4


@dataclass(frozen=True)
class StepPlan:
    """One optimizer step, by index.

    Attributes:
        anchors: examples of the anchor set (the forget set, or all data in fine-tuning).
        partners: as many retain examples, drawn uniformly with replacement; empty where there are none.
        draws: pool -> as many of its answers, drawn likewise.
    """

    anchors: tuple[int, ...]
    partners: tuple[int, ...]
    draws: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def plan_steps(
    lengths: Sequence[int], *, partners: int, pools: Mapping[str, int], batch_size: int, epochs: float, seed: int
) -> list[StepPlan]:
    """All steps of a run. Every epoch visits every anchor once, in a new order.

    Examples of like length share a batch: each run of four batches' worth of the shuffled order is sorted by length
    before it is cut, and the batches are shuffled again.

    Args:
        lengths: token count of each anchor example.
        partners: size of the retain set to draw from.
        pools: pool -> number of answers to draw from.
        batch_size: anchors in a step; the last step of an epoch may have fewer.
        epochs: passes over the anchors; a fraction ends within an epoch, after at least one step.
        seed: of all draws.
    """
    steps: list[StepPlan] = []
    for epoch in range(math.ceil(epochs)):
        rng = np.random.default_rng((seed, epoch))
        batches = _bucketed(np.asarray(lengths), batch_size, rng)
        for i in rng.permutation(len(batches)):
            anchors = batches[i]
            size = len(anchors)
            steps.append(
                StepPlan(
                    tuple(anchors.tolist()),
                    tuple(rng.integers(partners, size=size).tolist()) if partners else (),
                    {name: tuple(rng.integers(count, size=size).tolist()) for name, count in pools.items()},
                )
            )
    per_epoch = math.ceil(len(lengths) / batch_size)
    return steps[: max(1, round(epochs * per_epoch))]


def _bucketed(lengths: NDArray[np.int64], batch_size: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    order = rng.permutation(len(lengths))
    run = batch_size * BUCKET_STEPS
    batches: list[NDArray[np.int64]] = []
    for start in range(0, len(order), run):
        part = order[start : start + run]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches.extend(part[i : i + batch_size] for i in range(0, len(part), batch_size))
    return batches
