"""`uwc calibrate` on saved models, through the real command line: what is held, written and refused."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conftest import copied, people, tiny_target
from tests.pipeline.conftest import Run
from transformers import AutoModelForCausalLM

import uwc as package
from uwc.data.question_files import read_examples
from uwc.models.loading import load_target, save_target
from uwc.models.target import Target

DATA = ("--forget", "forget.jsonl", "--retain", "retain.jsonl")


@pytest.fixture
def workplace(tmp_path: Path, knowing: Target) -> Path:
    """A model that knows four people, sharded; the same with noise; questions about two to forget and two to keep."""
    knowing.model.save_pretrained(tmp_path / "original", max_shard_size="200KB")
    knowing.tokenizer.save_pretrained(tmp_path / "original")
    noisy = copied(knowing)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in noisy.model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    save_target(noisy, tmp_path / "unlearned")
    sets = {"forget": people(4)[:4], "retain": people(4)[4:6], "more": people(4)[6:], "unknown": people()[8:]}
    for name, part in sets.items():
        rows = [
            {"id": e.id, "question": e.question, "answer": e.answer, "subject": e.subject,
             "perturbed_answers": list(e.perturbed_answers)}
            for e in part
        ]  # fmt: skip
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return tmp_path


def test_the_calibrated_model_has_the_scores_that_its_card_states(uwc: Run, workplace: Path) -> None:
    done = uwc("calibrate", "original", "unlearned", *DATA, "--tau", "0.9", "--save", "out", "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert 0 < record["alpha"] < record["upper"] < 1
    assert len(list((workplace / "out").glob("model-*.safetensors"))) > 1
    plain = AutoModelForCausalLM.from_pretrained(workplace / "out")
    tokenizer = load_target(workplace / "out").tokenizer
    for name in ("forget", "retain"):
        examples = read_examples(workplace / f"{name}.jsonl")
        table = package.score(Target(plain.eval(), tokenizer), examples, metrics=["extraction_strength"])
        row = next(r for r in record["scores"] if (r["set"], r["model"]) == (name, "calibrated"))
        assert table.scores[0].mean == pytest.approx(row["mean"])
    card = (workplace / "out" / "README.md").read_text()
    digest = record["data"]["forget"]["sha256"]
    for essential in (
        f"- alpha: **{record['alpha']:.6g}**", "- tau: 0.9", f"| forget | 4 | `{digest}` |", "95 % interval",
        "uwc calibrate original unlearned --forget forget.jsonl --retain retain.jsonl --tau 0.9 --save out --json",
        f"| forget | extraction_strength | calibrated | {record['forget_score']:.4f} |", 'base_model: "original"',
    ):  # fmt: skip
        assert essential in card


def test_several_sets_and_another_metric(uwc: Run, workplace: Path) -> None:
    """Each set keeps 80 % of the inverse perplexity; the table says on how many examples probes were decided."""
    done = uwc(
        "calibrate", "original", "unlearned", *DATA, "--retain", "more.jsonl", "--metric", "perplexity", "--tau", "0.8"
    )
    assert done.returncode == 0, done.stderr
    assert "perplexity on retain:" in done.stdout and "perplexity on more:" in done.stdout
    assert "4 of 4" in done.stdout and "scoring passes" in done.stdout
    assert re.search(r"alpha 0\.\d{4} keeps at least 0\.8 of each, 0\.\d{4} does not", done.stdout)


def test_the_unlearned_model_itself_has_no_mixture_above_it(uwc: Run, workplace: Path) -> None:
    done = uwc("calibrate", "original", "original", *DATA, "--save", "out")
    assert "alpha 1.0000 keeps at least 0.95 of each; forget" in done.stdout
    assert "- alpha: **1** (0 = original, 1 = unlearned)" in (workplace / "out" / "README.md").read_text()


def test_a_folder_whose_writing_was_broken_off_has_no_card_of_an_earlier_model(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    (workplace / "out").mkdir()
    (workplace / "out" / "README.md").write_text("alpha: **0.3**")
    monkeypatch.setattr("uwc.models.export.save_mixture", broken)
    sets = {name: read_examples(workplace / f"{name}.jsonl") for name in ("forget", "retain")}
    with pytest.raises(KeyboardInterrupt):
        package.calibrate(workplace / "original", workplace / "original", **sets, save=workplace / "out")
    assert not list((workplace / "out").iterdir())


def test_model_utility_is_held_fixed(uwc: Run, workplace: Path) -> None:
    sets = ("--real-authors", "more.jsonl", "--world-facts", "retain.jsonl", "--max-new-tokens", "16")
    arguments = ("calibrate", "original", "unlearned", *DATA, "--metric", "model_utility", "--tau", "0.9")
    done = uwc(*arguments, *sets, "--json")
    assert done.returncode == 0, done.stderr
    (kept,) = json.loads(done.stdout)["kept"]
    assert kept["measure"] == "model_utility" and kept["share"] >= 0.9
    assert "needs the set 'real_authors'; give a file with --real-authors" in uwc(*arguments).stderr


def test_a_function_is_held_fixed(workplace: Path) -> None:
    """The norm of a weight that both models share is always kept; one that falls with alpha decides."""
    forget = read_examples(workplace / "forget.jsonl")
    start = float(load_target(workplace / "original").model.model.norm.weight[0].detach())
    end = float(load_target(workplace / "unlearned").model.model.norm.weight[0].detach())

    def distance(target: Target) -> float:
        return 1.0 - abs(float(target.model.model.norm.weight[0].detach()) - start) / abs(end - start)

    record = package.calibrate(
        workplace / "original", workplace / "unlearned", forget=forget, retention=[distance], tau=0.7
    )
    assert 0.3 - 1 / 128 <= record["alpha"] <= 0.3 + 1e-6
    assert record["kept"][0]["measure"] == "distance"


def refused(uwc: Run, *arguments: str) -> str:
    done = uwc("calibrate", *arguments)
    assert done.returncode == 1 and done.stdout == ""
    return done.stderr.strip().splitlines()[-1]


def test_what_is_refused_in_one_line(uwc: Run, workplace: Path) -> None:
    save_target(tiny_target(hidden_size=32, layers=1), workplace / "small")
    pair = ("original", "unlearned")
    assert "different architectures: num_hidden_layers is 2 in one and 1" in refused(uwc, "original", "small", *DATA)
    assert "something to hold fixed; give --retain or --retention-task" in refused(uwc, *pair, *DATA[:2])
    assert "the forget and retain sets overlap" in refused(uwc, *pair, *DATA[:3], "forget.jsonl")
    assert "on the retain data (extraction_strength), and at least 0.02 is needed; give data" in refused(
        uwc, *pair, *DATA[:3], "unknown.jsonl"
    )
    assert "unknown metric to hold fixed 'rouge'" in refused(uwc, *pair, *DATA, "--metric", "rouge")
    assert "pip install 'uwc[harness]'" in refused(uwc, *pair, *DATA, "--retention-task", "mmlu")
    assert "tau = 1.5 must be above 0 and at most 1" in refused(uwc, *pair, *DATA, "--tau", "1.5")
    assert "one of the models that are mixed" in refused(uwc, *pair, *DATA, "--save", "original")


def test_a_model_with_code_of_its_own_is_refused(uwc: Run, workplace: Path) -> None:
    path = workplace / "unlearned" / "config.json"
    own = {"auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}, "model_type": "own"}
    path.write_text(json.dumps({**json.loads(path.read_text()), **own}))
    (workplace / "unlearned" / "own.py").write_text("raise SystemExit('run')", encoding="utf-8")
    assert "pass --trust-remote-code" in refused(uwc, "original", "unlearned", *DATA)


def test_forget_data_that_the_original_does_not_know_are_warned_about(uwc: Run, workplace: Path) -> None:
    done = uwc("calibrate", "original", "unlearned", "--forget", "unknown.jsonl", "--retain", "retain.jsonl", "--json")
    assert done.returncode == 0
    assert "warning: the original model itself scores" in done.stderr and "there is nothing to forget" in done.stderr
    assert np.isfinite(json.loads(done.stdout)["forget_score"])
