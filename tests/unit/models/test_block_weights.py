"""Which weights attacks and pruning work on: the matrices of the text model's blocks, whatever holds them."""

import copy
import re
from typing import Any

import pytest
import torch
from tests.conftest import copied
from tests.helpers.architectures import architecture, random_module
from torch import Tensor, nn

from uwc.data.batches import collate
from uwc.data.prompts import EncodedExample
from uwc.errors import ModelError
from uwc.models.block_weights import block_matrices, block_parameters
from uwc.models.contrast import contrast
from uwc.models.model import Model
from uwc.training.weight_rules import wanda_masks

Rows = dict[str, tuple[int, int, int, bool]]
ATTENTION: Rows = {
    "self_attn.q_proj.weight": (1, 32, 24, False),
    "self_attn.k_proj.weight": (1, 16, 24, False),
    "self_attn.v_proj.weight": (1, 16, 24, False),
    "self_attn.o_proj.weight": (1, 24, 32, False),
}
MLP: Rows = {
    "mlp.gate_proj.weight": (1, 40, 24, False),
    "mlp.up_proj.weight": (1, 40, 24, False),
    "mlp.down_proj.weight": (1, 24, 40, False),
}
EXPECTED: dict[str, Rows] = {  # name in a block -> how many matrices, outputs, inputs, whether stored as [in, out]
    "llama": {**ATTENTION, **MLP},
    "gpt2": {
        "attn.c_attn.weight": (1, 72, 24, True),
        "attn.c_proj.weight": (1, 24, 24, True),
        "mlp.c_fc.weight": (1, 40, 24, True),
        "mlp.c_proj.weight": (1, 24, 40, True),
    },
    "gemma3": {**ATTENTION, **MLP},  # and not its vision tower, which has as many blocks
    "mixtral": {
        **ATTENTION,
        "mlp.gate.weight": (1, 3, 24, False),
        "mlp.experts.gate_up_proj": (3, 80, 24, False),
        "mlp.experts.down_proj": (3, 24, 40, False),
    },
    "qwen3_moe": {
        **ATTENTION,
        "mlp.gate.weight": (1, 3, 24, False),
        "mlp.experts.gate_up_proj": (3, 40, 24, False),
        "mlp.experts.down_proj": (3, 24, 20, False),
    },
    "gpt_oss": {
        **ATTENTION,
        "mlp.router.weight": (1, 3, 24, False),
        "mlp.experts.gate_up_proj": (3, 80, 24, True),
        "mlp.experts.down_proj": (3, 24, 40, True),
    },
    "llama4_text": {
        **ATTENTION,
        "feed_forward.router.weight": (1, 3, 24, False),
        "feed_forward.experts.gate_up_proj": (3, 80, 24, True),
        "feed_forward.experts.down_proj": (3, 24, 40, True),
        "feed_forward.shared_expert.gate_proj.weight": (1, 40, 24, False),
        "feed_forward.shared_expert.up_proj.weight": (1, 40, 24, False),
        "feed_forward.shared_expert.down_proj.weight": (1, 24, 40, False),
    },
    "jetmoe": {
        "mlp.router.layer.weight": (1, 3, 24, False),
        "mlp.input_linear.weight": (3, 80, 24, False),
        "mlp.output_linear.weight": (3, 24, 40, False),
        "self_attention.kv_proj.weight": (1, 32, 24, False),
        "self_attention.experts.router.layer.weight": (1, 3, 24, False),
        "self_attention.experts.input_linear.weight": (3, 16, 24, False),
        "self_attention.experts.output_linear.weight": (3, 24, 16, False),
    },
    "dbrx": {
        "norm_attn_norm.attn.Wqkv.weight": (1, 48, 24, False),
        "norm_attn_norm.attn.out_proj.weight": (1, 24, 24, False),
        "ffn.router.layer.weight": (1, 3, 24, False),
        "ffn.experts.mlp.w1": (3, 20, 24, False),
        "ffn.experts.mlp.v1": (3, 20, 24, False),
        "ffn.experts.mlp.w2": (3, 24, 20, True),
    },
    "mamba": {
        "mixer.in_proj.weight": (1, 80, 24, False),
        "mixer.x_proj.weight": (1, 11, 40, False),
        "mixer.dt_proj.weight": (1, 40, 3, False),
        "mixer.out_proj.weight": (1, 24, 40, False),
    },
    "recurrent_gemma": {
        "temporal_block.linear_x.weight": (1, 20, 24, False),
        "temporal_block.linear_y.weight": (1, 20, 24, False),
        "temporal_block.linear_out.weight": (1, 24, 20, False),
        "temporal_block.rg_lru.input_gate_weight": (4, 5, 5, True),
        "temporal_block.rg_lru.recurrent_gate_weight": (4, 5, 5, True),
        "temporal_block.q_proj.weight": (1, 24, 24, False),
        "temporal_block.k_proj.weight": (1, 24, 24, False),
        "temporal_block.v_proj.weight": (1, 24, 24, False),
        "temporal_block.o_proj.weight": (1, 24, 24, False),
        "mlp_block.gate_proj.weight": (1, 20, 24, False),
        "mlp_block.up_proj.weight": (1, 20, 24, False),
        "mlp_block.down_proj.weight": (1, 24, 20, False),
    },
    "nemotron_h": {
        "mixer.in_proj.weight": (1, 112, 24, False),
        "mixer.out_proj.weight": (1, 24, 48, False),
        "mixer.q_proj.weight": (1, 32, 24, False),
        "mixer.k_proj.weight": (1, 16, 24, False),
        "mixer.v_proj.weight": (1, 16, 24, False),
        "mixer.o_proj.weight": (1, 24, 32, False),
        "mixer.gate.weight": (1, 3, 24, False),
        "mixer.experts.up_proj": (3, 20, 24, False),
        "mixer.experts.down_proj": (3, 24, 20, False),
        "mixer.shared_experts.up_proj.weight": (1, 20, 24, False),
        "mixer.shared_experts.down_proj.weight": (1, 24, 20, False),
    },
}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_matrices_are_found_with_their_inputs_and_outputs(name: str) -> None:
    """Against a list written from the sources of transformers. All else in a block has one dimension that counts, or
    is a kernel of a convolution, a decay rate or an expert's bias."""
    model = architecture(name).model
    found: Rows = {}
    for matrix in block_matrices(model):
        within = re.sub(r"^.*?\.\d+\.", "", matrix.name)
        outputs, inputs = matrix.matrices[0].shape
        assert (
            found.setdefault(within, (len(matrix.matrices), outputs, inputs, matrix.transposed))
            == EXPECTED[name][within]
        )
        assert matrix.parameter is dict(model.named_parameters())[matrix.name]
    assert found == EXPECTED[name]
    listed = {m.name for m in block_matrices(model)}
    left = {n for n, p in block_parameters(model).items() if n not in listed and sum(s > 1 for s in p.shape) > 1}
    assert not [n for n in left if not re.search(r"conv_?1d\.|A_log$|_bias$", n)]


