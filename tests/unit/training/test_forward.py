"""Backward passes one forward at a time, and the gradients of embeddings added in place, against autograd's."""

import copy
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from tests.conftest import people
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from uwc.data.batches import collate
from uwc.data.prompts import EncodedExample
from uwc.models.load import build_model
from uwc.objectives.methods import METHODS
from uwc.objectives.objective import Objective
from uwc.training.data import TrainingData
from uwc.training.forward import DetachedForwards, attention_in_float32, embedding_gradients, join
from uwc.training.loop import train
from uwc.training.settings import TrainingSettings


def test_the_backward_pass_takes_the_latest_forward_first_and_skips_what_was_not_read() -> None:
    visited: list[str] = []
    weight = torch.ones(2, requires_grad=True)
    detached, leaves = DetachedForwards(), {}
    for name in ("first", "second", "unread"):
        output = weight * 3.0
        output.register_hook(lambda _gradient, name=name: visited.append(name))
        leaves[name] = detached.detach({"values": output})["values"]
    (leaves["first"].sum() + 2 * leaves["second"].sum()).backward()
    assert weight.grad is None
    detached.backward()
    assert visited == ["second", "first"]
    assert weight.grad is not None and weight.grad.tolist() == [9.0, 9.0]


def model_of(*, tied: bool, padding: int | None = None) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=30, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        tie_word_embeddings=tied, pad_token_id=padding, eos_token_id=1,
    )  # fmt: skip
    return LlamaForCausalLM(config).double()


def gradients(model: LlamaForCausalLM, ids: Tensor, *, in_place: bool) -> dict[str, Tensor]:
    model = copy.deepcopy(model)
    for _ in range(2):  # two backward passes add up
        if in_place:
            with embedding_gradients(model):
                model(ids, labels=ids).loss.backward()
        else:
            model(ids, labels=ids).loss.backward()
    assert not any("forward" in vars(e) for e in (model.get_input_embeddings(), model.get_output_embeddings()))
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("padding", [None, 3])
def test_gradients_are_the_same(tied: bool, padding: int | None) -> None:
    ids = torch.tensor([[3, 4, 4, 5], [9, 3, 1, 4]])
    model = model_of(tied=tied, padding=padding)
    expected, found = (gradients(model, ids, in_place=in_place) for in_place in (False, True))
    assert expected.keys() == found.keys()
    for name in expected:
        assert torch.allclose(expected[name], found[name], rtol=1e-12, atol=1e-14), name
    untouched = [i for i in range(30) if i not in ids.unique().tolist()]
    assert tied or bool((found["model.embed_tokens.weight"][untouched] == 0).all())


def test_what_is_more_than_a_table_is_left_alone() -> None:
    model = model_of(tied=True)
    table = model.get_input_embeddings()
    table.register_forward_hook(lambda module, args, output: output * 2)
    with embedding_gradients(model):
        assert "forward" not in vars(table)
    frozen = model_of(tied=False)
    frozen.get_input_embeddings().weight.requires_grad_(False)
    with embedding_gradients(frozen):
        assert "forward" not in vars(frozen.get_input_embeddings())


@pytest.mark.parametrize("tied", [True, False])
def test_no_tensor_as_large_as_an_embedding_is_made_beside_its_gradient(tied: bool) -> None:
    model = model_of(tied=tied)
    weights = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    seen: list[Tensor] = []
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
        weight.register_hook(seen.append)
    before = [weight.grad.data_ptr() for weight in weights]
    with embedding_gradients(model):
        model(torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss.backward()
    assert seen == [] and [weight.grad.data_ptr() for weight in weights] == before
    assert all(float(weight.grad.abs().sum()) > 0 for weight in weights)


@pytest.mark.parametrize("tied", [True, False])
def test_under_autocast_gradients_are_autograds_up_to_rounding(tied: bool) -> None:
    """Of two forwards, so that the second is added to the first; and no other gradient of an embedding is made."""
    found: list[list[Tensor]] = []
    for replaced in (True, False):
        model, seen = model_of(tied=tied).float(), list[Tensor]()
        if replaced:
            model.get_output_embeddings().weight.register_hook(seen.append)
        for ids in (torch.tensor([[1, 2, 3]]), torch.tensor([[4, 3], [5, 6]])):
            with embedding_gradients(model) if replaced else nullcontext(), torch.autocast("cpu", dtype=torch.bfloat16):
                logits = model(ids).logits
            assert logits.dtype == torch.bfloat16
            logits.float().square().sum().backward()
        assert seen == []
        found.append([p.grad for p in model.parameters()])
    for ours, autograds in zip(*found, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, autograds, rtol=3e-2, atol=3e-2 * float(autograds.abs().max()))


def test_attention_under_autocast_is_that_of_float32_rounded() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, 7, 8, dtype=torch.bfloat16) for _ in range(3))
    mask = torch.randn(7, 7)
    cpu, plain = torch.device("cpu"), torch.nn.functional.scaled_dot_product_attention

    def attend(*given: Tensor, attn_mask: Tensor) -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(*given, attn_mask=attn_mask)

    exact = attend(query.float(), key.float(), value.float(), attn_mask=mask)
    with attention_in_float32(cpu, "bf16"):
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(attend(query, key, value, attn_mask=mask), exact.bfloat16())
            assert (query @ key.mT).dtype == torch.bfloat16  # all else is left to autocast
        assert attend(query.double(), key.double(), value.double(), attn_mask=mask.double()).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16), attention_in_float32(cpu, "no"):
        assert not torch.equal(attend(query, key, value, attn_mask=mask.bfloat16()), exact.bfloat16())
    assert torch.nn.functional.scaled_dot_product_attention is plain


@pytest.mark.parametrize("method", ["kl", "npo"])
def test_gradient_checkpointing_in_bfloat16_changes_no_step(method: str) -> None:
    steps = []
    for checkpointing in (False, True):
        model = build_model(people(), vocabulary=300, hidden_size=32, layers=2, heads=2, context=256, seed=0)
        settings = TrainingSettings(
            epochs=1, batch_size=4, lr=1e-3, precision="bf16", gradient_checkpointing=checkpointing
        )
        data = TrainingData(people()[:4], people()[4:8])
        steps.append(train(model, Objective(METHODS[method], model.model), data, replace(settings, warmup_ratio=0.0)))
    assert [s["loss"] for s in steps[0].steps] == [s["loss"] for s in steps[1].steps]
    assert steps[0].steps[-1]["gradient_norm"] == pytest.approx(steps[1].steps[-1]["gradient_norm"], rel=1e-6)


def test_joined_batches_keep_their_shifts_and_are_not_shifted_at_padding() -> None:
    short, long = EncodedExample("a", (5, 6, 7), 1, 3), EncodedExample("b", (5, 6, 7, 8, 9), 2, 5)
    first, second = (collate([e], device=torch.device("cpu")) for e in (short, long))
    assert join([first, second]).shifts is None
    one, two = torch.full((1, 3, 2), 1.0), torch.full((1, 5, 2), 2.0)
    joined = join([replace(first, shifts={1: one}), replace(second, shifts={1: two})]).shifts
    assert joined is not None and list(joined) == [1]
    assert joined[1][:, :, 0].tolist() == [[1.0, 1.0, 1.0, 0.0, 0.0], [2.0, 2.0, 2.0, 2.0, 2.0]]
