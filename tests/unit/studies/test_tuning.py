"""The search for hyper-parameters in a study: trials, what they are scored on, resuming, and the final models."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.small_study import STUDY, run_plan

from uwc.calibration.calibrate import calibrate
from uwc.errors import ConfigError
from uwc.models.mixing import Mixer
from uwc.models.model import Loading
from uwc.results import StudyResults, Trial, Tuning
from uwc.studies import tuning
from uwc.studies.config import StudyConfig
from uwc.studies.context import Context
from uwc.studies.cost import Counter, shape_of
from uwc.studies.plan import Plan, make_plan
from uwc.studies.steps import FineTune, Tune, Unlearn
from uwc.studies.store import Store

TRIALS = 5


def config(**changes: Any) -> StudyConfig:
    given = STUDY.model_dump()
    given["benchmark"]["settings"] |= {"authors": 16, "forget_share": 0.3}
    given["score"] = {"metrics": ["extraction_strength"], "max_new_tokens": 0}
    given["unlearn"]["training"] |= {"epochs": 2, "lr": 5e-4}
    given["unlearn"]["runs"] = [
        {"method": "gd", "name": "gd, own"},
        *({"method": "gd", "name": f"gd@{n}", "group": "gd", "training": {"seed": n}} for n in (1, 2)),
    ]
    given["tune"] = {"trials": TRIALS, "share": 0.5, "runs": ["gd"], "seed": 3}
    return StudyConfig(**{**given, **changes})


def search_of(plan: Plan) -> Tune:
    (step,) = (step for step in plan.steps if isinstance(step, Tune))
    return step


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Store, StudyResults]:
    plan, store = make_plan(config()), Store(tmp_path_factory.mktemp("store"))
    return plan, store, run_plan(plan, store)[0]


@pytest.fixture(scope="module")
def found(finished: tuple[Plan, Store, StudyResults]) -> Tuning:
    (search,) = finished[2].tuning
    return search


def test_subjects_of_trials_are_not_reported(finished: tuple[Plan, Store, StudyResults]) -> None:
    plan, _, _ = finished
    step = search_of(plan)
    for name in ("forget", "retain"):
        theirs, reported = ({e.subject for e in examples} for examples in (step.sets[name], plan.sets[name]))
        assert theirs and reported and not theirs & reported
    assert {e.id for e in step.forget} == {e.id for e in step.sets["forget"]}
    runs = [run.model for run in plan.runs]
    assert all(isinstance(run, Unlearn) and list(run.forget) == list(plan.sets["forget"]) for run in runs)
    learned = {e.id for fine in plan.steps if isinstance(fine, FineTune) for e in fine.answers}
    assert {e.id for e in (*step.forget, *plan.sets["forget"], *step.retain)} <= learned, "the original knows them all"


def test_one_search_for_all_seeds_and_none_for_other_runs(finished: tuple[Plan, Store, StudyResults]) -> None:
    plan, store, results = finished
    own, *seeds = (run.model for run in plan.runs)
    assert isinstance(own, Unlearn) and own.tuned is None
    assert all(isinstance(run, Unlearn) and run.tuned == search_of(plan) for run in seeds)
    values = results.tuning[0].best_trial.values
    for run in results.unlearned[1:]:
        assert (
            run.settings["lr"] == values["training.lr"] and run.settings["batch_size"] == values["training.batch_size"]
        )
        assert run.settings["seed"] == int(run.name[-1])
        assert run.formula == search_of(plan).config.changed(values).composition().formula
    assert results.tuning[0].best > 0, "not the first trial, with the run's own values"
    assert results.unlearned[0].settings["lr"] == 5e-4
    chosen = seeds[0].chosen(store)  # type: ignore[union-attr]
    assert {t.term: t.weight for t in chosen.terms} == {"gradient_ascent": 1.0, "nll": values["weights.nll"]}


def test_the_trials(found: Tuning) -> None:
    assert [trial.number for trial in found.trials] == list(range(TRIALS))
    assert found.trials[0].values == {"training.batch_size": 2, "training.lr": 5e-4, "weights.nll": 1.0}
    assert all(trial.early is not None for trial in found.trials)
    assert all(trial.score is not None for trial in found.trials[:3]), "the first three are never pruned"
    scores = {trial.number: trial.score for trial in found.trials if trial.score is not None}
    assert found.best == min(scores, key=lambda number: (scores[number], number))
    assert len({trial.values["training.lr"] for trial in found.trials}) == TRIALS
    assert (found.subjects, found.questions) == (2, 2) and found.higher_remembers and found.importance == {}


def test_a_score_is_that_of_the_calibrated_model(
    finished: tuple[Plan, Store, StudyResults], found: Tuning, tmp_path: Path
) -> None:
    """By a step that unlearns with the trial's values, and a calibration over the whole grid."""
    plan, store, _ = finished
    step, trial = search_of(plan), found.trials[1]
    run = step.config.changed(trial.values)
    single = Unlearn(
        step.of,
        "single",
        step.original,
        step.loading,
        run.composition().terms,
        None,
        {},
        step.training(run, seed=step.seed),
        None,
        step.forget,
        step.retain,
        (),
    )
    single.run(Context(store), tmp_path)
    original, unlearned = (Loading().plain(str(path / "model")) for path in (store.folder(step.original), tmp_path))
    measures = step.retention.measures(step.sets, max_new_tokens=0)
    sets = {"forget": step.sets["forget"]}
    settings = {"tau": step.retention.tau, "scan": step.retention.scan, "resolution": step.retention.resolution}
    calibrated = calibrate(Mixer(original, unlearned), measures, sets, **settings)  # type: ignore[arg-type]
    assert trial.alpha == calibrated.alpha
    values = calibrated.forget["forget"].row(calibrated.alpha)
    assert values is not None and trial.score == pytest.approx(values.mean(), abs=1e-9)


