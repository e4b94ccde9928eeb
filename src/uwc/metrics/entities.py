"""Whether generated texts say the names and numbers of the true answers, and answer exactly."""

import re
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from uwc.metrics.registry import metrics
from uwc.metrics.semantics import Entailment
from uwc.models.token_scores import Floats
from uwc.words import comparable, contains, split_words

_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")


@metrics.register(
    "exact_match",
    source="arXiv:2502.15097",
    needs=("answers", "texts"),
    range=(0.0, 1.0),
    higher_remembers=True,
    average="arithmetic",
    label="exact match",
    unscored="the true answer is empty",
)
def exact_match(answers: Sequence[str], texts: Sequence[str]) -> Floats:
    """Whether the generated text is the true answer: ``1[text = answer]``, apart from case and white space around it.

    Returns:
        [E] 0 or 1; NaN if the true answer is empty.
    """
    pairs = zip(answers, texts, strict=True)
    return np.array([float(a.strip().lower() == t.strip().lower()) if a.strip() else np.nan for a, t in pairs])


@metrics.register(
    "entities_said",
    source="arXiv:2407.01920",
    needs=("answers", "texts"),
    range=(0.0, 1.0),
    higher_remembers=True,
    average="arithmetic",
    label="entities said",
    unscored="the true answer has no name or number",
)
def entities_said(answers: Sequence[str], texts: Sequence[str]) -> Floats:
    """The share of the true answer's names and numbers that the generated text says.

    ``entities said / entities``, where an entity is a word that begins with a capital within a sentence, or a word with
    a digit. Texts are compared as by `secret_said`. KnowUnDo has the entities found by a model.

    Returns:
        [E] in 0..1; NaN if the true answer has no such word.
    """
    values = []
    for answer, text in zip(answers, texts, strict=True):
        wanted, said = entities(answer), comparable(text)
        values.append(np.mean([contains(said, comparable(word)) for word in wanted]) if wanted else np.nan)
    return np.array(values, dtype=np.float64)


@metrics.register(
    "knowledge_forgotten",
    source="arXiv:2502.11190",
    needs=("answers", "texts"),
    range=(0.0, 1.0),
    higher_remembers=False,
    average="arithmetic",
    label="knowledge forgotten",
    unscored="the true answer has no name or number",
)
def knowledge_forgotten(
    answers: Sequence[str], texts: Sequence[str], *, at_most: Annotated[float, Field(ge=0, lt=1)] = 0.5
) -> Floats:
    """Whether knowledge is forgotten by entities alone, without a judge: ``1[entities said <= 0.5]``.

    The share is that of `entities_said`. In the source an answer that contradicts the true one counts as forgotten too,
    see `knowledge_forgetting`, which is at least as high.

    Args:
        answers: the true answers.
        texts: the generated ones.
        at_most: the largest share of entities in a forgotten answer.

    Returns:
        [E] 0 or 1; NaN if the true answer has no name or number.
    """
    share = entities_said(answers, texts)
    return np.where(np.isnan(share), np.nan, (share <= at_most).astype(np.float64))


@metrics.register(
    "knowledge_forgetting",
    source="arXiv:2502.11190",
    needs=("answers", "texts", "contradiction"),
    range=(0.0, 1.0),
    higher_remembers=False,
    average="arithmetic",
    label="KFR",
    unscored="the true answer has no name or number",
)
def knowledge_forgetting(
    answers: Sequence[str],
    texts: Sequence[str],
    contradicts: Entailment,
    *,
    at_most: Annotated[float, Field(ge=0, lt=1)] = 0.5,
    premise: Literal["generated", "answer"] = "generated",
) -> Floats:
    """Whether knowledge is forgotten; its mean on the forget set is the knowledge forgetting rate (KFR).

    ``1[contradiction(generated => answer) or entities said <= 0.5]`` with a judge of natural-language inference and the
    share of `entities_said`.

    Args:
        answers: the true answers.
        texts: the generated ones.
        contradicts: the judge, given by the user; it is not asked about empty texts.
        at_most: the largest share of entities in a forgotten answer; the source's code has 0.3 for answers with more
            than three entities.
        premise: which of the two texts is the premise.

    Returns:
        [E] 0 or 1; NaN if the true answer has no name or number.
    """
    share = entities_said(answers, texts)
    forgotten = (share <= at_most) | _contradictions(answers, texts, contradicts, premise)
    return np.where(np.isnan(share), np.nan, forgotten.astype(np.float64))


@metrics.register(
    "knowledge_retention",
    source="arXiv:2502.11190",
    needs=("answers", "texts", "contradiction"),
    range=(0.0, 1.0),
    higher_remembers=True,
    average="arithmetic",
    label="KRR",
    unscored="the true answer has no name or number",
)
def knowledge_retention(
    answers: Sequence[str],
    texts: Sequence[str],
    contradicts: Entailment,
    *,
    at_least: Annotated[float, Field(gt=0, le=1)] = 0.3,
    premise: Literal["generated", "answer"] = "answer",
) -> Floats:
    """Whether knowledge is kept; its mean on the retain set is the knowledge retention rate (KRR).

    ``1[entities said >= 0.3 and not contradiction(answer => generated)]`` with a judge of natural-language inference
    and the share of `entities_said`.

    Args:
        answers: the true answers.
        texts: the generated ones.
        contradicts: the judge, given by the user; it is not asked about empty texts.
        at_least: the least share of entities in an answer that is kept.
        premise: which of the two texts is the premise.

    Returns:
        [E] 0 or 1; NaN if the true answer has no name or number.
    """
    share = entities_said(answers, texts)
    kept = (share >= at_least) & ~_contradictions(answers, texts, contradicts, premise)
    return np.where(np.isnan(share), np.nan, kept.astype(np.float64))


def _contradictions(
    answers: Sequence[str], texts: Sequence[str], contradicts: Entailment, premise: str
) -> NDArray[np.bool_]:
    """[E] whether one text contradicts the other; False if either is empty."""
    asked = [i for i, (a, t) in enumerate(zip(answers, texts, strict=True)) if a.strip() and t.strip()]
    found = np.zeros(len(texts), dtype=bool)
    if asked:
        first, second = (texts, answers) if premise == "generated" else (answers, texts)
        found[asked] = contradicts([first[i] for i in asked], [second[i] for i in asked])
    return found


def entities(text: str) -> list[str]:
    """The words that begin with a capital within a sentence, and the words with a digit, each once."""
    found: dict[str, None] = {}
    for sentence in _SENTENCE.split(text):
        for i, word in enumerate(split_words(sentence)):
            if (i and word[0].isupper()) or any(map(str.isdigit, word)):
                found[word] = None
    return list(found)
