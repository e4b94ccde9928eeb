"""What a method leaves over at every retention: the tau curve, its uncertainty, and the area under it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from uwc.metrics.stats import bootstrap_interval, bootstrap_sureness, cluster_codes
from uwc.models.token_scores import Floats

TAUS = tuple(round(0.40 + 0.05 * i, 2) for i in range(13))
RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class ProbedSet:
    """A metric's value for each example of one set at each probed mixture.

    Attributes:
        ids: E example ids.
        subjects: E subjects; examples that share one are drawn together.
        values: [A, E], one row a probed alpha.
    """

    ids: tuple[str, ...]
    subjects: tuple[str, ...]
    values: Floats

    @property
    def clusters(self) -> int:
        """How many subjects there are; an example without one counts by itself."""
        return int(cluster_codes(self.subjects).max()) + 1

    @property
    def means(self) -> Floats:
        """[A] the mean over examples at each mixture."""
        means: Floats = self.values.mean(axis=1)
        return means

    def resampled_means(self, *, resamples: int, seed: int) -> Floats:
        """[A, resamples] the means over bootstrap draws of whole subjects; the same draws for the same subjects."""
        codes = cluster_codes(self.subjects)
        clusters = int(codes.max()) + 1
        draws = np.random.default_rng(seed).multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples)
        weights = draws[:, codes].astype(np.float64)
        means: Floats = (self.values @ weights.T) / weights.sum(axis=1)
        return means


class Retained(Protocol):
    """What is held fixed, at each probed mixture: a `ProbedSet`, or several things together (`held.LeastShare`)."""

    @property
    def means(self) -> Floats:
        """[A] the retention; more is better."""

    @property
    def clusters(self) -> int:
        """How many subjects there are; 0 where there are no values by example to draw from."""

    def resampled_means(self, *, resamples: int, seed: int) -> Floats:
        """[A, resamples] the retention over bootstrap draws of whole subjects."""


@dataclass(frozen=True, eq=False)
class Frontier:
    """The path from the original to the unlearned model, probed at alpha = 0, ..., 1, and linear in between.

    Attributes:
        alphas: [A] probed mixtures, ascending from 0 to 1.
        retain: what is held fixed.
        forget: the values on a set that should be forgotten.
    """

    alphas: Floats
    retain: Retained
    forget: ProbedSet

    @property
    def clusters(self) -> int:
        """The number of subjects of the set that has fewer, of those that are drawn from."""
        return min(filter(None, (self.retain.clusters, self.forget.clusters)))

    def alpha_at(self, tau: float) -> float:
        """The largest alpha whose retention is at least tau times the original's."""
        return float(_crossing(self.alphas, self.retain.means[:, np.newaxis], tau)[0])

    def retain_at(self, tau: float) -> float:
        """The retention at that alpha: tau times the original's, or more where alpha = 1 keeps more."""
        return float(np.interp(self.alpha_at(tau), self.alphas, self.retain.means))

    def forget_at(self, tau: float) -> float:
        """The forget score at that alpha: what methods are ranked by, at the same retention for all of them."""
        return float(np.interp(self.alpha_at(tau), self.alphas, self.forget.means))

    def resampled_forget_at(self, tau: float, *, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
        """[resamples] the forget score at tau when both sets are drawn anew, and alpha found anew in each draw.

        Methods probed on the same questions with the same seed meet the same draws, so their difference is paired.
        """
        retain = self.retain.resampled_means(resamples=resamples, seed=seed)
        forget = self.forget.resampled_means(resamples=resamples, seed=seed + 1)
        found = _crossing(self.alphas, retain, tau)
        right = np.clip(np.searchsorted(self.alphas, found, side="right"), 1, len(self.alphas) - 1)
        left = right - 1
        share = (found - self.alphas[left]) / (self.alphas[right] - self.alphas[left])
        draw = np.arange(resamples)
        scores: Floats = (1 - share) * forget[left, draw] + share * forget[right, draw]
        return scores

    def interval(self, tau: float, *, seed: int = 0) -> tuple[float, float]:
        """The 95 % interval of the forget score at tau, with the uncertainty of alpha in it: `bootstrap_interval`."""
        return bootstrap_interval(self.resampled_forget_at(tau, seed=seed), clusters=self.clusters)

    def alpha_interval(self, tau: float, *, seed: int = 0) -> tuple[float, float]:
        """The 95 % interval of the alpha found at tau, over the same draws."""
        retain = self.retain.resampled_means(resamples=RESAMPLES, seed=seed)
        return bootstrap_interval(_crossing(self.alphas, retain, tau), clusters=self.retain.clusters)

    def area(self, *, points: int = 101) -> float:
        """The mean of the forget score over tau from 0 to 1: one number without a threshold; lower is better."""
        taus = np.linspace(0, 1, points)
        return float(np.trapezoid([self.forget_at(t) for t in taus], taus))

    def record(self, *, seed: int = 0, taus: Sequence[float] = TAUS) -> dict[str, Any]:
        """The curve as plain data: for each tau alpha, the forget score and its interval; the probed path; the area."""
        rows = []
        for tau in taus:
            low, high = self.interval(tau, seed=seed)
            rows.append(
                {"tau": tau, "alpha": self.alpha_at(tau), "forget": self.forget_at(tau), "low": low, "high": high}
            )
        means = self.retain.means, self.forget.means
        path = [
            {"alpha": float(a), "retain": float(r), "forget": float(f)}
            for a, r, f in zip(self.alphas, *means, strict=True)
        ]
        return {"curve": rows, "path": path, "area": self.area()}


def _crossing(alphas: Floats, retain: Floats, tau: float) -> Floats:
    """[D] for each column of [A, D] the largest alpha at which the piecewise linear curve is >= tau times its start."""
    threshold = tau * retain[0]
    feasible = retain >= threshold
    feasible[0] = True
    last = len(alphas) - 1 - np.argmax(feasible[::-1], axis=0)
    following = np.minimum(last + 1, len(alphas) - 1)
    draw: NDArray[np.intp] = np.arange(retain.shape[1])
    above = retain[last, draw] - threshold
    drop = retain[last, draw] - retain[following, draw]
    share = np.divide(above, drop, out=np.zeros_like(above), where=drop > 0)
    crossing: Floats = alphas[last] + np.clip(share, 0, 1) * (alphas[following] - alphas[last])
    return crossing


def sure_lower(first: Floats, second: Floats, *, clusters: int) -> float:
    """How sure paired bootstrap draws make it that the first score is lower: their share, ties counting half.

    With few clusters the share is taken nearer to one half, see `bootstrap_sureness`: from 0.975 on, the two are told
    apart as by a 95 % interval of their difference.
    """
    share = float((first < second).mean() + 0.5 * (first == second).mean())
    return bootstrap_sureness(share, clusters=clusters, resamples=len(first))


def save_probes(path: Path, alphas: Sequence[float], sets: Mapping[str, ProbedSet]) -> None:
    """Write the values of every probe as Parquet: alpha, set, id, subject, value."""
    frames = [
        pd.DataFrame({"alpha": alpha, "set": name, "id": s.ids, "subject": s.subjects, "value": s.values[row]})
        for name, s in sets.items()
        for row, alpha in enumerate(alphas)
    ]
    pd.concat(frames, ignore_index=True).to_parquet(path, index=False)


def load_probes(path: Path) -> tuple[Floats, dict[str, ProbedSet]]:
    """The mixtures, ascending, and the sets that `save_probes` wrote."""
    table = pd.read_parquet(path)
    sets = {}
    for name, part in table.groupby("set", sort=False):
        by_alpha = [rows for _, rows in part.groupby("alpha", sort=True)]
        sets[str(name)] = ProbedSet(
            tuple(by_alpha[0]["id"]), tuple(by_alpha[0]["subject"]), np.stack([r["value"].to_numpy() for r in by_alpha])
        )
    return np.sort(table["alpha"].unique()), sets
