"""Scores from evaluation logs of TOFU and OpenUnlearning, for models that are not available."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from scipy.special import logsumexp

from uwc import __version__, progress
from uwc.errors import ConfigError, DataError, shortened
from uwc.io import not_a_file
from uwc.metrics.registry import set_metrics
from uwc.metrics.set_metrics import UTILITY_SETS, forget_quality, model_utility
from uwc.metrics.stats import aggregate, aggregate_sets
from uwc.metrics.suites import few_clusters, metric_info, set_label
from uwc.models.token_scores import Floats
from uwc.registry import unknown_name
from uwc.results import Score, Scores, SetInfo, Warning

TOFU_FILES = {
    "forget": "eval_log_forget.json",
    "retain": "eval_log.json",
    "real_authors": "eval_real_author_wo_options.json",
    "world_facts": "eval_real_world_wo_options.json",
}
_TOFU_FIELDS = ("avg_gt_loss", "average_perturb_loss", "avg_paraphrased_loss", "rougeL_recall")
_OPEN_PREFIXES = {"forget": "forget", "retain": "retain", "real_authors": "ra", "world_facts": "wf"}
_NORMALISED = ("real_authors", "world_facts")
_NONE = np.zeros(0)

Average = Literal["probabilities", "losses"]
"""The quantity that the truth ratio averages over an example's wrong answers: probabilities or losses."""


@dataclass(frozen=True)
class LoggedSet:
    """The logged values of one set of E examples; an array is empty if the log lacks it.

    Attributes:
        indices: the log's numbers of the examples.
        rouge: [E] ROUGE-L recall.
        probability: [E] of the answer; normalised for real_authors and world_facts.
        true_loss: [E] mean token loss of the paraphrased answer, or of the answer itself if there is none.
        wrong_losses: [E, J] of the wrong answers.
        logged_ratio: [E] truth ratios of the log, if it lacks the losses.
        added: constant that the log's code adds to the true answer's probability in the ratio's denominator.
        own: the quantity that the log's code averages.
        doubt: why `logged_ratio` may be another quantity; empty if it is known.
    """

    indices: tuple[str, ...]
    rouge: Floats
    probability: Floats
    true_loss: Floats
    wrong_losses: Floats
    logged_ratio: Floats
    added: float
    own: Average
    doubt: str = ""

    def truth_ratio(self, average: str | None = None) -> Floats:
        """[E] R: wrong answers relative to the true one; empty if it cannot be computed.

        ``exp(-mean_j m_j) / exp(-s)`` by an average of losses, ``mean_j exp(-m_j) / exp(-s)`` by one of probabilities.
        """
        average = average or self.own
        if not len(self.wrong_losses):
            return self.logged_ratio if average == "losses" else _NONE
        if average == "losses":
            log_wrong = -self.wrong_losses.mean(axis=1)
        else:
            log_wrong = logsumexp(-self.wrong_losses, axis=1) - np.log(self.wrong_losses.shape[1])
        with np.errstate(divide="ignore"):
            log_true = np.logaddexp(-self.true_loss, np.log(self.added))
        ratio: Floats = np.exp(np.clip(log_wrong - log_true, -700.0, 700.0))
        return ratio


def from_logs(logs: Path, *, retrained: Path | None = None, average: str | None = None, seed: int = 0) -> Scores:
    """The parts of model utility and the same metrics on the forget set, model utility, and forget quality.

    Model utility is the harmonic mean of ROUGE-L recall, probability and ``max(0, 1 - R)``, each a mean over the
    examples of one of three sets. The two codes published with TOFU differ in the truth ratio R: the paper and the
    summary of the evaluation average the probabilities of the wrong answers, the code of the leaderboard their losses.

    Args:
        logs: TOFU's ``eval_log_aggregated.json``, or OpenUnlearning's ``TOFU_EVAL.json``.
        retrained: the same of a model that was never trained on the forget set; for forget quality.
        average: over the wrong answers in R; by default "probabilities" for TOFU's logs, as in the paper and in
            `model_utility`, and "losses" for OpenUnlearning's, as in that code.
        seed: of the bootstrap, in which each question is a cluster.

    Returns:
        The scores, each with n, standard error and interval; metrics that the logs do not allow are in ``left_out``,
        doubts about the log's form in ``warnings``.

    Raises:
        DataError: a file is not such a log, the two logs have different examples, or a log lacks an input of the
            average.
        ConfigError: no such average.
    """
    if average not in (None, *get_args(Average)):
        raise ConfigError(unknown_name("average", str(average), list(get_args(Average))))
    ours = read_logs(logs)
    scores = [score for name, found in ours.items() for score in _scores(logs, name, found, average, seed)]
    doubts = dict.fromkeys(("truth_ratio_doubtful", found.doubt) for found in ours.values() if found.doubt)
    whole = {"model_utility": _utility(ours, average, seed)}
    if retrained is not None:
        whole["forget_quality"] = _quality(logs, ours, retrained, read_logs(retrained), seed)
    scores += [found for found in whole.values() if isinstance(found, Score)]
    left_out = {name: lacking for name, lacking in whole.items() if isinstance(lacking, str)}
    for name, lacking in left_out.items():
        progress.note(f"{name} left out: it needs {lacking}")
    few = [
        found
        for name, log in ours.items()
        for found in few_clusters(f"The {set_label(name)} questions", len(log.indices), kind="example")
    ]
    warnings = tuple(Warning(code=code, text=f"{logs}: {text}") for code, text in (*doubts, *few))
    for warning in warnings:
        progress.warn(warning.text)
    return Scores(
        uwc_version=__version__,
        model=str(logs),
        sets={name: SetInfo(label=set_label(name), examples=len(log.indices)) for name, log in ours.items()},
        metrics={name: metric_info(name) for name in dict.fromkeys(score.metric for score in scores)},
        scores=tuple(scores),
        left_out=left_out,
        warnings=warnings,
    )


