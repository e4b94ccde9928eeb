"""Evaluating a model: every metric asked for, on every set given, from one pass over each set."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from uwc.data.example import Example, paraphrased
from uwc.data.prompts import PromptTemplate
from uwc.io import finite
from uwc.metrics.compat import Compat
from uwc.metrics.registry import metrics, set_metrics
from uwc.metrics.scored import ScoredSet
from uwc.metrics.scoring import needs_of, score_set
from uwc.metrics.semantics import Encoder, Entailment
from uwc.metrics.set_aggregation import aggregate_sets
from uwc.metrics.suites import Given, is_set_metric, required_inputs, what_is_missing
from uwc.models.generation import generate
from uwc.models.statistics import Sampling
from uwc.models.target import Target

Settings = Mapping[str, Mapping[str, Any]]
VERBATIM_TOKENS = 128
RAW = PromptTemplate(text="{question}", separator=" ", chat=False)


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        rows: one for each set and metric: set, metric, mean, n, not_scored, why, clusters, se, low, high.
        scored: set -> its scores.
    """

    rows: tuple[dict[str, Any], ...]
    scored: Mapping[str, ScoredSet]

    def table(self) -> pd.DataFrame:
        """The rows as a table."""
        return pd.DataFrame(list(self.rows))

    def examples(self, name: str, names: Sequence[str]) -> pd.DataFrame:
        """One row for each example of a set: id, subject and the value of each metric."""
        scored = self.scored[name]
        columns = {metric: scored.values(metric) for metric in names}
        return pd.DataFrame({"id": scored.scores.ids, "subject": scored.subjects, **columns})


