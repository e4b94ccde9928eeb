"""JSON and YAML readers that refuse repeated keys."""

import json
import re
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
LENIENT = json.JSONDecoder(parse_int=str)
"""Reads what only the rules of `DECODER` refuse; raises JSONDecodeError or RecursionError."""


def what_is_wrong(error: Exception) -> str:
    """The message for an error of `DECODER`, or of reading what it decodes."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, json.JSONDecodeError):
        return f"invalid JSON ({error.msg})"
    if isinstance(error, UnicodeDecodeError):
        return "this is not UTF-8; save the file with that encoding"
    if isinstance(error, RepeatedKey):
        return f"the key {brief(str(error))} occurs twice in one object; remove or rename one"
    if isinstance(error, RecursionError):
        return "lists or objects are nested too deeply; write texts in their place"
    return "a number has thousands of digits; write it as a text in quotes"


LARGEST = 100_000
"""The most values of a document, with aliases expanded."""
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_OTHER_BASE = re.compile(r"[-+]?(0_*\d[\d_]*|\d[\d_]*(:[\d_]+)+(\.[\d_]*)?)")
"""Octal numbers with a leading zero, and numbers to base 60, which hardly anybody means."""
_UNUSABLE = re.compile("[\0\ud800-\udfff]")
LONGEST_NUMBER = 400
"""The most characters of a number; the largest float has 309 digits."""
_MERGE = "tag:yaml.org,2002:merge"


def read_yaml(text: str) -> Any:
    """The value of a YAML document, of plain types only.

    Raises:
        yaml.YAMLError: a syntax error, a repeated key in a mapping, a recursive alias, lists or mappings nested too
            deeply, or more than `LARGEST` values.
    """
    try:
        loader = yaml.SafeLoader(text)
    except yaml.reader.ReaderError as error:  # its message has several lines
        raise ConstructorError(problem=f"it has the character #x{error.character:04x}; remove it") from None
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {})
        return loader.construct_document(node)
    except RecursionError:
        raise ConstructorError(problem="lists or mappings are nested too deeply") from None
    except (ValueError, OverflowError, LookupError, AttributeError, TypeError) as error:  # !!bool 5, an impossible date
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
    elif _UNUSABLE.search(node.value):
        raise ConstructorError(
            problem=f"{brief(node.value)} has a NUL or half a character; remove it", problem_mark=node.start_mark
        )
    elif node.tag in _NUMBERS and len(node.value) > LONGEST_NUMBER:
        raise ConstructorError(
            problem=f"{brief(node.value)} has too many digits; write a smaller number", problem_mark=node.start_mark
        )
    elif node.tag in _NUMBERS and _OTHER_BASE.fullmatch(node.value):
        raise ConstructorError(
            problem=f"{brief(node.value)} is a number to another base in YAML; write it without leading zeros or "
            "colons, or as a text in quotes",
            problem_mark=node.start_mark,
        )
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
