"""Patched runs against whole passes with a hook, one example and one layer at a time."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import copied, people, tiny_model
from transformers import BloomConfig, BloomForCausalLM, FalconH1Config, FalconH1ForCausalLM, GPT2Config, GPT2LMHeadModel

from uwc.data.example import Example
from uwc.data.spans import Span, span_tokens
from uwc.errors import ModelError
from uwc.models.model import Batching, Model
from uwc.models.patching import patched_drops
from uwc.models.states import blocks

EXAMPLES = [replace(e, secret=(e.answer.split()[-1],)) for e in people(3)]


def noisy(model: Model, *, seed: int, scale: float = 0.3) -> Model:
    """The same model with other weights."""
    other = copied(model)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.add_(scale * parameter.std().nan_to_num(0.1) * torch.randn_like(parameter))
    return replace(other, name="other")


def of_architecture(kind: str) -> Model:
    """A small model of three blocks and its tokenizer."""
    known = tiny_model(layers=3)
    if kind == "llama":
        return known
    vocabulary = len(known.tokenizer)
    torch.manual_seed(0)
    made: dict[str, Any] = {
        "gpt2": lambda: GPT2LMHeadModel(
            GPT2Config(vocab_size=vocabulary, n_embd=32, n_layer=3, n_head=2, n_positions=128)
        ),
        "bloom": lambda: BloomForCausalLM(BloomConfig(vocab_size=vocabulary, hidden_size=32, n_layer=3, n_head=2)),
        "falcon-h1": lambda: FalconH1ForCausalLM(
            FalconH1Config(
                vocab_size=vocabulary, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2,
                num_key_value_heads=2, mamba_d_ssm=32, mamba_n_heads=2, mamba_d_head=16, mamba_d_state=8,
            )
        ),
    }  # fmt: skip
    batching = Batching(scored="equal") if kind == "falcon-h1" else known.batching
    return replace(known, model=made[kind]().eval(), batching=batching, name=kind)


def slowly(original: Model, source: Model, examples: Sequence[Example], span: Span) -> np.ndarray:
    """The definition word for word: for each example and block one whole pass of the original, alone in its batch."""
    depth = len(blocks(original.model))
    found = np.full((len(examples), depth), np.nan)
    for row, (example, encoded) in enumerate(zip(examples, original.encode(examples), strict=True)):
        tokens = span_tokens(encoded, example.secret, span)
        if not tokens:
            continue
        ids, at = torch.tensor([encoded.tokens]), [t - 1 for t in tokens]
        targets = torch.tensor([encoded.tokens[t] for t in tokens])

        def mean(model: Any, ids: Any = ids, at: Any = at, targets: Any = targets) -> float:
            with torch.no_grad():
                logprobs = model(input_ids=ids, use_cache=False).logits[0, at].double().log_softmax(dim=-1)
            return float(logprobs[torch.arange(len(at)), targets].mean())

        plain = mean(original.model)
        for layer in range(depth):
            seen: list[torch.Tensor] = []

            def watch(_m: Any, _a: Any, output: Any, seen: Any = seen) -> None:
                seen.append(output[0] if isinstance(output, tuple) else output)

            handle = blocks(source.model)[layer].register_forward_hook(watch)
            mean(source.model)
            handle.remove()

            def put_in(_m: Any, _a: Any, output: Any, seen: Any = seen, at: Any = at) -> Any:
                states = (output[0] if isinstance(output, tuple) else output).clone()
                states[0, at] = seen[0][0, at]
                return (states, *output[1:]) if isinstance(output, tuple) else states

            handle = blocks(original.model)[layer].register_forward_hook(put_in)
            found[row, layer] = plain - mean(original.model)
            handle.remove()
    return found


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bloom", "falcon-h1"])
def test_resumed_runs_are_whole_passes_with_a_hook(kind: str) -> None:
    original = of_architecture(kind)
    source, examples = noisy(original, seed=1), EXAMPLES[: 2 if kind == "falcon-h1" else 6]
    expected = slowly(original, source, examples, "answer")
    assert np.abs(expected).max() > 0.01
    for resume in (True, False):
        found = patched_drops(original, source, {"forget": examples}, resume=resume)["forget"]
        assert found == pytest.approx(expected, abs=2e-5)


def test_blocks_before_the_patched_one_are_not_computed() -> None:
    """With L = 3 blocks: whole passes take L + L * L blocks, resumed ones L + (L - 1) + ... + 1 + 0."""
    original, computed = of_architecture("llama"), [0]
    source = noisy(original, seed=1)
    for block in blocks(original.model):
        block.mlp.register_forward_hook(lambda *_: computed.__setitem__(0, computed[0] + 1))
    first = 12 + 6  # the shortest example in both ways, once for a model
    for resume, expected in ((False, 12), (True, first + 6), (True, 6)):
        computed[0] = 0
        patched_drops(original, source, {"forget": EXAMPLES}, token_budget=100_000, resume=resume)
        assert computed[0] == expected


def test_some_blocks_return_tuples_and_all_are_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the architectures above; and none takes whole passes except in the comparison of the shortest example."""
    tuples = {}
    for kind in ("gpt2", "bloom", "falcon-h1"):
        model, returned = of_architecture(kind), list[Any]()
        handle = blocks(model.model)[0].register_forward_hook(lambda _m, _a, output, to=returned: to.append(output))
        model.model(input_ids=torch.tensor([[1, 2, 3]]), use_cache=False)
        handle.remove()
        tuples[kind] = isinstance(returned[0], tuple)
        messages: list[str] = []
        monkeypatch.setattr("uwc.models.patching.progress.warn", messages.append)
        patched_drops(model, noisy(model, seed=1), {"forget": EXAMPLES[:2]})
        assert not any("whole pass" in message for message in messages)
    assert any(tuples.values())


