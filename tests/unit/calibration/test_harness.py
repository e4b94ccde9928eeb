"""Tasks of lm-evaluation-harness as retention measures: by the library itself on mixtures of tiny models, and the
draws by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conftest import copied, people
from tests.helpers.harness_tasks import write_tasks
from tests.helpers.probed_sets import frontier_of, probed

import uwc
from uwc.calibration.calibrate import Calibrated
from uwc.calibration.harness import HarnessTask
from uwc.calibration.probed import RESAMPLES, Measured, RetentionCurve
from uwc.errors import ConfigError, UserError
from uwc.metrics.harness import evaluate_task, find_tasks
from uwc.metrics.stats import bootstrap_interval
from uwc.metrics.tasks import HarnessSettings
from uwc.models.mixing import Mixer
from uwc.models.model import Model
from uwc.results import CalibrationResults

pytest.importorskip("lm_eval")
QUESTIONS = people(4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks") / "own", QUESTIONS)


@pytest.fixture(scope="module")
def noisy(knowing: Model) -> Model:
    changed, generator = copied(knowing), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in changed.model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return changed


def measure(label: str, folder: Path) -> HarnessTask:
    (task,) = find_tasks([label], HarnessSettings(include_path=str(folder)), where="tasks")
    return HarnessTask(task)


def calibrated(knowing: Model, noisy: Model, folder: Path, **retention: object) -> CalibrationResults:
    return uwc.calibrate(
        knowing,
        noisy,
        forget=QUESTIONS[:4],
        retention={"sets": [], "tau": 0.8, "scan": 4, "resolution": 0.05, **retention},
        harness={"include_path": str(folder)},
        max_new_tokens=0,
    )


def test_a_measure_is_the_tasks_score_at_each_mixture(knowing: Model, noisy: Model, folder: Path) -> None:
    kept = measure("local_text", folder)
    mixer = Mixer(knowing, copied(noisy))
    kept.begin(mixer.mix(0.0), tau=0.8, early=False)
    reading = kept.probe(mixer.mix(0.5), 0.5, whole=True)
    found = kept.measured()
    scores = [evaluate_task(kept.task, mixer.mix(alpha)).value for alpha in (0.0, 0.5)]
    assert found.values == pytest.approx(scores) and not found.higher
    assert reading.retention == pytest.approx(scores[0] / scores[1]), "low is good"
    assert (found.label, found.n, found.clusters) == ("local_text:word_perplexity", 8, 8)


def test_the_interval_of_alpha_is_that_of_a_bootstrap_over_questions(
    knowing: Model, noisy: Model, folder: Path
) -> None:
    """In each draw of the 8 questions the accuracies of all mixtures, and the largest alpha with 0.8 of the first."""
    found = calibrated(knowing, noisy, folder, tasks=["local_choice"]).calibration
    assert found.at_tau is not None and [k.measure for k in found.kept] == ["local_choice:acc"]
    alphas = sorted({p.alpha for p in found.probes})
    task, mixer = measure("local_choice", folder).task, Mixer(knowing, copied(noisy))
    rows = np.stack([evaluate_task(task, mixer.mix(alpha)).inputs[0].array for alpha in alphas])
    assert {p.alpha: p.retention for p in found.probes} == pytest.approx(
        dict(zip(alphas, rows.mean(axis=1) / rows[0].mean(), strict=True))
    )
    counts = np.random.default_rng(0).multinomial(8, [1 / 8] * 8, RESAMPLES)
    drawn = [largest(alphas, (rows * count).sum(axis=1), 0.8) for count in counts]
    assert found.at_tau.alpha.value == pytest.approx(largest(alphas, rows.sum(axis=1), 0.8))
    ends = (found.at_tau.alpha.low, found.at_tau.alpha.high)
    assert ends == pytest.approx(bootstrap_interval(np.array(drawn), clusters=8))
    assert 0 < found.at_tau.alpha.value < 1 and ends[0] < ends[1]


def largest(alphas: list[float], sums: np.ndarray, tau: float) -> float:
    """The largest alpha at which the line through the ratios to the first is at least tau."""
    ratios = sums / sums[0] if sums[0] else np.ones(len(sums))
    best = max(i for i, r in enumerate(ratios) if r >= tau - 1e-12)
    if best == len(alphas) - 1:
        return alphas[best]
    share = (ratios[best] - tau) / (ratios[best] - ratios[best + 1])
    return alphas[best] + share * (alphas[best + 1] - alphas[best])


def test_tasks_and_sets_together_have_rows_and_files(
    knowing: Model, noisy: Model, folder: Path, tmp_path: Path
) -> None:
    results = uwc.calibrate(
        knowing,
        noisy,
        forget=QUESTIONS[:4],
        retain=QUESTIONS[4:],
        retention={"tasks": ["local_choice", "both", "local_choice:mcc"], "tau": 0.8, "scan": 2, "resolution": 0.2},
        harness={"include_path": str(folder)},
        max_new_tokens=0,
        output_dir=tmp_path,
    )
    rows = {(s.set, s.metric, s.condition): s for s in results.scores}
    for task in ("local_choice", "both"):
        row = rows[task, "lm_eval_acc", "calibrated"]
        kept = next(k for k in results.calibration.kept if k.measure == f"{task}:acc")
        assert row.mean == pytest.approx(kept.value) and row.n == kept.n == 8
    assert [k.n for k in results.calibration.kept] == [4, 8, 8, 8]
    again = Calibrated.load(tmp_path)
    assert again.record() == results.calibration
    assert [s.model_dump_json() for s in again.scores()] == [s.model_dump_json() for s in results.scores]


def test_a_task_without_values_by_question_is_drawn_with_its_standard_error(
    knowing: Model, noisy: Model, folder: Path
) -> None:
    found = calibrated(knowing, noisy, folder, tasks=["local_choice:mcc"]).calibration
    assert found.at_tau is not None and found.kept[0].n == 8
    assert found.at_tau.alpha.low < found.at_tau.alpha.high
    silent = calibrated(knowing, noisy, folder, tasks=["local_choice:brier_score"], tau=0.5).calibration
    assert silent.at_tau is not None and np.isnan(silent.at_tau.alpha.low)


def test_draws_with_standard_errors_by_hand() -> None:
    """0.8 +- 0.02 and 0.6 +- 0.03 for mixtures of 0.4 +- 0.01: errors of original and mixtures are independent, those
    of the mixtures are equal but for their size. The ratio's relative variance is the sum of the two."""
    errors = np.array([0.02, 0.03, 0.01])
    task = Measured("task", True, np.array([0.0, 0.5, 1.0]), np.array([0.8, 0.6, 0.4]), errors=errors, questions=50)
    assert task.by_error and task.clusters == 50 and task.n == 50
    curve = RetentionCurve((task,))
    (drawn,) = curve.resampled(seed=0)
    assert drawn.mean(axis=1) == pytest.approx(task.values, abs=0.004)
    assert drawn.std(axis=1) == pytest.approx(errors, rel=0.1)
    assert abs(np.corrcoef(drawn[0], drawn[1])[0, 1]) < 0.1
    assert np.corrcoef(drawn[1], drawn[2])[0, 1] == pytest.approx(1.0)
    ratios = curve.resampled_ratios(seed=0)
    assert ratios[1].std() == pytest.approx(0.75 * np.hypot(0.02 / 0.8, 0.03 / 0.6), rel=0.1)
    alpha = frontier_of(task, probed([[1.0] * 4] * 3, name="forget")).alpha_estimate(0.75)
    assert alpha.low < alpha.value < alpha.high
    none = Measured("task", True, task.alphas, task.values, errors=np.array([0.02, np.nan, 0.01]), questions=50)
    assert not none.by_error and none.clusters == 0
    assert (none.resampled(lambda _: 0) == none.values[:, np.newaxis]).all()


