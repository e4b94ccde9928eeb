"""All models of a comparison are read as the original is."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import people, tiny_model
from transformers import AutoTokenizer

import uwc
from uwc.data.prompts import PromptTemplate, find_spans
from uwc.errors import ModelError
from uwc.models.load import load_model, save_model
from uwc.models.model import Model
from uwc.models.reading import Reading, differences, load_reading, read_as
from uwc.objectives.methods import FINE_TUNING
from uwc.objectives.objective import Objective
from uwc.training.data import TrainingData
from uwc.training.loop import train
from uwc.training.settings import TrainingSettings

CHAT = (
    "{% for m in messages %}{{ 'Q ' if m.role == 'user' else 'A ' }}{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}A {% endif %}"
)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows the answers when it is asked through its chat template, and not otherwise."""
    model = tiny_model(hidden_size=64)
    model.tokenizer.chat_template = CHAT
    settings = TrainingSettings(epochs=60, batch_size=8, lr=5e-3, schedule="cosine")
    train(model, Objective(FINE_TUNING, model.model), TrainingData(retain=people(4)), settings)
    folder = tmp_path_factory.mktemp("reading") / "original"
    save_model(model, folder)
    return folder


def changed(original: Path, folder: Path, change: Callable[[Path], None]) -> Path:
    """A copy of the original with something else about its reading."""
    model = load_model(original)
    save_model(model, folder)
    change(folder)
    return folder


