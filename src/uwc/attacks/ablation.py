"""Direction ablation: take out of the hidden states what tells forget from retain."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from uwc.attacks.attacked import Attacked
from uwc.attacks.data import AttackData
from uwc.attacks.probing import chosen_depths
from uwc.attacks.registry import attacks
from uwc.attacks.surrogate import Intervened
from uwc.data.example import Example
from uwc.models.states import answer_states, blocks
from uwc.models.target import Target


@attacks.register(
    "direction_ablation", source="arXiv:2406.11717, arXiv:2409.18025", kind="inside", touches_weights=False,
    needs=("train", "retain"), effort="", budgets=False, check=None, trains_on_scored=False,
)  # fmt: skip
def direction_ablation(target: Target, data: AttackData, *, layers: tuple[int, ...] = ()) -> Iterator[Attacked]:
    """Project every state onto the complement of the direction between mean forget and mean retain states.

    After each chosen block ``h <- h - (h . d) d``, with d the unit vector along ``mean_forget h - mean_retain h`` at
    that block, over the positions that predict answer tokens.

    Args:
        target: the model; its weights are not changed.
        data: `train` stands for the forgotten data, `retain` for the rest.
        layers: blocks 1..L, or -1..-L from the last; all if empty.

    Raises:
        ConfigError: there is no such block.
    """
    depths = chosen_depths(target.model, layers or tuple(range(1, len(blocks(target.model)) + 1)))
    forget, retain = (_mean_states(target, examples, depths) for examples in (data.train, data.retain))
    changes = {depth: _without(forget[depth] - retain[depth]) for depth in depths}
    yield Attacked(replace(target, model=Intervened(target.model, changes)))


def _without(direction: Tensor) -> Callable[[Tensor], Tensor]:
    unit = direction / direction.norm().clamp_min(torch.finfo(direction.dtype).tiny)

    def project(states: Tensor) -> Tensor:
        d = unit.to(states.dtype)
        along: Tensor = (states @ d)[..., None] * d
        return states - along

    return project


def _mean_states(target: Target, examples: Sequence[Example], depths: list[int]) -> dict[int, Tensor]:
    """Block -> [d] the mean state that predicts an answer token, float32."""
    totals: dict[int, Tensor] = {}
    count = 0
    for states, tokens in answer_states(target, examples, depths):
        count += len(tokens)
        for depth in depths:
            total = states[depth].float().sum(dim=0)
            totals[depth] = totals[depth] + total if depth in totals else total
    return {depth: total / count for depth, total in totals.items()}