def test_what_is_refused(knowing: Model, noisy: Model, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"harness\.include_path: '/nowhere' is not a folder"):
        calibrated(knowing, noisy, Path("/nowhere"), tasks=["local_choice"])
    with pytest.raises(ConfigError, match=r"calibrate\.tasks: unknown metric of the task 'local_choice' 'f1'"):
        calibrated(knowing, noisy, folder, tasks=["local_choice:f1"])
    with pytest.raises(ConfigError, match="the task 'forget' has the name of a set"):
        calibrated(knowing, noisy, folder, tasks=["forget"])
    with pytest.raises(ConfigError, match=r"harness\.limit: there is no task"):
        uwc.calibrate(knowing, noisy, forget=QUESTIONS[:4], retain=QUESTIONS[4:], harness={"limit": 3})
    with pytest.raises(ConfigError, match=r"harness: unknown key .*'limits' \(did you mean 'limit'\?\)"):
        uwc.calibrate(knowing, noisy, forget=QUESTIONS[:4], retain=QUESTIONS[4:], harness={"limits": 3})
    monkeypatch.setattr("uwc.metrics.harness.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'uwc\[harness\]'"):
        uwc.calibrate("nowhere", "nowhere either", forget=people(1), retention=uwc.Retention(sets=(), tasks=("mmlu",)))