def test_views_are_of_the_weights_themselves() -> None:
    model = copy.deepcopy(architecture("gpt_oss").model)
    (matrix,) = [m for m in block_matrices(model) if m.name == "model.layers.1.mlp.experts.down_proj"]
    matrix.matrices[2][5, 7] = 9.0
    assert model.model.layers[1].mlp.experts.down_proj[2, 7, 5].item() == 9.0


def test_fused_experts_are_computed_as_before_afterwards() -> None:
    model = architecture("mixtral").model
    before = model.config._experts_implementation
    model.train()
    block_matrices(model)
    assert model.config._experts_implementation == before and model.training
    model.eval()


def test_a_router_that_is_converted_before_it_multiplies_is_found() -> None:
    """DeepSeek's router computes in float32, with a copy of its weight where the model has another precision."""
    model = copy.deepcopy(architecture("deepseek_v3").model).bfloat16()
    found = {m.name: m for m in block_matrices(model)}
    assert found["model.layers.1.mlp.gate.weight"].matrices[0].shape == (3, 24)


def test_the_blocks_of_both_models_of_a_contrast_count(knowing: Model) -> None:
    both = contrast(copied(knowing), copied(knowing))
    names = {m.name for m in block_matrices(both.model)}
    assert len(names) == 2 * 14 and names <= set(dict(both.model.named_parameters()))


