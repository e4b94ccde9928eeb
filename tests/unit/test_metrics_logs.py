"""Imported evaluation logs, by hand and against what is wrong with them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from uwc.errors import DataError
from uwc.metrics.logs import TOFU_FILES, from_logs, read_logs

LOG2 = float(np.log(2))


def tofu_set(*, rouge: float = 0.5, wrong: tuple[float, float] = (2 * LOG2, 4 * LOG2)) -> dict[str, Any]:
    """Answer and paraphrase have P = 1/2, the wrong answers 1/4 and 1/16: R is 5/16 (arithmetic) or 1/4 (geometric)."""
    return {
        "avg_gt_loss": {"0": LOG2, "1": LOG2},
        "avg_paraphrased_loss": {"0": LOG2, "1": LOG2},
        "average_perturb_loss": {"0": list(wrong), "1": list(wrong)},
        "rougeL_recall": {"0": rouge, "1": rouge},
    }


def tofu() -> dict[str, Any]:
    return {file: tofu_set() for file in TOFU_FILES.values()}


def open_unlearning() -> dict[str, Any]:
    def metric(**fields: float) -> dict[str, Any]:
        return {"agg_value": 0.0, "value_by_index": {"0": fields, "1": fields}}

    log = {"forget_truth_ratio": metric(score=0.25), "forget_Q_A_Prob": metric(prob=0.5, avg_loss=LOG2)}
    for prefix, normalised in (("retain", ""), ("ra", "_normalised"), ("wf", "_normalised")):
        log[f"{prefix}_Truth_Ratio"] = metric(score=0.25)
        log[f"{prefix}_Q_A_Prob{normalised}"] = metric(prob=0.6)
        log[f"{prefix}_Q_A_ROUGE"] = metric(rougeL_recall=0.5, rouge1_recall=0.9)
    return log


def written(folder: Path, log: Any, name: str = "log.json") -> Path:
    (folder / name).write_text(json.dumps(log))
    return folder / name


def test_tofu_logs_by_hand(tmp_path: Path) -> None:
    """ROUGE 1/2, truth ratio 1 - 5/16 = 11/16 thrice; probability 1/2 once, and 1/2 / (1/2 + 5/16) = 8/13 twice."""
    path = written(tmp_path, tofu())
    sets = read_logs(path)
    assert sets["forget"].truth_ratio == pytest.approx([0.25, 0.25])
    assert sets["authors"].utility[1] == pytest.approx([8 / 13, 8 / 13])
    quality, utility = from_logs(path, retrained=path)
    assert (quality["metric"], quality["value"], quality["n"]) == ("forget_quality", 1.0, 2)
    assert utility["value"] == pytest.approx(9 / (3 * 2 + 3 * 16 / 11 + 2 + 2 * 13 / 8))


def test_open_unlearning_logs_by_hand(tmp_path: Path) -> None:
    """ROUGE 1/2, probability 3/5 and truth ratio 1 - 1/4 = 3/4, thrice each."""
    path = written(tmp_path, open_unlearning())
    quality, utility = from_logs(path, retrained=path)
    assert quality["value"] == 1.0
    assert utility["value"] == pytest.approx(3 / (2 + 5 / 3 + 4 / 3))


def test_both_kinds_give_the_same_forget_quality(tmp_path: Path) -> None:
    first, second = written(tmp_path, tofu(), "a.json"), written(tmp_path, open_unlearning(), "b.json")
    assert read_logs(first)["forget"].truth_ratio == pytest.approx(read_logs(second)["forget"].truth_ratio)


def test_utility_that_cannot_be_had_says_why(tmp_path: Path) -> None:
    log = tofu()
    del log[TOFU_FILES["authors"]]
    row = from_logs(written(tmp_path, log))[0]
    assert (row["value"], row["note"]) == (None, "the logs lack authors")


def fewer(log: dict[str, Any]) -> None:
    for field in log[TOFU_FILES["forget"]].values():
        del field["1"]


def without(field: str) -> Any:
    return lambda log: log[TOFU_FILES["forget"]].pop(field)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (without("average_perturb_loss"), "eval_log_forget.json lacks the field 'average_perturb_loss'"),
        (fewer, "needs logs of the same examples"),
        (lambda log: log[TOFU_FILES["forget"]]["rougeL_recall"].pop("1"), "covers other examples"),
        (lambda log: log[TOFU_FILES["forget"]]["avg_gt_loss"].update({"1": "x"}), "not a finite number"),
        (lambda log: log[TOFU_FILES["forget"]]["average_perturb_loss"].update({"1": [1.0]}), "unequal lengths"),
        (lambda log: log.pop(TOFU_FILES["forget"]), "truth ratios of the forget set are missing"),
    ],
)
def test_a_log_that_lacks_something_is_named(damage: Any, words: str, tmp_path: Path) -> None:
    good, bad = tofu(), tofu()
    damage(bad)
    with pytest.raises(DataError, match=words):
        from_logs(written(tmp_path, good), retrained=written(tmp_path, bad, "bad.json"))


@pytest.mark.parametrize("content", ["[]", "{}", "no json", '{"something": 1}'])
def test_what_is_no_log_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(DataError, match=r"x\.json: "):
        read_logs(tmp_path / "x.json")
