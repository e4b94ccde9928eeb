"""`uwc.calibrate` with the arguments that the command gives."""

from collections.abc import Mapping, Sequence
from typing import Any

from uwc import api
from uwc.data.example import Example
from uwc.metrics.suites import metric_name
from uwc.results import ES, CalibrationResults

Sets = Mapping[str, Sequence[Example]]


def calibrate(
    original: Any,
    unlearned: Any,
    *,
    forget: Sequence[Example],
    retain: Sequence[Example] | Sets = (),
    retention: Sequence[Any] = (),
    tau: float = 0.95,
    retention_metric: str | None = ES,
    rank_by: str | None = None,
    sets: Sets | None = None,
    resolution: float = 1 / 128,
    template: Any = None,
    **options: Any,
) -> CalibrationResults:
    """See `uwc.calibrate`."""
    retains = dict(retain) if isinstance(retain, Mapping) else {"retain": retain} if len(retain) else {}
    constraint = {"tau": tau, "metric": retention_metric or ES, "rank_by": rank_by, "resolution": resolution}
    keep = {"tasks": tuple(retention), "sets": () if retention_metric is None else tuple(retains)}
    whole = retention_metric is not None and metric_name(retention_metric) == "model_utility"
    if whole or (not retains and not retention):
        keep.pop("sets")
    return api.calibrate(
        original,
        unlearned,
        forget=forget,
        retain=retains | dict(sets or {}),
        retention=api.Retention(**constraint, **keep),
        prompt=template,
        **options,
    )
