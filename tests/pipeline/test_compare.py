"""`uwc compare` over given checkpoints, adapters and models in memory: results, kills, and what can be wrong."""

import hashlib
import json
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import copied, people, tiny_target
from tests.pipeline.conftest import command, run_command
from tests.pipeline.test_bad_input import line_of

import uwc
from uwc.data.example import Example
from uwc.errors import UserError
from uwc.models.loading import load_target, save_target
from uwc.models.lora import add_adapter
from uwc.models.target import Target
from uwc.studies.provenance import checkpoint_fingerprint

FILES = ("--forget", "forget.jsonl", "--retain", "retain.jsonl", "--max-new-tokens", "0")
ATTACKS = ("--attack", "token_noise", "--attack", "relearn", "--set", "relearn.steps=2", "--set", "relearn.lr=1e-3")
DATA = (*FILES, *ATTACKS, "--attack-calibrated")


def damaged(target: Target, amount: float, *, seed: int) -> Target:
    """The model with noise on its weights: it forgets, and not only what it should."""
    changed = copied(target)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in changed.model.parameters():
            parameter += amount * torch.randn(parameter.shape, generator=generator)
    return changed


def with_adapter(target: Target) -> Target:
    """The model with a low-rank adapter that changes what it says, on one of its two tied embeddings too."""
    adapted = add_adapter(copied(target), rank=2, targets="q_proj,v_proj,embed_tokens")
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
def place(tmp_path_factory: pytest.TempPathFactory, knowing: Target) -> Path:
    """An original, two damaged copies, an adapter, an ignorant model, and files of what to forget and to keep."""
    folder = tmp_path_factory.mktemp("compare")
    models = {"original": knowing, "mild": damaged(knowing, 0.02, seed=1), "strong": damaged(knowing, 0.08, seed=2)}
    for name, target in {**models, "ignorant": tiny_target(hidden_size=64)}.items():
        save_target(target, folder / name)
    with_adapter(knowing).model.save_pretrained(folder / "adapter")
    write_questions(folder / "forget.jsonl", people(4)[:4])
    write_questions(folder / "retain.jsonl", people(4)[4:])
    write_questions(folder / "unknown.jsonl", people(6)[8:])
    return folder


def compare(place: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return run_command("compare", *arguments, cwd=place)


@pytest.fixture(scope="module")
def finished(place: Path) -> dict[str, Any]:
    """The results of a comparison in the folder `done`, uninterrupted."""
    models = ("--original", "original", "--unlearned", "mild", "heavy=strong", "adapter", "--retrained", "ignorant")
    done = compare(place, *models, *DATA, "--out", "done", "--json")
    assert done.returncode == 0, done.stderr
    results: dict[str, Any] = json.loads(done.stdout)
    return results


def by_name(results: dict[str, Any]) -> dict[str, Any]:
    return {u["name"]: u for u in results["unlearned"]}


def hashes(folder: Path) -> dict[str, str]:
    """Hashes of everything that holds a number."""
    kept = [folder / "results.json", *(folder / "store").rglob("*.parquet"), *(folder / "store").rglob("*.jsonl")]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(kept)}


def test_every_model_is_scored_calibrated_and_ranked(finished: dict[str, Any], place: Path) -> None:
    assert finished == json.loads((place / "done" / "results.json").read_text(encoding="utf-8"))
    assert set(finished["ranking"]) == {"mild", "heavy", "adapter"}
    assert [m["name"] for m in finished["models"]] == ["original", "retrained"]
    for record in finished["unlearned"]:
        calibration, after = record["calibration"], record["after"]
        assert after["retain"]["extraction_strength"]["mean"] >= calibration["threshold"]
        low, high = record["intervals"]["forget"]
        assert 0 <= low <= high <= 1
        path = record["frontier"]["forget"]["path"]
        assert path[0]["alpha"] == 0 and path[-1]["alpha"] == 1
        assert path[-1]["forget"] == pytest.approx(record["before"]["forget"]["extraction_strength"]["mean"])
        assert "forget_paraphrased" in record["frontier"]
        assert_one_number_at_tau(record)
    scores = [by_name(finished)[n]["at_tau"]["forget"] for n in finished["ranking"]]
    assert scores == sorted(scores)


