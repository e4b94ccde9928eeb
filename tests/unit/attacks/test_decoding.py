"""Sampling and beam search."""

import itertools

import pytest
import torch
from tests.helpers.architectures import architecture
from tests.helpers.hidden_knowledge import SCORED, SPOKEN, ignorant, outcomes, reluctant
from transformers import GenerationConfig

from uwc.attacks.chain import attacked, make_chain
from uwc.attacks.data import AttackData
from uwc.models.generation import continue_greedily, generate


def test_the_best_of_many_samples_and_a_beam_search_find_what_greedy_decoding_hides() -> None:
    found = outcomes(reluctant(), "sampling", {"samples": 6}, SPOKEN)
    assert found["worst case"] > 0.6 > found["mean"]
    assert outcomes(reluctant(), "beam_search", {}, SPOKEN)[""] > 0.5


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "minimax", "rwkv", "recurrent_gemma", "falcon_h1"])
def test_a_beam_search_finds_what_it_finds_without_a_cache(name: str) -> None:
    """Of MiniMax transformers does not reorder what the linear attention keeps; RWKV's state it cannot reorder."""
    model = architecture(name)
    end = model.tokenizer.eos_token_id
    plain = GenerationConfig(
        num_beams=3, max_new_tokens=8, do_sample=False, use_cache=False, eos_token_id=end, pad_token_id=end
    )
    with attacked(model, AttackData(SCORED), make_chain("beam_search", {"beam_search": {"beams": 3}})) as variants:
        searching = next(variants).model
        for encoded in model.encode(SCORED[:3]):
            prompt = list(encoded.before)
            ((found, _),) = continue_greedily(searching, [prompt], max_new_tokens=8)
            (expected,) = model.model.generate(input_ids=torch.tensor([prompt]), generation_config=plain)
            assert found == list(itertools.takewhile(lambda t: t != end, expected[len(prompt) :].tolist()))


def test_decoding_otherwise_finds_nothing_that_was_never_known() -> None:
    for name, settings in (("sampling", {"samples": 2}), ("beam_search", {"beams": 2})):
        assert max(outcomes(ignorant(), name, settings, SPOKEN).values()) < 0.2


def test_samples_repeat_and_those_of_a_smaller_n_are_the_first_of_a_larger() -> None:
    model = reluctant()

    def answers(samples: int) -> list[list[str]]:
        chain = make_chain("sampling", {"sampling": {"samples": samples}})
        with attacked(model, AttackData(SCORED), chain) as variants:
            return [generate(v.model, SCORED, max_new_tokens=8).texts for v in variants]

    state = torch.random.get_rng_state()
    three = answers(3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert answers(2) == three[:2]
    assert three[0] != three[1]
