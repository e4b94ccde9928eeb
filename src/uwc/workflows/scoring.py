"""Scores of one model, or of two compared on the same questions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uwc import progress
from uwc.data.example import Example, after_shots
from uwc.io import finite
from uwc.workflows.targets import reading_of, target_of

if TYPE_CHECKING:
    import pandas as pd

    from uwc.metrics.evaluation import Evaluation
    from uwc.metrics.suites import Given


@dataclass(frozen=True)
class Scores:
    """What `evaluate` found.

    Attributes:
        table: one row for each set and metric: mean, n, not_scored, why, clusters, se and the interval low..high.
        differences: the model minus the one compared with, paired, one row for each set and metric; None without one.
        evaluation: the same with the scores of every example.
    """

    table: "pd.DataFrame"
    differences: "pd.DataFrame | None"
    evaluation: "Evaluation"

    def rows(self) -> list[dict[str, Any]]:
        """The table as plain data; numbers that are not finite are None."""
        rows: list[dict[str, Any]] = finite(self.evaluation.rows)
        return rows

    def difference_rows(self) -> list[dict[str, Any]]:
        """The differences as plain data; empty without a model compared with."""
        if self.differences is None:
            return []
        return [{str(k): finite(v) for k, v in row.items()} for row in self.differences.to_dict("records")]


def score(model: str | Path | Any, examples: Sequence[Example] = (), **options: Any) -> "pd.DataFrame":
    """Score a model on questions and, where they have paraphrases, on those: the table that `evaluate` makes.

    Args:
        model: a folder, a hub name, or a `Target` in memory.
        examples: the questions; the set called "data".
        options: as `evaluate` takes them.

    Returns:
        One row for each set and metric: set, metric, mean, n, not_scored, why, clusters, se, low, high.

    Raises:
        UserError: the model or an example cannot be used, or a metric needs what was not given.
    """
    return evaluate(model, examples, **options).table


def evaluate(
    model: str | Path | Any,
    examples: Sequence[Example] = (),
    *,
    suite: str | None = None,
    metrics: Sequence[str] = (),
    sets: Mapping[str, Sequence[Example]] | None = None,
    reference: str | Path | Any | None = None,
    retrained: str | Path | Any | None = None,
    compare: str | Path | Any | None = None,
    encoder: str | Path | Any | None = None,
    entailment: str | Path | Any | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    shots: Sequence[Example] = (),
    compat: str | None = None,
    max_new_tokens: int = 64,
    seed: int = 0,
    out: Path | None = None,
    own_tokenizer: bool = False,
    **loading: Any,
) -> Scores:
    """Score a model on several sets of questions, compare it with another, and keep every example's scores.

    Args:
        model: a folder, a hub name, or a `Target` in memory.
        examples: the questions; the set called "data".
        suite: core, tofu, muse, membership or all; core if neither a suite nor metrics are named.
        metrics: further metrics by name.
        sets: further sets: retain, holdout, authors, facts, verbatim.
        reference: the original model, for the metrics that compare with it; a path or a `Target`.
        retrained: a model that was never trained on the data, for forget quality and PrivLeak; likewise.
        compare: another model, to be compared with on the same examples; likewise.
        encoder: a sentence encoder, as a path or as a function; for semantic similarity.
        entailment: a model of natural-language inference, likewise.
        settings: metric -> its settings that differ from the defaults.
        shots: solved questions that go before each question.
        compat: "open-unlearning" or "uwc-official": that code's definitions and prompt.
        max_new_tokens: the most tokens of a generated answer.
        seed: of the bootstrap.
        out: a folder for the scores.
        own_tokenizer: read every model with its own tokenizer, chat template and ends; by default all are read as the
            original (`reference`, else `compare`) is.
        loading: dtype, device, template and trust_remote_code, as `load_target` takes them.

    Raises:
        UserError: the model or an example cannot be used, or a metric needs what was not given.
    """
    from uwc.metrics.compat import compat_of
    from uwc.metrics.evaluation import Evaluator, save
    from uwc.metrics.suites import Given

    given_sets = {n: s for n, s in {"data": examples, **(sets or {})}.items() if len(s)}
    models = {"reference": reference, "retrained": retrained, "encoder": encoder, "entailment": entailment}
    given = Given(given_sets, frozenset(n for n, m in models.items() if m is not None), max_new_tokens)
    names = _chosen(suite if suite or metrics else "core", metrics, given)
    evaluator = Evaluator(given, names, settings or {}, compat=compat_of(compat), seed=seed)
    evaluator = _with_judges(evaluator, encoder, entailment, loading)

    first = None if own_tokenizer else reference if reference is not None else compare
    loaded = _loader(first, shots, loading)
    other = None if reference is None else loaded(reference)
    evaluation = evaluator.evaluate(
        loaded(model), reference=other, retrained=None if retrained is None else loaded(retrained)
    )
    differences = None
    if compare is not None:
        differences = evaluator.compare(evaluation, loaded(compare), reference=other)
    if out is not None:
        save(evaluation, names, out)
    return Scores(evaluation.table(), differences, evaluation)


def _loader(first: Any, shots: Sequence[Example], loading: dict[str, Any]) -> Callable[[Any], Any]:
    """What loads a model with its solved questions, to be read as `first` is, or each as itself where that is None."""
    reading = None if first is None else reading_of(first, loading)

    def loaded(given: Any) -> Any:
        target = target_of(given, loading, reading)
        return target.rewritten(after_shots(shots)) if shots else target

    return loaded


def _chosen(suite: str | None, metrics: Sequence[str], given: "Given") -> list[str]:
    """The metrics asked for; which of the suite are left out is said."""
    from uwc.metrics.suites import chosen_metrics

    names, left_out = chosen_metrics(suite, metrics, given)
    for name, lacking in left_out.items():
        progress.note(f"{name} left out: it needs {lacking}")
    return names


def _with_judges(evaluator: Any, encoder: Any, entailment: Any, loading: dict[str, Any]) -> Any:
    from uwc.models.sentences import load_encoder, load_entailment

    device = loading.get("device", "auto")
    if isinstance(encoder, str | Path):
        encoder = load_encoder(encoder, device=device)
    if isinstance(entailment, str | Path):
        entailment = load_entailment(entailment, device=device)
    return replace(evaluator, encoder=encoder, entailment=entailment)
