"""Imported evaluation logs, by hand and against what is wrong with them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from uwc.cli.main import app
from uwc.errors import ConfigError, DataError
from uwc.metrics.logs import TOFU_FILES, from_logs, read_logs
from uwc.results import Scores

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


def metric(**fields: Any) -> dict[str, Any]:
    return {"agg_value": 0.0, "value_by_index": {"0": fields, "1": fields}}


def open_unlearning(*, losses: bool = True) -> dict[str, Any]:
    """The same probabilities, but that of the answer .6, normalised or not; the ratios alone without the losses."""
    log = {}
    for prefix, normalised in (("forget", ""), ("retain", ""), ("ra", "_normalised"), ("wf", "_normalised")):
        log[f"{prefix}_Truth_Ratio"] = metric(score=0.25)
        log[f"{prefix}_Q_A_Prob{normalised}"] = metric(prob=0.6, avg_loss=LOG2)
        log[f"{prefix}_Q_A_ROUGE"] = metric(rougeL_recall=0.5, rouge1_recall=0.9)
        if losses:
            log[f"{prefix}_Q_A_PARA_Prob" if not normalised else f"{prefix}_Q_A_Prob"] = metric(avg_loss=LOG2)
            log[f"{prefix}_Q_A_PERT_Prob"] = metric(avg_loss=[2 * LOG2, 4 * LOG2])
    return log


def written(folder: Path, log: Any, name: str = "log.json") -> Path:
    (folder / name).write_text(json.dumps(log))
    return folder / name


def values(scores: Scores) -> dict[tuple[str, str], float]:
    return {(score.set.partition("+")[0], score.metric): score.mean for score in scores.scores}


@pytest.mark.parametrize(("average", "wrong"), [(None, 5 / 16), ("probabilities", 5 / 16), ("losses", 1 / 4)])
def test_tofu_logs_by_hand(average: str | None, wrong: float, tmp_path: Path) -> None:
    """ROUGE 1/2 and truth ratio 1 - R thrice; probability 1/2 once, and 1/2 / (1/2 + 5/16) = 8/13 twice.

    R is the mean of the wrong answers' probabilities (5/32) or the probability of their mean loss (1/8), over 1/2.
    """
    path = written(tmp_path, tofu())
    scores = from_logs(path, retrained=path, average=average)
    found = values(scores)
    assert found["forget", "forget_quality"] == 1.0
    assert found["retain", "model_utility"] == pytest.approx(9 / (3 * 2 + 3 / (1 - wrong) + 2 + 2 * 13 / 8))
    for name in ("retain", "real_authors", "world_facts"):
        assert found[name, "rouge_l_ascii"] == 0.5
        assert found[name, "truth_ratio_utility"] == pytest.approx(1 - wrong)
    assert found["retain", "probability"] == found["forget", "probability"] == pytest.approx(0.5)
    assert found["real_authors", "probability_normalised"] == pytest.approx(8 / 13)
    assert found["forget", "truth_ratio_forget"] == pytest.approx(wrong)
    assert {score.n for score in scores.scores} == {2, 6}
    assert all(score.low == score.mean == score.high for score in scores.scores if score.metric == "rouge_l_ascii")


def test_the_two_codes_differ_where_wrong_answers_are_likelier(tmp_path: Path) -> None:
    """One example with R 2 by either average, one with 17/16 or 1/2: the mean of max(0, 1 - R) is 0 or 1/4."""
    log = tofu()
    log[TOFU_FILES["retain"]]["average_perturb_loss"] = {"0": [0.0, 0.0], "1": [0.0, 4 * LOG2]}
    path = written(tmp_path, log)
    by = [values(from_logs(path, average=a))["retain", "truth_ratio_utility"] for a in ("probabilities", "losses")]
    assert by == pytest.approx([0.0, 0.25])


@pytest.mark.parametrize("losses", [True, False])
def test_open_unlearning_logs_by_hand(losses: bool, tmp_path: Path) -> None:
    """ROUGE 1/2, probability 3/5 and truth ratio 1 - 1/4 = 3/4, thrice each; 1/2 / (1/2 + 1/8) = 4/5 is true."""
    path = written(tmp_path, open_unlearning(losses=losses))
    found = values(from_logs(path, retrained=path))
    assert found["forget", "forget_quality"] == 1.0
    assert found["retain", "model_utility"] == pytest.approx(3 / (2 + 5 / 3 + 4 / 3))
    assert found["world_facts", "truth_ratio_utility"] == pytest.approx(0.75)
    assert found["forget", "truth_ratio_forget"] == pytest.approx(0.25)
    assert found.get(("forget", "truth_probability")) == (pytest.approx(0.8) if losses else None)


def test_open_unlearning_logs_by_the_other_average(tmp_path: Path) -> None:
    found = values(from_logs(written(tmp_path, open_unlearning()), average="probabilities"))
    assert found["retain", "truth_ratio_utility"] == pytest.approx(11 / 16)
    with pytest.raises(DataError, match="losses of the wrong answers of 'forget' are missing"):
        from_logs(written(tmp_path, open_unlearning(losses=False)), average="probabilities")


def test_truth_ratios_of_unknown_form_are_not_compared(tmp_path: Path) -> None:
    """Without losses, ratios up to 1 may be true / (true + wrong); one above 1 shows that they are not."""
    doubtful = written(tmp_path, open_unlearning(losses=False), "doubtful.json")
    log = open_unlearning(losses=False)
    log["forget_Truth_Ratio"]["value_by_index"]["1"] = {"score": 1.5}
    known = written(tmp_path, log, "known.json")
    scores = from_logs(doubtful, retrained=known)
    assert {warning.code for warning in scores.warnings} == {"truth_ratio_doubtful", "few_clusters"}
    assert "forget_quality" in scores.left_out and ("forget", "forget_quality") not in values(scores)
    assert values(from_logs(known, retrained=known))["forget", "forget_quality"] == 1.0


def test_an_unknown_average_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown average 'loss' .did you mean 'losses'"):
        from_logs(written(tmp_path, tofu()), average="loss")


def test_both_kinds_give_the_same_truth_ratios(tmp_path: Path) -> None:
    first, second = written(tmp_path, tofu(), "a.json"), written(tmp_path, open_unlearning(), "b.json")
    ours, theirs = (read_logs(path)["forget"].truth_ratio("losses") for path in (first, second))
    assert ours == pytest.approx(theirs)


def test_utility_that_cannot_be_had_says_why(tmp_path: Path) -> None:
    log = tofu()
    del log[TOFU_FILES["real_authors"]]
    scores = from_logs(written(tmp_path, log))
    assert "real_authors" in scores.left_out["model_utility"]
    assert "model_utility" not in scores.metrics


def test_the_command_line_prints_the_parts(tmp_path: Path) -> None:
    path = written(tmp_path, tofu())
    command = ["import-logs", str(path), "--average", "losses", "--output-dir", str(tmp_path / "out"), "--json"]
    run = CliRunner().invoke(app, command)
    scores = Scores.parse(run.stdout, where="stdout")
    assert values(scores)["real_authors", "truth_ratio_utility"] == pytest.approx(0.75)
    assert Scores.load(tmp_path / "out" / "score.json") == scores


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


@pytest.mark.parametrize(
    "log",
    [
        {TOFU_FILES["forget"]: None},
        {TOFU_FILES["forget"]: 5},
        {
            TOFU_FILES["forget"]: {
                "avg_gt_loss": [],
                "average_perturb_loss": [],
                "avg_paraphrased_loss": [],
                "rougeL_recall": [],
            }
        },
        {"forget_Q_A_Prob": None},
        {"forget_Q_A_Prob": {"value_by_index": [1]}},
        {"forget_Q_A_Prob": {"value_by_index": {"0": {"prob": 10**400}}}},
    ],
)
def test_parts_of_other_types_are_refused(log: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(log), encoding="utf-8")
    with pytest.raises(DataError, match=r"x[.]json: "):
        read_logs(path)


def test_a_deep_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[" * 50_000, encoding="utf-8")
    with pytest.raises(DataError, match=r"x[.]json"):
        read_logs(tmp_path / "x.json")
