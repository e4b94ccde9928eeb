"""A study holds the original once for the steps that only read it, and no longer than it is of use."""

import gc
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import copied, people, tiny_model
from tests.helpers.small_study import STUDY, run_plan

from uwc.models import mixtures
from uwc.models.model import Model
from uwc.models.weights import StoredOtherwise
from uwc.objectives.methods import METHODS
from uwc.objectives.objective import Objective
from uwc.results import StudyResults
from uwc.studies import context
from uwc.studies.config import StudyConfig
from uwc.studies.context import ModelCache
from uwc.studies.plan import make_plan
from uwc.studies.store import Store
from uwc.training import unlearn as unlearning
from uwc.training.data import TrainingData
from uwc.training.forward import frozen_copy, needs_frozen_copy
from uwc.training.loop import train
from uwc.training.settings import LoraSettings, SampleSettings, TrainingSettings


def run_study(study: StudyConfig, folder: Path, begun: Path | None = None) -> StudyResults:
    """The results of a study whose store is the folder; a store that is given has the original already."""
    for step in () if begun is None else (*begun.glob("build-*"), *begun.glob("finetune-*")):
        shutil.copytree(step, folder / step.name)
    return run_plan(make_plan(study), Store(folder))[0]


def weights_in(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.safetensors"))}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> tuple[list[weakref.ref[Any]], dict[str, int]]:
    """Every load of the original, and how many of them were still in memory when each run began to train."""
    originals: list[weakref.ref[Any]] = []
    alive: dict[str, int] = {}
    load, unlearn = context.load_model, unlearning.unlearn

    def loaded(path: str, **options: Any) -> Model:
        model = load(path, **options)
        if options["name"] == "original":
            originals.append(weakref.ref(model.model))
        return model

    def watched(model: Model, method: Any, *arguments: Any, **options: Any) -> Any:
        gc.collect()
        alive[method.name] = sum(o() is not None for o in originals)
        return unlearn(model, method, *arguments, **options)

    monkeypatch.setattr(context, "load_model", loaded)
    monkeypatch.setattr(unlearning, "unlearn", watched)
    return originals, alive


@pytest.mark.slow
def test_runs_share_one_frozen_original_and_end_with_the_same_bits(
    counted: tuple[list[weakref.ref[Any]], dict[str, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    originals, alive = counted
    shared = run_study(STUDY, tmp_path / "shared")
    gc.collect()
    assert alive == {"kl": 2, "rmu": 2, "gd": 1, "npo-kl": 2}, "the trained model, and the frozen one where it is read"
    assert not any(o() is not None for o in originals), "nothing is held once the study has ended"
    assert len(originals) == 4 + 2, "one to train each run, and the shared one, again after gd had no use for it"

    def never(_cache: ModelCache, _key: Any, make: Callable[[], Any]) -> Any:
        return make()

    monkeypatch.setattr(ModelCache, "get", never)
    alone = run_study(STUDY, tmp_path / "alone", begun=tmp_path / "shared")
    assert alone.to_dict() == shared.to_dict()
    assert weights_in(tmp_path / "alone") == weights_in(tmp_path / "shared")


@pytest.mark.slow
def test_a_frozen_copy_in_the_precision_of_training_is_shared_too(
    counted: tuple[list[weakref.ref[Any]], dict[str, int]], tmp_path: Path
) -> None:
    """Scores are still taken against the original in its own precision, which is not held while a run trains."""
    originals, alive = counted
    training = {"epochs": 1, "batch_size": 2, "lr": 1e-3, "precision": "bf16", "warmup_ratio": 0.0}
    unlearn = {"training": training, "runs": [{"method": "kl"}, {"method": "rmu"}]}
    run_study(StudyConfig(**{**STUDY.model_dump(), "unlearn": unlearn}), tmp_path)
    assert alive == {"kl": 2, "rmu": 2}
    assert len(originals) == 2 + 1 + 3, "one to train each run, one frozen, and one after another to score with"


@pytest.mark.slow
def test_mixtures_are_read_from_files_and_equal_those_made_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = StudyConfig(**{**STUDY.model_dump(), "unlearn": {**STUDY.unlearn.model_dump(), "runs": [{"method": "gd"}]}})
    mixed_by: list[str] = []
    for name in ("StreamedMixer", "Mixer"):
        made = getattr(mixtures, name)
        monkeypatch.setattr(
            mixtures, name, lambda *a, made=made, name=name, **k: (mixed_by.append(name), made(*a, **k))[1]
        )
    streamed = run_study(one, tmp_path / "streamed")
    assert mixed_by == ["StreamedMixer"]

    def stored_otherwise(*_: Any, **__: Any) -> Any:
        raise StoredOtherwise("named otherwise")

    monkeypatch.setattr(mixtures, "StreamedMixer", stored_otherwise)
    assert run_study(one, tmp_path / "in-memory", begun=tmp_path / "streamed").to_dict() == streamed.to_dict()
    assert mixed_by == ["StreamedMixer", "Mixer"]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("method", ["npo-kl", "rmu", "undial"])
def test_a_frozen_copy_given_is_as_good_as_one_made(method: str, precision: str, knowing: Model) -> None:
    settings = TrainingSettings(epochs=2, batch_size=2, lr=1e-3, precision=precision)  # type: ignore[arg-type]
    data = TrainingData(people(4)[:4], people(4)[4:])
    given = frozen_copy(copied(knowing).model, settings)
    results = []
    for frozen in (None, given, given):
        model = copied(knowing)
        train(model, Objective(METHODS[method], model.model), data, settings, frozen=frozen)
        results.append(torch.cat([p.detach().flatten() for p in model.model.parameters()]))
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    expected = torch.float32 if precision == "no" else torch.bfloat16
    assert {p.dtype for p in given.parameters()} == {expected}
    assert {b.dtype for b in given.buffers()} == {torch.float32}, "positions are not rounded"
    assert not any(p.requires_grad for p in given.parameters())


@pytest.mark.parametrize(
    ("method", "settings", "needed"),
    [
        ("gd", {}, False),
        ("npo", {}, False),
        ("dpo", {}, False),
        ("tnpo", {}, False),
        ("kl", {}, True),
        ("rmu", {}, True),
        ("undial", {}, True),
        ("rmu-long", {}, False),
        ("kl", {"lora": LoraSettings()}, False),
        ("npo-on-policy", {}, False),
        ("npo-on-policy", {"samples": SampleSettings(every=2)}, True),
        ("altpo-on-policy", {"samples": SampleSettings(every=2)}, True),
        ("npo", {"samples": SampleSettings(every=2)}, False),
    ],
)
def test_a_second_copy_is_held_only_where_a_term_reads_it(method: str, settings: Any, needed: bool) -> None:
    objective = Objective(METHODS[method], tiny_model().model)
    assert needs_frozen_copy(objective, TrainingSettings(**settings)) is needed