def assert_one_number_at_tau(record: dict[str, Any]) -> None:
    """What is ranked is the tau curve's own point, and lies between the measured mixtures on either side of it."""
    at_tau, calibration = record["at_tau"], record["calibration"]
    point = next(p for p in record["frontier"]["forget"]["curve"] if p["tau"] == calibration["tau"])
    assert (at_tau["forget"], at_tau["alpha"]) == (point["forget"], point["alpha"])
    if calibration["alpha"] < 1:
        assert calibration["alpha"] <= at_tau["alpha"] <= calibration["upper"]
        assert at_tau["retain"] == pytest.approx(calibration["threshold"])
    probed = {p["alpha"]: p["forget"] for p in calibration["trace"]}
    ends = sorted((probed[calibration["alpha"]], probed[calibration["upper"]]))
    assert ends[0] - 1e-12 <= at_tau["forget"] <= ends[1] + 1e-12


def test_a_mixture_has_a_hash_of_its_parents_and_alpha(finished: dict[str, Any], place: Path) -> None:
    """SHA-256 of JSON with sorted keys, by hand; the adapter's parent is its folder with its base."""
    steps, base = finished["provenance"]["steps"], checkpoint_fingerprint(str(place / "original"))
    for name, parents in (("mild", ["mild"]), ("heavy", ["strong"]), ("adapter", ["adapter", "original"])):
        first, *rest = [checkpoint_fingerprint(str(place / p), with_base=False) for p in parents]
        content = {
            "alpha": by_name(finished)[name]["calibration"]["alpha"], "original": [base],
            "model": [first, *([r] for r in rest)],
        }  # fmt: skip
        expected = hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
        assert steps[f"calibrate {name}"]["mixture"] == expected
    assert "mixture" not in steps["score mild"]


def test_report_and_markdown_speak_of_given_models(finished: dict[str, Any], place: Path) -> None:
    page = (place / "done" / "report.html").read_text(encoding="utf-8")
    for text in ("The ranking, and how sure it is", "The given models", "The whole frontier", "heavy"):
        assert text in page
    assert "Training settings" not in page and "Methods and settings" not in page
    markdown = (place / "done" / "results.md").read_text(encoding="utf-8")
    assert "| rank | model |" in markdown and "Area under the curve of forget" in markdown


def test_an_adapter_is_scored_as_what_it_computes(finished: dict[str, Any], place: Path, knowing: Target) -> None:
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
    found = by_name(finished)["adapter"]["before"]["forget"]["probability"]["mean"]
    assert found == pytest.approx(expected.scores[0].mean, abs=1e-5)
    assert found < 0.99 * finished["models"][0]["scores"]["forget"]["probability"]["mean"]
    record = by_name(finished)["adapter"]
    alone = uwc.calibrate(place / "original", place / "adapter", forget=people(4)[:4], retain=people(4)[4:])
    assert record["calibration"]["alpha"] == pytest.approx(alone.calibration.alpha)
    assert record["frontier"]["forget"]["path"][-1]["forget"] == pytest.approx(
        record["before"]["forget"]["extraction_strength"]["mean"]
    )


def test_a_second_run_computes_nothing_and_prints_the_ranking(finished: dict[str, Any], place: Path) -> None:
    before = hashes(place / "done")
    models = ("--original", "original", "--unlearned", "mild", "heavy=strong", "adapter", "--retrained", "ignorant")
    again = compare(place, *models, *DATA, "--out", "done")
    assert again.returncode == 0 and "0 to run" in again.stderr
    assert hashes(place / "done") == before
    for text in ("rank", "heavy", "alpha", "report: done/report.html", "Area under the curve"):
        assert text in again.stdout


