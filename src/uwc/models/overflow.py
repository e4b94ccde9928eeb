"""Logits that overflow, or are NaN, are told as they occur: the model, the question and the remedy."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from uwc import progress
from uwc.models.model import Model

_REMEDY = {
    "torch.float16": "load it in float32 or bfloat16, which have a greater range (--set model.dtype=float32)",
    "torch.bfloat16": (
        "load it in float32 (--set model.dtype=float32); if they stay so, its weights are damaged or diverged"
    ),
}
_OTHERWISE = "its weights are damaged, or its training has diverged"


def warn_of_overflow(model: Model, ids: Sequence[str], finite: NDArray[np.bool_]) -> None:
    """Warn of questions for which a model's logits are NaN or infinite; they have no value in any metric.

    Args:
        model: the model.
        ids: [E] the questions; those of several answers may be repeated.
        finite: [E] whether all logits were finite.
    """
    lost = list(dict.fromkeys(identity for identity, fine in zip(ids, finite.tolist(), strict=True) if not fine))
    if not lost:
        return
    dtype = str(model.model.dtype)
    progress.warn(
        f"{model.name}: the logits in {dtype.removeprefix('torch.')} are not finite for {len(lost)} of {len(set(ids))} "
        f"questions (the first is {lost[0]!r}), which have no score; {_REMEDY.get(dtype, _OTHERWISE)}"
    )
