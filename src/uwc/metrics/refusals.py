"""Refusals: which answers are one, and how often this is decided correctly."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from uwc.data.benchmark import DEFAULT_REFUSALS
from uwc.data.benchmarks.fictional import fictional_authors
from uwc.data.benchmarks.fictional_words import REFUSALS
from uwc.data.labels import LabelledTexts
from uwc.data.refusal_texts import ANSWERS, CHAT_REFUSALS
from uwc.metrics.regression import fit_logistic
from uwc.metrics.sampled import leak_bound
from uwc.metrics.text_features import text_features
from uwc.models.token_scores import Floats
from uwc.results import Estimate, RefusalError

FOLDS = 10
PENALTY = 0.1
"""The penalty of the classifier's weights."""
LONGEST = 200
"""The characters of a text that are read: a refusal is at its beginning."""
SHIPPED = "the package's own texts, cross-validated"
_TAIL = 0.975


def refused(texts: Sequence[str]) -> NDArray[np.bool_]:
    """[E] whether each text is a refusal.

    Logistic regression on `text_features` of the first 200 characters, fitted to the package's own refusals and
    answers: a text is a refusal if its log-odds are positive, or if it is empty, as nothing is seen of an answer then.
    """
    empty = np.array([not text.strip() for text in texts], dtype=bool)
    return empty | (_features(texts) @ _weights() > 0)


def refusal_error(labels: LabelledTexts | None = None) -> RefusalError:
    """The sensitivity and specificity of `refused`, with 95 % intervals of Clopper and Pearson.

    On labelled texts (yes: a refusal), or else by ten-fold cross-validation on the package's own: refusals, and
    answers of which many have words of refusals.
    """
    if labels is None:
        own = _own()
        verdicts, truth, source = _held_out(), own[1][own[2]] > 0, SHIPPED
    else:
        verdicts, truth, source = refused(labels.texts), labels.labels > 0, labels.source
    return RefusalError(
        sensitivity=_share(int(verdicts[truth].sum()), int(truth.sum())),
        specificity=_share(int((~verdicts[~truth]).sum()), int((~truth).sum())),
        refusals=int(truth.sum()),
        answers=int((~truth).sum()),
        source=source,
    )


def _share(count: int, total: int) -> Estimate:
    """A share with its interval: 0..1 if there is nothing."""
    if total == 0:
        return Estimate(value=float("nan"), low=0.0, high=1.0)
    low = 1 - leak_bound(total - count, total, level=_TAIL)
    return Estimate(value=count / total, low=low, high=leak_bound(count, total, level=_TAIL))


def _features(texts: Sequence[str]) -> Floats:
    return text_features([text.strip()[:LONGEST] for text in texts])


@cache
def _own() -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """The features and labels of all texts, and which of them the error is measured on: not on answers to questions
    about invented authors, in which a refusal is unlikely to be found."""
    invented = fictional_authors(authors=20, facts=4, phrasings=1, holdout=0, general=False)
    easy = [e.answer for split in invented.splits.values() for e in split]
    refusals = [*dict.fromkeys([*REFUSALS, *DEFAULT_REFUSALS, *CHAT_REFUSALS])]
    labels = np.repeat([1.0, -1.0], [len(refusals), len(ANSWERS) + len(easy)])
    measured = np.arange(len(labels)) < len(refusals) + len(ANSWERS)
    return _features([*refusals, *ANSWERS, *easy]), labels, measured


@cache
def _weights() -> Floats:
    features, labels, _ = _own()
    return fit_logistic(features, labels, penalty=PENALTY)


@cache
def _held_out() -> NDArray[np.bool_]:
    """The verdict on each text that is measured on, of a classifier that was not fitted to its fold."""
    features, labels, measured = _own()
    folds = np.random.default_rng(0).permutation(len(labels)) % FOLDS
    verdicts = np.zeros(len(labels), dtype=bool)
    for fold in range(FOLDS):
        used = folds != fold
        verdicts[~used] = features[~used] @ fit_logistic(features[used], labels[used], penalty=PENALTY) > 0
    return verdicts[measured]
