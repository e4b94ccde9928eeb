"""A method bound to a model: which passes a step needs, and the loss it gives."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from uwc.data.batches import Scope
from uwc.errors import ConfigError
from uwc.models.states import resolve_layer
from uwc.objectives.forwards import Forwards, Pass
from uwc.objectives.methods import Method
from uwc.objectives.registry import terms, tricks
from uwc.objectives.tricks import kept_tokens
from uwc.registry import Entry

TRICKED_ROLES = ("forget", "refusal")


@dataclass(frozen=True)
class BoundTerm:
    """A term with its weight and complete settings."""

    label: str
    entry: Entry[Any]
    weight: float
    settings: Mapping[str, Any]

    @property
    def role(self) -> str:
        """The pass it trains on, whose tokens its mean counts."""
        return str(self.entry.facts["role"])


class Objective:
    """The loss of a method on a given model.

    Args:
        method: the composition of terms.
        model: the model to train; layers are resolved against its depth.
        trick_settings: trick name -> value.

    Raises:
        ConfigError: an unknown term, trick or setting, a layer that does not exist, or no term at all.
    """

    def __init__(self, method: Method, model: Any, *, trick_settings: Mapping[str, float] | None = None) -> None:
        if not method.terms:
            raise ConfigError(f"method {method.name!r} has no term; give at least one forget or retain term")
        self.method = method
        self.terms = [_bind(t.term, t.weight, t.settings, model) for t in method.terms]
        self.tricks = [(tricks.get(n), tricks.check(n, {"value": v})) for n, v in (trick_settings or {}).items()]
        self._selected_share = float((trick_settings or {}).get("loss_selection", 1.0))
        self.needs = frozenset(need for t in self.terms for need in t.entry.facts["needs"])
        self.roles = tuple(r for r in ("forget", "refusal", "retain") if r in self.needs)

    @property
    def needs_reference_model(self) -> bool:
        """Whether a frozen copy must run at every step (not only once, for log-probabilities)."""
        return any(need.endswith((".reference_logits", ".reference_states")) for need in self.needs)

    def layers(self, role: str) -> list[int]:
        """The blocks whose states the terms of a role read."""
        return sorted({t.settings["layer"] for t in self.terms if t.role == role and "layer" in t.settings})

    def scope(self, role: str) -> Scope:
        """Which positions of a role's batch are computed: the widest that a term asks for."""
        wide = any(t.settings.get("scope") == "attended" for t in self.terms if t.role == role)
        return "attended" if wide else "answer"

    def apply_tricks(self, role: str, passed: Pass) -> Pass:
        """The pass as the terms shall see it."""
        if role in TRICKED_ROLES:
            for entry, settings in self.tricks:
                passed = entry.function(passed, **settings)
        return passed

    def counted_tokens(self, term: BoundTerm, answer_tokens: Tensor, all_tokens: Tensor) -> Tensor:
        """[B] how many tokens of each example the term's mean is over.

        Args:
            term: the term.
            answer_tokens: [B] labelled answer tokens of each example, end-of-sequence token included.
            all_tokens: [B] all tokens with a predecessor.
        """
        if term.settings.get("scope") == "attended":
            return all_tokens
        if term.role in TRICKED_ROLES and self._selected_share < 1:
            return kept_tokens(answer_tokens, share=self._selected_share)
        return answer_tokens

    def losses(self, forwards: Forwards, denominators: Mapping[str, float]) -> dict[str, Tensor]:
        """Each term's weighted share of the step's loss, by label; their sum is what is minimised.

        Args:
            forwards: the passes of a micro-batch.
            denominators: label -> the step's number of tokens or examples that the term's mean is over, over all its
                micro-batches, so that splitting a step into micro-batches does not change its loss.
        """
        shares = {}
        for term in self.terms:
            per_example = term.entry.function(forwards.only(term.entry.facts["needs"]), **term.settings)
            shares[term.label] = term.weight * per_example.sum() / denominators[term.label]
        return shares

    def denominators(self, answer_tokens: Mapping[str, Tensor], all_tokens: Mapping[str, Tensor]) -> dict[str, float]:
        """What each term's mean divides by, from the token counts [B] of a whole step's examples by role."""
        result = {}
        for term in self.terms:
            counts = self.counted_tokens(term, answer_tokens[term.role], all_tokens[term.role])
            per_token = term.entry.facts["reduction"] == "tokens"
            result[term.label] = float(counts.sum()) if per_token else float(torch.numel(counts))
        return result


def _bind(name: str, weight: float, settings: Mapping[str, Any], model: Any) -> BoundTerm:
    checked = terms.check(name, settings)
    if "layer" in checked:
        checked["layer"] = resolve_layer(model, checked["layer"])
    return BoundTerm(name, terms.get(name), weight, checked)
