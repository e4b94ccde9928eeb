"""Settings of training: everything about the optimisation except the loss."""

from collections.abc import Sequence
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from uwc.errors import ConfigError, DataError
from uwc.io import IF_GIVEN
from uwc.models.selection import Select
from uwc.objectives.methods import Method
from uwc.objectives.registry import terms
from uwc.strict_numbers import StrictNumbers

MOST = 10**9
"""The largest count in a study's file."""
LAST_SEED = 2**32 - 1
"""The largest seed of numpy's generators."""

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

Precision = Annotated[Literal["no", "bf16", "fp16"], BeforeValidator(lambda value: "no" if value is False else value)]
"""Precision of forward passes; YAML reads a plain ``no`` as false."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class LoraSettings(StrictNumbers):
    """A low-rank adapter (arXiv:2106.09685): only its matrices are trained, the original's weights are unchanged.

    Attributes:
        rank: of the update of each matrix.
        alpha: the update is scaled by alpha / rank.
        dropout: on the adapter's input.
        targets: names of the modules that get one, comma-separated; "all-linear" is all but the output embedding.
        save: "merged" writes full weights that plain transformers loads; "adapter" writes the adapter alone.
    """

    rank: Annotated[int, Field(ge=1, le=65_536)] = 8
    alpha: Annotated[float, Field(gt=0)] = 16.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: str = "all-linear"
    save: Literal["merged", "adapter"] = "merged"


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class SampleSettings(StrictNumbers):
    """Settings of sampling answers from the model itself, for the role "sampled".

    Attributes:
        count: answers of each forget question.
        max_new_tokens: the most tokens of an answer.
        temperature: of the sampling.
        every: steps between samplings; None samples once, before the first step.
    """

    count: Annotated[int, Field(ge=1, le=MOST)] = 1
    max_new_tokens: Annotated[int, Field(ge=1, le=MOST)] = 64
    temperature: Annotated[float, Field(gt=0)] = 1.0
    every: Annotated[int, Field(ge=1, le=MOST)] | None = None


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class RetainSettings(StrictNumbers):
    """A part of the retain set that an unlearning run trains on.

    Attributes:
        examples: their number.
        select: the rule by which they are chosen, with the model as it is before unlearning; see
            `uwc.models.selection.select`.
    """

    examples: Annotated[int, Field(ge=1, le=MOST)]
    select: Select = "random"


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TrainingSettings(StrictNumbers):
    """Settings of one training run.

    Attributes:
        epochs: passes over the anchor set (the forget set, or all data in fine-tuning); may be fractional.
        batch_size: examples of the anchor set in an optimizer step, over all processes and micro-batches.
        micro_batch_size: the most examples in a forward pass; None takes a whole step. The loss is the same.
        lr: peak learning rate.
        schedule: its decay after the warm-up.
        warmup_ratio: share of all steps over which it rises from 0.
        optimizer: a class of `torch.optim` in any case ("adamw", "sgd", ...), or an 8-bit or paged one of bitsandbytes
            ("adamw8bit", "paged_adamw_8bit", "paged_adamw_32bit", ...) where that is installed.
        optimizer_settings: its further arguments, such as ``{"momentum": 0.9}``.
        weight_decay: the optimizer's, on matrices only.
        clip: the gradient's largest 2-norm; None does not clip.
        precision: "bf16" or "fp16" runs forwards under autocast; the weights keep their dtype.
        gradient_checkpointing: compute activations again in the backward pass instead of keeping them.
        lora: train a low-rank adapter instead of the weights.
        samples: settings of sampling answers, for methods that read the role "sampled".
        retain: train on a part of the retain set, in unlearning; None takes all of it.
        checkpoint_every: steps between checkpoints, where a folder for them is given; None writes none.
        gradient_effect_every: steps between records of the gradient effect; None records none.
        seed: of batch order, retain partners and examples, drawn answers and dropout.
    """

    epochs: float = Field(5.0, gt=0, le=MOST)
    batch_size: int = Field(16, ge=1, le=MOST)
    micro_batch_size: int | None = Field(None, ge=1, le=MOST)
    lr: float = Field(1e-5, gt=0)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_ratio: float = Field(0.1, ge=0, lt=1)
    optimizer: str = "adamw"
    optimizer_settings: dict[str, Any] = field(default_factory=dict)
    weight_decay: float = Field(0.0, ge=0)
    clip: float | None = Field(1.0, gt=0)
    precision: Precision = "no"
    gradient_checkpointing: bool = False
    lora: LoraSettings | None = None
    samples: SampleSettings = SampleSettings()
    retain: RetainSettings | None = field(default=None, metadata=IF_GIVEN)
    checkpoint_every: int | None = Field(None, ge=1, le=MOST)
    gradient_effect_every: int | None = Field(None, ge=1, le=MOST)
    seed: int = Field(0, ge=0, le=LAST_SEED)


def check_rule(method: Method, settings: TrainingSettings, *, where: str) -> None:
    """Raise ConfigError if the method's rule cannot be followed: it acts on the weights themselves and an adapter is to
    be trained, it reads gradients that fp16 scales, or it is about terms that the method does not have. Also if
    retain questions are chosen, and the method trains on none."""
    rule = method.rule
    if settings.retain is not None and not method.retains:
        raise ConfigError(f"{where} trains on no retain examples, so that training.retain has no effect; leave it out")
    if rule is None:
        return
    if rule.whole_weights and settings.lora is not None:
        raise ConfigError(f"{where}: the rule {rule.name} and lora do not go together; leave one of them out")
    if rule.gradients and settings.precision == "fp16":
        raise ConfigError(f"{where}: the rule {rule.name} and precision fp16 do not go together; use bf16")
    there = {terms.get(t.term).facts["side"] for t in method.terms}
    for side in rule.sides:
        if side not in there:
            raise ConfigError(
                f"{where}: the rule {rule.name} is about {side} terms, and the method has none; leave the rule out, or "
                "add one to the method's terms"
            )


def check_retain(settings: TrainingSettings, retain: Sequence[object], *, where: str) -> None:
    """Raise DataError if all examples of the retain set would be chosen, so that choosing some has no effect."""
    if settings.retain is not None and settings.retain.examples >= len(retain):
        raise DataError(
            f"{where}: training.retain.examples = {settings.retain.examples} has no effect, since there are "
            f"{len(retain)} retain examples; give fewer, or leave training.retain out"
        )


def check_stop(method: Method, *, where: str) -> None:
    """Raise ConfigError if runs of the method cannot be stopped early."""
    if not method.stops_early:
        raise ConfigError(
            f"{where}: this method forgets once, after its last step, so no score before it can end the run; leave "
            "early stopping out, and choose epochs or the settings of its rule instead"
        )
