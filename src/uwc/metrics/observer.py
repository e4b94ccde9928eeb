"""An observer who sees only answers: how well it distinguishes a model from a retrained one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # its parts are imported on first use
from numpy.typing import NDArray

from uwc.metrics.regression import fit_logistic
from uwc.metrics.stats import SET_RESAMPLES, bootstrap_interval, cluster_codes, draw_blocks
from uwc.metrics.text_features import text_features
from uwc.metrics.traces import Scoring, out_of_fold
from uwc.models.token_scores import Floats
from uwc.results import Estimate, ObserverPoint

SPLITS = 5
"""How often the clusters are divided into two halves."""
PENALTY = 0.1
"""The penalty of the discriminator's weights."""
FEWEST_CLUSTERS = 4
"""The fewest clusters, such that either half has two."""
GRID = 256
"""The number of values to which log-odds are rounded."""
REFITTED = np.sqrt(2.0)
"""By how much intervals are wider than those of fixed discriminators, see `advantages`."""
_TAIL = 0.025
_CLOSEST = 1e-4
"""How close to 0 or 1 an AUC is on the scale on which intervals are widened."""


@dataclass(frozen=True)
class Half:
    """The held-out answers of a half of the clusters, by the rounded log-odds of a discriminator for the other half.

    Attributes:
        ours: [C, G] the number of the model's answers of each of all C clusters with each of G values.
        others: [C, G] that of the retrained model.
    """

    ours: Floats
    others: Floats


def observed(ours: Sequence[str], others: Sequence[str], subjects: Sequence[str], *, seed: int = 0) -> list[Half]:
    """The held-out log-odds that an answer is of the model and not of the retrained one.

    The clusters are divided at random into halves, `SPLITS` times. A discriminator is fitted to the answers of both
    models in one half and applied to those in the other, and the other way round: logistic regression on
    `text_features`. Both answers to a question are in one half, so that either label is equally frequent wherever a
    discriminator is fitted or applied. Where the two models are exchangeable, the two labels of a half are so given its
    discriminator, and each AUC is 1/2 on average.

    Args:
        ours: [E] answers of the model.
        others: [E] those of the retrained model to the same questions.
        subjects: [E]; examples that share one are a cluster.
        seed: of the divisions.
    """
    first, second = text_features(ours), text_features(others)
    codes, random = cluster_codes(subjects), np.random.default_rng(seed)
    clusters = int(codes.max()) + 1
    found = []
    for _ in range(SPLITS):
        places: NDArray[np.int64] = random.permutation(clusters)[codes]
        scores = out_of_fold(first, second, places, folds=2, fit=_discriminator)
        for half in range(2):
            held = places % 2 == half
            values = np.stack([row[held] for row in scores])
            step = (values.max() - values.min()) / (GRID - 1)
            rounded = np.rint((values - values.min()) / (step or 1.0)).astype(np.int64)
            counts = np.zeros((2, clusters, GRID))
            for table, row in zip(counts, rounded, strict=True):
                np.add.at(table, (codes[held], row), 1.0)
            found.append(Half(counts[0], counts[1]))
    return found


def _discriminator(features: Floats, labels: Floats) -> Scoring:
    weights = fit_logistic(features, labels, penalty=PENALTY)
    return lambda others: others @ weights


