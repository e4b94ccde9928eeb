"""Validation of numbers with pydantic: truth values and texts are no numbers."""

import re
from typing import Any

from pydantic import GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, core_schema

_EXPONENT = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+\s*")


def _number(value: Any) -> Any:
    """A number as it is, also one that YAML 1.1 reads as a text, such as 1e-4."""
    if isinstance(value, bool):
        raise ValueError("a truth value is no number; write a number")
    if isinstance(value, str | bytes):
        if isinstance(value, bytes) or not _EXPONENT.fullmatch(value):
            raise ValueError("a text is no number; write the number without quotes")
        return float(value)
    return value


class StrictNumbers:
    """A base class of models and dataclasses, and a mark in ``Annotated``: numbers at any depth are no truth values or
    texts."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema: CoreSchema = _checked(handler(source), handler, set())
        return schema


def first_message(error: ValidationError) -> str:
    """The message of the first validation error, without the value."""
    return error.errors()[0]["msg"].removeprefix("Value error, ")


def _checked(schema: Any, handler: GetCoreSchemaHandler, seen: set[int]) -> Any:
    """The schema with `_number` before each number in it; definitions that it refers to are changed in place."""
    if isinstance(schema, list | tuple):
        return type(schema)(_checked(part, handler, seen) for part in schema)
    if not isinstance(schema, dict) or id(schema) in seen:
        return schema
    seen.add(id(schema))
    if schema.get("type") == "definition-ref":
        _checked(handler.resolve_ref_schema(schema), handler, seen)
        return schema
    if schema.get("type") in ("int", "float"):
        return core_schema.no_info_before_validator_function(_number, schema)
    match schema.get("function"):
        case {"function": function} if function is _number:
            return schema
    for key, part in schema.items():
        if key not in ("metadata", "default", "serialization"):
            schema[key] = _checked(part, handler, seen)
    return schema
