"""What a user can do, as plain functions; the command line is a thin layer over these."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uwc import progress
from uwc.data.example import Example, require_disjoint
from uwc.studies.config import StudyConfig
from uwc.studies.config_file import load_config
from uwc.studies.plan import Plan, make_plan
from uwc.studies.results import gather
from uwc.studies.runner import run_record, run_steps, step_status
from uwc.studies.store import Store, write_json

if TYPE_CHECKING:
    import pandas as pd

    from uwc.metrics.evaluation import Evaluation

DEFAULT_RUNS = Path("runs")


@dataclass(frozen=True)
class StudyOutcome:
    """A finished study.

    Attributes:
        folder: where the report and the results lie.
        results: what ``results.json`` holds.
        run: how the run went: environment, and each step with its time.
    """

    folder: Path
    results: dict[str, Any]
    run: dict[str, Any]

    @property
    def diverged(self) -> list[str]:
        """The names of the runs that diverged."""
        return [u["name"] for u in self.results["unlearned"] if u["status"] == "diverged"]

    @property
    def report(self) -> Path:
        """The report, one HTML file."""
        return self.folder / "report.html"


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
        from uwc.metrics.evaluation import plain_rows

        return plain_rows(self.evaluation.rows)

    def difference_rows(self) -> list[dict[str, Any]]:
        """The differences as plain data; empty without a model compared with."""
        from uwc.metrics.evaluation import plain_rows

        if self.differences is None:
            return []
        return plain_rows({str(k): v for k, v in row.items()} for row in self.differences.to_dict("records"))


def plan_study(
    source: str | Path | StudyConfig, *, overrides: Sequence[str] = (), runs: Path = DEFAULT_RUNS
) -> list[dict[str, str]]:
    """The steps of a study and which are done, without running any.

    Args:
        source: a YAML file, the name of a shipped study, or a configuration.
        overrides: ``"key.key=value"`` changes to the file.
        runs: the folder where results are kept.

    Returns:
        For each step: name, kind, key and status ("done", "missing", "diverged", "skipped" or "given").

    Raises:
        UserError: the study, its data or its checkpoints are not as they should be.
    """
    plan = make_plan(_config(source, overrides))
    store = Store(Path(runs) / "store")
    return [{"name": s.name, "kind": s.kind, "key": s.key[:16], "status": step_status(s, store)} for s in plan.steps]


def run_study(
    source: str | Path | StudyConfig, *, overrides: Sequence[str] = (), runs: Path = DEFAULT_RUNS
) -> StudyOutcome:
    """Run what is missing of a study, and write its results and report to ``RUNS/NAME/``.

    Interrupted at any moment, the next call goes on where this one was and ends with the same bits.

    Args:
        source: a YAML file, the name of a shipped study, or a configuration.
        overrides: ``"key.key=value"`` changes to the file.
        runs: the folder where results are kept; studies that share it share their steps.

    Raises:
        UserError: the study, its data or its checkpoints are not as they should be, or the disk is full.
    """
    plan = make_plan(_config(source, overrides))
    store = Store(Path(runs) / "store")
    missing = sum(step_status(s, store) == "missing" for s in plan.steps)
    progress.note(f"study {plan.config.name}: {len(plan.steps)} steps, {missing} to run")
    with progress.bar(plan.config.name, total=len(plan.steps)) as advance:
        records = run_steps(plan, store, on_step=advance)
    return _publish(plan, store, run_record(records), Path(runs) / plan.config.name)


def _publish(plan: Plan, store: Store, run: dict[str, Any], folder: Path) -> StudyOutcome:
    from uwc.reports.page import write_page
    from uwc.reports.tables import result_table, to_markdown

    results = gather(plan, store)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "results.json", results)
    write_json(folder / "run.json", run)
    (folder / "results.md").write_text(to_markdown(result_table(results)), encoding="utf-8")
    write_page(results, run, folder / "report.html")
    return StudyOutcome(folder, results, run)


def _config(source: str | Path | StudyConfig, overrides: Sequence[str]) -> StudyConfig:
    return source if isinstance(source, StudyConfig) else load_config(source, overrides=overrides)


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
    compat: str | None = None,
    max_new_tokens: int = 64,
    seed: int = 0,
    out: Path | None = None,
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
        compat: "open-unlearning" or "uwc-official": that code's definitions and prompt.
        max_new_tokens: the most tokens of a generated answer.
        seed: of the bootstrap.
        out: a folder for the scores.
        loading: dtype, device, template and trust_remote_code, as `load_target` takes them.

    Raises:
        UserError: the model or an example cannot be used, or a metric needs what was not given.
    """
    from uwc.metrics.compat import compat_of
    from uwc.metrics.evaluation import Evaluator, save
    from uwc.metrics.suites import Given, chosen_metrics

    given_sets = {n: s for n, s in {"data": examples, **(sets or {})}.items() if len(s)}
    models = {"reference": reference, "retrained": retrained, "encoder": encoder, "entailment": entailment}
    given = Given(given_sets, frozenset(n for n, m in models.items() if m is not None), max_new_tokens)
    names, left_out = chosen_metrics(suite if suite or metrics else "core", metrics, given)
    for name, lacking in left_out.items():
        progress.note(f"{name} left out: it needs {lacking}")
    evaluator = Evaluator(given, names, settings or {}, compat=compat_of(compat), seed=seed)
    evaluator = _with_judges(evaluator, encoder, entailment, loading)
    other = None if reference is None else _target(reference, loading)
    evaluation = evaluator.evaluate(
        _target(model, loading),
        reference=other,
        retrained=None if retrained is None else _target(retrained, loading),
    )
    differences = None
    if compare is not None:
        differences = evaluator.compare(evaluation, _target(compare, loading), reference=other)
    if out is not None:
        save(evaluation, names, out)
    return Scores(evaluation.table(), differences, evaluation)


