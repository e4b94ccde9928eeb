"""A method bound to a model: the passes that a step needs, and its loss."""

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from uwc.data.batches import Scope
from uwc.errors import ConfigError
from uwc.models.states import resolve_layer
from uwc.objectives.forwards import Forwards, Pass
from uwc.objectives.methods import Constraint, Method, WeightedTerm, active_tricks, check_term
from uwc.objectives.registry import ROLES, role_of, terms, tricks
from uwc.objectives.tricks import kept_tokens
from uwc.registry import Entry


@dataclass(frozen=True)
class BoundTerm:
    """A term with its weight and complete settings.

    Attributes:
        label: its name in logs; unique in an objective.
        entry: the registered term.
        weight: its coefficient, or the first value of its dual variable.
        settings: all its settings.
        roles: declared role -> the role used for it.
        constraint: its upper bound, if any.
    """

    label: str
    entry: Entry[Any]
    weight: float
    settings: Mapping[str, Any]
    roles: Mapping[str, str]
    constraint: Constraint | None

    @property
    def role(self) -> str:
        """The pass that it trains on, over whose tokens its mean is taken."""
        declared = str(self.entry.facts["role"])
        return self.roles.get(declared, declared)

    @property
    def needs(self) -> frozenset[str]:
        """Its needs, in the roles that are used."""
        parts = [need.partition(".") for need in self.entry.facts["needs"]]
        return frozenset(f"{self.roles.get(role, role)}{dot}{what}" for role, dot, what in parts)

    @property
    def read_roles(self) -> frozenset[str]:
        """The roles whose passes it reads."""
        return frozenset(role_of(need) for need in self.needs) | {self.role}


class Objective:
    """The loss of a method on a given model.

    Args:
        method: the composition of terms.
        model: the model to train, or its number of blocks; layers are resolved against its depth.
        trick_settings: trick name -> value.

    Raises:
        ConfigError: an unknown term, role, trick or setting, a layer that does not exist, or no term at all.
    """

    def __init__(self, method: Method, model: Any, *, trick_settings: Mapping[str, float] | None = None) -> None:
        if not method.terms:
            raise ConfigError(f"method {method.name!r} has no term; give at least one forget or retain term")
        self.method = method
        self.terms: list[BoundTerm] = []
        for term in method.terms:
            self.terms.append(_bind(term, model, taken=[t.label for t in self.terms]))
        active = active_tricks(method, trick_settings or {})
        self.tricks = [(tricks.get(name), active[name]) for name in tricks.names() if name in active]
        self._selected_share = float((trick_settings or {}).get("loss_selection", 1.0))
        self._whole = tuple(self.terms)
        self._declare()

    def _declare(self) -> None:
        self.needs = frozenset(need for t in self.terms for need in t.needs)
        self.roles = tuple(role for role in ROLES if role in {role_of(need) for need in self.needs})

    def part(self, side: str | None) -> "Objective":
        """The terms of one side alone ("forget" or "retain"; all with None), whose passes and means are the whole's."""
        part = copy.copy(self)
        part.terms = [t for t in self.terms if side is None or t.entry.facts["side"] == side]
        part._declare()
        return part

    @property
    def needs_reference_model(self) -> bool:
        """Whether a frozen copy must run at every step, not only once for log-probabilities."""
        return any(need.endswith((".reference_logits", ".reference_states")) for need in self.needs)

    def reads(self, role: str) -> frozenset[str]:
        """The outputs of the trained model's pass that are read: "logits", "logprobs" and "states".

        Without any there is no pass: of the role's batch tokens alone are read.
        """
        kinds = {"": "logprobs", "logits": "logits", "states": "states"}
        parts = [need.partition(".") for need in self.needs]
        read = {kinds[what] for name, _, what in parts if name == role and what in kinds}
        if read:
            read |= {entry.facts["reads"] for entry, _ in self.tricks_on(role)}
        return frozenset(read)

    def layers(self, role: str) -> list[int]:
        """The blocks whose states the terms of a role read."""
        return sorted({t.settings["layer"] for t in self.terms if t.role == role and "layer" in t.settings})

    def scope(self, role: str) -> Scope:
        """The positions of a role's batch that are computed: the widest scope of its terms."""
        wide = any(t.settings.get("scope") == "attended" for t in self._whole if t.role == role)
        return "attended" if wide else "answer"

    def apply_tricks(self, role: str, passed: Pass) -> Pass:
        """The pass after all tricks; as it is if it has tokens alone."""
        if not self.reads(role):
            return passed
        if unread := self._unread(role):
            passed = replace(passed, unread=unread)
        for entry, settings in self.tricks_on(role):
            passed = entry.function(passed, **settings)
        return passed

    def tricks_on(self, role: str) -> list[tuple[Entry[Any], dict[str, Any]]]:
        """The tricks that change a role's pass, with their settings."""
        forgotten = role in self.method.forgotten_roles
        return [
            (entry, settings)
            for entry, settings in self.tricks
            if ROLES[role].tricked and (forgotten or entry.facts["acts_on"] != "forgotten answers")
        ]

    def counted_tokens(self, term: BoundTerm, answer_tokens: Tensor, all_tokens: Tensor) -> Tensor:
        """[B] the number of tokens of each example in the term's mean.

        Args:
            term: the term.
            answer_tokens: [B] labelled answer tokens of each example, end-of-sequence token included.
            all_tokens: [B] all tokens with a predecessor.
        """
        kept = answer_tokens
        if ROLES[term.role].tricked and self._selected_share < 1:
            unread = self._unread(term.role)
            kept = kept_tokens((kept - unread).clamp_min(0), share=self._selected_share) + unread
        if term.settings.get("scope") == "attended":
            return all_tokens - answer_tokens + kept
        return (kept - int(term.settings.get("ignore_first", 0))).clamp_min(0)

    def _unread(self, role: str) -> int:
        """The number of tokens at the start of each answer that none of the role's terms reads."""
        return min((int(t.settings.get("ignore_first", 0)) for t in self._whole if t.role == role), default=0)

    def losses(
        self, forwards: Forwards, denominators: Mapping[str, float], *, roles: Collection[str] | None = None
    ) -> dict[str, Tensor]:
        """Each term's unweighted mean loss over the step, or this micro-batch's share of it, by label.

        Args:
            forwards: the passes of a micro-batch.
            denominators: label -> the number of tokens or examples in the term's mean, over all micro-batches of the
                step, so that the loss does not depend on the split into micro-batches.
            roles: the terms on these roles only; all by default.
        """
        means = {}
        for term in [t for t in self.terms if roles is None or t.role in roles]:
            view = forwards.only(term.entry.facts["needs"], term.roles)
            losses = term.entry.function(view, **term.settings)
            size = forwards.pass_of(term.role).batch.size
            if losses.shape != (size,):
                raise ConfigError(
                    f"the term {term.label!r} returned a tensor of shape {tuple(losses.shape)}; return one loss for "
                    f"each of the {size} examples, of shape ({size},)"
                )
            means[term.label] = losses.sum() / denominators[term.label]
        return means

    def denominators(self, answer_tokens: Mapping[str, Tensor], all_tokens: Mapping[str, Tensor]) -> dict[str, float]:
        """The denominator of each term's mean, from the token counts [B] of a step's examples by role."""
        result = {}
        for term in self.terms:
            counts = self.counted_tokens(term, answer_tokens[term.role], all_tokens[term.role])
            per_token = term.entry.facts["reduction"] == "tokens"
            result[term.label] = max(1.0, float(counts.sum())) if per_token else float(torch.numel(counts))
        return result


