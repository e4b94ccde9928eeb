"""Scores of methods with several seeds, with the spread between seeds and over examples, and comparison of methods."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import stats

from uwc import results
from uwc.calibration.frontier import TAUS, Frontier, confidence_lower
from uwc.models.token_scores import Floats
from uwc.results import Estimate


@dataclass(frozen=True, eq=False)
class SeededDraws:
    """The residual forget score of one method with K seeds, all scored on the same examples.

    Seeds and examples are independent sources of variance. With s the standard deviation between seeds and v the
    bootstrap variance of the mean over seeds, times C / (C - 1), ``se^2 = s^2 / K + v``; the interval is by Student's t
    with Welch-Satterthwaite degrees of freedom.

    Attributes:
        scores: [K] the score of each seed.
        draws: [K, R] its bootstrap draws over examples, the same for each seed.
        clusters: C, the number of clusters of the examples.
    """

    scores: Floats
    draws: Floats
    clusters: int

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return float(np.mean(self.scores))

    @property
    def sd_seeds(self) -> float:
        """The standard deviation between seeds; NaN for one seed."""
        return float(np.std(self.scores, ddof=1)) if len(self.scores) > 1 else float("nan")

    @property
    def se_examples(self) -> float:
        """The standard error over examples of the mean over seeds."""
        return float(np.sqrt(_over_examples(self.draws.mean(axis=0), self.clusters)))

    def record(self) -> results.SeededScore:
        """Mean and errors from both sources, in results; the interval is clipped to 0..1."""
        se, degrees = _combined([self], self.se_examples**2)
        half = float(stats.t.ppf(0.975, degrees)) * se
        return results.SeededScore(
            mean=self.mean,
            sd_seeds=self.sd_seeds,
            se_examples=self.se_examples,
            se=se,
            low=max(0.0, self.mean - half),
            high=min(1.0, self.mean + half),
        )


def seeded_at(frontiers: Sequence[Frontier], tau: float, *, seed: int = 0) -> SeededDraws:
    """The score at tau of one method, from the frontiers of its K runs; `seed` is of the draws over examples."""
    return SeededDraws(
        np.array([f.forget_at(tau) for f in frontiers]),
        np.stack([f.resampled_forget_at(tau, seed=seed) for f in frontiers]),
        min(f.clusters for f in frontiers),
    )


def mean_frontier(
    frontiers: Sequence[Frontier], *, seed: int = 0, taus: Sequence[float] = TAUS
) -> results.MeanFrontier:
    """The mean tau curve of one method's runs with the spread of both sources, and the mean of their areas."""
    areas = np.array([f.area() for f in frontiers])
    return results.MeanFrontier(
        curve=tuple(
            results.SeededPoint(tau=tau, **seeded_at(frontiers, tau, seed=seed).record().model_dump()) for tau in taus
        ),
        area=float(areas.mean()),
        area_sd=float(areas.std(ddof=1)) if len(areas) > 1 else float("nan"),
    )


def difference(first: SeededDraws, second: SeededDraws) -> Estimate:
    """First minus second, paired by examples, with the 95 % interval from both sources, clipped to -1..1."""
    over_examples = first.draws.mean(axis=0) - second.draws.mean(axis=0)
    clusters = min(first.clusters, second.clusters)
    se, degrees = _combined([first, second], _over_examples(over_examples, clusters))
    found, half = first.mean - second.mean, float(stats.t.ppf(0.975, degrees)) * se
    return Estimate(value=found, low=max(-1.0, found - half), high=min(1.0, found + half))


def seed_groups(
    members: Mapping[str, Mapping[str, Mapping[str, Frontier]]], tau: float, *, seed: int = 0
) -> tuple[results.Group, ...]:
    """Methods with several seeds by mean score at tau, best first, each with its difference from the next.

    Args:
        members: method -> run -> forget set -> its frontier.
        tau: the bar.
        seed: of the draws over examples.
    """
    runs = {name: [run["forget"] for run in by_run.values()] for name, by_run in members.items()}
    scores = {name: seeded_at(frontiers, tau, seed=seed) for name, frontiers in runs.items()}
    order = sorted(scores, key=lambda name: (scores[name].mean, name))
    following = dict(pairwise(order))
    groups = []
    for name in order:
        by_run = members[name]
        sets = next(iter(by_run.values()))
        groups.append(
            results.Group(
                name=name,
                runs=tuple(by_run),
                next=difference(scores[name], scores[following[name]]) if name in following else None,
                frontier={s: mean_frontier([f[s] for f in by_run.values()], seed=seed) for s in sets},
                **scores[name].record().model_dump(),
            )
        )
    return tuple(groups)


def pair_confidences(frontiers: Mapping[str, Frontier], tau: float, *, seed: int = 0) -> dict[str, dict[str, float]]:
    """First -> second -> the confidence that the first has the lower score at tau, from paired bootstrap draws."""
    draws = {name: f.resampled_forget_at(tau, seed=seed) for name, f in frontiers.items()}
    clusters = min((f.clusters for f in frontiers.values()), default=0)
    return {
        a: {b: confidence_lower(draws[a], draws[b], clusters=clusters) for b in frontiers if b != a} for a in frontiers
    }


def _over_examples(draws: Floats, clusters: int) -> float:
    """The variance over bootstrap draws, times C / (C - 1)."""
    return float(np.var(draws, ddof=1)) * clusters / max(clusters - 1, 1)


def _combined(scores: Sequence[SeededDraws], over_examples: float) -> tuple[float, float]:
    """The standard error from both sources, and its degrees of freedom (Satterthwaite 1946)."""
    seeded = [s for s in scores if len(s.scores) > 1]
    parts = [(s.sd_seeds**2 / len(s.scores), len(s.scores) - 1) for s in seeded]
    parts.append((over_examples, max(min(s.clusters for s in scores) - 1, 1)))
    total = sum(variance for variance, _ in parts)
    doubt = sum(variance**2 / degrees for variance, degrees in parts)
    return float(np.sqrt(total)), total**2 / doubt if doubt > 0 else float(parts[-1][1])
