"""Hashed n-grams."""

from zlib import crc32

import numpy as np
import pytest

from uwc.metrics.text_features import character_grams, hashed, text_features, word_grams


def test_names_are_hashed_with_signs_and_roots() -> None:
    """Three times one name and once another: (sqrt 3, 1) / 2, each with the sign of its hash, in its own column."""
    row = hashed([["oak", "elm", "oak", "oak"], []], size=1024)
    expected = np.zeros(1024)
    for name, value in (("oak", np.sqrt(3) / 2), ("elm", 0.5)):
        number = crc32(name.encode())
        expected[number % 1024] = -value if number >> 31 else value
    assert row[0] == pytest.approx(expected) and not row[1].any()


def test_grams_of_words_and_characters() -> None:
    assert word_grams("In Vint, in VINT") == ["in", "vint", "in", "vint", "in vint", "vint in", "in vint"]
    assert character_grams("ab") == ["\x02a", "ab", "b\x03", "\x02ab", "ab\x03", "\x02ab\x03"]
    assert word_grams("") == [] and len(character_grams("")) == 1


def test_features_have_blocks_of_length_one_lengths_and_a_constant() -> None:
    found = text_features(["In Vint", ""], size=64)
    assert found.shape == (2, 131)
    assert np.linalg.norm(found[0, :64]) == pytest.approx(1) and np.linalg.norm(found[0, 64:128]) == pytest.approx(1)
    assert found[0, 128:] == pytest.approx([np.log(3) / 4, np.log(8) / 6, 1.0])
    assert not found[1, :64].any() and found[1, 128:] == pytest.approx([0.0, 0.0, 1.0])
