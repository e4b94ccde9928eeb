"""The registry of attacks, and the declarations of an attack."""

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

Each yielded target is valid until the next one is requested; the original's weights never change. An attack is
deterministic given its settings. Run one through `uwc.attacks.chain.attacked`, which checks settings, data and order.

Each declares:
    kind: "weights", "inside", "prompt" or "decoding": the part that it changes, which gives the order in a chain.
    touches_weights: whether it may add knowledge, so that the slope of after on before need not be 1.
    needs: the `AttackData` fields that must not be empty; ``"train|retain"`` is either.
    effort: the setting that measures the attacker's effort, or "".
    budgets: whether a setting ``budgets`` yields one target for each effort from a single run.
    check: a function of data and settings that raises DataError for unsuitable data, or None.
    trains_on_scored: whether it trains on the scored answers, so that a leak can be seen only against a control.
"""
