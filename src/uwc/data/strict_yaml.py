"""A YAML reader for plain data that refuses repeated keys and exponential aliases."""

from typing import Any

import yaml
from yaml.constructor import ConstructorError

from uwc.errors import brief

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
    except (ValueError, OverflowError) as error:  # an impossible date, an integer of thousands of digits
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
