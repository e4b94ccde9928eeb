"""Several things held fixed at once, over the probed mixtures: the least share that is kept, and its uncertainty."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from uwc.calibration.frontier import ProbedSet
from uwc.models.token_scores import Floats

SeedOf = Callable[[ProbedSet], int]
"""The seed with which the examples of a set are drawn."""
_LEAST = 1e-300
_DIGITS = 12


@dataclass(frozen=True, eq=False)
class HeldSet:
    """A metric held fixed on one set.

    Attributes:
        probed: its values for each example at each mixture; the first mixture is the original.
        higher: whether a high value means 'remembers'; else the original's mean over the mixture's is the share kept.
        geometric: whether values are averaged on logarithms.
    """

    probed: ProbedSet
    higher: bool = True
    geometric: bool = False

    @property
    def shares(self) -> Floats:
        """[A] the share of the original's average that is kept."""
        return self._shares(self._averaged.means)

    @property
    def clusters(self) -> int:
        """How many subjects there are."""
        return self.probed.clusters

    def resampled_shares(self, *, resamples: int, seed_of: SeedOf) -> Floats:
        """[A, resamples] the same over bootstrap draws of whole subjects."""
        return self._shares(self._averaged.resampled_means(resamples=resamples, seed=seed_of(self.probed)))

    @cached_property
    def _averaged(self) -> ProbedSet:
        """The values on the line on which they are averaged."""
        values = np.log(np.maximum(self.probed.values, _LEAST)) if self.geometric else self.probed.values
        return ProbedSet(self.probed.ids, self.probed.subjects, values)

    def _shares(self, means: Floats) -> Floats:
        if self.geometric:
            kept: Floats = np.exp(means - means[0] if self.higher else means[0] - means)
            return kept
        return _ratio(means, means[0]) if self.higher else _ratio(means[0], means)


@dataclass(frozen=True, eq=False)
class HeldMeans:
    """A metric of whole sets that is a function of means, such as TOFU's utility; more is better.

    Attributes:
        inputs: I sets of values, several of them perhaps of the same examples.
        function: from their means [I, ...] to the metric [...].
    """

    inputs: Sequence[ProbedSet]
    function: Callable[[Floats], Floats]

    @property
    def shares(self) -> Floats:
        """[A] the share of the original's value that is kept."""
        values = self.function(np.stack([i.means for i in self.inputs]))
        return _ratio(values, values[0])

    @property
    def clusters(self) -> int:
        """The number of subjects of the input that has the fewest."""
        return min(i.clusters for i in self.inputs)

    def resampled_shares(self, *, resamples: int, seed_of: SeedOf) -> Floats:
        """[A, resamples] the same over bootstrap draws of whole subjects."""
        draws = [i.resampled_means(resamples=resamples, seed=seed_of(i)) for i in self.inputs]
        values = self.function(np.stack(draws))
        return _ratio(values, values[0])


@dataclass(frozen=True, eq=False)
class HeldNumber:
    """One number for each mixture, such as the accuracy on a benchmark; nothing is known of its examples.

    Attributes:
        label: what it is called.
        scores: [A], the original's first.
        higher: whether a high number is good.
    """

    label: str
    scores: Floats
    higher: bool = True

    @property
    def shares(self) -> Floats:
        """[A] the share of the original's number that is kept."""
        return _ratio(self.scores, self.scores[0]) if self.higher else _ratio(self.scores[0], self.scores)


@dataclass(frozen=True, eq=False)
class LeastShare:
    """The least share kept of several measures, over the mixtures; see `frontier.Retained`.

    In bootstrap draws the sets are drawn anew, the same examples in the same way and other sets independently of each
    other. The numbers stay as they are, for nothing is known of what they are made of: what they leave unsure about
    alpha is missing from the intervals.

    Attributes:
        sets: what is held fixed with values by example.
        numbers: what is held fixed without.
    """

    sets: Sequence[HeldSet | HeldMeans]
    numbers: Sequence[HeldNumber] = ()

    @property
    def means(self) -> Floats:
        """[A] the least share kept."""
        return _least([*(s.shares for s in self.sets), *(n.shares for n in self.numbers)])

    @property
    def clusters(self) -> int:
        """The number of subjects of the set that has the fewest; 0 without any set."""
        return min((s.clusters for s in self.sets), default=0)

    def resampled_means(self, *, resamples: int, seed: int) -> Floats:
        """[A, resamples] the least share over bootstrap draws of whole subjects."""
        seeds: dict[tuple[tuple[str, ...], ...], int] = {}

        def seed_of(probed: ProbedSet) -> int:
            """One for each set of examples; seed + 1 is left for the forget set."""
            return seeds.setdefault((probed.ids, probed.subjects), seed + len(seeds) + bool(seeds))

        shares = [held.resampled_shares(resamples=resamples, seed_of=seed_of) for held in self.sets]
        shares += [np.tile(number.shares[:, np.newaxis], resamples) for number in self.numbers]
        return _least(shares)


def _ratio(kept: Floats, whole: Floats) -> Floats:
    """``kept / whole``; all is kept where there is nothing to keep."""
    shares: Floats = np.divide(kept, whole, out=np.ones(np.broadcast_shapes(kept.shape, whole.shape)), where=whole != 0)
    return shares


def _least(shares: Sequence[Floats]) -> Floats:
    """The least of them, rounded, so that a share of exactly tau counts as kept; NaN keeps nothing."""
    least: Floats = np.round(np.nan_to_num(np.stack(shares), nan=-np.inf).min(axis=0), _DIGITS)
    return least
