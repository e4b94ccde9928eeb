"""Texts of an endpoint are those of the same model in memory, and its files say what was asked."""

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import people
from tests.helpers.hidden_knowledge import robust_knower
from tests.helpers.openai_server import MODEL, Fault, Served, serving

from uwc.attacks.chain import Chain, attacked, make_chain
from uwc.attacks.data import AttackData, Attacker
from uwc.attacks.prompts import OPENERS
from uwc.data.example import Example
from uwc.data.outputs import Outputs, SystemTexts, open_outputs, read_attack, read_outputs
from uwc.errors import ConfigError, DataError, EndpointError
from uwc.models.endpoint import Endpoint
from uwc.models.generation import continue_greedily, generate
from uwc.models.load import save_model
from uwc.models.model import Model
from uwc.workflows.collecting import Asked

CHAT = (
    "{% for m in messages %}{{ m.role }}:\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:\n{% endif %}"
)


def served_model(model: Model, *, template: str = CHAT) -> Any:
    """The answers of a model by plain transformers: its chat template for messages, the text as it is for a prompt."""

    def answer(body: dict[str, Any]) -> str:
        tokenizer = model.tokenizer
        if "messages" in body:
            text = tokenizer.apply_chat_template(
                body["messages"], chat_template=template, tokenize=False, add_generation_prompt=True
            )
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        else:
            ids = tokenizer(body["prompt"])["input_ids"]
        assert body["temperature"] == 0
        ((tokens, _),) = continue_greedily(model, [ids], max_new_tokens=body["max_tokens"])
        return str(tokenizer.decode(tokens, skip_special_tokens=True))

    return answer


@pytest.fixture
def echo() -> Iterator[Served]:
    with serving(lambda body: "> " + (body["messages"][-1]["content"] if "messages" in body else body["prompt"])) as s:
        yield s


def collect(
    endpoint: Endpoint, sets: Mapping[str, list[Example]], chains: Mapping[str, Chain] | None = None, **options: Any
) -> SystemTexts:
    return Asked(endpoint, chains or {}, **options).collect(sets)


SETS = {"forget": people(2), "retain": people()[4:6]}


@pytest.mark.parametrize("chat", [False, True], ids=["completions", "chat"])
def test_a_served_model_says_the_same_as_its_weights(knowing: Model, chat: bool) -> None:
    sets = {"forget": people(3), "retain": people()[6:9]}
    names = ["few_shot", "jailbreak"]
    settings = {"few_shot": {"shots": 2}, "jailbreak": {"kinds": ("role play", "fiction")}}
    if not chat:
        settings["jailbreak"]["kinds"] = ("role play", "answer prefix")
    with serving(served_model(knowing), chat=chat) as server:
        endpoint = Endpoint(server.url, MODEL, max_new_tokens=12)
        chains = {name: make_chain(name, {name: settings[name]}) for name in names}
        found = collect(endpoint, sets, chains)
    model = knowing
    if chat:
        model = replace(knowing, tokenizer=with_template(knowing.tokenizer))
    assert model.template.uses_chat(model.tokenizer) == chat
    for name, examples in sets.items():
        assert list(found.texts[name]) == list(generate(model, examples, max_new_tokens=12).texts)
    data = AttackData(sets["forget"], retain=sets["retain"])
    for name, chain in chains.items():
        with attacked(model, data, chain) as variants:
            expected = [(v.label, generate(v.model, data.scored, max_new_tokens=12).texts) for v in variants]
        assert [(v.label, v.texts) for v in found.under[name]["forget"]] == expected
    assert len(set(found.texts["forget"])) >= 3


TALKING: dict[str, dict[str, Any]] = {
    "self_correction": {"turns": 2, "max_new_tokens": 6},
    "dialogue": {"turns": 2, "max_new_tokens": 12},
    "evolution": {"population": 2, "generations": 2, "best": 2, "mutations": 0, "examples": 2, "max_new_tokens": 12},
}


