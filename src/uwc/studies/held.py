"""What a study holds fixed: checked against its benchmark, measured by a calibration, and read back afterwards."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from uwc.calibration.calibrate import Calibration
from uwc.calibration.example_measure import ExampleMeasure
from uwc.calibration.frontier import Frontier, ProbedSet, Retained, load_probes
from uwc.calibration.held import HeldMeans, HeldNumber, HeldSet, LeastShare
from uwc.calibration.measures import SetMeasure, retention_measures
from uwc.calibration.retention import Measure
from uwc.data.example import Example
from uwc.errors import ConfigError
from uwc.metrics.registry import metrics, set_metrics
from uwc.metrics.suites import Given, what_is_missing
from uwc.models.target import Target
from uwc.registry import unknown_name
from uwc.studies.calibrate_config import CalibrateConfig

Sets = Mapping[str, Sequence[Example]]

UTILITY = ("real_authors", "world_facts")
"""The sets that ``model_utility`` reads besides the retain set."""

FORGET_SETS = ("forget", "forget_paraphrased")
PROBES, RECORD = "probes.parquet", "calibration.json"
"""Where a calibration keeps the values of its probes, and the rest."""


def require_held(config: CalibrateConfig, sets: Sets, *, benchmark: str, max_new_tokens: int) -> None:
    """Refuse what the study's questions do not allow to be held fixed.

    Args:
        config: what is asked for.
        sets: the sets that the study scores.
        benchmark: what messages call the benchmark.
        max_new_tokens: the most tokens of a generated answer.

    Raises:
        ConfigError: a set is missing, or lacks what the metric needs.
        UserError: a task is named, and lm-evaluation-harness is not installed.
    """
    kept = [name for name in sets if name not in FORGET_SETS]
    for name in config.sets:
        if name not in kept:
            raise ConfigError(f"calibrate: {unknown_name('set to hold fixed', name, kept)}")
    if config.utility and (missing := [name for name in UTILITY if name not in sets]):
        raise ConfigError(
            f"calibrate: the metric {config.metric!r} needs the sets {' and '.join(missing)}, which {benchmark} does "
            "not have; hold another metric fixed, or give them"
        )
    asked = {(config.ranked_by, "forget"): {"forget": sets["forget"]}}
    if config.utility:
        asked[config.metric, "retain"] = {"retain": sets["retain"], **_utility_sets(sets)}
    else:
        asked |= {(config.metric, name): {name: sets[name]} for name in config.sets}
    for (metric, _), given in asked.items():
        if lacking := what_is_missing(metric, Given(given, max_new_tokens=max_new_tokens)):
            raise ConfigError(f"calibrate: the metric {metric!r} needs {lacking}")
    if config.tasks:
        from uwc.calibration.harness import require_harness

        require_harness()


def _utility_sets(sets: Sets) -> dict[str, Sequence[Example]]:
    return {name: sets[name] for name in UTILITY}


def measures_of(config: CalibrateConfig, sets: Sets, *, max_new_tokens: int) -> list[Measure]:
    """What a calibration of the study asks each mixture."""
    return retention_measures(
        {name: sets[name] for name in config.sets}, config.tasks, metric=config.metric, tau=config.tau,
        utility_sets=_utility_sets(sets) if config.utility else None, max_new_tokens=max_new_tokens, early=False,
    )  # fmt: skip


@dataclass(frozen=True)
class Probed:
    """What the probes of a calibration found.

    Attributes:
        sets: set -> its values at each mixture: the metric held fixed on what is kept, that of the ranking on what is
            to be forgotten.
        record: the calibration as plain data.
    """

    sets: Mapping[str, ProbedSet]
    record: Mapping[str, Any]

    @classmethod
    def of(cls, found: Calibration, measures: Sequence[Measure], mixed: Target, config: CalibrateConfig) -> "Probed":
        """What was found; each measure answers for the mixtures that it was asked before from memory."""
        sets = {m.name: _probed(m, found.alphas) for m in measures if isinstance(m, ExampleMeasure)}
        for measure in measures:
            sets |= measure.probed(found.alphas) if isinstance(measure, SetMeasure) else {}
        sets |= {name: probed for name, probed in found.probed.items() if name in FORGET_SETS}
        numbers = [
            {
                "measure": m.label, "higher": m.higher,
                "scores": [m.probe(mixed, alpha, whole=True).score for alpha in found.alphas],
            }
            for m in measures
            if not isinstance(m, ExampleMeasure) and not (isinstance(m, SetMeasure) and _of_means(m.metric))
        ]  # fmt: skip
        of_set = {"set": config.sets[0] if config.plain else None}
        return cls(sets, {**found.record(), **of_set, **({"numbers": numbers} if numbers else {})})


def _probed(measure: ExampleMeasure, alphas: Sequence[float]) -> ProbedSet:
    examples = measure.scored_examples
    values = np.stack([measure.values_at(alpha) for alpha in alphas])
    return ProbedSet(tuple(e.id for e in examples), tuple(e.subject for e in examples), values)


def read_frontiers(config: CalibrateConfig, folder: Path) -> dict[str, Frontier]:
    """For each set to be forgotten that was probed its frontier, from what a calibration kept in its folder."""
    alphas, sets = load_probes(folder / PROBES)
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    retained = _retained(config, sets, record.get("numbers", ()))
    return {name: Frontier(alphas, retained, sets[name]) for name in FORGET_SETS if name in sets}


def _retained(config: CalibrateConfig, sets: Mapping[str, ProbedSet], numbers: Sequence[Mapping[str, Any]]) -> Retained:
    """What is held fixed at each mixture, as `Retention` judges it: one metric by itself, or the least share kept."""
    fixed = [HeldNumber(n["measure"], np.array(n["scores"], dtype=float), n["higher"]) for n in numbers]
    if config.utility:
        entry = set_metrics.get(config.metric)
        known = _of_means(config.metric)
        inputs = [sets[name] for name in entry.facts["needs"]]
        return LeastShare([HeldMeans(inputs, entry.facts["of_means"])] if known else [], fixed)
    if _by_itself(config):
        return sets[config.sets[0]]
    facts = metrics.get(config.metric).facts
    higher, geometric = bool(facts["higher_remembers"]), facts["average"] == "geometric"
    return LeastShare([HeldSet(sets[name], higher, geometric) for name in config.sets], fixed)


def _of_means(metric: str) -> bool:
    """Whether a metric of whole sets is a function of means, so that its spread is known."""
    return "of_means" in set_metrics.get(metric).facts


def _by_itself(config: CalibrateConfig) -> bool:
    """Whether one mean of a metric is all that is held fixed, so that the retention is this mean, and no share."""
    if config.utility or config.tasks or len(config.sets) != 1:
        return False
    facts = metrics.get(config.metric).facts
    return facts["higher_remembers"] is True and facts["average"] == "arithmetic"


def describe_held(config: CalibrateConfig, labels: Mapping[str, str]) -> dict[str, Any]:
    """What is held fixed and what models are ranked by, in words, for a report.

    Args:
        config: what is held fixed.
        labels: set -> what reports call it.

    Returns:
        held: what is held fixed, one by one; share: whether the retention of a frontier is the least share kept of
        these, and not the one score; plain: whether that is the score of the ranking's metric on the retain set;
        without_spread: those without values by example, of which intervals know nothing; ranked_by and label: the
        metric of the ranking.
    """
    label = str((set_metrics if config.utility else metrics).get(config.metric).facts["label"])
    sets = [label] if config.utility else [f"{labels.get(name, name)} {label}" for name in config.sets]
    return {
        "held": [*sets, *config.tasks],
        "share": not _by_itself(config),
        "plain": config.plain and config.sets == ("retain",),
        "without_spread": [*(sets if config.utility and not _of_means(config.metric) else []), *config.tasks],
        "ranked_by": config.ranked_by,
        "label": str(metrics.get(config.ranked_by).facts["label"]),
    }
