"""`uwc compare` over given checkpoints, adapters and models in memory: results, kills, and what can be wrong."""

import hashlib
import json
import math
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import copied, people, tiny_model
from tests.pipeline.conftest import Started, run_command, validate_result
from tests.pipeline.test_bad_input import line_of

import uwc
from uwc.data.example import Example
from uwc.errors import UserError
from uwc.models.adapters import add_adapter
from uwc.models.load import load_model, save_model
from uwc.models.model import Model
from uwc.reports.tables_attacks import precision_table
from uwc.results import ES, Calibration, Score, StudyResults, attack_rows, find
from uwc.studies.store import checkpoint_fingerprint

FILES = ("--forget", "forget.jsonl", "--retain", "retain.jsonl", "--set", "score.max_new_tokens=0")
ATTACKS = ("--attack", "token_noise", "--attack", "relearn", "--set", "attack.settings.relearn={steps: 2, lr: 1.0e-3}")
MODELS = ("--original", "original", "--unlearned", "mild", "heavy=strong", "adapter", "--retrained", "ignorant")
KINDS = "attack.models=[unlearned, calibrated, retrained]"
DATA = (*FILES, *ATTACKS)


def damaged(model: Model, amount: float, *, seed: int) -> Model:
    """The model with noise on its weights: it forgets, and not only what it should."""
    changed = copied(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in changed.model.parameters():
            parameter += amount * torch.randn(parameter.shape, generator=generator)
    return changed


def with_adapter(model: Model) -> Model:
    """The model with a low-rank adapter that changes what it says, on one of its two tied embeddings too."""
    adapted = add_adapter(copied(model), rank=2, targets="q_proj,v_proj,embed_tokens")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in adapted.model.named_parameters():
            if "lora_" in name and not parameter.any():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return adapted


def write_questions(path: Path, examples: Sequence[Example]) -> None:
    names = ("id", "question", "answer", "subject", "paraphrased_question")
    path.write_text("".join(json.dumps({n: getattr(e, n) for n in names}) + "\n" for e in examples), encoding="utf-8")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, knowing: Model) -> Path:
    """An original, two damaged copies, an adapter, an ignorant model, and files of what to forget and to keep."""
    folder = tmp_path_factory.mktemp("compare")
    models = {"original": knowing, "mild": damaged(knowing, 0.02, seed=1), "strong": damaged(knowing, 0.08, seed=2)}
    for name, model in {**models, "ignorant": tiny_model(hidden_size=64)}.items():
        save_model(model, folder / name)
    with_adapter(knowing).model.save_pretrained(folder / "adapter")
    write_questions(folder / "forget.jsonl", people(4)[:4])
    write_questions(folder / "retain.jsonl", people(4)[4:])
    write_questions(folder / "unknown.jsonl", people(6)[8:])
    return folder


