"""Scores of one model, or of two compared on the same questions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uwc import __version__, progress
from uwc.data.example import Example, after_shots
from uwc.results import Scores
from uwc.workflows.targets import reading_of, target_of

if TYPE_CHECKING:
    import pandas as pd

    from uwc.metrics.evaluate import Scoring
    from uwc.metrics.scored import ScoredSet


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        scores: the scores, and the differences from a model compared with.
        sets: set -> all that was scored on its examples.
        scoring: what was measured.
    """

    scores: Scores
    sets: "Mapping[str, ScoredSet]"
    scoring: "Scoring"

    def examples(self) -> "pd.DataFrame":
        """One row for each example: set, id, subject and the value of each metric; NaN where it has none."""
        from uwc.metrics.evaluate import example_values

        return example_values(self.sets, self.scoring)


def score(model: str | Path | Any, data: Sequence[Example] = (), **options: Any) -> Scores:
    """Score a model on questions and, where they have paraphrases, on those.

    Args:
        model: a folder, a hub name, or a `Target` in memory.
        data: the questions; the set called "forget".
        options: as `evaluate` takes them.

    Returns:
        The scores by metric and set, each with n, standard error and interval; as a table by ``to_frame()``.

    Raises:
        UserError: the model or an example cannot be used, or a metric needs what was not given.
    """
    return evaluate(model, data, **options).scores


def evaluate(
    model: str | Path | Any,
    data: Sequence[Example] = (),
    *,
    suite: str | None = None,
    metrics: Sequence[str] = (),
    sets: Mapping[str, Sequence[Example]] | None = None,
    original: str | Path | Any | None = None,
    retrained: str | Path | Any | None = None,
    compare: str | Path | Any | None = None,
    judges: Mapping[str, Any] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    shots: Sequence[Example] = (),
    compat: str | None = None,
    max_new_tokens: int = 64,
    seed: int = 0,
    output_dir: str | Path | None = None,
    own_tokenizer: bool = False,
    **loading: Any,
) -> Evaluation:
    """Score a model on several sets of questions, compare it with another, and keep every example's scores.

    Args:
        model: a folder, a hub name, or a `Target` in memory.
        data: the questions; the set called "forget".
        suite: core, tofu, muse, membership or all; core if neither a suite nor metrics are named.
        metrics: further metrics by name or label.
        sets: further sets: retain, holdout, real_authors, world_facts, verbatim, or any other name.
        original: the model before unlearning, for the metrics that compare with it; a path or a `Target`.
        retrained: a model that was never trained on the data, for forget quality and PrivLeak; likewise.
        compare: another model, to be compared with on the same examples; likewise.
        judges: "encoder" (a sentence encoder, for semantic similarity) and "entailment" (a model of natural-language
            inference) -> a path or a function.
        settings: metric -> its settings that differ from the defaults.
        shots: solved questions that go before each question.
        compat: "open-unlearning" or "uwc-official": that code's definitions and prompt.
        max_new_tokens: the most tokens of a generated answer.
        seed: of the bootstrap.
        output_dir: a folder for ``score.json``, the token scores and texts by set, and the values by example.
        own_tokenizer: read every model with its own tokenizer, chat template and ends; by default all are read as the
            original (else the model of `compare`) is.
        loading: dtype, device, template and trust_remote_code, as `load_target` takes them.

    Raises:
        UserError: the model or an example cannot be used, or a metric needs what was not given.
    """
    from uwc.metrics import evaluate as halves
    from uwc.metrics.semantics import Judges

    models = {"original": original, "retrained": retrained, **(judges or {})}
    given = _given({"forget": data, **(sets or {})}, models, max_new_tokens)
    scoring, left_out = _scoring(suite, metrics, given, settings or {}, compat, seed)
    for name, lacking in left_out.items():
        progress.note(f"{name} left out: it needs {lacking}")
    asked = Judges.load(judges or {}, device=loading.get("device", "auto"))
    loaded = _loader(None if own_tokenizer else original if original is not None else compare, shots, loading)

    reference = None if original is None else loaded(original)

    def scored(which: Any, *, control: bool = False) -> dict[str, Any]:
        work = scoring.work(control=control)
        return halves.score_sets(loaded(which), work, original=reference, judges=asked)

    ours = scored(model)
    control = {} if retrained is None else scored(retrained, control=True)
    theirs = {} if compare is None else scored(compare)
    scores = Scores(
        uwc_version=__version__,
        model=_named(model),
        **_described(scoring),
        scores=halves.evaluate(ours, scoring, retrained=control),
        compared_with="" if compare is None else _named(compare),
        differences=halves.paired_differences(theirs, ours, scoring),
        left_out=left_out,
    )
    evaluation = Evaluation(scores, ours, scoring)
    if output_dir is not None:
        _save(evaluation, Path(output_dir))
    return evaluation


def _given(sets: Mapping[str, Sequence[Example]], models: Mapping[str, Any], max_new_tokens: int) -> Any:
    from uwc.metrics.semantics import require_judges
    from uwc.metrics.suites import Given, in_all_wordings

    require_judges({name: model for name, model in models.items() if name not in ("original", "retrained")})
    return Given(in_all_wordings(sets), frozenset(n for n, m in models.items() if m is not None), max_new_tokens)


def _scoring(
    suite: str | None,
    metrics: Sequence[str],
    given: Any,
    settings: Mapping[str, Mapping[str, Any]],
    compat: str | None,
    seed: int,
) -> tuple["Scoring", dict[str, str]]:
    """What is measured, and the metrics of the suite that are left out, with the reason."""
    from uwc.metrics.compat import compat_of
    from uwc.metrics.evaluate import Scoring
    from uwc.metrics.suites import chosen_metrics, metric_name

    names, left_out = chosen_metrics(suite, metrics, given)
    by_name = {metric_name(name): of_metric for name, of_metric in settings.items()}
    return Scoring(given, names, by_name, compat=compat_of(compat), seed=seed), left_out


def _described(scoring: "Scoring") -> dict[str, Any]:
    """The sets and metrics, as results have them."""
    from uwc.metrics.suites import metric_info, set_info

    return {
        "sets": {name: set_info(name, examples) for name, examples in scoring.given.sets.items()},
        "metrics": {name: metric_info(name) for name in scoring.metrics},
    }


def _named(model: Any) -> str:
    return str(model) if isinstance(model, str | Path) else str(model.name)


def _save(evaluation: Evaluation, folder: Path) -> None:
    """``score.json``; for each set its token scores and texts; ``examples.parquet``, the values by example."""
    from uwc.metrics.evaluate import save_sets

    save_sets(evaluation.sets, folder)
    evaluation.examples().to_parquet(folder / "examples.parquet", index=False)
    evaluation.scores.save(folder)


def _loader(first: Any, shots: Sequence[Example], loading: dict[str, Any]) -> Callable[[Any], Any]:
    """What loads a model with its solved questions, to be read as `first` is, or each as itself where that is None."""
    reading = None if first is None else reading_of(first, loading)

    def loaded(given: Any) -> Any:
        target = target_of(given, loading, reading)
        return target.rewritten(after_shots(shots)) if shots else target

    return loaded
