"""`uwc.compare` with other retention constraints: several sets, a metric of which less is better, benchmarks, a
utility."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import people
from tests.helpers.harness_tasks import write_tasks
from tests.pipeline.conftest import validate_result
from tests.pipeline.test_compare import damaged

import uwc
from uwc.models.model import Model
from uwc.results import Calibration, StudyResults, find

MODELS = {"mild": (0.02, 1), "strong": (0.08, 2)}


def run(knowing: Model, out: Path, **options: Any) -> StudyResults:
    models = {name: damaged(knowing, amount, seed=seed) for name, (amount, seed) in MODELS.items()}
    changes = {"score.max_new_tokens": options.pop("max_new_tokens", 0), "model.device": "cpu"}
    given: dict[str, Any] = {"forget": people(4)[:4], "retain": people(4)[4:6], "attacks": [], "overrides": changes}
    results = uwc.compare(knowing, models, output_dir=out, **{**given, **options})
    validate_result(out / "results.json")
    return results


def alone(knowing: Model, name: str, **options: Any) -> Calibration:
    """The calibration of one of the models by `uwc.calibrate`."""
    amount, seed = MODELS[name]
    given: dict[str, Any] = {"forget": people(4)[:4], "retain": people(4)[4:6]} | options
    return uwc.calibrate(knowing, damaged(knowing, amount, seed=seed), **given).calibration


def calibrations(done: StudyResults) -> dict[str, Calibration]:
    found = {u.name: u.calibration for u in done.unlearned}
    assert None not in found.values()
    return found  # type: ignore[return-value]


def of_forget(found: Calibration) -> str:
    """All numbers but those of the paraphrased questions, which `uwc.calibrate` does not score."""
    further = {"forget_paraphrased": True}
    return found.model_dump_json(exclude={"frontier": further, "at_tau": {"scores": further}})


def codes(done: StudyResults) -> dict[str, str]:
    return {w.code: w.text for w in done.warnings}


def test_each_of_several_sets_keeps_its_ratio(knowing: Model, tmp_path: Path) -> None:
    """Perplexity may rise to 1 / tau of the original's on each; models are ranked by extraction strength."""
    further = {"others": people(4)[6:]}
    options: dict[str, Any] = {
        "retain": {"retain": people(4)[4:6], **further},
        "retention": {"metric": "perplexity", "tau": 0.9},
    }
    done = run(knowing, tmp_path, **options)
    for model in done.unlearned:
        calibration = model.calibration
        assert calibration is not None
        assert [k.measure for k in calibration.kept] == ["perplexity on retain", "perplexity on others"]
        for kept, name in zip(calibration.kept, ("retain", "others"), strict=True):
            assert kept.ratio == pytest.approx(kept.original / kept.value) and kept.ratio >= 0.9 - 1e-9
            scored = find(model.calibrated_scores, name, "perplexity")
            assert scored is not None and kept.value == pytest.approx(scored.mean, rel=1e-9)
        least = {p.alpha: p.retention for p in calibration.probes}
        assert {p.alpha: p.retention for p in calibration.frontier["forget"].path} == least
    strong = calibrations(done)["strong"]
    by_itself = alone(knowing, "strong", **options)
    assert of_forget(strong) == of_forget(by_itself)
    assert 0 < strong.alpha < 1
    assert done.retention is not None
    assert done.retention.measures == ("retain PPL", "others PPL")


