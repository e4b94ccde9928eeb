"""A merged adapter computes what it did on its base, also where embeddings are tied, and after saving and loading."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import BeftConfig, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tests.conftest import people, tiny_model
from torch import nn
from transformers import AutoModelForCausalLM

from uwc.errors import ModelError
from uwc.models.adapters import AdapterMixer, merge_adapter
from uwc.models.load import load_model, save_model
from uwc.models.mixing import Mixer
from uwc.models.mixtures import open_mixing, require_mixable, save_mixture
from uwc.models.model import Model
from uwc.models.weights import StreamedMixer
from uwc.objectives.methods import METHODS
from uwc.training.data import TrainingData
from uwc.training.settings import LoraSettings, TrainingSettings
from uwc.training.unlearn import unlearn

pytestmark = pytest.mark.filterwarnings("ignore")
PLAIN = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
ON_EMBEDDINGS = [
    {"target_modules": ["embed_tokens", "q_proj"]}, {"target_modules": ["lm_head", "q_proj"]},
    {"target_modules": ["embed_tokens", "lm_head"]}, {"target_modules": ["embed_tokens"], "use_dora": True},
    {"target_modules": ["lm_head", "v_proj"], "use_dora": True}, {"modules_to_save": ["embed_tokens"]},
    {"modules_to_save": ["lm_head"]}, {"modules_to_save": ["embed_tokens", "lm_head"]},
    {"modules_to_save": ["embed_tokens", "lm_head"], "ensure_weight_tying": True},
    {"trainable_token_indices": [5, 9]}, {"trainable_token_indices": {"lm_head": [5, 9]}},
    {"trainable_token_indices": {"embed_tokens": [5, 9], "lm_head": [5]}}, {},
]  # fmt: skip
UNTIED = [
    {"target_modules": ["embed_tokens", "lm_head"]}, {"modules_to_save": ["lm_head"]}, ON_EMBEDDINGS[-2], {},
]  # fmt: skip


def base_model(*, tied: bool) -> Model:
    model = tiny_model(seed=3)
    if not tied:
        head = model.model.lm_head
        head.weight = nn.Parameter(head.weight.detach() + 0.02)
        model.model.config.tie_word_embeddings = False
    return model


def adapted(base: Model, config: object) -> PeftModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = get_peft_model(copy.deepcopy(base.model), config).eval()  # type: ignore[arg-type]
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.2 * torch.randn(parameter.shape))
    return model


@torch.no_grad()
def logits(module: object, model: Model) -> torch.Tensor:
    """One sequence at a time, by the model's own forward."""
    return torch.cat([module(input_ids=torch.tensor([e.tokens])).logits[0] for e in model.encode(people(3))])  # type: ignore[operator]


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    ("tied", "settings"),
    [*((True, settings) for settings in ON_EMBEDDINGS), *((False, settings) for settings in UNTIED)],
    ids=str,
)
def test_merging_changes_nothing_but_rounding(tmp_path: Path, tied: bool, settings: dict[str, object]) -> None:
    base = base_model(tied=tied)
    model = adapted(base, LoraConfig(**{**PLAIN, **settings}))
    expected, before = logits(model, base), weights(model)
    merged = merge_adapter(replace(base, model=model), keep=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(model).items()), "the adapter's is kept"
    assert (logits(merged.model, base) - expected).abs().max() < 1e-5
    assert (logits(base.model, base) - expected).abs().max() > 1e-2
    save_model(merged, tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert (logits(plain, base) - expected).abs().max() < 1e-5
    assert (logits(load_model(tmp_path / "merged", device="cpu").model, base) - expected).abs().max() < 1e-5


def test_embeddings_stay_tied_where_the_adapter_leaves_them_alone() -> None:
    base = base_model(tied=True)
    merged = merge_adapter(replace(base, model=adapted(base, LoraConfig(**PLAIN))))
    assert merged.model.config.tie_word_embeddings
    assert merged.model.lm_head.weight is merged.model.model.embed_tokens.weight


def test_replicated_layers_are_merged_each_for_itself(tmp_path: Path) -> None:
    """They share the base's weights, and each has an adapter of its own."""
    base = base_model(tied=True)
    model = adapted(base, LoraConfig(**PLAIN, layer_replication=[[0, 2], [1, 2]]))
    expected = logits(model, base)
    merged = merge_adapter(replace(base, model=model))
    assert (logits(merged.model, base) - expected).abs().max() < 1e-5
    save_model(merged, tmp_path)
    assert (logits(AutoModelForCausalLM.from_pretrained(tmp_path).eval(), base) - expected).abs().max() < 1e-5


def test_what_peft_cannot_merge_is_refused_by_its_kind() -> None:
    base = base_model(tied=True)
    model = adapted(base, BeftConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    with pytest.raises(ModelError, match=r"kind BEFT cannot be merged .* can be scored"):
        merge_adapter(replace(base, model=model))


def test_training_merges_its_own_adapter_on_tied_embeddings_as_it_was_trained(tmp_path: Path) -> None:
    data = TrainingData(people(4)[:4], people(4)[4:])
    found = {}
    for save in ("adapter", "merged"):
        lora = LoraSettings(rank=4, targets="embed_tokens,q_proj", save=save)  # type: ignore[arg-type]
        settings = TrainingSettings(epochs=3, batch_size=2, lr=2e-2, lora=lora)
        found[save] = unlearn(base_model(tied=True), METHODS["gd"], data, settings).model
    base = base_model(tied=True)
    expected = logits(found["adapter"].model, base)
    assert (logits(base.model, base) - expected).abs().max() > 1e-2
    assert (logits(found["merged"].model, base) - expected).abs().max() < 1e-5
    save_model(found["merged"], tmp_path)
    assert (logits(load_model(tmp_path, device="cpu").model, base) - expected).abs().max() < 1e-5


@pytest.fixture
def tied(tmp_path: Path) -> Model:
    model = base_model(tied=True)
    save_model(model, tmp_path / "base")
    return model


def saved(base: Model, folder: Path, **settings: object) -> Path:
    model = adapted(base, LoraConfig(**{**PLAIN, **settings}))
    model.peft_config["default"].base_model_name_or_path = str(folder / "base")
    model.save_pretrained(folder / "adapter")
    return folder / "adapter"


def mixed_by_hand(base: Model, folder: Path, alpha: float) -> nn.Module:
    """(1 - alpha) original + alpha unlearned in weights that are not tied; the unlearned ones merged layer by layer."""
    unlearned = PeftModel.from_pretrained(copy.deepcopy(base.model), folder)
    head = unlearned.get_base_model().lm_head
    own = getattr(head, "base_layer", head)
    own.weight = nn.Parameter(own.weight.detach().clone())
    theirs = unlearned.merge_and_unload().state_dict()
    mixture = copy.deepcopy(base.model)
    mixture.lm_head.weight = nn.Parameter(mixture.lm_head.weight.detach().clone())
    with torch.no_grad():
        for name, tensor in mixture.state_dict().items():
            tensor.copy_((1 - alpha) * base.model.state_dict()[name] + alpha * theirs[name])
    return mixture


@pytest.mark.parametrize(
    ("settings", "mixer"),
    [
        ({"target_modules": ["embed_tokens", "q_proj"]}, AdapterMixer), ({"target_modules": ["lm_head"]}, AdapterMixer),
        ({"target_modules": ["embed_tokens", "q_proj"], "use_dora": True}, Mixer),
        ({"init_lora_weights": "pissa"}, Mixer), ({"init_lora_weights": "olora"}, Mixer),
        ({"init_lora_weights": "orthogonal"}, AdapterMixer),
    ],
    ids=str,
)  # fmt: skip
def test_an_adapter_on_tied_embeddings_is_mixed_as_it_computes(
    tied: Model, tmp_path: Path, settings: dict[str, object], mixer: type
) -> None:
    """At 0 the original, at 1 the adapter on it; never the update of one embedding in the other."""
    folder = saved(tied, tmp_path, **settings)
    require_mixable(tmp_path / "base", folder)
    mixing = open_mixing(tmp_path / "base", folder, device="cpu")
    assert type(mixing) is mixer
    mixing.mix(0.9).model.tie_weights()  # as lm-evaluation-harness does with what it measures
    at_the_end = {0.0: tied.model, 1.0: PeftModel.from_pretrained(copy.deepcopy(tied.model), folder).eval()}
    for alpha in (0.0, 0.37, 1.0):
        mixture = logits(mixing.mix(alpha).model, tied)
        assert (mixture - logits(mixed_by_hand(tied, folder, alpha), tied)).abs().max() < 1e-5
        if alpha in at_the_end:
            assert (mixture - logits(at_the_end[alpha], tied)).abs().max() < 1e-5


def test_an_adapter_that_brings_other_embeddings_is_more_than_its_scale(tied: Model, tmp_path: Path) -> None:
    """peft stores whole embeddings beside an adapter on them; they are the base's, unless someone trained them."""
    folder = saved(tied, tmp_path, target_modules=["embed_tokens", "q_proj"])
    path = folder / "adapter_model.safetensors"
    stored = load_file(path)
    (whole,) = [name for name in stored if "embed_tokens.base_layer" in name]
    assert isinstance(open_mixing(tmp_path / "base", folder, device="cpu"), AdapterMixer)
    save_file({**stored, whole: stored[whole] + 0.1}, path)
    expected = logits(PeftModel.from_pretrained(copy.deepcopy(tied.model), folder).eval(), tied)
    mixing = open_mixing(tmp_path / "base", folder, device="cpu")
    assert isinstance(mixing, Mixer)
    assert (logits(mixing.mix(1.0).model, tied) - expected).abs().max() < 1e-5
    assert (logits(mixing.mix(0.0).model, tied) - logits(tied.model, tied)).abs().max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("untied", ["original", "unlearned"])
@pytest.mark.parametrize("stored", ["configuration", "values"])
def test_a_tied_and_an_untied_checkpoint_are_mixed_untied(tmp_path: Path, untied: str, stored: str) -> None:
    """Untied by its configuration, or by two values in its files, which transformers reads as two weights."""
    models = {name: tiny_model(seed=seed) for seed, name in enumerate(("original", "unlearned"))}
    head = models[untied].model.lm_head
    head.weight = nn.Parameter(head.weight.detach() + 0.05)
    models[untied].model.config.tie_word_embeddings = stored == "values"
    for name, model in models.items():
        save_model(model, tmp_path / name)
        assert (logits(load_model(tmp_path / name, device="cpu").model, model) == logits(model.model, model)).all()
    require_mixable(tmp_path / "original", tmp_path / "unlearned")
    mixing = open_mixing(tmp_path / "original", tmp_path / "unlearned", device="cpu")
    assert isinstance(mixing, StreamedMixer)
    for alpha in (0.3, 0.0, 1.0):
        mixed = mixing.mix(alpha)
        for name, tensor in mixed.model.state_dict().items():
            ours, theirs = (m.model.state_dict()[name] for m in models.values())
            assert torch.allclose(tensor, (1 - alpha) * ours + alpha * theirs, rtol=3e-7, atol=3e-8), name
        save_mixture(mixing, alpha, tmp_path / f"mixed-{alpha}")
        for plain in (
            AutoModelForCausalLM.from_pretrained(tmp_path / f"mixed-{alpha}").eval(),
            load_model(tmp_path / f"mixed-{alpha}", device="cpu").model,
        ):
            assert torch.equal(logits(plain, mixed), logits(mixed.model, mixed))
    in_memory = Mixer(models["original"], models["unlearned"]).mix(0.3)
    assert (logits(in_memory.model, in_memory) - logits(mixing.mix(0.3).model, in_memory)).abs().max() < 1e-5