def _with_judges(evaluator: Any, encoder: Any, entailment: Any, loading: dict[str, Any]) -> Any:
    from uwc.models.sentences import load_encoder, load_entailment

    device = loading.get("device", "auto")
    if isinstance(encoder, str | Path):
        encoder = load_encoder(encoder, device=device)
    if isinstance(entailment, str | Path):
        entailment = load_entailment(entailment, device=device)
    return replace(evaluator, encoder=encoder, entailment=entailment)


def unlearn(
    model: str | Path,
    output: Path,
    *,
    method: str,
    forget: Sequence[Example],
    retain: Sequence[Example] = (),
    refusals: Sequence[str] = (),
    settings: dict[str, Any] | None = None,
    tricks: dict[str, float] | None = None,
    **loading: Any,
) -> Path:
    """Unlearn questions from a model, and write a checkpoint that plain transformers loads.

    Interrupted, a run with ``checkpoint_every`` goes on from its last checkpoint (in ``OUTPUT.checkpoints``) when it is
    called again. Of a run that diverges the weights of the last finite step are written.

    Args:
        model: a folder or hub name.
        output: the folder to write.
        method: a registered method.
        forget: what to remove.
        retain: what to keep; needed by methods with a retain term.
        refusals: answers that decline; needed by methods that teach them.
        settings: training settings that differ from the defaults.
        tricks: trick -> value.
        loading: dtype, device, template and trust_remote_code, as `load_target` takes them.

    Raises:
        UserError: an argument cannot be used, training diverged, or the disk is full.
    """
    from uwc.models.loading import save_target
    from uwc.objectives.methods import get_method
    from uwc.studies.config import training_settings
    from uwc.training.checkpoints import remove_checkpoint
    from uwc.training.loading import TrainingData
    from uwc.training.processes import main_process_writes
    from uwc.training.unlearning import unlearn as unlearn_target

    require_disjoint(forget, retain, names=("forget", "retain"))
    chosen = get_method(method)
    checked = training_settings({**chosen.training, **(settings or {})}, where="training settings")
    checkpoints = Path(output).with_name(f"{Path(output).name}.checkpoints")
    target = replace(_target(model, loading), name="")
    data = TrainingData(forget, retain, refusals)
    done = unlearn_target(target, chosen, data, checked, tricks=tricks, checkpoints=checkpoints)
    with main_process_writes() as writes:
        if writes:
            save_target(done.target, output)
            remove_checkpoint(checkpoints)
    if done.diverged is not None:
        raise done.diverged
    if done.collapse is not None and done.collapse.collapsed:
        progress.note(
            f"the model collapsed: its perplexity on the retain set rose from {done.collapse.before:.3g} to "
            f"{done.collapse.after:.3g}; lower the learning rate, train less, or calibrate it"
        )
    return output


def calibrate(
    original: str | Path,
    unlearned: str | Path,
    *,
    retain: Sequence[Example],
    forget: Sequence[Example],
    tau: float = 0.95,
    metric: str = "extraction_strength",
    save: Path | None = None,
    **loading: Any,
) -> dict[str, Any]:
    """Find how much of an unlearned model can be mixed into the original at `tau` of its retention.

    Args:
        original: the model before unlearning, a folder or hub name.
        unlearned: the model after it.
        retain: questions on which retention is measured.
        forget: questions that should be forgotten.
        tau: share of the original's retention to keep.
        metric: the metric that measures both.
        save: a folder for the calibrated model; None does not write it.
        loading: dtype, device, template and trust_remote_code, as `load_target` takes them.

    Returns:
        alpha, tau, the threshold, the forget and retain score at alpha, and the trace of every probe.

    Raises:
        UserError: the models differ in architecture, the data overlap, or the original does not know the retain data.
    """
    from uwc.calibration.calibrate import calibrate as calibrate_target
    from uwc.models.loading import save_target

    require_disjoint(forget, retain, names=("forget", "retain"))
    found, mixed = calibrate_target(
        _target(original, loading), _target(unlearned, loading), retain=retain, forget=forget, tau=tau, metric=metric
    )
    if save is not None:
        save_target(mixed, save)
    record = found.record()
    return record | {"forget_score": found.mean("forget", found.alpha), "retain_score": found.search.retain}


def _target(model: Any, loading: dict[str, Any]) -> Any:
    from uwc.models.loading import load_target
    from uwc.models.target import Target

    return model if isinstance(model, Target) else load_target(model, **loading)
