"""What trackers get: TensorBoard is read back; wandb and trackio are stand-ins that record what they are told."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.conftest import copied, people
from tests.helpers.results_factory import attacked_results, study_results
from tests.helpers.small_study import STUDY, run_plan

import uwc
from uwc import progress
from uwc.errors import ConfigError
from uwc.studies.config import StudyConfig
from uwc.studies.plan import make_plan
from uwc.studies.store import Store
from uwc.tracking import TRACKERS, Trackers
from uwc.training.loop import TrainingLog

FORGET, RETAIN = people(4)[:4], people(4)[4:]
TRAINING = {"epochs": 1, "batch_size": 2, "lr": 1e-4, "warmup_ratio": 0}


class StandIn(ModuleType):
    """A module with the interface that wandb and trackio share; `broken` names the calls that fail."""

    def __init__(self, name: str, broken: str = "") -> None:
        super().__init__(name)
        self.broken, self.runs = broken, list[Any]()

    def init(self, **given: Any) -> Any:
        self.runs.append(ModuleType("run"))
        run = self.runs[-1]
        run.given, run.logged, run.finished = given, [], False
        run.log = lambda values, step: self.act("log", lambda: run.logged.append((step, values)))
        run.finish = lambda: self.act("finish", lambda: setattr(run, "finished", True))
        self.act("init", lambda: None)
        return run

    def finish(self) -> None:
        self.runs[-1].finish()

    def act(self, call: str, done: Any) -> None:
        print("a line of the library")
        if call == self.broken:
            raise OSError("no route to host")
        done()

    def Table(self, dataframe: Any) -> Any:
        return dataframe


@pytest.fixture(params=["wandb", "trackio"])
def service(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    module = StandIn(request.param)
    monkeypatch.setitem(sys.modules, request.param, module)
    return module


def read_events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Tag -> step -> value of the events in a folder."""
    events = read_events(folder)
    return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


@pytest.mark.slow
def test_tensorboard_has_every_step_of_a_training(knowing: uwc.Model, tmp_path: Path) -> None:
    given: Any = {"forget": FORGET, "retain": RETAIN, "training": TRAINING, "output_dir": tmp_path / "gd"}
    done = uwc.unlearn(knowing, "gd", **given, log_to="tensorboard")
    again = uwc.unlearn(knowing, "gd", **given, log_to="tensorboard", overwrite=True)
    assert again.log == done.log
    found = scalars(tmp_path / "gd" / "tensorboard" / "unlearn gd")
    for name, values in {"loss": done.log.loss, "lr": done.log.lr, "gradient_norm": done.log.gradient_norm}.items():
        assert found[f"train/{name}"] == pytest.approx(dict(zip(done.log.step, values, strict=True)))
    assert {"train/gradient_ascent", "train/nll"} <= set(found) and done.collapse is not None
    assert found["train/perplexity_after"] == {done.steps: pytest.approx(done.collapse.after)}


def test_a_study_is_a_run_for_each_model_and_one_with_its_table(service: StandIn, tmp_path: Path) -> None:
    results = study_results(attacks=attacked_results().attacks)
    Trackers(service.__name__, folder=tmp_path, group="example").results(results)
    logged = {run.given["name"]: run.logged for run in service.runs}
    assert set(logged) == {key.label for key, _ in results.scored()} | {results.study.name}
    assert all(run.finished and run.given["group"] == "example" for run in service.runs)
    [(step, npo)] = logged["npo, calibrated"]
    ranked = results.ranked()[0]
    assert (step, npo["ranking/rank"], npo["ranking/alpha"]) == (0, ranked.rank, ranked.alpha.value)
    assert npo["forget/extraction_strength"] == pytest.approx(0.04)
    assert npo["forget/extraction_strength_low"] <= npo["forget/extraction_strength"]
    attacked = next(model for model in results.attacks.models if model.model.label in logged)
    outcome = attacked.outcomes[0]
    name = f"{outcome.attack.replace('+', '_')}/{outcome.set}_{outcome.metric}"
    assert logged[attacked.model.label][0][1][name] == outcome.after.mean
    [(_, table)] = logged[results.study.name]
    assert list(table["table"]["name"]) == [row["name"] for row in results.table()]
    settings = next(run.given["config"] for run in service.runs if run.given["name"] == "npo")
    assert settings["method"] == "npo" and settings["tau"] == 0.95


