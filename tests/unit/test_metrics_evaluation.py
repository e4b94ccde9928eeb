"""From questions to tables: suites, what is missing, stored scores, comparisons, and the command line's words."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.conftest import people
from typer.testing import CliRunner
from uwc.metrics.evaluation import VERBATIM_TOKENS, cut

from uwc.cli import app
from uwc.data.example import Example, after_shots
from uwc.errors import ConfigError, DataError
from uwc.metrics.memorization import extraction_strength
from uwc.metrics.scored import ScoredSet
from uwc.metrics.set_level import auc
from uwc.models.forward import score_tokens
from uwc.models.loading import save_target
from uwc.models.target import Target
from uwc.workflows import scoring


def full() -> list[Example]:
    return [replace(e, perturbed_answers=("In Rome", "She sings")) for e in people()]


@pytest.fixture(scope="module")
def scores(knowing: Target, untrained: Target, tmp_path_factory: pytest.TempPathFactory) -> scoring.Scores:
    examples = full()
    return scoring.evaluate(
        knowing, examples[:8], suite="membership", metrics=["extraction_strength", "forget_quality"],
        sets={"holdout": examples[8:]}, reference=untrained, retrained=untrained, compare=untrained,
        out=tmp_path_factory.getbasetemp() / "scores",
    )  # fmt: skip


def test_the_table_has_a_row_for_each_set_and_metric(scores: scoring.Scores) -> None:
    table = scores.table
    assert isinstance(table, pd.DataFrame)
    assert {"set", "metric", "mean", "n", "not_scored", "why", "se", "low", "high"} <= set(table.columns)
    row = table[(table["set"] == "data") & (table["metric"] == "extraction_strength")].iloc[0]
    assert row["mean"] > 0.9 and row["n"] == 8 and row["clusters"] == 4
    assert set(table["set"]) >= {"data", "data, paraphrased", "holdout", "data / holdout"}


def test_set_metrics_come_from_the_same_scores(scores: scoring.Scores) -> None:
    scored = scores.evaluation.scored
    expected = auc(scored["data"].values("mia_loss"), scored["holdout"].values("mia_loss"))
    found = scores.table.set_index("metric").loc["auc_loss"]
    assert found["mean"] == expected > 0.9
    assert found["low"] <= found["mean"] <= found["high"]


def test_two_models_are_compared_in_pairs(scores: scoring.Scores) -> None:
    assert scores.differences is not None
    row = scores.differences.set_index(["set", "metric"]).loc[("data", "extraction_strength")]
    assert row["difference"] > 0.9 and row["low"] > 0.5 and row["p_value"] < 0.01
    assert row["n"] == 8


def test_scores_are_written(scores: scoring.Scores, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "scores"
    rows = json.loads((folder / "scores.json").read_text())
    assert len(rows) == len(scores.table)
    by_example = pd.read_parquet(folder / "data.metrics.parquet")
    again = ScoredSet.load(folder, "data")
    assert by_example["extraction_strength"].tolist() == again.values("extraction_strength").tolist()
    assert np.isfinite(again.values("mia_gradient_norm")).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"suite": "tofu"}, "'truth_ratio_forget' needs wrong answers .* perturbed_answers"),
        ({"metrics": ["auc_loss"]}, "'auc_loss' needs the set 'holdout'; give a file with --holdout"),
        ({"metrics": ["kl_to_original"]}, "needs the original model; give it with --original"),
        ({"metrics": ["semantic_similarity"]}, "needs a sentence encoder.*--encoder"),
        ({"metrics": ["verbatim_memorization"]}, "needs the set 'verbatim'; give a file with --verbatim"),
        ({"metrics": ["rouge_l"], "max_new_tokens": 0}, "needs generated answers"),
        ({"metrics": ["forget_quality"]}, "needs wrong answers|--retrained"),
        ({"suite": "membershp"}, "unknown suite 'membershp' .did you mean 'membership'"),
        ({"metrics": ["esn"]}, "unknown metric 'esn'"),
        ({"compat": "tofu"}, "unknown compatibility mode 'tofu'"),
        ({"settings": {"mia_min_k": {"q": 1}}}, "unknown setting of the metric 'mia_min_k' 'q'"),
    ],
)
def test_what_is_missing_is_named_before_a_model_is_loaded(options: dict, words: str) -> None:
    bare = [replace(e, perturbed_answers=()) for e in people()]
    with pytest.raises(ConfigError, match=words):
        scoring.evaluate("no such model", bare, **options)


def test_other_examples_cannot_be_compared(knowing: Target) -> None:
    first, second = (ScoredSet(score_tokens(knowing, e), ("",) * 2) for e in (people()[:2], people()[2:4]))
    with pytest.raises(DataError, match="different examples"):
        first.difference(second, "extraction_strength")


def test_a_metrics_setting_reaches_it(knowing: Target) -> None:
    options = {"metrics": ["mia_min_k"], "max_new_tokens": 0}
    first = scoring.evaluate(knowing, people()[:2], **options)
    second = scoring.evaluate(knowing, people()[:2], settings={"mia_min_k": {"k": "1.0"}}, **options)
    assert first.table["mean"][0] > second.table["mean"][0]


def test_verbatim_texts_are_asked_raw_and_cut(knowing: Target) -> None:
    long = Example(id="x", question="In the beginning", answer="word " * 500)
    assert len(knowing.tokenizer(cut(long, knowing).answer)["input_ids"]) <= VERBATIM_TOKENS
    short = scoring.evaluate(
        knowing, people()[:1], metrics=["verbatim_memorization"], sets={"verbatim": people()[:2]}
    ).table  # fmt: skip
    assert short["set"].tolist() == ["verbatim"]


def test_solved_questions_stand_before_each_question(knowing: Target) -> None:
    asked = knowing.rewritten(after_shots(people()[:1])).encode(people()[1:2])[0]
    prompt = knowing.tokenizer.decode(asked.tokens[: asked.start])
    first = people()[0]
    assert prompt.startswith(f"Question: {first.question}\nAnswer: {first.answer}\n\nQuestion: ")


def test_peers_numbers_come_from_peers_prompts(untrained: Target) -> None:
    """A model that knows nothing scores 1/n, not 0, under OpenUnlearning's definition."""
    mean = {
        compat: scoring.score(
            untrained, people()[:4], metrics=["extraction_strength"], max_new_tokens=0, compat=compat
        )["mean"][0]
        for compat in (None, "open-unlearning")
    }
    assert mean[None] == extraction_strength(score_tokens(untrained, people()[:4])).mean() == 0.0
    assert mean["open-unlearning"] > 0.05


def test_the_command_line_scores_and_explains(knowing: Target, tmp_path: Path) -> None:
    save_target(knowing, tmp_path / "model")
    lines = [json.dumps({k: v for k, v in asdict(e).items() if k in ("id", "question", "answer")}) for e in people(2)]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    run = CliRunner().invoke(
        app,
        ["score", str(tmp_path / "model"), "--data", str(tmp_path / "data.jsonl"), "--metric", "mia_min_k",
         "--set", "mia_min_k.k=1", "--max-new-tokens", "0", "--json", "--out", str(tmp_path / "out")],
    )  # fmt: skip
    rows = json.loads(run.stdout)
    assert [(r["set"], r["metric"], r["n"]) for r in rows] == [("data", "mia_min_k", 4)]
    assert (tmp_path / "out" / "data.parquet").exists()
    words = CliRunner().invoke(app, ["explain", "mia_min_k"]).stdout
    assert "max(1, floor(k n))" in words and "k=0.4" in words and "arXiv:2310.16789" in words
    assert "low values mean that the answers are remembered" in words
