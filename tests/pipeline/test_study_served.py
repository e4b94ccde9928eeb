"""A study whose greedy answers come from a server: the numbers of generation here, another model refused, and resumed
where a server fails."""

import json
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.openai_server import MODEL, Fault, Served, serving
from tests.helpers.small_study import STUDY, run_plan

from uwc.errors import ConfigError, EndpointError
from uwc.models.generation import continue_greedily
from uwc.models.load import load_model
from uwc.models.model import Model
from uwc.models.served import ANSWERS
from uwc.reports.page import write_page
from uwc.results import RunRecord, StudyResults
from uwc.studies.config import StudyConfig
from uwc.studies.config_file import validated
from uwc.studies.plan import Plan, make_plan
from uwc.studies.steps import Score
from uwc.studies.store import Store

SCORE = {"metrics": ["extraction_strength", "rouge_l", "token_diversity"], "max_new_tokens": 12}
CHECKED = 2
"""All questions to forget of the study; 4 of more."""


def config(generation: Mapping[str, Any] | None = None, **changes: Any) -> StudyConfig:
    given = STUDY.model_dump(exclude_unset=True)
    given["unlearn"]["runs"] = [{"method": "kl", "training": {"lr": 1e-2, "epochs": 4}}]
    return StudyConfig(**{**given, "score": SCORE, "calibrate": None, "generation": generation, **changes})


@dataclass
class Made:
    """A study without a server: its plan, folder and results, and the models that it made."""

    plan: Plan
    root: Path
    results: StudyResults
    models: dict[str, Model] = field(default_factory=dict)

    def continued(self, name: str, **settings: Any) -> Store:
        """A store with the models of this study, and without the scores of one."""
        store = Store(self.root.with_name(f"{self.root.name}-{len(settings)}-{name}"))
        for step in self.plan.steps:
            if step.kind != "score" or step.of[-1] != name:
                store.borrow(step, Store(self.root))
        return store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    plan, root = make_plan(config()), tmp_path_factory.mktemp("served") / "store"
    store = Store(root)
    found, _ = run_plan(plan, store)
    made = Made(plan, root, found)
    for model in plan.models:
        name = model.key.run or model.key.role
        made.models[name] = load_model(str(store.folder(model.model) / "model"), name=name)
    return made


@contextmanager
def holding(model: Model) -> Iterator[Served]:
    """A server that answers prompts of token ids, as vLLM does: without special tokens, up to a token that ends."""

    def answer(body: Mapping[str, Any]) -> str:
        ((tokens, _),) = continue_greedily(
            model, [body["prompt"]], max_new_tokens=body["max_tokens"], stops=body["stop_token_ids"]
        )
        text = str(model.tokenizer.decode(tokens, skip_special_tokens=True))
        return min((text.split(stop)[0] for stop in body.get("stop", ())), key=len, default=text)

    with serving(answer, chat=False) as server:
        yield server


def asking(server: Served, **settings: Any) -> StudyConfig:
    return config({"endpoint": {"url": server.url, "model": MODEL, "concurrency": 1, "retries": 0}, **settings})


def test_a_server_gives_the_numbers_of_generation_here(made: Made, tmp_path: Path) -> None:
    with holding(made.models["kl"]) as server:
        plan, store = make_plan(asking(server)), made.continued("kl")
        found, times = run_plan(plan, store)
    assert {name for name, time in times.items() if not time.reused and time.seconds} >= {"score kl"}
    assert found.unlearned[0].scores == made.results.unlearned[0].scores
    assert found.references == made.results.references
    rouge = {s.set: s.mean for s in found.unlearned[0].scores if s.metric == "rouge_l"}
    assert 0 < rouge["forget"] < 1
    (served,) = found.served
    assert (served.model, served.served, served.equal, served.near_ties) == ("kl", MODEL, CHECKED, 0)
    asked = [body for _, body in server.asked]
    texts = sum(len(examples) for examples in plan.sets.values())
    assert len(asked) == texts + CHECKED and all(body["temperature"] == 0 for body in asked)
    assert all(isinstance(body["prompt"], list) and "seed" not in body for body in asked)
    (warning,) = [w for w in found.warnings if w.code == "answers_from_server"]
    assert "of 2 compared with the checkpoint's 2 are equal" in warning.text
    write_page(found, RunRecord(), tmp_path / "report.html")
    assert "greedy answers are those of a server" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_server_that_holds_another_model_is_refused(made: Made) -> None:
    store = made.continued("kl", other=True)
    with holding(made.models["original"]) as server:
        plan = make_plan(asking(server))
        with pytest.raises(EndpointError, match=r"does not hold the model 'kl'.*to question '.*it answers '") as told:
            run_plan(plan, store)
        assert len(server.asked) == CHECKED and "generation.margin" in str(told.value) and "\n" not in str(told.value)
        server.asked.clear()
        missing = make_plan(config({"endpoint": {"url": server.url, "model": "none"}}))
        with pytest.raises(EndpointError, match=r"its models: tiny; give one as generation\.endpoint\.model"):
            run_plan(missing, store)
        server.asked.clear()
        with pytest.raises(EndpointError, match="does not hold"):
            run_plan(plan, store)
        assert len(server.asked) == CHECKED, "wrong answers are not kept"


