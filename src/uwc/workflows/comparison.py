"""Comparison of any unlearned checkpoints: the shipped study `compare` with models and questions filled in."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

from uwc.attacks.registry import attack_name
from uwc.data.benchmarks.local_files import PARTS, require_further
from uwc.data.question_files import Columns, Questions, columns_by_set, table_of
from uwc.errors import ConfigError
from uwc.metrics.set_metrics import UTILITY_SETS
from uwc.results import StudyResults
from uwc.studies.config_file import Overrides, load_config
from uwc.studies.plan import make_plan
from uwc.studies.sections import CalibrateConfig
from uwc.studies.store import Store
from uwc.workflows.given import kept_model, kept_questions, precision_of
from uwc.workflows.studies import require_models, run_plan

Sets: TypeAlias = "Questions | Mapping[str, Questions]"
Metric = str | Callable[..., Any]

STUDY = "compare"
OWN_PARTS = ("forget", "retain", "holdout")
"""The sets that have a setting of their own in the benchmark; the others are further ones."""
SEED_MARK = "@"
"""``npo@1`` is the method npo with the seed 1."""
TAKEN = (*PARTS, *UTILITY_SETS)
"""The names of sets that further questions to keep cannot have."""


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
    attacks: Metric | Sequence[Metric] | None = "quick",
    columns: Columns | None = None,
    overrides: Overrides = (),
    output_dir: str | Path = "comparison",
) -> StudyResults:
    """Compare unlearned models: scored, calibrated to the retention constraint, scored again and attacked.

    It runs the shipped study `compare`, as ``uwc study run compare`` does, with what is given here filled in.
    Interrupted at any moment, the next call resumes it and ends with the same bits. The folder then holds
    ``results.json``, ``report.html``, ``results.md`` and the cache.

    Args:
        original: the model before unlearning: a folder, a hub name, or a `Model` in memory.
        unlearned: name -> unlearned model (also the folder of an adapter of the original); or paths, named by their
            last part. Names such as ``npo@0`` and ``npo@1`` are one method with two seeds.
        forget: the questions that should be forgotten.
        retain: the questions on which retention is measured; or several sets by name, ``retain`` among them, each of
            which is kept by itself.
        retrained: a model that was never trained on the forget questions.
        holdout: questions that no model was trained on.
        sets: further sets that are scored: real_authors and world_facts (for ``model_utility``), verbatim, or others.
        metrics: what is reported: metrics by name or label, numbers for whole sets among them, and at most one suite.
        rank_by: the metric of the forget set that models are ranked by, which is reported too; the metric of the
            retention constraint if models can be ranked by it, else extraction strength.
        retention: the retention constraint: a `Retention`, or the keys of a study's `calibrate`: tau, metric, sets,
            tasks.
        attacks: attacks and chains of them, such as ``["relearn+probe"]``, or functions; ``"quick"`` for those of the
            shipped study, an empty list or None for none.
        columns: field -> column, where files or tables name them otherwise; ``"SET:FIELD"`` for one of them.
        overrides: changes to any other key of the study: ``["score.max_new_tokens=0"]``, or
            ``{"attack.settings.relearn.steps": 20}``.
        output_dir: the folder for report, results and cache.

    Raises:
        UserError: a model or file is not as it should be, or there is nothing to compare.
    """
    folder, template = Path(output_dir), getattr(original, "template", None)
    models = dict(unlearned) if isinstance(unlearned, Mapping) else named_by_path(unlearned)
    kept = retention.model_dump(exclude_unset=True) if isinstance(retention, CalibrateConfig) else dict(retention or {})
    retains = _retain_sets(retain)
    further = {**{name: questions for name, questions in retains.items() if name != "retain"}, **(sets or {})}
    require_further(further)
    given = {"forget": forget, "retain": retains["retain"], "holdout": holdout, **further}
    changes: dict[str, Any] = {
        "name": re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).lstrip("._-") or STUDY,
        "title": f"{len(models)} unlearned model{'s' if len(models) > 1 else ''} compared",
        "benchmark.settings": _questions({k: q for k, q in given.items() if q is not None}, columns or {}, folder),
        "model.path": kept_model(original, folder, template),
        "model.dtype": precision_of(original),
        "retrained": False if retrained is None else kept_model(retrained, folder, template),
        "unlearn.runs": [_run(name, kept_model(model, folder, template)) for name, model in models.items()],
        "score.suite": None,
        "score.metrics": [metrics] if isinstance(metrics, str) or callable(metrics) else list(metrics),
        "calibrate.sets": list(retains),
        **{f"calibrate.{key}": value for key, value in kept.items()},
        **({} if rank_by is None else {"calibrate.rank_by": rank_by}),
        **({} if template is None else {"model.prompt": asdict(template)}),
        **_attacks(attacks, retrained is not None),
    }
    plan = make_plan(load_config(STUDY, changes=changes, overrides=overrides))
    require_models(plan.config)
    return run_plan(plan, Store(folder / "store"), folder)


def _retain_sets(retain: Sets) -> dict[str, Questions]:
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


def _attacks(attacks: Metric | Sequence[Metric] | None, retrained: bool) -> dict[str, Any]:
    """The changes to the section `attack`. A retrained model is attacked too: what is elicited from it is no leak."""
    changes: dict[str, Any] = {"attack.models": ["unlearned", *(["retrained"] if retrained else [])]}
    if isinstance(attacks, str) and attacks == "quick":
        return changes
    named = [] if attacks is None else [attacks] if isinstance(attacks, str) or callable(attacks) else list(attacks)
    if not named:
        return {"attack": None}
    return changes | {"attack.chains": [attack_name(attack) for attack in named], "attack.settings": {}}


def named_by_path(paths: Sequence[str | Path]) -> dict[str, str]:
    """Name -> path, from ``NAME=PATH`` or a path alone, which is named by its last part.

    Raises:
        ConfigError: two have one name.
    """
    named: dict[str, str] = {}
    for text in map(str, paths):
        name, equals, path = text.partition("=")
        if not equals or Path(text).exists():
            name, path = Path(text).resolve().name if Path(text).exists() else Path(text).name, text
        if name in named:
            raise ConfigError(
                f"two unlearned models are called {name!r} ({named[name]} and {path}); name them: NAME=PATH"
            )
        named[name] = path
    return named


def _run(name: str, path: str) -> dict[str, Any]:
    method, mark, seed = name.rpartition(SEED_MARK)
    return {"name": name, "checkpoint": path, "group": method if mark and seed.isdigit() else ""}
