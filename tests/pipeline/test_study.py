"""Whole studies through the real command line: results, reuse, kills, two runs at once."""

import hashlib
import json
import random
import signal
import time
from pathlib import Path

import pytest
from tests.pipeline.conftest import TINY, Run, Started, run_command, scores_of, validate_result
from transformers import AutoModelForCausalLM, AutoTokenizer


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.yaml").write_text(TINY, encoding="utf-8")
    done = run_command("study", "run", "tiny.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def numbers_in(folder: Path) -> dict[str, str]:
    """Hashes of everything that holds a number: results, weights and scores."""
    kept = [folder / "runs" / "tiny" / "results.json"]
    kept += [p for p in (folder / "runs" / "store").rglob("*") if p.suffix in (".safetensors", ".parquet", ".jsonl")]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(kept)}


def test_results_and_report_are_there(finished: Path) -> None:
    folder = finished / "runs" / "tiny"
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert {u["name"] for u in results["unlearned"]} == set(results["ranking"]) == {"gd", "npo"}
    validate_result(folder / "results.json")
    for record in results["unlearned"]:
        calibration = record["calibration"]
        assert calibration["tau"] == 0.9 and all(kept["ratio"] >= 0.9 for kept in calibration["kept"])
        assert calibration["probes"][0]["retention"] == 1.0
        retain = scores_of(record["calibrated_scores"])["retain", "extraction_strength"]
        assert retain["n"] == 2 and retain["clusters"] == 2
    assert "tiny" in (folder / "report.html").read_text(encoding="utf-8")
    assert "npo" in (folder / "results.md").read_text(encoding="utf-8")


def test_saved_models_load_with_plain_transformers(finished: Path) -> None:
    folders = list((finished / "runs" / "store").glob("unlearn-*/model"))
    assert len(folders) == 2
    for folder in folders:
        model = AutoModelForCausalLM.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        output = model.generate(**tokenizer("Question: Who?", return_tensors="pt"), max_new_tokens=2, do_sample=False)
        assert output.shape[1] > 0


def test_a_second_run_computes_nothing(finished: Path) -> None:
    before = numbers_in(finished)
    again = run_command("study", "run", "tiny.yaml", "--json", cwd=finished)
    assert again.returncode == 0
    assert "0 to run" in again.stderr
    assert json.loads(again.stdout)["study"]["name"] == "tiny"
    assert numbers_in(finished) == before
    run = json.loads((finished / "runs" / "tiny" / "run.json").read_text(encoding="utf-8"))
    assert all(step["reused"] for step in run["steps"]) and run["started"] <= run["ended"] and "T" in run["ended"]


def test_a_changed_setting_repeats_only_what_depends_on_it(finished: Path) -> None:
    arguments = ("study", "plan", "tiny.yaml", "--set", "calibrate.tau=0.8", "--json")
    plan = run_command(*arguments, cwd=finished)
    missing = {step["name"] for step in json.loads(plan.stdout) if step["status"] == "missing"}
    assert missing == {"calibrate gd", "calibrate npo"}
    arguments = ("study", "plan", "tiny.yaml", "--set", "unlearn.runs.1.training.lr=0.01", "--json")
    plan = run_command(*arguments, cwd=finished)
    missing = {step["name"] for step in json.loads(plan.stdout) if step["status"] == "missing"}
    assert missing == {"unlearn npo", "score npo", "calibrate npo"}


def test_seeds_repeat_every_method_and_share_the_rest(finished: Path) -> None:
    arguments = ("study", "plan", "tiny.yaml", "--set", "unlearn.seeds=[0,1]", "--json")
    plan = run_command(*arguments, cwd=finished)
    steps = {step["name"]: step for step in json.loads(plan.stdout)}
    assert {f"unlearn {m}@{s}" for m in ("gd", "npo") for s in (0, 1)} <= set(steps)
    assert steps["unlearn gd@0"]["status"] == "done", "seed 0 is that of the study without seeds"
    assert steps["unlearn gd@1"]["status"] == "missing"
    assert steps["score original"]["status"] == "done"


