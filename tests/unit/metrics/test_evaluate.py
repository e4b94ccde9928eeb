"""From questions to tables: suites, what is missing, stored scores, comparisons, and the command line's words."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import people
from typer.testing import CliRunner

import uwc
from uwc.cli.main import app
from uwc.data.example import Example, after_shots
from uwc.errors import ConfigError, DataError
from uwc.metrics.evaluate import VERBATIM_TOKENS, cut
from uwc.metrics.likelihood import extraction_strength
from uwc.metrics.scored import ScoredSet
from uwc.metrics.set_metrics import auc
from uwc.models.load import save_model
from uwc.models.model import Model
from uwc.models.scoring import score_tokens
from uwc.results import Scores, find


def full() -> list[Example]:
    return [replace(e, perturbed_answers=("In Rome", "She sings")) for e in people()]


@pytest.fixture(scope="module")
def found(knowing: Model, untrained: Model, tmp_path_factory: pytest.TempPathFactory) -> Scores:
    examples = full()
    return uwc.score(
        knowing,
        {"forget": examples[:8], "holdout": examples[8:]},
        metrics=["membership", "ES", "ppl", "forget_quality"],
        original=untrained,
        retrained=untrained,
        compare=untrained,
        output_dir=tmp_path_factory.getbasetemp() / "scores",
    )


def test_there_is_a_score_for_each_set_and_metric(found: Scores) -> None:
    row = find(found.scores, "forget", "extraction_strength")
    assert row is not None
    assert row.mean > 0.9 and row.n == 8 and row.clusters == 4
    sets = {score.set for score in found.scores}
    assert sets == {"forget", "forget_paraphrased", "holdout", "forget+holdout"}
    assert found.sets["forget_paraphrased"].label == "forget, paraphrased"
    assert found.metrics["auc_loss"].average == "set"
    assert list(found.to_frame().columns[:4]) == ["set", "metric", "mean", "n"]


def test_a_rate_that_allows_no_false_positive_is_a_warning(found: Scores) -> None:
    row = find(found.scores, "forget+holdout", "tpr_1_in_100_loss")
    assert row is not None and row.not_scored == 0 and row.why == {}
    told = [warning.text for warning in found.warnings if warning.code == "few_for_rate"]
    assert len(told) == 2 and all(f" {len(full()) - 8} " in text for text in told)


def test_numbers_for_whole_sets_are_of_the_same_values(found: Scores) -> None:
    values = {
        name: rows["mia_loss"].to_numpy() for name, rows in found.answers.query("model == @found.model").groupby("set")
    }
    expected = auc(values["forget"], values["holdout"])
    row = find(found.scores, "forget+holdout", "auc_loss")
    assert row is not None and row.mean == expected > 0.9
    assert row.low <= row.mean <= row.high


def test_two_models_are_compared_in_pairs(found: Scores) -> None:
    by_metric = {d.metric: d for d in found.differences if d.set == "forget"}
    strength, perplexity = by_metric["extraction_strength"], by_metric["perplexity"]
    assert strength.kind == "difference" and strength.mean > 0.9 and strength.low > 0.5 and strength.p_value < 0.01
    assert perplexity.kind == "ratio" and 0 < perplexity.high < 1, "the ratio to the one that knows nothing"
    assert strength.n == 8 and found.compared_with


def test_scores_are_written(found: Scores, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "scores"
    written = Scores.load(folder / "score.json")
    assert written.to_dict() == found.to_dict() and written.differences
    table = written.answers.query("model == @found.model")
    again = ScoredSet.load(folder, "forget")
    of_forget = table[table["set"] == "forget"]
    assert of_forget["extraction_strength"].tolist() == again.values("extraction_strength").tolist()
    assert np.isfinite(again.values("mia_gradient_norm")).all()
    assert len(table) == 8 + 8 + 4


def test_what_a_suite_leaves_out_is_said_once(knowing: Model, capfd: pytest.CaptureFixture[str]) -> None:
    scores = uwc.score(knowing, people()[:2], max_new_tokens=0)
    assert set(scores.left_out) == {"kl_to_original", "rouge_l"}
    assert "kl_to_original" not in {s.metric for s in scores.scores}
    assert capfd.readouterr().err.count("kl_to_original left out") == 1


def test_a_metric_is_computed_once_and_cannot_be_changed(knowing: Model) -> None:
    scored = ScoredSet(score_tokens(knowing, people()[:2]), ("",) * 2)
    first = scored.values("mia_min_k")
    assert scored.values("mia_min_k", k=0.4) is first, "the same settings, the default among them"
    assert scored.values("mia_min_k", k=1.0) is not first
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1.0


def test_a_metric_needs_one_set_on_which_it_can_be_had(knowing: Model) -> None:
    """Wrong answers are there in one set only: the metric is reported there, and nowhere else."""
    bare = [replace(e, perturbed_answers=(), paraphrased_question="") for e in people()[:2]]
    scores = uwc.score(knowing, {"forget": bare, "real_authors": full()[2:4]}, metrics=["truth_ratio_utility"])
    assert [(s.set, s.metric, s.n) for s in scores.scores] == [("real_authors", "truth_ratio_utility", 2)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metrics": "tofu"}, "'truth_ratio_forget' needs wrong answers .* perturbed_answers"),
        ({"metrics": ["auc_loss"]}, "'auc_loss' needs the set 'holdout'; give it with --holdout"),
        ({"metrics": ["kl_to_original"]}, "needs the original model; give it with --original"),
        ({"metrics": ["semantic_similarity"]}, "needs a sentence encoder.*score.judges.encoder"),
        ({"judges": {"entailmnt": "x"}}, "unknown judge 'entailmnt' .did you mean 'entailment'"),
        ({"metrics": ["verbatim_memorization"]}, "needs the set 'verbatim'; give it with --set"),
        ({"metrics": ["rouge_l"], "max_new_tokens": 0}, "needs generated answers"),
        ({"metrics": ["forget_quality"]}, "needs wrong answers|--retrained"),
        ({"metrics": "perplexty"}, "unknown metric 'perplexty' .did you mean 'perplexity'"),
        ({"metrics": ["esn"]}, "unknown metric 'esn'"),
        ({"compat": "tofu"}, "unknown compatibility mode 'tofu'"),
        ({"settings": {"mia_min_k": {"q": 1}}}, "unknown setting of the metric 'mia_min_k' 'q'"),
    ],
)
def test_what_is_missing_is_named_before_a_model_is_loaded(options: dict, words: str) -> None:
    bare = [replace(e, perturbed_answers=()) for e in people()]
    with pytest.raises(ConfigError, match=words):
        uwc.score("no such model", bare, **options)


def test_other_examples_cannot_be_compared(knowing: Model) -> None:
    first, second = (ScoredSet(score_tokens(knowing, e), ("",) * 2) for e in (people()[:2], people()[2:4]))
    with pytest.raises(DataError, match="different examples"):
        first.difference(second, "extraction_strength")


def test_a_metrics_setting_reaches_it(knowing: Model) -> None:
    options = {"metrics": ["mia_min_k"], "max_new_tokens": 0}
    first = uwc.score(knowing, people()[:2], **options)
    second = uwc.score(knowing, people()[:2], settings={"MIA: min-k": {"k": 1}}, **options)
    assert first.scores[0].mean > second.scores[0].mean


def test_verbatim_texts_are_asked_raw_and_cut(knowing: Model) -> None:
    long = Example(id="x", question="In the beginning", answer="word " * 500)
    assert len(knowing.tokenizer(cut(long, knowing).answer)["input_ids"]) <= VERBATIM_TOKENS
    short = uwc.score(knowing, {"forget": people()[:1], "verbatim": people()[:2]}, metrics=["verbatim_memorization"])
    assert [score.set for score in short.scores] == ["verbatim"]


def test_solved_questions_stand_before_each_question(knowing: Model) -> None:
    asked = knowing.rewritten(after_shots(people()[:1])).encode(people()[1:2])[0]
    prompt = knowing.tokenizer.decode(asked.tokens[: asked.start])
    first = people()[0]
    assert prompt.startswith(f"Question: {first.question}\nAnswer: {first.answer}\n\nQuestion: ")


def test_peers_numbers_come_from_peers_prompts(untrained: Model) -> None:
    """A model that knows nothing scores 1/n, not 0, under OpenUnlearning's definition."""
    mean = {
        compat: uwc.score(untrained, people()[:4], metrics=["extraction_strength"], max_new_tokens=0, compat=compat)
        .scores[0]
        .mean
        for compat in (None, "open-unlearning")
    }
    assert mean[None] == extraction_strength(score_tokens(untrained, people()[:4])).mean() == 0.0
    assert mean["open-unlearning"] > 0.05


def test_the_command_line_scores_and_explains(knowing: Model, tmp_path: Path) -> None:
    save_model(knowing, tmp_path / "model")
    lines = [json.dumps({k: v for k, v in asdict(e).items() if k in ("id", "question", "answer")}) for e in people(2)]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    run = CliRunner().invoke(
        app,
        ["score", str(tmp_path / "model"), "--forget", str(tmp_path / "data.jsonl"), "--metric", "mia_min_k",
         "--set", "score={max_new_tokens: 0, settings: {mia_min_k: {k: 1}}}", "--json", "-o", str(tmp_path / "out")],
    )  # fmt: skip
    rows = json.loads(run.stdout)["scores"]
    assert [(r["set"], r["metric"], r["n"]) for r in rows] == [("forget", "mia_min_k", 4)]
    assert (tmp_path / "out" / "score.json").read_text(encoding="utf-8") == run.stdout
    assert (tmp_path / "out" / "forget.parquet").exists()
    words = CliRunner().invoke(app, ["explain", "mia_min_k"]).stdout
    assert "max(1, floor(k n))" in words and "k=0.4" in words and "arXiv:2310.16789" in words
    assert "low values mean that the answers are remembered" in words
