"""Sampled answers as metrics read them: how they are drawn, which of them leak, and their scores."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from uwc.errors import ConfigError, listed
from uwc.metrics.registry import JUDGES, metrics
from uwc.models.token_scores import Floats
from uwc.registry import Entry
from uwc.strict_numbers import StrictNumbers

if TYPE_CHECKING:
    from uwc.metrics.semantics import Judges

SAMPLES = "samples"
"""The need of metrics that read sampled answers."""
_TEXT_INPUTS = frozenset({"answers", "texts", "secrets", *JUDGES})


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class LeakSettings(StrictNumbers):
    """Settings of sampling answers, and which of them leak.

    Attributes:
        count: n, the samples of each question.
        temperature: of the sampling.
        top_p: draw from the most likely tokens with at least this total probability.
        seed: of the draws.
        leaks: the metric of a single text by which a sample leaks, such as ``rouge_l``, ``exact_match``,
            ``secret_said``, ``entities_said`` or ``entailment``, with its default settings.
        at_least: a sample leaks if that metric is at least this.
    """

    count: Annotated[int, Field(ge=1, le=100_000)] = 64
    temperature: Annotated[float, Field(gt=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    leaks: str = "rouge_l"
    at_least: Annotated[float, Field(gt=0, le=1)] = 0.8

    @property
    def metric(self) -> Entry[Any]:
        """The metric by which a sample leaks.

        Raises:
            ConfigError: it is unknown, or not one of single texts in 0..1 of which high values mean remembered.
        """
        named = [entry for entry in metrics if entry.name == self.leaks]
        if not named or not _of_texts(named[0]):
            valid = [entry.name for entry in metrics if _of_texts(entry)]
            raise ConfigError(
                f"score.samples.leaks = {self.leaks!r}: a sample leaks by a metric of single texts in 0..1 for which "
                f"high means remembered; valid: {listed(valid)}"
            )
        return named[0]

    def check(self, names: Sequence[str], settings: Mapping[str, Mapping[str, Any]]) -> None:
        """Raise ConfigError if a metric asks for more tries than there are samples.

        Args:
            names: the metrics that are computed.
            settings: metric -> its settings that differ from the defaults.
        """
        for name in reading_samples(names):
            _ = self.metric
            tries = metrics.check(name, settings.get(name, {})).get("k", 1)
            if tries > self.count:
                raise ConfigError(
                    f"the metric {name!r} has k = {tries}, and {self.count} answers are sampled; set score.samples."
                    f"count to at least {tries}, or k lower"
                )


def require_read(settings: LeakSettings | None, names: Sequence[str]) -> None:
    """Raise ConfigError if settings of sampling are given, and no metric reads sampled answers."""
    if settings not in (None, LeakSettings()) and not reading_samples(names):
        raise ConfigError(
            "score.samples is set, and no metric reads sampled answers; add leak_at_k to the metrics, or leave it out"
        )


def require_no_judge(settings: LeakSettings, names: Sequence[str]) -> None:
    """Raise ConfigError if a metric reads samples that leak by a judge, which attacks do not ask."""
    reading = reading_samples(names)
    if reading and set(settings.metric.facts["needs"]) & set(JUDGES):
        raise ConfigError(
            f"attack: {reading[0]!r} reads samples that leak by {settings.leaks!r}, which needs a judge, and attacks "
            "ask none; take another score.samples.leaks, or leave the metric out of attack.metrics"
        )


def reading_samples(names: Sequence[str]) -> list[str]:
    """The metrics that read sampled answers."""
    examples = {entry.name: entry for entry in metrics}
    return [name for name in names if name in examples and SAMPLES in examples[name].facts["needs"]]


def _of_texts(entry: Entry[Any]) -> bool:
    facts = entry.facts
    return (
        {"texts"} <= set(facts["needs"]) <= _TEXT_INPUTS
        and facts["range"] == (0.0, 1.0)
        and facts["higher_remembers"] is True
        and "only" not in facts
    )


@plain_dataclass(frozen=True, eq=False)
class SampleScores:
    """The scores of n sampled answers to each of E questions.

    Attributes:
        values: [E, n] the metric by which a sample leaks; a row is NaN where it has no value.
        leaks: [E, n] 1 for a sample that leaks, else 0; NaN likewise.
        finite: [E] whether all logits were finite in sampling.
        texts: [E][n] the samples; empty if they were not kept.
    """

    values: Floats
    leaks: Floats
    finite: NDArray[np.bool_]
    texts: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def of(
        cls,
        settings: LeakSettings,
        texts: Sequence[Sequence[str]],
        *,
        answers: Sequence[str],
        secrets: Sequence[Sequence[str]],
        finite: NDArray[np.bool_],
        judges: "Judges | None" = None,
    ) -> "SampleScores":
        """Score samples; equal texts of one question once.

        Args:
            settings: the metric, and its bound.
            texts: [E][n] the samples.
            answers: [E] the true answers.
            secrets: [E] the secrets of the questions.
            finite: [E] whether all logits were finite.
            judges: the judges of texts.

        Raises:
            ConfigError: the metric is no metric of single texts, or needs a judge that is missing.
        """
        entry = settings.metric
        different = {pair: place for place, pair in enumerate(dict.fromkeys(_pairs(texts)))}
        of = [i for i, _ in different]
        inputs: dict[str, Any] = {
            "answers": [answers[i] for i in of],
            "texts": [text for _, text in different],
            "secrets": [secrets[i] for i in of],
            **{name: getattr(judges, name, None) for name in JUDGES},
        }
        needs = entry.facts["needs"]
        for need in needs:
            if inputs[need] is None:
                raise ConfigError(f"samples leak by {entry.name!r}, which needs a judge: {need}")
        found: Floats = np.asarray(entry.function(*(inputs[need] for need in needs)), dtype=np.float64)
        count = len(texts[0]) if texts else 0
        values = found[[different[pair] for pair in _pairs(texts)]].reshape(len(texts), count)
        values[np.isnan(values).any(axis=1)] = np.nan
        leaks = np.where(np.isnan(values), np.nan, (values >= settings.at_least).astype(np.float64))
        return cls(values, leaks, finite, tuple(map(tuple, texts)))

    def rows(self) -> list[dict[str, Any]]:
        """One JSON object for each question."""
        texts = self.texts or ((),) * len(self.values)
        columns = zip(texts, self.values.tolist(), self.leaks.tolist(), self.finite.tolist(), strict=True)
        return [dict(zip(("texts", "values", "leaks", "finite"), row, strict=True)) for row in columns]

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, Any]]) -> "SampleScores":
        """Read `rows`, without the texts."""
        values, leaks = (np.array([row[name] for row in rows], dtype=np.float64) for name in ("values", "leaks"))
        return cls(values, leaks, np.array([row["finite"] for row in rows], dtype=bool))


def _pairs(texts: Sequence[Sequence[str]]) -> Iterator[tuple[int, str]]:
    return ((i, text) for i, row in enumerate(texts) for text in row)
