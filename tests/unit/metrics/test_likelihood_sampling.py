"""The chance of drawing an answer, by hand and by drawing."""

import numpy as np
import pytest
import torch
from tests.helpers.scores_by_hand import scores
from tests.helpers.tiles import statistics

from uwc.errors import ConfigError
from uwc.metrics.likelihood import probabilistic_extraction
from uwc.models.token_scores import Sampling

ALL = Sampling(1.0, 0).name


def test_n_tries_by_hand() -> None:
    """p = 1/2 x 1/4 = 1/8, without the end token; three tries: 1 - (7/8)^3 = 169/512."""
    rows = scores([[0.0] * 3], end=True, sampled={ALL: np.log([0.5, 0.25, 0.1]).tolist()})
    assert probabilistic_extraction(rows, top_k=0, tries=1)[0] == pytest.approx(1 / 8)
    assert probabilistic_extraction(rows, top_k=0, tries=3)[0] == pytest.approx(169 / 512)


def test_small_and_certain_chances_are_exact() -> None:
    """1 - (1 - p)^n for p = 1e-20 and n = 1000 is 1e-17, which 1 - p would lose; p = 1 gives 1; p = 0 gives 0."""
    rows = scores([[0.0], [0.0], [0.0], []], sampled={ALL: [float(np.log(1e-20)), 0.0, -np.inf]})
    values = probabilistic_extraction(rows, top_k=0, tries=1000)
    assert values[0] == pytest.approx(1e-17, rel=1e-5)
    assert values[1:3].tolist() == [1.0, 0.0]
    assert np.isnan(values[3])


def test_what_was_not_scored_is_named() -> None:
    with pytest.raises(ConfigError, match=r"temperature=0\.5 top_k=7 was not scored"):
        probabilistic_extraction(scores([[0.0]]), temperature=0.5, top_k=7)
    with pytest.raises(ConfigError, match="at least 1"):
        probabilistic_extraction(scores([[0.0]]), tries=0)
    with pytest.raises(ConfigError, match="must be positive"):
        Sampling(temperature=0.0)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_temperature_and_top_k_by_hand(width: int) -> None:
    """Probabilities 4/8, 3/8, 1/8. At temperature 1/2 they become 16, 9, 1 of 26; with the top 2, 16 and 9 of 25."""
    logits = torch.tensor([[4.0, 3.0, 1.0]]).log().repeat(3, 1)
    samplings = [Sampling(0.5, 0), Sampling(0.5, 2), Sampling(1.0, 9)]
    columns = statistics(logits, torch.tensor([0, 1, 2]), samplings=samplings, width=width)
    assert columns[Sampling(0.5, 0).name].exp().tolist() == pytest.approx([16 / 26, 9 / 26, 1 / 26])
    assert columns[Sampling(0.5, 2).name].exp().tolist() == pytest.approx([16 / 25, 9 / 25, 0.0])
    assert columns[Sampling(1.0, 9).name].exp().tolist() == pytest.approx([4 / 8, 3 / 8, 1 / 8])
