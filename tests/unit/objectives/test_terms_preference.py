"""Preference terms, worked out by hand from sequence likelihoods 1/2, 1/4 and 1/8."""

import math

import pytest
import torch
from tests.helpers.term_examples import LN2, forwards, made_pass

from uwc.objectives.terms import answer_preservation, dpo, gradient_ascent, npo, simnpo


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


def test_npo_is_the_sequence_ratio() -> None:
    """NLL 3 ln 2 against the original's ln 2: r = 2 ln 2, beta = 1: -2 log sigmoid(ln 4) = -2 log(4/5)."""
    made = forwards({"forget": made_pass([[0.5, 0.25]])}, {"forget": made_pass([[0.999999999, 0.5]])})
    assert npo(made, beta=1.0).tolist() == pytest.approx([-2 * math.log(4 / 5)], rel=1e-6)


def test_npo_as_beta_vanishes_is_gradient_ascent_on_sequence_sums() -> None:
    """-(2/b) log sigmoid(b r) = (2/b) ln 2 - r + O(b): up to the constant, ascent on the sum over the answer."""
    made = forwards({"forget": made_pass([[0.5, 0.25], [0.125]])}, {"forget": made_pass([[0.5, 0.5], [0.5]])})
    beta = 1e-4
    ratio = torch.tensor([1.0, 2.0], dtype=torch.float64) * LN2
    assert (npo(made, beta=beta).double() - 2 / beta * LN2 + ratio).abs().max() < 5e-3
    first, second = made_pass([[0.5, 0.25]]), made_pass([[0.5, 0.25]])
    npo(forwards({"forget": first}, {"forget": made_pass([[0.5, 0.5]])}), beta=1e-6).sum().backward()
    gradient_ascent(forwards({"forget": second})).sum().backward()
    torch.testing.assert_close(first.logits.grad, second.logits.grad, rtol=1e-5, atol=1e-7)


def test_npo_has_the_gradient_of_ascent_at_the_original() -> None:
    """The factor 2 P^beta / (P^beta + P_original^beta) is 1 there."""
    first, second = made_pass([[0.5, 0.25]]), made_pass([[0.5, 0.25]])
    npo(forwards({"forget": first}, {"forget": made_pass([[0.5, 0.25]])}), beta=0.5).sum().backward()
    gradient_ascent(forwards({"forget": second})).sum().backward()
    torch.testing.assert_close(first.logits.grad, second.logits.grad)


def test_simnpo_takes_the_loss_per_token() -> None:
    """(ln 2 + 2 ln 2) / 2 - 1/2 ln 2 = ln 2; beta = 2: -log sigmoid(ln 4) = -log(4/5)."""
    value = simnpo(forwards({"forget": made_pass([[0.5, 0.25]])}), beta=2.0, delta=LN2 / 2)
    assert value.tolist() == pytest.approx([-math.log(4 / 5)])


def test_simnpo_reads_no_reference() -> None:
    """It declares none, so a view without one is enough."""
    assert math.isfinite(simnpo(forwards({"forget": made_pass([[0.5]])}).only(("forget",))).item())


def test_dpo_compares_both_answers_with_the_original() -> None:
    """Refusal became likelier by 2 ln 2, the forget answer less likely by ln 2: margin 3 ln 2, sigmoid = 8/9."""
    made = forwards(
        {"forget": made_pass([[0.25]]), "refusal": made_pass([[0.5]])},
        {"forget": made_pass([[0.5]]), "refusal": made_pass([[0.125]])},
    )
    assert dpo(made, beta=1.0).tolist() == pytest.approx([-2 * math.log(8 / 9)])


def test_dpo_at_the_original_is_two_ln_2_over_beta() -> None:
    passes = {"forget": made_pass([[0.25, 0.5]]), "refusal": made_pass([[0.5]])}
    assert dpo(forwards(passes, passes), beta=0.1).tolist() == pytest.approx([20 * LN2])


def test_answer_preservation_prefers_the_answer() -> None:
    """NLL of the refusal 3 ln 2, of the answer ln 2: margin 2 ln 2, factor 1/beta: -log(4/5)."""
    made = forwards({"retain": made_pass([[0.5]]), "retain_refusal": made_pass([[0.25, 0.5]])})
    assert answer_preservation(made, beta=1.0).tolist() == pytest.approx([-math.log(4 / 5)])


@pytest.mark.parametrize("term", [npo, simnpo, dpo, answer_preservation])
def test_beta_must_be_positive(term) -> None:  # type: ignore[no-untyped-def]
    passes = {r: made_pass([[0.5]]) for r in ("forget", "refusal", "retain", "retain_refusal")}
    with pytest.raises(ValueError, match="must be positive"):
        term(forwards(passes, passes), beta=0.0)
