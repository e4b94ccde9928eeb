"""A validation error of a configuration as one line that names the key and the valid ones."""

from collections.abc import Sequence
from dataclasses import is_dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from uwc.registry import unknown_name


def first_problem(error: ValidationError, model: type) -> str:
    """The first validation error as one line that names the key and the valid ones."""
    problem = error.errors()[0]
    location = [str(part) for part in problem["loc"]]
    path = ".".join(location)
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        inside = ".".join(location[:-1]) or "the top level"
        return f"{unknown_name(f'key (at {inside})', location[-1], _keys_at(model, location[:-1]))}"
    if problem["type"] == "missing":
        return f"the key {path!r} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    given = repr(problem["input"])
    given = given if len(given) <= 120 else f"{given[:117]}..."
    return f"{path} = {given}: {message}" if path else message


def _keys_at(model: Any, location: Sequence[str]) -> list[str]:
    """The keys that are valid at a place in the configuration."""
    if not (isinstance(model, type) and (issubclass(model, BaseModel) or is_dataclass(model))):
        inner = [a for a in get_args(model) if a not in (type(None), Ellipsis)]
        return _keys_at(inner[0], location) if inner else []
    fields = model.model_fields if issubclass(model, BaseModel) else model.__dataclass_fields__
    if not location:
        return list(fields)
    annotation = getattr(fields.get(location[0]), "annotation", None)
    rest = location[1:]
    while rest and rest[0].isdigit():
        rest = rest[1:]
    return _keys_at(annotation, rest) if annotation is not None else []