def test_killed_at_any_moment_it_resumes_and_ends_with_the_same_bits(
    finished: Path, tmp_path: Path, tiny: Path
) -> None:
    """SIGKILL at random moments after the first step has begun, until a run comes through."""
    moments = random.Random(7)
    kills = 0
    for _ in range(2):
        study = Started("study", "run", tiny, cwd=tmp_path)
        while study.running and not any((tmp_path / "runs" / "store").glob("tmp/*")):
            time.sleep(0.02)
        time.sleep(moments.uniform(0.0, 2.0))
        kills += study.end(signal.SIGKILL).returncode == -signal.SIGKILL
    assert kills > 0
    last = run_command("study", "run", tiny, cwd=tmp_path)
    assert last.returncode == 0, last.stderr
    assert numbers_in(tmp_path) == numbers_in(finished)
    assert not list((tmp_path / "runs" / "store" / "tmp").iterdir())


def test_two_runs_at_once_share_the_work(finished: Path, tmp_path: Path, tiny: Path) -> None:
    studies = [Started("study", "run", tiny, cwd=tmp_path) for _ in range(2)]
    done = [study.end() for study in studies]
    outputs = [d.stderr for d in done]
    assert [d.returncode for d in done] == [0, 0], outputs
    assert numbers_in(tmp_path) == numbers_in(finished)
    computed = sum(output.count("done  ") for output in outputs)
    assert computed == 11, "each step is computed once, by one of the two"


def test_a_given_checkpoint_has_the_numbers_of_the_run_that_made_it(finished: Path, uwc: Run) -> None:
    made = {u["name"]: u for u in json.loads((finished / "runs" / "tiny" / "results.json").read_text())["unlearned"]}
    steps = json.loads(uwc("study", "plan", finished / "tiny.yaml", "--runs", finished / "runs", "--json").stdout)
    key = next(step["key"] for step in steps if step["name"] == "unlearn gd")
    runs = f"[{{method: npo}}, {{name: given, checkpoint: {finished}/runs/store/unlearn-{key}/model}}]"
    changes = ("--set", f"unlearn.runs={runs}", "--set", "name=mixed", "--json")
    done = uwc("study", "run", finished / "tiny.yaml", "--runs", finished / "runs", *changes)
    assert done.returncode == 0, done.stderr
    assert "2 to run" in done.stderr, "only the checkpoint's score and calibration"
    found = {u["name"]: u for u in json.loads(done.stdout)["unlearned"]}
    for part in ("scores", "calibration", "calibrated_scores"):
        assert found["given"][part] == made["gd"][part]
    assert found["npo"] == made["npo"]


def test_a_diverging_method_is_reported_and_the_others_are_run(finished: Path, uwc: Run) -> None:
    """A learning rate that overflows float32, and with it the gradient effect: the study goes on.

    It says so in one line, and exits with status 3.
    """
    done = uwc(
        "study", "run", finished / "tiny.yaml", "--runs", finished / "runs", "--set", "name=wild",
        "--set", "unlearn.runs.0.training={lr: 1.0e+30, clip: null, warmup_ratio: 0.0, gradient_effect_every: 1}",
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "training diverged" in done.stderr and "Traceback" not in done.stderr
    results = json.loads((finished / "runs" / "wild" / "results.json").read_text(encoding="utf-8"))
    status = {u["name"]: u["status"] for u in results["unlearned"]}
    assert status == {"gd": "diverged", "npo": "ok"}
    assert set(results["ranking"]) == {"npo"}


def test_local_files_run_the_same_study(uwc: Run, tmp_path: Path) -> None:
    for name, towns in (("forget", ("Vint", "Besk")), ("retain", ("Lyle", "Orm", "Quarn"))):
        rows = [{"prompt": f"Where is {t}'s clock?", "reply": f"It stands in the old hall of {t}"} for t in towns]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    changes = (
        "benchmark.settings.columns={question: prompt, answer: reply}",
        "model.build={hidden_size: 32, layers: 2, heads: 2, vocabulary: 300}",
        "unlearn.runs=[{method: po}]",
        "unlearn.chosen_on=reported",
        "finetune={epochs: 60, lr: 0.01}",
        "score.max_new_tokens=4",
    )
    done = uwc("study", "run", "local-files", "--json", *(part for c in changes for part in ("--set", c)))
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert results["benchmark"]["splits"]["retain_eval"]["examples"] == 1
    assert {"no_paraphrases", "chosen_on_reported"} <= {warning["code"] for warning in results["warnings"]}