def test_a_benchmark_is_kept_and_scored(knowing: Model, tmp_path: Path) -> None:
    """Each mixture keeps 0.9 of the accuracy, as `uwc.calibrate` finds it; every model has the accuracy as a score."""
    folder = write_tasks(tmp_path / "tasks", people(4))
    harness = {"include_path": str(folder)}
    retention = {"tasks": ["local_choice"], "tau": 0.9}
    done = run(
        knowing,
        tmp_path / "out",
        retention=retention,
        tasks=["local_choice", "local_answer"],
        harness=harness,
        metrics=["extraction_strength"],
    )
    for name, found in calibrations(done).items():
        assert [k.measure for k in found.kept] == ["extraction_strength on retain", "local_choice:acc"]
        assert all(k.ratio >= 0.9 - 1e-12 for k in found.kept)
        scored = find(done.run(name).calibrated_scores, "local_choice", "lm_eval_acc")
        assert scored is not None and scored.mean == pytest.approx(found.kept[1].value) and scored.n == 8
    assert done.retention is not None
    assert done.retention.without_interval == done.retention.by_standard_error == ()
    assert of_forget(calibrations(done)["strong"]) == of_forget(
        alone(knowing, "strong", retention=retention, harness=harness)
    )
    original = done.reference("original")
    assert original is not None and done.sets["local_answer"].examples == 8
    alone_scored = uwc.score(knowing, tasks=["local_choice", "local_answer"], harness=harness)
    assert [s for s in original.scores if s.set in ("local_choice", "local_answer")] == list(alone_scored.scores)
    assert done.metrics["lm_eval_acc"] == alone_scored.metrics["lm_eval_acc"]
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "acc (lm-eval)" in report and "exact_match (lm-eval)" in report


def test_a_number_of_ones_own_is_kept_and_its_missing_spread_is_said(knowing: Model, tmp_path: Path) -> None:
    """Alpha is where it has fallen to 0.9 of 0.8, whatever the retain set says, and has no interval."""
    first = next(iter(knowing.model.parameters())).detach().abs().mean()

    def benchmark(model: Model) -> float:
        weights = next(iter(model.model.parameters())).detach().abs().mean()
        return 0.8 - abs(float(weights - first)) * 50

    done = run(knowing, tmp_path, retention={"tasks": [benchmark], "sets": [], "tau": 0.9})
    for found in calibrations(done).values():
        assert [k.measure for k in found.kept] == ["benchmark"] and found.at_tau is not None
        assert np.isnan([found.at_tau.alpha.low, found.at_tau.alpha.high]).all()
        score = found.at_tau.scores["forget"]
        assert score.low <= score.value <= score.high
    assert done.retention is not None and done.retention.without_interval == ("benchmark",)
    assert 0 < min(c.at_tau.alpha.value for c in calibrations(done).values() if c.at_tau) < 1
    assert any("benchmark" in text for text in codes(done).values())


def test_the_utility_is_kept_as_calibrate_keeps_it(knowing: Model, tmp_path: Path) -> None:
    """On answers with wrong ones beside them; alpha has an interval, and is the one that `uwc.calibrate` finds."""
    known = people(4)
    sets = {"real_authors": [known[2], known[5]], "world_facts": [known[3], known[7]]}
    options: dict[str, Any] = {"retention": {"metric": "model_utility", "tau": 0.9}, "max_new_tokens": 4}
    options["forget"], retain = known[:2], [known[4], known[6]]
    done = run(knowing, tmp_path, metrics=["model_utility"], retain=retain, sets=sets, **options)
    strong = calibrations(done)["strong"]
    assert strong.at_tau is not None and strong.at_tau.alpha.low < strong.at_tau.alpha.high
    assert strong.at_tau.alpha.low <= strong.at_tau.alpha.value <= strong.at_tau.alpha.high
    path = {p.alpha: p.retention for p in strong.frontier["forget"].path}
    assert path == pytest.approx({p.alpha: p.retention for p in strong.probes}, abs=1e-12)
    assert of_forget(strong) == of_forget(alone(knowing, "strong", retain={"retain": retain, **sets}, **options))
    utility = next(s for s in done.run("strong").calibrated_scores if s.metric == "model_utility")
    assert utility.mean == pytest.approx(strong.kept[0].value, rel=1e-9)
    assert done.retention is not None and done.retention.measures == ("model utility",)
    assert done.retention.without_interval == ()