@pytest.mark.parametrize("token_budget", [1, 100_000])
def test_the_secret_alone_and_batches(token_budget: int) -> None:
    original = of_architecture("llama")
    source = noisy(original, seed=2)
    examples = [*EXAMPLES, replace(EXAMPLES[0], id="none", secret=()), replace(EXAMPLES[1], id="x", secret=("absent",))]
    expected = slowly(original, source, examples, "secret")
    found = patched_drops(original, source, {"a": examples, "b": []}, span="secret", token_budget=token_budget)
    assert found["a"] == pytest.approx(expected, abs=2e-5, nan_ok=True)
    assert np.isnan(found["a"]).any(axis=1).tolist() == [False] * 6 + [True, True]
    assert found["b"].shape == (0, 3)
    whole = patched_drops(original, source, {"a": examples})["a"]
    assert not np.allclose(found["a"][:6], whole[:6], atol=1e-3)


def test_the_model_itself_changes_nothing_whether_shared_or_copied() -> None:
    model = of_architecture("llama")
    for source in (model, copied(model)):
        assert patched_drops(model, source, {"forget": EXAMPLES})["forget"] == pytest.approx(0.0, abs=1e-6)


class Remembering(torch.nn.Module):
    """A block that adds what the block before it left in a list: more than its output goes from block to block."""

    def __init__(self, inner: torch.nn.Module, left: list[torch.Tensor]) -> None:
        super().__init__()
        self.inner, self.left = inner, left

    def forward(self, states: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        found = self.inner(states, *args, **options)
        if self.left:
            found = found + 0.5 * self.left.pop().roll(1, dims=-1)
        self.left.append(found.detach())
        return found


def test_blocks_that_share_more_than_their_output_take_whole_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[str] = []
    monkeypatch.setattr("uwc.models.patching.progress.warn", messages.append)
    original = of_architecture("llama")
    for model in (original, source := noisy(original, seed=3)):
        left: list[torch.Tensor] = []
        layers = blocks(model.model)
        for i, layer in enumerate(layers):
            layers[i] = Remembering(layer, left)
        layers[-1].register_forward_hook(lambda _m, _a, _o, left=left: left.clear())
    found = patched_drops(original, source, {"forget": EXAMPLES})["forget"]
    assert len(messages) == 1 and "whole pass" in messages[0]
    assert found == pytest.approx(slowly(original, source, EXAMPLES, "answer"), abs=2e-5)


def test_nothing_stays_behind_in_the_models() -> None:
    original = of_architecture("llama")
    source = noisy(original, seed=1)
    before = original.model(input_ids=torch.tensor([[5, 6, 7]])).logits
    patched_drops(original, source, {"forget": EXAMPLES[:2]})
    assert torch.equal(before, original.model(input_ids=torch.tensor([[5, 6, 7]])).logits)
    for model in (original, source):
        assert all("forward" not in vars(b) and not b._forward_hooks for b in blocks(model.model))


def test_an_adapter_is_a_source() -> None:
    from peft import LoraConfig, get_peft_model

    original = of_architecture("llama")
    plain = copied(original)
    adapted = get_peft_model(plain.model, LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    source = replace(plain, model=adapted.eval(), name="adapter")
    found = patched_drops(original, source, {"forget": EXAMPLES[:3]})["forget"]
    merged = replace(plain, model=copied(source).model.merge_and_unload())
    assert found == pytest.approx(slowly(original, merged, EXAMPLES[:3], "answer"), abs=2e-5)


def test_logits_that_are_not_finite_have_no_drop() -> None:
    original = of_architecture("llama")
    source = copied(original)
    with torch.no_grad():
        blocks(source.model)[1].mlp.down_proj.weight.fill_(float("inf"))
    found = patched_drops(original, source, {"forget": EXAMPLES[:2]})["forget"]
    assert not np.isnan(found[:, 0]).any() and np.isnan(found[:, 1:]).all()


def test_models_of_other_sizes_or_tokens_are_refused() -> None:
    original = of_architecture("llama")
    for other in (tiny_model(layers=2), tiny_model(layers=3, hidden_size=64)):
        with pytest.raises(ModelError, match="one architecture and size"):
            patched_drops(original, other, {"forget": EXAMPLES})
    asked = replace(copied(original), template=replace(original.template, text="{question} Answer:", chat=False))
    with pytest.raises(ModelError, match="as other tokens"):
        patched_drops(original, asked, {"forget": EXAMPLES})
