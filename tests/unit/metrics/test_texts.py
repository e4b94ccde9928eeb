"""Texts of a system and the values of evaluation logs, by hand and against what is wrong with them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import uwc
from uwc.data.evaluation_logs import TOFU_FILES, read_log
from uwc.data.example import Example
from uwc.errors import ConfigError, DataError
from uwc.metrics.suites import Given, chosen_metrics
from uwc.metrics.texts import only_texts, text_set, truth_ratio
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


def from_logs(path: Path, *, retrained: Path | None = None, definition: str | None = None) -> Scores:
    """The scores of a log; `definition` is that of the truth ratio."""
    names = ("truth_ratio_utility", "truth_ratio_forget")
    settings = {name: {"definition": definition} for name in names} if definition else None
    other = None if retrained is None else uwc.Outputs(retrained)
    return uwc.score(uwc.Outputs(path), retrained=other, settings=settings)


def written(folder: Path, log: Any, name: str = "log.json") -> Path:
    (folder / name).write_text(json.dumps(log))
    return folder / name


def values(scores: Scores) -> dict[tuple[str, str], float]:
    return {(score.set.partition("+")[0], score.metric): score.mean for score in scores.scores}


@pytest.mark.parametrize(("definition", "wrong"), [(None, 5 / 16), ("arithmetic", 5 / 16), ("geometric", 1 / 4)])
def test_tofu_logs_by_hand(definition: str | None, wrong: float, tmp_path: Path) -> None:
    """ROUGE 1/2 and truth ratio 1 - R thrice; probability 1/2 once, and 1/2 / (1/2 + 5/16) = 8/13 twice.

    R is the mean of the wrong answers' probabilities (5/32) or the probability of their mean loss (1/8), over 1/2.
    """
    path = written(tmp_path, tofu())
    scores = from_logs(path, retrained=path, definition=definition)
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
    definitions = ("arithmetic", "geometric")
    by = [values(from_logs(path, definition=d))["retain", "truth_ratio_utility"] for d in definitions]
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


def test_open_unlearning_logs_by_the_other_definition(tmp_path: Path) -> None:
    found = values(from_logs(written(tmp_path, open_unlearning()), definition="arithmetic"))
    assert found["retain", "truth_ratio_utility"] == pytest.approx(11 / 16)
    with pytest.raises(DataError, match="losses of the wrong answers of 'forget' are missing"):
        from_logs(written(tmp_path, open_unlearning(losses=False)), definition="arithmetic")


def test_truth_ratios_of_unknown_form_are_not_compared(tmp_path: Path) -> None:
    """Without losses, ratios up to 1 may be true / (true + wrong); one above 1 shows that they are not."""
    doubtful = written(tmp_path, open_unlearning(losses=False), "doubtful.json")
    log = open_unlearning(losses=False)
    log["forget_Truth_Ratio"]["value_by_index"]["1"] = {"score": 1.5}
    known = written(tmp_path, log, "known.json")
    scores = from_logs(doubtful, retrained=known)
    assert {"truth_ratio_doubtful", "few_clusters"} <= {warning.code for warning in scores.warnings}
    assert "forget_quality" in scores.left_out and ("forget", "forget_quality") not in values(scores)
    assert values(from_logs(known, retrained=known))["forget", "forget_quality"] == 1.0


def test_an_unknown_definition_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="geometric"):
        from_logs(written(tmp_path, tofu()), definition="geometri")


def test_both_kinds_give_the_same_truth_ratios(tmp_path: Path) -> None:
    first, second = written(tmp_path, tofu(), "a.json"), written(tmp_path, open_unlearning(), "b.json")
    ours, theirs = (truth_ratio(read_log(path).values["forget"], "geometric") for path in (first, second))
    assert ours == pytest.approx(theirs)


def test_utility_that_cannot_be_had_says_why(tmp_path: Path) -> None:
    log = tofu()
    del log[TOFU_FILES["real_authors"]]
    scores = from_logs(written(tmp_path, log))
    assert "real_authors" in scores.left_out["model_utility"]
    assert "model_utility" not in scores.metrics


def test_logs_are_compared_by_example(tmp_path: Path) -> None:
    """ROUGE 1/2 against 1/4 on both examples; the probability, which is the same, differs by 0."""
    log = tofu()
    log[TOFU_FILES["forget"]] = tofu_set(rouge=0.25)
    first, second = written(tmp_path, tofu(), "before.json"), written(tmp_path, log)
    found = uwc.score(uwc.Outputs(second), original=uwc.Outputs(first))
    differences = {(d.set, d.metric): d.mean for d in found.differences}
    assert differences["forget", "rouge_l_ascii"] == pytest.approx(-0.25)
    assert differences["forget", "probability"] == differences["retain", "rouge_l_ascii"] == 0.0
    rows = found.answers[found.answers["set"] == "forget"]
    assert rows.groupby("role")["rouge_l_ascii"].mean().to_dict() == {"original": 0.5, "unlearned": 0.25}


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


QUESTIONS = [
    Example(
        id=str(i), question=f"Who is {i}?", answer=f"number {i} of nine", subject=f"s{i // 2}", secret=(f"number {i}",)
    )
    for i in range(4)
]


def test_metrics_of_texts_by_hand() -> None:
    """Two of four texts are the answer (ROUGE 1, a secret), one has half of its words, and one is empty."""
    found = text_set(QUESTIONS, ["number 0 of nine", "number 1 of nine", "of nine", ""])
    assert found.values("rouge_l").tolist() == [1.0, 1.0, 0.5, 0.0]
    assert found.values("secret_said").tolist() == [1.0, 1.0, 0.0, 0.0]
    average = found.aggregate("rouge_l")
    assert (average.mean, average.n, average.clusters) == (0.625, 4, 2)


def test_judged_metrics_are_computed_from_texts() -> None:
    found = uwc.score(
        uwc.Outputs([{"question": e.question, "answer": e.answer, "output": e.answer} for e in QUESTIONS]),
        metrics="entailment",
        judges={"entailment": lambda first, second: np.array([a == b for a, b in zip(first, second, strict=True)])},
    )
    assert values(found)["forget", "entailment"] == 1.0


@pytest.mark.parametrize("metric", ["probability", "token_diversity", "model_utility", "forget_quality", "privleak"])
def test_metrics_that_need_more_than_texts_are_refused_by_name(metric: str) -> None:
    sets = {"forget": text_set(QUESTIONS, ["x"] * 4)}
    given = Given({"forget": QUESTIONS}, only_texts=only_texts(sets))
    with pytest.raises(ConfigError, match=f"'{metric}' needs the model's weights"):
        chosen_metrics(None, [metric], given)


def test_metrics_of_a_suite_that_need_more_are_left_out() -> None:
    sets = {"forget": text_set(QUESTIONS, ["x"] * 4)}
    given = Given({"forget": QUESTIONS}, only_texts=only_texts(sets))
    names, left_out = chosen_metrics("core", [], given)
    assert names == ["rouge_l", "secret_said"]
    assert set(left_out.values()) == {"the model's weights"} and "extraction_strength" in left_out
    with pytest.raises(ConfigError, match="membership"):
        chosen_metrics("membership", [], given)
