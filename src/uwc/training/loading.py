"""From examples to the micro-batches of each training step."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from uwc.data.example import Example
from uwc.data.prompts import EncodedExample
from uwc.errors import DataError
from uwc.models.target import Target
from uwc.objectives.objective import Objective
from uwc.training.sampling import StepPlan, plan_steps
from uwc.training.settings import TrainingSettings


@dataclass(frozen=True)
class TrainingData:
    """What a method may train on. Fine-tuning uses `retain` alone; refusals are for the methods that teach them."""

    forget: Sequence[Example] = ()
    retain: Sequence[Example] = ()
    refusals: Sequence[str] = ()


@dataclass(frozen=True)
class RoleBatch:
    """The examples of one role in a micro-batch, with their places in the role's set."""

    indices: tuple[int, ...]
    encoded: tuple[EncodedExample, ...]


MicroBatch = Mapping[str, RoleBatch]


@dataclass
class Loader:
    """Encodes the data that an objective needs, and cuts steps into micro-batches.

    Raises:
        DataError: the objective needs data that is empty, or an example does not fit into the context.
    """

    target: Target
    objective: Objective
    data: TrainingData
    encoded: dict[str, list[EncodedExample]] = field(init=False)

    def __post_init__(self) -> None:
        sets: dict[str, Sequence[object]] = {
            "forget": self.data.forget, "retain": self.data.retain, "refusal": self.data.refusals,
        }  # fmt: skip
        needed = {"forget", *self.objective.roles} if "refusal" in self.objective.roles else {*self.objective.roles}
        for role in sorted(needed):
            if not sets[role]:
                raise DataError(f"the method {self.objective.method.name!r} needs {role} examples, and there are none")
        self.encoded = {
            role: self.target.encode(examples)
            for role, examples in (("forget", self.data.forget), ("retain", self.data.retain))
            if role in self.objective.roles
        }

    @property
    def anchor(self) -> str:
        """The role whose examples an epoch visits."""
        return "retain" if self.objective.roles == ("retain",) else "forget"

    def plan(self, settings: TrainingSettings) -> list[StepPlan]:
        """The steps of the whole run."""
        anchors = self.data.retain if self.anchor == "retain" else self.data.forget
        lengths = [len(e.tokens) for e in self.encoded.get(self.anchor) or self.target.encode(anchors)]
        has_partners = self.anchor == "forget" and "retain" in self.objective.roles
        return plan_steps(
            lengths,
            partners=len(self.data.retain) if has_partners else 0,
            refusals=len(self.data.refusals) if "refusal" in self.objective.roles else 0,
            batch_size=settings.batch_size,
            epochs=settings.epochs,
            seed=settings.seed,
        )

    def micro_batches(self, step: StepPlan, size: int | None) -> list[MicroBatch]:
        """The step's examples by role, cut into pieces of at most `size` anchors."""
        size = size or len(step.anchors)
        return [self._micro_batch(step, slice(i, i + size)) for i in range(0, len(step.anchors), size)]

    def _micro_batch(self, step: StepPlan, part: slice) -> MicroBatch:
        chosen = {self.anchor: step.anchors[part]}
        if step.partners:
            chosen["retain"] = step.partners[part]
        batches = {
            role: RoleBatch(indices, tuple(self.encoded[role][i] for i in indices))
            for role, indices in chosen.items()
            if role in self.encoded
        }
        if step.refusals:
            pairs = zip(step.anchors[part], step.refusals[part], strict=True)
            examples = [replace(self.data.forget[a], answer=self.data.refusals[r]) for a, r in pairs]
            batches["refusal"] = RoleBatch(step.anchors[part], tuple(self.target.encode(examples)))
        return batches

    def denominators(self, micro_batches: Sequence[MicroBatch]) -> dict[str, float]:
        """What each term's mean divides by in this step, over all its micro-batches."""
        answer: dict[str, Tensor] = {}
        attended: dict[str, Tensor] = {}
        for role in self.objective.roles:
            encoded = [e for micro in micro_batches for e in micro[role].encoded]
            answer[role] = torch.tensor([len(e.tokens) - max(e.start, 1) for e in encoded])
            attended[role] = torch.tensor([len(e.tokens) - 1 for e in encoded])
        return self.objective.denominators(answer, attended)


def tokens_in(micro_batches: Iterator[MicroBatch] | Sequence[MicroBatch]) -> int:
    """How many tokens the trained model reads in these micro-batches, without padding."""
    return sum(len(e.tokens) for micro in micro_batches for batch in micro.values() for e in batch.encoded)
