"""How much of the true answer stands in the generated one."""

import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from rouge_score.rouge_scorer import RougeScorer

from uwc.metrics.registry import metrics
from uwc.models.token_scores import Floats

Part = Literal["precision", "recall", "fmeasure"]
_SHARED: dict[str, Any] = {
    "needs": ("answers", "texts"), "range": (0.0, 1.0), "higher_remembers": True, "average": "arithmetic",
    "unscored": "the true answer has no word",
}  # fmt: skip
_NEXT_QUESTION = re.compile(r"\n\n|\nQuestion|Question:")


def rouge(answers: Sequence[str], generated: Sequence[str], *, kind: str, part: Part, stemmer: bool = True) -> Floats:
    """[E] one number of one kind of ROUGE; NaN where the true answer has no word, 0 for an empty generation."""
    scorer = RougeScorer([kind], use_stemmer=stemmer)
    words = re.compile(r"[a-z0-9]")
    values = [
        getattr(scorer.score(a, g)[kind], part) if words.search(a.lower()) else np.nan
        for a, g in zip(answers, generated, strict=True)
    ]
    return np.array(values, dtype=np.float64)


@metrics.register("rouge_l", source="arXiv:2401.06121", label="ROUGE-L", **_SHARED)
def rouge_l(answers: Sequence[str], generated: Sequence[str]) -> Floats:
    """ROUGE-L recall: the share of the true answer's words in the longest subsequence common with the generated text.

    ``LCS(answer, generated) / words in the answer``, stemmed, as TOFU reports it. An empty generation scores 0.

    Returns:
        [E] in 0..1; NaN where the true answer has no word.
    """
    return rouge(answers, generated, kind="rougeL", part="recall")


@metrics.register("rouge_l_f1", source="arXiv:2407.06460", label="ROUGE-L F1", **_SHARED)
def rouge_l_f1(answers: Sequence[str], generated: Sequence[str]) -> Floats:
    """ROUGE-L F1: the harmonic mean of recall and precision of the longest common subsequence, stemmed.

    ``2 LCS / (words in the answer + words generated)``.

    Returns:
        [E] in 0..1; NaN where the true answer has no word.
    """
    return rouge(answers, generated, kind="rougeL", part="fmeasure")


@metrics.register("rouge_1", source="arXiv:2401.06121", label="ROUGE-1", **_SHARED)
def rouge_1(answers: Sequence[str], generated: Sequence[str]) -> Floats:
    """ROUGE-1 recall: the share of the true answer's words that occur in the generated text, in any order, stemmed.

    ``sum_w min(count in the answer, count generated) / words in the answer``.

    Returns:
        [E] in 0..1; NaN where the true answer has no word.
    """
    return rouge(answers, generated, kind="rouge1", part="recall")


@metrics.register("rouge_1_f1", source="ROUGE (Lin 2004)", label="ROUGE-1 F1", **_SHARED)
def rouge_1_f1(answers: Sequence[str], generated: Sequence[str]) -> Floats:
    """ROUGE-1 F1: the harmonic mean of recall and precision of single words, stemmed.

    ``2 overlap / (words in the answer + words generated)``.

    Returns:
        [E] in 0..1; NaN where the true answer has no word.
    """
    return rouge(answers, generated, kind="rouge1", part="fmeasure")


@metrics.register("verbatim_memorization", source="arXiv:2407.06460", label="VerbMem", only="verbatim", **_SHARED)
def verbatim_memorization(answers: Sequence[str], generated: Sequence[str]) -> Floats:
    """MUSE's verbatim memorization: ROUGE-L F1, not stemmed, of a text's continuation.

    The question is the beginning of a text, given without a template, and the answer its continuation, cut to as many
    tokens as are generated (128 in MUSE); `uwc score --verbatim` does both.

    Returns:
        [E] in 0..1; NaN where the true continuation has no word.
    """
    return rouge(answers, generated, kind="rougeL", part="fmeasure", stemmer=False)


@metrics.register("knowledge_memorization", source="arXiv:2407.06460", label="KnowMem", **_SHARED)
def knowledge_memorization(answers: Sequence[str], generated: Sequence[str]) -> Floats:
    """MUSE's knowledge memorization: ROUGE-L F1, not stemmed, of the answer to a question.

    The generated text ends where the model begins another question: at an empty line or at ``Question:``.

    Returns:
        [E] in 0..1; NaN where the true answer has no word.
    """
    first = [_NEXT_QUESTION.split(text.lstrip(), maxsplit=1)[0] for text in generated]
    return rouge(answers, first, kind="rougeL", part="fmeasure", stemmer=False)
