"""Metrics of the meaning of generated answers, by judges: an encoder or a model of entailment."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
Classifier = Callable[[Sequence[str]], Floats]
LanguageModel = Callable[[Sequence[str], Sequence[str]], Floats]
CLEAN = "clean"
"""The option of a classifier that names its label of clean texts, and its default."""
CHECKED = "checked"
"""The option of judges with results of `uwc judge`, or their files."""


@dataclass(frozen=True)
class Judges:
    """The models that judge generated answers.

    Attributes:
        encoder: a sentence encoder, from n texts to [n, d] embeddings.
        entailment: a function from n premises and n hypotheses to [n] whether the first entails the second.
        contradiction: the same for whether the first contradicts the second.
        classifier: a function from n texts to [n] probabilities that they are clean.
        language_model: a function from n prompts and n continuations to [n, 2], see `uwc.models.judges`.
        given: what `load` was given.
    """

    encoder: Encoder | None = None
    entailment: Entailment | None = None
    contradiction: Entailment | None = None
    classifier: Classifier | None = None
    language_model: LanguageModel | None = None
    given: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The judges that are given."""
        return [name for name in JUDGES if getattr(self, name) is not None]

    @classmethod
    def load(cls, given: Mapping[str, Any], *, device: "DeviceName" = "auto") -> "Judges":
        """Load judges, which cache their results by texts.

        Args:
            given: name of a judge, see above -> a folder, a hub name or a function; None is not given. "clean" is the
                label of a classifier that means that a text is clean, by default "clean". "checked" are results of
                `uwc judge`, which are not read here. One model of inference may be given by the same path as
                "entailment" and "contradiction".
            device: where to compute.

        Raises:
            ConfigError: another name is given, or "clean" without the path of a classifier.
            ModelError: there is no such model, it is of another kind, or it lacks a label.
        """
        from uwc.models.judges import (
            Inference,
            load_classifier,
            load_encoder,
            load_inference,
            load_language_model,
        )

        require_judges(given)
        inference: dict[str, Inference] = {}

        def load(name: str, path: str) -> Any:
            if name == "encoder":
                return load_encoder(path, device=device)
            if name == "classifier":
                return load_classifier(path, clean=clean_label(given), device=device)
            if name == "language_model":
                return load_language_model(path, device=device)
            if path not in inference:
                loaded = load_inference(path, device=device)
                inference[path] = replace(loaded, predict=_once(loaded.predict))
            return inference[path].finds(name)

        judges: dict[str, Any] = {}
        for name in JUDGES:
            judge: Any = given.get(name)
            if judge is not None:
                judges[name] = _once(load(name, str(judge)) if isinstance(judge, str | Path) else judge)
        return cls(**judges, given=dict(given))


def require_judges(given: Mapping[str, Any]) -> None:
    """Raise ConfigError for an unknown judge, or a label of clean texts without a classifier whose label it is."""
    for name in given:
        if name not in (*JUDGES, CLEAN, CHECKED):
            raise ConfigError(unknown_name("judge", name, [*JUDGES, CLEAN, CHECKED]))
    if given.get(CLEAN) is not None and not isinstance(given.get("classifier"), str | Path):
        raise ConfigError(
            f"judges: {CLEAN} = {given[CLEAN]!r} names a label of a classifier, and no path of one is given "
            "(score.judges.classifier); remove it"
        )


def clean_label(given: Mapping[str, Any]) -> str:
    """The label of a classifier that means that a text is clean."""
    return str(given.get(CLEAN) or CLEAN)


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
