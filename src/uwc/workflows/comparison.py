"""Comparison of any unlearned checkpoints: the shipped study `compare` with models and questions filled in."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

from filelock import FileLock

from uwc.attacks.chain import require_precisions
from uwc.attacks.registry import attack_name
from uwc.data.benchmarks.local_files import PARTS, require_further
from uwc.data.example import fingerprint
from uwc.data.question_files import Columns, Questions, columns_by_set, examples_of, table_of
from uwc.errors import ConfigError
from uwc.io import remove, write_json, write_text
from uwc.metrics.set_metrics import UTILITY_SETS
from uwc.names import LONGEST, STORE
from uwc.results import StudyResults
from uwc.studies.config_file import Overrides, load_config, read_config
from uwc.studies.plan import make_plan
from uwc.studies.run import Runner
from uwc.studies.sections import CalibrateConfig, HarnessConfig, harness_config
from uwc.studies.store import FileRecord, Store, changed_file, file_records
from uwc.tracking import Trackers
from uwc.workflows.studies import require_models, run_plan


def kept_questions(questions: Questions, name: str, folder: Path, columns: Columns | None = None) -> str:
    """The path of a file of the questions; those in memory are written to the folder.

    Args:
        questions: the questions.
        name: the set; begins the file's name.
        folder: where questions are kept.
        columns: field -> column, for a table in memory.
    """
    if isinstance(questions, str | Path):
        return str(questions)
    examples = examples_of(questions, name=name, columns=columns)
    if any(e.raw for e in examples):
        raise ConfigError(
            f"{name} holds passages in memory; write the texts to a file, and study them with the benchmark "
            "local-files, as {path: texts.jsonl, passages: 2000}"
        )
    rows = [{k: v for k, v in asdict(e).items() if k != "split" and v} for e in examples]
    path = folder / "data" / f"{name}-{fingerprint(examples)[:16]}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return str(path)


def kept_model(model: Any, folder: Path, template: Any | None) -> str:
    """A path or hub name as it is; a `Model` in memory is written to the folder, under a hash of its content.

    Args:
        model: a path, a hub name or a `Model`.
        folder: where models are kept.
        template: the prompt template of the comparison.

    Raises:
        ConfigError: the model is asked in another way than the others, or is changed by an attack.
        DiskFull: no space was left.
    """
    if isinstance(model, str | Path):
        return str(model)
    from uwc.models.adapters import merge_adapter
    from uwc.models.load import save_model

    if model.rewrites or model.edits:
        raise ConfigError(f"the model {model.name!r} has an attack on its prompts; compare the model itself")
    if template is not None and model.template != template:
        raise ConfigError(f"the model {model.name!r} has another prompt template than the original; give all one")
    path = folder / "models" / _content_hash(model)[:16]
    beside = path.with_name(f".{path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(beside.with_suffix(".lock")):
        if not _is_as_written(path):
            for old in (beside, path):
                remove(old)
            beside.mkdir()
            save_model(merge_adapter(model, keep=True), beside)
            records = {name: record.model_dump() for name, record in file_records(beside).items()}
            write_json(_records_of(path), records)
            os.replace(beside, path)
    return str(path)


def _is_as_written(folder: Path) -> bool:
    """Whether a kept model's files are those that were written."""
    try:
        content = json.loads(_records_of(folder).read_text(encoding="utf-8"))
        records = {name: FileRecord.model_validate(record) for name, record in content.items()}
    except (OSError, ValueError, AttributeError):
        return False
    return folder.is_dir() and not changed_file(folder, records, content=lambda _: True)


def _records_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def precision_of(model: Any) -> str:
    """The precision of a model in memory; float32 for one that is yet to be loaded."""
    return "float32" if isinstance(model, str | Path) else str(model.model.dtype).removeprefix("torch.")


