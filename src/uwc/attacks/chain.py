"""Attacked models and chains of attacks; settings, order and data are checked before anything runs."""

import copy
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

from uwc.attacks.data import AttackData
from uwc.attacks.registry import DATA, KINDS, PRECISIONS, attacks
from uwc.errors import AttackFailed, ConfigError, DataError, ModelError
from uwc.models.model import Model
from uwc.registry import Entry, unknown_name

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Attacked:
    """A model under one variant of an attack.

    Attributes:
        model: the model to score; valid until the next variant is requested.
        label: the variant (a template, a depth, a budget); ``""`` if there is only one.
        effort: the attacker's effort, in the unit of the attack's effort setting; None if it has none.
        note: a finding of the attack, such as an adversarial suffix.
        changed: the share of the numbers in the blocks' parameters that the last attack on weights changed; None if
            there was none.
        claimed: name of a parameter -> the least number of its entries that an attack on weights reports as changed;
            None if it reports nothing.
        tokens: the tokens that the attack trained on.
        computes: whether an attack on weights changes the computation too, so that weights may stay as they are.
    """

    model: Model
    label: str = ""
    effort: float | None = None
    note: str = ""
    changed: float | None = None
    claimed: Mapping[str, int] | None = None
    tokens: int = 0
    computes: bool = False


def offered(made: Any, *, attack: str) -> Generator[Attacked]:
    """The result of an attack, a model or several, as variants. Raises ConfigError for another type."""
    if isinstance(made, Model | Attacked):
        made = [made]
    if not isinstance(made, Iterable):
        raise ConfigError(f"the attack {attack!r} returned a {type(made).__name__}; return a model, or yield several")
    try:
        for variant in made:
            if isinstance(variant, Model):
                variant = Attacked(variant)
            if not isinstance(variant, Attacked):
                raise ConfigError(f"the attack {attack!r} yields a {type(variant).__name__}; yield models")
            yield variant
    finally:
        if isinstance(made, Generator):
            made.close()


def with_own_weights(model: Model) -> Model:
    """The model with a trainable copy of the weights; an adapter is merged into it.

    The model is in memory twice. Raises ModelError if it is quantised, or the adapter cannot be merged.
    """
    from uwc.models.adapters import merge_adapter
    from uwc.models.mixing import require_unquantised
    from uwc.models.placement import require_on_one_device
    from uwc.models.scoring import let_train

    require_unquantised(model.model, model.name)
    require_on_one_device(model.model, model.name, "an attack on weights")
    plain = merge_adapter(replace(model, model=copy.deepcopy(model.model)))
    return replace(plain, model=let_train(plain.model))


def with_plain_weights(model: Model) -> Model:
    """The model with the weights of its checkpoint dequantised; the model itself if they are not quantised.

    Raises:
        ModelError: the checkpoint cannot be read again.
    """
    from uwc.models.adapters import has_adapter
    from uwc.models.head import unwrapped
    from uwc.models.load import load_model
    from uwc.models.quantised import REMEDY

    inner = unwrapped(model.model)
    if not getattr(inner.config, "quantization_config", None):
        return model
    path = getattr(inner, "name_or_path", "")
    if has_adapter(inner) or not path:
        raise ModelError(f"{model.name} is quantised; to attack its weights, {REMEDY}")
    trust = type(inner).__module__.startswith("transformers_modules")
    dtype: Any = str(inner.dtype).removeprefix("torch.")
    plain = load_model(path, dtype=dtype, device=str(model.device), trust_remote_code=trust, dequantize=True)
    return replace(model, model=plain.model)


def changed_share(
    before: Model, after: Model, claimed: Mapping[str, int] | None, *, attack: str, required: bool = True
) -> float:
    """The share of the numbers in the blocks' parameters that an attack changed.

    For a model without a list of blocks, of all parameters.

    Raises:
        AttackFailed: none differs, though that is required, or fewer than 95 % of those claimed do.
    """
    from uwc.models.block_weights import LEAST_SHARE

    first, second = _counted(before.model), _counted(after.model)
    changed = {name: int((first[name] != p.to(first[name].device)).sum()) for name, p in second.items()}
    if required and not any(changed.values()):
        dtype = str(next(iter(first.values())).dtype).removeprefix("torch.")
        raise AttackFailed(
            f"the attack {attack!r} changed no weight of {before.name}, or its steps are too small for {dtype}; "
            "leave it out, or give it a stronger setting"
        )
    of_blocks = {name: count for name, count in (claimed or {}).items() if name in changed}
    left = {name: max(count - changed[name], 0) for name, count in of_blocks.items()}
    missed, whole = sum(left.values()), sum(of_blocks.values())
    if missed > (1 - LEAST_SHARE) * whole:
        most = ", ".join(sorted(left, key=lambda name: -left[name])[:3])
        raise AttackFailed(
            f"the attack {attack!r} changed {1 - missed / whole:.0%} of the weights of {before.name} that it reports "
            f"as changed; most of the others are in {most}; leave the attack out for this model"
        )
    return sum(changed.values()) / sum(p.numel() for p in first.values())


