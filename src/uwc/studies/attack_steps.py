"""The step that attacks one model in one way; what each variant of the attack does to each example is kept."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from uwc.attacks.chain import make_chain
from uwc.attacks.measuring import attacked_values
from uwc.errors import AttackFailed, DataError, TrainingDiverged
from uwc.metrics.scoring import needs_of
from uwc.models.lora import merge_adapter
from uwc.models.target import Target
from uwc.studies.plan import ATTACKED, Step

if TYPE_CHECKING:
    from uwc.studies.steps import Workshop


def attack(step: Step, shop: "Workshop", out: Path) -> dict[str, Any]:
    """Attack a model and score it under each variant. That relearning diverged, or an attack failed, is a result."""
    setup, settings = shop.plan.attacks, step.settings
    assert setup is not None
    names = settings["metrics"]
    reference = shop.original(step) if "reference" in needs_of(names) else None
    target = _model_under_attack(step, shop)
    chain = make_chain([name for name, _ in settings["chain"]], dict(settings["chain"]))
    sets = [name for name, examples in setup.sets.items() for _ in examples]
    frames = []
    try:
        for number, (variant, values) in enumerate(
            attacked_values(
                target, setup.data, chain, names, max_new_tokens=settings["max_new_tokens"], reference=reference
            )
        ):
            told = {"variant": number, "label": variant.label, "effort": variant.effort, "note": variant.note}
            told["changed"] = variant.changed
            examples = {"set": sets, "id": [e.id for e in setup.data.scored]}
            frames.append(pd.DataFrame({**examples, **told, **values}))
    except (TrainingDiverged, AttackFailed) as error:
        return {"status": "diverged" if isinstance(error, TrainingDiverged) else "failed", "message": str(error)}
    pd.concat(frames, ignore_index=True).to_parquet(out / ATTACKED, index=False)
    return {"variants": len(frames)}


def load_attacked(path: Path) -> pd.DataFrame:
    """What was kept: set, id, variant, label, effort, note, changed and each metric. Raises DataError if damaged."""
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: damaged or missing ({error}); remove its folder and run again") from error


def _model_under_attack(step: Step, shop: "Workshop") -> Target:
    """The model, an adapter merged into it, held for the other attacks on it; the one before is let go."""
    model, original = step.inputs["model"], step.inputs["original"]
    if model.key == original.key:
        return shop.original(step)

    def load() -> Target:
        if model.kind != "calibrate":
            return merge_adapter(shop.model(model, like=step))
        alpha = (shop.store.manifest(model.kind, model.key) or {})["outcome"]["alpha"]
        return merge_adapter(shop.mixing(step, model.inputs["model"]).mix(alpha))

    key = ("attacked", model.key)
    shop.shelf.keep(("original", original.key), key)
    target: Target = shop.shelf.get(key, load)
    return target
