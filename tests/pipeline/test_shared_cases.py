"""Small inputs on which other versions failed, against plain transformers' values; skipped where they do not lie.

Each has a test of the same kind in `tests/unit`, which needs nothing from outside.
"""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot
from typer.testing import CliRunner, Result

import uwc
from uwc.attacks.suffix_search import Problem, SearchSettings, SuffixSearch
from uwc.cli.main import app
from uwc.data.example import Example
from uwc.errors import DataError, ModelError, UserError
from uwc.metrics.overlap import rouge
from uwc.models.load import load_model
from uwc.results import AttackResults
from uwc.studies.config_file import load_config

CASES = Path(__file__).parents[2].parent / "shared" / "cases"

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="there are no cases beside this project")


def _scored() -> list[Any]:
    """The cases that are one call of `uwc score` with its numbers."""
    if not CASES.is_dir():
        return []
    cases = json.loads((CASES / "expected.json").read_text(encoding="utf-8"))
    plain = [c for c in cases if c["command"].startswith("uwc score ") and c["id"] not in ("B12", "B20")]
    return [
        pytest.param(c["command"].split("(")[0], c["expected"], id=f"{c['id']} {shlex.split(c['command'])[2]}")
        for c in plain
        if isinstance(c["expected"], dict)
    ]


@pytest.fixture(autouse=True)
def _in_their_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CASES)


def run(line: str) -> Result:
    return CliRunner().invoke(app, shlex.split(line.removeprefix("uwc ")), catch_exceptions=False)


def means(line: str) -> dict[str, float]:
    """Metric -> mean, as a call of `uwc score` prints them."""
    return {
        row["metric"]: row["mean"] for row in json.loads(run(f"{line.replace(' --json', '')} --json").stdout)["scores"]
    }


@pytest.mark.parametrize(("line", "expected"), _scored())
def test_scores(line: str, expected: dict[str, float]) -> None:
    found = means(line)
    for metric, value in expected.items():
        assert found[metric.split(" ")[0]] == pytest.approx(value, abs=6e-5)


def test_a_date_in_a_template() -> None:
    """B02, whatever the day is: the numbers of the date that is pinned."""
    found = means("score B02/model --data B02/q.jsonl --metric extraction_strength --metric probability")
    assert found == {"extraction_strength": 1.0, "probability": pytest.approx(0.9835, abs=6e-5)}


def _questions(*names: str) -> list[list[Example]]:
    return [list(uwc.load_questions(f"base/{name}.jsonl")) for name in names]


def _compared(original: str, unlearned: dict[str, str], out: Path, **options: Any) -> Any:
    """The row of the one checkpoint that is compared with its original."""
    forget, retain = _questions("forget", "retain")
    done = uwc.compare(
        original,
        unlearned,
        forget=forget,
        retain=retain,
        attacks=[],
        overrides=["score.max_new_tokens=0"],
        output_dir=out,
        **options,
    )
    (row,) = [row for row in done.ranking_rows() if row["name"] in unlearned]
    return row


def test_an_adapter_on_tied_embeddings(tmp_path: Path) -> None:
    """B07."""
    row = _compared("base/tied", {"lora": "B07/adapter"}, tmp_path, retention={"tau": 0.9})
    forget, retain = _questions("forget", "retain")
    results = uwc.calibrate("base/tied", "B07/adapter", forget=forget, retain=retain, retention=uwc.Retention(tau=0.9))
    scores = {s.set: s.mean for s in results.scores if s.condition == "calibrated"}
    for at in (
        (row["alpha"], row["retention"], row["forget"]),
        (results.calibration.alpha, scores["retain"], scores["forget"]),
    ):
        assert at == (1.0, 1.0, pytest.approx(0.1102, abs=6e-5))


def test_a_lost_chat_template(tmp_path: Path) -> None:
    """B10."""
    row = _compared("B10/original", {"x": "B10/no-template"}, tmp_path)
    assert (row["alpha"], row["retention"], row["forget"]) == (1.0, 1.0, 1.0)


def test_a_long_row_beside_short_ones() -> None:
    """B12."""
    found = uwc.score("B12/longrope", "B12/with-one-long.jsonl", metrics=["extraction_strength"]).answers.query(
        "set == 'forget'"
    )
    expected = {"long": pytest.approx(0.7778, abs=6e-5)}
    assert dict(zip(found["id"], found["extraction_strength"], strict=True)) == {
        i: expected.get(i, 1.0) for i in found["id"]
    }
    assert {"long", "0/b", "7/b"} <= set(found["id"])


