"""Adapters: attaching, training, merging, and their scale in mixtures."""

import copy
import hashlib
import json
import re
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from os.path import isdir
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from uwc import progress
from uwc.errors import ConfigError, ModelError, brief
from uwc.models.block_weights import BlockMatrix, block_matrices, few_tokens, linear_maps
from uwc.models.checkpoint_files import (
    ADAPTER,
    ADAPTER_WEIGHTS,
    CONFIG,
    SAVE_AS_SAFETENSORS,
    kind_of,
    local_file,
    read_json,
)
from uwc.models.head import head_of
from uwc.models.mixing import embedding_names, require_alpha, require_finite, say_untied, tied_embeddings
from uwc.models.model import Model
from uwc.models.placement import (
    add_to_weight,
    device_of,
    require_on_one_device,
    set_adapter,
    shares,
    tensor_of,
    unplaced,
)
from uwc.models.weights import WeightFiles, open_safetensors

_PROBED = 24
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest difference of the logits after merging, relative to the largest logit."""

_REFUSED, _REFUSED_IN = ("out_proj", "conv1d"), ("falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h")
"""Modules that peft refuses to adapt by type of model, as its fast kernels bypass their forward."""


def require_peft(what: str) -> None:
    """Raise ModelError if peft is not installed; `what` needs it."""
    if find_spec("peft") is None:
        raise ModelError(f"{what} needs peft; install it with: pip install 'uwc[lora]'")


def add_adapter(
    model: Model,
    *,
    rank: int = 8,
    alpha: float = 16.0,
    dropout: float = 0.0,
    targets: str = "all-linear",
    seed: int = 0,
) -> Model:
    """The same model with a low-rank adapter ``W + (alpha / rank) B A`` on its matrices; only A and B are trainable.

    B is zero, so that the model is unchanged before training. The adapter's base is the given model and shares
    its weights; `merge_adapter` returns a plain model.

    Args:
        model: the model.
        rank: rows of A and columns of B.
        alpha: scale of the update.
        dropout: on the adapter's input.
        targets: names of modules, comma-separated, or "all-linear": all linear maps of the text model except the output
            embedding, including fused experts. A note names those that peft cannot adapt, with their share.
        seed: of A.

    Raises:
        ModelError: peft is not installed.
        ConfigError: no module has such a name, or there are fused experts and a dropout, which peft cannot combine.
    """
    require_peft("an adapter")
    from peft import LoraConfig, get_peft_model

    def adapted(**chosen: Any) -> Any:
        config = LoraConfig(
            r=rank, lora_alpha=alpha, lora_dropout=dropout, task_type="CAUSAL_LM", bias="none", **chosen
        )
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*tie_word_embeddings")  # merge_adapter unties
            torch.manual_seed(seed)
            return get_peft_model(model.model, config).eval()

    if targets == "all-linear":
        return replace(model, model=_adapted_everywhere(model, adapted, dropout))
    try:
        return replace(model, model=adapted(target_modules=[name.strip() for name in targets.split(",")]))
    except ValueError as error:
        raise ConfigError(
            f"lora: targets = {targets!r}: {str(error).splitlines()[0]}; name modules of the model, or write all-linear"
        ) from None


def _adapted_everywhere(model: Model, adapted: Callable[..., Any], dropout: float) -> Any:
    """The model with an adapter on everything that peft can adapt; a note names the matrices left out."""
    module, matrices = model.model.eval(), block_matrices(model.model)
    listed = {f"{name}.weight": module for name, module in linear_maps(module).items()}
    users = Counter(id(m.weight) for m in listed.values())
    maps = {name: m for name, m in listed.items() if users[id(m.weight)] == 1}  # a shared weight would change others
    refused = _REFUSED if module.config.model_type in _REFUSED_IN else ()
    wanted = dict.fromkeys(_maps_of_text(module, maps))
    for matrix in matrices:
        shared = matrix.name in listed and matrix.name not in maps
        if matrix.called and not shared and matrix.name.split(".")[-2] not in refused:
            wanted[matrix.name] = None
        else:
            wanted.pop(matrix.name, None)
    if not set(wanted) <= set(maps):
        if dropout:
            raise ConfigError(
                f"lora: dropout = {dropout:g} does not go with the fused experts of {type(module).__name__}, to which "
                "peft gives an adapter without one; set lora.dropout to 0, or name the modules in lora.targets"
            )
        whole = adapted(target_modules=[], target_parameters=list(wanted))
        try:
            with torch.no_grad():
                whole(input_ids=few_tokens(module), use_cache=False)
            _tell_left_out(model, matrices, wanted)
            return whole
        except (AttributeError, TypeError, RuntimeError):  # a module reads another's parameters directly
            whole.unload()
    wanted = {name: None for name in wanted if name in maps}
    _tell_left_out(model, matrices, wanted)
    return adapted(target_modules=[name.removesuffix(".weight") for name in wanted])


def _maps_of_text(model: Any, maps: Mapping[str, nn.Module]) -> list[str]:
    """The names of the linear maps in the path of a text, except the output embedding."""
    called: set[nn.Module] = set()
    with ExitStack() as hooks, torch.no_grad():
        for module in maps.values():
            hooks.callback(module.register_forward_pre_hook(lambda module, _args: called.add(module)).remove)
        model(input_ids=few_tokens(model), use_cache=False)
    return [name for name, module in maps.items() if module in called and module is not head_of(model)]


def _tell_left_out(model: Model, matrices: Sequence[BlockMatrix], adapted: Iterable[str]) -> None:
    kept = set(adapted)
    left = [m for m in matrices if m.name not in kept]
    if left:
        share = sum(m.parameter.numel() for m in left) / sum(m.parameter.numel() for m in matrices)
        names = ", ".join(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", m.name) for m in left))
        progress.note(f"lora on {model.name}: peft cannot adapt {share:.1%} of the blocks' matrices: {names}")


def merge_adapter(model: Model, *, keep: bool = False) -> Model:
    """The plain model with the adapter's update added to its weights; its logits are equal up to rounding.

    If the adapter changes a weight that is shared between modules, each module first gets its own copy: tied embeddings
    are untied, also in the configuration. The logits of a few tokens are compared before and after. Into weights of a
    placed model that lie elsewhere the update is merged whenever they are read.

    Args:
        model: the model; a plain one is returned unchanged.
        keep: merge into a copy, and leave the adapter's base unchanged.

    Raises:
        ModelError: the adapter cannot be merged, or the merged model has other logits; or a placed model would be
            copied, or its embeddings changed.
    """
    if not has_adapter(model.model):
        return model
    placed = bool(shares(model.model))
    if keep:
        require_on_one_device(model.model, model.name, "merging an adapter into a copy")
    module = copy.deepcopy(model.model) if keep else model.model
    kind = str(module.active_peft_config.peft_type.value)
    before = _probe(module)
    if placed:
        _require_separate(module, model.name)
    else:
        _own_shared_weights(module)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of peft, about ties that are no more
            merged = (_merged_where_placed(module) if placed else module.merge_and_unload()).eval()
    except Exception as error:  # peft raises many kinds
        raise _unmergeable(model, kind, " ".join(str(error).split())[:120]) from error
    if merged.config.get_text_config().tie_word_embeddings and not (placed or tied_embeddings(merged)):
        say_untied(merged)
    for name, shared in {} if placed else merged.get_expanded_tied_weights_keys(all_submodels=True).items():
        if merged.get_parameter(name) is not merged.get_parameter(shared):
            raise _unmergeable(model, kind, f"it changes {name!r}, which {type(merged).__name__} ties to {shared!r}")
    after = _probe(merged)
    off, largest = float((after - before).abs().max()), float(before.abs().max())
    if bool(before.isfinite().all()) and not off <= _TOLERANCE.get(merged.dtype, 1e-4) * largest:
        raise _unmergeable(model, kind, f"the merged model's logits lie up to {off:.3g} away")
    return replace(model, model=merged)


def _require_separate(model: Any, name: str) -> None:
    """Raise ModelError if the adapter of a placed model changes an embedding, which may be shared."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    base = model.get_base_model()
    for end in (base.get_input_embeddings(), base.get_output_embeddings()):
        if isinstance(end, BaseTunerLayer):
            require_on_one_device(model, name, "merging an adapter that changes embeddings")


