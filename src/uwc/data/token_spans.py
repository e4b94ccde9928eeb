"""The tokens of a part of a text: by the offsets of fast tokenizers, and without offsets."""

from collections.abc import Sequence
from typing import Any


def find_spans(texts: Sequence[tuple[str, int, int]], tokenizer: Any) -> list[tuple[list[int], int, int]]:
    """Tokenize texts without special tokens, and find the tokens of ``text[start:end]``.

    Args:
        texts: (text, start, end), in characters; the span does not end with white space.
        tokenizer: a transformers tokenizer.

    Returns:
        For each text its token ids, the index of the first token of the span, and one past its last.
    """
    whole = [text for text, _, _ in texts]
    if getattr(tokenizer, "is_fast", False):
        encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
        found = zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True)
        return [(list(ids), *_by_offsets(offsets, start, end)) for (_, start, end), ids, offsets in found]
    ids = list(tokenizer(whole, add_special_tokens=False)["input_ids"])
    heads = list(tokenizer([text[:start] for text, start, _ in texts], add_special_tokens=False)["input_ids"])
    tails = list(tokenizer([text[end:] for text, _, end in texts], add_special_tokens=False)["input_ids"])
    rows = zip(ids, heads, tails, strict=True)
    return [(list(row), *_by_ends(row, head, tail, tokenizer)) for row, head, tail in rows]


def _by_offsets(offsets: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, int]:
    """The tokens whose characters overlap start..end."""
    inside = [i for i, (first, last) in enumerate(offsets) if first < end and last > start]
    return (inside[0], inside[-1] + 1) if inside else (0, 0)


def _by_ends(ids: Sequence[int], head: Sequence[int], tail: Sequence[int], tokenizer: Any) -> tuple[int, int]:
    """The tokens after the common prefix with the text before the span, and before the common suffix with the text
    after it. White space at the end belongs to the text after the span."""
    first = common_prefix(head, ids)
    last = len(ids) - common_prefix(tail[::-1], ids[::-1])
    while last > first and not tokenizer.decode([ids[last - 1]]).strip():
        last -= 1
    return first, last


def common_prefix(first: Sequence[Any], second: Sequence[Any]) -> int:
    """The length of the common prefix of two sequences."""
    for i, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return i
    return min(len(first), len(second))
