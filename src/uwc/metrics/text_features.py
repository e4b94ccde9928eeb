"""Features of texts."""

from collections.abc import Iterable, Sequence
from zlib import crc32

import numpy as np

from uwc.models.token_scores import Floats
from uwc.words import comparable, split_words

WORDS, CHARACTERS = 2, 4
"""The most words, and the most characters, of an n-gram."""
_FEWEST = 2
"""The fewest characters of an n-gram of characters."""


def hashed(parts: Sequence[Iterable[str]], *, size: int) -> Floats:
    """Hashed counts of some names in each of E rows, as vectors of length 1.

    The name s adds ``sign(s)`` to the column ``crc32(s) mod size``, with the sign of the hash's highest bit; of each
    sum x the signed root ``sign(x) sqrt(|x|)`` is taken, and the row is divided by its norm.

    Args:
        parts: [E] the names of each row, with repetitions.
        size: the number of columns, at most 2^31.

    Returns:
        [E, size]; 0 for a row without names.
    """
    found = np.zeros((len(parts), size))
    for row, names in zip(found, parts, strict=True):
        numbers = np.array([crc32(name.encode("utf-8", "surrogatepass")) for name in names], dtype=np.int64)
        np.add.at(row, numbers % size, np.where(numbers >> 31, -1.0, 1.0))
    found = np.sign(found) * np.sqrt(np.abs(found))
    norms = np.linalg.norm(found, axis=1, keepdims=True)
    return found / np.where(norms > 0, norms, 1.0)


def word_grams(text: str, most: int = WORDS) -> list[str]:
    """The n-grams of 1 to `most` words of a text, compared without case and width."""
    words = split_words(comparable(text))
    return [" ".join(words[i : i + n]) for n in range(1, most + 1) for i in range(len(words) - n + 1)]


def character_grams(text: str) -> list[str]:
    """The n-grams of 2 to 4 characters of a text as it is, between its beginning and its end."""
    whole = f"\x02{text}\x03"
    return [whole[i : i + n] for n in range(_FEWEST, CHARACTERS + 1) for i in range(len(whole) - n + 1)]


def text_features(texts: Sequence[str], *, size: int = 512) -> Floats:
    """The features of E texts: hashed n-grams of words and of characters, lengths and a constant.

    Args:
        texts: the texts.
        size: the number of columns of either kind of n-gram.

    Returns:
        [E, 2 size + 3]: words, characters, ``log(1 + words) / 4``, ``log(1 + characters) / 6`` and 1.
    """
    words = hashed([word_grams(text) for text in texts], size=size)
    characters = hashed([character_grams(text) for text in texts], size=size)
    counts = [(len(word_grams(text, 1)), len(text)) for text in texts]
    lengths = np.log1p(np.array(counts, dtype=np.float64).reshape(-1, 2)) / (4.0, 6.0)
    return np.concatenate([words, characters, lengths, np.ones((len(texts), 1))], axis=1)
