"""`uwc calibrate` on saved models, through the real command line: what is kept, written and refused; and that
`uwc compare` says the same."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conftest import copied, people, tiny_model
from tests.pipeline.conftest import Run
from transformers import AutoModelForCausalLM

import uwc as package
from uwc.data.question_files import read_examples
from uwc.metrics.likelihood import extraction_strength
from uwc.models.load import load_model, save_model
from uwc.models.model import Model
from uwc.models.scoring import score_tokens
from uwc.results import CalibrationResults, ConditionScore, Score, StudyResults

DATA = ("--forget", "forget.jsonl", "--retain", "retain.jsonl")


@pytest.fixture
def workplace(tmp_path: Path, knowing: Model) -> Path:
    """A model that knows four people, sharded; the same with noise; questions about two to forget and two to keep."""
    knowing.model.save_pretrained(tmp_path / "original", max_shard_size="200KB")
    knowing.tokenizer.save_pretrained(tmp_path / "original")
    noisy = copied(knowing)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in noisy.model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    save_model(noisy, tmp_path / "unlearned")
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
    results = CalibrationResults.parse(done.stdout, where="stdout")
    found = results.calibration
    assert 0 < found.alpha < found.upper < 1
    assert len(list((workplace / "out").glob("model-*.safetensors"))) > 1
    plain = AutoModelForCausalLM.from_pretrained(workplace / "out")
    tokenizer = load_model(workplace / "out").tokenizer
    for name in ("forget", "retain"):
        examples = read_examples(workplace / f"{name}.jsonl")
        scored = extraction_strength(score_tokens(Model(plain.eval(), tokenizer), examples))
        assert float(scored.mean()) == pytest.approx(row(results, name, "calibrated").mean)
    card = (workplace / "out" / "README.md").read_text()
    for essential in (
        f"- alpha: **{found.alpha:.6g}**",
        "- tau: 0.9",
        f"| forget | 4 | `{results.sets['forget'].sha256}` |",
        "95 % interval",
        "uwc calibrate original unlearned --forget forget.jsonl --retain retain.jsonl --tau 0.9 --save out --json",
        f"| forget | extraction_strength | calibrated | {row(results, 'forget', 'calibrated').mean:.4f} |",
        "model-index:",
    ):
        assert essential in card


def row(results: CalibrationResults, name: str, condition: str) -> ConditionScore:
    return next(s for s in results.scores if (s.set, s.condition) == (name, condition))


def test_calibrate_and_compare_say_the_same_to_the_bit(uwc: Run, workplace: Path) -> None:
    """The same alpha, at tau and as a mixture, with the same interval; the same forget and retain scores of the
    original, the model as delivered and the mixture with the same intervals; the same tau curve."""
    options = (*DATA, "--retain", "more.jsonl", "--tau", "0.8")
    for name in ("forget", "retain", "more"):  # every question is a cluster of its own
        path = workplace / f"{name}.jsonl"
        rows = [json.loads(line) | {"subject": ""} for line in path.read_text().splitlines()]
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    alone = uwc("calibrate", "original", "unlearned", *options, "-o", "alone", "--json")
    assert alone.returncode == 0, alone.stderr
    arguments = ("--original", "original", "--unlearned", "unlearned", *options, "--attack", "none")
    done = uwc("compare", *arguments, "--set", "score.max_new_tokens=0", "--output-dir", "compared", "--json")
    assert done.returncode == 0, done.stderr
    one = CalibrationResults.parse(alone.stdout, where="stdout")
    study = StudyResults.parse(done.stdout, where="stdout")
    (other,) = study.unlearned
    assert other.calibration is not None and one.calibration.at_tau is not None
    assert one.calibration.model_dump_json() == other.calibration.model_dump_json()
    assert 0 < one.calibration.alpha < 1
    assert one.calibration.at_tau.alpha.low < one.calibration.at_tau.alpha.high
    original = study.reference("original")
    assert original is not None
    scores = {"original": original.scores, "as delivered": other.scores, "calibrated": other.calibrated_scores}
    for condition, of_model in scores.items():
        for name in ("forget", "retain", "more"):
            same(row(one, name, condition), score_of(of_model, name))
    residual = other.residual("forget", "extraction_strength")
    assert residual is not None
    same(row(one, "forget", "at tau"), residual)
    assert len(one.scores) == 4 * 3 and {s.n for s in one.scores if s.set == "forget"} == {4}
    written = CalibrationResults.load(workplace / "alone" / "calibration.json")
    assert written.model_dump_json() == one.model_dump_json()
    assert (workplace / "alone" / "probes.parquet").exists()


def score_of(scores: tuple[Score, ...], name: str) -> Score:
    return next(s for s in scores if (s.set, s.metric) == (name, "extraction_strength"))


def same(one: Score, other: Score) -> None:
    for field in ("mean", "n", "not_scored", "clusters", "se", "low", "high"):
        ours, theirs = getattr(one, field), getattr(other, field)
        assert ours == theirs or np.isnan([ours, theirs]).all(), field


def test_the_printed_scores_name_each_condition_and_sample_size(uwc: Run, workplace: Path) -> None:
    done = uwc("calibrate", "original", "unlearned", *DATA, "--tau", "0.9")
    assert done.returncode == 0, done.stderr
    for essential in ("as delivered", "at tau", "condition", "at exactly 0.9: alpha 0."):
        assert essential in done.stdout
    fast = uwc("calibrate", "original", "unlearned", *DATA, "--tau", "0.9", "--search-only")
    assert fast.returncode == 0, fast.stderr
    assert "at tau" not in fast.stdout and "--search-only" in fast.stdout


def test_several_sets_and_another_metric(uwc: Run, workplace: Path) -> None:
    """Each set keeps 80 % of the inverse perplexity; the table says on how many examples probes were decided."""
    done = uwc(
        *("calibrate", "original", "unlearned", *DATA, "--retain", "more.jsonl"),
        *("--set", "calibrate.metric=PPL", "--tau", "0.8"),
    )
    assert done.returncode == 0, done.stderr
    assert "perplexity on retain:" in done.stdout and "perplexity on more:" in done.stdout
    assert "4 of 4" in done.stdout and "extraction_strength" in done.stdout and "scoring passes" in done.stdout
    assert re.search(r"alpha 0\.\d{4}, .*at least 0\.8 \(at alpha 0\.\d{4} it is not\)", done.stdout)


def test_the_unlearned_model_itself_has_no_mixture_above_it(uwc: Run, workplace: Path) -> None:
    done = uwc("calibrate", "original", "original", *DATA, "--save", "out")
    assert "alpha 1.0000" in done.stdout and "it is not" not in done.stdout
    assert "- alpha: **1** (0 = original, 1 = unlearned)" in (workplace / "out" / "README.md").read_text()


def test_a_folder_whose_writing_was_broken_off_is_as_it_was(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_mixing: object, _alpha: float, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    (workplace / "out").mkdir()
    (workplace / "out" / "README.md").write_text("alpha: **0.3**")
    monkeypatch.setattr("uwc.api.save_mixture", broken)
    sets = {name: read_examples(workplace / f"{name}.jsonl") for name in ("forget", "retain")}
    with pytest.raises(KeyboardInterrupt):
        package.calibrate(workplace / "original", workplace / "original", **sets, curve=False, save=workplace / "out")
    assert [path.name for path in (workplace / "out").iterdir()] == ["README.md"]


def test_model_utility_is_kept(uwc: Run, workplace: Path) -> None:
    further = "benchmark.settings.further={real_authors: more.jsonl, world_facts: retain.jsonl}"
    sets = ("--set", further, "--set", "score.max_new_tokens=16")
    constraint = ("--set", "calibrate.metric=model_utility", "--tau", "0.9")
    arguments = ("calibrate", "original", "unlearned", *DATA, *constraint)
    done = uwc(*arguments, *sets, "--json")
    assert done.returncode == 0, done.stderr
    results = CalibrationResults.parse(done.stdout, where="stdout")
    (kept,) = results.calibration.kept
    assert kept.measure == "model_utility" and kept.ratio >= 0.9 and kept.n == 6
    assert row(results, "retain+real_authors+world_facts", "calibrated").mean == pytest.approx(kept.value)
    assert "needs the sets real_authors and world_facts" in uwc(*arguments).stderr


def test_a_function_is_kept(workplace: Path) -> None:
    """The norm of a weight that both models share is always kept; one that falls with alpha decides."""
    forget = read_examples(workplace / "forget.jsonl")
    start = float(load_model(workplace / "original").model.model.norm.weight[0].detach())
    end = float(load_model(workplace / "unlearned").model.model.norm.weight[0].detach())

    def distance(model: Model) -> float:
        return 1.0 - abs(float(model.model.model.norm.weight[0].detach()) - start) / abs(end - start)

    results = package.calibrate(
        workplace / "original",
        workplace / "unlearned",
        forget=forget,
        retention=package.Retention(tasks=(distance,), tau=0.7),
    )
    found = results.calibration
    assert 0.3 - 1 / 128 <= found.alpha <= 0.3 + 1e-6
    assert found.kept[0].measure == "distance" and found.at_tau is not None
    assert found.at_tau.alpha.value == pytest.approx(0.3, abs=1e-5) and np.isnan(found.at_tau.alpha.low)


def refused(uwc: Run, *arguments: str) -> str:
    done = uwc("calibrate", *arguments)
    assert done.returncode == 1 and done.stdout == ""
    return done.stderr.strip().splitlines()[-1]


def test_what_is_refused_in_one_line(uwc: Run, workplace: Path) -> None:
    save_model(tiny_model(hidden_size=32, layers=1), workplace / "small")
    pair = ("original", "unlearned")
    assert "num_hidden_layers is 2" in refused(uwc, "original", "small", *DATA)
    assert "there is no retention constraint; name sets, tasks" in refused(uwc, *pair, *DATA[:2])
    assert "the forget and retain sets overlap" in refused(uwc, *pair, *DATA[:3], "forget.jsonl")
    assert "at least 0.02 is needed" in refused(uwc, *pair, *DATA[:3], "unknown.jsonl")
    assert "unknown retention metric 'rouge'" in refused(uwc, *pair, *DATA, "--set", "calibrate.metric=rouge")
    task = ("--retention-task", "mine", "--harness-include-path")
    assert "harness.include_path: 'nowhere' is not a folder" in refused(uwc, *pair, *DATA, *task, "nowhere")
    assert "calibrate.tau = 1.5" in refused(uwc, *pair, *DATA, "--tau", "1.5")
    assert "one of the models that are mixed" in refused(uwc, *pair, *DATA, "--save", "original")


def test_a_model_with_code_of_its_own_is_refused(uwc: Run, workplace: Path) -> None:
    path = workplace / "unlearned" / "config.json"
    own = {"auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}, "model_type": "own"}
    path.write_text(json.dumps({**json.loads(path.read_text()), **own}))
    (workplace / "unlearned" / "own.py").write_text("raise SystemExit('run')", encoding="utf-8")
    assert "--trust-remote-code" in refused(uwc, "original", "unlearned", *DATA)


def test_forget_data_that_the_original_does_not_know_are_warned_about(uwc: Run, workplace: Path) -> None:
    done = uwc("calibrate", "original", "unlearned", "--forget", "unknown.jsonl", "--retain", "retain.jsonl", "--json")
    assert done.returncode == 0
    assert "warning: the original model itself scores" in done.stderr and "there is little to forget" in " ".join(
        done.stderr.split()
    )
    results = CalibrationResults.parse(done.stdout, where="stdout")
    assert "low_forget" in [w.code for w in results.warnings]
    assert np.isfinite(row(results, "forget", "calibrated").mean)