def test_killed_it_goes_on_and_tells_the_time_left(finished: dict[str, Any], place: Path) -> None:
    """SIGKILL after the first, then after the fourth finished step; the third run ends with the same bits."""
    models = ("--original", "original", "--unlearned", "mild", "heavy=strong", "adapter", "--retrained", "ignorant")
    store = place / "done-again" / "store"
    arguments = command("compare", *models, *DATA, "--out", "done-again")
    for steps in (1, 4):
        process = subprocess.Popen(arguments, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(store.glob("*/manifest.json"))) < steps:
            time.sleep(0.02)
        assert process.poll() is None, "it ended before it could be killed"
        process.kill()
        process.wait()
    last = compare(place, *models, *DATA, "--out", "done-again", "--title", "")
    assert last.returncode == 0, last.stderr
    left = re.search(r"(\d+) to run", last.stderr)
    assert left and int(left[1]) <= 18, "of 22 steps four were done"
    assert "steps left, about" in last.stderr
    found, expected = (hashes(place / name) for name in ("done-again", "done"))
    assert {k: v for k, v in found.items() if k != "results.json"} == {
        k: v for k, v in expected.items() if k != "results.json"
    }
    results = json.loads((place / "done-again" / "results.json").read_text(encoding="utf-8"))
    assert results["unlearned"] == finished["unlearned"] and results["pairs"] == finished["pairs"]


def test_models_and_questions_in_memory_give_the_same_numbers(
    finished: dict[str, Any], place: Path, knowing: Target, tmp_path: Path
) -> None:
    models = {"mild": damaged(knowing, 0.02, seed=1), "heavy": place / "strong", "adapter": with_adapter(knowing)}
    done = uwc.compare(
        knowing, models, forget=people(4)[:4], retain=people(4)[4:], retrained=tiny_target(hidden_size=64),
        attacks=["token_noise", "relearn"], attack_settings={"relearn": {"steps": 2, "lr": 1e-3}}, max_new_tokens=0,
        attack_calibrated=True,
        out=tmp_path / "memory", device="cpu",
    )  # fmt: skip
    assert list(done.ranking["name"]) == finished["ranking"]
    for name, record in by_name(done.results).items():
        if name != "adapter":  # merged before it is written here, and after it is read there
            assert record["calibration"] == by_name(finished)[name]["calibration"]
    assert set(done.ranking.columns) >= {"rank", "name", "forget", "low", "high", "alpha", "retain", "told_apart"}
    curve = done.tau_curve.query("model == 'heavy' and set == 'forget'")
    assert len(curve) == 13 and curve["forget"].between(0, 1).all()
    assert set(done.scores["calibration"]) == {"", "before", "after"}
    under = done.attacks.set_index(["model", "kind", "attack"])["after"]
    assert set(under.index.get_level_values("kind")) == {"unlearned", "calibrated", "retrained"}
    assert under.index.is_unique and len(under) == 2 * (3 + 3 + 1)
    assert set(under.index.get_level_values("attack")) == {"token_noise", "relearn"}
    assert list(done.pairs.columns) == finished["ranking"]
    first, second = finished["ranking"][:2]
    assert done.pairs.loc[first, second] == pytest.approx(1 - done.pairs.loc[second, first])


def test_several_seeds_of_a_method_are_shown_together(place: Path, knowing: Target, tmp_path: Path) -> None:
    models = {"noise@0": place / "mild", "noise@1": damaged(knowing, 0.03, seed=5), "other": place / "strong"}
    data = {"forget": place / "forget.jsonl", "retain": place / "retain.jsonl"}
    done = uwc.compare(
        place / "original", models, attacks=[], **data, template=knowing.template, max_new_tokens=0, out=tmp_path
    )
    group = next(g for g in done.results["groups"] if g["name"] == "noise")
    scores = [r["at_tau"]["forget"] for r in done.results["unlearned"] if r["group"] == "noise"]
    assert group["mean"] == pytest.approx(sum(scores) / 2)
    assert group["sd_seeds"] == pytest.approx(abs(scores[0] - scores[1]) / 2**0.5)
    assert group["se"] == pytest.approx((group["sd_seeds"] ** 2 / 2 + group["se_examples"] ** 2) ** 0.5)
    assert next(g for g in done.results["groups"] if g["name"] == "other")["sd_seeds"] is None
    point = done.method_tau_curve.query("method == 'noise' and set == 'forget' and tau == 0.95").iloc[0]
    assert (point["mean"], point["se"], point["seeds"]) == (group["mean"], group["se"], 2)
    assert "sd between seeds" in (tmp_path / "results.md").read_text(encoding="utf-8")


