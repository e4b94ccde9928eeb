"""Steps and their keys: every field that a step reads is in its key, and what is only for people is not."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from tests.helpers.small_study import run_plan
from torch import Tensor

import uwc
from uwc.attacks.data import AttackData
from uwc.attacks.strongest import tried_entries
from uwc.data.example import Example
from uwc.metrics.samples import LeakSettings
from uwc.objectives.forwards import Forwards
from uwc.objectives.registry import terms
from uwc.plugins import load_plugins
from uwc.results import StudyResults
from uwc.studies.config import StudyConfig
from uwc.studies.gather import gather
from uwc.studies.plan import Plan, make_plan
from uwc.studies.run import missing_steps
from uwc.studies.steps import Attack, Step, identity
from uwc.studies.store import Store

pytestmark = pytest.mark.usefixtures("restored_registries")

STUDY: dict[str, Any] = {
    "name": "keys",
    "benchmark": {
        "name": "fictional-authors",
        "settings": {"authors": 10, "forget_share": 0.4, "facts": 1, "phrasings": 1, "holdout": 2, "general": False},
    },
    "model": {"build": {"vocabulary": 500, "hidden_size": 32, "layers": 2, "heads": 2, "context": 128}},
    "finetune": {"epochs": 60, "batch_size": 16, "lr": 1e-2, "schedule": "cosine"},
    "retrained": True,
    "unlearn": {
        "training": {"epochs": 1, "batch_size": 2, "lr": 1e-3},
        "stop": {"at_most": 0.1, "tau": 0.9},
        "runs": [{"method": "po", "tricks": {"temperature": 2.0}}],
    },
    "score": {"max_new_tokens": 2},
    "calibrate": {"scan": 2, "resolution": 0.25},
    "attack": {
        "models": ["unlearned", "calibrated"],
        "attacker": {"forget_share": 0.5},
        "examples": 2,
        "chains": [{"chain": "relearn", "settings": {"relearn": {"steps": 1}}}],
    },
}


def planned(**changes: Any) -> Plan:
    return make_plan(StudyConfig(**{**STUDY, **changes}))


def other(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return "bfloat16" if value == "float32" else f"{value}x"
    if isinstance(value, tuple | list):
        return type(value)(value[:-1]) if value else type(value)([Example(id="1", question="a?", answer="b")])
    if isinstance(value, dict):
        return {**value, "more": 1} if not value else {k: other(v) for k, v in value.items()}
    if isinstance(value, BaseModel):
        name = next(name for name in type(value).model_fields if getattr(value, name) is not None)
        return value.model_copy(update={name: other(getattr(value, name))})
    if is_dataclass(value) and not isinstance(value, type):
        name = next(f.name for f in fields(value) if f.metadata.get("key", True) and f.name != "scored")
        return replace(value, **{name: other(getattr(value, name))})
    return "something"


def key_fields(step: Step) -> Iterator[str]:
    return (f.name for f in fields(step) if f.metadata.get("key", True))


STEPS = {step.id: step for step in planned().steps}


@pytest.mark.parametrize("step", STEPS.values(), ids=list(STEPS))
def test_every_field_that_is_read_is_in_the_key(step: Step) -> None:
    for name in key_fields(step):
        value = getattr(step, name)
        given = {"leaks": LeakSettings()}.get(name) if value is None else None
        changed = replace(step, **{name: STEPS["build/base"] if isinstance(value, Step) else given or other(value)})
        if isinstance(value, Step) and value.key == STEPS["build/base"].key:
            changed = replace(step, **{name: STEPS["finetune/original"]})
        assert changed.key != step.key, f"{step.id}: {name} is read, and not in the key"


@pytest.mark.parametrize("step", STEPS.values(), ids=list(STEPS))
def test_what_is_for_people_is_not_in_the_key(step: Step) -> None:
    assert replace(step, of=("elsewhere",), name="called otherwise").key == step.key


ASKED_TWICE = """
from dataclasses import replace
import uwc

@uwc.attack_method(kind="prompt")
def asked_twice(model, data):
    return model.rewritten(lambda e: replace(e, question=2 * e.question))
