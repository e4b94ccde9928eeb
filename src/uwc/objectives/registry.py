"""The registries of loss terms and tricks, and what each declares about itself."""

from typing import Any

from uwc.registry import Registry

terms: Registry[Any] = Registry("term", modules=("uwc.objectives.forget_terms", "uwc.objectives.retain_terms"))
"""Functions of one step's `Forwards` that return a loss for each example, shape [B].

Each declares:
    side: "forget" (removes) or "retain" (keeps).
    role: the pass it trains on: "forget", "refusal" or "retain".
    needs: what it reads: passes by role, and of the frozen reference "ROLE.reference_logprobs",
        "ROLE.reference_logits" or "ROLE.reference_states".
    reduction: "tokens" (the sum over the step is divided by its number of labelled tokens) or "examples".
    formula: in the notation of `docs/papers.md`.

Settings named ``layer`` and ``scope`` tell the step which hidden states to capture and which positions to compute.
"""

tricks: Registry[Any] = Registry("trick", modules=("uwc.objectives.tricks",))
"""Functions that change the token weights or logits of a forget or refusal pass before any term reads them."""