def _counted(model: Any) -> dict[str, "Tensor"]:
    from uwc.models.block_weights import block_parameters

    try:
        return block_parameters(model)
    except ModelError:
        return dict(model.named_parameters())


@dataclass(frozen=True)
class Step:
    """One attack of a chain, with complete settings."""

    entry: Entry[Any]
    settings: Mapping[str, Any]

    @property
    def used(self) -> list[Entry[Any]]:
        """The attack, and what else it uses with its settings: attacks from which it chooses, a metric by which."""
        uses = self.entry.facts.get("uses")
        return [self.entry, *(uses(self.settings) if uses else ())]

    @property
    def asked(self) -> list[str]:
        """The folders and hub names of further models that the attack asks with its settings."""
        asks = self.entry.facts.get("asks")
        return list(asks(self.settings)) if asks else []


@dataclass(frozen=True)
class Chain:
    """A sequence of attacks, such as ``relearn+probe``."""

    steps: tuple[Step, ...]

    @property
    def name(self) -> str:
        """The attacks' names, joined by ``+``."""
        return "+".join(s.entry.name for s in self.steps)

    @property
    def touches_weights(self) -> bool:
        """Whether any of them may add knowledge."""
        return any(s.entry.facts["touches_weights"] for s in self.steps)

    @property
    def trains_on_scored(self) -> bool:
        """Whether any of them trains on the scored answers."""
        return any(s.entry.facts["trains_on_scored"] for s in self.steps)

    @property
    def names_layers(self) -> bool:
        """Whether any of them has a setting of layers."""
        return any(s.settings.get("layers") or s.settings.get("layer") for s in self.steps)

    def check_data(self, data: AttackData) -> None:
        """Raise DataError, naming the attack and the option, if data that an attack needs is missing, or is a passage
        where it rewords questions."""
        passage = next((e.id for e in data.scored if e.raw), None)
        for step in self.steps:
            if passage is not None and step.entry.facts["rewords"]:
                raise DataError(
                    f"the attack {step.entry.name!r} rewords questions, and example {passage!r} is a passage, which "
                    "asks none; attack sets of questions (attack.sets), or leave this attack out"
                )
            for need in step.entry.facts["needs"]:
                if not any(getattr(data, name) for name in need.split("|")):
                    wanted = ", or ".join(DATA[name] for name in need.split("|"))
                    raise DataError(f"the attack {step.entry.name!r} needs {wanted}")
            if step.entry.facts["check"] is not None:
                step.entry.facts["check"](data, step.settings)

    def check_depth(self, depth: int) -> None:
        """Raise ConfigError if an attack has a layer beyond the `depth` blocks of a model."""
        for step in self.steps:
            given = step.settings.get("layers", step.settings.get("layer"))
            for layer in given if isinstance(given, tuple) else (given,):
                if layer is not None and not 1 <= abs(layer) <= depth:
                    raise ConfigError(
                        f"attack {step.entry.name!r}: layer {layer} does not exist; the model has {depth} blocks: "
                        f"give 1..{depth}, or -{depth}..-1 from the last"
                    )


def make_chain(names: str | Sequence[str], settings: Mapping[str, Mapping[str, Any]] | None = None) -> Chain:
    """A chain from attack names and the settings that differ from their defaults.

    Args:
        names: ``"relearn+probe"``, or a list of names, in order; a precision of `PRECISIONS` stands for its attack.
        settings: attack -> setting -> value.

    Raises:
        ConfigError: an unknown attack or setting, an invalid value, a budget beyond the last step, or an impossible
            order.
    """
    listed = names.split("+") if isinstance(names, str) else list(names)
    settings = settings or {}
    steps = tuple(_step(name, settings) for name in listed)
    chain = Chain(steps)
    if not steps:
        raise ConfigError("a chain of attacks is empty; name at least one attack, as in relearn+probe")
    for step in steps:
        _check_budgets(step)
    for first, second in combinations(steps, 2):
        _check_order(first.entry, second.entry, chain.name)
    return chain