@pytest.mark.parametrize("chat", [False, True], ids=["completions", "chat"])
@pytest.mark.parametrize("name", list(TALKING))
def test_attacks_that_read_answers_put_the_same_questions_as_to_weights(name: str, chat: bool, tmp_path: Path) -> None:
    chain, owned, knowing = make_chain(name, {name: TALKING[name]}), people()[6:8], robust_knower()
    sets = {"forget": people(2)}
    model = replace(knowing, tokenizer=with_template(knowing.tokenizer)) if chat else knowing
    data = AttackData(sets["forget"], train=owned)
    with attacked(model, data, chain) as variants:
        expected = [(v.label, v.note, generate(v.model, data.scored, max_new_tokens=12).texts) for v in variants]
    with serving(served_model(knowing), chat=chat) as server:
        endpoint = Endpoint(server.url, MODEL, max_new_tokens=12)
        attacker = Attacker(train=owned)
        found = collect(endpoint, sets, {name: chain}, attacker=attacker, folder=tmp_path)
        asked = len(server.asked)
        assert collect(endpoint, sets, {name: chain}, attacker=attacker, folder=tmp_path) == found
        assert len(server.asked) == asked
    assert [(v.label, v.note, v.texts) for v in found.under[name]["forget"]] == expected
    assert len(expected) == 2


def test_a_turn_is_asked_once_there_is_an_answer_to_the_one_before_and_resumes(echo: Served, tmp_path: Path) -> None:
    """Two questions: plain, the openers of two turns, and after each turn the question again."""
    chains = {"dialogue": make_chain("dialogue", {"dialogue": {"turns": 2}})}
    sets = {"forget": people(1)}
    endpoint = Endpoint(echo.url, MODEL, concurrency=1, retries=0)
    echo.faults.extend([None] * 5 + [Fault(500)])
    with pytest.raises(EndpointError):
        collect(endpoint, sets, chains, folder=tmp_path)
    found = collect(endpoint, sets, chains, folder=tmp_path)
    assert len(echo.asked) == 6 + 5
    last = echo.asked[-1][1]["messages"]
    question = sets["forget"][1].question
    openers = [opener.replace("{question}", question) for opener in OPENERS[:2]]
    assert [m["content"] for m in last] == [openers[0], f"> {openers[0]}", openers[1], f"> {openers[1]}", question]
    assert [m["role"] for m in last] == ["user", "assistant", "user", "assistant", "user"]
    variants = found.under["dialogue"]["forget"]
    assert [v.label for v in variants] == ["turn 1", "turn 2"]
    assert variants[1].prompts[1].endswith(f"user: {question}") and variants[1].prompts[1].count("assistant: >") == 2


def test_nothing_is_asked_to_find_out_whether_an_attack_can_be_carried_out(echo: Served) -> None:
    settings = {"jailbreak": {"kinds": ("answer prefix",)}}
    doubted = make_chain("self_correction+jailbreak", settings)
    with pytest.raises(ConfigError, match="all of its variants"):
        Asked(Endpoint(echo.url, MODEL, chat=True), {"doubted": doubted}).empty(SETS)
    with pytest.raises(ConfigError, match="'prefix' needs the model's weights"):
        Asked(Endpoint(echo.url, MODEL), {"doubted": make_chain("self_correction+prefix")}).collect(SETS)
    empty = Asked(Endpoint(echo.url, MODEL), {"dialogue": make_chain("dialogue")}).empty(SETS)
    assert [v.texts for v in empty.under["dialogue"]["forget"]] == [("",) * len(SETS["forget"])]
    with pytest.raises(DataError, match="'evolution' needs examples of the forgotten data"):
        Asked(Endpoint(echo.url, MODEL), {"evolution": make_chain("evolution")}).collect(SETS)
    assert not echo.asked


def with_template(tokenizer: Any) -> Any:
    copied = copy.deepcopy(tokenizer)
    copied.chat_template = CHAT
    return copied


