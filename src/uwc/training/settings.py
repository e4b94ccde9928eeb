"""How a model is trained: everything about the optimisation that is not the loss."""

from typing import Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class TrainingSettings:
    """Settings of one training run.

    Attributes:
        epochs: passes over the anchor set (the forget set, or all data in fine-tuning); may be fractional.
        batch_size: examples of the anchor set in an optimizer step, over all processes and micro-batches.
        micro_batch_size: the most examples in one forward; None puts a step into one. The loss is the same.
        lr: peak learning rate.
        schedule: how it falls after the warm-up.
        warmup_ratio: share of all steps over which it rises from 0.
        weight_decay: AdamW's, on matrices only.
        clip: the gradient's largest 2-norm; None does not clip.
        precision: "bf16" or "fp16" runs forwards under autocast; the weights keep their dtype.
        seed: of batch order, retain partners, refusals and dropout.
    """

    epochs: float = Field(5.0, gt=0)
    batch_size: int = Field(16, ge=1)
    micro_batch_size: int | None = Field(None, ge=1)
    lr: float = Field(1e-5, gt=0)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_ratio: float = Field(0.1, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    clip: float | None = Field(1.0, gt=0)
    precision: Literal["no", "bf16", "fp16"] = "no"
    seed: int = 0
