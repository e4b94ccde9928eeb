"""Comparison of any unlearned checkpoints: the shipped study `compare` with models and questions filled in."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from uwc.data.local_files import PARTS
from uwc.errors import ConfigError
from uwc.metrics.set_level import UTILITY_SETS
from uwc.metrics.suites import split_suite
from uwc.results import StudyResults
from uwc.studies.config import StudyConfig
from uwc.studies.config_file import Overrides, load_config
from uwc.studies.plan import make_plan
from uwc.studies.store import Store
from uwc.workflows.given import Questions, kept_model, kept_questions, precision_of
from uwc.workflows.studies import require_models, run_plan

STUDY = "compare"
SEED_MARK = "@"
"""``npo@1`` is the method npo with the seed 1."""
TAKEN = (*PARTS, *UTILITY_SETS)
"""The names of sets that further questions to keep cannot have."""


def compare(
    original: Any,
    unlearned: Mapping[str, Any] | Sequence[str | Path],
    *,
    forget: Questions,
    retain: Questions | Mapping[str, Questions],
    retrained: Any | None = None,
    holdout: Questions | None = None,
    sets: Mapping[str, Questions] | None = None,
    metrics: str | Sequence[str] = "core",
    rank_by: str | None = None,
    retention: Mapping[str, Any] | None = None,
    attacks: str | Sequence[str] | None = "quick",
    overrides: Overrides = (),
    output_dir: str | Path = "comparison",
) -> StudyResults:
    """Compare unlearned models: scored, calibrated to the retention constraint, scored again and attacked.

    It runs the shipped study `compare`, as ``uwc study run compare`` does, with what is given here filled in.
    Interrupted at any moment, the next call resumes it and ends with the same bits. The folder then holds
    ``results.json``, ``report.html``, ``results.md`` and the cache.

    Args:
        original: the model before unlearning: a folder, a hub name, or a `Target` in memory.
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
        retention: the retention constraint, with the keys of a study's `calibrate`: tau, metric, sets, tasks.
        attacks: attacks and chains of them, such as ``["relearn+probe"]``; ``"quick"`` for those of the shipped study,
            an empty list or None for none.
        overrides: changes to any other key of the study: ``["score.max_new_tokens=0"]``, or
            ``{"attack.settings.relearn.steps": 20}``.
        output_dir: the folder for report, results and cache.

    Raises:
        UserError: a model or file is not as it should be, or there is nothing to compare.
    """
    config = compare_config(
        original,
        unlearned,
        forget=forget,
        retain=retain,
        retrained=retrained,
        holdout=holdout,
        sets=sets,
        metrics=metrics,
        rank_by=rank_by,
        retention=retention,
        attacks=attacks,
        overrides=overrides,
        output_dir=output_dir,
    )
    plan = make_plan(config)
    require_models(config)
    return run_plan(plan, Store(Path(output_dir) / "store"), Path(output_dir))


def compare_config(
    original: Any,
    unlearned: Mapping[str, Any] | Sequence[str | Path],
    *,
    forget: Questions,
    retain: Questions | Mapping[str, Questions],
    retrained: Any | None,
    holdout: Questions | None,
    sets: Mapping[str, Questions] | None,
    metrics: str | Sequence[str],
    rank_by: str | None,
    retention: Mapping[str, Any] | None,
    attacks: str | Sequence[str] | None,
    overrides: Overrides,
    output_dir: str | Path,
) -> StudyConfig:
    """The shipped study with what `compare` takes filled in; models and questions in memory are written to the folder.

    Raises:
        UserError: an argument cannot be used, or an override is wrong.
    """
    given = dict(unlearned) if isinstance(unlearned, Mapping) else named_by_path(unlearned)
    folder = Path(output_dir)
    template = getattr(original, "template", None)
    retains = _retain_sets(retain)
    suite, names = split_suite([metrics] if isinstance(metrics, str) else metrics)
    changes: dict[str, Any] = {
        "name": re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).lstrip("._-") or STUDY,
        "title": f"{len(given)} unlearned models compared",
        "benchmark.settings": _questions({"forget": forget, "holdout": holdout}, retains, sets or {}, folder),
        "model.path": kept_model(original, folder, template),
        "model.dtype": precision_of(original),
        "retrained": False if retrained is None else kept_model(retrained, folder, template),
        "unlearn.runs": [_run(name, kept_model(model, folder, template)) for name, model in given.items()],
        "score.suite": suite,
        "score.metrics": names,
        "calibrate.sets": list(retains),
        "calibrate.rank_by": rank_by,
        **{f"calibrate.{key}": value for key, value in (retention or {}).items()},
    }
    if template is not None:
        changes["model.prompt"] = asdict(template)
    return load_config(STUDY, changes=changes | _attacks(attacks, retrained is not None), overrides=overrides)


def _retain_sets(retain: Questions | Mapping[str, Questions]) -> dict[str, Questions]:
    """The sets on which retention is measured, by name."""
    if not isinstance(retain, Mapping) or "path" in retain:
        return {"retain": retain}
    if "retain" not in retain:
        raise ConfigError(
            f"retain: one of the sets has to be called 'retain'; given are: {', '.join(retain) or 'none'}"
        )
    return dict(retain)


def _questions(
    data: Mapping[str, Questions | None],
    retains: Mapping[str, Questions],
    sets: Mapping[str, Questions],
    folder: Path,
) -> dict[str, Any]:
    """The settings of the benchmark of local files."""
    first = {**data, "retain": retains["retain"]}
    further = {**{name: questions for name, questions in retains.items() if name != "retain"}, **sets}
    kept: dict[str, Any] = {name: kept_questions(q, name, folder) for name, q in first.items() if q is not None}
    return kept | {"further": {name: kept_questions(q, name, folder) for name, q in further.items()}}


def _attacks(attacks: str | Sequence[str] | None, retrained: bool) -> dict[str, Any]:
    """The changes to the section `attack`. A retrained model is attacked too: what is elicited from it is no leak."""
    if attacks != "quick" and not attacks:
        return {"attack": None}
    changes: dict[str, Any] = {"attack.models": ["unlearned", *(["retrained"] if retrained else [])]}
    if attacks != "quick":
        chains = [attacks] if isinstance(attacks, str) else list(attacks or ())
        changes |= {"attack.chains": chains, "attack.settings": {}}
    return changes


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
