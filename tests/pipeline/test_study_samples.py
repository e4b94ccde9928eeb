"""Sampled answers and multiple choice in a study: one scoring for all metrics and tries, also under attack; the
report's tables; and steps whose keys do not change without them."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.helpers.small_study import STUDY, run_plan

from uwc.errors import ConfigError
from uwc.models import samples
from uwc.reports.page import write_page
from uwc.results import RunRecord, StudyResults
from uwc.studies.config import StudyConfig
from uwc.studies.plan import Plan, make_plan
from uwc.studies.steps import Attack, identity
from uwc.studies.store import Store

METRICS = ("extraction_strength", "leak_at_k", "expected_max", "leak_upper_bound", "choice_accuracy", "letter_accuracy")


def config(**score: object) -> StudyConfig:
    given = STUDY.model_dump(exclude_unset=True)
    given["model"]["build"]["context"] = 512  # options are listed in the question
    given["unlearn"]["runs"] = [{"method": "kl"}]
    given["score"] = {"metrics": METRICS, "max_new_tokens": 40, "samples": {"count": 16, "at_least": 0.5}, **score}
    given["attack"] = {
        "models": ["unlearned"], "attacker": {"forget_share": 0.5}, "examples": 2, "chains": ["prefix"],
        "metrics": ["extraction_strength", "leak_at_k", "letter_accuracy"],
    }  # fmt: skip
    return StudyConfig(**{**given, "calibrate": None})


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(config())


@pytest.fixture(scope="module")
def results(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    drawn: list[int] = []
    sampled = samples.sample

    def counted(*args: object, count: int, **options: object) -> samples.Samples:
        drawn.append(count)
        return sampled(*args, count=count, **options)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples, "sample", counted)
        found, _ = run_plan(plan, Store(tmp_path_factory.mktemp("sampled")))
    sets = [name for name in plan.sets if name in {score.set for score in found.unlearned[0].scores}]
    assert drawn == [16] * (2 * len(sets) + 1), "one sampling for each model and set, and one under attack"
    return found


def test_all_metrics_are_of_the_same_samples(results: StudyResults) -> None:
    (run,) = results.unlearned
    scores = {(s.set, s.metric): s for s in run.scores}
    curves = {c.set: c for c in results.leaks if c.model.run == "kl"}
    assert set(curves) == {s.set for s in run.scores}
    for name, curve in curves.items():
        assert [p.k for p in curve.points] == [1, 2, 4, 8, 16]
        leaks = [p.leak.value for p in curve.points]
        assert leaks == sorted(leaks) and leaks[-1] == pytest.approx(scores[name, "leak_at_k"].mean)
        assert curve.points[-1].largest.value == pytest.approx(scores[name, "expected_max"].mean)
        assert leaks[0] <= curve.bound == pytest.approx(scores[name, "leak_upper_bound"].mean)
    known = next(c for c in results.leaks if c.model.role == "original" and c.set == "forget")
    assert 0 < known.points[0].leak.value < known.points[-1].leak.value, "the original was trained on the answers"


def test_the_chance_level_stands_beside_accuracies(results: StudyResults) -> None:
    chances = {(s.set, s.metric): s.chance or 0.0 for s in results.unlearned[0].scores}
    for metric in ("choice_accuracy", "letter_accuracy"):
        assert 0.1 < chances["forget", metric] <= 0.5
    assert chances["forget", "leak_at_k"] == 0.0, "not known"


def test_leaks_are_measured_under_attack(results: StudyResults) -> None:
    assert results.attacks is not None
    (attacked,) = results.attacks.models
    outcome = attacked.outcome("prefix", "forget", "leak_at_k")
    assert outcome is not None and outcome.after.n == 1
    assert attacked.outcome("prefix", "forget", "letter_accuracy") is not None


def test_the_report_has_the_curve_and_the_chance(results: StudyResults, tmp_path: Path) -> None:
    write_page(results, RunRecord(), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Sampled answers: forget" in page and "k = 16" in page
    assert "chance 0." in page


def test_keys_without_samples_are_those_of_before(plan: Plan) -> None:
    work = plan.original.score.evaluation.work  # type: ignore[attr-defined]
    assert identity(work)["leaks"]["count"] == 16
    assert "leaks" not in identity(replace(work, leaks=None))
    (attack,) = (a.step for a in plan.attacks)
    assert isinstance(attack, Attack) and attack.settings["leaks"]["at_least"] == 0.5
    assert "leaks" not in replace(attack, leaks=None).settings


@pytest.mark.parametrize(
    ("score", "message"),
    [
        ({"samples": {"count": 8}}, "k = 16, and 8 answers are sampled"),
        ({"samples": {"leaks": "secret"}}, "valid: rouge_l"),
        ({"max_new_tokens": 0}, "set score.max_new_tokens to more than 0"),
        ({"metrics": ["extraction_strength"], "samples": {"count": 8}}, "no metric reads sampled answers"),
    ],
)
def test_settings_that_cannot_be_are_refused_when_the_plan_is_made(score: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_plan(config(**score))
