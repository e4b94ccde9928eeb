"""Direction ablation: removal of the direction between forget and retain from the hidden states."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from uwc.attacks.chain import Attacked
from uwc.attacks.data import AttackData
from uwc.attacks.probing import chosen_depths
from uwc.attacks.registry import attacks
from uwc.data.example import Example
from uwc.errors import AttackFailed
from uwc.models.model import Model

if TYPE_CHECKING:
    from torch import Tensor


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
    from uwc.models.states import blocks

    depths = chosen_depths(model.model, layers or tuple(range(1, len(blocks(model.model)) + 1)))
    forget, retain = (_mean_states(model, examples, depths) for examples in (data.train, data.retain))
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
                    f"direction ablation does not work on {type(unwrapped(model.model)).__name__}: what block "
                    f"{depth + 1} reads is not what block {depth} returned"
                )


def _without(unit: "Tensor") -> "Callable[[Tensor], Tensor]":
    def project(states: "Tensor") -> "Tensor":
        d = unit.to(states.dtype)
        along: Tensor = (states @ d)[..., None] * d
        return states - along

    return project


def _mean_states(model: Model, examples: Sequence[Example], depths: list[int]) -> "dict[int, Tensor]":
    """Block -> [d] the mean state at the positions that predict answer tokens, float32."""
    from uwc.models.states import answer_states

    totals: dict[int, Tensor] = {}
    count = 0
    for states, tokens in answer_states(model, examples, depths):
        count += len(tokens)
        for depth in depths:
            total = states[depth].float().sum(dim=0)
            totals[depth] = totals[depth] + total if depth in totals else total
    return {depth: total / count for depth, total in totals.items()}