def test_an_interrupted_search_goes_on(
    finished: tuple[Plan, Store, StudyResults], found: Tuning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, finished_store, _ = finished
    root = tmp_path / "store"
    shutil.copytree(finished_store.root, root)
    shutil.rmtree(Store(root).folder(search_of(plan)))
    attempt, begun = tuning._attempt, list[str]()

    def counted(fails_at: int) -> Callable[..., float | None]:
        def work(*given: Any, name: str) -> float | None:
            begun.append(name)
            if len(begun) == fails_at:
                given[2].suggest_float("training.lr", 6.25e-5, 4e-3, log=True)  # it has begun
                raise KeyboardInterrupt
            return attempt(*given, name=name)

        return work

    monkeypatch.setattr(tuning, "_attempt", counted(4))
    with pytest.raises(KeyboardInterrupt):
        run_plan(make_plan(config()), Store(root))
    begun.clear()
    monkeypatch.setattr(tuning, "_attempt", counted(100))
    results, _ = run_plan(make_plan(config()), Store(root))
    assert begun == [f"trial {number} of {TRIALS}" for number in (4, 5)], "three trials were finished"
    assert results.tuning == (found,)
    assert not Store(root).checkpoints(search_of(plan)).exists()


def test_a_hopeless_trial_is_pruned(
    finished: tuple[Plan, Store, StudyResults], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fourth trial's early score is above the median of the three before."""
    plan, store, _ = finished
    early = iter([0.2, 0.4, 0.3, 0.31, 0.29])
    keep = tuning._keep

    def told(step: Tune, original: Any, trial: Any, sign: float, model: Any) -> float:
        with monkeypatch.context() as changed:
            score = next(early)
            changed.setattr(tuning, "_calibrated", lambda *_: type("Found", (), {"forget_score": score})())
            return keep(step, original, trial, sign, model)

    monkeypatch.setattr(tuning, "_keep", told)
    root = tmp_path / "store"
    shutil.copytree(store.root, root)
    shutil.rmtree(Store(root).folder(search_of(plan)))
    results, _ = run_plan(plan, Store(root))
    trials: tuple[Trial, ...] = results.tuning[0].trials
    assert [trial.score is None for trial in trials] == [False, False, False, True, False]
    assert trials[3].early == 0.31 and trials[3].alpha is None


def test_its_cost_is_that_of_its_trials(finished: tuple[Plan, Store, StudyResults]) -> None:
    plan, _, _ = finished
    counter, step = Counter(plan, shape_of(plan)), search_of(plan)
    cost = counter.cost(step)
    twice = counter.cost(replace(step, search=step.search.model_copy(update={"trials": 2 * TRIALS})))
    once = counter.cost(replace(step, search=step.search.model_copy(update={"prune_at": None})))
    assert twice.parts["training"].flops == 2 * cost.parts["training"].flops > 0
    assert cost.parts["search"].flops == 2 * once.parts["search"].flops > 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"calibrate": None}, "tune: trials are ranked by the calibrated forget score"),
        ({"tune": {"runs": ["npo"]}}, "unknown run 'npo'"),
        ({"tune": {"trials": 1}}, "trials"),
        (
            {"benchmark": {"name": "fictional-authors", "settings": {"authors": 10, "forget_share": 0.1}}},
            "tune.share: the set 'forget': cannot give the trials a share",
        ),
    ],
)
def test_what_a_study_cannot_tune(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(Exception, match=said) as error:
        make_plan(config(**changes))
    assert isinstance(error.value, ConfigError | ValueError)


def test_the_search_is_in_the_key_of_what_it_chooses() -> None:
    plan, more = make_plan(config()), make_plan(config(tune={"trials": 6, "share": 0.5, "runs": ["gd"], "seed": 3}))
    assert [a.model.key == b.model.key for a, b in zip(plan.runs, more.runs, strict=True)] == [True, False, False]
