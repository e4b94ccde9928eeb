"""Forget quality and model utility of models of which only the evaluation logs exist: TOFU's and OpenUnlearning's."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from uwc.errors import DataError
from uwc.metrics.set_level import UTILITY_SETS, forget_quality, model_utility
from uwc.models.token_scores import Floats

TOFU_FILES = {
    "forget": "eval_log_forget.json", "retain": "eval_log.json", "authors": "eval_real_author_wo_options.json",
    "facts": "eval_real_world_wo_options.json",
}  # fmt: skip
_TOFU_FIELDS = ("avg_gt_loss", "average_perturb_loss", "avg_paraphrased_loss", "rougeL_recall")
_OPEN_PREFIXES = {"forget": "forget", "retain": "retain", "authors": "ra", "facts": "wf"}


@dataclass(frozen=True)
class LoggedSet:
    """What a log says of one set.

    Attributes:
        indices: the log's numbers of the examples.
        truth_ratio: [E] wrong answers relative to the true one, as R in the truth ratio's geometric form; NaN where
            the log has none.
        utility: three arrays [E]: ROUGE-L recall, probability (normalised for authors and facts), and
            max(0, 1 - R) with the log's own form of R; empty arrays where the log has none.
    """

    indices: tuple[str, ...]
    truth_ratio: Floats
    utility: tuple[Floats, Floats, Floats]


def from_logs(logs: Path, *, retrained: Path | None = None) -> list[dict[str, Any]]:
    """Forget quality (with the logs of a retrained model) and model utility, as far as the logs go.

    Args:
        logs: TOFU's ``eval_log_aggregated.json``, or OpenUnlearning's ``TOFU_EVAL.json``.
        retrained: the same of a model that was never trained on the forget set.

    Returns:
        One row a metric: metric, value, n, and what is missing where it has no value.

    Raises:
        DataError: a file is not such a log, or the two logs cover other examples.
    """
    ours = read_logs(logs)
    rows: list[dict[str, Any]] = []
    if retrained is not None:
        theirs = read_logs(retrained)
        for path, log in ((logs, ours), (retrained, theirs)):
            if "forget" not in log or not len(log["forget"].truth_ratio):
                raise DataError(f"{path}: the truth ratios of the forget set are missing; forget quality needs them")
        first, second = ours["forget"], theirs["forget"]
        if first.indices != second.indices:
            raise DataError(
                f"{logs} has {len(first.indices)} forget examples and {retrained} {len(second.indices)}, or others; "
                "forget quality needs logs of the same examples"
            )
        value = forget_quality(first.truth_ratio, second.truth_ratio)
        rows.append({"metric": "forget_quality", "value": value, "n": len(first.indices), "note": ""})
    absent = [name for name in UTILITY_SETS if name not in ours or not all(len(u) for u in ours[name].utility)]
    row: dict[str, Any] = {"metric": "model_utility", "value": float("nan"), "n": 0, "note": ""}
    if absent:
        rows.append({**row, "value": None, "note": f"the logs lack {', '.join(absent)}"})
        return rows
    values = [u for name in UTILITY_SETS for u in ours[name].utility]
    number = sum(len(ours[name].indices) for name in UTILITY_SETS)
    rows.append({**row, "value": model_utility(*values), "n": number})
    return rows


def read_logs(path: Path) -> dict[str, LoggedSet]:
    """The sets (forget, retain, authors, facts) that a log holds.

    Raises:
        DataError: the file is not a log of TOFU or OpenUnlearning, or a field is missing or malformed.
    """
    try:
        log = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(log, dict):
        raise DataError(f"{path}: not an evaluation log; it must hold one JSON object")
    if any(file in log for file in TOFU_FILES.values()):
        return {name: _tofu_set(path, log[file], name) for name, file in TOFU_FILES.items() if file in log}
    if any(str(key).endswith(("_Truth_Ratio", "_truth_ratio", "_Q_A_Prob", "_Q_A_ROUGE")) for key in log):
        return {name: s for name, prefix in _OPEN_PREFIXES.items() if (s := _open_set(path, log, prefix))}
    raise DataError(
        f"{path}: neither a log of TOFU (it would have {TOFU_FILES['forget']!r}) nor of OpenUnlearning "
        "(it would have 'forget_Q_A_Prob')"
    )


def _tofu_set(path: Path, log: Mapping[str, Any], name: str) -> LoggedSet:
    for field in _TOFU_FIELDS:
        if field not in log:
            raise DataError(f"{path}: {TOFU_FILES[name]} lacks the field {field!r}")
    indices = tuple(sorted(log["avg_gt_loss"], key=_order))
    columns = {}
    for field in _TOFU_FIELDS:
        if set(log[field]) != set(indices):
            raise DataError(f"{path}: {TOFU_FILES[name]}: {field!r} covers other examples than 'avg_gt_loss'")
        columns[field] = _numbers(path, field, [log[field][i] for i in indices])
    loss, wrong = columns["avg_gt_loss"], columns["average_perturb_loss"]
    true, rouge = columns["avg_paraphrased_loss"], columns["rougeL_recall"]
    probability = np.exp(-loss)
    if name in ("authors", "facts"):
        probability = probability / (probability + np.exp(-wrong).sum(axis=1))
    arithmetic = np.exp(-wrong).mean(axis=1) / np.exp(-true)
    return LoggedSet(
        indices, np.exp(true - wrong.mean(axis=1)), (rouge, probability, np.maximum(0.0, 1.0 - arithmetic))
    )


def _open_set(path: Path, log: Mapping[str, Any], prefix: str) -> LoggedSet | None:
    normalised = "_normalised" if prefix in ("ra", "wf") else ""
    indices: tuple[str, ...] = ()

    def column(choices: tuple[str, ...], read: Callable[[Any], Any]) -> Floats:
        nonlocal indices
        for name in choices:
            values = log.get(name, {}).get("value_by_index")
            if values:
                known = tuple(sorted(values, key=_order))
                if indices and known != indices:
                    raise DataError(f"{path}: {name!r} covers other examples than the metrics of {prefix!r} before it")
                indices = known
                try:
                    return _numbers(path, name, [read(values[i]) for i in known])
                except (KeyError, TypeError):
                    raise DataError(f"{path}: {name!r} lacks a field of OpenUnlearning's logs") from None
        return np.zeros(0)

    ratio = column((f"{prefix}_Truth_Ratio", f"{prefix}_truth_ratio"), lambda v: v["score"])
    probability = column((f"{prefix}_Q_A_Prob{normalised}",), lambda v: v["prob"])
    rouge = column((f"{prefix}_Q_A_ROUGE",), lambda v: v["rougeL_recall"])
    if not indices:
        return None
    return LoggedSet(indices, ratio, (rouge, probability, np.maximum(0.0, 1.0 - ratio)))


def _numbers(path: Path, field: str, values: list[Any]) -> Floats:
    try:
        column = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        column = np.array([np.nan])
    if not len(column) or not np.isfinite(column).all():
        raise DataError(f"{path}: {field!r} holds a value that is not a finite number, or lists of unequal lengths")
    return column


def _order(index: str) -> tuple[int, str]:
    return (int(index), "") if str(index).isdigit() else (1 << 60, str(index))
