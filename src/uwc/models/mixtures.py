"""Pairs of an original and an unlearned checkpoint: checks, choice of a mixer, and saving of mixtures."""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig

from uwc import progress
from uwc.errors import ModelError, reporting_full_disk
from uwc.models.adapters import (
    AdapterMixer,
    adapter_config,
    attach_adapter,
    is_scale_enough,
    keeps_base,
    merge_adapter,
    require_adapter,
    require_base,
    require_same_vocabulary,
    save_scaled,
)
from uwc.models.checkpoint_files import (
    INDEX,
    SINGLE,
    kind_of,
    model_config,
    require_tokenizer_config,
)
from uwc.models.load import load_model, require_no_model, save_model, share_weights, unloaded
from uwc.models.mixing import Mixer, Mixing, mix_tensor
from uwc.models.model import Model
from uwc.models.quantised import REMEDY
from uwc.models.reading import Reading, compare_readings, load_both
from uwc.models.weights import StoredOtherwise, StreamedMixer, WeightFiles, pair_weights

_NOT_COMPUTED = (
    "architectures auto_map bos_token_id eos_token_id pad_token_id sep_token_id decoder_start_token_id dtype use_cache "
    "transformers_version transformers_weights id2label label2id problem_type return_dict output_hidden_states "
    "output_attentions output_router_logits router_aux_loss_coef max_position_embeddings tie_word_embeddings "
    "pretraining_tp gradient_checkpointing chunk_size_feed_forward is_encoder_decoder task_specific_params "
    "summary_activation summary_first_dropout summary_proj_to_labels summary_type summary_use_proj use_mamba_kernels"
)
_ONLY_IN_TRAINING = re.compile(r"drop|(^|_)init|^_")
"""Keys of a configuration that do not affect what is computed from the weights; tied embeddings are seen in the
files."""


def open_mixing(
    original: str | Path, unlearned: str | Path, *, shared: Callable[[], Model] | None = None, **loading: Any
) -> Mixing:
    """The mixer of two checkpoints, which are checked from their files before any weight is read.

    A plain LoRA adapter is mixed by its scale; two checkpoints are streamed into one loaded model. If transformers
    converts weights on loading, or the adapter is not plain LoRA, both models are loaded.

    Args:
        original: the model before unlearning, a folder or hub name.
        unlearned: the model after it, or an adapter on the original.
        shared: returns the loaded original, which is not changed; loads it by default.
        loading: options of `load_model`.

    Raises:
        ModelError: the two cannot be mixed.
    """
    trust, dequantize = bool(loading.get("trust_remote_code", False)), bool(loading.get("dequantize", False))
    require_whole(original)
    adapter = adapter_config(unlearned)
    config = _config(original, trust, dequantize)
    shared = shared or (lambda: load_model(original, **loading))
    if adapter is not None:
        _require_mixable_adapter(unlearned, adapter, original)
        _compare_readings(original, unlearned, trust)
        base = load_model(original, **loading)
        if is_scale_enough(adapter) and keeps_base(base, unlearned):
            return AdapterMixer(base, unlearned)
        progress.note(f"{unlearned}: more than a plain LoRA adapter; merged into a second copy of the model")
        return Mixer(shared(), replace(merge_adapter(attach_adapter(base, unlearned)), name=base.name))
    theirs = _config(unlearned, trust, dequantize)
    _require_same_kind(original, config, unlearned, theirs)
    _compare_readings(original, unlearned, trust)
    files = WeightFiles(original), WeightFiles(unlearned)
    try:
        _require_plain(original, config)
        _require_plain(unlearned, theirs)
        return StreamedMixer(load_model(original, **loading), *files, ties=(_ties(config), _ties(theirs)))
    except StoredOtherwise as error:
        progress.note(f"{error}; both models are loaded to be mixed")
        kept = shared()
        return Mixer(kept, load_model(unlearned, reading=Reading.of(kept), **loading))


