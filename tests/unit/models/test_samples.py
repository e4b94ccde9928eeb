"""Sampled answers, against one draw at a time from whole passes, and against transformers."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from tests.conftest import copied, people
from tests.helpers.architectures import architecture

from uwc.data.example import Example
from uwc.errors import ConfigError
from uwc.models import samples
from uwc.models.model import Model
from uwc.models.samples import sample


def slowly(model: Model, examples: list[Example], *, count: int, new: int, **options: Any) -> list[list[str]]:
    """One token a pass, without a cache; cumulative sums over the whole vocabulary in double precision."""
    temperature, top_p, seed = options.get("temperature", 1.0), options.get("top_p", 1.0), options.get("seed", 0)
    encoded = model.encode(examples)
    stops = model.stops(encoded)
    texts = []
    for example, prompt in zip(examples, (list(e.before) for e in encoded), strict=True):
        numbers = samples.uniforms_of(example.id, seed, count, new)
        rows = []
        for j in range(count):
            tokens = list(prompt)
            for t in range(new):
                with torch.no_grad():
                    logits = model.model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1].double()
                p = torch.softmax(logits / temperature, 0).numpy()
                order = np.argsort(-p, kind="stable")
                kept = order[: int(np.searchsorted(np.cumsum(p[order]), top_p)) + 1]
                p = np.where(np.isin(np.arange(len(p)), kept), p, 0.0)
                token = int(np.searchsorted(np.cumsum(p), numbers[j, t] * p.sum(), side="right"))
                if token in stops:
                    break
                tokens.append(token)
            text = model.tokenizer.decode(tokens[len(prompt) :], skip_special_tokens=True)
            for stop in model.template.stop_texts(chat=model.template.uses_chat(model.tokenizer)):
                text = text.partition(stop)[0]
            rows.append(text.strip())
        texts.append(rows)
    return texts


@pytest.mark.parametrize("options", [{}, {"temperature": 1.7, "seed": 3}, {"top_p": 0.6, "temperature": 2.0}])
def test_samples_are_those_of_a_slow_implementation(knowing: Model, options: dict[str, float]) -> None:
    """Prompts of several lengths share a batch, rows end at several steps."""
    found = sample(knowing, people(4), count=6, max_new_tokens=12, **options)
    assert [list(row) for row in found.texts] == slowly(knowing, people(4), count=6, new=12, **options)
    assert found.finite.all()
    assert len({text for row in found.texts for text in row}) > 4


def test_a_model_generates_by_transformers_with_the_same_numbers(
    knowing: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = sample(knowing, people(4), count=5, max_new_tokens=12, temperature=2.0)
    monkeypatch.setattr(samples, "keys_and_values_only", lambda cache: False)
    assert sample(knowing, people(4), count=5, max_new_tokens=12, temperature=2.0).texts == shared.texts


@pytest.mark.parametrize("name", ["mamba", "gemma3", "gpt2", "mixtral"])
def test_every_kind_of_cache_gives_the_same_samples(name: str) -> None:
    """A recurrent state, sliding windows, learned positions, experts."""
    model = architecture(name)
    examples = [Example(id=str(i), question="a b c d e f"[: 3 + 4 * i], answer="a") for i in range(2)]
    found = sample(model, examples, count=3, max_new_tokens=10)
    assert [list(row) for row in found.texts] == slowly(model, examples, count=3, new=10)


def test_batches_and_other_questions_change_nothing(knowing: Model) -> None:
    whole = sample(knowing, people(4), count=6, max_new_tokens=12, temperature=2.0)
    for budget in (1, 100):
        parts = sample(knowing, people(4)[::-1], count=6, max_new_tokens=12, temperature=2.0, token_budget=budget)
        assert parts.texts == whole.texts[::-1]
    (alone,) = sample(knowing, people(4)[2:3], count=2, max_new_tokens=12, temperature=2.0).texts
    assert alone == whole.texts[2][:2], "fewer samples are the first of more"
    assert sample(knowing, people(4), count=6, max_new_tokens=12, temperature=2.0, seed=1).texts != whole.texts


def test_the_prompt_is_computed_once_and_ended_rows_are_dropped(knowing: Model) -> None:
    """A quarter of the tokens end an answer."""
    told = replace(copied(knowing), ends=tuple(range(100)))
    shapes: list[tuple[int, ...]] = []
    told.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    (prompt,) = (list(e.before) for e in told.encode(people(1)[:1]))
    sample(told, people(1)[:1], count=16, max_new_tokens=40, temperature=100.0)
    wide = [shape for shape in shapes if shape[1] > 1 and shape[0] > 1]
    assert not wide, "no pass over the prompt for each sample"
    assert sum(shape == (1, len(prompt)) for shape in shapes) <= 2
    rows = [shape[0] for shape in shapes if shape[0] > 2]
    assert 8 < rows[0] <= 16 and rows == sorted(rows, reverse=True) and rows[-1] < 8


def test_the_draws_have_the_distribution_of_the_model() -> None:
    """600 tokens, so that the last block is not full; chi-squared over 20,000 draws, and no token that cannot be."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 600, generator=generator) * 2
    logits[0, :5] = float("-inf")
    uniform = torch.rand(20_000, generator=generator, dtype=torch.float64)
    draws = samples.TokenDraw(1.0, 1.0)(logits.expand(20_000, -1), uniform)
    expected = torch.softmax(logits[0].double(), 0).numpy() * 20_000
    counts = np.bincount(draws.numpy(), minlength=600)
    assert counts[:5].sum() == 0 and len(counts) == 600
    large = expected > 5
    seen = np.append(counts[large], counts[~large].sum())
    assert stats.chisquare(seen, np.append(expected[large], expected[~large].sum())).pvalue > 1e-3
    ends = torch.tensor([0.0, 1.0 - 2**-53], dtype=torch.float64)
    first, last = samples.TokenDraw(1.0, 1.0)(logits.expand(2, -1), ends).tolist()
    assert (first, last) == (5, 599)


def test_texts_end_at_a_stop_text(knowing: Model) -> None:
    told = replace(knowing, template=replace(knowing.template, stop=(" in a", "house")))
    found = sample(told, people(3), count=4, max_new_tokens=40)
    whole = sample(knowing, people(3), count=4, max_new_tokens=40)
    cut = [[min(text.split(" in a")[0], text.split("house")[0], key=len).strip() for text in r] for r in whole.texts]
    assert [list(row) for row in found.texts] == cut


def test_logits_that_are_not_finite_are_told(knowing: Model) -> None:
    broken = copied(knowing)
    broken.model.lm_head.weight.data[7] = float("nan")
    assert not sample(broken, people(2), count=2, max_new_tokens=3).finite.any()


def test_numbers_out_of_range_are_refused(knowing: Model) -> None:
    for wrong in ({"count": 0}, {"temperature": 0.0}, {"top_p": 1.5}, {"max_new_tokens": 0}):
        with pytest.raises(ConfigError, match="at least 1"):
            sample(knowing, people(1), **{"count": 2, "max_new_tokens": 3, **wrong})  # type: ignore[arg-type]
