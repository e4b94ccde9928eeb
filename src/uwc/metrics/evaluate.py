"""Evaluation of a model in two steps: scoring of sets of questions, and computation of all metrics.

`score_sets` runs a model and returns a `ScoredSet` for each set, with everything that the metrics need. `evaluate`
computes the scores by metric and set from these, including metrics of whole sets, without a model.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from uwc import answers
from uwc.data.example import Example
from uwc.data.prompts import PromptTemplate
from uwc.io import IF_GIVEN
from uwc.metrics.compat import Compat
from uwc.metrics.registry import metrics, set_metrics
from uwc.metrics.samples import SAMPLES, LeakSettings
from uwc.metrics.scored import EXTRAS, NOT_FINITE, STATES, TEXTS, MeasuredSet, ScoredSet, needs_of, score_set
from uwc.metrics.semantics import Judges
from uwc.metrics.stats import aggregate_sets, cluster_codes
from uwc.metrics.suites import VERBATIM, Given, is_judged, is_set_metric, measured_on, required_inputs, set_label
from uwc.models.model import Model
from uwc.models.token_scores import Sampling
from uwc.results import ModelKey, Score, ScoreDifference

if TYPE_CHECKING:
    from uwc.models.generation import Generated

Settings = Mapping[str, Mapping[str, Any]]
ScoredSets = Mapping[str, ScoredSet]
MeasuredSets = Mapping[str, MeasuredSet]
"""Set -> the answers of a model, or texts of another system."""
VERBATIM_TOKENS = 128
RAW = PromptTemplate(text="{question}", separator=" ", chat=False)
_SEPARATE = frozenset({*TEXTS, *STATES, SAMPLES, "letters", "gradient_norms", "similar_from"})
"""The needs that the teacher-forced pass over the answers does not meet."""


@dataclass(frozen=True)
class Scoring:
    """The metrics of a comparison with their settings, the same for every model.

    Attributes:
        given: the sets, in all wordings, and the further models that are given.
        metrics: the metrics, as returned by `chosen_metrics`.
        settings: metric -> its settings that differ from the defaults.
        compat: the peer whose definitions are used; None for ours.
        seed: of the bootstrap.
        intervals: whether to compute intervals of metrics of whole sets, which is slow.
        complete: score every set, and generate answers on it, even if no metric reads them, as a study does.

    Raises:
        ConfigError: a setting is unknown or wrong.
    """

    given: Given
    metrics: Sequence[str]
    settings: Settings = field(default_factory=dict)
    compat: Compat | None = None
    seed: int = 0
    intervals: bool = True
    complete: bool = False

    def __post_init__(self) -> None:
        for name, settings in self.settings.items():
            metrics.check(name, settings)
        self.given.samples.check(self.of_examples, self.settings)

    @property
    def of_examples(self) -> tuple[str, ...]:
        """The metrics with a value for each example."""
        return tuple(name for name in self.metrics if not is_set_metric(name))

    @property
    def of_sets(self) -> tuple[str, ...]:
        """The metrics of whole sets."""
        return tuple(name for name in self.metrics if is_set_metric(name))

    def measured(self, of_set: str) -> list[str]:
        """The metrics of single examples that are reported on a set: those whose needs it meets."""
        return [name for name in self.of_examples if measured_on(name, of_set, self.given)]

    def read(self, of_set: str, *, retrained: bool = False) -> list[str]:
        """The metrics of single examples that metrics of whole sets read on a set, of the model or the retrained
        one."""
        return [metric for of, name, metric in self._inputs if (of, name) == (retrained, of_set)]

    def needs(self, of_set: str) -> set[str]:
        """The needs of a set besides the true answers.

        They are the same for every model, since batches, and with them the last bits of scores, depend on the answers
        that are scored together.
        """
        wanted = {*self.measured(of_set), *self.read(of_set), *self.read(of_set, retrained=True)}
        texts = set(TEXTS) if self.complete and self.given.max_new_tokens else set()
        return (needs_of(wanted) & EXTRAS) | texts

    def judged(self, of_set: str) -> list[str]:
        """The judged metrics of a set, with those that metrics of whole sets read."""
        return [name for name in dict.fromkeys([*self.measured(of_set), *self.read(of_set)]) if is_judged(name)]

    def work(self, *, control: bool = False) -> "Work":
        """The work of scoring one model; for the `control`, the retrained model, only the inputs of metrics of whole
        sets."""
        sets, needs, judged = {}, {}, {}
        for name, examples in self.given.sets.items():
            read = self.read(name, retrained=control)
            wanted = read if control else [*self.measured(name), *read]
            if not wanted and (control or not self.complete):
                continue
            unread = _SEPARATE - needs_of(wanted) if control else frozenset()
            sets[name], needs[name] = examples, tuple(sorted(self.needs(name) - unread))
            if not control:
                judged[name] = {m: metrics.check(m, self.settings.get(m, {})) for m in self.judged(name)}
        samplings = _samplings(self.settings) if any("sampled" in need for need in needs.values()) else ()
        leaks = self.given.samples if any(SAMPLES in need for need in needs.values()) else None
        return Work(sets, needs, judged, samplings, self.given.max_new_tokens, self.compat, leaks)

    @cached_property
    def _inputs(self) -> list[tuple[bool, str, str]]:
        return [found for name in self.of_sets for found in required_inputs(set_metrics.get(name), self.given)]


@dataclass(frozen=True)
class Work:
    """Everything that `score_sets` reads besides the models; a part of the key of a study's scores.

    Attributes:
        sets: set -> its examples.
        needs: set -> its needs besides the true answers, see `needs_of`.
        judged: set -> judged metric -> its complete settings.
        samplings: the sampling settings that metrics need.
        max_new_tokens: the most tokens of a generated answer.
        compat: the peer whose definitions are used; None for ours.
        leaks: settings of sampling answers; None if no metric reads samples.
    """

    sets: Mapping[str, Sequence[Example]]
    needs: Mapping[str, tuple[str, ...]]
    judged: Mapping[str, Settings]
    samplings: tuple[Sampling, ...]
    max_new_tokens: int
    compat: Compat | None = None
    leaks: LeakSettings | None = field(default=None, metadata=IF_GIVEN)


def score_sets(
    model: Model,
    work: Work,
    *,
    original: Model | None = None,
    judges: Judges | None = None,
    answered: "Callable[..., Generated] | None" = None,
) -> dict[str, ScoredSet]:
    """Run a model on every set.

    Args:
        model: the model.
        work: the sets and their needs, from `Scoring.work`.
        original: the model before unlearning, for metrics that compare with it.
        judges: models that judge generated answers, for metrics that need them.
        answered: generates greedy answers in place of `generate`; not for a peer's definitions.

    Returns:
        Set -> its scores.

    Raises:
        UserError: a model or an example cannot be used, or a judge is missing.
    """
    found: dict[str, ScoredSet] = {}
    for name in work.sets:
        found[name] = _score_set(model, name, work, original, judges, answered)
        if judged := work.judged.get(name):
            found[name] = found[name].judged_by(judges or Judges(), judged, judged)
    return found


def evaluate(scored: MeasuredSets, scoring: Scoring, *, retrained: MeasuredSets | None = None) -> tuple[Score, ...]:
    """All scores of a model; deterministic to the bit.

    Args:
        scored: the result of `score_sets`.
        scoring: the metrics.
        retrained: the same of the retrained model, if a metric of whole sets compares with it.

    Returns:
        For each set the metrics of single examples in the order of `Scoring.metrics`, then the metrics of whole sets.

    Raises:
        ConfigError: a need of a metric was not scored.
    """
    of_examples = [
        _example_score(scored[name], name, metric, scoring) for name in scored for metric in scoring.measured(name)
    ]
    return (*of_examples, *(_set_score(name, scored, retrained or {}, scoring) for name in scoring.of_sets))


def paired_differences(first: MeasuredSets, second: MeasuredSets, scoring: Scoring) -> tuple[ScoreDifference, ...]:
    """Paired differences, second model minus first, of each metric of single examples on each set.

    Raises:
        DataError: the two were scored on different examples.
    """
    return tuple(
        ScoreDifference(
            set=name,
            metric=metric,
            **first[name]
            .difference(second[name], metric, seed=scoring.seed, **scoring.settings.get(metric, {}))
            .model_dump(),
        )
        for name in first
        for metric in scoring.measured(name)
    )


def answer_rows(
    scored: MeasuredSets, scoring: Scoring, *, key: ModelKey, name: str = "", condition: str = answers.AS_DELIVERED
) -> pd.DataFrame:
    """The rows of a model in the table of answers: one for each set and example, with the metrics of single examples.

    Args:
        scored: the result of `score_sets`.
        scoring: the metrics.
        key: the model.
        name: its name in the table, if that is not its key's.
        condition: see `uwc.answers.CONDITIONS`.
    """
    return answers.joined(
        answers.rows(
            set=of_set,
            **question_columns(scoring.given.sets[of_set]),
            answers=found.answers,
            values={m: found.values(m, **scoring.settings.get(m, {})) for m in scoring.measured(of_set)},
            role=key.role,
            model=name or key.run or key.role,
            condition=condition,
            prompts=found.prompts,
            generated=found.texts,
            completed_from=found.completed_from(),
        )
        for of_set, found in scored.items()
    )


def question_columns(examples: Sequence[Example]) -> dict[str, Any]:
    """The columns of the questions themselves, as arguments of `uwc.answers.rows`."""
    return {
        "ids": [e.id for e in examples],
        "clusters": [e.subject for e in examples],
        "questions": [e.question for e in examples],
        "secrets": [e.secret for e in examples],
    }


def save_sets(scored: ScoredSets, folder: Path) -> None:
    """Write the files of each set into a folder, see `ScoredSet.save`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, found in scored.items():
        found.save(folder, name)


