"""The architectures of the matrix: each a tiny configuration, with the prompt it is taught and what must be refused."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import transformers
from tests.matrix.prompts import PROMPTS

CELLS = (
    "score",
    "text",
    "unlearn",
    "calibrate",
    "attack-weights",
    "attack-inside",
    "attack-prompt",
    "attack-decoding",
    "save-load",
)


@dataclass(frozen=True)
class Architecture:
    """A tiny model of some architecture.

    Attributes:
        name: what tests call it.
        config: the class of its configuration.
        sizes: the arguments of that class, without vocabulary and special tokens.
        prompt: the name of the tokenizer and template it is taught with, one of `PROMPTS`.
        note: its special property, for the table.
        blocks: the name of the list of its blocks.
        switch: the length from which a sequence is computed otherwise, so that rows on both sides of it cannot share
            a forward; 0 where there is none.
        padding: how many rows of the embeddings no token of the tokenizer has.
        tolerance: the largest difference of a score, where the architecture's own kernels give more than 1e-5.
        inputs_first: ends of names of parameters in its blocks that are [..., in, out].
        leave: ends of names of parameters with two dimensions, other than biases, that are no linear maps.
        refused: cell -> a word of the reason, for what cannot be measured; "all" for whatever is measured.
        lr: the learning rate with which it is taught.
        fast: whether it is among those of `make test`.
    """

    name: str
    config: str
    sizes: Mapping[str, Any]
    prompt: str
    note: str = ""
    blocks: str = "model.layers"
    switch: int = 0
    padding: int = 0
    tolerance: float = 1e-5
    inputs_first: tuple[str, ...] = ()
    leave: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    lr: float = 1e-2
    fast: bool = False

    def __post_init__(self) -> None:
        assert self.prompt in PROMPTS, self.prompt

    def make_config(self, tokens: int, **special: int | None) -> Any:
        """The configuration, with the tokenizer's size and special tokens, and without dropout."""
        kind, vocabulary = getattr(transformers, self.config), tokens + self.padding
        sizes = dict(self.sizes)
        if "text_config" in sizes:
            sizes["text_config"] = {**sizes["text_config"], "vocab_size": vocabulary, **special}
            config = kind(**sizes)
        else:
            config = kind(vocab_size=vocabulary, **special, **sizes)
        text = config.get_text_config()
        for name in [n for n in vars(text) if "drop" in n and isinstance(getattr(text, n), float)]:
            setattr(text, name, 0.0)  # what is dropped depends on the batch
        text.initializer_range = 0.1  # the usual 0.02 is for wide models; narrow ones learn by heart slower with it
        return config


def _decoder(**more: Any) -> dict[str, Any]:
    """The sizes of a model that is built as Llama is."""
    sizes = {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
    }
    return {**sizes, **more}


