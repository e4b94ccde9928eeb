"""What a user can do, as plain functions; the command line is a thin layer over these."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from uwc import progress
from uwc.data.example import Example, paraphrased, require_disjoint
from uwc.errors import ConfigError
from uwc.studies.config import StudyConfig, load_config
from uwc.studies.plan import Plan, make_plan
from uwc.studies.results import gather
from uwc.studies.runner import run_record, run_steps, step_status
from uwc.studies.store import Store, write_json

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


def score(
    model: str | Path | Any,
    examples: Sequence[Example],
    *,
    metrics: Sequence[str] = ("extraction_strength", "exact_memorization", "probability", "perplexity", "rouge_l"),
    reference: str | Path | Any | None = None,
    max_new_tokens: int = 64,
    **loading: Any,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Score a model on questions and, where they have paraphrases, on those.

    Args:
        model: a folder, a hub name, or a `Target` in memory.
        examples: the questions.
        metrics: which metrics.
        reference: the original model, for the divergence from it; likewise a path or a `Target`.
        max_new_tokens: the most tokens of a generated answer.
        loading: dtype, device, template and trust_remote_code, as `load_target` takes them.

    Returns:
        Wording ("question", "paraphrase") -> metric -> aggregate (mean, n, not_scored, clusters, se, low, high).

    Raises:
        UserError: the model or an example cannot be used, or a metric needs what was not given.
    """
    from uwc.metrics.registry import metrics as registry
    from uwc.metrics.scored import ScoredSet
    from uwc.models.forward import score_tokens
    from uwc.models.generation import generate

    needs = {registry.get(name).facts["needs"] for name in metrics}
    if "kl" in needs and reference is None:
        raise ConfigError("the divergence from the original needs the original model; give it with --reference")
    target = _target(model, loading)
    other = None if reference is None else _target(reference, loading)
    wordings = {"question": list(examples), "paraphrase": paraphrased(examples)}
    result = {}
    for wording, asked in wordings.items():
        if asked:
            texts = tuple(generate(target, asked, max_new_tokens=max_new_tokens)) if "texts" in needs else ()
            scored = ScoredSet(score_tokens(target, asked, reference=other), tuple(e.answer for e in asked), texts)
            result[wording] = scored.aggregates(metrics)
    return result


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
