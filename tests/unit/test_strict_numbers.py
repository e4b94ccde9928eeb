"""Numbers are no truth values or texts, at any depth of a type."""

from typing import Annotated, Any

import pytest
from pydantic import TypeAdapter, ValidationError

from uwc.strict_numbers import StrictNumbers


def read(kind: Any, value: Any) -> Any:
    adapter: TypeAdapter[Any] = TypeAdapter(Annotated[kind, StrictNumbers])
    return adapter.validate_python(value)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (int, True), (float, False), (int | None, True), (tuple[int, ...], [1, True]), (dict[str, float], {"a": True}),
        (float, "0.5"), (int, b"1"), (float, "nan"), (list[dict[str, int]], [{"a": "1"}]),
    ],
)  # fmt: skip
def test_what_is_no_number_is_refused(kind: Any, value: Any) -> None:
    with pytest.raises(ValidationError, match="is no number"):
        read(kind, value)


@pytest.mark.parametrize(
    ("kind", "value", "found"),
    [
        (int, 1, 1), (int, 2.0, 2), (float, 1, 1.0), (float, "1e-4", 1e-4), (int, "1e3", 1000), (bool, True, True),
        (bool | float, True, True), (str | int, "7", "7"), (Any, True, True), (int | None, None, None),
    ],
)  # fmt: skip
def test_other_values_stay(kind: Any, value: Any, found: Any) -> None:
    assert read(kind, value) == found and type(read(kind, value)) is type(found)