def remote_code(place: Path, tmp_path: Path) -> str:
    """A copy of the original whose configuration asks for code of its own."""
    folder = tmp_path / "custom"
    save_target(load_target(place / "original"), folder)
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
        (lambda p, t: {"unlearned": {"original": p / "mild"}}, ["cannot be called 'original'"]),
        (lambda p, t: {"unlearned": {"x": p / "nothing-here"}}, ["nothing-here", "there is no such folder"]),
        (lambda p, t: {"unlearned": {"x": remote_code(p, t)}}, ["custom", "--trust-remote-code"]),
        (lambda p, t: {"retrained": remote_code(p, t)}, ["custom", "--trust-remote-code"]),
        (lambda p, t: {"unlearned": {}}, ["runs"]),
        (lambda p, t: {"tau": 1.5}, ["calibrate.tau = 1.5"]),
        (lambda p, t: {"retention_metric": "kl_to_original"}, ["unknown metric to hold fixed"]),
        (lambda p, t: {"rank_by": "perplexity"}, ["unknown metric to rank by 'perplexity'"]),
        (lambda p, t: {"retention_metric": "model_utility"}, ["needs the sets real_authors and world_facts"]),
        (
            lambda p, t: {"further_retain": {"holdout": p / "unknown.jsonl"}},
            ["'holdout' is a set with a part"],
        ),
        (lambda p, t: {"further_retain": {"more": p / "forget.jsonl"}}, ["forget and more sets overlap"]),
        (lambda p, t: {"attacks": ["jailbrake"]}, ["jailbrake", "did you mean 'jailbreak'"]),
        (lambda p, t: {"attack_settings": {"probe": {"epochs": 1}}}, ["'probe', which is not made", "relearn"]),
        (lambda p, t: {"attacks": ["sampling"], "max_new_tokens": 0}, ["rouge_l"]),
        (lambda p, t: {"forget": people(2), "columns": {"question": "q"}}, ["forget is in memory"]),
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
        uwc.compare(place / "original", out=tmp_path / "out", **arguments)
    assert "\n" not in str(refused.value)
    for essential in essentials:
        assert essential in str(refused.value)
    assert not list((tmp_path / "out").rglob("manifest.json"))


def test_retain_data_that_the_original_does_not_know(place: Path) -> None:
    """Refused after the original is scored, before any unlearned model is."""
    done = compare(place, "--original", "ignorant", "--unlearned", "mild", *DATA, "--out", "ignorance")
    line = line_of(done)
    assert "calibration is meaningless: the original model itself scores 0" in line
    assert len(list((place / "ignorance" / "store").glob("*/manifest.json"))) == 1


def test_forget_data_that_the_original_does_not_know_is_a_warning(place: Path) -> None:
    data = ("--forget", "unknown.jsonl", *FILES[2:], "--attack", "none")
    done = compare(place, "--original", "original", "--unlearned", "mild", *data, "--out", "unknown")
    assert done.returncode == 0, done.stderr
    assert "Note: The original model scores only 0" in done.stdout


def test_models_that_do_not_fit_the_original(place: Path, tmp_path: Path) -> None:
    save_target(tiny_target(hidden_size=32), tmp_path / "narrow")
    done = compare(place, "--original", "original", "--unlearned", str(tmp_path / "narrow"), *DATA, "--out", "misfit")
    assert "different architectures" in line_of(done)
    with_adapter(tiny_target(hidden_size=32)).model.save_pretrained(tmp_path / "other")
    done = compare(place, "--original", "original", "--unlearned", str(tmp_path / "other"), *DATA, "--out", "misfit")
    assert "does not fit the model" in line_of(done)


def test_nothing_to_compare(place: Path) -> None:
    assert "give unlearned models with --unlearned" in line_of(compare(place, "--original", "original", *DATA))
