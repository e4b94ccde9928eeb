"""Several things held fixed at once, over the probed mixtures: the least share that is kept, and its uncertainty."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from uwc.calibration.frontier import ProbedSet
from uwc.models.token_scores import Floats

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

    def resampled_shares(self, *, resamples: int, seed: int) -> Floats:
        """[A, resamples] the same over bootstrap draws of whole subjects."""
        return self._shares(self._averaged.resampled_means(resamples=resamples, seed=seed))

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

    sets: Sequence[HeldSet]
    numbers: Sequence[HeldNumber] = ()

    @property
    def means(self) -> Floats:
        """[A] the least share kept."""
        return _least([*(s.shares for s in self.sets), *(n.shares for n in self.numbers)])

    @property
    def clusters(self) -> int:
        """The number of subjects of the set that has the fewest; 0 without any set."""
        return min((s.probed.clusters for s in self.sets), default=0)

    def resampled_means(self, *, resamples: int, seed: int) -> Floats:
        """[A, resamples] the least share over bootstrap draws of whole subjects."""
        seeds: dict[tuple[tuple[str, ...], ...], int] = {}
        shares: list[Floats] = []
        for held in self.sets:
            # the forget set is drawn with seed + 1
            own = seeds.setdefault((held.probed.ids, held.probed.subjects), seed + len(seeds) + bool(seeds))
            shares.append(held.resampled_shares(resamples=resamples, seed=own))
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