def compare(place: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return run_command("compare", *arguments, cwd=place)


@pytest.fixture(scope="module")
def finished(place: Path) -> StudyResults:
    """The results of a comparison in the folder `done`, uninterrupted."""
    done = compare(place, *MODELS, *DATA, "--set", KINDS, "--output-dir", "done", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (place / "done" / "results.json").read_text(encoding="utf-8")
    validate_result(place / "done" / "results.json")
    return StudyResults.parse(done.stdout, where="stdout")


def calibration_of(results: StudyResults, name: str) -> Calibration:
    found = results.run(name).calibration
    assert found is not None
    return found


def mean(scores: Iterable[Score], name: str, metric: str = ES) -> float:
    score = find(scores, name, metric)
    assert score is not None
    return score.mean


def hashes(folder: Path) -> dict[str, str]:
    """Hashes of everything that holds a number."""
    kept = [folder / "results.json", *(folder / "store").rglob("*.parquet"), *(folder / "store").rglob("*.jsonl")]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(kept)}


def test_every_model_is_scored_calibrated_and_ranked(finished: StudyResults) -> None:
    assert set(finished.ranking) == {"mild", "heavy", "adapter"}
    assert [model.role for model in finished.references] == ["original", "retrained"]
    for model in finished.unlearned:
        calibration = calibration_of(finished, model.name)
        assert [k.ratio >= calibration.tau for k in calibration.kept] == [True]
        assert calibration.kept[0].value == pytest.approx(mean(model.calibrated_scores, "retain"))
        path = calibration.frontier["forget"].path
        assert path[0].alpha == 0 and path[-1].alpha == 1
        assert path[-1].forget == pytest.approx(mean(model.scores, "forget"))
        assert "forget_paraphrased" in calibration.frontier
        assert_one_number_at_tau(calibration)
    scores = [model.forget.value for model in finished.ranked()]
    assert scores == sorted(scores)


def assert_one_number_at_tau(calibration: Calibration) -> None:
    """What is ranked is the tau curve's own point, and lies between the measured mixtures on either side of it."""
    at_tau = calibration.at_tau
    assert at_tau is not None
    score = at_tau.scores["forget"]
    assert 0 <= score.low <= score.high <= 1
    point = next(p for p in calibration.frontier["forget"].curve if p.tau == calibration.tau)
    assert (score.value, at_tau.alpha.value) == (point.value, point.alpha)
    if calibration.alpha < 1:
        assert calibration.alpha <= at_tau.alpha.value <= calibration.upper
        assert at_tau.retention == pytest.approx(calibration.tau)
    probed = {p.alpha: p.forget for p in calibration.probes}
    ends = sorted((probed[calibration.alpha], probed[calibration.upper]))
    assert ends[0] - 1e-12 <= score.value <= ends[1] + 1e-12


def test_the_study_compare_is_the_same_comparison(
    finished: StudyResults, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`uwc study plan compare` with the same models, questions and settings has the same steps, all of them done."""
    monkeypatch.chdir(place)
    runs = [{"name": n, "checkpoint": p} for n, p in (("mild", "mild"), ("heavy", "strong"), ("adapter", "adapter"))]
    changes = {
        "name": "done",
        "model.path": "original",
        "retrained": "ignorant",
        "unlearn.runs": runs,
        "score.max_new_tokens": 0,
        "attack.chains": ["token_noise", "relearn"],
        "attack.settings.relearn": {"steps": 2, "lr": 1e-3},
        "attack.models": ["unlearned", "calibrated", "retrained"],
    }
    steps = uwc.plan_study("compare", overrides=changes)
    known = {origin.key[:16] for origin in finished.provenance.steps.values()}
    assert {step["key"] for step in steps} == known


def test_a_mixture_has_a_hash_of_its_parents_and_alpha(finished: StudyResults, place: Path) -> None:
    """SHA-256 of JSON with sorted keys, by hand; the adapter's parent is its folder with its base."""
    steps, base = finished.provenance.steps, checkpoint_fingerprint(str(place / "original"))
    for name, parents in (("mild", ["mild"]), ("heavy", ["strong"]), ("adapter", ["adapter", "original"])):
        first, *rest = [checkpoint_fingerprint(str(place / p), with_base=False) for p in parents]
        content = {
            "alpha": calibration_of(finished, name).alpha,
            "original": [base],
            "unlearned": [first, *([r] for r in rest)],
        }
        expected = hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
        assert steps[str(finished.run(name).steps.calibrate)].mixture == expected
    assert steps[finished.run("mild").steps.score].mixture is None


def test_report_and_markdown_speak_of_given_models(finished: StudyResults, place: Path) -> None:
    page = (place / "done" / "report.html").read_text(encoding="utf-8")
    for text in ("Ranking", "Given models", "Frontier", "heavy"):
        assert text in page
    assert "Training settings" not in page and "Methods and settings" not in page
    markdown = (place / "done" / "results.md").read_text(encoding="utf-8")
    assert "| rank | model |" in markdown and "Area under the curve of forget" in markdown


def test_an_adapter_is_scored_as_what_it_computes(finished: StudyResults, place: Path, knowing: Model) -> None:
    """Merged by hand: W + (alpha / rank) B A for each adapted matrix, and not for the one that was tied to it."""
    adapted = with_adapter(knowing)
    by_hand = copied(knowing)
    by_hand.model.lm_head.weight = torch.nn.Parameter(by_hand.model.lm_head.weight.detach().clone())
    weights = dict(by_hand.model.named_parameters())
    factors = {n: p for n, p in adapted.model.named_parameters() if "lora_" in n}
    with torch.no_grad():
        (up,), (down,) = ([p for n, p in factors.items() if f"embedding_{x}" in n] for x in "BA")
        weights["model.embed_tokens.weight"] += (16.0 / 2) * (up @ down).T
        for name, a in factors.items():
            if "lora_A" not in name:
                continue
            plain = name.removeprefix("base_model.model.").replace(".lora_A.default", "")
            weights[plain] += (16.0 / 2) * factors[name.replace("lora_A", "lora_B")] @ a
    expected = uwc.score(by_hand, people(4)[:4], metrics=["probability"], max_new_tokens=0)
    model = finished.run("adapter")
    found = mean(model.scores, "forget", "probability")
    assert found == pytest.approx(expected.scores[0].mean, abs=1e-5)
    original = finished.reference("original")
    assert original is not None and found < 0.99 * mean(original.scores, "forget", "probability")
    alone = uwc.calibrate(place / "original", place / "adapter", forget=people(4)[:4], retain=people(4)[4:])
    ours = calibration_of(finished, "adapter")
    assert ours.alpha == pytest.approx(alone.calibration.alpha)
    assert ours.frontier["forget"].path[-1].forget == pytest.approx(mean(model.scores, "forget"))


def test_a_second_run_computes_nothing_and_prints_the_results(finished: StudyResults, place: Path) -> None:
    before = hashes(place / "done")
    again = compare(place, *MODELS, *DATA, "--set", KINDS, "--output-dir", "done")
    assert again.returncode == 0 and "0 to run" in again.stderr
    assert hashes(place / "done") == before
    for text in ("as delivered", "heavy", "alpha", "report: done/report.html", "Area under the curve"):
        assert text in again.stdout


def test_killed_it_resumes_and_prints_the_eta(finished: StudyResults, place: Path) -> None:
    """SIGKILL after the first, then after the fourth finished step; the third run ends with the same bits."""
    store = place / "done-again" / "store"
    arguments = (*MODELS, *DATA, "--set", KINDS, "--output-dir", "done-again")
    for steps in (1, 4):
        study = Started("compare", *arguments, cwd=place)
        while study.running and len(list(store.glob("*/manifest.json"))) < steps:
            time.sleep(0.02)
        assert study.end(signal.SIGKILL).returncode == -signal.SIGKILL, "it ended before it could be killed"
    last = compare(place, *arguments)
    assert last.returncode == 0, last.stderr
    left = re.search(r"(\d+) to run", last.stderr)
    assert left and int(left[1]) <= 18, "of 22 steps four were done"
    assert "steps left, about" in last.stderr
    found, expected = (hashes(place / name) for name in ("done-again", "done"))
    assert {k: v for k, v in found.items() if k != "results.json"} == {
        k: v for k, v in expected.items() if k != "results.json"
    }
    again, once = StudyResults.load(place / "done-again" / "results.json").to_dict(), finished.to_dict()
    assert all(again[part] == once[part] for part in ("unlearned", "references", "pairs", "attacks"))


def test_models_and_questions_in_memory_give_the_same_numbers(
    finished: StudyResults, place: Path, knowing: Model, tmp_path: Path
) -> None:
    models = {"mild": damaged(knowing, 0.02, seed=1), "heavy": place / "strong", "adapter": with_adapter(knowing)}
    done = uwc.compare(
        knowing,
        models,
        forget=people(4)[:4],
        retain=people(4)[4:],
        retrained=tiny_model(hidden_size=64),
        attacks=["token_noise", "relearn"],
        overrides=[
            "attack.settings.relearn={steps: 2, lr: 1.0e-3}",
            "attack.models=[unlearned, calibrated, retrained]",
            "score.max_new_tokens=0",
            "model.device=cpu",
        ],
        output_dir=tmp_path / "memory",
    )
    validate_result(tmp_path / "memory" / "results.json")
    assert done.ranking == finished.ranking
    for name in ("mild", "heavy"):  # the adapter is merged before it is written here, and after it is read there
        ours, theirs = calibration_of(done, name), calibration_of(finished, name)
        assert ours.model_dump_json() == theirs.model_dump_json()
    curve = [row for row in done.curve_rows() if (row["model"], row["set"]) == ("heavy", "forget")]
    assert len(curve) == 13 and all(0 <= row["value"] <= 1 for row in curve)
    assert set(done.to_frame()["role"]) == {"original", "retrained", "unlearned", "calibrated"}
    assert done.attacks is not None
    under = [(row["model"], row["role"], row["attack"]) for row in attack_rows(done.attacks)]
    assert {role for _, role, _ in under} == {"unlearned", "calibrated", "retrained"}
    assert len(set(under)) == len(under) == 2 * (3 + 3 + 1)
    assert {attack for *_, attack in under} == {"token_noise", "relearn"}
    first, second = finished.ranking[:2]
    assert done.pairs[first][second] == pytest.approx(1 - done.pairs[second][first])


def test_several_seeds_of_a_method_are_shown_together(place: Path, knowing: Model, tmp_path: Path) -> None:
    models = {"noise@0": place / "mild", "noise@1": damaged(knowing, 0.03, seed=5), "other": place / "strong"}
    prompt = {f"model.prompt.{key}": value for key, value in asdict(knowing.template).items()}
    done = uwc.compare(
        place / "original",
        models,
        forget=place / "forget.jsonl",
        retain=place / "retain.jsonl",
        attacks=[],
        overrides={**prompt, "score.max_new_tokens": 0},
        output_dir=tmp_path,
    )
    group = next(g for g in done.groups if g.name == "noise")
    scores = [model.forget.value for model in done.ranked() if model.group == "noise"]
    assert group.mean == pytest.approx(sum(scores) / 2)
    assert group.sd_seeds == pytest.approx(abs(scores[0] - scores[1]) / 2**0.5)
    assert group.se == pytest.approx((group.sd_seeds**2 / 2 + group.se_examples**2) ** 0.5)
    assert math.isnan(next(g for g in done.groups if g.name == "other").sd_seeds)
    (point,) = [
        row for row in done.mean_curve_rows() if (row["method"], row["set"], row["tau"]) == ("noise", "forget", 0.95)
    ]
    assert (point["mean"], point["se"], point["seeds"]) == (group.mean, group.se, 2)
    assert "sd between seeds" in (tmp_path / "results.md").read_text(encoding="utf-8")


def remote_code(place: Path, tmp_path: Path) -> str:
    """A copy of the original whose configuration asks for code of its own."""
    folder = tmp_path / "custom"
    save_model(load_model(place / "original"), folder)
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings |= {"model_type": "my-own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "own.py").write_text("raise SystemExit('this code must not run')", encoding="utf-8")
    return str(folder)


@pytest.mark.parametrize(
    ("changes", "essentials"),
    [
        (lambda p, t: {"retain": p / "forget.jsonl"}, ["forget and retain sets overlap", "is in both"]),
        (lambda p, t: {"forget": p / "nowhere.jsonl"}, ["nowhere.jsonl"]),
        (lambda p, t: {"unlearned": [f"x={p}/mild", f"x={p}/strong"]}, ["two unlearned models are called 'x'"]),
        (lambda p, t: {"unlearned": {"original": p / "mild"}}, ["'original' cannot be the name of a run"]),
        (lambda p, t: {"unlearned": {"x": p / "nothing-here"}}, ["nothing-here", "there is no such folder"]),
        (lambda p, t: {"unlearned": {"x": remote_code(p, t)}}, ["custom", "--trust-remote-code"]),
        (lambda p, t: {"retrained": remote_code(p, t)}, ["custom", "--trust-remote-code"]),
        (lambda p, t: {"unlearned": {}}, ["runs"]),
        (lambda p, t: {"retention": {"tau": 1.5}}, ["calibrate.tau = 1.5"]),
        (lambda p, t: {"retention": {"metric": "kl_to_original"}}, ["unknown retention metric"]),
        (lambda p, t: {"rank_by": "perplexity"}, ["unknown metric to rank by 'perplexity'"]),
        (lambda p, t: {"retention": {"metric": "model_utility"}}, ["needs the sets real_authors and world_facts"]),
        (
            lambda p, t: {"retain": {"retain": p / "retain.jsonl", "holdout": p / "unknown.jsonl"}},
            ["'holdout' is the name of a split"],
        ),
        (
            lambda p, t: {"retain": {"retain": p / "retain.jsonl", "more": p / "forget.jsonl"}},
            ["forget and more sets overlap"],
        ),
        (lambda p, t: {"retain": {"more": p / "retain.jsonl"}}, ["called 'retain'", "more"]),
        (lambda p, t: {"attacks": ["jailbrake"]}, ["jailbrake", "did you mean 'jailbreak'"]),
        (
            lambda p, t: {"overrides": ["attack.settings.probe.epochs=1"]},
            ["'probe', which is not among the attacks", "relearn"],
        ),
        (lambda p, t: {"overrides": ["scored.suite=core"]}, ["unknown key", "did you mean 'score'"]),
        (lambda p, t: {"attacks": ["sampling"], "overrides": ["score.max_new_tokens=0"]}, ["rouge_l"]),
        (
            lambda p, t: {"overrides": {"benchmark.settings.columns": {"question": "q"}}},
            ["no file or table has the column 'q'", "retain.jsonl: id, question"],
        ),
    ],
)
def test_what_is_wrong_is_told_before_any_work(
    changes: Callable[[Path, Path], dict[str, Any]], essentials: list[str], place: Path, tmp_path: Path
) -> None:
    arguments: dict[str, Any] = {
        "unlearned": {"mild": place / "mild"},
        "forget": place / "forget.jsonl",
        "retain": place / "retain.jsonl",
        **changes(place, tmp_path),
    }
    with pytest.raises(UserError) as refused:
        uwc.compare(place / "original", output_dir=tmp_path / "out", **arguments)
    assert "\n" not in str(refused.value)
    for essential in essentials:
        assert essential in str(refused.value)
    assert not list((tmp_path / "out").rglob("manifest.json"))


def test_retain_data_that_the_original_does_not_know(place: Path) -> None:
    """Refused after the original is scored, before any unlearned model is."""
    done = compare(place, "--original", "ignorant", "--unlearned", "mild", *DATA, "--output-dir", "ignorance")
    line = line_of(done)
    assert "calibration is meaningless" in line
    assert len(list((place / "ignorance" / "store").glob("*/manifest.json"))) == 1


def test_forget_data_that_the_original_does_not_know_is_a_warning(place: Path) -> None:
    data = ("--forget", "unknown.jsonl", *FILES[2:], "--attack", "none")
    done = compare(place, "--original", "original", "--unlearned", "mild", *data, "--output-dir", "unknown")
    assert done.returncode == 0, done.stderr
    assert "Warning: The original model scores only 0" in done.stdout


def test_a_retrained_model_that_knows_the_forget_data_is_a_warning(place: Path) -> None:
    for retrained, known in (("mild", True), ("ignorant", False)):
        models = ("--original", "original", "--unlearned", "strong", "--retrained", retrained)
        given = (
            *models,
            *DATA,
            "--attack",
            "none",
            "--holdout",
            "unknown.jsonl",
            "--metric",
            "core",
            "--metric",
            "privleak",
        )
        done = compare(place, *given, "--output-dir", f"control-{retrained}")
        assert done.returncode == 0, done.stderr
        results = StudyResults.load(place / f"control-{retrained}" / "results.json")
        assert ("retrained_knows" in [w.code for w in results.warnings]) == known == results.retrained_knows
        (leak,) = (score for score in results.run("strong").scores if score.metric == "privleak")
        assert math.isnan(leak.mean) == known, "it compares with the retrained model"


def test_models_that_do_not_fit_the_original(place: Path, tmp_path: Path) -> None:
    save_model(tiny_model(hidden_size=32), tmp_path / "narrow")
    done = compare(
        place, "--original", "original", "--unlearned", str(tmp_path / "narrow"), *DATA, "--output-dir", "misfit"
    )
    assert "different architectures" in line_of(done)
    with_adapter(tiny_model(hidden_size=32)).model.save_pretrained(tmp_path / "other")
    done = compare(
        place, "--original", "original", "--unlearned", str(tmp_path / "other"), *DATA, "--output-dir", "misfit"
    )
    assert "does not fit the model" in line_of(done)


def test_nothing_to_compare(place: Path) -> None:
    assert "give at least one with --unlearned" in line_of(compare(place, "--original", "original", *DATA))


def test_each_precision_is_a_row(place: Path) -> None:
    arguments = ("--original", "original", "mild", "--forget", "forget.jsonl", "--retain", "retain.jsonl")
    options = ("--attack", "none", "--precision", "nf4", "--precision", "int2", "--set", "score.max_new_tokens=0")
    done = compare(place, *arguments, "--retrained", "ignorant", *options, "-o", "deployed")
    assert done.returncode == 0, done.stderr
    results = StudyResults.load(place / "deployed" / "results.json")
    assert results.attacks is not None
    assert [attack.precision for attack in results.attacks.attacks] == ["nf4", "int2"]
    table = precision_table(results)
    assert table is not None and [row[:2] for row in table.rows[:3]] == [
        ("mild", "full"), ("mild", "nf4"), ("mild", "int2")
    ]  # fmt: skip
    for text in (done.stdout, (place / "deployed" / "report.html").read_text(encoding="utf-8")):
        assert "ES on the forget set as deployed" in text and "int2" in text
    refused = compare(place, *arguments, "--precision", "nf5", "-o", "refused")
    assert refused.returncode == 1 and "unknown precision 'nf5'" in refused.stderr