def test_all_questions_are_asked_and_the_prompts_are_those_sent(echo: Served) -> None:
    found = collect(Endpoint(echo.url, MODEL, system="Be brief."), SETS)
    assert (found.kind, found.source) == ("endpoint", f"{MODEL} at {echo.url}")
    for name, examples in SETS.items():
        assert list(found.texts[name]) == [f"> {e.question}" for e in examples]
        assert list(found.prompts[name]) == [f"system: Be brief.\n\nuser: {e.question}" for e in examples]
    echo.chat = False
    found = collect(Endpoint(echo.url, MODEL, system="Be brief."), SETS)
    sent = {body["prompt"] for path, body in echo.asked if path == "/v1/completions"}
    assert {prompt for prompts in found.prompts.values() for prompt in prompts} == sent


def test_attacks_are_on_the_forget_set_and_a_paraphrase_is_asked_once(echo: Served) -> None:
    sampling = {"sampling": {"samples": 2, "temperature": 0.5}}
    chains = {"paraphrase": make_chain("paraphrase"), "drawn": make_chain("sampling", sampling)}
    asked_twice = {**SETS, "forget_paraphrased": [replace(e, question=e.paraphrased_question) for e in SETS["forget"]]}
    found = collect(Endpoint(echo.url, MODEL), asked_twice, chains)
    (paraphrased,) = found.under["paraphrase"]["forget"]
    assert list(paraphrased.texts) == [f"> {e.paraphrased_question}" for e in SETS["forget"]]
    drawn = found.under["drawn"]["forget"]
    assert [v.label for v in drawn] == ["sample 1", "sample 2"]
    count = len(SETS["forget"])
    assert len(echo.asked) == count + len(SETS["retain"]) + count + 2 * count
    assert sum(body["temperature"] == 0.5 for _, body in echo.asked) == 2 * count


def test_variants_that_begin_the_models_turn_are_for_completions_only(echo: Served) -> None:
    warned: list[str] = []

    def labels(kinds: tuple[str, ...], **settings: Any) -> list[str]:
        chains = {"jailbreak": make_chain("jailbreak", {"jailbreak": {"kinds": kinds}})}
        found = collect(Endpoint(echo.url, MODEL, **settings), SETS, chains)
        warned.extend(warning.code for warning in found.warnings)
        return [v.label for v in found.under["jailbreak"]["forget"]]

    both = ("hypothesis", "answer prefix")
    assert labels(both, chat=False) == ["hypothetical", "sure", "of-course"]
    assert any(body["prompt"].endswith("Answer: Sure, here is the answer:") for _, body in echo.asked)
    assert not warned
    assert labels(both) == labels(both, chat=True) == ["hypothetical"]
    assert warned == 2 * ["variants_left_out"]
    echo.asked.clear()
    with pytest.raises(ConfigError, match="all of its variants"):
        labels(("answer prefix",))
    assert len(echo.asked) == 1  # by which the endpoint is found to have chat completions


def test_what_cannot_be_attacked_is_said_before_anything_is_asked(echo: Served) -> None:
    for attack in ("relearn", "logit_lens", "beam_search"):
        with pytest.raises(ConfigError, match=attack):
            Asked(Endpoint(echo.url, MODEL), {attack: make_chain(attack)}).collect(SETS)
    with pytest.raises(DataError, match="--forget"):
        Asked(Endpoint(echo.url, MODEL), {"jailbreak": make_chain("jailbreak")}).collect({"retain": SETS["retain"]})
    prefix = {"jailbreak": make_chain("jailbreak", {"jailbreak": {"kinds": ("answer prefix",)}})}
    with pytest.raises(ConfigError, match="all of its variants"):
        Asked(Endpoint(echo.url, MODEL, chat=True), prefix).empty(SETS)
    assert not echo.asked


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"judge": "self"}, "'evolution': judge: self reads the model's likelihoods.*such as rouge_l.*URL#NAME"),
        ({"judge": "perplexity"}, "'evolution': judge: perplexity needs the model's weights.*such as rouge_l"),
    ],
)
def test_a_judge_that_reads_weights_is_refused_before_anything_is_asked(
    echo: Served, settings: dict[str, Any], message: str
) -> None:
    chains = {"evolution": make_chain("evolution", {"evolution": {**TALKING["evolution"], **settings}})}
    owned = Attacker(train=people()[6:8])
    for act in ("empty", "collect"):
        with pytest.raises(ConfigError, match=message):
            getattr(Asked(Endpoint(echo.url, MODEL), chains, owned), act)(SETS)
    assert not echo.asked