"""


def test_an_attack_that_chooses_among_others_has_their_code_in_its_key(tmp_path: Path) -> None:
    """That of a plug-in from which it chooses, because it is named or because none is; and that of a metric."""
    plugin = tmp_path / "mine.py"

    def keys(text: str) -> list[str]:
        plugin.write_text(ASKED_TWICE.replace("2 *", text), encoding="utf-8")
        load_plugins([plugin])
        among = ([], ["nf4+asked_twice"], ["int8"])
        chains = [{"chain": "strongest", "settings": {"strongest": {"attacks": names}}} for names in among]
        attack = {"attacker": {"forget_share": 0.5}, "examples": 2, "models": ["unlearned"]}
        plans = [planned(attack={**attack, "chains": [chain]}) for chain in chains]
        return [next(s for s in plan.steps if isinstance(s, Attack)).key for plan in plans]

    first, second, again = keys("2 *"), keys("3 *"), keys("2 *")
    assert [a == b for a, b in zip(first, second, strict=True)] == [False, False, True]
    assert first == again


BY_LENGTH = """
import uwc

@uwc.metric
def length(texts):
    return [1.0 * len(t) for t in texts]

def twice(text):
    return 2 * text

def other():
    def length(text):
        return 5 * text
    return length

@uwc.attack_method(kind="prompt", uses=lambda settings: [length, twice, other()] if settings["by_length"] else [])
def longest(model, data, *, by_length: bool = True):
    return model.rewritten(lambda e: e)
"""


@pytest.mark.parametrize("chain", ["longest", "strongest"])
def test_an_attack_of_a_plugin_declares_whose_code_is_in_its_key(chain: str, tmp_path: Path) -> None:
    """A metric and plain functions, one of the metric's name, as the settings say; also where a search may take it."""
    plugin = tmp_path / "mine.py"

    def key(old: str, new: str, *, by_length: bool = True) -> str:
        plugin.write_text(BY_LENGTH.replace(old, new), encoding="utf-8")
        load_plugins([plugin])
        settings = {"longest": {"by_length": by_length}} if chain == "longest" else {"strongest": {"runs": 2}}
        attack = {"attacker": {"forget_share": 0.5}, "examples": 2, "models": ["unlearned"]}
        plan = planned(attack={**attack, "chains": [{"chain": chain, "settings": settings}]})
        return next(s for s in plan.steps if isinstance(s, Attack)).key

    first, again = key("2 *", "2 *"), key("2 *", "2 *")
    assert first == again and len({first, key("2 *", "3 *"), key("1.0 *", "2.0 *"), key("5 *", "6 *")}) == 4
    if chain == "longest":
        assert key("2 *", "2 *", by_length=False) == key("2 *", "3 *", by_length=False)


def test_the_model_that_an_attack_of_a_plugin_asks_is_in_its_key(tmp_path: Path) -> None:
    @uwc.attack_method(name="asks_another", kind="prompt", in_search=False, asks=lambda settings: [settings["other"]])
    def asks_another(model: uwc.Model, data: AttackData, *, other: str = "") -> uwc.Model:
        return model

    other = tmp_path / "other"
    other.mkdir()

    def key(weights: bytes) -> str:
        (other / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
        (other / "model.safetensors").write_bytes(weights)
        chain = {"chain": "asks_another", "settings": {"asks_another": {"other": str(other)}}}
        attack = {"attacker": {"forget_share": 0.5}, "examples": 2, "models": ["unlearned"], "chains": [chain]}
        return next(s for s in planned(attack=attack).steps if isinstance(s, Attack)).key

    assert key(b"a") == key(b"a") != key(b"b")
    assert "asks_another" not in {entry.name for entry in tried_entries(())}
    assert "asks_another" in {entry.name for entry in tried_entries(["asks_another"])}


def test_every_step_has_an_id_of_its_own() -> None:
    names = ["npo", "npo, calibrated", "npo (diverged)", "a+b", "unlearned", "score"]
    runs = [{"name": name, "method": "npo"} for name in names]
    plan = planned(unlearn={"runs": runs})
    assert len({step.id for step in plan.steps}) == len(plan.steps)
    assert len({step.key for step in plan.steps if step.kind == "unlearn"}) == 1, "the same work under six names"


def test_a_value_whose_content_is_unknown_cannot_be_a_key() -> None:
    with pytest.raises(TypeError, match="object"):
        identity({"setting": object()})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, StudyResults]:
    folder = tmp_path_factory.mktemp("finished")
    store = Store(folder / "store")
    return store, run_plan(planned(), store)[0]


