"""Attacks on the inside: probes, logit lens, ablation of directions, soft prompts."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import copied, tiny_model
from tests.helpers.architectures import architecture
from tests.helpers.hidden_knowledge import (
    KNOWN,
    OWNED,
    SCORED,
    SPOKEN,
    UNKNOWN,
    ignorant,
    muted,
    outcomes,
    reluctant,
    strength,
)
from torch import nn

from uwc.attacks.chain import attacked, make_chain
from uwc.attacks.data import AttackData
from uwc.attacks.evaluate import measure
from uwc.attacks.inside import cached_states, chosen_depths, train_heads
from uwc.attacks.surrogate import Intervened
from uwc.data.example import Example
from uwc.errors import AttackFailed, ModelError
from uwc.models.contrast import contrast
from uwc.models.model import Model
from uwc.models.scoring import score_tokens
from uwc.models.selection import RULES, select
from uwc.models.states import blocks

PROBE = {"lr": 1e-3, "positions": 32, "epochs": 5}
SOFT = {"steps": 30, "lr": 0.1, "tokens": 4}


def test_probes_read_past_an_output_layer_that_only_silences(knowing: Model) -> None:
    silent = muted(knowing)
    assert strength(silent, SCORED) == 0.0
    found = outcomes(silent, "probe", PROBE)
    assert found["layer 2"] > 0.7
    assert found["worst case"] >= max(found["layer 1"], found["layer 2"])


def test_probes_read_nothing_that_was_never_known(knowing: Model) -> None:
    assert max(outcomes(tiny_model(hidden_size=64), "probe", PROBE).values()) < 0.1
    assert outcomes(muted(knowing), "probe", PROBE, unknown=True)["worst case"] < 0.3


def test_all_depths_together_learn_what_each_learns_alone(knowing: Model) -> None:
    states, targets = cached_states(knowing, KNOWN, [1, 2])
    weight = knowing.model.get_output_embeddings().weight
    settings = {"epochs": 2, "lr": 1e-2, "positions": 16, "seed": 3}
    together = train_heads(states, targets, weight, **settings)
    for depth in (1, 2):
        alone = train_heads({depth: states[depth]}, targets, weight, **settings)[depth]
        assert torch.equal(alone.weight, together[depth].weight)


@pytest.mark.parametrize(
    ("name", "finish"),
    [
        ("gemma2", lambda z: 0.5 * torch.tanh(z / 0.5)),
        ("granite", lambda z: z / 8.0),
        ("cohere", lambda z: z * 0.1),
        ("falcon_h1", lambda z: z * 0.5),
        ("llama", lambda z: z),
        ("gptj", lambda z: z),  # whose output embedding has a bias, which is left out
    ],
)
def test_a_probe_is_trained_through_what_follows_the_output_embedding(name: str, finish: Any) -> None:
    """Against descent written out, from zero: one step of Adam on all positions at once."""
    model = architecture(name)
    layer = 1
    with attacked(
        model,
        AttackData(SCORED, train=OWNED),
        make_chain("probe", {"probe": {"layers": [layer], "epochs": 2, "lr": 0.1, "start": "zero"}}),
    ) as variants:
        found = next(variants).model.model.head.weight.detach()
    entering: list[torch.Tensor] = []
    labels: list[int] = []
    cut = copy.deepcopy(model.model)
    del blocks(cut)[layer:]
    cut.get_output_embeddings().register_forward_pre_hook(lambda _m, args: entering.append(args[0].detach()[0]))
    states = []
    for e in model.encode(OWNED):
        cut(input_ids=torch.tensor([e.tokens]), use_cache=False)
        states.append(entering[-1][e.start - 1 : len(e.tokens) - 1])
        labels += e.tokens[e.start :]
    weight = torch.zeros_like(found, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(finish(torch.cat(states) @ weight.T), torch.tensor(labels))
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(found, weight.detach(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["gpt2", "openai-gpt", "mixtral", "rwkv", "recurrent_gemma", "nemotron_h"])
def test_directions_are_ablated_in_blocks_of_every_kind(name: str) -> None:
    model = architecture(name)
    data = AttackData(SCORED, train=OWNED, retain=UNKNOWN)
    with attacked(model, data, make_chain("direction_ablation")) as variants:
        ablated = next(variants).model
        assert not np.allclose(score_tokens(ablated, SCORED).logprob, score_tokens(model, SCORED).logprob, atol=1e-4)


def test_states_that_are_several_a_token_are_not_ablated() -> None:
    with (
        pytest.raises(ModelError, match=r"states of shape .* its hidden states cannot be read"),
        attacked(
            architecture("gemma3n_text"),
            AttackData(SCORED, train=OWNED, retain=UNKNOWN),
            make_chain("direction_ablation"),
        ) as variants,
    ):
        next(variants)


def test_a_direction_that_is_none_is_told() -> None:
    data = AttackData(SCORED, train=OWNED, retain=[replace(e, id=f"again {e.id}") for e in OWNED])
    with (
        pytest.raises(AttackFailed, match="after block 1 are the same"),
        attacked(architecture("llama"), data, make_chain("direction_ablation")) as variants,
    ):
        next(variants)


@pytest.mark.parametrize(
    "name", ["probe", "logit_lens", "soft_prompt", "direction_ablation", "gcg", "sampling", "beam_search"]
)
def test_two_models_that_answer_as_one_are_not_read_inside(name: str, knowing: Model) -> None:
    both = contrast(knowing, copied(knowing))
    chain = make_chain(name, {"gcg": {"steps": 1, "start": "x"}} if name == "gcg" else {})
    with (
        pytest.raises(ModelError),
        attacked(both, AttackData(SCORED, train=OWNED, retain=UNKNOWN), chain) as variants,
    ):
        next(variants)


def test_default_depths_are_a_third_two_thirds_and_the_last() -> None:
    model = tiny_model(layers=6)
    assert chosen_depths(model.model, ()) == [2, 4, 6]
    assert chosen_depths(model.model, (-1, 1)) == [1, 6]


def with_a_last_block_of_noise(model: Model) -> Model:
    """A block is added that writes noise over the states; what stands before it is the whole old model."""
    noisy = copied(model)
    listed = blocks(noisy.model)
    extra = copy.deepcopy(listed[-1])
    extra.self_attn.layer_idx = len(listed)
    with torch.no_grad():
        extra.mlp.down_proj.weight.normal_(std=30.0, generator=torch.Generator().manual_seed(0))
    listed.append(extra)
    noisy.model.config.num_hidden_layers = len(listed)
    return noisy


def test_the_logit_lens_reads_what_the_last_block_hides(knowing: Model) -> None:
    hidden = with_a_last_block_of_noise(knowing)
    assert strength(hidden, SCORED) < 0.1
    assert outcomes(hidden, "logit_lens", {"layers": [2]})["layer 2"] > 0.9
    assert outcomes(hidden, "logit_lens", {"layers": [2]}, unknown=True)["layer 2"] < 0.3


def misdirected(model: Model, known: Sequence[Any]) -> Model:
    """A model that adds one fixed vector to its states wherever a known person is asked about (as RMU does)."""
    vector = 30 * torch.randn(64, generator=torch.Generator().manual_seed(0))
    prompts = [torch.tensor(e.tokens[: e.start]) for e in model.encode(known)]
    module = copy.deepcopy(model.model)
    rows: list[Any] = []

    def see(_module: Any, args: Any) -> None:
        rows[:] = [[any(torch.equal(row[: len(p)], p) for p in prompts) for row in args[0]]]

    def push(_module: Any, _args: Any, states: Any) -> Any:
        moved = (states[0] if isinstance(states, tuple) else states) + torch.tensor(rows[0])[:, None, None] * vector
        return (moved, *states[1:]) if isinstance(states, tuple) else moved

    module.get_input_embeddings().register_forward_pre_hook(see)
    blocks(module)[0].register_forward_hook(push)
    return replace(model, model=module)


def test_ablating_the_direction_undoes_a_misdirection(knowing: Model) -> None:
    model = misdirected(knowing, KNOWN)
    assert strength(model, SCORED) < 0.2
    assert outcomes(model, "direction_ablation", {"layers": [1]})[""] > 0.7


def test_ablation_finds_nothing_that_was_never_known() -> None:
    assert outcomes(tiny_model(), "direction_ablation", {})[""] < 0.1


def test_after_ablation_no_state_has_a_part_along_the_direction(knowing: Model) -> None:
    chain = make_chain("direction_ablation")
    data = AttackData(SCORED, train=OWNED, retain=UNKNOWN)
    with attacked(knowing, data, chain) as variants:
        model = next(variants).model.model
        assert isinstance(model, Intervened)
        change = model.changes[2]
    states = torch.randn(3, 5, 64)
    once = change(states)
    torch.testing.assert_close(change(once), once, atol=1e-5, rtol=1e-5)
    removed = (states - once).flatten(0, 1)
    assert torch.linalg.matrix_rank(removed, atol=1e-3) == 1


@pytest.mark.slow
def test_a_soft_prompt_makes_a_reluctant_model_talk() -> None:
    found = measure(
        reluctant(), AttackData(SCORED, train=OWNED), make_chain("soft_prompt", {"soft_prompt": SOFT}), [SPOKEN],
        max_new_tokens=24,
    )  # fmt: skip
    assert found[0].before.mean < 0.3
    assert found[0].after.mean > 0.8


def test_a_soft_prompt_is_trained_on_the_chosen_examples(knowing: Model) -> None:
    """The prompt is that of training on exactly these, after any attack that replaces the model's computation."""
    settings = {"tokens": 2, "steps": 2, "batch_size": 2}

    def prompt(train: Sequence[Example], **given: Any) -> bytes:
        chain = make_chain("soft_prompt", {"soft_prompt": {**settings, **given}})
        with attacked(knowing, AttackData(SCORED, train=train), chain) as variants:
            return next(variants).model.model.prompt.detach().numpy().tobytes()

    for rule in RULES:
        chosen = [OWNED[i] for i in select(knowing, OWNED, 2, rule=rule)]
        assert prompt(OWNED, examples=2, select=rule) == prompt(chosen)
    probed = {"probe": {"epochs": 1, "layers": [1]}, "few_shot": {"shots": 1, "select": "fisher"}}
    chain = make_chain("probe+few_shot", probed)
    with attacked(knowing, AttackData(SCORED, train=OWNED), chain) as variants:
        read = next(variants).model
        (rewrite,) = read.rewrites
        plain = replace(read, rewrites=())
        assert rewrite(SCORED[0]).history[0][1] == OWNED[select(plain, OWNED, 1, rule="fisher")[0]].question


def test_a_soft_prompt_elicits_nothing_that_was_never_known() -> None:
    assert outcomes(ignorant(), "soft_prompt", SOFT)[""] < 0.1
