"""The search for a suffix: gradient and losses against whole sequences, and what it returns."""

from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import people
from tests.helpers.architectures import HYBRID, architecture
from tests.helpers.hidden_knowledge import SCORED, TRIGGER, reluctant
from torch import nn

from uwc.attacks.suffix_search import Problem, SearchSettings, SuffixSearch, allowed_tokens


@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3n_text", "ctrl", "mixtral", *HYBRID])
def test_the_gradient_of_a_suffix_goes_through_the_embedding_module(name: str) -> None:
    """Against autograd on one-hot tokens times what the module makes of every token, the whole sequence at once."""
    model = architecture(name)
    (encoded,) = model.encode(people()[1:2])
    suffix = tuple(model.tokenizer(" x x x", add_special_tokens=False)["input_ids"])
    problem = Problem.of(encoded, 2, None)
    search = SuffixSearch(model, [problem], suffix, SearchSettings(1, 8, 8, None, None, 0))
    module, embedding = model.model, model.model.get_input_embeddings()
    rows = embedding(torch.arange(len(embedding.weight))).detach()
    one_hot = nn.functional.one_hot(torch.tensor(suffix), len(rows)).float().requires_grad_()
    first, last = len(problem.before), len(problem.before) + len(suffix)
    handle = embedding.register_forward_hook(
        lambda _m, _a, output: torch.cat([output[:, :first], (one_hot @ rows)[None], output[:, last:]], dim=1)
    )
    ids = torch.tensor([problem.with_suffix(suffix)])
    logits = module(input_ids=ids, use_cache=False).logits[0, -len(problem.wanted) - 1 : -1].float()
    handle.remove()
    loss = nn.functional.cross_entropy(logits, torch.tensor(problem.wanted))
    (expected,) = torch.autograd.grad(loss, [one_hot])
    assert search.best_loss == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(search.gradient(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_losses_with_a_cached_prefix_are_those_of_whole_sequences(name: str) -> None:
    model = architecture(name)
    read: list[int] = []

    def count(_module: Any, _args: Any, given: dict[str, Any]) -> None:
        read.append(given["input_ids"].numel())

    def without_cache(_module: Any, _args: Any, output: Any) -> Any:
        output.past_key_values = None
        return output

    problems = [Problem.of(e, 2, None) for e in model.encode(people()[:3])]
    start = tuple(model.tokenizer(" x x x", add_special_tokens=False)["input_ids"])
    suffixes = torch.tensor([start, start[::-1], (5, 6, 7)[: len(start)] + start[3:]])
    cached = SuffixSearch(model, problems, start, SearchSettings(1, 8, 8, None, None, 0))
    handles = [model.model.register_forward_pre_hook(count, with_kwargs=True)]
    found = cached.losses(suffixes)
    assert sum(read) == sum(len(suffixes) * (len(p.with_suffix(start)) - len(p.before) - 1) for p in problems)
    handles.append(model.model.register_forward_hook(without_cache))
    whole = SuffixSearch(model, problems, start, SearchSettings(1, 8, 8, None, None, 0))
    read.clear()
    torch.testing.assert_close(found, whole.losses(suffixes), atol=1e-5, rtol=0.0)
    assert sum(read) == sum(len(suffixes) * (len(p.with_suffix(start)) - 1) for p in problems)
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("layer", [None, 2])
def test_the_search_scores_a_suffix_as_the_whole_text_without_a_cache(layer: int | None) -> None:
    model = reluctant()
    encoded = model.encode(SCORED[:2])
    problems = [Problem.of(e, 3, None) for e in encoded]
    start = tuple(model.tokenizer(" x x", add_special_tokens=False)["input_ids"])
    search = SuffixSearch(model, problems, start, SearchSettings(1, 8, 8, None, layer, 0))
    expected = []
    for p in problems:
        ids = torch.tensor([[*p.before, *start, *p.between, *p.wanted]])
        log_p = model.model(input_ids=ids).logits[0, -len(p.wanted) - 1 : -1].log_softmax(-1)
        expected.append(-log_p[range(len(p.wanted)), list(p.wanted)].mean().item())
    assert search.best_loss == pytest.approx(np.mean(expected), rel=1e-4)


def test_the_search_keeps_the_best_suffix_seen_the_first_one_included() -> None:
    """From the best start there is, no step can make the suffix that is returned worse."""
    model = reluctant()
    start = tuple(model.tokenizer(f" {TRIGGER}", add_special_tokens=False)["input_ids"])
    tail = 3
    search = SuffixSearch(
        model,
        [Problem.of(e, tail, None) for e in model.encode(SCORED)],
        start,
        SearchSettings(3, 4, 4, None, None, 0),
    )
    losses = [search.best_loss]
    for _ in range(3):
        search.step()
        losses.append(search.best_loss)
    assert losses == sorted(losses, reverse=True)


def test_suffixes_are_printable_and_survive_decoding_and_encoding() -> None:
    model = reluctant()
    tokens = allowed_tokens(model.tokenizer)
    assert not set(tokens) & set(model.tokenizer.all_special_ids)
    assert all(model.tokenizer.decode([t]).isascii() for t in tokens)
