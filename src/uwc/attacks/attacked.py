"""The result of an attack: a model under one variant of the attack."""

import copy
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from uwc.errors import AttackFailed, ConfigError, ModelError
from uwc.models.block_weights import LEAST_SHARE, block_parameters
from uwc.models.gradients import let_train
from uwc.models.lora import merge_adapter
from uwc.models.target import Target
from uwc.models.ties import require_unquantised


@dataclass(frozen=True)
class Attacked:
    """A model under one variant of an attack.

    Attributes:
        target: the model to score; valid until the next variant is requested.
        label: the variant (a template, a depth, a budget); ``""`` if there is only one.
        effort: the attacker's effort, in the unit of the attack's effort setting; None if it has none.
        note: a finding of the attack, such as an adversarial suffix.
        changed: the share of the numbers in the blocks' parameters that the last attack on weights changed; None if
            there was none.
        claimed: name of a parameter -> the least number of its entries that an attack on weights reports as changed;
            None if it reports nothing.
    """

    target: Target
    label: str = ""
    effort: float | None = None
    note: str = ""
    changed: float | None = None
    claimed: Mapping[str, int] | None = None


def offered(made: Any, *, attack: str) -> Generator[Attacked]:
    """The result of an attack, a model or several, as variants. Raises ConfigError for another type."""
    if isinstance(made, Target | Attacked):
        made = [made]
    if not isinstance(made, Iterable):
        raise ConfigError(f"the attack {attack!r} gave a {type(made).__name__}; return a model, or yield several")
    try:
        for variant in made:
            if isinstance(variant, Target):
                variant = Attacked(variant)
            if not isinstance(variant, Attacked):
                raise ConfigError(f"the attack {attack!r} yields a {type(variant).__name__}; yield models")
            yield variant
    finally:
        if isinstance(made, Generator):
            made.close()


def with_own_weights(target: Target) -> Target:
    """The model with a trainable copy of the weights; an adapter is merged into it.

    The model is in memory twice. Raises ModelError if it is quantised, or the adapter cannot be merged.
    """
    require_unquantised(target.model, target.name)
    plain = merge_adapter(replace(target, model=copy.deepcopy(target.model)))
    return replace(plain, model=let_train(plain.model))


def changed_share(before: Target, after: Target, claimed: Mapping[str, int] | None, *, attack: str) -> float:
    """The share of the numbers in the blocks' parameters that an attack changed.

    For a model without a list of blocks, of all parameters.

    Raises:
        AttackFailed: none differs, or fewer than 95 % of those claimed do.
    """
    first, second = _counted(before.model), _counted(after.model)
    changed = {name: int((first[name] != p.to(first[name].device)).sum()) for name, p in second.items()}
    if not any(changed.values()):
        dtype = str(next(iter(first.values())).dtype).removeprefix("torch.")
        raise AttackFailed(
            f"the attack {attack!r} changed no weight of {before.name}: they are unchanged by it, or its steps "
            f"are too small for {dtype}; leave it out, or give it a stronger setting"
        )
    of_blocks = {name: count for name, count in (claimed or {}).items() if name in changed}
    left = {name: max(count - changed[name], 0) for name, count in of_blocks.items()}
    missed, whole = sum(left.values()), sum(of_blocks.values())
    if missed > (1 - LEAST_SHARE) * whole:
        most = ", ".join(sorted(left, key=lambda name: -left[name])[:3])
        raise AttackFailed(
            f"the attack {attack!r} changed {1 - missed / whole:.0%} of the weights of {before.name} that it reports "
            f"as changed; most of the others are in {most}"
        )
    return sum(changed.values()) / sum(p.numel() for p in first.values())


def _counted(model: Any) -> dict[str, Tensor]:
    try:
        return block_parameters(model)
    except ModelError:
        return dict(model.named_parameters())
