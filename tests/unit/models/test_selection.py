"""The selection of a few examples out of many: at random, the least likely, and by Fisher information."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.conftest import copied, people, tiny_model
from tests.helpers.architectures import architecture

from uwc.errors import DataError, ModelError
from uwc.models.model import Model
from uwc.models.scoring import score_tokens
from uwc.models.selection import RULES, fisher_embeddings, most_informative, require_effect, select
from uwc.models.states import entering_states

Array = NDArray[np.float64]


def by_definition(embeddings: Array, count: int, ridge: float = 1.0) -> list[int]:
    """BAIT with the inverse and the trace computed for each candidate."""
    information = [v.T @ v for v in embeddings.astype(np.float64)]
    of_pool = sum(information) / len(information)
    scaled = ridge * np.trace(of_pool) / len(of_pool) * np.eye(len(of_pool))

    def trace(chosen: list[int]) -> float:
        return float(np.trace(np.linalg.inv(sum((information[i] for i in chosen), scaled)) @ of_pool))

    chosen: list[int] = []
    everyone = range(len(embeddings))
    while len(chosen) < min(2 * count, len(embeddings)):
        chosen.append(min((i for i in everyone if i not in chosen), key=lambda i: trace([*chosen, i])))
    chosen.sort()
    while len(chosen) > count:
        chosen.remove(min(chosen, key=lambda i: trace([j for j in chosen if j != i])))
    return chosen


@pytest.mark.parametrize(
    ("examples", "draws", "width", "count"), [(30, 3, 8, 5), (12, 2, 6, 8), (20, 4, 40, 6), (25, 1, 3, 1), (6, 2, 4, 6)]
)
@pytest.mark.parametrize("ridge", [1.0, 1e-3])
def test_the_choice_is_that_of_the_definition(
    examples: int, draws: int, width: int, count: int, ridge: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the embeddings are read in blocks of a few examples, and do not depend on their scale."""
    rng = np.random.default_rng(examples)
    embeddings = rng.standard_normal((examples, draws, width)) * rng.gamma(1.0, size=(examples, 1, 1))
    chosen = most_informative(embeddings, count, ridge=ridge)
    assert chosen == by_definition(embeddings, count, ridge)
    assert most_informative(1e3 * embeddings, count, ridge=ridge) == chosen
    monkeypatch.setattr("uwc.models.selection._NUMBERS", 5 * draws * width)
    assert most_informative(embeddings, count, ridge=ridge) == chosen


def test_a_choice_by_hand() -> None:
    """F = diag(4 + 4 + 1 + 1, 9) / 5 = diag(2, 1.8) and lambda = 3.8 / 2. One example leaves the trace 2 / (1.9 + 4) +
    1.8 / 1.9 = 1.29, 2 / 2.9 + 1.8 / 1.9 = 1.64, or 2 / 1.9 + 1.8 / 10.9 = 1.22, which is the least. The second is one
    of the longer two along the first direction."""
    embeddings = np.array([[[2.0, 0.0]], [[2.0, 0.0]], [[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 3.0]]])
    assert most_informative(embeddings, 1) == [4]
    found = most_informative(embeddings, 2)
    assert 4 in found and found[0] in (0, 1)


def test_embeddings_without_information_choose_nothing() -> None:
    for embeddings in (np.zeros((3, 1, 2)), np.full((3, 1, 2), np.nan)):
        with pytest.raises(ModelError, match="Fisher information of the examples is"):
            most_informative(embeddings, 1)


def exact(model: Model, slope: float | None = None) -> list[Array]:
    """The Fisher information of each example, with sums over the whole vocabulary; with soft caps by `slope`."""
    found = []
    weight = model.model.get_output_embeddings().weight.detach().double()
    for example in people():
        states, _ = entering_states(model, [example])
        raw = states.double() @ weight.T
        logits = raw if slope is None else slope * torch.tanh(raw / slope)
        by_raw = torch.ones_like(raw) if slope is None else 1 - torch.tanh(raw / slope) ** 2
        total = torch.zeros(weight.shape[1], weight.shape[1], dtype=torch.float64)
        for p, d in zip(logits.softmax(dim=1), by_raw, strict=True):
            total += weight.T @ (d[:, None] * (torch.diag(p) - torch.outer(p, p)) * d) @ weight
        found.append(total.numpy())
    return found