def without_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def edited(file: str, edit: Callable[[Any], None]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = json.loads((folder / file).read_text(encoding="utf-8"))
        edit(content)
        (folder / file).write_text(json.dumps(content), encoding="utf-8")

    return change


def without_a_merge(tokenizer: Any) -> None:
    tokenizer["model"]["merges"].pop()


def with_a_prefix_space(tokenizer: Any) -> None:
    tokenizer["pre_tokenizer"]["add_prefix_space"] = True


def with_a_token_more(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<more>"])
    tokenizer.save_pretrained(folder)


def with_another_end(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = "<|pad|>"
    tokenizer.save_pretrained(folder)


def moved(tokenizer: Any) -> None:
    vocabulary = tokenizer["model"]["vocab"]
    first, second = list(vocabulary)[-2:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]


CHANGES = {
    "no chat template": without_template,
    "another chat template": lambda folder: (folder / "chat_template.jinja").write_text(CHAT + "\n{# x #}"),
    "other merges": edited("tokenizer.json", without_a_merge),
    "splits texts differently": edited("tokenizer.json", with_a_prefix_space),
    "1 tokens more": with_a_token_more,
    "as end-of-sequence token": with_another_end,
    "the ends": edited("generation_config.json", lambda config: config.update(eos_token_id=[0, 1])),
}


@pytest.mark.parametrize("said", CHANGES)
def test_what_differs_is_named_and_the_original_s_reading_is_used(said: str, original: Path, tmp_path: Path) -> None:
    folder = changed(original, tmp_path / "other", CHANGES[said])
    reading = load_reading(original)
    (found,) = differences(load_reading(folder), reading)
    assert said in found
    model = load_model(folder, reading=reading)
    encoded = load_model(original).encode(people(4))
    assert model.encode(people(4)) == encoded
    assert model.stops(encoded) == load_model(original).stops(encoded)


def test_a_reading_from_files_is_that_of_the_loaded_model(original: Path) -> None:
    model, reading = load_model(original), load_reading(original)
    assert (reading.ends, reading.template) == (model.end_ids, model.template)
    assert differences(Reading.of(model), reading) == []


def test_tokens_with_other_ids_are_refused_in_every_command(original: Path, tmp_path: Path) -> None:
    folder = changed(original, tmp_path / "other", edited("tokenizer.json", moved))
    forget, retain = people(4)[:4], people(4)[4:]
    calls: list[Callable[[], Any]] = [
        lambda: uwc.score(folder, forget, original=original, metrics=["kl_to_original"]),
        lambda: uwc.score(original, forget, original=original, retrained=folder, metrics=["exact_memorization"]),
        lambda: uwc.calibrate(original, folder, forget=forget, retain=retain),
        lambda: uwc.compare(
            original, {"x": folder}, forget=forget, retain=retain, attacks=[], output_dir=tmp_path / "out"
        ),
        lambda: uwc.attack(original, forget, ["token_noise"], control=folder),
    ]
    for call in calls:
        with pytest.raises(ModelError, match="is token"):
            call()
    alone = uwc.score(folder, forget, metrics=["exact_memorization"], max_new_tokens=0)
    own = uwc.score(
        folder, forget, compare=original, metrics=["exact_memorization"], max_new_tokens=0, own_tokenizer=True
    )
    assert own.scores[0].mean == alone.scores[0].mean


@pytest.mark.slow
def test_a_checkpoint_that_lost_its_template_is_not_taken_for_one_that_forgot(original: Path, tmp_path: Path) -> None:
    """The same weights: everything is still there, at alpha 1, and nothing of the retention is lost."""
    folder = changed(original, tmp_path / "x", without_template)
    forget, retain = people(4)[:4], people(4)[4:]
    own = uwc.score(folder, forget, metrics=["extraction_strength"], max_new_tokens=0).scores[0].mean
    done = uwc.compare(
        original,
        {"x": folder},
        retrained=folder,
        forget=forget,
        retain=retain,
        attacks=["token_noise"],
        overrides=["score.max_new_tokens=0"],
        output_dir=tmp_path / "out",
    )
    scores = [row["mean"] for row in done.rows() if (row["set"], row["metric"]) == ("forget", "extraction_strength")]
    assert len(scores) == 4 and len(set(scores)) == 1 and scores[0] > own + 0.1
    (ranked,) = done.ranked()
    assert (ranked.alpha.value, ranked.retention) == (1.0, 1.0)
    told = [warning.text for warning in done.warnings if warning.code == "read_as_original"]
    assert [text.split(";")[0] for text in told] == [f"{name} has no chat template" for name in ("retrained", "x")]
    found = uwc.calibrate(original, folder, forget=forget, retain=retain)
    mixture = next(s for s in found.scores if (s.set, s.condition) == ("forget", "calibrated"))
    assert (found.calibration.alpha, mixture.mean) == (1.0, scores[0])
    compared = uwc.score(folder, forget, compare=original, metrics=["probability"], max_new_tokens=0)
    assert compared.differences[0].mean == 0.0


def test_a_tokenizer_with_tokens_that_have_no_embedding_is_refused(original: Path) -> None:
    reading = load_reading(original)
    reading.tokenizer.add_tokens([f"<{i}>" for i in range(5)])
    rows = load_model(original).model.get_input_embeddings().weight.shape[0]
    with pytest.raises(ModelError, match=rf"embeddings for {rows} tokens.*{len(reading.tokenizer)}"):
        load_model(original, reading=reading)


def test_models_in_memory_are_read_as_the_original_too(knowing: Model) -> None:
    asked_otherwise = replace(knowing, template=PromptTemplate("{question} ->"))
    assert read_as(asked_otherwise, Reading.of(knowing)).encode(people(1)) == knowing.encode(people(1))
    (found, *_) = uwc.score(
        asked_otherwise, people(2), original=knowing, metrics=["extraction_strength"], max_new_tokens=0
    ).scores
    assert found.mean == uwc.score(knowing, people(2), metrics=["extraction_strength"]).scores[0].mean


CHARSMAP = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
NO_UNKNOWN = {"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "b", "continuing_subword_prefix": "##"}
UNKNOWN_SPECIAL = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "no", "type_id": 0}}]}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("normalizer", CHARSMAP),
        ("model", {**NO_UNKNOWN, "max_input_chars_per_word": 100}),
        ("post_processor", {**UNKNOWN_SPECIAL, "pair": [], "special_tokens": {}}),
    ],
)
def test_a_tokenizer_that_panics_or_fails_is_a_model_error(
    key: str, value: object, original: Path, tmp_path: Path
) -> None:
    broken = changed(
        original, tmp_path / "broken", edited("tokenizer.json", lambda content: content.update({key: value}))
    )
    for load in (load_model, load_reading):
        with pytest.raises(ModelError, match="cannot load the tokenizer"):
            load(broken)


def test_a_tokenizer_that_panics_on_one_text_is_a_model_error() -> None:
    def panicking(*_texts: object, **_options: object) -> object:
        raise type("PanicException", (BaseException,), {})("index out of range")

    with pytest.raises(ModelError, match=r"tokenizer failed .*index out of range"):
        find_spans([("a b", 0, 3)], panicking)


def test_a_token_without_an_embedding_is_refused(original: Path, tmp_path: Path) -> None:
    end = edited("tokenizer_config.json", lambda content: content.update(eos_token="<new>"))
    with pytest.raises(ModelError, match=r"<new>.*embeddings for"):
        uwc.score(changed(original, tmp_path / "more", end), people(), metrics=["ES"], max_new_tokens=0)


def test_templates_without_a_default_are_refused(original: Path, tmp_path: Path) -> None:
    def several(folder: Path) -> None:
        without_template(folder)
        edited("tokenizer_config.json", lambda content: content.update(chat_template={"a": CHAT}))(folder)

    with pytest.raises(ModelError, match=r"multiple chat templates.*prompt[.]chat"):
        uwc.score(changed(original, tmp_path / "several", several), people(), metrics=["ES"], max_new_tokens=0)