def test_the_gradient_of_a_suffix() -> None:
    """B13."""
    model = load_model("B13/gemma")
    question = Example("1", "Where was Mira Oln born?", "Mira Oln was born in Quarnholt.")
    suffix = tuple(model.tokenizer(" x x x x x", add_special_tokens=False)["input_ids"])
    problem = Problem.of(model.encode([question])[0], 2, None)
    found = SuffixSearch(model, [problem], suffix, SearchSettings(1, 8, 8, None, None, 0)).gradient()
    embedding = model.model.get_input_embeddings()
    table = embedding(torch.arange(embedding.weight.shape[0])).detach()
    chosen = one_hot(torch.tensor(suffix), len(table)).float().requires_grad_()
    ids = [torch.tensor(part, dtype=torch.long) for part in (problem.before, (*problem.between, *problem.wanted))]
    whole = torch.cat([embedding(ids[0]).detach(), chosen @ table, embedding(ids[1]).detach()])[None]
    wanted = torch.tensor(problem.wanted)
    logits = model.model(inputs_embeds=whole, use_cache=False).logits[0, -len(wanted) - 1 : -1]
    (true,) = torch.autograd.grad(cross_entropy(logits.float(), wanted), chosen)
    assert float((found - true).norm() / true.norm()) < 1e-5


def test_words_of_every_script() -> None:
    """B15."""
    pairs = json.loads((CASES / "B15" / "pairs.json").read_text(encoding="utf-8"))
    answers, generated = ([p[k] for p in pairs] for k in ("answer", "generated"))
    found = rouge(answers, generated, kind="rougeL", part="recall")
    np.testing.assert_allclose(found, [0.2222, 0.125, 0.0, 0.0], atol=6e-5)
    np.testing.assert_array_equal(rouge(answers, answers, kind="rougeL", part="recall"), 1.0)


def test_alpaca_rows() -> None:
    """B16."""
    rows = [json.loads(line) for line in Path("B16/alpaca.jsonl").read_text(encoding="utf-8").splitlines()]
    for row, example in zip(rows, uwc.load_questions("B16/alpaca.jsonl"), strict=True):
        assert row["instruction"] in example.question and row["input"] in example.question


def test_multiple_choice_rows() -> None:
    """B17."""
    assert [e.answer for e in uwc.load_questions("B17/choices.parquet")] == ["Quarnholt", "Clocks"]


def test_a_long_cell() -> None:
    """B18."""
    with pytest.raises(DataError, match="tokens, more than the model's context"):
        uwc.score("base/plain", uwc.load_questions("B18/long.csv"))


@pytest.mark.parametrize("name", ["space", "newline", "leading", "eos-text"])
def test_white_space_and_end_tokens_in_answers(name: str) -> None:
    """B19."""
    found = means(f"score base/plain --data B19/{name}.jsonl --metric extraction_strength --metric rouge_l")
    assert found == {"extraction_strength": 1.0, "rouge_l": 1.0}


def test_a_folder_with_two_sets_of_weights() -> None:
    """B20."""
    forget, retain = _questions("forget", "retain")
    for name, expected in (("index-left", 0.0), ("single-left", 1.0)):
        table = uwc.score(f"B20/{name}", forget, metrics=["extraction_strength"])
        assert table.scores[0].mean == pytest.approx(expected, abs=6e-5)
        results = uwc.calibrate("base/plain", f"B20/{name}", forget=forget, retain=retain)
        kept = uwc.score(f"B20/{name}", retain, metrics=["extraction_strength"]).scores[0].mean
        delivered = next(s for s in results.scores if (s.set, s.condition) == ("retain", "as delivered"))
        assert delivered.mean == pytest.approx(kept)


def test_a_vocabulary_that_the_base_lacks() -> None:
    """B23."""
    with pytest.raises(ModelError, match=r"421.*420"):
        uwc.score("B23/resized", _questions("forget")[0])


def test_gcg_on_a_hybrid_model() -> None:
    """B28."""
    result = run(
        "uwc attack B28/hybrid --data base/retain.jsonl --attacker-data base/forget.jsonl --attack gcg "
        "--set attack.settings.gcg.steps=2 --set attack.settings.gcg.candidates=8 --json"
    )
    found = AttackResults.parse(result.stdout, where="stdout")
    assert all(np.isfinite(o.after.mean) for model in found.attacks.models for o in model.outcomes)


@pytest.mark.parametrize("name", ["dup_keys.jsonl", "huge_int.jsonl", "inf_answer.jsonl", "pq_dup_cols.parquet"])
def test_malformed_question_files(name: str) -> None:
    with pytest.raises(UserError) as caught:
        uwc.load_questions(f"inputs/{name}")
    assert name in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "name",
    ["cyclic_training.yaml", "dup_nested.yaml", "laughs_title.yaml", "merge_bomb.yaml", "num__finetune.seed__neg.yaml"],
)
def test_malformed_studies(name: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(f"inputs/{name}")
    assert name in str(caught.value) and len(str(caught.value)) < 500