@torch.no_grad()
def _merged_where_placed(model: Any) -> Any:
    """The base of a plain LoRA model, with ``s B A`` added to its weights where they are, or as they are read."""
    from peft.tuners.lora import LoraLayer

    base = model.get_base_model()
    for name, layer in list(base.named_modules()):
        if isinstance(layer, LoraLayer):
            (adapter,) = layer.active_adapters
            add_to_weight(layer.get_base_layer(), partial(layer.get_delta_weight, adapter))
            parent, _, own = name.rpartition(".")
            setattr(base.get_submodule(parent), own, layer.get_base_layer())
    return base


def _unmergeable(model: Model, kind: str, reason: str) -> ModelError:
    return ModelError(
        f"{model.name}: an adapter of kind {kind} cannot be merged into its base ({reason}), which mixing, training "
        "and attacks need; it can be scored"
    )


@torch.no_grad()
def _probe(model: Any) -> Tensor:
    """[1, n, V] float32 logits for a few tokens, spread over the vocabulary."""
    size = model.config.get_text_config().vocab_size
    tokens = torch.linspace(0, size - 1, min(_PROBED, size)).long()[None].to(device_of(model))
    training = model.training
    logits: Tensor = model.eval()(input_ids=tokens, use_cache=False).logits.float()
    model.train(training)
    return logits


