"""Early stopping at a forget score, raw or calibrated."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from uwc.calibration.calibrate import calibrate
from uwc.calibration.measures import ExampleMeasure
from uwc.data.example import Example
from uwc.metrics.scored import ScoredSet
from uwc.models.forward import score_tokens
from uwc.models.lora import merge_adapter
from uwc.models.mixing import Mixer
from uwc.models.target import Target
from uwc.training.stopping import StopRule


def stop_at(
    *,
    forget: Sequence[Example],
    at_most: float,
    metric: str = "extraction_strength",
    every: int = 10,
    tau: float | None = None,
    retain: Sequence[Example] = (),
    original: Target | None = None,
) -> StopRule:
    """End a run once the mean of `metric` on the forget examples is at most `at_most`.

    Args:
        forget: the questions to forget.
        at_most: the score at which the run ends.
        metric: a metric of token scores for which high means 'remembers'.
        every: steps between measurements.
        tau: measure the calibrated score instead: that of the mixture with the retention ratio `tau`.
        retain: questions on which retention is measured; required with `tau`.
        original: the model before unlearning; required with `tau`.
    """

    def raw(target: Target) -> float:
        return float(np.mean(ScoredSet(score_tokens(target, forget), ()).values(metric)))

    def calibrated(target: Target) -> float:
        if original is None:
            raise ValueError("the calibrated score needs the original model")
        working = merge_adapter(replace(target, model=copy.deepcopy(target.model)))
        found = calibrate(
            Mixer(original, working),
            [ExampleMeasure(retain, metric=metric)],
            {"forget": forget},
            tau=tau or 1.0,
            metric=metric,
            curve=False,
        )
        return found.forget_score

    return StopRule(raw if tau is None else calibrated, at_most, every)
