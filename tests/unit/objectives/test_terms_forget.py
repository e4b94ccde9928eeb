"""Token losses of the forget answers, worked out by hand from probabilities 1/2, 1/4 and 1/8."""

import pytest
import torch
from tests.helpers.term_examples import LN2, forwards, made_pass

from uwc.objectives.terms import (
    gradient_ascent,
    refusal,
    saturation_importance,
    token_npo,
    weighted_ascent,
    weighted_token_npo,
)

ANSWERS = [[0.5, 0.25], [0.125]]
"""NLL: ln 2 + 2 ln 2 = 3 ln 2, and 3 ln 2."""


def test_gradient_ascent_is_the_sum_of_log_likelihoods() -> None:
    """log 1/2 + log 1/4 = -3 ln 2; log 1/8 = -3 ln 2."""
    assert gradient_ascent(forwards({"forget": made_pass(ANSWERS)})).tolist() == pytest.approx([-3 * LN2, -3 * LN2])


def test_gradient_ascent_counts_no_token_before_the_answer() -> None:
    """With two labelled tokens before each answer (the scope of another term) the sums are the same."""
    wide = made_pass(ANSWERS, before=2)
    assert gradient_ascent(forwards({"forget": wide})).tolist() == pytest.approx([-3 * LN2, -3 * LN2])


def test_refusal_is_descent() -> None:
    assert refusal(forwards({"refusal": made_pass(ANSWERS)})).tolist() == pytest.approx([3 * LN2, 3 * LN2])


def test_weighted_ascent_weighs_by_likelihood() -> None:
    """beta = 2: -(1/4 ln 2 + 1/16 * 2 ln 2) = -3/8 ln 2; -(1/64 * 3 ln 2)."""
    value = weighted_ascent(forwards({"forget": made_pass(ANSWERS)}), beta=2.0)
    assert value.tolist() == pytest.approx([-3 / 8 * LN2, -3 / 64 * LN2])


def test_weighted_ascent_at_beta_0_is_gradient_ascent() -> None:
    passes = forwards({"forget": made_pass(ANSWERS)})
    assert weighted_ascent(passes, beta=0.0).tolist() == pytest.approx(gradient_ascent(passes).tolist())


def test_token_npo_weighs_by_the_ratio_to_the_original() -> None:
    """beta = 1, p = 1/2 against q = 1/4: w = 2 (1/2) / (3/4) = 4/3; p = 1/4 against q = 1/4: w = 1."""
    made = forwards({"forget": made_pass([[0.5, 0.25]])}, {"forget": made_pass([[0.25, 0.25]])})
    assert token_npo(made, beta=1.0).tolist() == pytest.approx([-(4 / 3 * LN2 + 2 * LN2)])


def test_token_npo_at_the_original_has_weights_of_1() -> None:
    made = forwards({"forget": made_pass(ANSWERS)}, {"forget": made_pass(ANSWERS)})
    assert token_npo(made, beta=4.0).tolist() == pytest.approx(gradient_ascent(made).tolist())


def test_weighted_token_npo_multiplies_both_weights() -> None:
    """beta = 1, alpha = 1: w = 4/3 * 1/2 = 2/3 and 1 * 1/4."""
    made = forwards({"forget": made_pass([[0.5, 0.25]])}, {"forget": made_pass([[0.25, 0.25]])})
    assert weighted_token_npo(made, beta=1.0, alpha=1.0).tolist() == pytest.approx([-(2 / 3 * LN2 + 1 / 4 * 2 * LN2)])
    assert weighted_token_npo(made, beta=1.0, alpha=0.0).tolist() == pytest.approx(token_npo(made, beta=1.0).tolist())


def test_saturation_importance_spares_both_ends() -> None:
    """beta1 = 2, beta2 = 1: w = 1/4 * 1/2 = 1/8, 1/16 * 3/4 = 3/64; and 1/64 * 7/8."""
    value = saturation_importance(forwards({"forget": made_pass(ANSWERS)}), beta1=2.0, beta2=1.0)
    assert value.tolist() == pytest.approx([-(1 / 8 + 2 * 3 / 64) * LN2, -3 * 7 / 512 * LN2])


def test_saturation_importance_without_exponents_is_gradient_ascent() -> None:
    passes = forwards({"forget": made_pass(ANSWERS)})
    value = saturation_importance(passes, beta1=0.0, beta2=0.0)
    assert value.tolist() == pytest.approx(gradient_ascent(passes).tolist())


def test_no_gradient_flows_through_the_weights() -> None:
    """dL/dlog p_t is w_t itself: with beta = 2 and p = 1/2 the gradient to the true logit is 1/4 * (1 - 1/2)."""
    passed = made_pass([[0.5]])
    weighted_ascent(forwards({"forget": passed}), beta=2.0).sum().backward()
    assert passed.logits.grad is not None
    assert float(passed.logits.grad[0, 1]) == pytest.approx(1 / 4 * 1 / 2)


def test_a_token_that_is_certain_keeps_a_finite_weight() -> None:
    passed = made_pass([[0.5]])
    certain = torch.full_like(passed.logits, -1e4).detach()
    certain[:, 1] = 0.0
    passed.all_logits = certain.requires_grad_()
    assert saturation_importance(forwards({"forget": passed}), beta1=5.0, beta2=1.0).tolist() == [0.0]
    assert torch.isfinite(weighted_ascent(forwards({"forget": passed}))).all()