def _content_hash(model: Any) -> str:
    """SHA-256 (hex) over the names and bytes of all tensors, the configuration and the tokenizer."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in model.model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    digest.update(model.model.config.to_json_string().encode())
    digest.update(json.dumps(model.tokenizer.get_vocab(), sort_keys=True).encode())
    digest.update(str(getattr(model.tokenizer, "chat_template", "")).encode())
    return digest.hexdigest()


Sets: TypeAlias = "Questions | Mapping[str, Questions]"
Metric = str | Callable[..., Any]

STUDY = "compare"
OWN_PARTS = ("forget", "retain", "holdout")
"""The sets that have a setting of their own in the benchmark; the others are further ones."""
SEED_MARK = "@"
"""``npo@1`` is the method npo with seed 1."""
TAKEN = (*PARTS, *UTILITY_SETS)
"""Names that further retain sets cannot have."""


def compare(
    original: Any,
    unlearned: Mapping[str, Any] | Sequence[str | Path],
    *,
    forget: Questions,
    retain: Sets,
    retrained: Any | None = None,
    holdout: "Questions | None" = None,
    sets: Mapping[str, Questions] | None = None,
    metrics: Metric | Sequence[Metric] = "core",
    rank_by: str | None = None,
    retention: CalibrateConfig | Mapping[str, Any] | None = None,
    tasks: str | Sequence[str] = (),
    harness: HarnessConfig | Mapping[str, Any] | None = None,
    attacks: Metric | Sequence[Metric] | None = "quick",
    precisions: str | Sequence[str] = (),
    columns: Columns | None = None,
    skip_invalid: bool = False,
    overrides: Overrides = (),
    output_dir: str | Path = "comparison",
    verify: bool = False,
    workers: int = 1,
    overwrite: bool = False,
    keep_paths: bool = False,
    log_to: str | Sequence[str] = (),
    trust_remote_code: bool = False,
) -> StudyResults:
    """Compare unlearned models: scored, calibrated to the retention constraint, scored again and attacked.

    It runs the shipped study `compare`, as ``uwc study run compare`` does, with these arguments filled in.
    Interrupted at any moment, the next call resumes it and ends with the same bits. The folder then holds
    ``results.json``, ``report.html``, ``results.md`` and the cache.

    Args:
        original: the model before unlearning: a folder, a hub name, or a `Model` in memory.
        unlearned: name -> unlearned model (also the folder of an adapter of the original); or paths, named by their
            last part. Names such as ``npo@0`` and ``npo@1`` are one method with two seeds.
        forget: the questions that should be forgotten.
        retain: the questions on which retention is measured; or several sets by name, ``retain`` among them, each of
            which must satisfy the constraint.
        retrained: a model that was never trained on the forget questions.
        holdout: questions that no model was trained on.
        sets: further sets that are scored: real_authors and world_facts (for ``model_utility``), verbatim, or others.
        metrics: metrics by name, label or as functions, those of whole sets included, and suites.
        rank_by: the metric of the forget set that models are ranked by, which is reported too; the metric of the
            retention constraint if models can be ranked by it, else extraction strength.
        retention: the retention constraint: a `Retention`, or the keys of a study's `calibrate`: tau, metric, sets,
            tasks.
        tasks: tasks of lm-evaluation-harness on which every model is scored.
        harness: settings of these tasks and those of the retention constraint: include_path, limit, num_fewshot, seed,
            chat, batch_size.
        attacks: attacks and chains of them, such as ``["relearn+probe"]``, or functions; ``"quick"`` for those of the
            shipped study, an empty list or None for none.
        precisions: the precisions in which the models may be deployed, such as ``["nf4", "int8"]``: each is an attack
            on the weights, and a row for every model.
        columns: field -> column, where files or tables name them otherwise; ``"SET:FIELD"`` for one of them.
        skip_invalid: leave out invalid rows of files, at most half of each, with a warning; by default, and always of
            tables in memory, they are an error.
        overrides: changes to any other key of the study: ``["score.max_new_tokens=0"]``, or
            ``{"attack.settings.relearn.steps": 20}``.
        output_dir: the folder for report, results and cache.
        verify: compare the hashes of all stored models, and not only of those that are read.
        workers: the number of processes that compute independent steps at the same time.
        overwrite: replace the results of another original that the folder has.
        keep_paths: keep absolute paths in the results.
        log_to: trackers that get the results: wandb, tensorboard, trackio.
        trust_remote_code: run Python code that comes with a checkpoint.

    Raises:
        UserError: a model or file is not as it should be, or there is no unlearned model.
    """
    folder = Path(output_dir)
    trackers = Trackers(log_to, folder=folder, group=_study_name(folder))
    models = dict(unlearned) if isinstance(unlearned, Mapping) else named_by_path(unlearned)
    kept = retention.model_dump(exclude_unset=True) if isinstance(retention, CalibrateConfig) else dict(retention or {})
    set_fields = harness_config(harness).model_dump(exclude_unset=True)
    changes: dict[str, Any] = {
        **filled_in(
            folder,
            original=original,
            unlearned=models,
            retrained=retrained,
            forget=forget,
            retain=retain,
            holdout=holdout,
            sets=sets,
            columns=columns,
            skip_invalid=skip_invalid,
            keep_paths=keep_paths,
        ),
        "name": _study_name(folder),
        "title": f"{len(models)} unlearned model{'s' if len(models) > 1 else ''} compared",
        "score.suite": None,
        "score.metrics": [metrics] if isinstance(metrics, str) or callable(metrics) else list(metrics),
        "calibrate.sets": list(retain_sets(retain)),
        **{f"calibrate.{key}": value for key, value in kept.items()},
        **({} if rank_by is None else {"calibrate.rank_by": rank_by}),
        **({"score.tasks": [tasks] if isinstance(tasks, str) else list(tasks)} if tasks else {}),
        **{f"harness.{key}": value for key, value in set_fields.items()},
        **_attacks(attacks, listed_precisions(precisions), retrained is not None),
    }
    config = load_config(STUDY, changes=changes, overrides=overrides, trust_remote_code=trust_remote_code)
    plan = make_plan(config)
    require_models(plan.config)
    return run_plan(
        plan,
        Store(folder / STORE),
        folder,
        verify=verify,
        overwrite=overwrite,
        trackers=trackers,
        runner=Runner(workers),
    )


def filled_in(
    folder: Path,
    *,
    original: Any,
    unlearned: Mapping[str, Any],
    retrained: Any | None,
    forget: Questions,
    retain: Sets,
    holdout: "Questions | None",
    sets: Mapping[str, Questions] | None,
    columns: Columns | None,
    skip_invalid: bool,
    keep_paths: bool,
) -> dict[str, Any]:
    """The changes to a shipped study of local files that name models and questions; those in memory are written to the
    folder. The arguments are those of `compare`."""
    template = getattr(original, "template", None)
    retains = retain_sets(retain)
    further = {**{name: questions for name, questions in retains.items() if name != "retain"}, **(sets or {})}
    require_further(further)
    given = {"forget": forget, "retain": retains["retain"], "holdout": holdout, **further}
    settings = _questions({k: q for k, q in given.items() if q is not None}, columns or {}, folder)
    return {
        "benchmark.settings": {**settings, **({"skip_invalid": True} if skip_invalid else {})},
        "model.path": kept_model(original, folder, template),
        "model.dtype": precision_of(original),
        "retrained": False if retrained is None else kept_model(retrained, folder, template),
        "unlearn.runs": [_run(name, kept_model(model, folder, template)) for name, model in unlearned.items()],
        **({} if template is None else {"model.prompt": asdict(template)}),
        **({"keep_paths": True} if keep_paths else {}),
    }


def _study_name(folder: Path) -> str:
    return safe_name(folder.resolve().name, otherwise=STUDY)


def safe_name(text: str, *, otherwise: str) -> str:
    """The text without the characters that a name cannot have; another name if nothing is left, or it is taken."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip("._-")[:LONGEST]
    return otherwise if name in ("", STORE) else name