def test_every_result_is_logged(service: StandIn, knowing: uwc.Model) -> None:
    log_to = service.__name__
    scores = uwc.score(knowing, FORGET, metrics="ES", log_to=log_to)
    assert service.runs[-1].logged[0][1]["forget/extraction_strength"] == scores.scores[0].mean
    found = uwc.calibrate(knowing, copied(knowing), forget=FORGET, retain=RETAIN, curve=False, log_to=log_to)
    alphas = {run.given["config"]["condition"]: run.logged[0][1].get("alpha") for run in service.runs[1:]}
    assert alphas == {"original": None, "as delivered": None, "calibrated": found.calibration.alpha}
    attacked = uwc.attack(knowing, FORGET, "jailbreak", log_to=log_to)
    outcome = attacked.attacks.models[0].outcomes[0]
    assert service.runs[-1].logged[0][1]["jailbreak/forget_extraction_strength"] == outcome.after.mean


def test_paths_and_numbers_that_are_not_finite_are_left_out(service: StandIn, tmp_path: Path) -> None:
    model = tmp_path / "secret" / "model"
    model.mkdir(parents=True)
    with Trackers(service.__name__, folder=tmp_path).run(
        "r", {"model": str(model), "more": {"path": [str(model)]}}
    ) as run:
        run.step({"step": 3, "loss": 1.5, "nll(forget)": float("nan"), "dual kl(retain)": 2.0})
    assert str(tmp_path) not in str(service.runs[0].given)
    assert service.runs[0].logged == [(3, {"train/loss": 1.5, "train/dual_kl_retain": 2.0})]


def test_tensorboard_has_settings_and_the_table_of_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    results = study_results()
    Trackers("tensorboard", folder=tmp_path, group="group").results(results)
    events = read_events(tmp_path / "logs" / "group" / "npo, calibrated")
    assert b"method" in events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    [table] = read_events(tmp_path / "logs" / "group" / results.study.name).Tensors("table/text_summary")
    assert all(name.encode() in table.tensor_proto.string_val[0] for name in results.ranking)


@pytest.mark.parametrize("call", ["init", "log", "finish"])
def test_a_tracker_that_fails_is_left_out_with_one_warning(
    service: StandIn, call: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.broken = call
    progress.warned.clear()
    trackers = Trackers([service.__name__, "tensorboard"], folder=tmp_path)
    trackers.results(study_results())
    told = capsys.readouterr()
    assert len(service.runs) == 1 and told.out == ""
    assert told.err.count("no route to host") == 1 and service.__name__ in told.err
    assert scalars(tmp_path / "tensorboard" / "npo, calibrated")["ranking/rank"] == {0: 1}


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_missing_library_is_reported_before_any_work(tracker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, TRACKERS[tracker], None)
    for command in (
        lambda: uwc.score("nowhere", "nothing.jsonl", log_to=tracker),
        lambda: uwc.unlearn("nowhere", "gd", forget="nothing.jsonl", output_dir="/dev/null", log_to=[tracker]),
        lambda: uwc.run_study("quickstart", runs_dir="/dev/null", log_to=tracker),
    ):
        with pytest.raises(ConfigError, match=rf"pip install 'uwc\[{tracker}\]'"):
            command()
    with pytest.raises(ConfigError, match="tensorboard"):
        uwc.score("nowhere", "nothing.jsonl", log_to="tensorbord")


@pytest.mark.slow
def test_trackers_change_no_result_and_get_cached_trainings_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = StandIn("wandb")
    monkeypatch.setitem(sys.modules, "wandb", module)
    settings = {
        **STUDY.model_dump(mode="json"),
        "finetune": {"epochs": 2, "batch_size": 16},
        "unlearn": {"training": {"batch_size": 1, "warmup_ratio": 0.0}, "runs": [{"method": "kl"}]},
        "calibrate": None,
    }
    plan = make_plan(StudyConfig(**settings))

    def run(store: Path, names: str = "") -> tuple[str, dict[str, Any]]:
        module.runs.clear()
        results, _ = run_plan(plan, Store(store), Trackers([names] if names else [], group=plan.config.name))
        return results.to_json(), {run.given["name"]: run.logged for run in module.runs}

    live, logged = run(tmp_path / "one", "wandb")
    assert run(tmp_path / "two") == (live, {})
    assert run(tmp_path / "two", "wandb") == (live, logged)
    assert list(logged) == ["fine-tune original", "unlearn kl"]
    steps = [step for step, _ in logged["unlearn kl"]]
    assert steps == [*range(1, len(steps)), len(steps) - 1]
    assert "train/perplexity_after" in logged["unlearn kl"][-1][1]


def test_a_resumed_training_is_logged_from_its_first_step() -> None:
    told: list[float] = []
    log = TrainingLog(on_step=lambda entry: told.append(entry["step"]))
    log.steps[:] = [{"step": 1}, {"step": 2}]  # from a checkpoint
    for step in (3, 4):
        log.steps.append({"step": step})
        log.tell()
    assert told == [1, 2, 3, 4]
