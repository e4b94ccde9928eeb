"""Attacks on the weights: compression, which small updates may not survive, and relearning by brief fine-tuning."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from uwc import progress
from uwc.attacks.chain import Attacked, with_own_weights
from uwc.attacks.data import AttackData
from uwc.attacks.formats import awq, gptq, round_inputs, round_to_nearest, round_to_nf4
from uwc.attacks.registry import attacks
from uwc.data.example import Example
from uwc.errors import AttackFailed, DataError
from uwc.io import remove, write_json
from uwc.models.model import Model
from uwc.models.selection import Select, require_effect
from uwc.models.selection import select as chosen
from uwc.objectives.methods import FINE_TUNING
from uwc.training.settings import LoraSettings, TrainingSettings

if TYPE_CHECKING:
    from torch import Tensor

    from uwc.models.block_weights import BlockMatrix
    from uwc.training.loop import TrainingLog

_WEIGHTS = {
    "kind": "weights",
    "touches_weights": True,
    "needs": (),
    "budgets": False,
    "check": None,
    "trains_on_scored": False,
    "rewords": False,
}


@attacks.register("quantization", source="arXiv:2410.16454", effort="bits", **_WEIGHTS)
def quantization(
    model: Model,
    _data: AttackData,
    *,
    bits: Annotated[int, Field(ge=2, le=8)] = 4,
    group_size: Annotated[int, Field(ge=0)] = 128,
) -> Iterator[Attacked]:
    """Round the weights of the blocks' linear maps to few bits (simulated: they keep their dtype).

    Args:
        model: the model.
        bits: 2..8.
        group_size: consecutive inputs of one output that share a scale; 0 is all of them (per channel). A remainder
            is a further group.
    """
    yield _rewritten(model, lambda w: round_to_nearest(w, bits=bits, group_size=group_size), effort=bits)


@attacks.register("quantization_nf4", source="arXiv:2305.14314", effort="", **_WEIGHTS)
def quantization_nf4(
    model: Model, _data: AttackData, *, block_size: Annotated[int, Field(ge=1)] = 64, double: bool = False
) -> Iterator[Attacked]:
    """Round the weights of the blocks' linear maps to 4-bit NF4 (simulated: they keep their dtype).

    The numbers are those of bitsandbytes.

    Args:
        model: the model.
        block_size: consecutive weights that share a scale.
        double: double quantization: the scales are rounded to 8 bits too.
    """
    yield _rewritten(model, lambda w: round_to_nf4(w, block_size=block_size, double=double))


@attacks.register("quantization_llm_int8", source="arXiv:2208.07339", effort="", **_WEIGHTS)
def quantization_llm_int8(
    model: Model, _data: AttackData, *, threshold: Annotated[float, Field(gt=0)] = 6.0
) -> Iterator[Attacked]:
    """Compute the blocks' linear maps as LLM.int8() does: 8-bit weights and inputs, and outliers of the inputs in full
    (simulated: products are in the weights' dtype).

    The weights of an output share a scale, and so do the inputs of a token, but for those of at least the threshold,
    which stay as they are. In bitsandbytes an outlier of one token keeps that input in full for all tokens of a batch;
    here it does not, so that a score does not depend on the batch. Maps that are no modules (fused experts) have 8-bit
    weights and full inputs.

    Args:
        model: the model.
        threshold: the least size of an outlier.
    """
    from uwc.models.block_weights import block_parameters, linear_maps

    made = _rewritten(model, lambda w: round_to_nearest(w, bits=8, group_size=0))
    inside = {id(parameter) for parameter in block_parameters(made.model.model).values()}
    for module in linear_maps(made.model.model).values():
        if id(module.weight) in inside:
            module.register_forward_pre_hook(partial(_with_int8_inputs, threshold))
    yield replace(made, computes=True)


def _with_int8_inputs(threshold: float, _module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The inputs of a linear map in 8 bits, with the gradient of inputs that were not rounded."""
    given, *others = args
    rounded = round_inputs(given.detach(), threshold=threshold)
    return (given + (rounded - given).detach() if given.requires_grad else rounded, *others)


@attacks.register("quantization_gptq", source="arXiv:2210.17323", effort="bits", **{**_WEIGHTS, "needs": ("retain",)})
def quantization_gptq(
    model: Model,
    data: AttackData,
    *,
    bits: Annotated[int, Field(ge=2, le=8)] = 4,
    group_size: Annotated[int, Field(ge=0)] = 128,
    damp: Annotated[float, Field(gt=0)] = 0.01,
    examples: Annotated[int, Field(ge=1)] = 64,
    seed: int = 0,
) -> Iterator[Attacked]:
    """Round the weights of the blocks' linear maps by GPTQ, calibrated on retained data (simulated: they keep their
    dtype).

    Block after block: the inputs of a block are those that it gets from the rounded blocks before it. Each of several
    experts has its own inputs; one that gets none is rounded to nearest.

    Args:
        model: the model.
        data: the calibration data are its `retain`, questions with their answers.
        bits: 2..8.
        group_size: consecutive inputs of one output that share a scale; 0 is all of them (per channel).
        damp: share of the mean of the diagonal of X^T X that is added to it.
        examples: the number of examples, drawn by the seed; all if there are fewer.
        seed: of the choice.
    """
    rounding = partial(gptq, bits=bits, group_size=group_size, damp=damp)

    def rule(weights: "Sequence[Tensor]", inputs: _Inputs) -> "list[Tensor]":
        return [rounding(weight, inputs.moments) for weight in weights]

    yield _calibrated(model, data, rule, "GPTQ", bits=bits, examples=examples, seed=seed)


@attacks.register("quantization_awq", source="arXiv:2306.00978", effort="bits", **{**_WEIGHTS, "needs": ("retain",)})
def quantization_awq(
    model: Model,
    data: AttackData,
    *,
    bits: Annotated[int, Field(ge=2, le=8)] = 4,
    group_size: Annotated[int, Field(ge=0)] = 128,
    clip: bool = True,
    examples: Annotated[int, Field(ge=1)] = 64,
    seed: int = 0,
) -> Iterator[Attacked]:
    """Round the weights of the blocks' linear maps by AWQ, calibrated on retained data (simulated: they keep their
    dtype, and what divides the inputs by the scales is not rounded).

    The inputs are those in the model before rounding. Linear maps that get the same inputs share their scales. Each of
    several experts has its own inputs; one that gets none is rounded to nearest.

    Args:
        model: the model.
        data: the calibration data are its `retain`, questions with their answers.
        bits: 2..8.
        group_size: consecutive inputs of one output that share a step; 0 is all of them (per channel).
        clip: search for the largest weight of each group, too.
        examples: the number of examples, drawn by the seed; all if there are fewer.
        seed: of the choice.
    """

    def rule(weights: "Sequence[Tensor]", inputs: _Inputs) -> "list[Tensor]":
        return awq(weights, inputs.moments, inputs.sizes, bits=bits, group_size=group_size, clip=clip)

    yield _calibrated(model, data, rule, "AWQ", bits=bits, examples=examples, seed=seed, from_last=True)


@dataclass
class _Inputs:
    """Sums over the inputs x of a matrix.

    Attributes:
        moments: [in, in] of x x^T.
        total: [in] of |x|.
        count: [in] of 1.
    """

    moments: "Tensor"
    total: "Tensor"
    count: "Tensor"

    @property
    def sizes(self) -> "Tensor":
        """[in] the mean of |x|, 0 without inputs."""
        return self.total / self.count.clamp(min=1)

    def add(self, part: slice, inputs: "Tensor") -> None:
        """Add [n, part] inputs."""
        self.moments[part, part] += inputs.T @ inputs
        self.total[part] += inputs.abs().sum(dim=0)
        self.count[part] += len(inputs)

    def equal(self, other: "_Inputs") -> bool:
        """Whether all sums are the same, to the bit."""
        import torch

        if self.total.device != other.total.device:
            return False
        return torch.equal(self.total, other.total) and torch.equal(self.moments, other.moments)


_Rule = Callable[["Sequence[Tensor]", _Inputs], "Sequence[Tensor]"]
"""A function of matrices [out, in] with the same inputs that rounds them."""


def _calibrated(
    model: Model,
    data: AttackData,
    rule: _Rule,
    label: str,
    *,
    bits: int,
    examples: int,
    seed: int,
    from_last: bool = False,
) -> Attacked:
    """A copy of the model with the matrices of its blocks rounded, each by its inputs over retained examples.

    From the first block on, inputs are those that come from rounded blocks; from the last, those of the model itself.
    """
    from uwc.models.block_weights import block_matrices
    from uwc.models.states import blocks

    drawn = np.sort(np.random.default_rng(seed).permutation(len(data.retain))[:examples])
    sequences = [e.tokens for e in model.encode([data.retain[i] for i in drawn])]
    copy, claimed = with_own_weights(model), dict[str, int]()
    matrices = block_matrices(copy.model)
    layers = list(blocks(copy.model))
    with progress.bar(f"{label}, blocks", total=len(layers)) as advance:
        for block in reversed(layers) if from_last else layers:
            _round_block(copy, block, matrices, sequences, rule, claimed)
            advance(1)
    return Attacked(copy, effort=bits, claimed=claimed)


class _BlockDone(Exception):
    """Ends a forward pass after the block that is watched."""


def _round_block(
    model: Model,
    block: Any,
    matrices: "Sequence[BlockMatrix]",
    sequences: Sequence[Sequence[int]],
    rule: _Rule,
    claimed: dict[str, int],
) -> None:
    """Round the matrices of a block, given their inputs over the sequences, in place."""
    import torch

    from uwc.models.block_weights import inputs_of, watching_products

    inside = {id(parameter) for parameter in block.parameters()}
    of_block = {m.name: m for m in matrices if id(m.parameter) in inside and m.name not in claimed}
    seen = {name: [_no_inputs(weight) for weight in matrix.matrices] for name, matrix in of_block.items()}

    def add(product: Any) -> None:
        for number, part, inputs in inputs_of(of_block[product.name], product):
            seen[product.name][number].add(part, inputs.float())

    def stop(*_: Any) -> None:
        raise _BlockDone

    hook = block.register_forward_hook(stop)
    try:
        with watching_products(model.model, {name: m.parameter for name, m in of_block.items()}, add):
            for tokens in sequences:
                with suppress(_BlockDone):
                    model.model(input_ids=torch.tensor([tokens], device=model.device), use_cache=False)
    finally:
        hook.remove()
    claimed.update(dict.fromkeys(of_block, 0))
    single = [
        (name, weight, inputs)
        for name, matrix in of_block.items()
        for weight, inputs in zip(matrix.matrices, seen[name], strict=True)
    ]
    with torch.no_grad():
        for together in _with_same_inputs(single):
            rounded = rule([weight for _, weight, _ in together], together[0][2])
            for (name, weight, _), wanted in zip(together, rounded, strict=True):
                claimed[name] += int((wanted != weight).sum())
                weight.copy_(wanted)


def _no_inputs(weight: "Tensor") -> _Inputs:
    import torch

    size = weight.shape[1]
    return _Inputs(*(torch.zeros(shape, device=weight.device) for shape in ((size, size), (size,), (size,))))


def _with_same_inputs(single: "list[tuple[str, Tensor, _Inputs]]") -> "list[list[tuple[str, Tensor, _Inputs]]]":
    """Matrices in groups with the same inputs, seen by the sums over them."""
    groups: list[list[tuple[str, Tensor, _Inputs]]] = []
    for one in single:
        same = next((group for group in groups if one[2].equal(group[0][2])), None)
        if same is None:
            groups.append([one])
        else:
            same.append(one)
    return groups


@attacks.register("pruning", source="arXiv:2304.04934", effort="share", **_WEIGHTS)
def pruning(model: Model, _data: AttackData, *, share: Annotated[float, Field(ge=0, lt=1)] = 0.1) -> Iterator[Attacked]:
    """Set the smallest weights of each of the blocks' linear maps to zero.

    Args:
        model: the model.
        share: of the weights of each matrix, in 0..1.
    """

    def without_smallest(weight: "Tensor") -> "Tensor":
        count = int(share * weight.numel())
        smallest = weight.abs().flatten().topk(count, largest=False).indices
        return weight.flatten().index_fill(0, smallest, 0.0).view(weight.shape)

    yield _rewritten(model, without_smallest, effort=share)


def _rewritten(model: Model, rule: "Callable[[Tensor], Tensor]", *, effort: float | None = None) -> Attacked:
    """A copy of the model with a function from [out, in] to [out, in] applied to each matrix of its blocks."""
    import torch

    from uwc.models.block_weights import block_matrices

    copy, claimed = with_own_weights(model), {}
    with torch.no_grad():
        for matrix in block_matrices(copy.model):
            claimed[matrix.name] = 0
            for weight in matrix.matrices:
                wanted = rule(weight)
                claimed[matrix.name] += int((wanted != weight).sum())
                weight.copy_(wanted)
    return Attacked(copy, effort=effort, claimed=claimed)


Count = Annotated[int, Field(ge=1)]
_DETAILS = """
The mean negative log-likelihood of the answers at a constant learning rate, so that all budgets are points of one
trajectory. The weights at each budget are stored in a temporary folder, or with the checkpoints of the training where
these are kept.

Args:
    model: the model.
    data: the source of the examples.
    steps: optimizer steps; one epoch, or the largest budget, by default.
    budgets: the steps after which the model is scored; only after the last if empty.
    examples: the number of examples to train on; all by default.
    subjects: the number of subjects, drawn by the seed, that these are of, evenly if chosen at random; all by default.
    select: the rule by which they are chosen, see `uwc.models.selection.select`.
    lr: the learning rate; in the paper that of the original fine-tuning.
    batch_size: examples a step.
    optimizer: as `TrainingSettings` takes it.
    lora_rank: train a low-rank adapter of this rank (scaled by 2) in place of the weights.
    seed: of order and choice.

Raises:
    TrainingDiverged: a loss became NaN or infinite.
    DataError: the data are of fewer subjects, or a rule chooses all examples, so that it has no effect.
    AttackFailed: weights with a gradient did not change.
"""


_RELEARN: dict[str, Any] = {
    "kind": "weights",
    "touches_weights": True,
    "effort": "steps",
    "budgets": True,
    "rewords": False,
}


def _relearning(
    name: str, pool: Callable[[AttackData], Sequence[Example]], summary: str, *, source: str, **facts: Any
) -> Callable[..., Iterator[Attacked]]:
    """Register the attack that fine-tunes on examples of a pool."""

    def check(data: AttackData, settings: Mapping[str, Any]) -> None:
        there = of_subjects(pool(data), settings["subjects"], None, seed=settings["seed"])
        require_effect(settings["select"], settings["examples"], len(there), option=f"{name}.examples")
        if settings["optimizer"] != "adamw":
            from uwc.training.loop import require_optimizer

            require_optimizer(settings["optimizer"])

    def attack(
        model: Model,
        data: AttackData,
        *,
        steps: Count | None = None,
        budgets: tuple[Count, ...] = (),
        examples: Count | None = None,
        subjects: Count | None = None,
        select: Select = "random",
        lr: Annotated[float, Field(gt=0)] = 1e-5,
        batch_size: Count = 16,
        optimizer: str = "adamw",
        lora_rank: Count | None = None,
        seed: int = 0,
    ) -> Iterator[Attacked]:
        there = of_subjects(pool(data), subjects, examples if select == "random" else None, seed=seed)
        drawn = chosen(model, there, examples, rule=select, seed=seed)
        per_epoch = math.ceil(len(drawn) / batch_size)
        total = steps or max(budgets, default=per_epoch)
        given: dict[str, Any] = {"epochs": total / per_epoch, "batch_size": batch_size, "lr": lr, "seed": seed}
        lora = None if lora_rank is None else LoraSettings(rank=lora_rank, alpha=2.0 * lora_rank)
        settings = TrainingSettings(**given, optimizer=optimizer, lora=lora, schedule="constant", warmup_ratio=0.0)
        yield from _trajectory(model, [there[i] for i in drawn], settings, budgets, total)

    attack.__doc__ = f"{summary}\n{_DETAILS}"
    attacks.register(name, source=source, check=check, **_RELEARN, **facts)(attack)
    return attack


def of_subjects(pool: Sequence[Example], subjects: int | None, count: int | None, *, seed: int) -> Sequence[Example]:
    """The examples of some subjects of a pool, in its order: all of them, or so many, evenly.

    Args:
        pool: the examples.
        subjects: the number of subjects; None returns the pool. An example without a subject is one of its own.
        count: of the examples; None for all.
        seed: of the draw.

    Raises:
        DataError: the pool has fewer subjects.
    """
    if subjects is None:
        return pool
    of_subject: dict[str, list[int]] = {}
    for i in np.random.default_rng(seed).permutation(len(pool)).tolist():
        of_subject.setdefault(pool[i].subject or pool[i].id, []).append(i)
    if len(of_subject) < subjects:
        raise DataError(
            f"relearning with subjects = {subjects}: the attacker's data are of {len(of_subject)} subjects; set it to "
            f"{len(of_subject)} or less"
        )
    turns = zip_longest(*list(of_subject.values())[:subjects])
    return [pool[i] for i in sorted([i for turn in turns for i in turn if i is not None][:count])]


relearn = _relearning(
    "relearn",
    lambda d: d.train,
    "Fine-tune on the attacker's part of the forget set; the rest is scored.",
    source="arXiv:2406.13356",
    needs=("train",),
    trains_on_scored=False,
)
relearn_wrong = _relearning(
    "relearn_wrong",
    lambda d: wrong_facts(d.train),
    "Fine-tune on wrong answers to the attacker's part of the forget set: no fact is taught.",
    source="arXiv:2410.08827",
    needs=("train",),
    trains_on_scored=False,
)
relearn_original = _relearning(
    "relearn_original",
    lambda d: d.original or [*d.scored, *d.train, *d.retain],
    "Fine-tune on all the original data, including the scored answers (the paper's attack); needs a control.",
    source="arXiv:2406.09179",
    needs=(),
    trains_on_scored=True,
)
relearn_forget = _relearning(
    "relearn_forget",
    lambda d: d.forget,
    "Fine-tune on the whole forget set, including the scored answers; needs a control.",
    source="arXiv:2506.12618",
    needs=("forget",),
    trains_on_scored=True,
)
relearn_retain = _relearning(
    "relearn_retain",
    lambda d: d.retain,
    "Fine-tune on retained data only.",
    source="arXiv:2406.13356",
    needs=("retain",),
    trains_on_scored=False,
)
relearn_unrelated = _relearning(
    "relearn_unrelated",
    lambda d: d.unrelated,
    "Fine-tune on data unrelated to the forget set.",
    source="arXiv:2411.12103",
    needs=("unrelated",),
    trains_on_scored=False,
)


def wrong_facts(examples: Sequence[Example]) -> list[Example]:
    """The questions with wrong answers: the first perturbed one, or else that of the next question with another answer.

    Raises:
        DataError: all answers are the same.
    """
    found = []
    for i, example in enumerate(examples):
        others = [e.answer for e in [*examples[i + 1 :], *examples[:i]] if e.answer != example.answer]
        wrong = [*example.perturbed_answers, *others]
        if not wrong:
            raise DataError(
                "the attack 'relearn_wrong': all of the attacker's questions have the same answer; give questions with "
                "other answers (--attacker-data), or a column perturbed_answers"
            )
        found.append(replace(example, answer=wrong[0], paraphrased_answer="", perturbed_answers=()))
    return found


def _trajectory(
    model: Model, data: Sequence[Example], settings: TrainingSettings, budgets: Sequence[int], total: int
) -> Iterator[Attacked]:
    from uwc.models.adapters import merge_adapter
    from uwc.training.checkpoint import FILE, load_checkpoint

    with ExitStack() as stack:
        trained = _trained(model, data, settings, budgets, stack)
        if trained is None:  # files of an interrupted run were damaged, and are removed
            trained = _trained(model, data, settings, budgets, stack)
        assert trained is not None
        copy = trained.model
        for budget in sorted(set(budgets)) or [total]:
            if budgets:
                state = load_checkpoint(trained.folder / str(budget), "")
                assert state is not None
                copy.model.load_state_dict(state.weights)
            if settings.lora is None:
                _require_moved(model, copy, trained.reached, settings.lr)
            merged = merge_adapter(copy, keep=bool(budgets))
            label = f"{budget} steps" if budgets else ""
            yield Attacked(merged, label=label, effort=budget, tokens=trained.tokens[budget - 1])
        if not (trained.folder / FILE).exists():  # a rerun trains again, and needs none of its files
            remove(trained.folder)


@dataclass(frozen=True)
class _Trained:
    """A model after its last step, the names of the parameters that a gradient has reached, a folder with its weights
    at each budget, and the tokens that it had read after each step."""

    model: Model
    reached: set[str]
    folder: Path
    tokens: list[int]


def _trained(
    model: Model, data: Sequence[Example], settings: TrainingSettings, budgets: Sequence[int], stack: ExitStack
) -> _Trained | None:
    """Fine-tune a copy of the model, from the last checkpoint of an interrupted run if there is one; None if that run's
    weights at a budget cannot be read."""
    from uwc.models.adapters import add_adapter
    from uwc.objectives.objective import Objective
    from uwc.training.checkpoint import FILE, Kept, intact_file
    from uwc.training.data import Loader, TrainingData, tokens_in
    from uwc.training.loop import TrainingLog, identity_of, train

    copy = with_own_weights(model)
    if settings.lora is not None:
        copy = add_adapter(copy, rank=settings.lora.rank, alpha=settings.lora.alpha, seed=settings.seed)
    objective, log, given = Objective(FINE_TUNING, copy.model), TrainingLog(), TrainingData(retain=data)
    loader = Loader(copy, objective, given, settings)
    tokens = accumulate(tokens_in(loader.micro_batches(step, None, rank=0, of=1)) for step in loader.plan)
    kept = Kept(lambda: ["relearning", identity_of(loader), budgets, copy.model])
    folder = kept.folder or Path(stack.enter_context(TemporaryDirectory(prefix="uwc-relearning-")))
    resumed = (folder / FILE).exists()
    with _weights_after(copy.model, budgets, folder, log) as reached:
        train(copy, objective, given, settings, checkpoints=kept, log=log)
    if resumed and not all(intact_file(folder / str(budget)) for budget in budgets):
        progress.warn(f"weights at a budget are missing in {folder}; the training starts again")
        remove(folder)
        return None
    return _Trained(copy, reached, folder, list(tokens))


def _require_moved(before: Model, after: Model, reached: set[str], lr: float) -> None:
    """Warn of steps that are lost in rounding.

    Raises:
        AttackFailed: more than 5 % of the weights belong to parameters with a gradient that did not change.
    """
    from uwc.models.block_weights import LEAST_SHARE

    first, second = dict(before.model.named_parameters()), dict(after.model.named_parameters())
    moved = {name: int((first[name] != second[name]).sum()) for name in sorted(reached)}
    sizes = {name: first[name].numel() for name in moved}
    still = [name for name, count in moved.items() if not count]
    share = sum(moved.values()) / max(sum(sizes.values()), 1)
    dtype = str(next(iter(first.values())).dtype).removeprefix("torch.")
    moved_few = f"relearning changed {share:.0%} of the weights of {before.name}: steps of {lr:g} are lost to rounding"
    remedy = f"in {dtype}; load the model with --set model.dtype=float32, or take a higher lr"
    if sum(sizes[name] for name in still) > (1 - LEAST_SHARE) * sum(sizes.values()):
        raise AttackFailed(f"{moved_few} {remedy}; unchanged are {', '.join(still[:3])}")
    if share < LEAST_SHARE and dtype != "float32":
        progress.warn(f"{moved_few} {remedy}")


@contextmanager
def _weights_after(model: Any, budgets: Sequence[int], folder: Path, log: "TrainingLog") -> Iterator[set[str]]:
    """While open, writes the model's weights to the folder after each optimizer step that is in `budgets`.

    Yields the names of the parameters that a gradient has reached, those of an interrupted run included.
    """
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from uwc.training.checkpoint import TrainingState, save_checkpoint

    reached = _reached_before(folder)

    def after_step(_optimizer: Any, _args: Any, _kwargs: Any) -> None:
        taken, known = int(log.steps[-1]["step"]), len(reached)
        for name, parameter in model.named_parameters():
            if name not in reached and parameter.grad is not None and bool(parameter.grad.any()):
                reached.add(name)
        if len(reached) > known or not (folder / _REACHED).exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / _REACHED, sorted(reached))
        if taken in budgets:
            weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
            save_checkpoint(folder / str(taken), TrainingState("", taken, weights, {}, {}))

    handle = register_optimizer_step_post_hook(after_step)
    try:
        yield reached
    finally:
        handle.remove()


_REACHED = "reached.json"


def _reached_before(folder: Path) -> set[str]:
    try:
        return set(json.loads((folder / _REACHED).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return set()