def retain_sets(retain: Sets) -> dict[str, Questions]:
    """The sets on which retention is measured, by name."""
    if not isinstance(retain, Mapping):
        return {"retain": retain}
    if "retain" not in retain:
        named = ", ".join(map(str, retain)) or "none"
        raise ConfigError(f"retain: one of the sets has to be called 'retain'; given: {named}")
    return dict(retain)


def _questions(sets: Mapping[str, Questions], columns: Columns, folder: Path) -> dict[str, Any]:
    """The settings of the benchmark of local files; questions in memory are written to the folder."""
    tables = {name: table for name, data in sets.items() if (table := table_of(data, name)) is not None}
    asked = columns_by_set(tables, columns, given=list(sets))
    kept = {name: kept_questions(data, name, folder, asked.get(name)) for name, data in sets.items()}
    of_files = {
        f"{name}:{field}": column
        for name, of_set in asked.items()
        if isinstance(sets[name], str | Path)
        for field, column in of_set.items()
    }
    own = {name: path for name, path in kept.items() if name in OWN_PARTS}
    return {**own, "further": {n: p for n, p in kept.items() if n not in OWN_PARTS}, "columns": of_files}


def listed_precisions(precisions: str | Sequence[str]) -> list[str]:
    """The precisions as a list. Raises ConfigError if there is none of a name, or it is given twice."""
    named = [precisions] if isinstance(precisions, str) else list(precisions)
    require_precisions(named)
    return named


def _attacks(attacks: Metric | Sequence[Metric] | None, precisions: Sequence[str], retrained: bool) -> dict[str, Any]:
    """The changes to the section `attack`. A retrained model is attacked too, as the control."""
    changes: dict[str, Any] = {"attack.models": ["unlearned", *(["retrained"] if retrained else [])]}
    if isinstance(attacks, str) and attacks == "quick":
        quick = read_config(STUDY, "study")[0]["attack"]["chains"]
        return changes | ({"attack.chains": [*quick, *precisions]} if precisions else {})
    named = [] if attacks is None else [attacks] if isinstance(attacks, str) or callable(attacks) else list(attacks)
    chains = [attack_name(attack) for attack in named]
    chains += [name for name in precisions if name not in chains]
    if not chains:
        return {"attack": None}
    return changes | {"attack.chains": chains, "attack.settings": {}}


def named_by_path(paths: Sequence[str | Path]) -> dict[str, str]:
    """Name -> path, from ``NAME=PATH`` or a path alone, which is named by its last part.

    Raises:
        ConfigError: two have one name.
    """
    named: dict[str, str] = {}
    for text in map(str, paths):
        name, equals, path = text.partition("=")
        if not equals or os.path.exists(text):
            name, path = Path(text).resolve().name if os.path.exists(text) else Path(text).name, text
        if name in named:
            raise ConfigError(
                f"two unlearned models are called {name!r} ({named[name]} and {path}); name them: NAME=PATH"
            )
        named[name] = path
    return named


def _run(name: str, path: str) -> dict[str, Any]:
    method, mark, seed = name.rpartition(SEED_MARK)
    return {"name": name, "checkpoint": path, "group": method if mark and seed.isdigit() else ""}
