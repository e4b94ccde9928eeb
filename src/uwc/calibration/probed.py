"""The measurements at the probed mixtures of a calibration: values by example, ratios to the original's, bootstrap
draws, and their file."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from uwc.data.example import Example
from uwc.metrics.registry import set_metrics
from uwc.metrics.stats import COMBINATIONS, bootstrap_interval, cluster_codes, draw_blocks
from uwc.models.token_scores import Floats
from uwc.results import Estimate

RESAMPLES = 1000
ROUNDING = 1e-12
"""Tolerance of the comparison of a ratio with tau."""


def ratio_to_original(value: Floats | float, original: Floats | float, *, higher: bool) -> Floats:
    """``value / original``, or ``original / value`` if low is good; 1 if that divides by 0."""
    above, below = np.broadcast_arrays(*((value, original) if higher else (original, value)))
    ratio: Floats = np.divide(above, below, out=np.ones(below.shape), where=below != 0)
    return ratio


def logarithm(values: Floats) -> Floats:
    """``log v``, finite for 0."""
    logarithms: Floats = np.log(np.maximum(values, 1e-300))
    return logarithms


@dataclass(frozen=True, eq=False)
class ProbedSet:
    """A metric's value for each example of one set at each probed mixture.

    Attributes:
        name: the set.
        metric: the metric.
        alphas: [A] the mixtures, ascending.
        ids: E example ids.
        subjects: E subjects; examples that share one are a cluster.
        values: [A, E]; examples that are NaN in the first row are left out of means and draws.
    """

    name: str
    metric: str
    alphas: Floats
    ids: tuple[str, ...]
    subjects: tuple[str, ...]
    values: Floats

    @classmethod
    def of(
        cls, name: str, metric: str, examples: Sequence[Example], alphas: Sequence[float], rows: Sequence[Floats]
    ) -> "ProbedSet":
        """From alpha -> [E] values."""
        ids, subjects = tuple(e.id for e in examples), tuple(e.subject for e in examples)
        return cls(name, metric, np.array(alphas), ids, subjects, np.stack(rows))

    @cached_property
    def scored(self) -> NDArray[np.intp]:
        """Indices of the examples with a value at the first mixture."""
        return np.flatnonzero(~np.isnan(self.values[0]))

    @property
    def drawn(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Ids and subjects of the scored examples; sets with the same ones have the same bootstrap draws."""
        return tuple(self.ids[i] for i in self.scored), tuple(self.subjects[i] for i in self.scored)

    def part(self, ids: Collection[str]) -> "ProbedSet":
        """The values of some of the examples."""
        kept = [i for i, identity in enumerate(self.ids) if identity in ids]
        return replace(
            self,
            ids=tuple(self.ids[i] for i in kept),
            subjects=tuple(self.subjects[i] for i in kept),
            values=self.values[:, kept],
        )

    @property
    def clusters(self) -> int:
        """The number of clusters: distinct subjects, and examples without one."""
        return int(self._codes.max(initial=-1)) + 1

    def row(self, alpha: float) -> Floats | None:
        """[E] the values at a mixture; None if not all examples were scored there."""
        found = np.flatnonzero(self.alphas == alpha)
        return self.values[found[0]] if len(found) else None

    def means(self, *, logarithms: bool = False) -> Floats:
        """[A] the mean over examples at each mixture, optionally of logarithms; NaN of no example."""
        line = self._line(logarithms)
        means: Floats = line.mean(axis=1) if line.size else np.full(len(line), np.nan)
        return means

    def resampled_means(self, *, seed: int, logarithms: bool = False, resamples: int = RESAMPLES) -> Floats:
        """[A, R] the means over bootstrap draws of whole clusters, determined by subjects and seed."""
        line = self._line(logarithms)
        means: Floats = np.full((len(line), resamples), np.nan)
        if not line.size:
            return means
        alone = np.array_equal(self._codes, np.arange(self.clusters))  # every example is a cluster
        for part, drawn in draw_blocks(self.clusters, seed=seed, resamples=resamples, width=line.shape[1]):
            weights = drawn if alone else drawn[:, self._codes]
            means[:, part] = (line @ weights.T) / weights.sum(axis=1)
        return means

    @cached_property
    def _codes(self) -> NDArray[np.int64]:
        return cluster_codes(self.drawn[1])

    def _line(self, logarithms: bool) -> Floats:
        """[A, E'] the values on the scale on which they are averaged."""
        complete = len(self.scored) == self.values.shape[1]  # then no copy is needed
        values = np.ascontiguousarray(self.values if complete else self.values[:, self.scored])
        return logarithm(values) if logarithms else values


