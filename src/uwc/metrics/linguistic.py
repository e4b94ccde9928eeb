"""The language of generated texts: variety of words, perplexity and fluency by judges, and the linguistic score."""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from uwc.metrics.registry import metrics, set_metrics
from uwc.metrics.semantics import Classifier, LanguageModel
from uwc.models.token_scores import Floats
from uwc.words import comparable, split_words

_SOURCE = "arXiv:2502.11190"
_NO_WORD = "the generated text has no word"
PARTS = ("generated_perplexity", "brunet_index", "honore_statistic")
"""The metrics that the linguistic score is made of."""


@metrics.register(
    "generated_perplexity",
    source=_SOURCE,
    needs=("questions", "texts", "language_model"),
    range=(1.0, np.inf),
    higher_remembers=False,
    average="arithmetic",
    label="PPL of the text",
    unscored="the generated text or the question is empty, or both are longer than the judge's context",
)
def generated_perplexity(questions: Sequence[str], texts: Sequence[str], language_model: LanguageModel) -> Floats:
    """The perplexity of the generated text, after the question, under another language model.

    ``exp(-(1/n) sum_t log p(y_t | question, y_<t))`` over the n tokens of the text, without the end of the turn. Values
    are clipped at e^700.

    Args:
        questions: the questions.
        texts: the generated texts.
        language_model: the other model, given by the user.

    Returns:
        [E] in 1..e^700; NaN where text or question is empty, or both are longer than the other model's context.
    """
    values = np.full(len(texts), np.nan)
    asked = [i for i, (q, t) in enumerate(zip(questions, texts, strict=True)) if q.strip() and t.strip()]
    if asked:
        found = language_model([questions[i] for i in asked], [texts[i] for i in asked])
        values[asked] = np.exp(np.minimum(-found[:, 0] / found[:, 1], 700.0))
    return values


@metrics.register(
    "brunet_index",
    source=_SOURCE,
    needs=("texts",),
    range=(1.0, np.inf),
    higher_remembers=False,
    average="arithmetic",
    label="Brunet's index",
    unscored=_NO_WORD,
)
def brunet_index(texts: Sequence[str]) -> Floats:
    """Brunet's index of the generated text: low for varied words.

    ``N^(V^-0.165)`` with N the number of words and V that of different ones.

    Returns:
        [E] in 1..inf; NaN for a text without words.
    """
    values = []
    for words in map(_words, texts):
        values.append(len(words) ** (len(set(words)) ** -0.165) if words else np.nan)
    return np.array(values, dtype=np.float64)


@metrics.register(
    "honore_statistic",
    source=_SOURCE,
    needs=("texts",),
    range=(0.0, np.inf),
    higher_remembers=True,
    average="arithmetic",
    label="Honoré's statistic",
    unscored=f"{_NO_WORD}, or none that recurs, with added=0",
)
def honore_statistic(texts: Sequence[str], *, added: Annotated[float, Field(ge=0)] = 0.1) -> Floats:
    """Honoré's statistic of the generated text: high for many words that occur once.

    ``100 ln N / (1 - V1 / V + added)`` with N the number of words, V that of different ones and V1 that of words that
    occur once. Without `added` it does not exist where every word occurs once, as in most short answers; the source's
    code adds 0.1.

    Args:
        texts: the generated texts.
        added: the number in the denominator; 0 for the statistic as it is defined.

    Returns:
        [E] in 0..inf; NaN for a text without words or, without `added`, if each occurs once.
    """
    values = []
    for words in map(_words, texts):
        counts = Counter(words)
        rest = 1.0 - sum(count == 1 for count in counts.values()) / len(counts) + added if words else 0.0
        values.append(100.0 * np.log(len(words)) / rest if rest > 0 else np.nan)
    return np.array(values, dtype=np.float64)


@metrics.register(
    "fluency",
    source="arXiv:2506.12618",
    needs=("answers", "texts", "classifier"),
    range=(0.0, 1.0),
    higher_remembers=True,
    average="arithmetic",
    label="fluency",
    unscored="the true answer is empty",
)
def fluency(answers: Sequence[str], texts: Sequence[str], classifier: Classifier) -> Floats:
    """The probability that the generated text is clean, by a classifier of gibberish.

    ``p(clean | text)`` with the user's classifier and its label of clean texts; an empty text scores 0.

    Args:
        answers: the true answers.
        texts: the generated ones.
        classifier: the judge, given by the user.

    Returns:
        [E] in 0..1; NaN if the true answer is empty.
    """
    said = [i for i, text in enumerate(texts) if text.strip()]
    values = np.zeros(len(texts))
    if said:
        values[said] = classifier([texts[i] for i in said])
    return np.where([bool(a.strip()) for a in answers], values, np.nan)


def linguistic_score(perplexity: Floats, brunet: Floats, honore: Floats) -> float:
    """The linguistic score: a harmonic mean of low perplexity, varied words and words that occur once.

    ``HM(s(-ln PPL), s(-ln BI), s(ln HS))`` with s(x) = 1 / (1 + e^-x) and the means of `generated_perplexity`,
    `brunet_index` and `honore_statistic`, which is ``3 / (3 + PPL + BI + 1 / HS)``, and 0 if HS is 0. Texts without
    words are left out and counted. It depends on the judge and on the length of the texts, so that only numbers with
    the same judge on the same questions are comparable.

    Args:
        perplexity: [E] perplexities of the texts under the judge.
        brunet: [E] Brunet's indices.
        honore: [E] Honoré's statistics.
    """
    means = float(perplexity.mean()), float(brunet.mean()), float(honore.mean())
    return 3.0 / (3.0 + means[0] + means[1] + 1.0 / means[2]) if means[2] > 0 else 0.0


for _set in ("forget", "retain"):
    set_metrics.register(
        f"linguistic_score_{_set}",
        source=_SOURCE,
        needs=tuple(f"{_set}:{part}" for part in PARTS),
        range=(0.0, 1.0),
        higher_remembers=None,
        label=f"linguistic score, {_set}",
        interval=True,
    )(linguistic_score)


def _words(text: str) -> list[str]:
    """The words of a text, in the form in which `secret_said` compares texts."""
    return split_words(comparable(text))
