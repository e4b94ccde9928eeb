"""Terms on whole distributions, worked out by hand over a vocabulary of four."""

import math
from dataclasses import replace

import pytest
import torch
from tests.helpers.term_examples import LN2, forwards, made_pass

from uwc.objectives.forwards import jensen_shannon_divergence
from uwc.objectives.terms import (
    ce_u,
    jensen_shannon,
    jensen_shannon_refusal,
    kl,
    logit_flattening,
    maximum_entropy,
    nll,
    self_distillation,
)


def test_self_distillation_lowers_the_true_token_in_the_teacher() -> None:
    """Original (1/6, 1/2, 1/6, 1/6), beta = ln 3 makes the teacher uniform; against p = (1/6, 1/2, 1/6, 1/6)."""
    made = forwards({"forget": made_pass([[0.5]])}, {"forget": made_pass([[0.5]])})
    expected = -(math.log(1 / 2) + 3 * math.log(1 / 6)) / 4
    assert self_distillation(made, beta=math.log(3)).tolist() == pytest.approx([expected])


def test_self_distillation_touches_no_position_outside_the_answer() -> None:
    """The peers' defect O9: prompt and padding positions were trained too."""
    passed, original = made_pass([[0.5], [0.25, 0.5]], before=2), made_pass([[0.5], [0.25, 0.5]], before=2)
    self_distillation(forwards({"forget": passed}, {"forget": original})).sum().backward()
    assert passed.logits.grad is not None
    outside = ~passed.batch.in_answer
    assert outside.sum() == 4
    assert passed.logits.grad[outside].abs().max() == 0
    assert passed.logits.grad[~outside].abs().min() > 0


def test_ce_u_imitates_what_is_left_without_the_true_token() -> None:
    """First token left out. p = (1/6, 1/2, 1/6, 1/6): target (1/3, 0, 1/3, 1/3), so the loss is ln 6."""
    value = ce_u(forwards({"forget": made_pass([[0.25, 0.5]])}))
    assert value.tolist() == pytest.approx([math.log(6)])
    both = ce_u(forwards({"forget": made_pass([[0.25, 0.5]])}), ignore_first=0)
    assert both.tolist() == pytest.approx([math.log(6) + math.log(4)])


def test_ce_u_leaves_out_the_first_answer_token_also_where_the_prompt_is_labelled() -> None:
    wide = made_pass([[0.25, 0.5], [0.5]], before=3)
    assert ce_u(forwards({"forget": wide})).tolist() == pytest.approx([math.log(6), 0.0])


def test_maximum_entropy_is_the_divergence_of_the_uniform_from_the_model() -> None:
    """KL(U || p) = -(ln 1/2 + 3 ln 1/6) / 4 - ln 4; 0 where p is uniform. Not KL(p || U)."""
    value = maximum_entropy(forwards({"forget": made_pass([[0.5], [0.25]])}), scope="answer")
    expected = -(math.log(1 / 2) + 3 * math.log(1 / 6)) / 4 - math.log(4)
    assert value.tolist() == pytest.approx([expected, 0.0], abs=1e-6)


def test_maximum_entropy_covers_the_prompt_where_asked() -> None:
    """Two positions of probability 1/2 before the answer count three times together with it."""
    wide = forwards({"forget": made_pass([[0.5]], before=2)})
    answer = maximum_entropy(wide, scope="answer")
    assert maximum_entropy(wide, scope="attended").tolist() == pytest.approx((3 * answer).tolist())


def test_logit_flattening_is_the_squared_distance_of_largest_and_mean() -> None:
    """Logits ln(1/6, 1/2, 1/6, 1/6): largest - mean = 3/4 ln 3. Adding a constant to all changes nothing."""
    passed = made_pass([[0.5]])
    assert logit_flattening(forwards({"forget": passed})).tolist() == pytest.approx([(0.75 * math.log(3)) ** 2])
    passed.all_logits = passed.logits.detach() + 5
    assert logit_flattening(forwards({"forget": passed})).tolist() == pytest.approx([(0.75 * math.log(3)) ** 2])


def test_kl_is_from_the_original_to_the_model() -> None:
    """Original (1/6, 1/2, 1/6, 1/6) against uniform: 1/2 ln 2 + 1/2 ln(2/3)."""
    made = forwards({"retain": made_pass([[0.25]])}, {"retain": made_pass([[0.5]])})
    assert kl(made).tolist() == pytest.approx([0.5 * LN2 + 0.5 * math.log(2 / 3)])


def test_kl_is_blind_to_a_constant_in_the_logits() -> None:
    """The peers' defect M2: raw logits taken for log-probabilities."""
    passed, original = made_pass([[0.25, 0.5]]), made_pass([[0.5, 0.5]])
    before = kl(forwards({"retain": passed}, {"retain": original})).tolist()
    passed.all_logits, original.all_logits = passed.logits + 5, original.logits - 3
    assert kl(forwards({"retain": passed}, {"retain": original})).tolist() == pytest.approx(before)


