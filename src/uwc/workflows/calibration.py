"""Calibration of one unlearned checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from uwc.data.example import Example, require_disjoint
from uwc.workflows.targets import target_of


def calibrate(
    original: str | Path,
    unlearned: str | Path,
    *,
    retain: Sequence[Example],
    forget: Sequence[Example],
    tau: float = 0.95,
    metric: str = "extraction_strength",
    save: Path | None = None,
    **loading: Any,
) -> dict[str, Any]:
    """Find how much of an unlearned model can be mixed into the original at `tau` of its retention.

    Args:
        original: the model before unlearning, a folder or hub name.
        unlearned: the model after it.
        retain: questions on which retention is measured.
        forget: questions that should be forgotten.
        tau: share of the original's retention to keep.
        metric: the metric that measures both.
        save: a folder for the calibrated model; None does not write it.
        loading: dtype, device, template and trust_remote_code, as `load_target` takes them.

    Returns:
        alpha, tau, the threshold, the forget and retain score at alpha, and the trace of every probe.

    Raises:
        UserError: the models differ in architecture, the data overlap, or the original does not know the retain data.
    """
    from uwc.calibration.calibrate import calibrate as calibrate_target
    from uwc.models.loading import save_target

    require_disjoint(forget, retain, names=("forget", "retain"))
    found, mixed = calibrate_target(
        target_of(original, loading),
        target_of(unlearned, loading),
        retain=retain,
        forget=forget,
        tau=tau,
        metric=metric,
    )
    if save is not None:
        save_target(mixed, save)
    record = found.record()
    return record | {"forget_score": found.mean("forget", found.alpha), "retain_score": found.search.retain}