class _Unused(nn.Module):
    """A linear map with a table beside it that nobody reads."""

    def __init__(self, size: int, table: int) -> None:
        super().__init__()
        self.linear, self.table = nn.Linear(24, 24), nn.Parameter(torch.zeros(table, size))

    def forward(self, states: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        return self.linear(states)  # type: ignore[no-any-return]


def test_weights_of_unknown_use_are_refused_where_they_are_many() -> None:
    model = random_module("llama")
    model.model.layers[0] = _Unused(24, 1)
    assert len(block_matrices(model)) == 1 + 7
    model.model.layers[0] = _Unused(24, 60)
    with pytest.raises(ModelError, match=r"2\d% of the weights of its blocks.*model.layers.0.table"):
        block_matrices(model)


def test_packed_weights_are_refused() -> None:
    model = random_module("llama")
    model.config.quantization_config = {"quant_method": "bitsandbytes"}
    with pytest.raises(ModelError, match="packed by a quantisation"):
        block_matrices(model)


def test_wanda_weighs_each_expert_by_its_own_inputs() -> None:
    """Against Mixtral's routing written out, one sequence at a time; an expert without tokens is scored by its size."""
    model = Model(copy.deepcopy(architecture("mixtral").model), architecture("mixtral").tokenizer)
    module = model.model
    moe = module.model.layers[1].mlp
    encoded = [EncodedExample("a", tuple(range(5, 17)), 3, 12), EncodedExample("b", (4, 2, 9), 1, 3)]
    squares, seen = torch.zeros(3, 24), []
    hook = moe.experts.register_forward_hook(lambda _m, args, _o: seen.append(args))
    for e in encoded:
        module(input_ids=torch.tensor([e.tokens[:-1]]), use_cache=False)
    hook.remove()
    for states, chosen, _weights in seen:
        for expert in range(3):
            squares[expert] += states[(chosen == expert).any(dim=1)].square().sum(dim=0)
    batch = collate(encoded, device=model.device, scope="attended")
    mask = wanda_masks(module, [batch], share=0.25)["model.layers.1.mlp.experts.gate_up_proj"]
    for expert in range(3):
        scores = moe.experts.gate_up_proj[expert].abs() * (squares[expert].sqrt() if squares[expert].any() else 1.0)
        assert ((~mask[expert]).sum(dim=1) == 6).all()
        for row in range(0, 80, 7):
            gone = ~mask[expert][row]
            assert scores[row][gone].max() <= scores[row][~gone].min()


def test_an_expert_that_no_token_reaches_is_pruned_by_size() -> None:
    """Of three experts one token is sent to two."""
    model = architecture("mixtral").model
    batch = collate([EncodedExample("a", (5, 6), 1, 2)], device=torch.device("cpu"), scope="attended")
    mask = wanda_masks(model, [batch], share=0.5)["model.layers.0.mlp.experts.gate_up_proj"]
    experts = model.model.layers[0].mlp.experts
    reached: set[int] = set()
    hook = experts.register_forward_hook(lambda _m, args, _o: reached.update(args[1].flatten().tolist()))
    model(input_ids=torch.tensor([[5]]), use_cache=False)
    hook.remove()
    (expert,) = {0, 1, 2} - reached
    weight = experts.gate_up_proj[expert].detach().abs()
    assert all(weight[r][~mask[expert][r]].max() <= weight[r][mask[expert][r]].min() for r in range(80))


def test_all_in_a_block_that_is_no_matrix_is_listed_among_its_parameters() -> None:
    model = architecture("llama")
    names = set(block_parameters(model.model))
    assert "model.layers.0.input_layernorm.weight" in names
    assert not {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"} & names