@dataclass(frozen=True, eq=False)
class Measured:
    """The values of a retention measure at the mixtures that were scored on all examples.

    Attributes:
        label: the measure's name in tables.
        higher: whether a high value is good; otherwise the ratio is the original's value over the mixture's.
        alphas: [A] the mixtures, ascending from 0, the original.
        values: [A] the measure's value.
        inputs: the values by example that it is computed from; none if it is one number for a model.
        average: "arithmetic" or "geometric", of one input; or the name of a set metric that is a function of their
            means, or one of `COMBINATIONS`.
        errors: [A] standard errors of the values, NaN where there is none, of a measure without inputs; may be empty.
        questions: the number of questions of a measure without inputs; 0 if it is not known.
        shown: its set and metric in tables, where they are not those of its inputs.
    """

    label: str
    higher: bool
    alphas: Floats
    values: Floats
    inputs: tuple[ProbedSet, ...] = ()
    average: str = "arithmetic"
    errors: Floats = field(default_factory=lambda: np.zeros(0))
    questions: int = 0
    shown: tuple[str, str] | None = None

    @classmethod
    def of(
        cls,
        label: str,
        inputs: Sequence[ProbedSet],
        *,
        higher: bool = True,
        average: str = "arithmetic",
        shown: tuple[str, str] | None = None,
    ) -> "Measured":
        """A measure that is computed from values by example."""
        means = [i.means(logarithms=average == "geometric") for i in inputs]
        values = _combined(average, means)
        return cls(label, higher, inputs[0].alphas, values, tuple(inputs), average, shown=shown)

    @property
    def single(self) -> bool:
        """Whether it is an average over the examples of one set."""
        return self.average in ("arithmetic", "geometric")

    @property
    def ratios(self) -> Floats:
        """[A] the ratio to the original's value."""
        return ratio_to_original(self.values, self.values[0], higher=self.higher)

    @property
    def n(self) -> int:
        """The number of distinct examples; 1 for a number."""
        return len({(i.name, e) for i in self.inputs for e in i.drawn[0]}) or self.questions or 1

    @property
    def by_error(self) -> bool:
        """Whether its uncertainty is that of standard errors, in place of values by example."""
        return not self.inputs and len(self.errors) > 0 and bool(np.isfinite(self.errors).all())

    @property
    def clusters(self) -> int:
        """The number of clusters of the input that has the fewest, or of questions where there are standard errors; 0
        if no uncertainty is known."""
        return self.questions if self.by_error else min((i.clusters for i in self.inputs), default=0)

    def resampled(self, seed_of: Callable[[object], int]) -> Floats:
        """[A, R] the value over bootstrap draws of whole clusters.

        With standard errors s it is ``v_0 + s_0 z`` for the original and ``v_a + s_a z'`` for every mixture, z and z'
        independent and standard normal: the correlation of the two errors, which is not known, would narrow the
        intervals. It is constant for a measure with neither.

        Args:
            seed_of: the seed of the draws of a set of examples, or of a label.
        """
        if self.by_error:
            first, second = np.random.default_rng(seed_of(self.label)).standard_normal((2, RESAMPLES))
            drawn: Floats = self.values[:, np.newaxis] + self.errors[:, np.newaxis] * second
            drawn[0] = self.values[0] + self.errors[0] * first
            return drawn
        if not self.inputs:
            return np.tile(self.values[:, np.newaxis], RESAMPLES)
        logarithms = self.average == "geometric"
        means = [i.resampled_means(seed=seed_of(i.drawn), logarithms=logarithms) for i in self.inputs]
        return _combined(self.average, means)


