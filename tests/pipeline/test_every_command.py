"""What holds for the outputs of every command: warnings on few clusters, and no path of the user's machine."""

import json
from contextlib import chdir
from pathlib import Path

import pytest
from tests.conftest import people, tiny_model
from typer.testing import CliRunner

from uwc.cli.main import app
from uwc.models.load import save_model
from uwc.models.model import Model

TEXTS = (".json", ".jsonl", ".md", ".html", ".txt", ".yaml")
COMMANDS = (
    "score",
    "calibrate",
    "attack",
    "compare",
    "check",
    "study",
    "robustness",
    "texts",
    "judge",
    "audit",
    "leaks",
    "unlearn",
)
RESULTS = {
    "score": "score.json",
    "calibrate": "calibration.json",
    "attack": "attack.json",
    "compare": "results.json",
    "check": "unlearned/check.json",
    "study": "compare/results.json",
    "robustness": "robustness.json",
    "texts": "score.json",
    "judge": "judge.json",
    "audit": "audit.json",
    "leaks": "audit.json",
}
"""Command -> its file; unlearning has no interval."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, knowing: Model) -> Path:
    """Models and files, whose questions are about two people, or four."""
    folder = tmp_path_factory.mktemp("a place")
    save_model(knowing, folder / "models" / "original")
    save_model(tiny_model(hidden_size=64), folder / "models" / "unlearned")
    names = ("id", "question", "answer", "subject", "paraphrased_question")
    for name, part in (("forget", people(4)[:4]), ("retain", people(4)[4:]), ("all", people(4))):
        rows = [{n: getattr(e, n) for n in names} for e in part]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        labelled = [{**row, "output": row["answer"] * (i % 2), "label": i < 2} for i, row in enumerate(rows)]
        (folder / "labels.jsonl").write_text("\n".join(map(json.dumps, labelled)), encoding="utf-8")
    points = [
        {"checkpoint": str(folder / f"m{i}"), "metric": "probability", "attack": "relearn", "split": "forget"}
        | {"before": i / 4, "after": i / 5}
        for i in range(4)
    ]
    (folder / "points.jsonl").write_text("\n".join(map(json.dumps, points)), encoding="utf-8")
    log = {"forget_Q_A_Prob": {"value_by_index": {str(i): {"prob": 0.5, "avg_loss": 0.7} for i in range(4)}}}
    policy = "name: mine\nrequirements: [{name: forgotten, metric: ES, attack: prefix, at_most: 0.9}]\n"
    (folder / "mine.yaml").write_text(policy, encoding="utf-8")
    (folder / "log.json").write_text(json.dumps(log), encoding="utf-8")
    return folder


def arguments(command: str, folder: Path, out: Path) -> list[str]:
    forget, retain = str(folder / "forget.jsonl"), str(folder / "retain.jsonl")
    original, unlearned = str(folder / "models" / "original"), str(folder / "models" / "unlearned")
    both, quick = ["--forget", forget, "--retain", retain], ["--set", "score.max_new_tokens=0"]
    short = ["--set", "score.max_new_tokens=4"]
    attack = ["--attack", "token_noise", "--metric", "ES"]
    policy = ["--policy", str(folder / "mine.yaml")]
    of_study = {
        "benchmark.settings.forget": forget,
        "benchmark.settings.retain": retain,
        "model.path": original,
        "unlearn.runs.0.checkpoint": unlearned,
        "attack.chains": "[token_noise]",
        "attack.settings": "{}",
    }
    return {
        "score": ["score", unlearned, "--data", forget, "--original", original, *quick],
        "calibrate": ["calibrate", original, unlearned, *both, "--save", str(out / "mixed"), *quick],
        "attack": ["attack", unlearned, "--data", forget, *attack, "--points", str(out / "points.jsonl"), *quick],
        "compare": ["compare", "--original", original, "--unlearned", unlearned, *both, *attack, *quick],
        "check": ["check", unlearned, "--original", original, *both, *quick, *policy, "--undecided", "pass"],
        "study": ["study", "run", "compare", *quick, *(f"--set={key}={value}" for key, value in of_study.items())],
        "robustness": ["robustness", str(folder / "points.jsonl")],
        "texts": ["score", "--outputs", str(folder / "log.json")],
        "judge": ["judge", "--labels", str(folder / "labels.jsonl"), "--metric", "exact_match"],
        "audit": ["audit", unlearned, "--against", original, "--forget", str(folder / "all.jsonl"), *short],
        "leaks": ["audit", unlearned, "--budget", "3", "--forget", forget, *short],
        "unlearn": ["unlearn", original, "--method", "gd", *both, "--set", "training.batch_size=2"],
    }[command] + ["-o", str(out)]


@pytest.fixture(scope="module", params=COMMANDS)
def done(request: pytest.FixtureRequest, folder: Path) -> tuple[str, Path]:
    """A command, and the folder with its outputs, carried out in another folder."""
    command, out = request.param, folder / f"out-{request.param}"
    (elsewhere := folder / "elsewhere").mkdir(exist_ok=True)
    with chdir(elsewhere):
        result = CliRunner().invoke(app, arguments(command, folder, out), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return command, out


def test_fewer_than_five_clusters_are_a_warning(done: tuple[str, Path]) -> None:
    command, out = done
    if command in RESULTS:
        found = json.loads((out / RESULTS[command]).read_text(encoding="utf-8"))
        assert "few_clusters" in {warning["code"] for warning in found["warnings"]}


def test_no_absolute_path_is_in_the_outputs(done: tuple[str, Path], folder: Path) -> None:
    _, out = done
    texts = [path for path in out.rglob("*") if path.suffix in TEXTS and "store" not in path.parts]
    assert texts
    for path in texts:
        for known in (str(folder), str(folder.resolve()), str(Path.home())):
            at = path.read_text(encoding="utf-8").find(known)
            assert at < 0, f"{path}: {path.read_text(encoding='utf-8')[max(0, at - 100) : at + 200]}"
