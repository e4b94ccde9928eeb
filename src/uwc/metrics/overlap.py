"""Metrics of generated texts: ROUGE over the words of any script, and token diversity."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import regex

from uwc.metrics.registry import metrics
from uwc.models.token_scores import Floats
from uwc.words import normalised, split_words

Part = Literal["precision", "recall", "fmeasure"]
_SHARED: dict[str, Any] = {
    "needs": ("answers", "texts"),
    "range": (0.0, 1.0),
    "higher_remembers": True,
    "average": "arithmetic",
    "unscored": "the true answer has no word",
}
_NEXT_QUESTION = regex.compile(r"\n\n|\nQuestion|Question:")

_BEYOND_ASCII = regex.compile(
    r"[[\p{L}\p{N}\p{M}]--\p{ASCII}--\p{Emoji_Component}--[\p{No}&&\p{Script=Common}]]", regex.V1
)
"""A letter, digit or mark outside ASCII, except superscripts, fractions (² ½) and marks of emojis."""


class UnicodeWords:
    """The words of any script, as a tokenizer of rouge-score.

    A text is normalised (`normalised`) and split at the word boundaries of UAX 29; pieces without a letter or number
    are dropped. In scripts written without spaces (Han, Hiragana, Katakana, Yi, Thai, Lao, Khmer, Myanmar, Javanese,
    ...: letters at which UAX 14 allows a line break) each grapheme, a letter with its marks, is a word.
    """

    def tokenize(self, text: str) -> list[str]:
        """The words, in order."""
        return split_words(normalised(text))


def rouge(answers: Sequence[str], generated: Sequence[str], *, kind: str, part: Part, stemmer: bool = True) -> Floats:
    """[E] a ROUGE score; NaN if the true answer has no word, 0 for an empty generation.

    The true answer selects the tokenizer. If all its letters and digits are ASCII: rouge-score's tokens ``[a-z0-9]+``,
    stemmed, as in TOFU. Otherwise the words of `UnicodeWords`, not stemmed.

    Args:
        answers: [E] the true answers.
        generated: [E] the generated ones.
        kind: ``"rouge1"``, ``"rougeL"``, ... as in rouge-score.
        part: precision, recall or F1.
        stemmer: whether the English (Porter) stemmer is applied to answers in ASCII.
    """
    from rouge_score.tokenizers import DefaultTokenizer  # it loads nltk, which takes a while

    ascii_form, unicode_form = DefaultTokenizer(use_stemmer=stemmer), UnicodeWords()
    return _rouge(answers, generated, kind, part, lambda a: unicode_form if _BEYOND_ASCII.search(a) else ascii_form)


def ascii_rouge(
    answers: Sequence[str],
    generated: Sequence[str],
    *,
    kind: str,
    part: Part,
    stemmer: bool = True,
    strict: bool = True,
) -> Floats:
    """[E] ROUGE as in TOFU for every answer: tokens ``[a-z0-9]+``, so that an accented letter splits its word.

    A true answer cannot be read if it has no word, or a word without any of ``[a-z0-9]`` (another script, a full-width
    form, a lone accented letter).

    Args:
        answers: as for `rouge`, and so are generated, kind, part and stemmer.
        strict: return NaN for an answer that cannot be read. Otherwise the readable words are scored, 0 if there are
            none, as in rouge-score.
    """
    from rouge_score.tokenizers import DefaultTokenizer  # it loads nltk, which takes a while

    form = DefaultTokenizer(use_stemmer=stemmer)
    values = _rouge(answers, generated, kind, part, lambda _: form)
    if not strict:
        return np.nan_to_num(values)
    unread = [
        any(_BEYOND_ASCII.search(word) and not form.tokenize(word) for word in split_words(answer))
        for answer in answers
    ]
    return np.where(unread, np.nan, values)


def _rouge(
    answers: Sequence[str], generated: Sequence[str], kind: str, part: Part, form: Callable[[str], Any]
) -> Floats:
    from rouge_score.rouge_scorer import RougeScorer

    scorers: dict[Any, RougeScorer] = {}
    values = np.full(len(answers), np.nan)
    for i, (answer, text) in enumerate(zip(answers, generated, strict=True)):
        tokenizer = form(answer)
        if tokenizer.tokenize(answer):
            scorer = scorers.setdefault(tokenizer, RougeScorer([kind], tokenizer=tokenizer))
            values[i] = getattr(scorer.score(answer, text)[kind], part)
    return values


@metrics.register("rouge_l", source="arXiv:2401.06121", label="ROUGE-L", **_SHARED)
def rouge_l(answers: Sequence[str], generated: Sequence[str]) -> Floats:
    """ROUGE-L recall: the share of the true answer's words in the longest subsequence common with the generated text.

    ``LCS(answer, generated) / words in the answer``. Answers in ASCII are tokenized and stemmed as in TOFU, others into
    the words of their script; see `rouge`. An empty generation scores 0.

    Returns:
        [E] in 0..1; NaN where the true answer has no word.
    """
    return rouge(answers, generated, kind="rougeL", part="recall")


@metrics.register("rouge_l_f1", source="arXiv:2407.06460", label="ROUGE-L F1", **_SHARED)
def rouge_l_f1(answers: Sequence[str], generated: Sequence[str]) -> Floats:
    """ROUGE-L F1: the harmonic mean of recall and precision of the longest common subsequence, read as by `rouge_l`.

    ``2 LCS / (words in the answer + words generated)``.

    Returns:
        [E] in 0..1; NaN where the true answer has no word.
    """
    return rouge(answers, generated, kind="rougeL", part="fmeasure")


@metrics.register("rouge_1", source="arXiv:2401.06121", label="ROUGE-1", **_SHARED)
def rouge_1(answers: Sequence[str], generated: Sequence[str]) -> Floats:
    """ROUGE-1 recall: the share of the true answer's words that occur in the generated text, in any order.

    ``sum_w min(count in the answer, count generated) / words in the answer``, read as by `rouge_l`.

    Returns:
        [E] in 0..1; NaN where the true answer has no word.
    """
    return rouge(answers, generated, kind="rouge1", part="recall")


@metrics.register("rouge_1_f1", source="ROUGE (Lin 2004)", label="ROUGE-1 F1", **_SHARED)
def rouge_1_f1(answers: Sequence[str], generated: Sequence[str]) -> Floats:
    """ROUGE-1 F1: the harmonic mean of recall and precision of single words, read as by `rouge_l`.

    ``2 overlap / (words in the answer + words generated)``.

    Returns:
        [E] in 0..1; NaN where the true answer has no word.
    """
    return rouge(answers, generated, kind="rouge1", part="fmeasure")


@metrics.register(
    "rouge_l_ascii",
    source="arXiv:2401.06121",
    label="ROUGE-L (ASCII)",
    **_SHARED | {"unscored": "the true answer has no word, or one outside a-z and 0-9"},
)
def rouge_l_ascii(answers: Sequence[str], generated: Sequence[str]) -> Floats:
    """ROUGE-L recall as published by TOFU: words are runs of a-z and 0-9, so that an accented letter splits its word.

    ``LCS(answer, generated) / words in the answer``, stemmed. Equal to `rouge_l` on answers in ASCII.

    Returns:
        [E] in 0..1; NaN if the true answer has no word, or a word without any of a-z and 0-9.
    """
    return ascii_rouge(answers, generated, kind="rougeL", part="recall")


@metrics.register("verbatim_memorization", source="arXiv:2407.06460", label="VerbMem", only="verbatim", **_SHARED)
def verbatim_memorization(answers: Sequence[str], generated: Sequence[str]) -> Floats:
    """MUSE's verbatim memorization: ROUGE-L F1, not stemmed, of a text's continuation.

    The question is the beginning of a text, given without a template, and the answer its continuation, truncated to as
    many tokens as are generated (128 in MUSE), as in the set ``verbatim``. Words are those of `rouge_l`.

    Returns:
        [E] in 0..1; NaN where the true continuation has no word.
    """
    return rouge(answers, generated, kind="rougeL", part="fmeasure", stemmer=False)


@metrics.register("knowledge_memorization", source="arXiv:2407.06460", label="KnowMem", **_SHARED)
def knowledge_memorization(answers: Sequence[str], generated: Sequence[str]) -> Floats:
    """MUSE's knowledge memorization: ROUGE-L F1, not stemmed, of the answer to a question, read as by `rouge_l`.

    The generated text is cut at the beginning of another question: at an empty line or at ``Question:``.

    Returns:
        [E] in 0..1; NaN where the true answer has no word.
    """
    first = [_NEXT_QUESTION.split(text.lstrip(), maxsplit=1)[0] for text in generated]
    return rouge(answers, first, kind="rougeL", part="fmeasure", stemmer=False)


@metrics.register(
    "token_diversity",
    source="arXiv:2410.08109",
    needs=("text_tokens",),
    range=(0.0, 1.0),
    higher_remembers=True,
    average="arithmetic",
    label="token diversity",
    unscored="nothing was generated",
)
def token_diversity(text_tokens: Sequence[Sequence[int]]) -> Floats:
    """Entropy of the generated tokens, relative to its maximum.

    ``H / log2(m)`` with ``H = -sum_v f_v log2 f_v`` over the frequencies f_v among the m generated tokens. The value is
    0 for one token and 1 for two different ones; short texts have high values.

    Returns:
        [E] in 0..1; NaN if nothing was generated.
    """
    return np.array([_relative_entropy(tokens) for tokens in text_tokens], dtype=np.float64)


def _relative_entropy(tokens: Sequence[int]) -> float:
    if not tokens:
        return float("nan")
    if len(tokens) == 1:
        return 0.0
    shares = np.unique(np.asarray(tokens), return_counts=True)[1] / len(tokens)
    return max(0.0, float(-(shares * np.log2(shares)).sum() / np.log2(len(tokens))))