def _combined(average: str, means: Sequence[Floats]) -> Floats:
    """[...] a measure's value from the means [...] of its inputs."""
    if average in ("arithmetic", "geometric"):
        return means[0] if average == "arithmetic" else np.exp(means[0])
    if average in COMBINATIONS:
        return COMBINATIONS[average](np.stack(means))
    value: Floats = set_metrics.get(average).facts["of_means"](np.stack(means))
    return value


@dataclass(frozen=True, eq=False)
class RetentionCurve:
    """The retention ratio at the probed mixtures: the least ratio of all measures.

    In the bootstrap each set of examples is drawn independently; measures of the same examples share their draws.
    Measures with standard errors in place of values by example are drawn from normal distributions; those with neither
    are constant, so that intervals do not include their uncertainty.

    Attributes:
        measures: the measures, at the same mixtures.
    """

    measures: tuple[Measured, ...]
    _drawn: dict[int, tuple[Floats, ...]] = field(default_factory=dict, repr=False)

    @property
    def alphas(self) -> Floats:
        """[A] the mixtures, ascending from 0."""
        return self.measures[0].alphas

    @cached_property
    def ratios(self) -> Floats:
        """[A] the retention ratio; NaN if a measure has no value."""
        least: Floats = np.stack([m.ratios for m in self.measures]).min(axis=0)
        return least

    @property
    def clusters(self) -> int:
        """The smallest number of clusters of all sets; 0 if there is no set."""
        return min(filter(None, (m.clusters for m in self.measures)), default=0)

    def resampled(self, *, seed: int) -> tuple[Floats, ...]:
        """For each measure [A, R] its value over bootstrap draws; cached by seed.

        The first set of examples is drawn with `seed`, further ones with `seed` + 2, + 3, ...; `seed` + 1 is that of
        the forget set.
        """
        if seed not in self._drawn:
            seeds: dict[object, int] = {}

            def seed_of(drawn: object) -> int:
                return seeds.setdefault(drawn, seed + len(seeds) + bool(seeds))

            self._drawn[seed] = tuple(m.resampled(seed_of) for m in self.measures)
        return self._drawn[seed]

    def resampled_ratios(self, *, seed: int) -> Floats:
        """[A, R] the retention ratio over the same draws."""
        drawn = zip(self.measures, self.resampled(seed=seed), strict=True)
        least: Floats = np.stack([ratio_to_original(d, d[0], higher=m.higher) for m, d in drawn]).min(axis=0)
        return least

    def delivered(self, *, seed: int) -> Estimate | None:
        """The retention ratio at alpha = 1 with its 95 % interval over the same draws, in which both models have the
        same examples; None if not all examples were scored there."""
        if self.alphas[-1] != 1:
            return None
        low, high = bootstrap_interval(self.resampled_ratios(seed=seed)[-1], clusters=self.clusters)
        return Estimate(value=float(self.ratios[-1]), low=low, high=high)


def save_probes(path: Path, sets: Iterable[ProbedSet]) -> None:
    """Write the values of every probe as Parquet: set, metric, alpha, id, subject, value."""
    frames = [
        pd.DataFrame(
            {"set": s.name, "metric": s.metric, "alpha": alpha, "id": s.ids, "subject": s.subjects, "value": row}
        )
        for s in sets
        for alpha, row in zip(s.alphas, s.values, strict=True)
    ]
    pd.concat(frames, ignore_index=True).to_parquet(path, index=False)


def load_probes(path: Path) -> Mapping[tuple[str, str], ProbedSet]:
    """Read the file of `save_probes`: (set, metric) -> its values."""
    found = {}
    for (name, metric), part in pd.read_parquet(path).groupby(["set", "metric"], sort=False):
        rows = dict(list(part.groupby("alpha", sort=True)))
        first = next(iter(rows.values()))
        values = np.stack([r["value"].to_numpy() for r in rows.values()])
        found[str(name), str(metric)] = ProbedSet(
            str(name), str(metric), np.array(list(rows)), tuple(first["id"]), tuple(first["subject"]), values
        )
    return found