def test_another_prompt_of_the_server_is_refused(made: Made) -> None:
    model = made.models["kl"]

    def answer(body: Mapping[str, Any]) -> str:
        ((tokens, _),) = continue_greedily(model, [body["prompt"][4:]], max_new_tokens=body["max_tokens"])
        return str(model.tokenizer.decode(tokens, skip_special_tokens=True))

    store = made.continued("kl", prompt=True, other=True)
    with serving(answer, chat=False) as server, pytest.raises(EndpointError, match="or applies another prompt"):
        run_plan(make_plan(asking(server)), store)


def test_after_a_failure_only_the_rest_is_asked_also_at_another_address(made: Made) -> None:
    store = made.continued("kl", failed=True, a=1, b=2)
    with holding(made.models["kl"]) as server:
        plan = make_plan(asking(server))
        server.faults.extend([None] * (CHECKED + 3))
        server.faults.append(Fault(503, {"error": {"message": "out of memory"}}))
        with pytest.raises(EndpointError, match=r"answers 503 \(out of memory\).*run the same command again") as told:
            run_plan(plan, store)
    assert "\n" not in str(told.value)
    step = next(step for step in plan.steps if step.name == "score kl")
    kept = store.checkpoints(step) / ANSWERS
    assert len(kept.read_text(encoding="utf-8").splitlines()) == 3
    with holding(made.models["kl"]) as moved:
        found, _ = run_plan(make_plan(asking(moved)), store)
    assert found.unlearned[0].scores == made.results.unlearned[0].scores
    assert len(moved.asked) == CHECKED + sum(len(examples) for examples in plan.sets.values()) - 3
    assert not kept.exists()


def test_the_keys_say_that_answers_come_from_a_server_and_not_from_where(made: Made) -> None:
    def key(url: str = "http://a/v1", **changes: Any) -> str:
        generation = {key: changes.pop(key) for key in ("check", "margin") if key in changes}
        plan = make_plan(config({"endpoint": {"url": url, "model": MODEL, **changes}, **generation}))
        (score,) = [step for step in plan.steps if step.name == "score kl"]
        assert isinstance(score, Score) and url not in json.dumps(score.settings)
        assert pickle.loads(pickle.dumps(score)).key == score.key
        return score.key

    assert key() == key("http://b/v1", concurrency=2, key_variable="KEY")
    others = {key(**change) for change in ({}, {"model": "b"}, {"extra": {"top_k": 1}}, {"check": 5}, {"margin": 0.1})}
    assert len(others) == 5
    by_name = {step.name: step.key for step in made.plan.steps}
    assert key() != by_name["score kl"]
    served = make_plan(config({"endpoints": {"kl": {"url": "http://a/v1", "model": MODEL}}}))
    changed = {step.name for step in served.steps if step.key != by_name[step.name]}
    assert changed == {"score kl"}
    assert {step.key for step in served.steps if step.name == "score kl"} == {key()}


def test_one_server_that_knows_all_models_is_asked_by_their_names() -> None:
    plan = make_plan(config({"endpoint": {"url": "http://a/v1"}}))
    scores = [step for step in plan.steps if isinstance(step, Score)]
    asked = {score.name: score.served for score in scores}
    assert {name: served.model for name, served in asked.items() if served} == {
        "score original": "original",
        "score kl": "kl",
    }


SERVER = {"url": "http://a/v1"}


@pytest.mark.parametrize(
    ("generation", "changes", "told"),
    [
        ({"endpoints": {"kk": SERVER}}, {}, "generation.endpoints: unknown model 'kk'; valid: original, kl"),
        ({"endpoints": {"retrained": SERVER}}, {}, "unknown model 'retrained'"),
        ({"endpoint": SERVER}, {"score": {"metrics": ["perplexity"], "max_new_tokens": 0}}, "it has no effect"),
        ({"endpoint": SERVER, "endpoints": {"kl": SERVER}}, {}, "give either 'endpoint'"),
        ({}, {}, "give either 'endpoint'"),
        ({"endpoint": {"url": "a"}}, {}, "give the server's URL"),
        ({"endpoint": {**SERVER, "extra": {"temperature": 1}}}, {}, "'temperature' is set by uwc itself"),
        ({"endpoint": {**SERVER, "modle": "a"}}, {}, "did you mean 'model'"),
        ({"endpoint": {**SERVER, "concurrency": 0}}, {}, "greater than or equal to 1"),
        (
            {"endpoint": {**SERVER, "model": "a"}},
            {"unlearn": {"runs": [{"method": "kl"}, {"method": "gd"}]}},
            r"the study has 2 unlearned ones \(kl, gd\); name each",
        ),
    ],
)
def test_a_server_without_effect_or_with_mistakes_is_refused(
    generation: dict[str, Any], changes: dict[str, Any], told: str
) -> None:
    given = config().model_dump(exclude_unset=True) | changes
    with pytest.raises(ConfigError, match=told):
        make_plan(validated({**given, "generation": generation}, where="study"))