def _scores(path: Path, name: str, log: LoggedSet, average: str | None, seed: int) -> Iterator[Score]:
    """The scores of one set."""
    ratio = log.truth_ratio(average)
    if len(log.logged_ratio) and not len(ratio):
        raise DataError(
            f"{path}: the losses of the wrong answers of {name!r} are missing, and an average of probabilities needs "
            "them; leave --average out"
        )
    with np.errstate(divide="ignore"):
        truth = np.minimum(ratio, 1.0 / (ratio + log.added)) if name == "forget" else np.maximum(0.0, 1.0 - ratio)
    values = {
        "rouge_l_ascii": log.rouge,
        "probability_normalised" if name in _NORMALISED else "probability": log.probability,
        "truth_ratio_forget" if name == "forget" else "truth_ratio_utility": truth,
    }
    if name == "forget" and log.added and len(log.wrong_losses):  # what OpenUnlearning reports since December 2025
        true = np.exp(-log.true_loss)
        values["truth_probability"] = true / (true + np.exp(-log.wrong_losses.mean(axis=1)) + log.added)
    for metric, of_examples in values.items():
        if len(of_examples):
            found = aggregate(of_examples, _no_subjects(log), seed=seed)
            yield Score(set=name, metric=metric, **found.model_dump())


def _no_subjects(log: LoggedSet) -> list[str]:
    return [""] * len(log.indices)


def _utility(logs: Mapping[str, LoggedSet], average: str | None, seed: int) -> Score | str:
    """Model utility, or why it cannot be computed."""
    values = {
        name: (log.rouge, log.probability, np.maximum(0.0, 1.0 - log.truth_ratio(average)))
        for name, log in logs.items()
    }
    absent = [name for name in UTILITY_SETS if name not in logs or not all(len(v) for v in values[name])]
    if absent:
        return f"{', '.join(absent)} in the logs"
    groups = [name for name in UTILITY_SETS for _ in values[name]]
    found = aggregate_sets(
        model_utility,
        [v for name in UTILITY_SETS for v in values[name]],
        [_no_subjects(logs[name]) for name in groups],
        groups=groups,
        seed=seed,
    )
    return Score(set="+".join(UTILITY_SETS), metric="model_utility", **found.model_dump())


def _quality(
    path: Path, log: Mapping[str, LoggedSet], other_path: Path, other: Mapping[str, LoggedSet], seed: int
) -> Score | str:
    """Forget quality, from truth ratios by averages of losses, as in both codes; or why it cannot be computed."""
    for file, found in ((path, log), (other_path, other)):
        if "forget" not in found or not len(found["forget"].truth_ratio("losses")):
            raise DataError(f"{file}: the truth ratios of the forget set are missing; forget quality needs them")
    first, second = log["forget"], other["forget"]
    if first.indices != second.indices:
        raise DataError(
            f"{path} has {len(first.indices)} forget examples and {other_path} {len(second.indices)}, or others; "
            "forget quality needs logs of the same examples"
        )
    if bool(first.doubt) != bool(second.doubt):
        return f"two logs of one form: {first.doubt or second.doubt}"
    ratios = [first.truth_ratio("losses"), second.truth_ratio("losses")]
    result = aggregate_sets(
        forget_quality,
        ratios,
        [_no_subjects(first), _no_subjects(second)],
        groups=["forget", "forget"],
        interval=set_metrics.get("forget_quality").facts["interval"],
        seed=seed,
    )
    return Score(set="forget", metric="forget_quality", **result.model_dump())