def require_mixable(
    original: str | Path, unlearned: str | Path, *, trust_remote_code: bool = False, dequantize: bool = False
) -> None:
    """Raise ModelError if two checkpoints cannot be mixed, from their files without reading weights."""
    require_whole(original)
    adapter, config = adapter_config(unlearned), _config(original, trust_remote_code, dequantize)
    if adapter is not None:
        _require_mixable_adapter(unlearned, adapter, original)
        require_same_vocabulary(unloaded(config, trust_remote_code), unlearned, base=str(original))
        _compare_readings(original, unlearned, trust_remote_code)
        return
    theirs = _config(unlearned, trust_remote_code, dequantize)
    _require_same_kind(original, config, unlearned, theirs)
    _compare_readings(original, unlearned, trust_remote_code)
    with suppress(StoredOtherwise):
        _require_plain(original, config)
        _require_plain(unlearned, theirs)
        model = unloaded(config, trust_remote_code)
        pair_weights(model, WeightFiles(original), WeightFiles(unlearned), ties=(_ties(config), _ties(theirs)))


def require_whole(original: str | Path) -> None:
    """Raise ModelError if the original is an adapter, whose weights cannot be mixed or trained."""
    if kind_of(original) == "adapter":
        raise ModelError(f"{original} is an adapter; merge it into its base, and give that as the original")


def _require_mixable_adapter(path: str | Path, config: dict[str, Any], original: str | Path) -> None:
    require_base(path, config, original)
    require_adapter(path, config)
    require_tokenizer_config(path)
    if config.get("layer_replication"):
        raise ModelError(
            f"{path}: with layer_replication the adapter makes another architecture, which cannot be mixed; it can be "
            "scored (uwc score)"
        )


def _ties(config: Any) -> bool:
    """Whether a configuration ties the embeddings."""
    return bool(config.tie_word_embeddings or getattr(config.get_text_config(), "tie_word_embeddings", False))


def _require_plain(path: str | Path, config: Any) -> None:
    """Raise StoredOtherwise if a checkpoint's files hold packed weights."""
    if _is_packed(config):
        raise StoredOtherwise(f"{path} is stored quantised")


def _is_packed(config: Any) -> bool:
    return bool(getattr(config, "quantization_config", None))


def _config(path: str | Path, trust: bool, dequantize: bool) -> Any:
    require_tokenizer_config(path)
    if kind_of(path) == "contrast":
        raise ModelError(
            f"{path} is a contrast of two models, which has no single set of weights to mix; it can be scored (uwc "
            "score)"
        )
    config = model_config(path, trust_remote_code=trust)
    if _is_packed(config) and not dequantize:
        raise ModelError(f"{path} is quantised; to mix it, {REMEDY}")
    return config


def _require_same_kind(original: str | Path, ours: Any, unlearned: str | Path, theirs: Any) -> None:
    """Raise ModelError if two configurations differ in a way that names and shapes of weights do not show."""
    first, second = (config.get_text_config() for config in (ours, theirs))
    for what in ("model_type", "num_hidden_layers", *_known(first)):
        if what in _NOT_COMPUTED.split() or _ONLY_IN_TRAINING.search(what):
            continue
        one, other = (getattr(config, what, None) for config in (first, second))
        if one == other:
            continue
        how = f"{what} is {one} in one and {other} in the other"
        if what == "vocab_size":
            how = f"{original} has embeddings for {one} tokens, {unlearned} for {other}, by their config.json"
        raise ModelError(
            f"{original} and {unlearned} have different architectures: {how}; mixing needs two checkpoints of one model"
        )


def _known(config: Any) -> list[str]:
    """The keys of a configuration that its class defines; others are ignored."""
    try:
        return list(type(config)().to_dict())
    except Exception:  # remote code may need arguments
        return list(config.to_dict())


def _compare_readings(original: str | Path, unlearned: str | Path, trust: bool) -> None:
    """Compare the readings of two checkpoints (see `compare_readings`), the unlearned one's only if it has a
    tokenizer."""
    ours, theirs = load_both(original, unlearned, trust_remote_code=trust)
    if theirs is None:
        if adapter_config(unlearned) is None:
            progress.note(f"{unlearned} has no tokenizer of its own that can be read; {original}'s is used")
        return
    compare_readings(theirs, ours)


def require_free(mixing: Mixing, folder: Path, *, overwrite: bool) -> None:
    """Raise ModelError if the folder is one of the two models, or has a model that must not be replaced."""
    if isinstance(mixing, StreamedMixer):
        sources = [mixing.original.path, mixing.unlearned.path]
    else:
        sources = [str(mixing.path)] if isinstance(mixing, AdapterMixer) else []
    if any(Path(source).resolve() == folder.resolve() for source in sources):
        raise ModelError(f"--save {folder}: this is one of the models that are mixed; give another folder")
    require_no_model(folder, overwrite=overwrite)