def set_files(names: Iterable[str]) -> list[str]:
    """The files of `save_sets`; those with states are not always written."""
    return [f"{name}{suffix}" for name in names for suffix in (".parquet", ".jsonl", ".npz")]


def load_sets(folder: Path, names: Sequence[str]) -> dict[str, ScoredSet]:
    """Read the files of `save_sets`. Raises DataError if one is damaged or missing."""
    return {name: ScoredSet.load(folder, name) for name in names}


def _score_set(
    model: Model,
    name: str,
    work: Work,
    original: Model | None,
    judges: Judges | None,
    answered: "Callable[..., Generated] | None",
) -> ScoredSet:
    examples, new_tokens = work.sets[name], work.max_new_tokens
    if name == VERBATIM:
        model = replace(model, template=RAW, rewrites=())
        examples, new_tokens = [cut(e, model) for e in examples], VERBATIM_TOKENS
    elif work.compat is not None:
        model, answered = work.compat.adapt(model), work.compat.generate
    scored = score_set(
        model,
        examples,
        needs=work.needs[name],
        reference=original,
        samplings=work.samplings,
        max_new_tokens=new_tokens,
        answered=answered,
        leaks=work.leaks,
        judges=judges,
    )
    return replace(scored, compat=work.compat)


def cut(example: Example, model: Model) -> Example:
    """The example with its answer truncated to the tokens of a verbatim continuation."""
    ids = model.tokenizer(example.answer, add_special_tokens=False)["input_ids"][:VERBATIM_TOKENS]
    text = model.tokenizer.decode(ids, skip_special_tokens=True)
    return Example(
        id=example.id,
        question=example.question,
        answer=text or example.answer,
        subject=example.subject,
        history=example.history,
        secret=example.secret,
    )


