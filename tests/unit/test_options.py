"""How the values of command-line options are read."""

from collections.abc import Callable

import pytest

from uwc.cli.options import dotted_settings, nested, yaml_value
from uwc.errors import UserError


def test_dotted_keys_are_nested() -> None:
    assert nested({"lora.rank": 8, "lora.alpha": 2.0, "lr": 1}) == {"lora": {"rank": 8, "alpha": 2.0}, "lr": 1}


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda: yaml_value("lr", "[1"), r"lr=\[1: the value is not YAML"),
        (lambda: dotted_settings(["gcg.steps={"]), "gcg.steps={: the value is not YAML"),
        (lambda: nested({"lora": 8, "lora.rank": 4}), "lora.rank: 'lora' has a value already, 8"),
    ],
)
def test_what_cannot_be_read_is_named(read: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read()
