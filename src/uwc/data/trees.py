"""Token trees: sequences that begin alike, as one sequence in which each common beginning is there once."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from uwc.data.prompts import EncodedExample

MOST_BESIDE = 512
"""The most tokens of a tree beside those of its longest sequence: each costs attention to all tokens of the tree."""
WORTH = 0.85
"""The largest share of the tokens of its sequences that a tree may have, for attention with a mask costs more."""


@dataclass(frozen=True, slots=True)
class TokenTree:
    """Sequences with their common beginnings merged (token tree, arXiv:2305.09781).

    A token is a node; two sequences share a node as far as all their tokens up to it are the same. The last token of a
    sequence, which predicts nothing, is left out if there are several.

    Attributes:
        members: the indices of the sequences, the longest last.
        tokens: [n] the token of each node, after all that are on the way to it.
        paths: for each member the node of each of its tokens.
    """

    members: tuple[int, ...]
    tokens: tuple[int, ...]
    paths: tuple[tuple[int, ...], ...]

    @property
    def shared(self) -> bool:
        """Whether it has several sequences."""
        return len(self.members) > 1

    @property
    def branches(self) -> bool:
        """Whether it has tokens that are not in its longest sequence."""
        return len(self.tokens) > len(self.paths[-1])


def single_tree(encoded: Sequence[EncodedExample], index: int) -> TokenTree:
    """One sequence, with all its tokens."""
    tokens = encoded[index].tokens
    return TokenTree((index,), tokens, _chain(len(tokens)))


@lru_cache(maxsize=4096)
def _chain(length: int) -> tuple[tuple[int, ...]]:
    """The path of a sequence by itself, the same object for all of one length."""
    return (tuple(range(length)),)


def token_tree(encoded: Sequence[EncodedExample], members: Iterable[int]) -> TokenTree:
    """The tree of several sequences."""
    growing = _Growing()
    for member in sorted(members, key=lambda i: len(encoded[i].tokens)):
        growing.add(member, encoded[member].tokens[:-1])
    return growing.tree


def token_trees(encoded: Sequence[EncodedExample], *, longest: int, most: int) -> list[TokenTree]:
    """Trees of the sequences of each example, where they save work; every other sequence is a tree of its own.

    Args:
        encoded: sequences; those with one id are of one example.
        longest: the length of the longest sequence that may be in a tree with others.
        most: the most tokens of such a tree.

    Returns:
        First the trees of several sequences, then those of one in their order.
    """
    of_example: dict[str, list[int]] = {}
    for i, example in enumerate(encoded):
        if 1 < len(example.tokens) <= longest and example.unattended is None:
            of_example.setdefault(example.id, []).append(i)
    shared = []
    for members in of_example.values():
        for tree in _trees(encoded, members, most):
            if tree.shared and len(tree.tokens) <= WORTH * sum(len(encoded[i].tokens) for i in tree.members):
                shared.append(tree)
    inside = {i for tree in shared for i in tree.members}
    return [*shared, *(single_tree(encoded, i) for i in range(len(encoded)) if i not in inside)]


def _trees(encoded: Sequence[EncodedExample], members: Sequence[int], most: int) -> Iterator[TokenTree]:
    """Trees of at most `most` tokens, or of a single sequence."""
    growing = _Growing()
    for member in sorted(members, key=lambda i: len(encoded[i].tokens)):
        tokens = encoded[member].tokens[:-1]
        size = growing.size_with(tokens)
        if growing.paths and (size > most or size - len(tokens) > MOST_BESIDE):
            yield growing.tree
            growing = _Growing()
        growing.add(member, tokens)
    yield growing.tree


class _Growing:
    """A tree to which sequences are added."""

    def __init__(self) -> None:
        self.nodes: dict[tuple[int, int], int] = {}  # (node before, token) -> node
        self.paths: dict[int, tuple[int, ...]] = {}

    def size_with(self, tokens: Sequence[int]) -> int:
        """The number of nodes once a sequence is added."""
        node = -1
        for i, token in enumerate(tokens):
            if (node, token) not in self.nodes:
                return len(self.nodes) + len(tokens) - i
            node = self.nodes[node, token]
        return len(self.nodes)

    def add(self, member: int, tokens: Sequence[int]) -> None:
        """Add a sequence."""
        node, path = -1, []
        for token in tokens:
            node = self.nodes.setdefault((node, token), len(self.nodes))
            path.append(node)
        self.paths[member] = tuple(path)

    @property
    def tree(self) -> TokenTree:
        """The tree as it is."""
        return TokenTree(tuple(self.paths), tuple(token for _, token in self.nodes), tuple(self.paths.values()))