def _own_shared_weights(model: Any) -> None:
    """Give each module of a peft model's base its own copy of shared weights that an adapter changes, or that
    replicated layers share."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    changed: set[int] = set()
    for module in model.get_base_model().modules():
        if isinstance(module, BaseTunerLayer):
            changed |= {id(p) for p in module.get_base_layer().parameters()}
        if isinstance(module, AuxiliaryTrainingWrapper):
            changed |= {id(p) for p in module.original_module.parameters()}
        for name, parameter in module.named_parameters(recurse=False):
            owners.setdefault(id(parameter), []).append((module, name))
    if getattr(model.active_peft_config, "layer_replication", None):
        changed |= {key for key in owners if key != id(model.get_input_embeddings().weight)}
    for key, places in owners.items():
        for module, name in places[1:] if key in changed else ():
            shared = getattr(module, name)
            setattr(module, name, nn.Parameter(shared.detach().clone(), requires_grad=shared.requires_grad))


def has_adapter(model: Any) -> bool:
    """Whether the model has an adapter that can be disabled."""
    return hasattr(model, "disable_adapter") and hasattr(model, "active_peft_config")


@contextmanager
def adapter_off(model: Any) -> Iterator[Any]:
    """While open, the model without its adapter's update; a plain model is returned unchanged."""
    if not has_adapter(model):
        yield model
        return
    with model.disable_adapter():
        yield model


_SAMPLES, _SAMPLE_BYTES = 64, 1 << 16

_SCORED = (
    "ADALORA ADAMSS ADAPTION_PROMPT BEFT BOFT C3A DEFT DELORA FOURIERFT FROD GLORA GRALORA HIRA HRA IA3 LN_TUNING LOHA "
    "LOKR LORA MISS OFT OSF PEANUT PSOFT PVERA RANDLORA ROAD SHIRA SUPERTUNING TINYLORA TRAINABLE_TOKENS UNILORA "
    "VBLORA VERA WAVEFT"
)
SCORED_KINDS = frozenset(_SCORED.split())
"""peft's kinds of adapters for which a batch has the scores of single sequences."""
_REASONS = {
    "LILY": "it routes by averages over a whole batch",
    "POLY": "it needs a task for every question",
    "XLORA": "it mixes adapters in other folders",
    "SHADOW": "it runs a second network beside the model",
} | dict.fromkeys(
    ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE"),
    "it puts trained tokens before the question",
)
_TASKS = (None, "CAUSAL_LM", "FEATURE_EXTRACTION")
_INITS = (None, True, False, "gaussian", "orthogonal", "eva")
"""Initialisations of LoRA that do not change the base's weights."""
_PLAIN = (
    "peft_type peft_version task_type auto_mapping base_model_name_or_path revision inference_mode r lora_alpha "
    "lora_dropout target_modules exclude_modules bias fan_in_fan_out use_rslora init_lora_weights rank_pattern "
    "alpha_pattern layers_to_transform layers_pattern ensure_weight_tying megatron_core qalora_group_size"
)
_PLAIN_KEYS = frozenset(_PLAIN.split())
"""Settings of plain LoRA; with any other setting, mixing is not a scale of the adapter."""
_INSIDE = "base_model.model."


