"""A damaged config.json is named, whatever reads it first; the tokenizer is not blamed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from uwc.errors import ModelError
from uwc.models.load import depth_of, load_model, save_model
from uwc.models.mixtures import open_mixing
from uwc.models.model import Model
from uwc.models.reading import load_reading

READERS: dict[str, Callable[[Path, Path], Any]] = {
    "load": lambda good, bad: load_model(bad, device="cpu"),
    "reading": lambda good, bad: load_reading(bad),
    "depth": lambda good, bad: depth_of(bad),
    "mixing": lambda good, bad: open_mixing(good, bad, device="cpu"),
}
DAMAGED = {
    "no type": {"model_type": None},
    "a type of another kind": {"model_type": 5},
    "an unknown type": {"model_type": "llamo"},
    "a text for a number": {"hidden_size": "32"},
    "no heads": {"num_attention_heads": 0},
    "heads that do not divide": {"num_attention_heads": 3},
    "a type of numbers that does not exist": {"dtype": "float99"},
    "an end that is no token": {"eos_token_id": [1, "x"]},
    "a list for a mapping": {"rope_parameters": [1]},
}
TEXTS = {
    "empty": "",
    "truncated": '{"model_type": "lla',
    "a list": "[]",
    "a key twice": '{"model_type": "llama", "model_type": "gpt2"}',
    "deep": '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "digits": '{"hidden_size": ' + "9" * 5000 + "}",
    "nul": "\0" * 50,
}


@pytest.fixture(scope="module")
def good(untrained: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "good"
    save_model(untrained, folder)
    return folder


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", [*DAMAGED, *TEXTS])
def test_a_damaged_configuration_is_named(kind: str, reader: str, good: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(good, bad)
    path = bad / "config.json"
    changed = {**json.loads(path.read_text(encoding="utf-8")), **DAMAGED.get(kind, {})}
    path.write_text(TEXTS[kind] if kind in TEXTS else json.dumps(changed), encoding="utf-8")
    try:
        READERS[reader](good, bad)
    except ModelError as error:
        message = str(error)
        assert str(path) in message and "tokenizer" not in message
        assert "\n" not in message and len(message.replace(str(bad), "bad")) <= 500
    else:
        assert reader == "reading", "only the tokenizer is read, and it does not need the configuration"


def test_layers_that_would_be_built_for_hours_are_refused(good: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(good, bad)
    path = bad / "config.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"num_hidden_layers": 2', '"num_hidden_layers": 1000000'))
    with pytest.raises(ModelError, match=r"config\.json.*num_hidden_layers"):
        load_model(bad, device="cpu")
