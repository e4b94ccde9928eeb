"""Expansion of runs over several seeds."""

from collections.abc import Mapping
from typing import Any


def with_seeds(unlearn: Any) -> Any:
    """The section `unlearn` with each run that trains repeated for every seed in ``seeds``; otherwise as it is.

    The run ``npo`` with the seeds 0 and 1 becomes the runs ``npo@0`` and ``npo@1`` of the group ``npo``, with
    ``training: {seed: ...}``. A given checkpoint is not trained and not repeated. Malformed values are left to the
    later validation.
    """
    if not isinstance(unlearn, Mapping):
        return unlearn
    seeds, runs = unlearn.get("seeds"), unlearn.get("runs")
    if not isinstance(seeds, list | tuple) or not isinstance(runs, list | tuple):
        return unlearn
    if not seeds or not all(isinstance(s, int) and s >= 0 for s in seeds):
        return unlearn
    return {**unlearn, "seeds": (), "runs": [r for run in runs for r in _repeated(run, seeds)]}


def _repeated(run: Any, seeds: Any) -> list[Any]:
    label = (run.get("name") or run.get("method")) if isinstance(run, Mapping) else None
    if not label or run.get("checkpoint") is not None or not isinstance(run.get("training", {}), Mapping):
        return [run]
    return [
        {**run, "name": f"{label}@{seed}", "group": label, "training": {**run.get("training", {}), "seed": seed}}
        for seed in seeds
    ]
