"""JSON and YAML readers that refuse repeated keys."""

import json
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from uwc.errors import brief


class RepeatedKey(ValueError):
    """A key that occurs twice in one JSON object."""


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise RepeatedKey(next(key for key in keys if keys.count(key) > 1))
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys)
"""Raises ValueError (JSONDecodeError for a mistake of syntax, RepeatedKey) or RecursionError."""


def what_is_wrong(error: Exception) -> str:
    """The message for an error of `DECODER`."""
    if isinstance(error, json.JSONDecodeError):
        return f"invalid JSON ({error.msg})"
    if isinstance(error, RepeatedKey):
        return f"the key {brief(str(error))} occurs twice in one object; remove or rename one"
    if isinstance(error, RecursionError):
        return "lists or objects are nested too deeply; write questions and answers as texts"
    return "a number has thousands of digits; write it as a text in quotes"


LARGEST = 100_000
"""The most values of a document, with aliases expanded."""
_MERGE = "tag:yaml.org,2002:merge"


def read_yaml(text: str) -> Any:
    """The value of a YAML document, of plain types only.

    Raises:
        yaml.YAMLError: a syntax error, a repeated key in a mapping, a recursive alias, lists or mappings nested too
            deeply, or more than `LARGEST` values.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {})
        return loader.construct_document(node)
    except RecursionError:
        raise ConstructorError(problem="lists or mappings are nested too deeply") from None
    except (ValueError, OverflowError, LookupError, AttributeError, TypeError) as error:
        # an impossible date, an integer of thousands of digits, a tag such as !!bool on a value of another type
        raise ConstructorError(problem=f"a value cannot be read ({error})") from None
    finally:
        loader.dispose()


def _count(node: yaml.Node, counted: dict[int, int]) -> int:
    """The number of values of a node with aliases expanded; `counted` caches it by node, with 0 while in progress."""
    if (known := counted.get(id(node))) is not None:
        if not known:
            raise ConstructorError(problem="an alias is inside its own value", problem_mark=node.start_mark)
        return known
    counted[id(node)] = 0
    inner: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        _require_unique(node)
        inner = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        inner = node.value
    total = 1 + sum(_count(part, counted) for part in inner)
    if total > LARGEST:
        raise ConstructorError(
            problem=f"with aliases expanded it has more than {LARGEST:,} values", problem_mark=node.start_mark
        )
    counted[id(node)] = total
    return total


def _require_unique(mapping: yaml.MappingNode) -> None:
    seen: set[tuple[str, str]] = set()
    for key, _ in mapping.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
            continue
        if (key.tag, key.value) in seen:
            raise ConstructorError(
                problem=f"the key {brief(key.value)} occurs twice in one mapping; remove or rename one",
                problem_mark=key.start_mark,
            )
        seen.add((key.tag, key.value))
