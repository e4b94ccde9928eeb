"""The data of a training run: the examples of each optimizer step, and its micro-batches."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uwc.data.example import Example, learnt
from uwc.data.prompts import EncodedExample
from uwc.errors import DataError
from uwc.models.model import Model
from uwc.objectives.methods import Method
from uwc.objectives.objective import Objective
from uwc.objectives.registry import ROLES
from uwc.objectives.rules import Undo
from uwc.training.settings import TrainingSettings

BUCKET_STEPS = 4

ANY = 2**31
"""Size of a draw whose pool differs from question to question; it is taken modulo the pool's size."""

Key = tuple[int, int]
"""Index of a question in a role's set, and of an answer in its pool; own answers have index 0."""


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


def step_count(anchors: int, *, batch_size: int, epochs: float) -> int:
    """The number of steps over N anchors, ``max(1, round(epochs ceil(N / batch_size)))``."""
    return max(1, round(epochs * math.ceil(anchors / batch_size)))


def plan_steps(
    lengths: Sequence[int], *, partners: int, pools: Mapping[str, int], batch_size: int, epochs: float, seed: int
) -> list[StepPlan]:
    """All steps of a run. Every epoch visits every anchor once, in a new order.

    Examples of like length share a batch: each run of four batches' worth of the shuffled order is sorted by length
    before it is split, and the batches are shuffled again.

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
    return steps[: step_count(len(lengths), batch_size=batch_size, epochs=epochs)]


def _bucketed(lengths: NDArray[np.int64], batch_size: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    order = rng.permutation(len(lengths))
    run = batch_size * BUCKET_STEPS
    batches: list[NDArray[np.int64]] = []
    for start in range(0, len(order), run):
        part = order[start : start + run]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches.extend(part[i : i + batch_size] for i in range(0, len(part), batch_size))
    return batches


@dataclass(frozen=True)
class TrainingData:
    """The questions and answers that a method trains on.

    Fine-tuning uses `retain` only; `refusals` are for methods that train on refusals. Methods that prefer alternative
    answers take the `perturbed_answers` of the forget examples.
    """

    forget: Sequence[Example] = ()
    retain: Sequence[Example] = ()
    refusals: Sequence[str] = ()


@dataclass(frozen=True)
class RoleBatch:
    """The examples of one role in a micro-batch, with their keys."""

    keys: tuple[Key, ...]
    encoded: tuple[EncodedExample, ...]


@dataclass(frozen=True)
class MicroBatch:
    """The examples of a micro-batch.

    Attributes:
        roles: role -> its examples.
        live: False if it only keeps this process synchronised with the others; its loss has weight 0.
    """

    roles: Mapping[str, RoleBatch]
    live: bool = True


@dataclass
class Loader:
    """Encodes the data that an objective needs, plans the steps, and splits them into micro-batches.

    Attributes:
        plan: all steps of the run.
        encoded: role -> key -> the example, for everything that the plan uses.

    Raises:
        DataError: the objective needs data that is empty, or an example does not fit into the context.
    """

    model: Model
    objective: Objective
    data: TrainingData
    settings: TrainingSettings
    plan: list[StepPlan] = field(init=False)
    encoded: dict[str, dict[Key, EncodedExample]] = field(init=False)

    def __post_init__(self) -> None:
        require_data(self.objective.method, self.data)
        self.plan = self._plan()
        self.encoded = {role: {} for role in self.objective.roles}
        for role in self.objective.roles:
            if ROLES[role].answers != "samples":
                keys = sorted({key for step in self.plan for key in self._keys(step, role)})
                examples = [self._example(role, key) for key in keys]
                self.encoded[role] = dict(zip(keys, self.model.encode(list(map(learnt, examples))), strict=True))

    @property
    def anchor(self) -> str:
        """The set whose examples an epoch visits."""
        return anchor_set(self.objective.roles)

    @property
    def samples(self) -> bool:
        """Whether answers must be sampled from the model."""
        return any(ROLES[role].answers == "samples" for role in self.objective.roles)

    def use_samples(self, samples: Mapping[Key, EncodedExample]) -> None:
        """Set the answers sampled from the model: (question, number) -> prompt with answer."""
        for role in self.objective.roles:
            if ROLES[role].answers == "samples":
                self.encoded[role] = dict(samples)

    def micro_batches(self, step: StepPlan, size: int | None, *, rank: int = 0, of: int = 1) -> list[MicroBatch]:
        """The examples of one process in a step, split into pieces of at most `size` anchors.

        Args:
            step: the step.
            size: the most anchors in a piece; None makes one piece.
            rank: the process; it takes every `of`-th example.
            of: number of processes; each gets equally many pieces, some of them without effect where examples run out.
        """
        places = list(range(len(step.anchors)))
        share = -(-len(places) // of)
        size = (size or share) if self._may_share(step) else 1
        mine = places[rank::of]
        pieces = [mine[i : i + size] for i in range(0, share, size)]
        return [self._micro_batch(step, piece or places[:1], live=bool(piece)) for piece in pieces]

    def denominators(self, step: StepPlan) -> dict[str, float]:
        """The denominator of each term's mean in this step, over all micro-batches and processes."""
        answer: dict[str, Tensor] = {}
        attended: dict[str, Tensor] = {}
        for role in self.objective.roles:
            encoded = [self.encoded[role][key] for key in self._keys(step, role)]
            answer[role] = torch.tensor([len(e.tokens) - max(e.start, 1) for e in encoded])
            attended[role] = torch.tensor([len(e.tokens) - 1 for e in encoded])
        return self.objective.denominators(answer, attended)

    def _plan(self) -> list[StepPlan]:
        anchors = self.data.retain if self.anchor == "retain" else self.data.forget
        questions = {ROLES[role].questions for role in self.objective.roles}
        used = {ROLES[role].answers for role in self.objective.roles}
        sizes = {
            "refusals": len(self.data.refusals),
            "retain_answers": len(self.data.retain),
            "alternatives": ANY,
            "samples": ANY,
        }
        return plan_steps(
            [len(e.tokens) for e in self.model.encode(list(map(learnt, anchors)))],
            partners=len(self.data.retain) if self.anchor == "forget" and "retain" in questions else 0,
            pools={pool: size for pool, size in sizes.items() if pool in used},
            batch_size=self.settings.batch_size,
            epochs=self.settings.epochs,
            seed=self.settings.seed,
        )

    def _keys(self, step: StepPlan, role: str) -> list[Key]:
        kind = ROLES[role]
        questions = step.anchors if kind.questions == self.anchor else step.partners
        if kind.answers == "own":
            return [(q, 0) for q in questions]
        drawn = step.draws[kind.answers]
        return [(q, d % self._pool_size(kind.answers, q)) for q, d in zip(questions, drawn, strict=True)]

    def _pool_size(self, pool: str, question: int) -> int:
        if pool == "alternatives":
            return len(self.data.forget[question].perturbed_answers)
        return self.settings.samples.count if pool == "samples" else ANY

    def _example(self, role: str, key: Key) -> Example:
        kind, (question, number) = ROLES[role], key
        example = (self.data.retain if kind.questions == "retain" else self.data.forget)[question]
        answers: dict[str, Any] = {
            "own": lambda: example.answer,
            "refusals": lambda: self.data.refusals[number],
            "retain_answers": lambda: self.data.retain[number].answer,
            "alternatives": lambda: example.perturbed_answers[number],
        }
        return replace(example, answer=answers[kind.answers]())

    def _may_share(self, step: StepPlan) -> bool:
        """Whether the examples of each role in a step may share a forward pass."""
        lengths = ([len(self.encoded[r][key].tokens) for key in self._keys(step, r)] for r in self.objective.roles)
        return all(self.model.sharing().share(of_role) for of_role in lengths)

    def _micro_batch(self, step: StepPlan, places: Sequence[int], *, live: bool) -> MicroBatch:
        roles = {}
        for role in self.objective.roles:
            all_keys = self._keys(step, role)
            keys = tuple(all_keys[place] for place in places)
            roles[role] = RoleBatch(keys, tuple(self.encoded[role][key] for key in keys))
        return MicroBatch(roles, live)