def read_logs(path: Path) -> dict[str, LoggedSet]:
    """The sets (forget, retain, real_authors, world_facts) of a log.

    Raises:
        DataError: the file is not a log of TOFU or OpenUnlearning, or a field is missing or malformed.
    """
    if reason := not_a_file(path):
        raise DataError(f"{shortened(str(path), 200)}: {reason}; give a log of TOFU or OpenUnlearning")
    try:
        log = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(log, dict):
        raise DataError(f"{path}: not an evaluation log; it must hold one JSON object")
    if any(file in log for file in TOFU_FILES.values()):
        return {name: _tofu_set(path, log[file], name) for name, file in TOFU_FILES.items() if file in log}
    if any(str(key).endswith(("_Truth_Ratio", "_truth_ratio", "_Q_A_Prob", "_Q_A_ROUGE")) for key in log):
        return {name: s for name in _OPEN_PREFIXES if (s := _open_set(path, log, name))}
    raise DataError(
        f"{path}: neither a log of TOFU (it would have {TOFU_FILES['forget']!r}) nor of OpenUnlearning "
        "(it would have 'forget_Q_A_Prob')"
    )


def _tofu_set(path: Path, log: Any, name: str) -> LoggedSet:
    log = _mapping(path, TOFU_FILES[name], log)
    for field in _TOFU_FIELDS:
        if field not in log:
            raise DataError(f"{path}: {TOFU_FILES[name]} lacks the field {field!r}")
        _mapping(path, field, log[field])
    indices = tuple(sorted(log["avg_gt_loss"], key=_order))
    columns = {}
    for field in _TOFU_FIELDS:
        if set(log[field]) != set(indices):
            raise DataError(f"{path}: {TOFU_FILES[name]}: {field!r} covers other examples than 'avg_gt_loss'")
        columns[field] = _numbers(path, field, [log[field][i] for i in indices])
    loss, wrong, true, rouge = (columns[field] for field in _TOFU_FIELDS)
    probability = np.exp(-loss)
    if name in _NORMALISED:
        probability = probability / (probability + np.exp(-wrong).sum(axis=1))
    return LoggedSet(indices, rouge, probability, true, wrong, _NONE, added=0.0, own="probabilities")


def _open_set(path: Path, log: Mapping[str, Any], name: str) -> LoggedSet | None:
    prefix, normalised = _OPEN_PREFIXES[name], "_normalised" if name in _NORMALISED else ""
    indices: tuple[str, ...] = ()

    def column(choices: tuple[str, ...], read: Callable[[Any], Any]) -> Floats:
        nonlocal indices
        for metric in choices:
            values = _mapping(path, metric, log.get(metric, {})).get("value_by_index")
            if values:
                known = tuple(sorted(_mapping(path, metric, values), key=_order))
                if indices and known != indices:
                    raise DataError(
                        f"{path}: {metric!r} covers other examples than the metrics of {prefix!r} before it"
                    )
                indices = known
                try:
                    return _numbers(path, metric, [read(values[i]) for i in known])
                except (KeyError, TypeError):
                    raise DataError(f"{path}: {metric!r} lacks a field of OpenUnlearning's logs") from None
        return _NONE

    restated = f"{prefix}_Q_A_PARA_Prob" if name not in _NORMALISED else f"{prefix}_Q_A_Prob"
    true = column((restated,), lambda v: v["avg_loss"])
    wrong = column((f"{prefix}_Q_A_PERT_Prob",), lambda v: np.atleast_1d(v["avg_loss"]))
    ratio = column((f"{prefix}_Truth_Ratio", f"{prefix}_truth_ratio"), lambda v: v["score"])
    probability = column((f"{prefix}_Q_A_Prob{normalised}",), lambda v: v["prob"])
    rouge = column((f"{prefix}_Q_A_ROUGE",), lambda v: v["rougeL_recall"])
    if not indices:
        return None
    if not len(true) or not len(wrong):
        true = wrong = _NONE
    doubtful = name == "forget" and not len(wrong) and len(ratio) and ratio.max() <= 1.0
    doubt = (
        "the log lacks the losses, and does not say whether its truth ratios are wrong / true or, as since "
        "December 2025, true / (true + wrong)"
        if doubtful
        else ""
    )
    return LoggedSet(indices, rouge, probability, true, wrong, ratio, added=1e-10, own="losses", doubt=doubt)


def _mapping(path: Path, field: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{path}: {field!r} is a {type(value).__name__}, and not an object, as in evaluation logs")
    return value


def _numbers(path: Path, field: str, values: list[Any]) -> Floats:
    try:
        column = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        column = np.array([np.nan])
    if not len(column) or not np.isfinite(column).all():
        raise DataError(f"{path}: {field!r} holds a value that is not a finite number, or lists of unequal lengths")
    return column


def _order(index: str) -> tuple[int, str]:
    return (int(index), "") if str(index).isdecimal() else (1 << 60, str(index))