@dataclass(frozen=True)
class Evaluator:
    """How models are evaluated.

    Attributes:
        given: the sets, and what else there is to measure with.
        names: the metrics, as `suites.chosen_metrics` gives them.
        settings: metric -> its settings that differ from the defaults.
        encoder: a sentence encoder.
        entailment: a judge of entailment.
        compat: whose definitions are used; None for ours.
        seed: of the bootstrap.
        intervals: whether numbers for whole sets get an interval, which takes longer than all else for small models.
    """

    given: Given
    names: Sequence[str]
    settings: Settings = field(default_factory=dict)
    encoder: Encoder | None = None
    entailment: Entailment | None = None
    compat: Compat | None = None
    seed: int = 0
    intervals: bool = True

    def __post_init__(self) -> None:
        for name in self.settings:
            metrics.check(name, self.settings[name])

    def evaluate(
        self, target: Target, *, reference: Target | None = None, retrained: Target | None = None
    ) -> Evaluation:
        """Score a model on every set, and aggregate.

        Args:
            target: the model under test.
            reference: the original model.
            retrained: a model that was never trained on the data.

        Raises:
            UserError: a model or an example cannot be used.
        """
        scored: dict[str, ScoredSet] = {}
        rows: list[dict[str, Any]] = []
        for name, examples in self._sets().items():
            asked = self._asked(name, examples)
            wanted = [*asked, *self._for_set_metrics(name, retrained=False)]
            if not wanted:
                continue
            scored[name] = self._score(target, name, examples, wanted, reference)
            rows += [self._row(scored[name], name, metric) for metric in asked]
        control: dict[str, ScoredSet] = {}
        if retrained is not None:
            for name, examples in self.given.sets.items():
                if wanted := self._for_set_metrics(name, retrained=True):
                    control[name] = self._score(retrained, name, examples, wanted, reference)
        rows += [self._set_row(name, scored, control) for name in self.names if is_set_metric(name)]
        return Evaluation(tuple(rows), scored)

    def compare(self, evaluation: Evaluation, other: Target, *, reference: Target | None = None) -> pd.DataFrame:
        """The evaluated model minus another, paired on the same examples of each set."""
        rows = []
        for name, ours in evaluation.scored.items():
            examples = self._sets()[name]
            asked = self._asked(name, examples)
            theirs = self._score(other, name, examples, asked, reference)
            for metric in asked:
                paired = theirs.difference(ours, metric, seed=self.seed, **self.settings.get(metric, {}))
                row = {"set": name, "metric": metric, "difference": paired.difference.mean}
                rows.append(row | _without_mean(asdict(paired.difference)) | {"p_value": paired.p_value})
        return pd.DataFrame(rows)

    def _sets(self) -> dict[str, Sequence[Example]]:
        """Every set in every wording."""
        sets: dict[str, Sequence[Example]] = {}
        for name, examples in self.given.sets.items():
            sets[name] = examples
            if name != "verbatim" and (reworded := paraphrased(examples)):
                sets[f"{name}, paraphrased"] = reworded
        return sets

    def _asked(self, name: str, examples: Sequence[Example]) -> list[str]:
        """The metrics of single examples that were asked for and can be had on a set."""
        given = Given({"data": examples, "verbatim": examples}, self.given.models, self.given.max_new_tokens)
        return [
            m
            for m in self.names
            if not is_set_metric(m)
            and (metrics.get(m).facts.get("only", "data") == "verbatim") == (name == "verbatim")
            and not what_is_missing(m, given)
        ]

    def _for_set_metrics(self, name: str, *, retrained: bool) -> list[str]:
        inputs = [i for m in self.names if is_set_metric(m) for i in required_inputs(set_metrics.get(m), self.given)]
        return [metric for retrained, of_set, metric in inputs if (retrained, of_set) == (retrained, name)]

    def _score(
        self, target: Target, name: str, examples: Sequence[Example], wanted: Sequence[str], reference: Target | None
    ) -> ScoredSet:
        new_tokens, answered = self.given.max_new_tokens, generate
        if name == "verbatim":
            target = replace(target, template=RAW, rewrites=())
            examples, new_tokens = [cut(e, target) for e in examples], VERBATIM_TOKENS
        elif self.compat is not None:
            target, answered = self.compat.adapt(target), self.compat.generate
        scored = score_set(
            target, examples, needs=needs_of(wanted), reference=reference, samplings=self._samplings(),
            max_new_tokens=new_tokens, answered=answered,
        )  # fmt: skip
        return scored.judged_by(encoder=self.encoder, entailment=self.entailment, compat=self.compat)

    def _samplings(self) -> list[Sampling]:
        name = "probabilistic_extraction"
        settings = metrics.check(name, self.settings.get(name, {}))
        return [Sampling(settings["temperature"], settings["top_k"])]

    def _row(self, scored: ScoredSet, name: str, metric: str) -> dict[str, Any]:
        settings = self.settings.get(metric, {})
        values = scored.values(metric, **settings)
        aggregate = asdict(scored.aggregate(metric, seed=self.seed, **settings))
        return {"set": name, "metric": metric} | aggregate | {"why": scored.unscored(metric, values)}

    def _set_row(self, name: str, scored: Mapping[str, ScoredSet], control: Mapping[str, ScoredSet]) -> dict[str, Any]:
        entry = set_metrics.get(name)
        inputs = required_inputs(entry, self.given)
        sources = [(control if retrained else scored)[of_set] for retrained, of_set, _ in inputs]
        values = [
            s.values(metric, **self.settings.get(metric, {})) for s, (_, _, metric) in zip(sources, inputs, strict=True)
        ]
        result, missing = aggregate_sets(
            entry.function, values, [s.subjects for s in sources], groups=[of_set for _, of_set, _ in inputs],
            interval=entry.facts["interval"] and self.intervals, seed=self.seed,
        )  # fmt: skip
        sets = " / ".join(dict.fromkeys(of_set for _, of_set, _ in inputs))
        why = {"an input metric has no value": missing} if missing else {}
        return {"set": sets, "metric": name} | asdict(result) | {"why": why}


def cut(example: Example, target: Target) -> Example:
    """The example with its answer cut to as many tokens as a verbatim continuation has."""
    ids = target.tokenizer(example.answer, add_special_tokens=False)["input_ids"][:VERBATIM_TOKENS]
    text = target.tokenizer.decode(ids, skip_special_tokens=True)
    return Example(
        id=example.id,
        question=example.question,
        answer=text or example.answer,
        subject=example.subject,
        history=example.history,
    )


def save(evaluation: Evaluation, names: Sequence[str], folder: Path) -> None:
    """Write ``scores.json`` (the aggregates), and for each set its token scores, texts and values by example.

    Files are ``SET.parquet`` (token scores), ``SET.jsonl`` (texts) and ``SET.metrics.parquet`` (a row an example).
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, scored in evaluation.scored.items():
        stem = name.replace(", ", "_")
        scored.save(folder, stem)
        measured = [
            m
            for m in names
            if not is_set_metric(m) and any(r["set"] == name and r["metric"] == m for r in evaluation.rows)
        ]
        evaluation.examples(name, measured).to_parquet(folder / f"{stem}.metrics.parquet")
    rows = json.dumps(finite(evaluation.rows), indent=1, ensure_ascii=False)
    (folder / "scores.json").write_text(rows + "\n", encoding="utf-8")


def _without_mean(aggregate: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in aggregate.items() if key != "mean"}
