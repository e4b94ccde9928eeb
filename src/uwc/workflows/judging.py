"""The check of a judge of generated answers against labels by people."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from uwc import __version__, progress
from uwc.data.labels import read_labels
from uwc.errors import ConfigError
from uwc.metrics.agreement import agreement
from uwc.metrics.evaluate import Scoring
from uwc.metrics.registry import JUDGES, metrics
from uwc.metrics.semantics import CHECKED, Judges, require_judges
from uwc.metrics.suites import (
    FORGET,
    Given,
    OnlyTexts,
    entry_of,
    is_set_metric,
    question_warnings,
    what_is_missing,
)
from uwc.metrics.texts import text_set
from uwc.models.model import DeviceName
from uwc.results import JudgeCheck, JudgeResults, Warning
from uwc.studies.judging import PROMPT, judge_infos, prompt_hash

METRIC = "judge_says"
"""The metric that is checked by default."""


def check_judge(
    labels: str | Path,
    metric: Any = METRIC,
    *,
    judges: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
    columns: Mapping[str, str] | None = None,
    seed: int = 0,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    keep_paths: bool = False,
    device: DeviceName = "auto",
) -> JudgeResults:
    """Measure the agreement of a judge with labels by people: Cohen's kappa, with an interval over clusters.

    Args:
        labels: a file with the columns question, answer, output and label, see `uwc.data.labels.read_labels`.
        metric: the metric whose values are the verdicts, each 0 or 1: a name, a label or a function.
        judges: the judges, as `uwc.score` takes them.
        settings: settings of the metric, such as its prompt.
        columns: field -> column, where they have other names.
        seed: of the bootstrap.
        output_dir: a folder for judge.json, which `uwc.score` and studies take as the check of the judge.
        overwrite: replace the check of another metric in the folder.
        keep_paths: keep absolute paths in the results.
        device: where to compute.

    Raises:
        UserError: the file lacks a column, the metric lacks a judge, or its values are not 0 and 1.
    """
    name = entry_of(metric).name
    JudgeResults.prepare(output_dir, overwrite=overwrite)
    require_judges(judges)
    if judges.get(CHECKED) is not None:
        raise ConfigError("judges.checked names results of this check, and has no effect on it; remove it")
    if is_set_metric(name):
        raise ConfigError(f"the metric {name!r} is one of whole sets; give one with a verdict for each answer")
    found = read_labels(labels, columns)
    given = Given({FORGET: found.examples}, frozenset(set(judges) & set(JUDGES)), only_texts=OnlyTexts())
    if lacking := what_is_missing(name, given):
        raise ConfigError(f"the metric {name!r} needs {lacking}")
    scoring = Scoring(given, [name], {name: settings or {}}, seed=seed)
    infos = judge_infos(judges, scoring)
    used = {info.judge for info in infos}
    if unused := [judge for judge in judges if judge in JUDGES and judge not in used]:
        raise ConfigError(f"the metric {name!r} does not ask the judge {unused[0]!r}; leave it out")
    texts = text_set(found.examples, found.texts).judged_by(
        Judges.load(judges, device=device), [name], scoring.settings
    )
    verdicts = texts.values(name, **(settings or {}))
    wrong = verdicts[~np.isnan(verdicts) & ~np.isin(verdicts, (0.0, 1.0))]
    if len(wrong):
        raise ConfigError(
            f"the metric {name!r} is {wrong[0]:.3g} for an answer, and kappa is of verdicts of 0 and 1; give a metric "
            "that decides (uwc explain METRIC), or a setting with which it does"
        )
    prompt = str(metrics.check(name, settings or {}).get(PROMPT, ""))
    measured = agreement(verdicts, found.labels, texts.subjects, seed=seed)
    check = JudgeCheck(
        **dict(measured),
        metric=name,
        prompt_sha256=prompt_hash(prompt) if prompt else "",
        labels=found.source,
        labels_sha256=found.sha256,
    )
    warnings = [
        warning for warning in question_warnings({FORGET: found.examples}) if warning.code not in _OF_REPETITIONS
    ]
    if np.isnan(check.kappa.value) and check.share.n:
        warnings.append(
            Warning(
                code="no_kappa",
                text=f"All verdicts and all labels of {found.source} are the same, so that there is no kappa; label "
                "answers of both kinds.",
            )
        )
    counts = check.confusion
    of_judge = {"yes": counts.both_yes + counts.judge_yes, "no": counts.both_no + counts.label_yes}
    if check.share.n and 0 in of_judge.values() and not np.isnan(check.kappa.value):
        always = max(of_judge, key=of_judge.__getitem__)
        warnings.append(
            Warning(
                code="constant_verdicts",
                text=f"The judge says {always} to all {of_judge[always]} answers that it decides, so that kappa is 0 "
                "for any labels, and its interval has no width; use another judge, or another prompt.",
            )
        )
    for warning in warnings:
        progress.warn(warning.text)
    results = JudgeResults(
        uwc_version=__version__,
        judges=tuple(info.model_copy(update={"checks": (check,)}) for info in infos),
        check=check,
        prompt=prompt,
        warnings=tuple(warnings),
    ).without_paths(output_dir, keep=keep_paths)
    if output_dir is not None:
        results.save(output_dir)
    return results


_OF_REPETITIONS = ("repeated_questions",)
"""Codes of warnings that do not apply: one question may have answers of several models."""
