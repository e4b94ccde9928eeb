"""Tiny random models of many architectures, with sizes that tell inputs from outputs."""

import copy
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from tests.conftest import people, tiny_model
from transformers import AutoConfig, AutoModelForCausalLM

from uwc.models.model import Model

COMMON: dict[str, Any] = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "intermediate_size": 40, "max_position_embeddings": 128,
}  # fmt: skip
MOE = {"moe_intermediate_size": 20, "num_experts": 3, "num_local_experts": 3, "num_experts_per_tok": 2}
MAMBA = {"mamba_num_heads": 8, "mamba_head_dim": 6, "ssm_state_size": 4, "n_groups": 1}
GEMMA_TEXT = {**COMMON, "query_pre_attn_scalar": 8}
OWN: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 24, "n_layer": 2, "n_head": 4, "n_inner": 40, "n_positions": 128},
    "openai-gpt": {"n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "gptj": {"n_embd": 24, "n_layer": 2, "n_head": 4, "n_inner": 40, "rotary_dim": 4, "n_positions": 128},
    "ctrl": {"n_embd": 24, "n_layer": 2, "n_head": 4, "dff": 40, "n_positions": 128},
    "opt": {**COMMON, "ffn_dim": 40, "word_embed_proj_dim": 12},
    "llama": COMMON,
    "granite": {**COMMON, "logits_scaling": 8.0, "embedding_multiplier": 3.0},
    "cohere": {**COMMON, "logit_scale": 0.1},
    "gemma2": {**GEMMA_TEXT, "final_logit_softcapping": 0.5},
    "gemma3n_text": {
        **COMMON, "intermediate_size": [40, 40], "layer_types": ["sliding_attention", "full_attention"],
        "num_kv_shared_layers": 0, "hidden_size_per_layer_input": 6, "laurel_rank": 4, "altup_num_inputs": 2,
        "activation_sparsity_pattern": [0.0, 0.0],
    },
    "mixtral": {**COMMON, **MOE},
    "qwen3_moe": {**COMMON, **MOE, "decoder_sparse_step": 1},
    "deepseek_v3": {
        **COMMON, **MOE, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "n_shared_experts": 1, "head_dim": 4,
        "first_k_dense_replace": 1, "q_lora_rank": 12, "kv_lora_rank": 10, "qk_rope_head_dim": 4, "v_head_dim": 8,
        "qk_nope_head_dim": 4, "num_key_value_heads": 4,
    },
    "gpt_oss": {**COMMON, **MOE},
    "llama4_text": {
        **COMMON, **MOE, "interleave_moe_layer_step": 1, "intermediate_size_mlp": 40, "attn_temperature_tuning": False,
        "num_experts_per_tok": 1,
    },
    "jetmoe": {**COMMON, **MOE, "kv_channels": 8, "num_attention_heads": 4},
    "dbrx": {
        "d_model": 24, "n_heads": 4, "n_layers": 2, "max_seq_len": 128,
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 1e4},
        "ffn_config": {"ffn_hidden_size": 20, "moe_num_experts": 3, "moe_top_k": 2, "hidden_size": 24},
    },
    "mamba": {**COMMON, "state_size": 4, "time_step_rank": 3},
    "rwkv": {"hidden_size": 24, "num_hidden_layers": 7, "attention_hidden_size": 24, "intermediate_size": 40},
    "recurrent_gemma": {
        **COMMON, "num_hidden_layers": 3, "lru_width": 20, "attention_window_size": 16, "num_key_value_heads": 4,
        "block_types": ["recurrent", "recurrent", "attention"], "head_dim": 6,
    },
    "nemotron_h": {
        **COMMON, **MOE, **MAMBA, "layers_block_type": ["mamba", "attention", "moe"], "num_hidden_layers": 3,
        "n_routed_experts": 4, "moe_shared_expert_intermediate_size": 20, "n_group": 1, "topk_group": 1,
    },
    "minimax": {**COMMON, **MOE, "layer_types": ["linear_attention", "full_attention"]},
    "falcon_h1": {
        **COMMON, "mamba_d_ssm": 48, "mamba_n_heads": 8, "mamba_d_head": 6, "mamba_d_state": 4, "mamba_n_groups": 1,
        "lm_head_multiplier": 0.5,
    },
    "modernbert-decoder": {**COMMON, "head_dim": 6},
    "gemma3": {
        "text_config": GEMMA_TEXT, "mm_tokens_per_image": 1, "image_token_index": 0, "boi_token_index": 0,
        "eoi_token_index": 0,
        "vision_config": {
            "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20,
            "image_size": 28, "patch_size": 14,
        },
    },
}  # fmt: skip
HYBRID = ["openai-gpt", "mamba", "rwkv", "recurrent_gemma", "nemotron_h", "falcon_h1"]


def random_module(name: str, *, vocabulary: int = 64, **tokens: int) -> Any:
    """A random model in eval mode; every weight of its blocks matters.

    Args:
        name: the architecture, as transformers calls it.
        vocabulary: how many tokens.
        tokens: ids of the end and padding tokens.
    """
    sizes = {"vocab_size": vocabulary, "eos_token_id": None, "pad_token_id": None, "bos_token_id": None, **tokens}
    own = dict(OWN[name])
    if name == "gemma3n_text":
        own["vocab_size_per_layer_input"] = vocabulary
    if name in ("modernbert-decoder", "gemma3n_text"):
        sizes = {k: 0 if v is None else v for k, v in sizes.items()}
    if "text_config" in own:
        own["text_config"] = {**own["text_config"], "vocab_size": vocabulary}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **{**sizes, **own})).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def architecture(name: str) -> Model:
    """The random model with a tokenizer of the people's questions, without the state of what read it before."""
    made = _made(name)
    return replace(made, model=copy.deepcopy(made.model))


@cache
def _made(name: str) -> Model:
    tokenizer = tiny_model(people()).tokenizer
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    made = Model(random_module(name, vocabulary=len(tokenizer), **ends), tokenizer, name=name)
    made.sharing()  # examined once
    return made
