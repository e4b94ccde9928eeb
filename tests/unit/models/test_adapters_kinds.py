"""Every kind of adapter that peft knows is scored as plain peft does it, or refused by name."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, PeftType, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from tests.conftest import people, tiny_model
from transformers import MixtralConfig, MixtralForCausalLM

from uwc.data.example import Example
from uwc.errors import ModelError
from uwc.metrics.likelihood import extraction_strength
from uwc.models.adapters import SCORED_KINDS
from uwc.models.load import load_model, save_model
from uwc.models.mixtures import open_mixing
from uwc.models.model import Model
from uwc.models.scoring import score_tokens

EXAMPLES = people(2)
OF_KIND = {
    "ADALORA": {"total_step": 10}, "ADAMSS": {"r": 8, "num_subspaces": 2}, "BOFT": {"boft_block_size": 4},
    "ADAPTION_PROMPT": {"adapter_len": 4, "adapter_layers": 2, "target_modules": None}, "C3A": {"block_size": 8},
    "FOURIERFT": {"n_frequency": 20}, "MISS": {"r": 4}, "OFT": {"oft_block_size": 4}, "ROAD": {"group_size": 4},
    "IA3": {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}, "SHIRA": {"r": 2},
    "LN_TUNING": {"target_modules": ["input_layernorm"]}, "WAVEFT": {"n_frequency": 20},
    "TRAINABLE_TOKENS": {"token_indices": [5, 9], "target_modules": ["embed_tokens"]},
    "VBLORA": {"num_vectors": 32, "vector_length": 8, "topk": 2, "r": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Path]:
    model, folder = tiny_model(seed=3), tmp_path_factory.mktemp("kinds")
    save_model(model, folder / "base")
    return model, folder


def adapted(base: tuple[Model, Path], name: str, config: object) -> Path:
    """An adapter with random weights, saved."""
    model, folder = base
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = get_peft_model(copy.deepcopy(model.model), config)  # type: ignore[arg-type]
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.3 * torch.randn(parameter.shape))
    module.peft_config["default"].base_model_name_or_path = str(folder / "base")
    module.save_pretrained(folder / name)
    return folder / name


def plain_peft(base: Model, folder: Path, examples: Sequence[Example]) -> torch.Tensor:
    """Log-probabilities of the answers' tokens by peft and transformers alone, one sequence at a time."""
    model = PeftModel.from_pretrained(copy.deepcopy(base.model), folder).eval()
    found = []
    for e in base.encode(examples):
        with torch.no_grad():
            logprobs = model(input_ids=torch.tensor([e.tokens])).logits[0].log_softmax(dim=-1)
        found += [logprobs[i - 1, e.tokens[i]] for i in range(e.start, len(e.tokens))]
    return torch.stack(found)


def assert_as_plain_peft(base: tuple[Model, Path], folder: Path) -> None:
    expected = plain_peft(base[0], folder, EXAMPLES)
    random = torch.get_rng_state()
    loaded = load_model(folder, device="cpu")
    assert torch.equal(torch.get_rng_state(), random)
    scores = score_tokens(loaded, EXAMPLES)
    assert (torch.tensor(scores.logprob) - expected).abs().max() < 3e-6
    unchanged = score_tokens(base[0], EXAMPLES)
    assert abs(scores.logprob - unchanged.logprob).max() > 1e-3, "the adapter does something"
    alone = [extraction_strength(score_tokens(loaded, [e]))[0] for e in EXAMPLES]
    assert extraction_strength(scores).tolist() == alone


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [k.value for k in PeftType])
def test_each_kind_is_exact_or_refused_by_name(base: tuple[Model, Path], kind: str) -> None:
    if kind in SCORED_KINDS:
        chosen = {"target_modules": ["q_proj", "v_proj"], **OF_KIND.get(kind, {})}
        given = {name: value for name, value in chosen.items() if value is not None}
        if kind == "ADAMSS":
            pytest.importorskip("sklearn")
        config = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind)](task_type="CAUSAL_LM", **given)
        assert_as_plain_peft(base, adapted(base, kind, config))
        return
    folder = adapted(base, f"refused-{kind}", LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"peft_type": kind}))
    with pytest.raises(ModelError, match=rf"an adapter of kind {kind} cannot be scored \(\w.*\); give") as error:
        load_model(folder)
    assert "\n" not in str(error.value)


