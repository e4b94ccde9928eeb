"""`uwc.compare` with other things held fixed: several sets, a metric of which less is better, benchmarks, a utility."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.conftest import people
from tests.pipeline.test_compare import damaged

import uwc
from uwc.models.target import Target
from uwc.workflows.comparison import Comparison

MODELS = {"mild": (0.02, 1), "strong": (0.08, 2)}


def run(knowing: Target, out: Path, **options: Any) -> Comparison:
    models = {name: damaged(knowing, amount, seed=seed) for name, (amount, seed) in MODELS.items()}
    given: dict[str, Any] = {"forget": people(4)[:4], "retain": people(4)[4:6], "attacks": [], "max_new_tokens": 0}
    return uwc.compare(knowing, models, out=out, device="cpu", **{**given, **options})


def alone(knowing: Target, name: str, **options: Any) -> dict[str, Any]:
    """What `uwc.calibrate` finds for one of the models."""
    amount, seed = MODELS[name]
    return uwc.calibrate(knowing, damaged(knowing, amount, seed=seed), forget=people(4)[:4], **options)


def test_each_of_several_sets_keeps_its_share(knowing: Target, tmp_path: Path) -> None:
    """Perplexity may rise to 1 / tau of the original's on each; models are ranked by extraction strength."""
    further = {"others": people(4)[6:]}
    done = run(knowing, tmp_path, further_retain=further, retention_metric="perplexity", tau=0.9)
    for record in done.results["unlearned"]:
        calibration = record["calibration"]
        assert [k["measure"] for k in calibration["kept"]] == ["perplexity on retain", "perplexity on others"]
        for kept, name in zip(calibration["kept"], ("retain", "others"), strict=True):
            assert kept["share"] >= 0.9 - 1e-9
            assert kept["score"] == pytest.approx(record["after"][name]["perplexity"]["mean"], rel=1e-4)
        least = {p["alpha"]: p["retain"] for p in calibration["trace"]}
        assert [p["retain"] for p in record["frontier"]["forget"]["path"]] == pytest.approx(
            [least[a] for a in sorted(least)], abs=1e-9
        )
    strong = next(u for u in done.results["unlearned"] if u["name"] == "strong")
    by_itself = alone(knowing, "strong", retain={"retain": people(4)[4:6], **further}, metric="perplexity", tau=0.9)
    assert strong["calibration"]["alpha"] == pytest.approx(by_itself["alpha"], abs=1 / 64)
    assert 0 < strong["calibration"]["alpha"] < 1
    assert list(done.ranking["forget"]) == sorted(done.ranking["forget"])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "the share of the original's retain PPL and others PPL that calibration keeps" in page
    assert "forget ES left at 0.9 of the original's retain PPL and others PPL" in (tmp_path / "results.md").read_text()


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A stand-in for lm-evaluation-harness whose accuracy is 0.8 minus the weights' mean absolute change."""
    asked: list[str] = []
    library, models, wrappers = (ModuleType(n) for n in ("lm_eval", "lm_eval.models", "lm_eval.models.huggingface"))

    def simple_evaluate(model: Any, tasks: list[str], **_: Any) -> dict[str, Any]:
        asked.extend(tasks)
        weights = next(iter(model.parameters())).detach().abs().mean()
        first.setdefault("weights", float(weights))
        accuracy = 0.8 - abs(float(weights) - first["weights"]) * 50
        return {"results": {"mmlu": {"acc,none": accuracy}}, "higher_is_better": {"mmlu": {"acc": True}}}

    first: dict[str, float] = {}
    library.simple_evaluate = simple_evaluate  # type: ignore[attr-defined]
    wrappers.HFLM = lambda pretrained, **_: pretrained  # type: ignore[attr-defined]
    for name, module in (("lm_eval", library), ("lm_eval.models", models), ("lm_eval.models.huggingface", wrappers)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("uwc.calibration.harness.find_spec", lambda name: object())
    return asked


def test_a_benchmark_is_held_fixed_and_its_missing_spread_is_said(
    knowing: Target, tmp_path: Path, harness: list[str]
) -> None:
    done = run(knowing, tmp_path, retention=["mmlu"], tau=0.9)
    for record in done.results["unlearned"]:
        calibration = record["calibration"]
        (number,) = calibration["numbers"]
        assert number["measure"] == "mmlu:acc" and number["higher"]
        assert len(number["scores"]) == len(record["frontier"]["forget"]["path"])
        at_alpha = sorted(p["alpha"] for p in calibration["trace"]).index(calibration["alpha"])
        assert number["scores"][at_alpha] >= 0.9 * 0.8
        assert {k["measure"] for k in calibration["kept"]} == {"extraction_strength on retain", "mmlu:acc"}
    assert len(harness) == sum(len(u["calibration"]["trace"]) for u in done.results["unlearned"]), "once a mixture"
    assert any("mmlu is one number a model" in n and "only a part" in n for n in done.results["notes"])
    assert "mmlu as it is" in (tmp_path / "results.md").read_text(encoding="utf-8")


def test_a_benchmark_alone_is_held_fixed(knowing: Target, tmp_path: Path, harness: list[str]) -> None:
    """Alpha is where the accuracy has fallen to 0.9 of 0.8, whatever the retain set says, and has no interval."""
    done = run(knowing, tmp_path, retention=["mmlu"], retention_metric=None, tau=0.9)
    for record in done.results["unlearned"]:
        assert [k["measure"] for k in record["calibration"]["kept"]] == ["mmlu:acc"]
        assert record["intervals"]["alpha"] == [None, None] and None not in record["intervals"]["forget"]
    assert 0 < min(u["at_tau"]["alpha"] for u in done.results["unlearned"]) < 1
    assert any("mmlu is one number a model" in n and "have nothing" in n for n in done.results["notes"])
    assert "at 0.9 of the original's mmlu" in (tmp_path / "results.md").read_text(encoding="utf-8")


def test_the_utility_is_held_fixed_as_calibrate_holds_it(knowing: Target, tmp_path: Path) -> None:
    """On answers with wrong ones beside them; alpha has an interval, and is the one that `uwc.calibrate` finds."""
    known = people(4)
    sets = {"real_authors": [known[2], known[5]], "world_facts": [known[3], known[7]]}
    options: dict[str, Any] = {"max_new_tokens": 4, "tau": 0.9}
    options |= {"forget": known[:2], "retain": [known[4], known[6]]}
    done = run(knowing, tmp_path, retention_metric="model_utility", sets=sets, **options)
    strong = next(u for u in done.results["unlearned"] if u["name"] == "strong")
    least = {p["alpha"]: p["retain"] / strong["calibration"]["original"] for p in strong["calibration"]["trace"]}
    path = {p["alpha"]: p["retain"] for p in strong["frontier"]["forget"]["path"]}
    assert path == pytest.approx(least, abs=1e-9), "the harmonic mean of the stored values is the utility measured"
    low, high = strong["intervals"]["alpha"]
    assert low <= strong["at_tau"]["alpha"] <= high and low < high
    amount, seed = MODELS["strong"]
    unlearned = damaged(knowing, amount, seed=seed)
    found = uwc.calibrate(knowing, unlearned, metric="model_utility", utility_sets=sets, **options)
    assert strong["calibration"]["alpha"] == pytest.approx(found["alpha"], abs=1 / 64)
    assert strong["calibration"]["kept"][0]["original"] == pytest.approx(found["kept"][0]["original"], rel=1e-5)
    assert not any("one number a model" in n for n in done.results["notes"])
    assert "at 0.9 of the original's model utility" in (tmp_path / "results.md").read_text(encoding="utf-8")
