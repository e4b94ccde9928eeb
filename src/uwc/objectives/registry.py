"""The registries of loss terms and tricks, and their declarations."""

from typing import Any

from uwc.registry import Registry

terms: Registry[Any] = Registry(
    "term",
    modules=(
        "uwc.objectives.forget_terms",
        "uwc.objectives.preference_terms",
        "uwc.objectives.distribution_terms",
        "uwc.objectives.activation_terms",
        "uwc.objectives.retain_terms",
    ),
    declares=("side", "role", "needs", "reduction", "formula"),
)
"""Functions of one step's `Forwards` that return a loss for each example, shape [B].

Each declares:
    side: "forget" (removes) or "retain" (keeps).
    role: the pass that it trains on, over whose tokens its mean is taken; a name in `ROLES`.
    needs: its inputs. Of the trained model "ROLE" (the pass with its log-probabilities), "ROLE.logits" (also its
        logits) or "ROLE.states" (hidden states alone); of the frozen reference "ROLE.reference_logprobs",
        "ROLE.reference_logits" or "ROLE.reference_states".
    reduction: "tokens" (the sum over the step is divided by its number of labelled tokens) or "examples".
    formula: in the notation of `docs/papers.md`.

Three names of settings have a meaning for the step: ``layer`` (which hidden states to capture), ``scope`` (which
positions to compute) and ``ignore_first`` (how many tokens of each answer a token mean leaves out).
"""

tricks: Registry[Any] = Registry(
    "trick", modules=("uwc.objectives.tricks",), declares=("formula", "neutral", "reads", "acts_on")
)
"""Functions that change the token weights or logits of a pass over forget questions before any term reads it.

They are applied in the order of registration. Each declares the ``formula``, the ``neutral`` value, ``reads``: "logits"
or "logprobs", and ``acts_on``: "forget questions" with any answer, or "forgotten answers" only, not the answers that a
term trains in their place.
"""
