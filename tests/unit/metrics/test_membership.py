"""Membership inference, by hand."""

import zlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import people
from tests.helpers.scores_by_hand import scores

from uwc.data.batches import collate
from uwc.errors import ConfigError
from uwc.metrics.membership import mia_loss, mia_min_k, mia_min_k_plus_plus, mia_reference, mia_zlib
from uwc.models.head import answer_logits
from uwc.models.model import Model
from uwc.models.scoring import gradient_norms


def test_loss_counts_the_end_token() -> None:
    assert mia_loss(scores([[-1.0, -2.0, -6.0]], end=True))[0] == pytest.approx(3.0)


def test_zlib_divides_by_the_compressed_size() -> None:
    answer = "the same the same the same"
    assert mia_zlib(scores([[-4.0]]), [answer])[0] == pytest.approx(4.0 / len(zlib.compress(answer.encode())))


def test_reference_is_the_difference_of_losses() -> None:
    """Losses 3 and (1 + 2) / 2 = 1.5."""
    assert mia_reference(scores([[-2.0, -4.0]], reference=[-1.0, -2.0], kl=0.0))[0] == pytest.approx(1.5)


def test_min_k_takes_the_least_likely_tokens() -> None:
    """Of five tokens, 40 % are two: -5 and -4. Of one token, none by floor, so one. The end token is left out."""
    rows = scores([[-1.0, -5.0, -2.0, -4.0, -3.0, -99.0], [-2.0, -99.0]], end=True)
    assert mia_min_k(rows).tolist() == [4.5, 2.0]
    assert mia_min_k(rows, k=1.0)[0] == pytest.approx(3.0)


def test_min_k_plus_plus_standardises() -> None:
    """(-3 - -1) / 2 = -1, (-1 - -1) / 1 = 0, (-2 - -5) / sqrt(1e-6) = 3000: the lowest of three at 40 % is -1."""
    rows = scores([[-3.0, -1.0, -2.0]], mean=[-1.0, -1.0, -5.0], variance=[4.0, 1.0, 0.0])
    assert mia_min_k_plus_plus(rows)[0] == pytest.approx(1.0)
    assert mia_min_k_plus_plus(rows, k=1.0)[0] == pytest.approx(-2999 / 3, rel=1e-4)


@pytest.mark.parametrize("k", [-0.1, 1.5])
def test_a_share_outside_its_range_is_refused(k: float) -> None:
    with pytest.raises(ConfigError, match=r"must be in 0\.\.1"):
        mia_min_k(scores([[-1.0]]), k=k)


@given(
    st.lists(st.lists(st.floats(-50, 0, width=32), min_size=1, max_size=12), min_size=1, max_size=5),
    st.integers(0, 10),
)
def test_min_k_is_the_slow_definition(rows: list[list[float]], tenths: int) -> None:
    fast = mia_min_k(scores(rows), k=tenths / 10)
    for row, value in zip(rows, fast, strict=True):
        lowest = sorted(row)[: max(1, tenths * len(row) // 10)]
        assert value == pytest.approx(-sum(lowest) / len(lowest), rel=1e-6, abs=1e-9)


def test_gradient_norm_is_the_mean_norm_of_the_parameters_gradients(untrained: Model) -> None:
    example = people(1)[0]
    encoded = untrained.encode([example])[0]
    batch = collate([encoded], device=untrained.device)
    logits = answer_logits(untrained.model, batch)[:-1]  # the last predicts the end token
    loss = torch.nn.functional.cross_entropy(logits, batch.targets[:-1])
    gradients = torch.autograd.grad(loss, list(untrained.model.parameters()))
    expected = float(torch.stack([g.norm() for g in gradients]).mean())
    assert gradient_norms(untrained, [example])[0] == pytest.approx(expected, rel=1e-4)
    assert all(p.grad is None for p in untrained.model.parameters())
