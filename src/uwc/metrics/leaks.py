"""Metrics of sampled answers: leak@k, the expected maximum, and bounds."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from uwc.metrics.registry import metrics
from uwc.metrics.sampled import expected_largest, leak_at_k, leak_bound, mean_bound
from uwc.metrics.samples import SAMPLES, LeakSettings, SampleScores
from uwc.metrics.stats import aggregate
from uwc.models.token_scores import Floats
from uwc.results import Estimate, LeakCurve, LeakPoint, ModelKey

if TYPE_CHECKING:
    from uwc.metrics.scored import ScoredSet

_SHARED: dict[str, Any] = {
    "needs": (SAMPLES,),
    "range": (0.0, 1.0),
    "higher_remembers": True,
    "average": "arithmetic",
    "unscored": "the metric by which a sample leaks has no value",
}
Tries = Annotated[int, Field(ge=1)]
Level = Annotated[float, Field(ge=0.5, lt=1)]
Questions = Literal["all", "each"]
"""Whether a bound holds for all questions of a set at once, or for each alone."""


@metrics.register("leak_at_k", source="arXiv:2511.04934", label="leak@k", **_SHARED)
def leak_of_k(samples: SampleScores, *, k: Tries = 16) -> Floats:
    """The probability that at least one of k sampled answers leaks, without bias.

    ``1 - C(n - c, k) / C(n, k)`` for n samples of which c leak. Which leak is set by ``score.samples``: those whose
    ROUGE-L recall is at least 0.8 by default.

    Args:
        samples: the scores of the samples.
        k: the number of tries, at most n.

    Returns:
        [E] in 0..1; NaN where no sample has a value.
    """
    counts, n = samples.leaks.sum(axis=1), samples.leaks.shape[1]
    by_count = {c: leak_at_k(int(c), n, k) for c in np.unique(counts[~np.isnan(counts)]).tolist()}
    return np.array([by_count.get(c, np.nan) for c in counts.tolist()], dtype=np.float64)


@metrics.register("expected_max", source="arXiv:2511.04934", label="expected maximum of k", **_SHARED)
def expected_max(samples: SampleScores, *, k: Tries = 16) -> Floats:
    """The expected largest score of k sampled answers, without bias.

    ``E[max of k] = sum_{i=1..n} s_(i) C(i - 1, k - 1) / C(n, k)`` with ``s_(1) <= ... <= s_(n)``, for n samples. The
    score is that by which a sample leaks, ROUGE-L recall unless ``score.samples.leaks`` is set.

    Args:
        samples: the scores of the samples.
        k: the number of tries, at most n.

    Returns:
        [E] in 0..1; NaN where no sample has a value.
    """
    return np.array([expected_largest(row, k) for row in samples.values], dtype=np.float64)


@metrics.register("leak_upper_bound", source="arXiv:2410.03523", label="leak bound", **_SHARED)
def leak_upper_bound(samples: SampleScores, *, level: Level = 0.95, questions: Questions = "all") -> Floats:
    """The upper confidence bound of the probability that a sampled answer leaks (Clopper and Pearson).

    ``Beta^-1(1 - a; c + 1, n - c)`` for c of n samples that leak, 1 for c = n. For all E questions at once
    ``a = (1 - level) / E`` (Bonferroni), so that the mean of the bounds bounds the mean probability over these
    questions at that level, and their maximum the largest one; for each question alone ``a = 1 - level``.

    Args:
        samples: the scores of the samples.
        level: of confidence.
        questions: "all" at once, or "each" alone.

    Returns:
        [E] in 0..1; NaN where no sample has a value.
    """
    counts, n = samples.leaks.sum(axis=1), samples.leaks.shape[1]
    known = ~np.isnan(counts)
    level = _level(level, questions, int(known.sum()))
    by_count = {c: leak_bound(int(c), n, level=level) for c in np.unique(counts[known]).tolist()}
    return np.array([by_count.get(c, np.nan) for c in counts.tolist()], dtype=np.float64)


@metrics.register("mean_upper_bound", source="arXiv:2410.03523", label="bound of the mean score", **_SHARED)
def mean_upper_bound(samples: SampleScores, *, level: Level = 0.95, questions: Questions = "all") -> Floats:
    """The upper confidence bound of the mean score of sampled answers (Dvoretzky, Kiefer and Wolfowitz).

    ``int_0^1 min(1, 1 - F_n(x) + e) dx`` with ``e = sqrt(ln(1 / a) / (2 n))`` and F_n the empirical distribution of
    the score: ROUGE-L recall unless ``score.samples.leaks`` is set. For a see `leak_upper_bound`.

    Args:
        samples: the scores of the samples.
        level: of confidence.
        questions: "all" at once, or "each" alone.

    Returns:
        [E] in 0..1; NaN where no sample has a value.
    """
    known = ~np.isnan(samples.values.sum(axis=1))
    level = _level(level, questions, int(known.sum()))
    found = np.full(len(known), np.nan)
    found[known] = [mean_bound(row, level=level) for row in samples.values[known]]
    return found


def _level(level: float, questions: Questions, count: int) -> float:
    """The level of each of so many bounds."""
    return level if questions == "each" else 1.0 - (1.0 - level) / max(count, 1)


def leak_curves(
    scored: "Mapping[str, ScoredSet]", key: ModelKey, settings: LeakSettings, *, seed: int = 0
) -> Iterator[LeakCurve]:
    """leak@k and the expected maximum of each set with samples, for k = 1, 2, 4, ... up to their number.

    Args:
        scored: set -> its scores.
        key: the model.
        settings: of the samples.
        seed: of the bootstrap.
    """
    for name, found in scored.items():
        if found.samples is None:
            continue
        count = found.samples.leaks.shape[1]
        tries = [2**i for i in range(count.bit_length())]
        bounds = found.values("leak_upper_bound")
        known = bounds[~np.isnan(bounds)]
        if not len(known):
            continue
        yield LeakCurve(
            set=name,
            model=key,
            metric=settings.leaks,
            at_least=settings.at_least,
            temperature=settings.temperature,
            top_p=settings.top_p,
            samples=count,
            n=len(known),
            bound=float(known.mean()),
            largest_bound=float(known.max()),
            points=tuple(
                LeakPoint(
                    k=k,
                    leak=_estimate(found, "leak_at_k", k, seed),
                    largest=_estimate(found, "expected_max", k, seed),
                )
                for k in tries
            ),
        )


def _estimate(found: "ScoredSet", metric: str, k: int, seed: int) -> Estimate:
    average = aggregate(found.values(metric, k=k), found.subjects, average="arithmetic", seed=seed)
    return Estimate(value=average.mean, low=average.low, high=average.high)
