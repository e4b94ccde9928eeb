"""Adapters in folders of their own, as peft writes them: loaded onto their base, scaled, and saved scaled."""

import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uwc import progress
from uwc.errors import ModelError
from uwc.models.checkpoint_files import ADAPTER, ADAPTER_WEIGHTS, CONFIG, kind_of, local_file, read_json
from uwc.models.mixing import require_alpha, require_finite
from uwc.models.target import Target
from uwc.models.ties import embedding_names, say_untied, tied_embeddings
from uwc.models.weight_files import WeightFiles, open_safetensors

_SAMPLES, _SAMPLE_BYTES = 64, 1 << 16

_SCORED = (
    "ADALORA ADAMSS ADAPTION_PROMPT BEFT BOFT C3A DEFT DELORA FOURIERFT FROD GLORA GRALORA HIRA HRA IA3 LN_TUNING LOHA "
    "LOKR LORA MISS OFT OSF PEANUT PSOFT PVERA RANDLORA ROAD SHIRA SUPERTUNING TINYLORA TRAINABLE_TOKENS UNILORA "
    "VBLORA VERA WAVEFT"
)
SCORED_KINDS = frozenset(_SCORED.split())
"""peft's kinds of adapters that score, batch by batch, what plain peft gives for one sequence at a time."""
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
"""Initialisations of LoRA that leave the base's own weights as they are."""
_PLAIN = (
    "peft_type peft_version task_type auto_mapping base_model_name_or_path revision inference_mode r lora_alpha "
    "lora_dropout target_modules exclude_modules bias fan_in_fan_out use_rslora init_lora_weights rank_pattern "
    "alpha_pattern layers_to_transform layers_pattern ensure_weight_tying megatron_core qalora_group_size"
)
_PLAIN_KEYS = frozenset(_PLAIN.split())
"""What plain LoRA's configuration says; anything else that is set makes it more than a scale."""
_INSIDE = "base_model.model."


def adapter_config(path: str | Path) -> dict[str, Any] | None:
    """What the checkpoint's adapter_config.json says; None if it is not an adapter.

    Raises:
        ModelError: it is damaged, or beside whole weights; see `kind_of`.
    """
    return read_json(path, ADAPTER) if kind_of(path) == "adapter" else None


def is_scale_enough(config: dict[str, Any]) -> bool:
    """Whether the weights with the adapter move on a straight line from the base's with its scale: plain LoRA."""
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
        ModelError: it names none, or one that is not found; the line says how to give it.
    """
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    give = f"write its folder or hub name as base_model_name_or_path into the adapter's {ADAPTER}"
    if not base:
        raise ModelError(f"{path}: the adapter does not say which base it is for; {give}")
    if not Path(base).is_dir() and revision not in (None, "main"):
        raise ModelError(f"{path}: the adapter is for revision {revision} of {base}; fetch that revision, and {give}")
    try:
        found = Path(base).is_dir() or local_file(base, CONFIG) is not None
    except ModelError:
        found = False
    if not found:
        raise ModelError(
            f"{path}: the adapter is for {base}, which is neither a folder (seen from {Path.cwd()}) nor a model that "
            f"the hub gives; {give}"
        )
    if kind_of(base) != "model":
        raise ModelError(f"{path}: its base {base} is no whole model; merge that first, and {give}")
    return str(base)


def require_base(adapter: str | Path, config: dict[str, Any], original: str | Path) -> None:
    """Raise ModelError if an adapter was made for another base than the original.

    The base is the one that the adapter's configuration names: it is the original if the names are the same, or if
    both are there and hold the same weights, or, where that base is not on this machine, if the last parts of the names
    are the same.
    """
    base = config.get("base_model_name_or_path")
    if not base:
        progress.note(f"{adapter} does not say which base it is for; {original} is taken for it")
    if not base or str(base) == str(original):
        return
    if Path(base).is_dir() and Path(original).is_dir():
        if Path(base).resolve() == Path(original).resolve() or _sampled(base) == _sampled(original):
            return
    elif not Path(base).is_dir() and Path(base).name.lower() == Path(original).name.lower():
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
    """The open file of an adapter's weights."""
    file = local_file(path, ADAPTER_WEIGHTS)
    if file is None:
        raise ModelError(f"{path}: the adapter has no {ADAPTER_WEIGHTS}; uwc reads weights in this format only")
    return open_safetensors(file)


def _sampled(path: str | Path) -> str:
    """A hash of the checkpoint's weights from samples spread over its files; fine-tuning changes every one of them."""
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