def test_kl_counts_the_prompt_only_where_asked() -> None:
    made = forwards({"retain": made_pass([[0.25]], before=1)}, {"retain": made_pass([[0.5]], before=1)})
    assert kl(made, scope="attended").tolist() == pytest.approx(kl(made).tolist()), "the prompt's own divergence is 0"


def test_kl_of_a_model_that_rules_tokens_out_is_finite_where_both_do() -> None:
    passed, original = made_pass([[0.25]]), made_pass([[0.5]])
    for made in (passed, original):
        ruled_out = made.logits.detach().clone()
        ruled_out[:, 3] = -math.inf
        made.all_logits = ruled_out.requires_grad_()
    value = kl(forwards({"retain": passed}, {"retain": original}))
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(passed.logits.grad).all()  # type: ignore[union-attr]


def test_nll_is_descent() -> None:
    assert nll(forwards({"retain": made_pass([[0.5, 0.25]])})).tolist() == pytest.approx([3 * LN2])


def jensun(answers: list[list[float]], refusals: list[list[int]]) -> list[float]:
    """The loss of answers whose tokens have these probabilities; token 1 is likely, and the others share the rest."""
    refusal = made_pass([[0.5] * len(tokens) for tokens in refusals])
    targets = torch.tensor([token for tokens in refusals for token in tokens])
    refusal = replace(refusal, batch=replace(refusal.batch, targets=targets), all_logits=None)
    values: list[float] = jensen_shannon_refusal(forwards({"forget": made_pass(answers), "refusal": refusal})).tolist()
    return values


def test_jensun_is_between_0_and_log_2() -> None:
    """p = 1/2 of the target: m = (3/4, 1/12, 1/12, 1/12), and ln 2 - (3/2 ln 3/2 - 1/2 ln 1/2) / 2 = 0.2158."""
    (half,) = jensun([[0.5]], [[1]])
    assert (
        half
        == pytest.approx(math.log(2) - (1.5 * math.log(1.5) + 0.5 * math.log(2)) / 2)
        == pytest.approx(0.21576, abs=1e-5)
    )
    assert jensun([[1.0 - 1e-12], [1e-12], [0.5, 0.5]], [[1], [1], [1]]) == pytest.approx(
        [0.0, math.log(2), 2 * half], abs=1e-6
    )


def test_jensun_takes_the_tokens_of_a_refusal_in_turn() -> None:
    """Targets 1, 2, 1 and 2, 1: token 1 has probability 0.7, and each other token 0.1."""

    def of(p: float) -> float:
        return math.log(2) - ((1 + p) * math.log(1 + p) - p * math.log(p)) / 2

    found = jensun([[0.7, 0.7, 0.7], [0.7, 0.7]], [[1, 2], [2, 1, 3]])
    assert found == pytest.approx([2 * of(0.7) + of(0.1), of(0.7) + of(0.1)], rel=1e-5)


def test_the_jensen_shannon_divergence_is_symmetric_and_bounded() -> None:
    """(1/2, 1/6, ..) against uniform: half of 1/2 ln 4/3 + 3/6 ln 4/5 and of 1/4 ln 2/3 + 3/4 ln 6/5."""
    one, other = forwards({"retain": made_pass([[0.5]])}, {"retain": made_pass([[0.25]])}), made_pass([[0.5]])
    parts = (0.5 * math.log(4 / 3) + 0.5 * math.log(4 / 5), 0.25 * math.log(2 / 3) + 0.75 * math.log(6 / 5))
    assert jensen_shannon(one).tolist() == pytest.approx([sum(parts) / 2], rel=1e-5)
    swapped = forwards({"retain": made_pass([[0.25]])}, {"retain": other})
    assert jensen_shannon(swapped).tolist() == pytest.approx([sum(parts) / 2], rel=1e-5)
    same = forwards({"retain": made_pass([[0.5]])}, {"retain": other})
    assert jensen_shannon(same).tolist() == pytest.approx([0.0], abs=1e-7)


def test_a_token_of_no_probability_has_no_part_in_the_jensen_shannon_divergence() -> None:
    """(1, 0) against (1/2, 1/2), and (1, 0) against (0, 1), which is ln 2; gradients stay finite."""
    reference = torch.tensor([[0.0, -math.inf], [0.0, -math.inf]])
    logits = torch.tensor([[0.0, 0.0], [-math.inf, 0.0]], requires_grad=True)
    found = jensen_shannon_divergence(reference, logits)
    expected = (math.log(4 / 3) + 0.5 * math.log(2 / 3) + 0.5 * math.log(2)) / 2
    assert found.tolist() == pytest.approx([expected, math.log(2)], rel=1e-5)
    found.sum().backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()