def adapter_config(path: str | Path) -> dict[str, Any] | None:
    """The content of the checkpoint's adapter_config.json; None if it is not an adapter.

    Raises:
        ModelError: it is damaged, or beside whole weights; see `kind_of`.
    """
    if kind_of(path) != "adapter":
        return None
    config = read_json(path, ADAPTER)
    if not isinstance(base := config.get("base_model_name_or_path"), str | None):
        raise ModelError(
            f"{path}: {ADAPTER} has base_model_name_or_path = {brief(str(base))}; write a folder or hub name"
        )
    return config


def is_scale_enough(config: dict[str, Any]) -> bool:
    """Whether the weights are linear in the adapter's scale, as for plain LoRA."""
    plain = config.get("bias", "none") == "none" and config.get("init_lora_weights") in _INITS
    return config.get("peft_type") == "LORA" and plain and not any(v for k, v in config.items() if k not in _PLAIN_KEYS)


def require_scored_kind(path: str | Path, config: dict[str, Any]) -> None:
    """Raise ModelError if an adapter is of a kind that cannot be scored exactly; the kind is named."""
    kind = str(config.get("peft_type")).rpartition(".")[2]
    initial = str(config.get("init_lora_weights", ""))
    reason = _REASONS.get(kind, "" if kind in SCORED_KINDS else "uwc does not know this kind")
    remedy = "give whole weights, or an adapter that changes the model's own layers, such as LORA"
    if kind == "LORA" and config.get("arrow_config"):
        kind, reason = "LORA with arrow_config", "it routes between adapters in other folders"
    if kind == "LORA" and initial.startswith("pissa_niter"):
        kind, reason = f"LORA with init_lora_weights {initial!r}", "its base is cut at random each time it is loaded"
        remedy = "save it as plain LoRA (path_initial_model_for_weight_conversion of peft)"
    if config.get("task_type") not in _TASKS:
        kind, reason = f"{kind} for the task {config['task_type']}", "uwc needs a causal language model"
        remedy = "give one of task CAUSAL_LM"
    if reason:
        raise ModelError(f"{path}: an adapter of kind {kind} cannot be scored ({reason}); {remedy}")


def named_base(path: str | Path, config: dict[str, Any]) -> str:
    """The base that an adapter's configuration names.

    Raises:
        ModelError: it names none, or one that is not found.
    """
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    give = f"write its folder or hub name as base_model_name_or_path into the adapter's {ADAPTER}"
    if not base:
        raise ModelError(f"{path}: the adapter does not name its base; {give}")
    if not isdir(base) and revision not in (None, "main"):
        raise ModelError(f"{path}: the adapter is for revision {revision} of {base}; fetch that revision, and {give}")
    try:
        found = isdir(base) or local_file(base, CONFIG) is not None
    except ModelError:
        found = False
    if not found:
        raise ModelError(
            f"{path}: the adapter is for {base}, which is neither a folder (seen from {Path.cwd()}) nor an available "
            f"model on the hub; {give}"
        )
    if kind_of(base) != "model":
        raise ModelError(f"{path}: its base {base} is not a whole model; merge that first, and {give}")
    return str(base)


def require_base(adapter: str | Path, config: dict[str, Any], original: str | Path) -> None:
    """Raise ModelError if an adapter was made for another base than the original.

    The base that the adapter's configuration names is the original if the names are equal, if both exist and have the
    same weights or, if that base is not on this machine, if the last parts of the names are equal.
    """
    base = config.get("base_model_name_or_path")
    if not base:
        progress.note(f"{adapter} does not name its base; {original} is used")
    if (revision := config.get("revision")) not in (None, "main") and not isdir(original):
        progress.note(f"{adapter} is for revision {revision} of its base; the main one of {original} is read")
    if not base or str(base) == str(original):
        return
    if isdir(base) and isdir(original):
        if Path(base).resolve() == Path(original).resolve() or _sampled(base) == _sampled(original):
            return
    elif not isdir(base) and Path(base).name.lower() == Path(original).name.lower():
        progress.note(f"{adapter} is for {base}, which is not here; {original} is taken for it by its name")
        return
    raise ModelError(
        f"{adapter} is an adapter for {base}, not for {original}; give its base as the original, or, if they are "
        f"the same model, write {original} as base_model_name_or_path into its {ADAPTER}"
    )