_LONG = {"rope_type": "longrope", "short_factor": [1.0] * 6, "long_factor": [4.0] * 6, "rope_theta": 10000.0}
_MAMBA = {"mamba_n_heads": 6, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_expand": 2}

ARCHITECTURES: dict[str, Architecture] = {
    made.name: made
    for made in (
        Architecture(
            "gpt2",
            "GPT2Config",
            {"n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 512},
            prompt="plain",
            note="linear maps are Conv1D",
            blocks="transformer.h",
            fast=True,
        ),
        Architecture(
            "gpt2-bytes",
            "GPT2Config",
            {"n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 512},
            prompt="byt5",
            blocks="transformer.h",
        ),
        Architecture(
            "gptj",
            "GPTJConfig",
            {"n_embd": 48, "n_layer": 2, "n_head": 4, "rotary_dim": 8, "n_positions": 512},
            prompt="chatml",
            note="the output embedding has a bias",
            blocks="transformer.h",
        ),
        Architecture("gpt_neox", "GPTNeoXConfig", _decoder(), prompt="plain-bos", blocks="gpt_neox.layers"),
        Architecture(
            "opt",
            "OPTConfig",
            {
                "hidden_size": 48,
                "ffn_dim": 96,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "max_position_embeddings": 512,
            },
            prompt="plain-bos",
            blocks="model.decoder.layers",
        ),
        Architecture(
            "opt-projected",
            "OPTConfig",
            {
                "hidden_size": 48,
                "ffn_dim": 96,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "max_position_embeddings": 512,
                "word_embed_proj_dim": 24,
                "do_layer_norm_before": False,
            },
            prompt="python-bpe",
            note="a linear map before the output embedding",
            blocks="model.decoder.layers",
        ),
        Architecture(
            "bloom",
            "BloomConfig",
            {"hidden_size": 48, "n_layer": 3, "n_head": 4},
            prompt="plain",
            note="ALiBi",
            blocks="transformer.h",
        ),
        Architecture(
            "falcon",
            "FalconConfig",
            {
                "hidden_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "alibi": False,
                "new_decoder_architecture": True,
                "num_kv_heads": 2,
            },
            prompt="chatml-other-end",
            blocks="transformer.h",
        ),
        Architecture(
            "mpt",
            "MptConfig",
            {"d_model": 48, "n_heads": 4, "n_layers": 2, "max_seq_len": 512, "expansion_ratio": 2},
            prompt="chatml",
            note="ALiBi",
            blocks="transformer.blocks",
        ),
        Architecture("phi", "PhiConfig", _decoder(), prompt="plain", note="the output embedding has a bias"),
        Architecture(
            "phi3-longrope",
            "Phi3Config",
            _decoder(
                num_hidden_layers=2,
                original_max_position_embeddings=56,
                rope_parameters=_LONG,
                max_position_embeddings=224,
            ),
            prompt="swallowing",
            note="sequences on both sides of the switch of longrope",
            switch=56,
            fast=True,
        ),
        Architecture("llama", "LlamaConfig", _decoder(num_hidden_layers=2), prompt="inst", fast=True),
        Architecture(
            "llama-headers", "LlamaConfig", _decoder(tie_word_embeddings=True), prompt="headers", note="tied embeddings"
        ),
        Architecture(
            "mistral",
            "MistralConfig",
            _decoder(sliding_window=16),
            prompt="inst-tight",
            note="the attention window is shorter than a prompt",
        ),
        Architecture(
            "mixtral",
            "MixtralConfig",
            _decoder(num_hidden_layers=2, num_local_experts=4, num_experts_per_tok=2),
            prompt="inst",
            note="fused experts",
            fast=True,
        ),
        Architecture("qwen2", "Qwen2Config", _decoder(), prompt="chatml-other-end", padding=27),
        Architecture("qwen3", "Qwen3Config", _decoder(head_dim=12), prompt="thinking"),
        Architecture(
            "qwen3_moe",
            "Qwen3MoeConfig",
            _decoder(head_dim=12, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=48),
            prompt="thinking",
            note="fused experts",
        ),
        Architecture(
            "qwen3_next",
            "Qwen3NextConfig",
            _decoder(
                num_hidden_layers=2,
                head_dim=16,
                layer_types=["linear_attention", "full_attention"],
                linear_key_head_dim=12,
                linear_value_head_dim=12,
                linear_num_key_heads=2,
                linear_num_value_heads=4,
                num_experts=4,
                num_experts_per_tok=2,
                moe_intermediate_size=32,
                shared_expert_intermediate_size=32,
            ),
            prompt="thinking",
            note="linear attention with a state, fused experts",
        ),
        Architecture(
            "gemma", "GemmaConfig", _decoder(head_dim=12), prompt="turns", note="embeddings are scaled", lr=0.02
        ),
        Architecture(
            "gemma2",
            "Gemma2Config",
            _decoder(
                head_dim=12,
                sliding_window=24,
                query_pre_attn_scalar=12,
                final_logit_softcapping=20.0,
                num_hidden_layers=2,
            ),
            prompt="turns",
            note="soft caps",
            lr=0.02,
            fast=True,
        ),
        Architecture(
            "gemma3",
            "Gemma3TextConfig",
            _decoder(head_dim=12, sliding_window=24, query_pre_attn_scalar=12),
            prompt="turns",
            lr=0.02,
        ),
        Architecture(
            "gemma3-multimodal",
            "Gemma3Config",
            {
                "text_config": _decoder(head_dim=12, sliding_window=24, query_pre_attn_scalar=12),
                "vision_config": {
                    "hidden_size": 16,
                    "intermediate_size": 32,
                    "num_hidden_layers": 3,
                    "num_attention_heads": 2,
                    "image_size": 28,
                    "patch_size": 14,
                },
                "mm_tokens_per_image": 4,
            },
            prompt="turns",
            note="a vision tower, which is not used",
            blocks="model.language_model.layers",
            lr=0.02,
        ),
        Architecture("olmo2", "Olmo2Config", _decoder(), prompt="opened-think"),
        Architecture(
            "olmoe",
            "OlmoeConfig",
            _decoder(num_hidden_layers=2, num_experts=4, num_experts_per_tok=2),
            prompt="chatml",
            note="fused experts",
            lr=0.005,
        ),
        Architecture(
            "granite",
            "GraniteConfig",
            _decoder(logits_scaling=2.0, embedding_multiplier=6.0, residual_multiplier=0.8, attention_multiplier=0.1),
            prompt="system",
            note="logits are divided",
        ),
        Architecture(
            "cohere", "CohereConfig", _decoder(logit_scale=0.5), prompt="headers", note="logits are scaled", lr=0.02
        ),
        Architecture(
            "cohere2",
            "Cohere2Config",
            _decoder(logit_scale=0.5, sliding_window=24, num_hidden_layers=4),
            prompt="headers",
            note="logits are scaled",
            lr=0.02,
        ),
        Architecture(
            "stablelm",
            "StableLmConfig",
            _decoder(rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}),
            prompt="unigram",
        ),
        Architecture("starcoder2", "Starcoder2Config", _decoder(sliding_window=32), prompt="plain-two", padding=44),
        Architecture(
            "gpt_oss",
            "GptOssConfig",
            _decoder(
                num_hidden_layers=2,
                head_dim=12,
                num_local_experts=4,
                num_experts_per_tok=2,
                sliding_window=16,
                rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            ),
            prompt="channel",
            note="fused experts stored [in, out], attention sinks",
            inputs_first=("experts.gate_up_proj", "experts.down_proj"),
            lr=0.005,
        ),
        Architecture(
            "deepseek_v3",
            "DeepseekV3Config",
            _decoder(
                num_key_value_heads=4,
                moe_intermediate_size=32,
                n_routed_experts=4,
                num_experts_per_tok=2,
                n_group=1,
                topk_group=1,
                kv_lora_rank=16,
                q_lora_rank=16,
                qk_rope_head_dim=8,
                qk_nope_head_dim=8,
                v_head_dim=12,
                first_k_dense_replace=1,
            ),
            prompt="opened-think",
            note="latent attention, fused experts",
        ),
        Architecture("glm4", "Glm4Config", _decoder(head_dim=12), prompt="next-turn"),
        Architecture("smollm3", "SmolLM3Config", _decoder(no_rope_layer_interval=2), prompt="thinking"),
        Architecture("exaone4", "Exaone4Config", _decoder(sliding_window=24, num_hidden_layers=4), prompt="unigram"),
        Architecture(
            "lfm2",
            "Lfm2Config",
            _decoder(num_hidden_layers=3, block_multiple_of=16, layer_types=["conv", "full_attention", "conv"]),
            prompt="chatml-other-end",
            note="short convolutions",
        ),
        Architecture(
            "mamba",
            "MambaConfig",
            {"hidden_size": 48, "state_size": 4, "num_hidden_layers": 2},
            prompt="python-bpe",
            note="a state",
            blocks="backbone.layers",
            leave=("A_log",),
        ),
        Architecture(
            "mamba2",
            "Mamba2Config",
            {
                "hidden_size": 48,
                "state_size": 8,
                "num_hidden_layers": 2,
                "num_heads": 6,
                "head_dim": 16,
                "n_groups": 1,
                "chunk_size": 16,
            },
            prompt="chatml",
            note="a state",
            blocks="backbone.layers",
        ),
        Architecture(
            "falcon_mamba",
            "FalconMambaConfig",
            {"hidden_size": 48, "state_size": 4, "num_hidden_layers": 2},
            prompt="wordpiece",
            note="a state",
            blocks="backbone.layers",
            leave=("A_log",),
        ),
        Architecture(
            "recurrent_gemma",
            "RecurrentGemmaConfig",
            {
                "hidden_size": 48,
                "intermediate_size": 96,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "num_key_value_heads": 1,
                "lru_width": 48,
                "attention_window_size": 24,
                "logits_soft_cap": 20.0,
            },
            prompt="turns",
            note="a state, soft caps",
            inputs_first=("input_gate_weight", "recurrent_gate_weight"),
        ),
        Architecture(
            "rwkv",
            "RwkvConfig",
            {
                "hidden_size": 48,
                "num_hidden_layers": 2,
                "attention_hidden_size": 48,
                "intermediate_size": 96,
                "context_length": 512,
            },
            prompt="python-bpe",
            note="a state without a mask",
            blocks="rwkv.blocks",
            leave=("time_mix_key", "time_mix_value", "time_mix_receptance"),
            fast=True,
        ),
        Architecture(
            "zamba2",
            "Zamba2Config",
            {
                "hidden_size": 48,
                "num_hidden_layers": 4,
                "mamba_d_state": 8,
                "n_mamba_heads": 6,
                "mamba_ngroups": 1,
                "chunk_size": 16,
                "intermediate_size": 96,
                "num_attention_heads": 4,
                "num_mem_blocks": 1,
                "adapter_rank": 8,
                "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
                "use_mamba_kernels": False,
            },
            prompt="chatml",
            note="a state, shared attention blocks",
        ),
        Architecture(
            "nemotron_h",
            "NemotronHConfig",
            {
                "hidden_size": 48,
                "intermediate_size": 96,
                "layers_block_type": ["mamba", "attention", "mlp", "mamba"],
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "head_dim": 12,
                "ssm_state_size": 8,
                "mamba_num_heads": 6,
                "mamba_head_dim": 16,
                "n_groups": 1,
                "chunk_size": 16,
                "use_mamba_kernels": False,
            },
            prompt="chatml",
            note="a state",
        ),
        Architecture(
            "falcon_h1",
            "FalconH1Config",
            _decoder(mamba_d_ssm=96, **_MAMBA, mamba_chunk_size=16, lm_head_multiplier=0.5, embedding_multiplier=2.0),
            prompt="chatml-other-end",
            note="a state beside attention, logits are scaled",
        ),
        Architecture(
            "jamba",
            "JambaConfig",
            _decoder(
                num_hidden_layers=2,
                attn_layer_period=2,
                attn_layer_offset=1,
                expert_layer_period=2,
                expert_layer_offset=1,
                num_experts=4,
                num_experts_per_tok=2,
                mamba_d_state=4,
                mamba_dt_rank=4,
                use_mamba_kernels=False,
            ),
            prompt="plain-bos",
            note="a state, fused experts",
            leave=("A_log",),
        ),
        Architecture(
            "hrm_text",
            "HrmTextConfig",
            _decoder(num_hidden_layers=1, num_key_value_heads=4, head_dim=12, H_cycles=1, L_cycles=1),
            prompt="chatml",
            note="a prefix LM, used causally, as without token types; its blocks run several times",
            blocks="model.L_module.layers",
            refused={"attack-weights": "block", "attack-inside": "block"},
        ),
        Architecture(
            "bert",
            "BertConfig",
            {
                "hidden_size": 48,
                "intermediate_size": 96,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "max_position_embeddings": 512,
            },
            prompt="wordpiece",
            note="an encoder",
            blocks="bert.encoder.layer",
            refused={"all": "causal"},
        ),
        Architecture(
            "gemma3-both-ways",
            "Gemma3TextConfig",
            _decoder(head_dim=12, sliding_window=24, query_pre_attn_scalar=12, use_bidirectional_attention=True),
            prompt="turns",
            note="bidirectional attention, as in embedding models",
            refused={"all": "causal"},
        ),
        Architecture(
            "xlnet",
            "XLNetConfig",
            {"d_model": 48, "d_inner": 96, "n_layer": 2, "n_head": 4},
            prompt="unigram",
            note="bidirectional attention",
            blocks="transformer.layer",
            refused={"all": "causal"},
        ),
    )
}