def _samplings(settings: Settings) -> tuple[Sampling, ...]:
    name = "probabilistic_extraction"
    checked = metrics.check(name, settings.get(name, {}))
    return (Sampling(checked["temperature"], checked["top_k"]),)


def _example_score(scored: MeasuredSet, name: str, metric: str, scoring: Scoring) -> Score:
    settings = scoring.settings.get(metric, {})
    aggregate = scored.aggregate(metric, seed=scoring.seed, **settings)
    why, chance = scored.unscored(metric, **settings), scored.chance(metric, **settings)
    return Score(set=name, metric=metric, why=why, chance=chance, **aggregate.model_dump())


def _set_score(name: str, scored: MeasuredSets, retrained: MeasuredSets, scoring: Scoring) -> Score:
    entry = set_metrics.get(name)
    inputs = required_inputs(entry, scoring.given)
    sources = [(retrained if of_retrained else scored)[of_set] for of_retrained, of_set, _ in inputs]
    values = [
        source.values_or_input(metric, **scoring.settings.get(metric, {}))
        for source, (_, _, metric) in zip(sources, inputs, strict=True)
    ]
    if "prepare" in entry.facts:
        values = list(entry.facts["prepare"](*values, cluster_codes(sources[0].subjects)))
    apart = 0
    for i, pattern in enumerate(entry.facts.get("groups", ())):
        others = np.array([not fnmatchcase(identity, pattern) for identity in sources[i].ids], dtype=bool)
        values[i] = np.where(others, np.nan, values[i])
        apart += int(others.sum())
    result = aggregate_sets(
        entry.function,
        values,
        [source.subjects for source in sources],
        groups=[of_set for _, of_set, _ in inputs],
        interval=entry.facts["interval"] and scoring.intervals,
        seed=scoring.seed,
    )
    result = result.model_copy(update={"not_scored": result.not_scored - apart})
    sets = "+".join(dict.fromkeys(of_set for _, of_set, _ in inputs))
    why = {"an input metric has no value": result.not_scored} if result.not_scored else {}
    return Score(set=sets, metric=name, why=why, **result.model_dump())


def not_finite_in_words(scores: Sequence[Score]) -> str:
    """The numbers of questions by set for which a model's logits were not finite, in words; empty if there are none."""
    lost: dict[str, int] = {}
    for score in scores:
        lost[score.set] = max(lost.get(score.set, 0), score.why.get(NOT_FINITE, 0))
    return ", ".join(f"{count} questions ({set_label(name)})" for name, count in lost.items() if count)
