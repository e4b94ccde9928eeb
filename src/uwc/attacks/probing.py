"""Reading answers from hidden states: trained linear unembeddings, and the model's own (logit lens)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from uwc.attacks.chain import Attacked
from uwc.attacks.data import AttackData
from uwc.attacks.registry import attacks
from uwc.data.example import Example
from uwc.models.model import Model

if TYPE_CHECKING:
    from torch import Tensor, nn

_INSIDE = {
    "kind": "inside",
    "touches_weights": False,
    "effort": "",
    "budgets": False,
    "check": None,
    "trains_on_scored": False,
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

    depths = chosen_depths(model.model, layers)
    states, targets = cached_states(model, [*data.train, *data.retain], depths)
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
        read, targets = entering_states(replace(model, model=ReadAt(model.model, depth)), examples)
        states[depth] = read.float()
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
    with torch.enable_grad():
        for _ in range(epochs):
            order = torch.randperm(len(targets), generator=generator).to(targets.device)
            for chunk in torch.split(order, positions):
                optimizer.zero_grad()
                for depth, head in heads.items():
                    loss = nn.functional.cross_entropy(finish(head(states[depth][chunk])), targets[chunk])
                    torch.autograd.backward(loss)
                optimizer.step()
    return heads