LORA = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True}, {"use_rslora": True}, {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 9}},
        {"modules_to_save": ["lm_head"]}, {"modules_to_save": ["embed_tokens", "lm_head"]}, {"lora_bias": True},
        {"trainable_token_indices": [5, 9]}, {"trainable_token_indices": {"lm_head": [5], "embed_tokens": [9]}},
        {"target_modules": ["embed_tokens", "lm_head"]}, {"target_modules": ["embed_tokens"], "use_dora": True},
        {"target_parameters": ["q_proj.weight"], "target_modules": ["v_proj"]}, {"init_lora_weights": "pissa"},
        {"layer_replication": [[0, 2], [1, 2]]}, {"init_lora_weights": "olora"}, {"alora_invocation_tokens": "?"},
        {"bias": "all"}, {"modules_to_save": ["input_layernorm"]},
    ],
    ids=str,
)  # fmt: skip
def test_each_variant_of_lora_is_exact(base: tuple[Model, Path], settings: dict[str, object]) -> None:
    name = "".join(c for c in str(settings) if c.isalnum())
    if "alora_invocation_tokens" in settings:
        settings = {"alora_invocation_tokens": base[0].tokenizer("?", add_special_tokens=False)["input_ids"]}
    assert_as_plain_peft(base, adapted(base, name, LoraConfig(**{**LORA, **settings})))


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_on_fused_experts_is_exact(tmp_path: Path) -> None:
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "head_dim": 8,
    }
    tokenizer = tiny_model().tokenizer
    config = MixtralConfig(
        vocab_size=len(tokenizer), num_key_value_heads=2, num_local_experts=4, eos_token_id=0, pad_token_id=1, **sizes
    )
    model = Model(MixtralForCausalLM(config).eval(), tokenizer)
    save_model(model, tmp_path / "base")
    on_experts = {"target_parameters": ["experts.gate_up_proj", "experts.down_proj"], "target_modules": ["q_proj"]}
    assert_as_plain_peft((model, tmp_path), adapted((model, tmp_path), "a", LoraConfig(**{**LORA, **on_experts})))
    expected = score_tokens(load_model(tmp_path / "a", device="cpu"), EXAMPLES).logprob
    mixing = open_mixing(tmp_path / "base", tmp_path / "a", device="cpu")
    assert abs(score_tokens(mixing.mix(1.0), EXAMPLES).logprob - expected).max() < 1e-5
    unchanged = score_tokens(model, EXAMPLES).logprob
    assert abs(score_tokens(mixing.mix(0.0), EXAMPLES).logprob - unchanged).max() < 1e-5


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"init_lora_weights": "pissa_niter_4"}, r"kind LORA with init_lora_weights 'pissa_niter_4' .* plain LoRA"),
        ({"arrow_config": {"top_k": 1}}, "kind LORA with arrow_config"),
        ({"task_type": "SEQ_CLS"}, "kind LORA for the task SEQ_CLS"),
        ({"use_newer_lora": True}, r"peft .* does not know 'use_newer_lora' of adapter_config.json"),
        ({"peft_type": "NEWLORA"}, "kind NEWLORA cannot be scored .uwc does not know"),
    ],
)
def test_what_cannot_be_exact_is_refused(base: tuple[Model, Path], change: dict[str, object], told: str) -> None:
    folder = adapted(base, "changed", LoraConfig(**LORA))
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=told):
        load_model(folder)
