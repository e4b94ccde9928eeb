"""The frontier of retention and forget score, and comparison of methods over seeds and examples."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import scipy  # its parts are imported on first use
from numpy.typing import NDArray

from uwc import results
from uwc.calibration.probed import ROUNDING, ProbedSet, RetentionCurve, ratio_to_original
from uwc.metrics.stats import bootstrap_confidence, bootstrap_interval
from uwc.models.token_scores import Floats
from uwc.results import Estimate

TAUS = tuple(round(0.40 + 0.05 * i, 2) for i in range(13))


@dataclass(frozen=True, eq=False)
class Frontier:
    """The path from the original to the unlearned model, probed at alpha = 0, ..., 1, and linear in between.

    Attributes:
        retention: the retention ratios at the probes.
        forget: the values on a forget set at the same mixtures.
    """

    retention: RetentionCurve
    forget: ProbedSet
    _drawn: dict[int, tuple[Floats, Floats]] = field(default_factory=dict, repr=False)

    @property
    def alphas(self) -> Floats:
        """[A] the probed mixtures, ascending from 0 to 1."""
        return self.retention.alphas

    @property
    def clusters(self) -> int:
        """The smallest number of clusters of all sets in the bootstrap."""
        return min(filter(None, (self.retention.clusters, self.forget.clusters)), default=0)

    def part(self, ids: Collection[str]) -> "Frontier":
        """The frontier of the same models for some of the forget examples."""
        return Frontier(self.retention, self.forget.part(ids))

    def alpha_at(self, tau: float) -> float:
        """The largest alpha whose retention ratio is at least tau."""
        return float(_crossing(self.alphas, self.retention.ratios[:, np.newaxis], tau)[0])

    def retention_at(self, tau: float) -> float:
        """The retention ratio at that alpha: tau, or more if alpha = 1 has more."""
        return float(np.interp(self.alpha_at(tau), self.alphas, self.retention.ratios))

    def forget_at(self, tau: float) -> float:
        """The residual forget score: the forget score at that alpha, which models are ranked by."""
        return float(np.interp(self.alpha_at(tau), self.alphas, self.forget.means()))

    def resampled_forget_at(self, tau: float, *, seed: int = 0) -> Floats:
        """[R] the forget score at tau over bootstrap draws of all sets, with alpha found in each draw.

        Models probed on the same questions with the same seed have the same draws, so that their difference is paired.
        The draws are the same for all tau, and cached.
        """
        retention, forget = self._resampled(seed)
        return _along(self.alphas, _crossing(self.alphas, retention, tau), forget)

    def estimate(self, tau: float, *, seed: int = 0) -> Estimate:
        """The forget score at tau with its 95 % interval, which includes the uncertainty of alpha."""
        return _estimate(self.forget_at(tau), self.resampled_forget_at(tau, seed=seed), self.clusters)

    def alpha_estimate(self, tau: float, *, seed: int = 0) -> Estimate:
        """alpha at tau with its 95 % interval over the same draws; NaN if no retention measure is drawn."""
        draws = _crossing(self.alphas, self._resampled(seed)[0], tau)
        return _estimate(self.alpha_at(tau), draws, self.retention.clusters)

    def measure_estimates(self, tau: float, *, seed: int = 0) -> list[Estimate]:
        """For each retention measure its value at tau, interpolated, with the 95 % interval."""
        alpha, found = self.alpha_at(tau), _crossing(self.alphas, self._resampled(seed)[0], tau)
        estimates = []
        for measure, drawn in zip(self.retention.measures, self.retention.resampled(seed=seed), strict=True):
            ratio = float(np.interp(alpha, self.alphas, measure.ratios))
            ratios = _along(self.alphas, found, ratio_to_original(drawn, drawn[0], higher=measure.higher))
            original = measure.values[0]
            value, draws = (
                (original * ratio, drawn[0] * ratios) if measure.higher else (original / ratio, drawn[0] / ratios)
            )
            estimates.append(_estimate(float(value), draws, measure.clusters))
        return estimates

    def area(self, *, points: int = 101) -> float:
        """The mean of the forget score over tau from 0 to 1; lower is better."""
        taus = np.linspace(0, 1, points)
        return float(np.trapezoid([self.forget_at(t) for t in taus], taus))

    def record(self, *, seed: int = 0, taus: Sequence[float] = TAUS) -> results.Frontier:
        """The tau curve with intervals, the probed path and the area, in results."""
        curve = [
            results.CurvePoint(tau=tau, alpha=self.alpha_at(tau), **self.estimate(tau, seed=seed).model_dump())
            for tau in taus
        ]
        columns = self.alphas.tolist(), self.retention.ratios.tolist(), self.forget.means().tolist()
        path = [results.PathPoint(alpha=a, retention=r, forget=f) for a, r, f in zip(*columns, strict=True)]
        return results.Frontier(curve=tuple(curve), path=tuple(path), area=self.area())

    def _resampled(self, seed: int) -> tuple[Floats, Floats]:
        """[A, R] retention and [A, R] forget score over the draws of a seed."""
        if seed not in self._drawn:
            forget = self.forget.resampled_means(seed=seed + 1)
            self._drawn[seed] = self.retention.resampled_ratios(seed=seed), forget
        return self._drawn[seed]


def at_tau(frontiers: Mapping[str, Frontier], tau: float, *, seed: int = 0) -> results.AtTau:
    """The residual scores at tau, from the frontier of each forget set."""
    first = frontiers["forget"]
    return results.AtTau(
        alpha=first.alpha_estimate(tau, seed=seed),
        retention=first.retention_at(tau),
        scores={name: frontier.estimate(tau, seed=seed) for name, frontier in frontiers.items()},
    )


def _estimate(value: float, draws: Floats, clusters: int) -> Estimate:
    low, high = bootstrap_interval(draws, clusters=clusters)
    return Estimate(value=value, low=low, high=high)


def _crossing(alphas: Floats, retention: Floats, tau: float) -> Floats:
    """[D] for each column of [A, D] the largest alpha at which the piecewise linear curve is at least tau."""
    kept = np.nan_to_num(retention, nan=-np.inf)
    feasible = kept >= tau - ROUNDING
    feasible[0] = True
    last = len(alphas) - 1 - np.argmax(feasible[::-1], axis=0)
    following = np.minimum(last + 1, len(alphas) - 1)
    draw: NDArray[np.intp] = np.arange(kept.shape[1])
    above = kept[last, draw] - tau
    drop = kept[last, draw] - kept[following, draw]
    share = np.divide(above, drop, out=np.zeros_like(above), where=drop > 0)
    crossing: Floats = alphas[last] + np.clip(share, 0, 1) * (alphas[following] - alphas[last])
    return crossing


def _along(alphas: Floats, found: Floats, curves: Floats) -> Floats:
    """[D] each column of [A, D] at its own alpha, linear between the probed ones."""
    right = np.clip(np.searchsorted(alphas, found, side="right"), 1, len(alphas) - 1)
    left, draw = right - 1, np.arange(curves.shape[1])
    share = (found - alphas[left]) / (alphas[right] - alphas[left])
    values: Floats = (1 - share) * curves[left, draw] + share * curves[right, draw]
    return values


def confidence_lower(first: Floats, second: Floats, *, clusters: int) -> float:
    """The confidence of paired bootstrap draws that the first score is lower: their share, ties counting half.

    Corrected for few clusters (see `bootstrap_confidence`), so that from 0.975 on the 95 % interval of the difference
    excludes 0.
    """
    share = float((first < second).mean() + 0.5 * (first == second).mean())
    return bootstrap_confidence(share, clusters=clusters, resamples=len(first))


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
        half = float(scipy.stats.t.ppf(0.975, degrees)) * se
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
    found, half = first.mean - second.mean, float(scipy.stats.t.ppf(0.975, degrees)) * se
    return Estimate(value=found, low=max(-1.0, found - half), high=min(1.0, found + half))


def seed_groups(
    members: Mapping[str, Mapping[str, Mapping[str, Frontier]]], tau: float, *, seed: int = 0
) -> tuple[results.Group, ...]:
    """Methods with several seeds by mean score at tau, best first, each with its differences from the others.

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
        minus = {other: difference(scores[name], scores[other]) for other in order if other != name}
        groups.append(
            results.Group(
                name=name,
                runs=tuple(by_run),
                next=minus.get(following.get(name, "")),
                minus=minus,
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