def sum_auc(ours: Floats, others: Floats, count: int) -> Floats:
    """[...] the probability that the sum of n values of one kind is greater than that of n of another, plus half that
    of equality.

    ``P(sum_i A_i > sum_i B_i) + P(equal) / 2`` for independent ``A_i ~ ours`` and ``B_i ~ others``, by the n-th power
    of the characteristic function of ``A - B``.

    Args:
        ours: [..., G] frequencies of the values 0..G-1, not all 0.
        others: [..., G] likewise.
        count: n.
    """
    size = scipy.fft.next_fast_len(2 * count * ours.shape[-1] + 1, real=True)
    a, b = (scipy.fft.rfft(p / p.sum(axis=-1, keepdims=True), size) for p in (ours, others))
    of_sum = scipy.fft.irfft((a * b.conj()) ** count, size)
    found: Floats = of_sum[..., 1 : size // 2].sum(axis=-1) + of_sum[..., 0] / 2
    return np.clip(found, 0.0, 1.0)


def aucs(halves: Sequence[Half], weights: Floats, count: int) -> Floats:
    """[R] the AUC of an observer of n answers, averaged over the halves by their numbers of answers.

    Args:
        halves: the result of `observed`.
        weights: [R, C] the weight of each cluster.
        count: n.
    """
    total, of_all = np.zeros(len(weights)), np.zeros(len(weights))
    for half in halves:
        ours, others = weights @ half.ours, weights @ half.others
        size = ours.sum(axis=1)
        there = size > 0
        of_all[there] += size[there]
        total[there] += size[there] * sum_auc(ours[there], others[there], count)
    return total / of_all


def advantages(
    halves: Sequence[Half],
    *,
    control: Sequence[Half] | None = None,
    seed: int = 0,
    resamples: int = SET_RESAMPLES,
) -> list[ObserverPoint]:
    """The advantage ``2 AUC - 1`` of an observer of n answers for n = 1, 2, 4, ..., with 95 % intervals.

    The observer adds the log-odds of n answers to questions about different clusters, all of one model, and the AUC is
    over the two models: n is at most the number of clusters in a half. The interval is of a bootstrap over clusters
    with fixed discriminators. Each pair of clusters is used twice, with either of them in the fitted half, so that
    without a difference between the models the AUC varies by ``sqrt(2)`` times as much as this bootstrap shows: for
    linear discriminators it is a mean over pairs of clusters, ``sum_{c != d} D_c D_d``, whose variance is twice that of
    sums with one factor fixed. The ends are moved away from the AUC by this factor, on the scale of normal quantiles.
    Even where all answers are classified correctly, C clusters show no larger AUC than the one whose C-th power is
    2.5 %: the lower end is at most ``Phi(sqrt(n) Phi^-1(0.025^(1/C)))``, so that six clusters are the fewest by which a
    difference is significant.

    Args:
        halves: the result of `observed` for the model.
        control: that for another retrained model, also against the first one.
        seed: of the bootstrap.
        resamples: the number of its draws.
    """
    clusters = halves[0].ours.shape[0]
    points = []
    for count in [2**i for i in range((clusters // 2).bit_length())]:
        whole = np.ones((1, clusters))
        drawn = [draws for _, draws in draw_blocks(clusters, seed=seed, resamples=resamples, width=GRID * count)]
        ours = np.concatenate([aucs(halves, w, count) for w in [whole, *drawn]])
        found: dict[str, Estimate] = {"advantage": _on_normal_scale(ours, count, clusters)}
        if control is not None:
            theirs = np.concatenate([aucs(control, w, count) for w in [whole, *drawn]])
            found |= {"control": _on_normal_scale(theirs, count, clusters), "excess": _excess(ours - theirs, clusters)}
        points.append(ObserverPoint(n=count, **found))
    return points


def _on_normal_scale(found: Floats, count: int, clusters: int) -> Estimate:
    """The advantage from the AUC of n answers and its draws."""
    value, *ends = _normal(np.array([found[0], *bootstrap_interval(found[1:], clusters=clusters)]))
    low, high = (value + REFITTED * (end - value) for end in ends)
    most = np.sqrt(count) * scipy.stats.norm.ppf(_TAIL ** (1 / clusters))
    low, high = (2 * scipy.stats.norm.cdf(end) - 1 for end in (min(low, most), max(high, -most)))
    advantage = 2 * found[0] - 1
    return Estimate(value=float(advantage), low=float(min(low, advantage)), high=float(max(high, advantage)))


def _normal(found: Floats) -> Floats:
    quantiles: Floats = scipy.stats.norm.ppf(np.clip(found, _CLOSEST, 1 - _CLOSEST))
    return quantiles


def _excess(found: Floats, clusters: int) -> Estimate:
    """The difference of two advantages from that of the AUCs and its draws."""
    low, high = (found[0] + REFITTED * (end - found[0]) for end in bootstrap_interval(found[1:], clusters=clusters))
    return Estimate(value=float(2 * found[0]), low=float(max(2 * low, -2.0)), high=float(min(2 * high, 2.0)))