def test_other_models_write_and_judge_prompts_for_a_server(echo: Served, tmp_path: Path) -> None:
    """The served model as attacker, and as attacker and judge a folder and a server."""
    save_model(robust_knower(), tmp_path / "model")
    folder, server = str(tmp_path / "model"), f"{echo.url}#{MODEL}"
    for other in ({"attacker": "self"}, {"attacker": folder, "judge": folder}, {"attacker": server, "judge": server}):
        settings = {**TALKING["evolution"], "mutations": 1, "generations": 1, **other}
        chains = {"evolution": make_chain("evolution", {"evolution": settings})}
        found = collect(Endpoint(echo.url, MODEL), SETS, chains, attacker=Attacker(train=people()[6:8]))
        metric = "judge_says" if "judge" in other else "rouge_l"
        assert f"by {metric} on 2 questions" in found.under["evolution"]["forget"][0].note
        assert " rewrites, " in found.under["evolution"]["forget"][0].note


def test_the_folder_resumes_and_can_be_read_again_without_the_server(echo: Served, tmp_path: Path) -> None:
    chains = {"jailbreak": make_chain("jailbreak", {"jailbreak": {"kinds": ("role play",)}})}
    secret = [replace(e, secret=(e.answer,), history=(("user", "Hé?"), ("assistant", "Oui."))) for e in SETS["forget"]]
    sets = {**SETS, "forget": secret}
    endpoint = Endpoint(echo.url, MODEL, concurrency=1, retries=0)
    echo.faults.extend([None] * 5 + [Fault(500)])
    with pytest.raises(EndpointError):
        collect(endpoint, sets, chains, folder=tmp_path)
    assert not (tmp_path / "outputs.jsonl").exists()
    echo.asked.clear()
    first = collect(endpoint, sets, chains, folder=tmp_path)
    total = 3 * len(sets["forget"]) + len(sets["retain"])
    assert len(echo.asked) == total - 5
    assert collect(endpoint, sets, chains, folder=tmp_path) == first
    assert len(echo.asked) == total - 5
    assert set(first.files) == {"outputs.jsonl", "under-jailbreak.jsonl"}
    opened, _ = open_outputs({name: Outputs(tmp_path / name) for name in first.files})
    again = read_outputs(opened["outputs.jsonl"])
    for name, examples in sets.items():
        assert list(again.examples[name]) == examples
        assert again.texts[name] == first.texts[name]
        assert again.prompts[name] == first.prompts[name]
    _, under = read_attack(opened["under-jailbreak.jsonl"], again.examples)
    assert under["forget"] == first.under["jailbreak"]["forget"]


def test_nothing_is_written_without_a_folder_and_the_key_never(
    echo: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTHER_KEY", "sk-top-secret-77")
    monkeypatch.chdir(tmp_path)
    collect(Endpoint(echo.url, MODEL, key_variable="OTHER_KEY"), SETS)
    assert not list(tmp_path.iterdir())
    found = collect(Endpoint(echo.url, MODEL, key_variable="OTHER_KEY"), SETS, folder=tmp_path / "out")
    assert set(echo.keys) == {"Bearer sk-top-secret-77"}
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) == 2
    assert all(b"sk-top-secret-77" not in path.read_bytes() for path in files)
    assert "sk-top-secret-77" not in repr(found)


def test_answers_that_a_filter_or_a_long_thought_took_are_told() -> None:
    def answer(body: dict[str, Any]) -> Any:
        finish = "content_filter" if "born" in json.dumps(body) else "length"
        return {"choices": [{"message": {"content": None}, "finish_reason": finish}]}

    with serving(answer) as server:
        found = collect(Endpoint(server.url, MODEL), {"forget": people(2)})
    assert found.texts["forget"] == ("", "", "", "")
    assert [(w.code, w.text.split()[:3]) for w in found.warnings] == [
        ("answers_filtered", ["2", "of", "4"]), ("answers_cut", ["2", "of", "4"])
    ]  # fmt: skip
