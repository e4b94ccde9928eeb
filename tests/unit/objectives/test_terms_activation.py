"""Terms on hidden states, with states of three dimensions."""

import pytest
import torch
from tests.helpers.term_examples import forwards, made_pass

from uwc.objectives.terms import (
    activation_distance,
    misdirection,
    misdirection_long,
    random_direction,
    uniform_vector,
)

STATES = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])


def made():  # type: ignore[no-untyped-def]
    """Two answers, of two tokens and of one."""
    return made_pass([[0.5, 0.5], [0.5]], states=STATES)


def test_misdirection_is_a_mean_per_answer_to_a_target_of_norm_c() -> None:
    u = random_direction(3, seed=7)
    assert float(u.norm()) == pytest.approx(1.0)
    errors = ((STATES - 2.0 * u) ** 2).mean(dim=1)
    value = misdirection(forwards({"forget": made()}), layer=1, coefficient=2.0, seed=7)
    assert value.tolist() == pytest.approx([float(errors[:2].mean()), float(errors[2])])


def test_the_long_target_is_the_same_draw_without_scaling() -> None:
    v = uniform_vector(3, seed=7)
    torch.testing.assert_close(random_direction(3, seed=7), v / v.norm())
    errors = ((STATES - 2.0 * v) ** 2).mean(dim=1)
    value = misdirection_long(forwards({"forget": made()}), layer=1, coefficient=2.0, seed=7)
    assert value.tolist() == pytest.approx([float(errors[:2].sum()), float(errors[2])])


def test_activation_distance_is_a_mean_over_each_answer() -> None:
    """Differences (1, 0, 0), (0, 0, 0) and (0, 3, 0): means of squares 1/3, 0 and 3; per answer 1/6 and 3.

    The peers' defect O7 mixed the two answers' lengths: (1/3 + 0) / 2 and 3 / 1 must not share a divisor."""
    moved = STATES + torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
    passed, original = made_pass([[0.5, 0.5], [0.5]], states=moved), made()
    value = activation_distance(forwards({"retain": passed}, {"retain": original}), layer=1)
    assert value.tolist() == pytest.approx([1 / 6, 3.0])


def test_a_layer_must_be_resolved_first() -> None:
    with pytest.raises(ValueError, match="layer must be resolved"):
        misdirection(forwards({"forget": made()}))
