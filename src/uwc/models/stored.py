"""The correspondence between tensors in a checkpoint's files and in the model, by the rules of transformers."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

from uwc import progress
from uwc.errors import ModelError
from uwc.models.ties import embedding_names, say_untied, tied_embeddings, tied_groups
from uwc.models.weight_files import WeightFiles

_CONSTANTS = re.compile(r"rotary_emb\.(inv_freq|cos_cached|sin_cached)$")
_MASKS = re.compile(r"(^|\.)(attn|attention|self_attn|self_attention)\.(masked_)?bias$")
"""Causal masks in old checkpoints: of no or four axes, unlike a bias of a linear map."""
_IN_A_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block|layer)\.(\d+)\.")
_FLOATS = ("F64", "F32", "F16", "BF16")
_SHOWN = 3


@dataclass(frozen=True)
class Stored:
    """A checkpoint's tensors as tensors of a model.

    Attributes:
        names: the model's tensor -> its name in the files.
        converted: tensors of the files that transformers concatenates, splits or transposes on loading.
        surplus: tensors of the files that the model does not have.
        constants: transformers' names of tensors that are ignored on purpose: masks, frequencies, further heads.
    """

    names: Mapping[str, str]
    converted: tuple[str, ...]
    surplus: tuple[str, ...]
    constants: frozenset[str]


def stored_in(model: Any, files: WeightFiles) -> Stored:
    """Match the names in the files with the model's by transformers' own rules, from headers alone.

    The rules are the renamings and conversions of transformers for the architecture, and the base model's prefix, added
    or removed. Tensors that transformers ignores for this architecture are not surplus, nor are the rotary frequencies
    and causal masks of old checkpoints.

    Raises:
        ModelError: two tensors of the files are one tensor of the model.
    """
    state = model.state_dict()
    rules = get_model_conversion_mapping(model)
    renamings = [r for r in rules if isinstance(r, WeightRenaming)]
    converters = [r for r in rules if isinstance(r, WeightConverter)]
    prefix = model.base_model_prefix
    names: dict[str, str] = {}
    converted, surplus, constants = [], [], set()
    for name in sorted(files.shapes, key=dot_natural_key):
        own, pattern = rename_source_key(name, renamings, converters, prefix, state)
        if own not in state and name in state:
            own, pattern = rename_source_key(name, [], [], prefix, state)
        if own not in state and _is_constant(name, model, files):
            constants.add(own)
        elif own not in state:
            surplus.append(name)
        elif pattern is not None:
            converted.append(name)
        elif own in names:
            raise ModelError(
                f"{files.path}: {names[own]!r} and {name!r} are both {own!r} of the model; keep one of them"
            )
        else:
            names[own] = name
    return Stored(names, tuple(converted), tuple(surplus), frozenset(constants))


def _is_constant(name: str, model: Any, files: WeightFiles) -> bool:
    """Whether a tensor that the model does not have is a constant, or ignored by transformers on purpose."""
    buffers = {n for n, _ in model.named_buffers()}
    prefix = model.base_model_prefix
    if name in buffers or f"{prefix}.{name}" in buffers or name.removeprefix(f"{prefix}.") in buffers:
        return True
    if _MASKS.search(name) and (len(files.shapes[name]) == 0 or files.shapes[name][:2] == (1, 1)):
        return True
    ignored = [*(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ())]
    if any(b.endswith("position_ids") for b in buffers):
        ignored.append(r"(^|\.)position_ids$")
    return bool(_CONSTANTS.search(name)) or any(re.search(pattern, name) for pattern in ignored)


@torch.no_grad()
def fill(model: Any, files: WeightFiles) -> list[str]:
    """Write a checkpoint's tensors, by their plain names, into a model; returns the names of missing ones.

    Raises:
        ModelError: a tensor has another shape, or two values although the model ties it.
    """
    state, known, lacking = model.state_dict(keep_vars=True), stored_in(model, files).names, []
    require_shapes(model, files, [(n, files.shapes[key], tuple(state[n].shape)) for n, key in known.items()])
    for name, aliases in tied_groups(model).items():
        found = [known[a] for a in aliases if a in known]
        if not found:
            lacking.append(name)
            continue
        require_one_value(files, found)
        state[name].copy_(files.read(found[0]))
    return lacking


def same_value(files: WeightFiles, first: str, second: str) -> bool:
    """Whether two tensors of a checkpoint are equal."""
    return first == second or torch.equal(files.read(first), files.read(second))


def require_one_value(files: WeightFiles, names: Sequence[str]) -> None:
    """Raise ModelError if a checkpoint has several values of one tensor of the model."""
    for other in names[1:]:
        if not same_value(files, names[0], other):
            raise ModelError(
                f"{files.path}: its model ties {names[0]!r} and {other!r}, and its files have different values for the "
                "two; set tie_word_embeddings to false, or save it with the weights tied"
            )


def require_all_read(model: Any, files: WeightFiles, report: Mapping[str, Any], *, quantised: bool = False) -> None:
    """Check that transformers loaded all tensors of the files; fills in those with the prefixes of wrappers.

    Args:
        model: the loaded model; tensors of other shapes were skipped.
        files: its files.
        report: transformers' loading report: missing_keys, unexpected_keys, mismatched_keys.
        quantised: whether the configuration has quantisation settings; then only the report is checked.

    Raises:
        ModelError: a tensor is missing, unexpected or of another shape, or has integers without quantisation settings.
    """
    require_shapes(model, files, [(name, tuple(ours), tuple(own)) for name, ours, own in report["mismatched_keys"]])
    missing = set(report["missing_keys"])
    wrapped = any(files.key(name) != name for name in files.shapes)
    if wrapped and missing:
        groups = tied_groups(model)
        missing = {name for name in fill(model, files) if missing & set(groups[name])}
    if missing:
        raise _missing(model, files, sorted(missing))
    unread = set() if wrapped else set(report["unexpected_keys"])
    if quantised:
        refuse_surplus(model, files, sorted(unread))
        return
    stored = stored_in(model, files)
    refuse_surplus(model, files, stored.surplus or sorted(unread - stored.constants))
    require_floats(model, files, stored)
    two = sum(name in stored.names for name in embedding_names(model) if name.endswith(".weight")) == 2
    if two and model.config.get_text_config().tie_word_embeddings and not tied_embeddings(model):
        progress.warn(
            f"{files.path}: its configuration ties the embeddings, and its files hold two that differ; both are used, "
            "as in transformers"
        )
        say_untied(model)


def require_floats(model: Any, files: WeightFiles, stored: Stored) -> None:
    """Raise ModelError if a weight is stored as integers or in 8 bits without quantisation settings."""
    state = model.state_dict()
    weights = {name: state[own].is_floating_point() for own, name in stored.names.items()}
    for name in [*(n for n, floats in weights.items() if floats), *stored.converted]:
        if files.dtypes[name] not in _FLOATS:
            raise ModelError(
                f"{files.path}: {name!r} is stored as {files.dtypes[name]}, and config.json has no quantization_config "
                "that says how to read it; add it, or save the weights in float32, bfloat16 or float16"
            )


def require_shapes(
    model: Any, files: WeightFiles, shapes: Iterable[tuple[str, tuple[int, ...], tuple[int, ...]]]
) -> None:
    """Raise ModelError if a tensor (name, shape in the files, shape in the model) differs in shape."""
    for name, stored, own in sorted(shapes):
        if stored != own and name in embedding_names(model) and stored[1:] == own[1:]:
            raise ModelError(
                f"{files.path}: its files have embeddings ({name!r}) for {stored[0]} tokens, its config.json for "
                f"{own[0]}; set vocab_size to {stored[0]}, or save the model again"
            )
        if stored != own:
            raise ModelError(
                f"{files.path}: {name!r} is {stored} in its files, and {own} by its config.json; save the two again, "
                "together"
            )


def _missing(model: Any, files: WeightFiles, missing: Sequence[str]) -> ModelError:
    tie = ""
    if set(missing) <= set(embedding_names(model)):
        tie = "; if it is the input embedding, set tie_word_embeddings to true in config.json"
    return ModelError(
        f"cannot load the model {files.path!r}: its files have no tensor {missing[0]!r}"
        + (f", nor {len(missing) - 1} others" if len(missing) > 1 else "")
        + "; save the whole model again, under the names that transformers gives its weights"
        + tie
    )


def refuse_surplus(model: Any, files: WeightFiles, surplus: Sequence[str]) -> None:
    """Raise ModelError, naming some, if the files have tensors that the model does not have."""
    if not surplus:
        return
    depth = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    numbers = [int(m[1]) for name in surplus if (m := _IN_A_LAYER.search(name))]
    if depth is not None and len(numbers) == len(surplus) and min(numbers) >= depth:
        raise ModelError(
            f"{files.path}: config.json says {depth} layers (num_hidden_layers), and the files hold {max(numbers) + 1} "
            f"(such as {surplus[0]!r}); set the number right, or save the model again"
        )
    named = ", ".join(map(repr, surplus[:_SHOWN]))
    more = f" and {len(surplus) - _SHOWN} others" if len(surplus) > _SHOWN else ""
    raise ModelError(
        f"{files.path}: its files hold tensors that {type(model).__name__} does not have: {named}{more}; use the "
        "config.json that belongs to them, merge what was trained beside the model, or remove them from the file"
    )