_POOL_SETS: Mapping[str, tuple[str, ...]] = {
    "own": (),
    "refusals": ("refusal",),
    "retain_answers": ("retain",),
    "alternatives": (),
    "samples": (),
}


def anchor_set(roles: Iterable[str]) -> str:
    """The set whose examples an epoch visits: the forget set, or the retain set where no role asks other questions."""
    return "retain" if all(ROLES[role].questions == "retain" for role in roles) else "forget"


_GIVE = {"forget": "--forget", "retain": "--retain", "refusal": "benchmark.settings.refusals"}
"""Set -> where it is given."""


def require_data(method: Method, data: TrainingData) -> None:
    """Raise DataError if there are no examples, or not of the kind, that a method trains on."""
    sets: dict[str, Sequence[Example | str]] = {
        "forget": data.forget,
        "retain": data.retain,
        "refusal": data.refusals,
    }
    roles = [ROLES[role] for role in sorted(method.roles)]
    needed = {role.questions for role in roles} | {name for role in roles for name in _POOL_SETS[role.answers]}
    for name in sorted(needed):
        if not sets[name]:
            raise DataError(
                f"the method {method.name!r} needs {name} examples, and there are none; give some ({_GIVE[name]})"
            )
    if isinstance(method.rule, Undo) and not data.retain:
        raise DataError("the rule undo distils on retain examples, and there are none; give some (--retain)")
    for role in roles:
        for example in data.retain if role.questions == "retain" else data.forget:
            if example.raw and role.answers not in ("own", "samples"):
                raise DataError(
                    f"the method {method.name!r} trains on other answers to a question, and example {example.id!r} is "
                    "a passage, which asks nothing; use a method without them, such as npo, or questions"
                )
            if role.answers == "alternatives" and not example.perturbed_answers:
                raise DataError(
                    f"the method {method.name!r} needs alternative answers, and the forget example {example.id!r} has "
                    "no perturbed_answers; give some, or use altpo-on-policy"
                )


def tokens_in(micro_batches: Iterable[MicroBatch]) -> int:
    """The number of tokens in these micro-batches, without padding."""
    return sum(len(e.tokens) for micro in micro_batches for batch in micro.roles.values() for e in batch.encoded)