class Weights:
    """The coefficients of an objective's terms; those of constrained terms are dual variables.

    Args:
        objective: the terms.
    """

    def __init__(self, objective: Objective) -> None:
        self._terms = objective.terms
        self.values = {term.label: term.weight for term in objective.terms}

    def total(self, means: Mapping[str, Tensor]) -> Tensor:
        """``sum_k weight_k L_k`` of the terms' mean losses (the bounds of constraints have no gradient)."""
        return torch.stack([self.values[label] * mean for label, mean in means.items()]).sum()

    def shares(self, means: Mapping[str, float]) -> dict[str, float]:
        """Each term's part of the step's loss; of a constrained term ``a (L - bound)``."""
        bounds = {t.label: t.constraint.bound for t in self._terms if t.constraint is not None}
        return {label: self.values[label] * (mean - bounds.get(label, 0.0)) for label, mean in means.items()}

    def follow(self, means: Mapping[str, float], *, progress: float) -> None:
        """Update the dual variables after a step with these mean losses, at `progress` in 0..1 of the run."""
        for term in self._terms:
            if term.constraint is not None:
                dual = term.constraint.updated(self.values[term.label], means[term.label], progress=progress)
                self.values[term.label] = dual


def _bind(term: WeightedTerm, model: Any, *, taken: list[str]) -> BoundTerm:
    entry, checked = terms.get(term.term), check_term(term)
    if "layer" in checked:
        checked["layer"] = resolve_layer(model, checked["layer"], where=f"layer of the term {term.term!r}")
    label, number = term.label, 2
    while label in taken:
        label, number = f"{term.label} {number}", number + 1
    return BoundTerm(label, entry, term.weight, checked, term.roles, term.constraint)
