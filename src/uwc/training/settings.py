"""How a model is trained: everything about the optimisation that is not the loss."""

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

Precision = Annotated[Literal["no", "bf16", "fp16"], BeforeValidator(lambda value: "no" if value is False else value)]
"""Of forwards; in YAML a bare ``no`` is false."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class LoraSettings:
    """A low-rank adapter (arXiv:2106.09685): only its matrices are trained, the original's weights stay.

    Attributes:
        rank: of the update of each matrix.
        alpha: the update is scaled by alpha / rank.
        dropout: on the adapter's input.
        targets: names of the modules that get one, comma-separated; "all-linear" is all but the output embedding.
        save: "merged" writes full weights that plain transformers loads; "adapter" writes the adapter alone.
    """

    rank: Annotated[int, Field(ge=1)] = 8
    alpha: Annotated[float, Field(gt=0)] = 16.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: str = "all-linear"
    save: Literal["merged", "adapter"] = "merged"


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class SampleSettings:
    """How answers are sampled from the model itself, for the role "sampled".

    Attributes:
        count: answers of each forget question.
        max_new_tokens: the most tokens of an answer.
        temperature: of the sampling.
        every: sample again every so many steps; None samples once, before the first.
    """

    count: Annotated[int, Field(ge=1)] = 1
    max_new_tokens: Annotated[int, Field(ge=1)] = 64
    temperature: Annotated[float, Field(gt=0)] = 1.0
    every: Annotated[int, Field(ge=1)] | None = None


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class PruneSettings:
    """Weights set to zero before training and kept there (arXiv:2304.04934).

    Attributes:
        share: of the weights of the blocks' linear maps; embeddings, output embedding, norms and biases are kept.
        by: "magnitude" removes the smallest of the whole model; "wanda" the smallest |weight| x |input| of each output.
    """

    share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    by: Literal["magnitude", "wanda"] = "magnitude"


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class MiniSettings:
    """How Mini-Unlearning (arXiv:2406.16986) goes back; the run's steps are the ones it retraces.

    Attributes:
        contraction: by how much one update shrinks the difference between two trainings.
        strength: how many times the difference found is applied.
    """

    contraction: Annotated[float, Field(gt=0, le=1)] = 0.9
    strength: Annotated[float, Field(gt=0)] = 1.0


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TrainingSettings:
    """Settings of one training run.

    Attributes:
        epochs: passes over the anchor set (the forget set, or all data in fine-tuning); may be fractional.
        batch_size: examples of the anchor set in an optimizer step, over all processes and micro-batches.
        micro_batch_size: the most examples in one forward; None puts a step into one. The loss is the same.
        lr: peak learning rate.
        schedule: how it falls after the warm-up.
        warmup_ratio: share of all steps over which it rises from 0.
        optimizer: a class of `torch.optim` in any case ("adamw", "sgd", ...), or an 8-bit or paged one of bitsandbytes
            ("adamw8bit", "paged_adamw_8bit", "paged_adamw_32bit", ...) where that is installed.
        optimizer_settings: its further arguments, such as ``{"momentum": 0.9}``.
        weight_decay: the optimizer's, on matrices only.
        clip: the gradient's largest 2-norm; None does not clip.
        precision: "bf16" or "fp16" runs forwards under autocast; the weights keep their dtype.
        gradient_checkpointing: compute activations again in the backward pass instead of keeping them.
        lora: train a low-rank adapter instead of the weights.
        samples: how answers are sampled, for methods that read the role "sampled".
        l1: after each step every weight of the blocks' linear maps moves towards zero by lr x l1, and stays there
            once it arrives; l1 falls linearly to 0 over the run.
        prune: weights removed before training.
        negate: after training go the opposite way instead: ``w_0 - negate (w - w_0)``.
        contrast: use what was trained only to hold its logits against the original's, with this strength; gives two
            models that answer as one (arXiv:2310.02238).
        mini: retrace training by plain gradient descent instead of minimising the loss; of the other settings it
            reads `epochs`, `batch_size`, `lr` and `seed`.
        checkpoint_every: steps between checkpoints, where a folder for them is given; None writes none.
        gradient_effect_every: steps between records of the gradient effect; None records none.
        seed: of batch order, retain partners, drawn answers and dropout.
    """

    epochs: float = Field(5.0, gt=0)
    batch_size: int = Field(16, ge=1)
    micro_batch_size: int | None = Field(None, ge=1)
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
    l1: float = Field(0.0, ge=0)
    prune: PruneSettings | None = None
    negate: float | None = None
    contrast: float | None = Field(None, ge=0)
    mini: MiniSettings | None = None
    checkpoint_every: int | None = Field(None, ge=1)
    gradient_effect_every: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _together(self) -> "TrainingSettings":
        sparse: dict[str, Any] = {"prune": self.prune, "l1": self.l1 or None}
        others = {
            "lora": sparse,
            "mini": {**sparse, "lora": self.lora, "negate": self.negate, "contrast": self.contrast},
        }
        for name, excluded in others.items():
            for other, value in excluded.items():
                if getattr(self, name) is not None and value is not None:
                    raise ValueError(f"{name} and {other} do not go together; leave one of them out")
        return self
