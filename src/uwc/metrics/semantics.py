"""Metrics of the meaning of generated answers, by judges: an encoder or a model of entailment."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from uwc.errors import ConfigError
from uwc.metrics.overlap import rouge_l
from uwc.metrics.registry import JUDGES, metrics
from uwc.models.token_scores import Floats
from uwc.registry import unknown_name

if TYPE_CHECKING:
    from uwc.models.model import DeviceName

Encoder = Callable[[Sequence[str]], Floats]
Entailment = Callable[[Sequence[str], Sequence[str]], NDArray[np.bool_]]


@dataclass(frozen=True)
class Judges:
    """The models that judge generated answers.

    Attributes:
        encoder: a sentence encoder, from n texts to [n, d] embeddings.
        entailment: a function from n premises and n hypotheses to [n] whether the first entails the second.
    """

    encoder: Encoder | None = None
    entailment: Entailment | None = None

    @classmethod
    def load(cls, given: Mapping[str, Any], *, device: "DeviceName" = "auto") -> "Judges":
        """Load judges, which cache their results by texts.

        Args:
            given: "encoder" and "entailment" -> a folder, a hub name or a function; None is not given.
            device: where to compute.
        Raises:
            ConfigError: another name is given.
            ModelError: there is no such model, or it is of another kind.
        """
        from uwc.models.judges import load_encoder, load_entailment

        require_judges(given)
        judges: dict[str, Any] = {}
        for name, load in (("encoder", load_encoder), ("entailment", load_entailment)):
            judge: Any = given.get(name)
            if judge is not None:
                judges[name] = _once(load(judge, device=device) if isinstance(judge, str | Path) else judge)
        return cls(**judges)


def require_judges(given: Mapping[str, Any]) -> None:
    """Raise ConfigError for an unknown judge."""
    for name in given:
        if name not in JUDGES:
            raise ConfigError(unknown_name("judge", name, list(JUDGES)))


def _once(judge: Callable[..., Any]) -> Callable[..., Any]:
    """The judge with a cache by lists of texts."""

    @cache
    def asked(*texts: tuple[str, ...]) -> Any:
        return judge(*texts)

    return lambda *texts: asked(*map(tuple, texts))


@metrics.register(
    "semantic_similarity",
    source="arXiv:2410.08109",
    needs=("answers", "texts", "encoder"),
    range=(0.0, 1.0),
    higher_remembers=True,
    average="arithmetic",
    label="semantic similarity",
    unscored="the true answer is empty",
)
def semantic_similarity(answers: Sequence[str], texts: Sequence[str], encoder: Encoder) -> Floats:
    """Cosine similarity of the embeddings of the generated and the true answer.

    ``max(0, cos(e(generated), e(answer)))`` with a sentence encoder e given by the user; an empty generation scores 0.

    Returns:
        [E] in 0..1; NaN if the true answer is empty or an embedding is zero.
    """
    true, generated = encoder(answers), encoder(texts)
    lengths = np.linalg.norm(true, axis=1) * np.linalg.norm(generated, axis=1)
    cosine = np.divide((true * generated).sum(axis=1), lengths, out=np.full(len(true), np.nan), where=lengths > 0)
    cosine = np.where([bool(t.strip()) for t in texts], cosine, 0.0)
    cosine = np.where([bool(a.strip()) for a in answers], cosine, np.nan)
    return np.clip(cosine, 0.0, 1.0).astype(np.float64)


@metrics.register(
    "entailment",
    source="arXiv:2410.08109",
    needs=("answers", "texts", "entailment"),
    range=(0.0, 1.0),
    higher_remembers=True,
    average="arithmetic",
    label="entailment",
    unscored="the true answer has no word",
)
def entailment(
    answers: Sequence[str],
    texts: Sequence[str],
    entails: Entailment,
    *,
    premise: Literal["generated", "answer"] = "generated",
    least_overlap: float = 0.1,
) -> Floats:
    """Whether the generated answer entails the true one, by a model of natural-language inference.

    ``1[entailment(generated => answer)]``, and 0 if their ROUGE-L recall is below `least_overlap`. In the source the
    premise is the generated text on forget data, and the true answer on retain data.

    Args:
        answers: the true answers.
        texts: the generated ones.
        entails: the judge, given by the user.
        premise: which of the two is the premise.
        least_overlap: the least ROUGE-L recall; 0 for the judge alone.

    Returns:
        [E] 0 or 1; NaN where the true answer has no word.
    """
    first, second = (texts, answers) if premise == "generated" else (answers, texts)
    overlap = rouge_l(answers, texts)
    judged = entails(first, second) & (overlap >= least_overlap) & [bool(t.strip()) for t in texts]
    return np.where(np.isnan(overlap), np.nan, judged.astype(np.float64))
