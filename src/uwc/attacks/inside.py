"""Attacks on a model's computation: probes, logit lens, direction ablation and soft prompts."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from uwc import progress
from uwc.attacks.chain import Attacked
from uwc.attacks.data import AttackData
from uwc.attacks.registry import attacks
from uwc.data.batches import collate
from uwc.data.example import Example
from uwc.errors import AttackFailed
from uwc.models.model import Model
from uwc.models.selection import Select, require_effect
from uwc.models.selection import select as chosen

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from uwc.attacks.surrogate import SoftPrompted
    from uwc.data.batches import Batch
    from uwc.training.checkpoint import Kept

_INSIDE = {
    "kind": "inside",
    "touches_weights": False,
    "effort": "",
    "budgets": False,
    "check": None,
    "trains_on_scored": False,
    "rewords": False,
}


@attacks.register("probe", source="arXiv:2406.09179", needs=("train|retain",), **_INSIDE)
def probe(
    model: Model,
    data: AttackData,
    *,
    layers: tuple[int, ...] = (),
    epochs: Annotated[int, Field(ge=1)] = 20,
    lr: Annotated[float, Field(gt=0)] = 1e-3,
    positions: Annotated[int, Field(ge=1)] = 512,
    start: Literal["model", "zero"] = "model",
    seed: int = 0,
) -> Iterator[Attacked]:
    """Train a linear unembedding on the hidden states of chosen blocks; one variant for each depth.

    ``min_W mean CE(f(W g(h_t)), y_t)`` over the answer tokens of `train` and `retain`, with h_t the block's state, g
    the model's map from its last block to its output embedding (a norm, a projection), and f its map of logits after it
    (soft caps, scaling). The output embedding's bias is left out, since it does not depend on the states. The model
    runs once over the data for each depth; heads are trained on the cached [N, d] states in chunks of positions.

    Args:
        model: the model; its weights are not changed.
        data: the heads are trained on `train` and `retain`, never on the scored examples.
        layers: blocks 1..L, or -1..-L from the last; one third, two thirds and the last if empty.
        epochs: passes over the cached states.
        lr: Adam's.
        positions: number of answer tokens in one step.
        start: initial weights: the model's output embedding, or zero.
        seed: of the order.

    Raises:
        ConfigError: there is no such block.
        ModelError: the model has no list of blocks, or does not compute its logits by its output embedding alone.
    """
    from uwc.attacks.surrogate import ReadAt
    from uwc.models.head import head_of, own_steps_after_head
    from uwc.models.placement import require_on_one_device
    from uwc.training.checkpoint import Kept

    require_on_one_device(model.model, model.name, "the attack 'probe'")
    depths, examples = chosen_depths(model.model, layers), [*data.train, *data.retain]
    settings = ["probe", depths, epochs, lr, positions, start, seed]
    kept = Kept(lambda: [*settings, [(e.tokens, e.start, e.end) for e in model.encode(examples)], model.model])
    states, targets = cached_states(model, examples, depths)
    weight = head_of(model.model).weight
    heads = train_heads(
        states,
        targets,
        weight if start == "model" else weight.new_zeros(weight.shape),
        epochs=epochs,
        lr=lr,
        positions=positions,
        seed=seed,
        finish=own_steps_after_head(model.model),
        kept=kept,
    )
    for depth in depths:
        yield Attacked(replace(model, model=ReadAt(model.model, depth, heads[depth])), label=f"layer {depth}")


@attacks.register("logit_lens", source="LessWrong:AcKRB8wDpdaN6v6ru", needs=(), **_INSIDE)
def logit_lens(model: Model, _data: AttackData, *, layers: tuple[int, ...] = ()) -> Iterator[Attacked]:
    """Decode from the states of a block in place of the last one's (logit lens); one variant for each depth.

    Norms, projections, the output embedding and later steps (soft caps, scaling) are the model's own.

    Args:
        model: the model.
        layers: blocks 1..L, or -1..-L from the last; all but the last if empty.

    Raises:
        ConfigError: there is no such block.
    """
    from uwc.attacks.surrogate import ReadAt
    from uwc.models.states import blocks

    last = len(blocks(model.model))
    for depth in chosen_depths(model.model, layers or tuple(range(1, max(last, 2)))):
        yield Attacked(replace(model, model=ReadAt(model.model, depth)), label=f"layer {depth}")


def chosen_depths(model: Any, layers: Sequence[int]) -> list[int]:
    """The blocks 1..L of `layers`, ascending; by default one third, two thirds and the last."""
    from uwc.models.states import blocks, resolve_layer

    last = len(blocks(model))
    return sorted({resolve_layer(model, k) for k in layers or (max(1, round(last / 3)), round(2 * last / 3), last)})


def cached_states(
    model: Model, examples: Sequence[Example], depths: Sequence[int]
) -> tuple[dict[int, "Tensor"], "Tensor"]:
    """The training data of the heads, from one pass of the model for each depth.

    Returns:
        Block -> [N, d] inputs of the output embedding with this block's states in place of the last one's, at the
        positions that predict the N answer tokens, float32; and the [N] tokens.
    """
    from uwc.attacks.surrogate import ReadAt
    from uwc.models.states import entering_states

    states: dict[int, Tensor] = {}
    for depth in depths:
        states[depth], targets = entering_states(replace(model, model=ReadAt(model.model, depth)), examples)
    return states, targets


def train_heads(
    states: "Mapping[int, Tensor]",
    targets: "Tensor",
    weight: "Tensor",
    *,
    epochs: int,
    lr: float,
    positions: int,
    seed: int,
    finish: "Callable[[Tensor], Tensor]" = lambda logits: logits,
    kept: "Kept | None" = None,
) -> "dict[int, nn.Linear]":
    """Train one linear head for each depth, on the same chunks.

    Args:
        states: depth -> [N, d].
        targets: [N] tokens.
        weight: [V, d] initial weights of each head.
        epochs: passes over the N positions.
        lr: Adam's.
        positions: in one step; the largest tensor of logits is [positions, V].
        seed: of the order.
        finish: map of [n, V] logits after the head.
        kept: the checkpoints, if the training may resume from one.
    """
    import torch
    from torch import nn

    heads = {}
    for depth in states:
        head = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device=weight.device, dtype=torch.float32)
        head.weight = nn.Parameter(weight.detach().float().clone())
        heads[depth] = head
    optimizer = torch.optim.Adam([h.weight for h in heads.values()], lr=lr)
    generator = torch.Generator().manual_seed(seed)
    weights = {str(depth): head.weight for depth, head in heads.items()}
    done, total = _resumed(kept, weights, optimizer), epochs * math.ceil(len(targets) / positions)
    with torch.enable_grad():
        for number, chunk in enumerate(_order(len(targets), epochs, positions, generator), start=1):
            if number <= done:
                continue
            rows = chunk.to(targets.device)
            optimizer.zero_grad()
            for depth, head in heads.items():
                loss = nn.functional.cross_entropy(finish(head(states[depth][rows])), targets[rows])
                torch.autograd.backward(loss)
            optimizer.step()
            _keep(kept, number, weights, optimizer, last=number == total)
    return heads


def _order(count: int, epochs: int, positions: int, generator: "torch.Generator") -> "Iterator[Tensor]":
    """The positions of each step."""
    import torch

    for _ in range(epochs):
        yield from torch.split(torch.randperm(count, generator=generator), positions)


def _resumed(kept: "Kept | None", weights: "Mapping[str, Tensor]", optimizer: "torch.optim.Optimizer") -> int:
    """Set weights and optimizer to those of the last checkpoint, if there is one; the number of finished steps."""
    import torch

    state = None if kept is None else kept.load()
    if state is None:
        return 0
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(state.weights[name])
    if state.optimizer:
        optimizer.load_state_dict(state.optimizer)
    progress.note(f"resumes after step {state.step}")
    return state.step


def _keep(
    kept: "Kept | None", step: int, weights: "Mapping[str, Tensor]", optimizer: "torch.optim.Optimizer", *, last: bool
) -> None:
    """Write a checkpoint after a step if it is time."""
    from uwc.training.checkpoint import TrainingState

    if kept is not None and kept.due(last=last):
        copied = {name: weight.detach().cpu() for name, weight in weights.items()}
        kept.write(TrainingState("", step, copied, {} if last else optimizer.state_dict(), {}))


@attacks.register(
    "direction_ablation",
    source="arXiv:2406.11717, arXiv:2409.18025",
    kind="inside",
    touches_weights=False,
    needs=("train", "retain"),
    effort="",
    budgets=False,
    check=None,
    trains_on_scored=False,
    rewords=False,
)
def direction_ablation(model: Model, data: AttackData, *, layers: tuple[int, ...] = ()) -> Iterator[Attacked]:
    """Project every state onto the complement of the direction between mean forget and mean retain states.

    After each chosen block ``h <- h - (h . d) d``, with d the unit vector along ``mean_forget h - mean_retain h`` at
    that block, over the positions that predict answer tokens.

    Args:
        model: the model; its weights are not changed.
        data: `train` represents the forget set, `retain` the rest.
        layers: blocks 1..L, or -1..-L from the last; all if empty.

    Raises:
        ConfigError: there is no such block.
        ModelError: a block's output is not one state a token.
        AttackFailed: forget and retain states do not differ, or the input of the next block still has the direction.
    """
    from uwc.attacks.surrogate import Intervened
    from uwc.models.states import blocks, mean_states

    depths = chosen_depths(model.model, layers or tuple(range(1, len(blocks(model.model)) + 1)))
    forget, retain = (mean_states(model, examples, depths) for examples in (data.train, data.retain))
    units = {}
    for depth in depths:
        direction = forget[depth] - retain[depth]
        if not bool(direction.any()):
            raise AttackFailed(
                f"the attack 'direction_ablation' on {model.name}: forget and retain states after block {depth} are "
                "the same; give the attacker forgotten and retained data that differ (--attacker-data, --retain)"
            )
        units[depth] = direction / direction.norm()
    changes = {depth: _without(unit) for depth, unit in units.items()}
    ablated = replace(model, model=Intervened(model.model, changes))
    _require_gone(ablated, data.train[:1], units)
    yield Attacked(ablated)


def _require_gone(model: Model, examples: Sequence[Example], units: "Mapping[int, Tensor]") -> None:
    """Raise AttackFailed if the input of a block has a component along the direction removed after the block before
    it."""
    import torch

    from uwc.models.head import relative_tolerance, unwrapped
    from uwc.models.states import answer_batches, blocks

    modules = blocks(model.model)
    for depth in (d for d in units if d < len(modules)):
        read: list[Tensor] = []

        def see(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], read: "list[Tensor]" = read) -> None:
            read.append(args[0] if args else kwargs["hidden_states"])

        handle = modules[depth].register_forward_pre_hook(see, with_kwargs=True)
        try:
            with torch.no_grad():
                for batch in answer_batches(model, examples):
                    model.model(input_ids=batch.input_ids, use_cache=False)
        finally:
            handle.remove()
        for states in read:
            along = (states.float() @ units[depth]).abs() / states.float().norm(dim=-1)
            if float(along.max()) > relative_tolerance(states.dtype):
                raise AttackFailed(
                    f"the attack 'direction_ablation' does not work on {type(unwrapped(model.model)).__name__}: what "
                    f"block {depth + 1} reads is not what block {depth} returned; leave it out for this model"
                )


def _without(unit: "Tensor") -> "Callable[[Tensor], Tensor]":
    def project(states: "Tensor") -> "Tensor":
        d = unit.to(states.dtype)
        along: Tensor = (states @ d)[..., None] * d
        return states - along

    return project


def _check_examples(data: AttackData, settings: Mapping[str, Any]) -> None:
    require_effect(
        settings["select"], settings["examples"], len(data.train or data.retain), option="soft_prompt.examples"
    )


@attacks.register(
    "soft_prompt",
    source="arXiv:2104.08691, arXiv:2402.09063",
    kind="inside",
    touches_weights=False,
    needs=("train|retain",),
    effort="steps",
    budgets=False,
    check=_check_examples,
    trains_on_scored=False,
    rewords=False,
)
def soft_prompt(
    model: Model,
    data: AttackData,
    *,
    tokens: Annotated[int, Field(ge=1)] = 8,
    steps: Annotated[int, Field(ge=1)] = 100,
    lr: Annotated[float, Field(gt=0)] = 1e-2,
    batch_size: Annotated[int, Field(ge=1)] = 8,
    examples: Annotated[int, Field(ge=1)] | None = None,
    select: Select = "random",
    seed: int = 0,
) -> Iterator[Attacked]:
    """Train embeddings before the question to elicit answers to the attacker's questions.

    Adam on the mean negative log-likelihood of answer tokens; only the embeddings are trained.

    Args:
        model: the model; its weights are not changed.
        data: trained on `train`, or on `retain` if that is empty; never on the scored examples.
        tokens: the number of embeddings, k, initialised from random tokens.
        steps: optimizer steps.
        lr: Adam's.
        batch_size: examples a step.
        examples: the number of examples to train on; all by default.
        select: the rule by which they are chosen, see `uwc.models.selection.select`.
        seed: of initialisation, choice and order.

    Raises:
        ModelError: the model has no input embedding, or two.
    """
    import torch

    from uwc.attacks.surrogate import SoftPrompted
    from uwc.models.batching import DEFAULT_TOKEN_BUDGET
    from uwc.models.deterministic import deterministic
    from uwc.models.placement import require_on_one_device
    from uwc.models.states import embedding_of
    from uwc.training.checkpoint import Kept

    require_on_one_device(model.model, model.name, "the attack 'soft_prompt'")
    rng = np.random.default_rng(seed)
    pool = data.train or data.retain
    encoded = model.encode([pool[i] for i in chosen(model, pool, examples, rule=select, seed=seed)])
    embedding = embedding_of(model.model)
    first = torch.from_numpy(rng.integers(len(embedding.weight), size=tokens)).to(model.device)
    with torch.no_grad():
        prompt = embedding(first[None])[0].float()
    wrapper = SoftPrompted(model.model, prompt, first).eval()
    prompted = replace(model, model=wrapper, batching=model.sharing().lengthened(tokens))
    optimizer = torch.optim.Adam([wrapper.prompt], lr=lr)
    settings = ["soft prompt", tokens, steps, lr, batch_size, seed]
    kept = Kept(lambda: [*settings, [(e.tokens, e.start, e.end) for e in encoded], model.model])
    weights = {"prompt": wrapper.prompt}
    done = _resumed(kept, weights, optimizer)
    with torch.enable_grad():
        for number in range(1, steps + 1):
            drawn = [encoded[i] for i in rng.permutation(len(encoded))[:batch_size]]
            if number <= done:
                continue
            optimizer.zero_grad()
            batches = [
                collate([drawn[i] for i in group], device=model.device)
                for group in prompted.groups(drawn, token_budget=DEFAULT_TOKEN_BUDGET)
            ]
            count = sum(len(batch.targets) for batch in batches)
            for batch in batches:
                deterministic(model.device, partial(_add_gradient, wrapper, batch, count))
            optimizer.step()
            _keep(kept, number, weights, optimizer, last=number == steps)
    yield Attacked(prompted, effort=steps)


def _add_gradient(wrapper: "SoftPrompted", batch: "Batch", count: int) -> None:
    """Add to the prompt's gradient that of a batch's part of the mean loss over `count` tokens."""
    import torch

    from uwc.models.head import answer_logits, token_logprobs

    losses = -token_logprobs(answer_logits(wrapper, batch), batch.targets)
    torch.autograd.backward(losses.sum() / count, inputs=[wrapper.prompt])