def test_embeddings_estimate_the_fisher_information(knowing: Model) -> None:
    """By 4,000 draws in a model of 64 dimensions, which a projection on 64 or more does not change."""
    embeddings = fisher_embeddings(knowing, people(), draws=4000)
    assert embeddings.shape == (12, 4000, 64) and embeddings.dtype == np.float32
    for vectors, information in zip(embeddings.astype(np.float64), exact(knowing), strict=True):
        estimate, size = vectors.T @ vectors, np.trace(information)
        assert np.trace(estimate) == pytest.approx(size, rel=0.2 if size < 1e-2 else 0.1)
        if size > 1e-2:
            assert np.linalg.norm(estimate - information) < 0.2 * np.linalg.norm(information)


def test_soft_caps_are_in_the_gradient() -> None:
    """Gemma 2 with a cap near its logits, whose derivative is then far below 1."""
    model = architecture("gemma2")
    capped = copied(model)
    capped.model.config.final_logit_softcapping = 0.2
    information = exact(capped, slope=0.2)
    assert not np.allclose(information[0], exact(capped)[0], rtol=0.1)
    embeddings = fisher_embeddings(capped, people(), draws=4000).astype(np.float64)
    for vectors, right in zip(embeddings, information, strict=True):
        assert np.linalg.norm(vectors.T @ vectors - right) < 0.3 * np.linalg.norm(right)


def test_a_projection_keeps_the_traces_on_average(untrained: Model) -> None:
    """Squared lengths have the same mean under a matrix of normal numbers with variance 1 / r."""
    whole = (fisher_embeddings(untrained, people()).astype(np.float64) ** 2).sum()
    parts = [
        (fisher_embeddings(untrained, people(), dimensions=8, seed=s).astype(np.float64) ** 2).sum() for s in range(20)
    ]
    assert fisher_embeddings(untrained, people(), dimensions=8).shape == (12, 8, 8)
    assert np.mean(parts) == pytest.approx(whole, rel=0.2)


def test_embeddings_depend_on_seed_and_id_and_not_on_order_or_batch(
    untrained: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fisher_embeddings(untrained, people())
    assert fisher_embeddings(untrained, people()).tobytes() == first.tobytes()
    np.testing.assert_allclose(fisher_embeddings(untrained, people()[::-1])[::-1], first, rtol=1e-3, atol=1e-6)
    monkeypatch.setattr("uwc.models.selection._LOGITS", {"cpu": 1})  # a token at once
    np.testing.assert_allclose(fisher_embeddings(untrained, people()), first, rtol=1e-3, atol=1e-6)
    assert not np.allclose(fisher_embeddings(untrained, people(), seed=1), first, rtol=0.1)


def test_the_least_likely_are_chosen(knowing: Model) -> None:
    """The model knows the first four people, with two questions each, and not the other two."""
    assert select(knowing, people(), 4, rule="likelihood") == [8, 9, 10, 11]
    scores = score_tokens(knowing, people())
    worst = int(np.argmin([part.mean() for part in np.split(scores.logprob, scores.offsets[1:-1])]))
    assert select(knowing, people(), 1, rule="likelihood") == [worst]


@pytest.mark.parametrize("rule", RULES)
def test_any_rule_chooses_as_many_as_asked_and_all_of_few(untrained: Model, rule: str) -> None:
    chosen = select(untrained, people(), 5, rule=rule, seed=3)
    assert len(set(chosen)) == 5 and chosen == sorted(chosen)
    assert select(untrained, people(), 5, rule=rule, seed=3) == chosen
    assert select(untrained, people(), None, rule=rule) == select(untrained, people(), 99, rule=rule) == list(range(12))


def test_the_rules_differ(knowing: Model) -> None:
    found = [tuple(select(knowing, people(), 4, rule=rule)) for rule in RULES]
    assert len(set(found)) == 3


def test_a_rule_that_chooses_all_is_refused() -> None:
    require_effect("random", None, 3, option="examples")
    require_effect("fisher", 2, 3, option="examples")
    for count, remedy in ((None, "give examples"), (3, "lower examples"), (4, "lower examples")):
        with pytest.raises(DataError, match=f"select: fisher has no effect, since all 3 examples are taken; {remedy}"):
            require_effect("fisher", count, 3, option="examples")


def test_a_model_without_a_plain_output_embedding_is_refused() -> None:
    model = tiny_model()
    model.model.lm_head.register_forward_hook(lambda _m, _a, output: output * 2)
    with pytest.raises(ModelError, match="its Fisher information is not known; take select: likelihood"):
        fisher_embeddings(replace(model, name="hooked"), people())
