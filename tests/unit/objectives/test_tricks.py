"""Tricks: in which order they act, on which tokens, and which values they take."""

from itertools import permutations

import pytest
import torch
from tests.helpers.term_examples import made_pass

from uwc.errors import ConfigError
from uwc.models.model import Model
from uwc.objectives.methods import METHODS, Method, WeightedTerm, active_tricks, check_term
from uwc.objectives.objective import Objective
from uwc.objectives.tricks import kept_tokens


def objective_of(term: str, model: Model, **tricks_on: float) -> Objective:
    return Objective(Method(term, "", "", (WeightedTerm(term),)), model.model, trick_settings=tricks_on)


def test_tricks_act_in_one_order_however_they_were_written(knowing: Model) -> None:
    """Tokens are chosen by the model's own likelihoods, and temperature scales what is left."""
    passed = made_pass([[0.9, 0.2, 0.6]])
    for names in permutations(["temperature", "likelihood_cap", "loss_selection"]):
        values = {"temperature": 2.0, "likelihood_cap": 0.55, "loss_selection": 0.67}
        objective = objective_of("gradient_ascent", knowing, **{name: values[name] for name in names})
        tricked = objective.apply_tricks("forget", passed)
        assert tricked.weights is not None and tricked.weights.tolist() == [1, 0, 1]
        scaled = [p**0.5 / (p**0.5 + 3 * ((1 - p) / 3) ** 0.5) for p in (0.9, 0.2, 0.6)]
        assert tricked.logprobs.exp().tolist() == pytest.approx(scaled)


def test_loss_selection_passes_over_the_tokens_that_no_term_reads(knowing: Model) -> None:
    """CE-U leaves out each answer's first token: half of the other four are kept, however likely the first one is."""
    for first in (0.99, 0.01):
        passed = made_pass([[first, 0.5, 0.8, 0.3, 0.9], [first]])
        objective = objective_of("ce_u", knowing, loss_selection=0.5)
        tricked = objective.apply_tricks("forget", passed)
        assert tricked.weights is not None and tricked.weights.tolist()[1:5] == [0, 1, 0, 1]
        counts = objective.counted_tokens(objective.terms[0], torch.tensor([5, 1]), torch.tensor([9, 9]))
        assert counts.tolist() == [2, 0]
    both = Objective(Method("both", "", "", (WeightedTerm("ce_u"), WeightedTerm("gradient_ascent"))), knowing.model,
                     trick_settings={"loss_selection": 0.5})  # fmt: skip
    assert both.apply_tricks("forget", made_pass([[0.99, 0.5, 0.8, 0.3, 0.9]])).weights.tolist() == [1, 0, 0, 0, 1]  # type: ignore[union-attr]


def test_loss_selection_keeps_the_floor_exactly() -> None:
    """13 % of 900 is 117, which single precision takes for 116.99999."""
    for percent in range(1, 100):
        counts = torch.arange(0, 1500)
        expected = (counts * percent // 100).clamp_min(1).minimum(counts)
        assert torch.equal(kept_tokens(counts, share=percent / 100), expected)


def test_loss_selection_trains_on_the_likeliest_tokens_of_a_refusal_too(knowing: Model) -> None:
    """Whatever answer the forget loss is taken on; see docs/papers.md."""
    for method, role in (("po", "refusal"), ("llmu", "random_answer"), ("altpo", "alternative")):
        objective = Objective(METHODS[method], knowing.model, trick_settings={"loss_selection": 0.5})
        weights = objective.apply_tricks(role, made_pass([[0.1, 0.7, 0.3, 0.6]])).weights
        assert weights is not None and weights.tolist() == [0, 1, 0, 1]
        assert objective.apply_tricks("retain", made_pass([[0.1, 0.7]])).weights is None


@pytest.mark.parametrize("trick", ["likelihood_cap", "loss_selection"])
def test_a_trick_leaves_the_prompt_as_it_is(trick: str, knowing: Model) -> None:
    """Also where the term is taken on it: made_pass gives prompt tokens the likelihood 1/2."""
    objective = objective_of("maximum_entropy", knowing, **{trick: 0.6})
    tricked = objective.apply_tricks("forget", made_pass([[0.9, 0.1]], before=3))
    assert tricked.weights is not None and tricked.weights.tolist() == [1, 1, 1, 1, 0]


@pytest.mark.parametrize(
    ("term", "settings", "tricks_on", "message"),
    [
        ("npo", {"beta": 0.0}, {}, "term 'npo': beta = 0.0: Input should be greater than 0"),
        ("npo", {"beta": float("nan")}, {}, "beta = nan"),
        ("weighted_ascent", {"beta": float("inf")}, {}, "beta = inf: Input should be a finite number"),
        ("npo", {}, {"temperature": 0.0}, "trick 'temperature': value = 0.0: Input should be greater than 0"),
        ("npo", {}, {"temperature": float("nan")}, "value = nan"),
        ("npo", {}, {"loss_selection": 1.5}, "trick 'loss_selection': value = 1.5"),
        ("npo", {}, {"likelihood_cap": 1.0}, "trick 'likelihood_cap': value = 1.0: Input should be less than 1"),
    ],
)
def test_values_out_of_range_are_told_before_anything_runs(
    term: str, settings: dict[str, float], tricks_on: dict[str, float], message: str
) -> None:
    def check() -> None:
        active_tricks(Method("x", "", "", (WeightedTerm(term),)), tricks_on)
        check_term(WeightedTerm(term, settings=settings))

    with pytest.raises(ConfigError, match=message):
        check()
