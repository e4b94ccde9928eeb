"""The registry of attacks, and what every attack declares about itself."""

from typing import Any

from uwc.registry import Registry

_MODULES = (
    "prompts",
    "token_noise",
    "gcg",
    "probing",
    "ablation",
    "soft_prompt",
    "relearning",
    "compression",
    "decoding",
)

attacks: Registry[Any] = Registry("attack", modules=tuple(f"uwc.attacks.{m}" for m in _MODULES))
"""Generator functions ``attack(target, data, *, settings...)`` that yield one or more `Attacked` targets.

Each yielded target may be used until the next one is asked for; the original's weights never change. An attack is
deterministic by its settings. Run one through `uwc.attacks.chain.attacked`, which checks settings, data and order.

Each declares:
    kind: "weights", "inside", "prompt" or "decoding": what it changes, and the order in a chain.
    touches_weights: whether knowledge may be added, so that the slope before against after need not be 1.
    needs: the `AttackData` fields that must not be empty; ``"train|retain"`` is either.
    effort: the setting that grows with the attacker's effort, or "".
    budgets: whether a setting ``budgets`` yields one target for each effort from a single run.
    check: a function of data and settings that raises DataError for data that does not do, or None.
    trains_on_scored: whether the scored answers themselves are shown, so that only a control tells a leak.
"""