@pytest.mark.slow
def test_a_runs_name_moves_no_number(finished: tuple[Store, StudyResults]) -> None:
    """Names that look like labels of another model."""
    store, expected = finished
    for name in ("po, calibrated", "po (diverged)", "original", "retrained, as delivered"):
        runs = [{**STUDY["unlearn"]["runs"][0], "name": f"{name}."}]
        plan = planned(unlearn={**STUDY["unlearn"], "runs": runs})
        assert missing_steps(plan, store) == []
        found = gather(plan, store)
        (after,), (before,) = found.unlearned, expected.unlearned
        for part in ("status", "scores", "calibration", "calibrated_scores", "training"):
            assert repr(getattr(after, part)) == repr(getattr(before, part))
        assert found.attacks is not None and expected.attacks is not None
        for attacked, known in zip(found.attacks.models, expected.attacks.models, strict=True):
            assert attacked.model.run == f"{name}." and attacked.model.role == known.model.role
            assert repr(attacked.outcomes) == repr(known.outcomes)


def loss(scale: float) -> None:
    """Register a loss as the cell of a notebook does, again and again."""

    @terms.register(
        "mine",
        source="a notebook",
        side="forget",
        role="forget",
        needs=("forget",),
        reduction="tokens",
        formula="s log p",
    )
    def mine(forwards: Forwards) -> Tensor:
        return scale * forwards.forget.total(forwards.forget.logprobs)


@pytest.mark.slow
def test_an_edited_loss_is_trained_again(tmp_path: Path) -> None:
    unlearn = {
        "training": {"epochs": 1, "batch_size": 2, "lr": 1e-3},
        "runs": [{"name": "mine", "terms": [{"term": "mine"}]}],
    }
    store, found = Store(tmp_path / "store"), []
    for scale in (1.0, 1.0, 30.0):
        loss(scale)
        plan = planned(unlearn=unlearn, attack=None, retrained=False)
        missing = {step.id for step in missing_steps(plan, store)}
        results, _ = run_plan(plan, store)
        origin = results.provenance.steps["unlearn/unlearned/mine"]
        found.append((missing, results.unlearned[0].training, origin.code))
    own = {f"{kind}/mine" for kind in ("unlearn/unlearned", "score/unlearned", "calibrate/calibrated")}
    assert found[1][0] == set() and found[2][0] == own
    assert set(found[0][2]) == {"mine"} and found[0][2] == found[1][2] != found[2][2]
    assert repr(found[0][1]) == repr(found[1][1]) != repr(found[2][1])


@pytest.mark.slow
def test_a_loss_without_source_is_never_taken_from_the_cache(tmp_path: Path) -> None:
    made: dict[str, Any] = {}
    exec("def hidden(forwards):\n    return forwards.forget.total(forwards.forget.logprobs)", made)
    terms.register(
        "hidden", source="nowhere", side="forget", role="forget", needs=("forget",), reduction="tokens", formula="0"
    )(made["hidden"])
    unlearn = {
        "training": {"epochs": 1, "batch_size": 2, "lr": 1e-3},
        "runs": [{"name": "h", "terms": [{"term": "hidden"}]}],
    }
    plan, store = planned(unlearn=unlearn, attack=None, calibrate=None, retrained=False), Store(tmp_path / "store")
    (hidden,) = plan.runs
    assert "'hidden'" in hidden.model.not_cached and hidden.score.not_cached and not plan.original.score.not_cached
    for _ in range(2):
        _, times = run_plan(plan, store)
        assert not times["unlearn h"].reused and not times["score h"].reused
    assert times["score original"].reused
