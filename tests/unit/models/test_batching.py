"""Which sequences may share a forward pass, found out from the model itself."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import people, tiny_model
from transformers import (
    BertConfig,
    BertLMHeadModel,
    Phi3Config,
    Phi3ForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
    XLNetConfig,
    XLNetLMHeadModel,
)

from uwc.data.batches import group_by_length
from uwc.data.example import Example
from uwc.errors import ConfigError, ModelError
from uwc.models.batching import examined, run_in_batches, token_budget_of
from uwc.models.generation import continue_greedily, generate
from uwc.models.model import Batching, Model
from uwc.models.scoring import score_tokens
from uwc.objectives.methods import FINE_TUNING
from uwc.objectives.objective import Objective
from uwc.training.data import TrainingData
from uwc.training.loop import train
from uwc.training.settings import TrainingSettings


def with_model(model: Any) -> Model:
    return replace(tiny_model(), model=model.eval(), batching=None)


def longrope(switch: int) -> Model:
    """A model whose positions beyond `switch` tokens are stretched a lot."""
    torch.manual_seed(0)
    rope = {
        "rope_type": "longrope", "rope_theta": 10_000.0, "original_max_position_embeddings": switch,
        "long_factor": [4.0] * 4, "short_factor": [1.0] * 4,
    }  # fmt: skip
    config = Phi3Config(
        vocab_size=400, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=128, original_max_position_embeddings=switch,
        rope_parameters=rope, initializer_range=0.5, pad_token_id=0, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    return with_model(Phi3ForCausalLM(config))


def rwkv() -> Model:
    torch.manual_seed(0)
    config = RwkvConfig(vocab_size=400, hidden_size=32, num_hidden_layers=2, context_length=128)
    model = RwkvForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return with_model(model)


MIXED = [*people(3), Example("long", f"{people()[1].question} " * 4, people()[1].answer)]


def test_an_ordinary_model_reads_padded_sequences() -> None:
    assert examined(tiny_model().model, "llama") == Batching("padded", "padded", None)


def test_kinds_by_hand() -> None:
    """With a switch at 10: 4 and 9 share; 12 is beyond; a prompt of 9 that gets 3 more crosses, and goes alone."""
    assert Batching().kinds([4, 9, 12]) == [(False, ())] * 3
    found = Batching(switch=10).kinds([4, 9, 10, 12])
    assert found[0] == found[1] == found[2] != found[3]
    prompts = Batching(switch=10).prompt_kinds([4, 9, 10, 12, 5], new=3)
    assert prompts[0] == prompts[4] and len(set(prompts)) == 4
    assert Batching(scored="equal").kinds([4, 4, 5]) == [(False, (4,)), (False, (4,)), (False, (5,))]
    assert len(set(Batching(continued="alone").prompt_kinds([4, 4, 5], new=3))) == 3
    assert Batching(switch=10).lengthened(3) == Batching(switch=7) and Batching().lengthened(3) == Batching()
    assert Batching(switch=10).share([3, 10]) and not Batching(switch=10).share([3, 11])


def test_groups_hold_one_kind_longest_first() -> None:
    groups = group_by_length([3, 10, 5, 5, 9], token_budget=100, kinds=["a", "b", "b", "a", "a"])
    assert groups == [[1, 2], [4, 3, 0]]


def test_a_state_that_runs_through_padding_is_found_and_answers_are_those_of_single_questions() -> None:
    model = rwkv()
    assert model.sharing().continued == "alone"
    prompts = [list(e.before) for e in model.encode(MIXED)]
    alone = [continue_greedily(model, [p], max_new_tokens=9)[0][0] for p in prompts]
    assert [list(t) for t in generate(model, MIXED, max_new_tokens=9).tokens] == alone
    together = [tokens for tokens, _ in continue_greedily(model, prompts, max_new_tokens=9)]
    assert together != alone  # what would happen without


def test_long_and_short_sequences_do_not_share_longrope() -> None:
    """Scores, answers and gradients, against one sequence at a time."""
    model = longrope(switch=24)
    lengths = [len(e.tokens) for e in model.encode(MIXED)]
    assert min(lengths) <= 24 < max(lengths)
    together = score_tokens(model, MIXED)
    for i, example in enumerate(MIXED):
        single = score_tokens(model, [example])
        part = slice(together.offsets[i], together.offsets[i + 1])
        np.testing.assert_allclose(together.logprob[part], single.logprob, atol=1e-5)
    texts = generate(model, MIXED, max_new_tokens=6).texts
    assert list(texts) == [generate(model, [e], max_new_tokens=6).texts[0] for e in MIXED]


def test_training_does_not_mix_long_and_short_sequences() -> None:
    """One step on all examples at once moves the weights as one on single micro-batches."""
    trained = []
    for size in (None, 1):
        model = longrope(switch=24)
        settings = TrainingSettings(
            epochs=1, batch_size=len(MIXED), micro_batch_size=size, lr=1.0, optimizer="sgd", schedule="constant",
            warmup_ratio=0.0,
        )  # fmt: skip
        train(model, Objective(FINE_TUNING, model.model), TrainingData(retain=MIXED), settings)
        trained.append(model.model.state_dict())
    for name, tensor in trained[0].items():
        torch.testing.assert_close(tensor, trained[1][name], atol=1e-6, rtol=1e-4, msg=name)


def test_a_model_that_mixes_its_batch_is_run_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    model = with_model(tiny_model().model)
    model.model.model.norm.register_forward_hook(lambda _m, _a, out: out + out.mean(dim=0, keepdim=True))
    with torch.no_grad():
        model.model.lm_head.weight.mul_(20)
    assert model.sharing() == Batching("alone", "alone", None)
    assert "one by one" in " ".join(capsys.readouterr().err.split())
    together = score_tokens(model, people(2))
    singles = [score_tokens(model, [e]).logprob for e in people(2)]
    np.testing.assert_allclose(together.logprob, np.concatenate(singles), atol=1e-5)


def test_a_model_without_a_limit_of_length_that_reads_both_ways_is_refused() -> None:
    """XLNet's configuration says -1 where others have their longest text."""
    tokenizer = tiny_model().tokenizer
    config = XLNetConfig(vocab_size=len(tokenizer), d_model=16, d_inner=16, n_layer=1, n_head=2, initializer_range=0.5)
    model = Model(XLNetLMHeadModel(config).eval(), tokenizer, name="xlnet")
    assert model.context_length == 2048
    with pytest.raises(ModelError, match="reads the tokens that follow"):
        score_tokens(model, people()[:2])