def require_adapter(path: str | Path, config: dict[str, Any]) -> None:
    """Raise ModelError if an adapter is of a kind that cannot be scored, or its weights are damaged."""
    require_scored_kind(path, config)
    _weights(path)


def _weights(path: str | Path) -> Any:
    """The opened file of an adapter's weights."""
    file = local_file(path, ADAPTER_WEIGHTS)
    if file is None:
        raise ModelError(f"{path}: the adapter has no {ADAPTER_WEIGHTS}; {SAVE_AS_SAFETENSORS}")
    return open_safetensors(file)


def _sampled(path: str | Path) -> str:
    """A hash of samples of the checkpoint's weights, spread over its files."""
    digest = hashlib.sha256()
    for name in WeightFiles(path).files:
        file = local_file(path, name)
        if file is None:
            continue
        size = file.stat().st_size
        with file.open("rb") as stream:
            for i in range(_SAMPLES):
                stream.seek(size * i // _SAMPLES)
                digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def attach_adapter(base: Model, path: str | Path) -> Model:
    """The base with the adapter on it, as a peft model that shares the base's weights.

    The matrices of a plain LoRA adapter on a base that is placed over several devices are on the devices that compute.

    Raises:
        ModelError: peft is not installed, the kind cannot be scored, or not on a placed base, or the adapter does not
            fit this model (other shapes, missing or unexpected tensors).
    """
    require_peft(f"{path} is an adapter, which")
    from peft import PeftModel

    config = read_json(path, ADAPTER)
    require_adapter(path, config)
    _require_known_settings(path, config)
    if not is_scale_enough(config):
        require_on_one_device(base.model, base.name, f"the adapter {path}, which is more than plain LoRA,")
    require_same_vocabulary(base.model, path, base=base.name)
    try:
        with unplaced(base.model), torch.random.fork_rng(devices=[]), warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            model = PeftModel.from_pretrained(base.model, str(path))
            mapping = getattr(base.model, "_checkpoint_conversion_mapping", {})
            unread = model.load_adapter(str(path), "default", key_mapping=mapping).unexpected_keys
    except ImportError as error:  # some kinds need further packages
        raise ModelError(f"{path}: {' '.join(str(error).split())}") from error
    except Exception as error:  # peft, safetensors and torch raise many kinds
        raise _unfit(base, path, " ".join(str(error).split())) from error
    lacking = [m for m in (re.search(r"missing adapter keys.*?\['(.*?)'", str(w.message)) for w in told) if m]
    if lacking:
        raise _unfit(base, path, f"its file has no tensor {lacking[0][1]!r}")
    if unread:
        raise _unfit(base, path, f"its file holds {unread[0]!r}, for which the model has no place")
    if shares(base.model):
        stored = _weights(path)
        set_adapter(model, lambda name: stored.get_tensor(re.sub(r"\.default\b", "", name)))
    return replace(base, model=model.eval(), name=Path(path).name, batching=None)


def _require_known_settings(path: str | Path, config: dict[str, Any]) -> None:
    """Raise ModelError if an adapter has a setting that this version of peft would ignore."""
    from peft import PeftType
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    known = {field.name for field in fields(PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(config["peft_type"])])}
    for name in sorted(name for name, value in config.items() if value and name not in known):
        raise ModelError(
            f"{path}: the installed peft {version('peft')} does not know {name!r} of {ADAPTER}, written by peft "
            f"{config.get('peft_version') or 'of another version'}; install that one"
        )


def _unfit(base: Model, path: str | Path, reason: str) -> ModelError:
    sizes = re.search(r"size mismatch for (\S+): .*?Size\((\[.*?\])\).*?Size\((\[.*?\])\)", reason)
    if sizes:
        reason = f"{sizes[1]} is {sizes[2]} in its file and {sizes[3]} with this base"
    return ModelError(
        f"the adapter {path} does not fit the model {base.name}: {reason[:200]}; give the base that it was trained on"
    )


