"""The digest of code from outside the package: any change that can move a number changes it."""

import functools
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from uwc.code_digest import NoSource, code_digest, comes_from_package
from uwc.metrics.likelihood import extraction_strength

HEAD = "import numpy as np\n\nSCALE = 2.0\n\ndef helper(x):\n    return x + 1\n\n"
BODY = "def loss(x, *, beta=0.5):\n    return SCALE * helper(x) * beta\n"


@pytest.fixture
def defined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """The function `loss` of a module with a text, as a user's file defines it."""
    count = iter(range(100))

    def define(text: str) -> Any:
        path = tmp_path / f"mine_{next(count)}.py"
        path.write_text(text, encoding="utf-8")
        spec = importlib.util.spec_from_file_location("mine", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "mine", module)
        spec.loader.exec_module(module)
        return module.loss

    return define


def test_the_same_text_has_the_same_digest(defined: Callable[[str], Any]) -> None:
    assert code_digest(defined(HEAD + BODY)) == code_digest(defined(HEAD + BODY))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("helper(x) * beta", "helper(x) / beta"),
        ("beta=0.5", "beta=0.6"),
        ("SCALE = 2.0", "SCALE = 3.0"),
        ("return x + 1", "return x + 2"),
    ],
    ids=["the source", "a default", "a constant that it names", "a function that it names"],
)
def test_whatever_moves_a_number_moves_the_digest(defined: Callable[[str], Any], old: str, new: str) -> None:
    text = HEAD + BODY
    assert old in text
    assert code_digest(defined(text)) != code_digest(defined(text.replace(old, new)))


def test_what_is_not_used_does_not_move_it(defined: Callable[[str], Any]) -> None:
    assert code_digest(defined(HEAD + BODY)) == code_digest(defined(HEAD + "OTHER = 1\n\n" + BODY))


def test_what_a_function_closes_over_counts() -> None:
    def scaled(factor: Any) -> Callable[[float], Any]:
        return lambda x: x * factor

    assert code_digest(scaled(2)) == code_digest(scaled(2)) != code_digest(scaled(3))
    arrays = [scaled(np.array(values)) for values in ([1.0, 2.0], [1.0, 2.0], [1.0, 3.0])]
    assert code_digest(arrays[0]) == code_digest(arrays[1]) != code_digest(arrays[2])


def test_code_without_source_is_refused() -> None:
    made: dict[str, Any] = {}
    exec("def loss(x):\n    return x", made)
    with pytest.raises(NoSource, match="'loss'"):
        code_digest(made["loss"])

    class Open:
        pass

    def uses(x: float, state: Any = Open()) -> float:  # noqa: B008
        return x

    with pytest.raises(NoSource, match="Open"):
        code_digest(uses)


def test_functions_that_call_each_other_end() -> None:
    def even(n: int) -> bool:
        return n == 0 or odd(n - 1)

    def odd(n: int) -> bool:
        return n != 0 and even(n - 1)

    assert len(code_digest(even)) == 64


def test_a_partial_is_hashed_with_its_arguments() -> None:
    def loss(x: float, beta: float) -> float:
        return x * beta

    halves = [functools.partial(loss, beta=beta) for beta in (0.5, 0.5, 0.6)]
    assert code_digest(halves[0]) == code_digest(halves[1]) != code_digest(halves[2])


def test_the_packages_own_code_is_told_from_a_users() -> None:
    assert comes_from_package(extraction_strength)
    assert not comes_from_package(lambda x: x)
    assert not comes_from_package(functools.partial(np.sum, axis=0))