def _file_names(mixing: StreamedMixer) -> dict[str, str]:
    """The original's file -> the mixture's, such that transformers reads it."""
    files = mixing.original.files
    return dict.fromkeys(files, SINGLE) if mixing.original.index is None else {f: f.replace("/", "-") for f in files}


def save_mixture(mixing: Mixing, alpha: float, folder: Path) -> None:
    """Write the mixture: the original's shards, configuration and tokenizer with mixed weights; or a scaled adapter.

    Args:
        mixing: the mixer, set to `alpha`.
        alpha: the mixture.
        folder: the folder to write to; see `require_free`.

    Raises:
        DiskFull: no space is left.
    """
    with reporting_full_disk(folder):
        if isinstance(mixing, StreamedMixer):
            folder.mkdir(parents=True, exist_ok=True)
            _save_streamed(mixing, alpha, folder)
            share_weights(folder)
        elif isinstance(mixing, AdapterMixer):
            save_scaled(mixing.path, folder, alpha)
            mixing.original.tokenizer.save_pretrained(folder)
        else:
            save_model(mixing.mix(alpha), folder)


@torch.no_grad()
def _save_streamed(mixing: StreamedMixer, alpha: float, folder: Path) -> None:
    where: dict[str, str] = {}
    size = 0
    dtypes: dict[torch.dtype, int] = {}
    files = _file_names(mixing)
    for number, (source, file) in enumerate(files.items(), start=1):
        shard = {name: _stored(mixing, name, alpha) for name in mixing.original.files[source]}
        if number == len(files):
            shard |= {name: _mixed(mixing, name, alpha) for name in _untied(mixing)}
        save_file(_apart(shard), folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(shard, file)
        for tensor in shard.values():
            size += tensor.nbytes
            dtypes[tensor.dtype] = dtypes.get(tensor.dtype, 0) + tensor.numel()
    if set(files.values()) != {SINGLE}:
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(where.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    _save_beside(mixing, max(dtypes, key=lambda d: dtypes[d]), folder)


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without shared memory, as there is if one of the models has tied embeddings."""
    first: dict[int, str] = {}
    for name, tensor in tensors.items():
        first.setdefault(tensor.data_ptr(), name)
    return {name: t if first[t.data_ptr()] == name else t.clone() for name, t in tensors.items()}


def _stored(mixing: StreamedMixer, name: str, alpha: float) -> Tensor:
    """A tensor of the original's files, mixed, in the smallest type that holds both models'."""
    read_by = mixing.pairing.names.get(name)
    return mixing.original.read(name) if read_by is None else _mixed(mixing, read_by, alpha)


def _mixed(mixing: StreamedMixer, name: str, alpha: float) -> Tensor:
    """A tensor of the model."""
    ours, theirs = mixing.pairing.tensors[name]
    return mix_tensor(mixing.original.read(ours), mixing.unlearned.read(theirs), alpha).contiguous()


def _untied(mixing: StreamedMixer) -> list[str]:
    """The mixture's tensors that are not in the original's files: an embedding that is no longer tied."""
    return sorted(set(mixing.pairing.tensors) - set(mixing.pairing.names.values()))


def _save_beside(mixing: StreamedMixer, dtype: torch.dtype, folder: Path) -> None:
    """Write the original's configuration, with the type of the weights, and the tokenizer."""
    model, source = mixing.working.model, mixing.original.path
    config: Any = AutoConfig.from_pretrained(source, trust_remote_code=True) if _is_own(model) else None
    config = config or AutoConfig.from_pretrained(source)
    config.dtype = dtype
    if config.tie_word_embeddings and not model.config.tie_word_embeddings:
        config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = False
    config.save_pretrained(folder)
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.save_pretrained(folder)
    mixing.working.tokenizer.save_pretrained(folder)
    for code in Path(source).glob("*.py"):
        (folder / code.name).write_bytes(code.read_bytes())


def _is_own(model: Any) -> bool:
    """Whether the model's class came with the checkpoint, and was trusted when it was loaded."""
    return type(model).__module__.startswith("transformers_modules")