def _stored_base_weights(model: Any, path: str | Path) -> Iterator[tuple[str, Any]]:
    """Names and file slices of the base model's tensors that are also in an adapter's file."""
    stored = _weights(path)
    state = set(model.state_dict())
    for key in stored.keys():  # noqa: SIM118 - a file, not a dict
        name = key.removeprefix(_INSIDE).replace(".base_layer.", ".")
        if key.startswith(_INSIDE) and name in state:
            yield name, stored.get_slice(key)


def require_same_vocabulary(model: Any, path: str | Path, *, base: str) -> None:
    """Raise ModelError if an adapter was trained on a base whose embeddings had been resized; both sizes are named.

    Args:
        model: its base; may be on the meta device.
        path: the adapter.
        base: name of the base in messages.
    """
    ends = [name for name in embedding_names(model) if name.endswith(".weight")]
    state, stored = model.state_dict(), _weights(path)
    sizes = {name: (tensor.get_shape()[0], state[name].shape[0]) for name, tensor in _stored_base_weights(model, path)}
    for name in ends:
        inside = f"{_INSIDE}{name.removesuffix('weight')}"
        for key, axis in ((f"{inside}lora_embedding_A", 1), (f"{inside}lora_B.weight", 0)):
            if key in stored.keys():  # noqa: SIM118
                sizes.setdefault(name, (stored.get_slice(key).get_shape()[axis], state[name].shape[0]))
    for name in ends:
        theirs, ours = sizes.get(name, (0, 0))
        if theirs != ours:
            raise ModelError(
                f"{path}: the adapter has embeddings for {theirs} tokens, its base {base} for {ours}; merge it as "
                f"it was trained, into the base resized to {theirs} tokens, and give the merged model"
            )


def keeps_base(base: Model, path: str | Path) -> bool:
    """Whether the base's tensors in an adapter's file equal those of this base."""
    pairs = ((_whole(tensor), tensor_of(base.model, name)) for name, tensor in _stored_base_weights(base.model, path))
    return all(torch.equal(stored.to(own.dtype), own.cpu()) for stored, own in pairs)


def _whole(stored: Any) -> Tensor:
    tensor: Tensor = stored[:]
    return tensor


class AdapterMixer:
    """Mixes an original and its plain LoRA adapter by the adapter's scale, without a copy.

    ``(1 - alpha) W + alpha (W + s B A) = W + alpha s B A``.

    Args:
        original: the model before unlearning; the adapter is attached to it.
        path: the adapter's folder or hub name; see `is_scale_enough` and `keeps_base`.

    Raises:
        ModelError: peft is not installed, the adapter does not fit this model, or a weight is not finite.
    """

    def __init__(self, original: Model, path: str | Path) -> None:
        self.path, tied = path, tied_embeddings(original.model)
        ends = [original.model.get_input_embeddings(), original.model.get_output_embeddings()]
        self.original = replace(attach_adapter(original, path), name=original.name)
        if tied and ends != [original.model.get_input_embeddings(), original.model.get_output_embeddings()]:
            say_untied(original.model)
        for name, _ in self.original.model.named_parameters():
            weight = tensor_of(self.original.model, name).detach()
            require_finite(name, weight, model=str(path) if "lora_" in name else original.name)
        self._layers = [m for m in self.original.model.modules() if hasattr(m, "set_scale") and hasattr(m, "scaling")]

    def mix(self, alpha: float) -> Model:
        """The original with alpha times the adapter. Raises ValueError if alpha is outside 0..1."""
        require_alpha(alpha)
        for layer in self._layers:
            for adapter in layer.scaling:
                layer.set_scale(adapter, alpha)
        return self.original


def save_scaled(path: str | Path, folder: Path, alpha: float) -> None:
    """Write the adapter with alpha times its scale; its weights are copied unchanged.

    Raises:
        ModelError: the adapter's files are missing.
    """
    config, weights = adapter_config(path), local_file(path, ADAPTER_WEIGHTS)
    if config is None or weights is None:
        raise ModelError(f"{path}: the adapter needs {ADAPTER} and {ADAPTER_WEIGHTS}; fetch or save it again")
    config["lora_alpha"] = alpha * config["lora_alpha"]
    config["alpha_pattern"] = {name: alpha * value for name, value in (config.get("alpha_pattern") or {}).items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ADAPTER).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(weights, folder / ADAPTER_WEIGHTS)
