"""The check of a checkpoint against a policy: the shipped study `check` with models and questions filled in."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from uwc import __version__
from uwc.attacks.data import Attacker
from uwc.data.outputs import Outputs
from uwc.data.question_files import Columns, Questions
from uwc.errors import ConfigError
from uwc.io import require_writable
from uwc.metrics.suites import set_info
from uwc.models.endpoint import Endpoint
from uwc.names import STORE
from uwc.reports.check_folder import remove_check, write_check
from uwc.results import CheckedSystem, CheckResults, StudyResults, Verdict
from uwc.studies.config_file import Overrides, load_config
from uwc.studies.gather import verdicts
from uwc.studies.plan import ORIGINAL, RETRAINED, Plan, make_plan
from uwc.studies.policy import Policies, in_precisions, load_policy
from uwc.studies.run import Runner
from uwc.studies.sections import FORGET_SETS
from uwc.studies.steps import Checkpoint, Step
from uwc.studies.store import Store, environment
from uwc.studies.verdict import against_baseline, require_comparable
from uwc.workflows.checking_texts import POLICY as TEXTS
from uwc.workflows.checking_texts import check_texts, checked_sets, command_line
from uwc.workflows.collecting import Under
from uwc.workflows.comparison import Sets, filled_in, listed_precisions, named_by_path, retain_sets, safe_name
from uwc.workflows.studies import require_models, require_same_study, run_plan
from uwc.workflows.texts import System, system_of

STUDY = "check"
CHECKED = "checked model"
"""The name of a checked model that is called original or retrained."""


def check(
    checkpoint: Any,
    *,
    original: Any | None = None,
    forget: "Questions | None" = None,
    retain: "Sets | None" = None,
    retrained: Any | None = None,
    holdout: "Questions | None" = None,
    sets: Mapping[str, Questions] | None = None,
    under: Under | None = None,
    attacker: Attacker | None = None,
    policy: Policies | None = None,
    precisions: str | Sequence[str] = (),
    baseline: "CheckResults | str | Path | None" = None,
    name: str | None = None,
    columns: Columns | None = None,
    skip_invalid: bool = False,
    redact: bool = False,
    undecided: Literal["pass", "fail"] | None = None,
    overrides: Overrides = (),
    output_dir: str | Path = "checks",
    verify: bool = False,
    workers: int = 1,
    overwrite: bool = False,
    keep_paths: bool = False,
    trust_remote_code: bool = False,
) -> CheckResults:
    """Check one unlearned model, as delivered, or the texts of a system, against a policy.

    It runs the shipped study `check` with these arguments filled in: the metrics and attacks that the policy needs.
    ``OUTPUT_DIR/NAME`` then holds ``check.json``, ``check.xml`` (JUnit), ``check.md``, ``signoff.html`` and the study's
    own results and report. All checks in one output folder share their cache, so that the next one scores only the new
    model; interrupted at any moment, the same call resumes.

    Args:
        checkpoint: the unlearned model: a folder, a hub name, the folder of an adapter of the original, or a `Model`;
            or `Outputs` or an `Endpoint`, a system that is not a checkpoint, of whose texts the metrics are decided.
        original: the model before unlearning; for texts its `Outputs`, which may be missing.
        forget: the questions that should be forgotten; texts may have theirs in their own rows.
        retain: the questions that should be kept; or several sets by name, ``retain`` among them; likewise.
        retrained: a model that was never trained on the forget questions: the reference, and the control of attacks;
            for texts its `Outputs`.
        holdout: questions that no model was trained on.
        sets: further sets that requirements name.
        under: name of an attack -> the `Outputs` under it, or for an endpoint the attack; see `uwc.score`. An endpoint
            is also asked under the attacks of the policy that need no weights.
        attacker: the attacker's data, for an endpoint; as retained examples by default the set "retain".
        policy: the name of a shipped policy, a YAML file, or a mapping of the same keys; ``standard`` by default, and
            ``texts`` for texts.
        precisions: the precisions in which the model may be deployed, such as ``["nf4", "int8"]``: requirements without
            an attack must be met in each of them too.
        baseline: an earlier check of the same questions, its file or folder; a significantly worse number fails.
        name: the name of the results' folder; the checkpoint's by default.
        columns: field -> column, where files or tables name them otherwise; ``"SET:FIELD"`` for one of them.
        skip_invalid: leave out invalid rows of files, at most half of each, with a warning.
        redact: hide true answers and secrets on the page to sign.
        undecided: whether an undecided requirement passes or fails in JUnit; neither by default.
        overrides: changes to any other key of the study; for texts ``seed``, ``score.judges`` and further sets.
        output_dir: the folder of the results of all checks, and of their cache.
        verify: compare the hashes of all stored models, and not only of those that are read.
        workers: the number of processes that compute independent steps at the same time.
        overwrite: replace the results of another original.
        keep_paths: keep absolute paths in the results.
        trust_remote_code: run Python code that comes with a checkpoint.

    Raises:
        UserError: a model, file or policy is not as it should be, or the baseline is one of other questions.
    """
    folder, before = folder_of_check(checkpoint, output_dir, name=name), _baseline(baseline)
    earlier = CheckResults.FILE if isinstance(baseline, CheckResults) else str(baseline)
    questions: dict[str, Any] = {"forget": forget, "holdout": holdout}
    questions |= {**(retain_sets(retain) if retain is not None else {}), **(sets or {})}
    deployed = listed_precisions(precisions)
    if isinstance(checkpoint, System | Endpoint):
        if deployed:
            raise ConfigError(
                "precisions are those of a model's weights, which texts and servers do not show; leave them out"
            )
        if workers != 1:
            raise ConfigError(
                "workers compute the steps of a model's check; that of texts or of a server has none: leave them out"
            )
        for name_of_option, given in {"verify": verify, "trust_remote_code": trust_remote_code}.items():
            if given:
                raise ConfigError(f"{name_of_option} is for the check of a model; leave it out with texts or a server")
        return check_texts(
            checkpoint,
            {name: given for name, given in questions.items() if given is not None},
            before=system_of("original", original),
            retrained=system_of("retrained", retrained),
            under=under,
            attacker=attacker,
            policy=TEXTS if policy is None else policy,
            baseline=before,
            baseline_name=earlier,
            columns=columns,
            skip_invalid=skip_invalid,
            overrides=overrides,
            folder=folder,
            redact=redact,
            undecided=undecided,
            overwrite=overwrite,
            keep_paths=keep_paths,
        )
    if original is None or forget is None or retain is None or under or attacker is not None:
        raise ConfigError("the check of a model needs its original, forget and retain questions; under is for texts")
    policy = "standard" if policy is None else policy
    asked = in_precisions(load_policy(policy), deployed)
    called, model = _named(checkpoint, name)
    run = CHECKED if called in (ORIGINAL.role, RETRAINED.role) else called
    changes: dict[str, Any] = {
        **filled_in(
            folder,
            original=original,
            unlearned={run: model},
            retrained=retrained,
            forget=forget,
            retain=retain,
            holdout=holdout,
            sets=sets,
            columns=columns,
            skip_invalid=skip_invalid,
            keep_paths=keep_paths,
        ),
        "name": called,
        "title": f"{called} checked against the policy {asked.name}",
        "check": [asked],
    }
    plan = make_plan(load_config(STUDY, changes=changes, overrides=overrides, trust_remote_code=trust_remote_code))
    models = [plan.original, *(run.delivered for run in plan.runs), *([plan.retrained] if plan.retrained else [])]
    if len(plan.config.check) != 1 or len(plan.runs) != 1:
        raise ConfigError("a check has one policy and one model; for several use a study with the key 'check'")
    if any(not isinstance(planned.model, Checkpoint) for planned in models):
        raise ConfigError("a check trains no model; leave out finetune, or use a study with the key 'check'")
    require_models(plan.config)
    if before is not None:
        asked_of = {of_set: set_info(of_set, examples).sha256 for of_set, examples in plan.sets.items()}
        require_comparable(plan.config.check[0].model_dump(mode="json"), asked_of, before, name=earlier)
    if not overwrite:
        require_same_study(plan.config, folder)
    require_writable(folder, CheckResults.FILE)
    remove_check(folder)  # so that an interrupted check leaves no verdict on another model
    store = Store(Path(output_dir) / STORE)
    study = run_plan(plan, store, folder, verify=verify, overwrite=overwrite, runner=Runner(workers))
    (verdict,) = verdicts(plan, store)
    options = {"original": original, "retrained": retrained, "policy": policy, "output-dir": output_dir}
    options |= {} if isinstance(baseline, CheckResults) else {"baseline": baseline}
    flags = {"--skip-invalid": skip_invalid, "--trust-remote-code": trust_remote_code}
    command = command_line(
        [
            f"{name}={checkpoint}" if name and isinstance(checkpoint, str | Path) else checkpoint,
            *(word for option, value in options.items() if value is not None for word in (f"--{option}", value)),
            *(word for precision in deployed for word in ("--precision", precision)),
            *(flag for flag, chosen in flags.items() if chosen),
        ],
        sets={k: file for k, file in questions.items() if file is not None},
        columns=columns or {},
        overrides=overrides,
    )
    results = _results(plan, study, verdict, command)
    if before is not None:
        results = against_baseline(results, before, name=earlier, seed=plan.config.seed)
    return write_check(
        results, folder, answers=study.answers, redact=redact, undecided=undecided, keep_paths=keep_paths
    )


def folder_of_check(checkpoint: Any, output_dir: str | Path, *, name: str | None = None) -> Path:
    """The folder of a model's check, by arguments of `check`."""
    return Path(output_dir) / _named(checkpoint, name)[0]


