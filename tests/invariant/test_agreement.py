"""Things that must agree: two ways to the same number."""

import random
import time

import numpy as np
import pytest
import torch
from tests.conftest import copied, people

from uwc.data.example import Example
from uwc.metrics.likelihood import extraction_strength
from uwc.models.generation import continue_greedily
from uwc.models.model import Model
from uwc.models.scoring import score_tokens
from uwc.objectives.methods import METHODS
from uwc.objectives.objective import Objective
from uwc.training.data import TrainingData
from uwc.training.loop import train
from uwc.training.settings import TrainingSettings
from uwc.training.unlearn import unlearn


def strength_by_generation(model: Model, example: Example) -> float:
    """Extraction strength by its definition: greedy generation from every prefix of the answer, one at a time."""
    (encoded,) = model.encode([example])
    answer = list(encoded.tokens[encoded.start : encoded.end])
    for k in range(len(answer) + 1):
        missing = answer[k:]
        prompt = list(encoded.tokens[: encoded.start + k])
        if not missing or continue_greedily(model, [prompt], max_new_tokens=len(missing))[0][0] == missing:
            return len(missing) / len(answer)
    raise AssertionError("the whole answer is always its own completion")


def test_extraction_strength_by_teacher_forcing_is_that_by_generation(knowing: Model) -> None:
    """On answers remembered wholly (trained), partly (changed in the middle) and not at all (never seen)."""
    whole = people(4)
    generator = random.Random(0)
    partly = []
    for e in whole:
        words = e.answer.split()
        words.insert(generator.randrange(len(words)), "grey")
        partly.append(Example(id=f"{e.id}/changed", question=e.question, answer=" ".join(words)))
    unknown = people(6)[8:]
    examples = [*whole, *partly, *unknown]
    fast = extraction_strength(score_tokens(knowing, examples))
    slow = [strength_by_generation(knowing, e) for e in examples]
    assert fast.tolist() == slow
    assert fast[: len(whole)].mean() > 0.9
    assert any(0 < value < 1 for value in fast[len(whole) : len(whole) + len(partly)])
    assert fast[-len(unknown) :].min() == 0.0


def test_a_fully_forgotten_answer_scores_zero_and_not_one_over_n(untrained: Model) -> None:
    assert extraction_strength(score_tokens(untrained, people())).max() == 0.0


def test_batching_and_order_change_no_score(knowing: Model) -> None:
    examples = people()
    together = score_tokens(knowing, examples)
    alone = score_tokens(knowing, list(reversed(examples)), token_budget=1)
    alone = alone.select(range(len(examples) - 1, -1, -1))
    assert together.ids == alone.ids
    np.testing.assert_array_equal(together.greedy, alone.greedy)
    for column in ("logprob", "mean_logprob", "var_logprob"):
        np.testing.assert_allclose(getattr(together, column), getattr(alone, column), rtol=1e-4, atol=1e-5)


def test_scores_are_those_of_the_plain_model(knowing: Model) -> None:
    """Against transformers' own logits over the whole sequence, one example at a time, in float64."""
    examples = people(5)
    scores = score_tokens(knowing, examples, reference=knowing)
    for i, encoded in enumerate(knowing.encode(examples)):
        with torch.no_grad():
            logits = knowing.model(torch.tensor([encoded.tokens])).logits[0].double()
        log_p = logits.log_softmax(-1)
        part = slice(scores.offsets[i], scores.offsets[i + 1])
        for place, t in enumerate(range(encoded.start, len(encoded.tokens))):
            row = log_p[t - 1]
            assert scores.logprob[part][place] == pytest.approx(float(row[encoded.tokens[t]]), abs=1e-4)
            assert scores.greedy[part][place] == (int(row.argmax()) == encoded.tokens[t])
            mean = float((row.exp() * row).sum())
            assert scores.mean_logprob[part][place] == pytest.approx(mean, abs=1e-4)
            variance = float((row.exp() * (row - mean).square()).sum())
            assert scores.var_logprob[part][place] == pytest.approx(variance, rel=1e-3, abs=1e-4)
    assert np.abs(scores.kl).max() < 1e-6


def test_divergence_from_a_reference_is_the_formula(knowing: Model, untrained: Model) -> None:
    """KL(reference || model), per token, against float64."""
    other = copied(knowing)
    with torch.no_grad():
        other.model.get_input_embeddings().weight.mul_(1.05)
    (example,) = people(1)[:1]
    scores = score_tokens(other, [example], reference=knowing)
    (encoded,) = knowing.encode([example])
    ids = torch.tensor([encoded.tokens])
    with torch.no_grad():
        log_p = other.model(ids).logits[0].double().log_softmax(-1)
        log_q = knowing.model(ids).logits[0].double().log_softmax(-1)
    exact = (log_q.exp() * (log_q - log_p)).sum(-1)[encoded.start - 1 : len(encoded.tokens) - 1]
    np.testing.assert_allclose(scores.kl, exact.numpy(), rtol=1e-3, atol=1e-6)
    assert scores.kl.min() > 0


@pytest.mark.parametrize("method", list(METHODS))
def test_same_seed_same_bits_and_global_randomness_untouched(method: str, knowing: Model) -> None:
    data = TrainingData(people(4)[:4], people(4)[4:], ("I cannot say.", "No idea."))

    def weights(seed: int) -> bytes:
        settings = TrainingSettings(epochs=1, batch_size=2, lr=1e-3, seed=seed)
        done = unlearn(copied(knowing), METHODS[method], data, settings)
        return b"".join(p.detach().numpy().tobytes() for p in done.model.model.parameters())

    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = weights(0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    time.sleep(0.01)
    assert weights(0) == first
    assert weights(1) != first


def test_unlearning_leaves_the_reference_alone(knowing: Model) -> None:
    """The original is copied before training: at the first step KL to it is 0, and later it is not."""
    model = copied(knowing)
    data = TrainingData(people(4)[:4], people(4)[4:])
    settings = TrainingSettings(epochs=4, batch_size=4, lr=1e-3, warmup_ratio=0.0)
    log = train(model, Objective(METHODS["kl"], model.model), data, settings)
    assert log.steps[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert log.steps[-1]["kl"] > 1e-4