def test_an_encoder_is_refused() -> None:
    config = BertConfig(
        vocab_size=400, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        initializer_range=0.5,
    )  # fmt: skip
    with pytest.raises(ModelError, match="BertLMHeadModel"):
        examined(BertLMHeadModel(config).eval(), "bert")
    decoder = copy.deepcopy(config)
    decoder.is_decoder = True
    assert examined(BertLMHeadModel(decoder).eval(), "decoder").scored == "padded"


def test_out_of_memory_with_one_example_is_one_clear_line() -> None:
    def never(_group: list[int]) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(ModelError, match="single example of 7 tokens"):
        list(run_in_batches([7, 3], kinds=[0, 0], token_budget=100, batch_cost=10, work=never))


def test_other_errors_pass() -> None:
    def broken(_group: list[int]) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(run_in_batches([7, 3], kinds=[0, 0], token_budget=100, batch_cost=10, work=broken))


def test_every_index_is_worked_on_once_whatever_fails() -> None:
    lengths, done = [9, 1, 5, 5, 2, 8, 3], []

    def work(group: list[int]) -> None:
        if max(lengths[i] for i in group) * len(group) > 10:
            raise torch.OutOfMemoryError
        done.extend(group)

    groups: Iterator[list[int]] = run_in_batches(lengths, kinds=[0] * 7, token_budget=1000, batch_cost=10, work=work)
    assert sorted(i for g in groups for i in g) == sorted(done) == list(range(7))


def test_the_budget_is_the_largest_power_of_two_in_half_the_memory_beside_the_weights(
    knowing: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 x 64 + 3 x 192 = 832 numbers of 4 bytes a token; half of 40 MB holds 6,009 tokens: 4,096. What is free does not
    matter; the setting does."""

    class OnCuda(Model):
        device = torch.device("cuda")

    model = OnCuda(knowing.model, knowing.tokenizer)
    weights = sum(p.numel() * 4 for p in knowing.model.parameters())
    for beside, budget in ((40_000_000, 4096), (1 << 40, 1 << 15), (1, 1024), (-5, 1024)):
        card = SimpleNamespace(total_memory=weights + beside)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device, card=card: card)
        for free in (0, 1 << 40):
            monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device, free=free: (free, 1 << 40))
            assert token_budget_of(model) == budget
    monkeypatch.setenv("UWC_GPU_MEMORY_GB", f"{(weights + 40_000_000) / 1e9}")
    assert token_budget_of(model) == 4096
    for wrong in ("much", "0", "-1", "nan", "inf"):
        monkeypatch.setenv("UWC_GPU_MEMORY_GB", wrong)
        with pytest.raises(ConfigError, match=f"UWC_GPU_MEMORY_GB={wrong}"):
            token_budget_of(model)
    assert token_budget_of(knowing, elsewhere=77) == 77


def test_a_model_whose_passes_fail_is_refused_with_the_reason() -> None:
    model = tiny_model()
    model.model.config.return_dict = False
    with pytest.raises(ModelError, match=r"forward pass .*AttributeError.*config[.]json"):
        examined(model.model, "odd")


def test_a_lack_of_memory_is_not_blamed_on_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise MemoryError

    model = tiny_model()
    monkeypatch.setattr(model.model, "forward", fails)
    with pytest.raises(MemoryError):
        examined(model.model, "large")