def _named(checkpoint: Any, name: str | None) -> tuple[str, Any]:
    """The name of a model's check, and the model: ``NAME=PATH`` has both."""
    given, model = getattr(checkpoint, "name", ""), checkpoint
    if isinstance(checkpoint, Outputs):
        given = Path(checkpoint.data).stem if isinstance(checkpoint.data, str | Path) else "texts"
    if isinstance(checkpoint, Endpoint):
        given = checkpoint.model
    if isinstance(checkpoint, str | Path):
        ((given, model),) = named_by_path([checkpoint]).items()
    return safe_name(name or given, otherwise=STUDY), model


def _baseline(given: "CheckResults | str | Path | None") -> CheckResults | None:
    """The earlier check; read before anything is computed."""
    if given is None or isinstance(given, CheckResults):
        return given
    path = Path(given)
    return CheckResults.load(path / CheckResults.FILE if path.is_dir() else path)


def _results(plan: Plan, study: StudyResults, verdict: Verdict, command: str) -> CheckResults:
    (run,), (policy,) = plan.runs, plan.config.check
    key = run.delivered.key
    return CheckResults(
        uwc_version=__version__,
        model=_system(run.model),
        original=_system(plan.original.model),
        retrained=None if plan.retrained is None else _system(plan.retrained.model),
        verdict=verdict,
        policy=policy.model_dump(mode="json"),
        metrics=study.metrics,
        sets=checked_sets(plan.sets, _files(plan)),
        attacks=study.attacks.attacks if study.attacks else (),
        secrets=tuple(count for count in study.secrets if count.model == key and count.set in FORGET_SETS),
        judges=study.judges,
        left_out=study.left_out,
        invalid_rows=study.invalid_rows,
        warnings=study.warnings,
        command=command,
        environment=environment(device=plan.config.model.device),
    )


def _system(step: Step) -> CheckedSystem:
    """A given model, with the hashes of its files."""
    assert isinstance(step, Checkpoint)
    return CheckedSystem(source=step.path, files=dict(step.files))


def _files(plan: Plan) -> dict[str, Any]:
    """Set -> its file, as the study names it."""
    settings = plan.config.benchmark.settings
    given = {**settings, **(settings.get("further") or {})}
    return {name: file.get("path") if isinstance(file, Mapping) else file for name, file in given.items()}
