"""The studies of published experiments: planned on the real TOFU, with a small model of as many blocks."""

from pathlib import Path

import pytest
from tests.conftest import people
from tests.helpers.hub_copies import REAL

from uwc.studies.config_file import load_config
from uwc.studies.plan import Plan, make_plan

BLOCKS = {"paper-tofu-phi": 24, "paper-tofu-llama2": 32, "open-unlearning-tofu": 16, "tofu-forget10": 16}
QUESTIONS = {"forget01": 40, "forget05": 200, "forget10": 400}
SIX = ["ga", "gd", "kl", "po", "npo", "rmu"]

pytestmark = pytest.mark.skipif(not (REAL / "tofu_full").is_dir(), reason="TOFU's files are not there")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Number of blocks -> the folder of a model of that depth."""
    from uwc.models.load import build_model, save_model

    found = {}
    for blocks in set(BLOCKS.values()):
        found[blocks] = tmp_path_factory.mktemp("models") / str(blocks)
        model = build_model(people(), vocabulary=300, hidden_size=4, layers=blocks, heads=1, context=64, seed=0)
        save_model(model, found[blocks])
    return found


def planned(name: str, forget: str, model: Path) -> Plan:
    changes = {
        "benchmark.settings.forget": forget,
        "benchmark.settings.path": str(REAL / "tofu_full"),
        "benchmark.settings.holdout": False,
        "model.path": str(model),
    }
    if isinstance(load_config(name).retrained, str):
        changes["retrained"] = str(model)
    return make_plan(load_config(name, overrides=changes))


@pytest.mark.parametrize("forget", QUESTIONS)
@pytest.mark.parametrize("name", BLOCKS)
def test_every_share_can_be_planned(name: str, forget: str, models: dict[int, Path]) -> None:
    plan = planned(name, forget, models[BLOCKS[name]])
    sets = plan.scoring.given.sets
    assert len(sets["forget"]) == len(sets["forget_paraphrased"]) == QUESTIONS[forget]
    assert len(sets["retain"]) == 400
    assert len(plan.benchmark["retain"]) == 4000 - QUESTIONS[forget] - 400
    assert len(plan.runs) >= 6


def test_tofu_in_portions(models: dict[int, Path]) -> None:
    """The smaller forget sets are those of their own files."""
    names = list(QUESTIONS)
    changes = {
        "benchmark.settings": {"forget": "forget10", "path": str(REAL / "tofu_full"), "holdout": False},
        "model.path": str(models[16]),
        "unlearn.scale": names,
        "unlearn.sequence": {"splits": names},
        "unlearn.runs": [{"method": "gd"}],
    }
    plan = make_plan(load_config("open-unlearning-tofu", overrides={**changes, "retrained": str(models[16])}))
    sequence, scale = plan.requests
    for name, request in zip(names, scale.models, strict=True):
        theirs = planned("open-unlearning-tofu", name, models[16]).benchmark["forget"]
        assert [e.id for e in request.model.forget] == [e.id for e in theirs]  # type: ignore[attr-defined]
    counts = [len(request.model.forget) for request in sequence.models]  # type: ignore[attr-defined]
    assert counts == [40, 160, 200], "each request adds the authors that are new"


@pytest.mark.parametrize("name", ["paper-tofu-phi", "paper-tofu-llama2"])
def test_the_papers_studies_have_its_methods_tricks_and_attacks(name: str) -> None:
    config = load_config(name)
    labels = [run.label for run in config.unlearn.runs]
    assert labels[:6] == SIX
    tricks = {trick for run in config.unlearn.runs for trick in run.tricks}
    assert tricks == {"temperature", "loss_selection", "likelihood_cap"}
    assert config.attack is not None
    assert [chain.made().name for chain in config.attack.chains] == [
        "jailbreak",
        "probe",
        "relearn_original",
        "token_noise",
        "gcg",
        "relearn_original+probe",
    ]
    assert config.published is None, "tofu-forget05 has its published tables in the report by its name"


def test_openunlearnings_settings_are_those_of_its_documentation() -> None:
    config = load_config("open-unlearning-tofu")
    training = {run.label: config.unlearn.settings_of(run, seed=0) for run in config.unlearn.runs}
    assert list(training) == ["GradAscent", "GradDiff", "IdkDPO", "NPO", "SimNPO", "RMU"]
    assert {(t.lr, t.epochs, t.batch_size) for t in training.values()} == {(1e-5, 10.0, 32)}