def _step(name: str, settings: Mapping[str, Mapping[str, Any]]) -> Step:
    """The attack of a name, or the one that a precision stands for, with complete settings."""
    attack, fixed = PRECISIONS.get(name, (name, {}))
    given = {**settings.get(attack, {}), **settings.get(name, {})}
    changed = [key for key, value in fixed.items() if given.get(key, value) != value]
    if changed:
        raise ConfigError(f"the precision {name!r} has {changed[0]} = {fixed[changed[0]]}; name the attack {attack!r}")
    return Step(attacks.get(attack), attacks.check(attack, {**given, **fixed}))


def precision_of(chain: Chain) -> str | None:
    """The precision that an attack alone stands for; None for another attack, other settings, and a longer chain."""
    return next((name for name in PRECISIONS if make_chain(name) == chain), None)


def require_precisions(names: Sequence[str]) -> None:
    """Raise ConfigError if there is no precision of a name, or it is given twice."""
    for name in names:
        if name not in PRECISIONS:
            raise ConfigError(unknown_name("precision", name, list(PRECISIONS)))
        if names.count(name) > 1:
            raise ConfigError(f"the precision {name!r} is given twice; leave one out")


@contextmanager
def attacked(model: Model, data: AttackData, chain: Chain) -> Iterator[Iterator[Attacked]]:
    """Attack a model, whose own weights stay bit-identical, also on error.

    Yields:
        An iterator over the variants of the attack; each is valid until the next is requested.

    Raises:
        DataError: data that an attack needs is missing.
        ConfigError: a layer that the model does not have.
        AttackFailed: an attack on prompts or weights changes none, or less than it reports.
        ModelError: an attack is on the weights of a quantised model, which cannot be dequantised.
    """
    from uwc.models.states import blocks

    chain.check_data(data)
    if any(step.entry.facts["kind"] == "weights" for step in chain.steps):
        model = with_plain_weights(model)
    if chain.names_layers:
        chain.check_depth(len(blocks(model.model)))
    variants = _carry_out(Attacked(model), data, chain.steps)
    with closing(variants):
        yield variants


def _carry_out(start: Attacked, data: AttackData, steps: tuple[Step, ...]) -> Generator[Attacked]:
    if not steps:
        yield start
        return
    prompts = start.model.inputs(data.scored) if steps[0].entry.facts["kind"] == "prompt" else []
    made = steps[0].entry.function(start.model, data, **steps[0].settings)
    with closing(offered(made, attack=steps[0].entry.name)) as outcomes:
        for outcome in outcomes:
            changed, entry = start.changed, steps[0].entry
            if outcome.effort == 0:  # no change was requested
                changed = 0.0 if entry.facts["kind"] == "weights" else changed
            elif entry.facts["kind"] == "weights":
                counted, required = outcome.claimed, not outcome.computes
                changed = changed_share(start.model, outcome.model, counted, attack=entry.name, required=required)
            elif entry.facts["kind"] == "prompt" and prompts == outcome.model.inputs(data.scored):
                raise AttackFailed(f"the attack {entry.name!r} changes no prompt of the scored questions; leave it out")
            joined = replace(
                outcome,
                changed=changed,
                claimed=None,
                label=", ".join(filter(None, (start.label, outcome.label))),
                effort=start.effort if outcome.effort is None else outcome.effort,
                note=" ".join(filter(None, (start.note, outcome.note))),
                tokens=start.tokens + outcome.tokens,
            )
            yield from _carry_out(joined, data, steps[1:])


def _check_budgets(step: Step) -> None:
    steps, budgets = (step.settings.get(name) for name in ("steps", "budgets"))
    if steps and budgets and max(budgets) > steps:
        raise ConfigError(
            f"attack {step.entry.name!r}: the budget {max(budgets)} is more than steps = {steps}; raise steps, or "
            "lower the budget"
        )


def _check_order(first: Entry[Any], second: Entry[Any], name: str) -> None:
    before, after = first.facts["kind"], second.facts["kind"]
    if KINDS.index(before) > KINDS.index(after):
        raise ConfigError(
            f"the chain {name!r} is impossible: {second.name!r} changes the {_CHANGES[after]}, and must come before "
            f"{first.name!r}, which changes the {_CHANGES[before]}"
        )
    if before == after and before in ("inside", "decoding"):
        raise ConfigError(
            f"the chain {name!r} is impossible: {first.name!r} and {second.name!r} exclude each other; leave one of "
            "them out"
        )
    if before == "inside" and (after == "decoding" or second.name.startswith("gcg")):
        raise ConfigError(
            f"the chain {name!r} is impossible: {second.name!r} needs the model's own forward, "
            f"which {first.name!r} replaces"
        )


_CHANGES = {"weights": "weights", "inside": "computation", "prompt": "prompts", "decoding": "decoding"}