def attach_adapter(base: Target, path: str | Path) -> Target:
    """The base with the adapter on it, as a peft model that shares the base's weights.

    Raises:
        ModelError: peft is not installed, the kind cannot be scored, or the adapter does not fit this model: other
            sizes, tensors missing or without a place.
    """
    try:
        from peft import PeftModel
    except ImportError:
        raise ModelError(f"{path} is an adapter, which needs peft; install it with: pip install peft") from None
    require_adapter(path, read_json(path, ADAPTER))
    require_same_vocabulary(base.model, path, base=base.name)
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            model = PeftModel.from_pretrained(base.model, str(path))
            mapping = getattr(base.model, "_checkpoint_conversion_mapping", {})
            unread = model.load_adapter(str(path), "default", key_mapping=mapping).unexpected_keys
    except ImportError as error:  # some kinds need packages of their own
        raise ModelError(f"{path}: {' '.join(str(error).split())}") from error
    except Exception as error:  # peft, safetensors and torch raise many kinds
        raise _unfit(base, path, " ".join(str(error).split())) from error
    lacking = [m for m in (re.search(r"missing adapter keys.*?\['(.*?)'", str(w.message)) for w in told) if m]
    if lacking:
        raise _unfit(base, path, f"its file has no tensor {lacking[0][1]!r}")
    if unread:
        raise _unfit(base, path, f"its file holds {unread[0]!r}, for which the model has no place")
    return replace(base, model=model.eval(), name=Path(path).name, batching=None)


def _unfit(base: Target, path: str | Path, reason: str) -> ModelError:
    sizes = re.search(r"size mismatch for (\S+): .*?Size\((\[.*?\])\).*?Size\((\[.*?\])\)", reason)
    if sizes:
        reason = f"{sizes[1]} is {sizes[2]} in its file and {sizes[3]} with this base"
    return ModelError(f"the adapter {path} does not fit the model {base.name}: {reason[:200]}")


def _stored_base_weights(model: Any, path: str | Path) -> Iterator[tuple[str, Any]]:
    """The base model's own tensors that an adapter's file holds too: their names, and the slices of the file."""
    stored = _weights(path)
    state = set(model.state_dict())
    for key in stored.keys():  # noqa: SIM118 - a file, not a dict
        name = key.removeprefix(_INSIDE).replace(".base_layer.", ".")
        if key.startswith(_INSIDE) and name in state:
            yield name, stored.get_slice(key)


def require_same_vocabulary(model: Any, path: str | Path, *, base: str) -> None:
    """Raise ModelError if an adapter was trained on a base whose embeddings had been resized; both sizes are named.

    Args:
        model: its base; on the meta device is enough.
        path: the adapter.
        base: what messages call the base.
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


def keeps_base(base: Target, path: str | Path) -> bool:
    """Whether the base's own tensors that an adapter's file holds are those of this base."""
    state = base.model.state_dict()
    return all(
        torch.equal(_whole(tensor).to(state[name].dtype), state[name].cpu())
        for name, tensor in _stored_base_weights(base.model, path)
    )


def _whole(stored: Any) -> Tensor:
    tensor: Tensor = stored[:]
    return tensor


class AdapterMixer:
    """Mixing an original and its plain LoRA adapter by the adapter's scale: nothing is copied or read again.

    ``(1 - alpha) W + alpha (W + s B A) = W + alpha s B A``.

    Args:
        original: the model before unlearning; the adapter is put into it.
        path: the adapter's folder or hub name; see `is_scale_enough` and `keeps_base`.

    Raises:
        ModelError: peft is not installed, the adapter does not fit this model, or a weight is not finite.
    """

    def __init__(self, original: Target, path: str | Path) -> None:
        self.path, tied = path, tied_embeddings(original.model)
        ends = [original.model.get_input_embeddings(), original.model.get_output_embeddings()]
        self.original = replace(attach_adapter(original, path), name=original.name)
        if tied and ends != [original.model.get_input_embeddings(), original.model.get_output_embeddings()]:
            say_untied(original.model)
        for name, weight in self.original.model.named_parameters():
            require_finite(name, weight.detach(), model=str(path) if "lora_" in name else original.name)
        self._layers = [m for m in self.original.model.modules() if hasattr(m, "set_scale") and hasattr(m, "scaling")]

    def mix(self, alpha: float) -> Target:
        """The original with alpha times the adapter. Raises ValueError if alpha is outside 0..1."""
        require_alpha(alpha)
        for layer in self._layers:
            for adapter in layer.scaling:
                layer.set_scale(adapter, alpha)
        return self.original


def save_scaled(path: str | Path, folder: Path, alpha: float) -> None:
    """Write the adapter with alpha times its scale; its weights are copied as they are.

    Raises:
        ModelError: the adapter's files are not there.
    """
    config, weights = adapter_config(path), local_file(path, ADAPTER_WEIGHTS)
    if config is None or weights is None:
        raise ModelError(f"{path}: the adapter needs {ADAPTER} and {ADAPTER_WEIGHTS}")
    config["lora_alpha"] = alpha * config["lora_alpha"]
    config["alpha_pattern"] = {name: alpha * value for name, value in (config.get("alpha_pattern") or {}).items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ADAPTER).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(weights, folder / ADAPTER_WEIGHTS)
