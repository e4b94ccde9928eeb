"""Weights in files: reading of safetensors, their correspondence with a model's tensors, and mixing from files."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

from uwc import progress
from uwc.errors import ModelError
from uwc.models.checkpoint_files import contents, local_file
from uwc.models.mixing import (
    embedding_names,
    mix_into,
    require_alpha,
    require_finite,
    say_untied,
    tied_embeddings,
    tied_groups,
    untie_embeddings,
)
from uwc.models.model import Model
from uwc.models.placement import held, read_otherwise, shares

_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


def plain_name(name: str) -> str:
    """The tensor's name without the prefixes of wrappers: a leading ``module.``, and ``_orig_mod.`` anywhere."""
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    while len(parts) > 1 and parts[0] == "module":
        parts = parts[1:]
    return ".".join(parts)


def open_safetensors(file: Path) -> Any:
    """Open a file and read its header. Raises ModelError if it is damaged."""
    try:
        return safe_open(str(file), framework="pt", device="cpu")
    except Exception as error:  # safetensors raises a class of its own
        raise ModelError(f"{file}: damaged ({error}); fetch or save the model again") from error


def _version(file: Path) -> tuple[int, ...]:
    """What changes if a file is written again or replaced."""
    found = file.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


_BLOCK = 1 << 23
"""Numbers of a tensor that are read at a time to be mixed."""


@dataclass(frozen=True)
class _Place:
    file: str
    key: str
    shape: tuple[int, ...]
    dtype: str


class WeightFiles:
    """The safetensors files of a checkpoint that are read (see `contents`). Tensors are accessed by their plain names.

    Args:
        path: a folder, or a hub name; its files are fetched.

    Attributes:
        shapes: tensor -> its shape.
        dtypes: tensor -> its safetensors type: ``"F32"``, ``"BF16"``, ``"I8"``, ``"F8_E4M3"``.
        files: file -> its tensors, in order.
        index: the file that lists the shards, if there are several.

    Raises:
        ModelError: there are no whole weights, a shard is missing or damaged, two tensors have one plain name, or two
            shards have different values for one tensor.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self._opened: dict[str, tuple[Path, tuple[int, ...]]] = {}
        self._places: dict[str, _Place] = {}
        found = contents(path)
        if found.kind != "model":
            raise ModelError(f"{path}: an {found.kind} has no whole weights of its own; give a whole model")
        self.index = found.index
        for file in found.weights:
            self._list(file)
        self.shapes: Mapping[str, tuple[int, ...]] = {name: p.shape for name, p in self._places.items()}
        self.dtypes: Mapping[str, str] = {name: p.dtype for name, p in self._places.items()}
        self.files: Mapping[str, list[str]] = {
            f: [n for n, p in self._places.items() if p.file == f] for f in self._opened
        }

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """The tensor, or some of its rows, on the CPU, memory-mapped.

        The file is mapped for each call: what was read is in resident memory as long as the tensor, and no longer.

        Raises:
            ModelError: the file was changed since it was first opened.
        """
        place = self._places[name]
        local, before = self._opened[place.file]
        if not local.exists() or _version(local) != before:
            raise ModelError(f"{local}: changed while it was being read; run this again, and leave the file as it is")
        handle = open_safetensors(local)
        tensor: Tensor = handle.get_tensor(place.key) if rows is None else handle.get_slice(place.key)[rows]
        return tensor

    def blocks(self, name: str) -> list[slice | None]:
        """The rows of the tensor in blocks of at most 8 million numbers, or one row; None for all of it at once."""
        shape = self.shapes[name]
        if math.prod(shape) <= _BLOCK:
            return [None]
        height = max(_BLOCK // math.prod(shape[1:]), 1)
        return [slice(top, min(top + height, shape[0])) for top in range(0, shape[0], height)]

    def key(self, name: str) -> str:
        """The tensor's name in the file, with prefixes of wrappers."""
        return self._places[name].key

    def _list(self, file: str) -> None:
        local = local_file(self.path, file)
        if local is None:
            raise ModelError(f"{self.path}: the shard {file} is missing; fetch or save the model again")
        self._opened[file] = local, _version(local)
        handle = open_safetensors(local)
        for key in list(handle.keys()):
            name, stored = plain_name(key), handle.get_slice(key)
            place = _Place(file, key, tuple(stored.get_shape()), stored.get_dtype())
            other = self._places.get(name)
            if other is None:
                self._places[name] = place
            elif other.key != key:
                raise ModelError(
                    f"{self.path}: {other.key!r} and {key!r} are both {name!r} without what wrappers add; keep one of "
                    "them"
                )
            elif replace(place, file=other.file) != other or not torch.equal(self.read(name), handle.get_tensor(key)):
                raise ModelError(
                    f"{self.path}: {other.file} and {file} have different values for {key!r}; fetch or save the model "
                    "again"
                )


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
        if state[name].is_meta:
            raise ModelError(
                f"{files.path}: the names of its tensors have prefixes of wrappers ({files.key(found[0])!r}), which a "
                "model of device = map cannot read from its files; save it again without them"
            )
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
    if two and model.config.get_text_config().tie_word_embeddings and not (tied_embeddings(model) or shares(model)):
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


class StoredOtherwise(ModelError):
    """The files store weights in a layout that only transformers can convert."""


@dataclass(frozen=True)
class Pairing:
    """The correspondence between the tensors of two checkpoints and of the model.

    Attributes:
        tensors: the model's tensor -> its names in the original's and in the unlearned model's files.
        names: tensor in the original's files -> the model's tensor, for those that the model reads.
    """

    tensors: Mapping[str, tuple[str, str]]
    names: Mapping[str, str] = field(default_factory=dict)


def pair_weights(
    model: Any, original: WeightFiles, unlearned: WeightFiles, *, ties: Sequence[bool] = (True, True)
) -> Pairing:
    """Match the tensors of two checkpoints with the model's, from headers alone; the model may be on the meta device.

    If one of the two has untied embeddings, the model's are untied, in place, and the tied tensor of the other is read
    for both. Values are read only of tensors that a checkpoint has under two names.

    Args:
        model: the model of the mixture, built from the configuration of one of the two.
        original: the files of the model before unlearning.
        unlearned: the files of the model after it.
        ties: whether their configurations tie the embeddings.

    Raises:
        StoredOtherwise: transformers concatenates or splits tensors of the files.
        ModelError: a tensor is missing, unexpected, of another shape or stored as integers.
    """
    both = [(files, stored_in(model, files)) for files in (original, unlearned)]
    for files, stored in both:
        refuse_surplus(model, files, stored.surplus)
        require_floats(model, files, stored)
    if tied_embeddings(model) and not all(
        _is_tied(model, f, s) and tied for (f, s), tied in zip(both, ties, strict=True)
    ):
        untie_embeddings(model)
    state = model.state_dict(keep_vars=True)
    _require_same_shapes(model, both)
    converted = [name for _, stored in both for name in stored.converted]
    if converted:
        raise StoredOtherwise(f"{original.path} and {unlearned.path} store {converted[0]!r} in other pieces")
    known = [_with_ties(model, s.names) if tied else s.names for (_, s), tied in zip(both, ties, strict=True)]
    buffers = {name for name, _ in model.named_buffers()}
    tensors: dict[str, tuple[str, str]] = {}
    groups = tied_groups(model)
    for name, aliases in groups.items():
        for (files, _), names in zip(both, known, strict=True):
            require_one_value(files, [names[a] for a in aliases if a in names])
        ours, theirs = (next((k[a] for a in aliases if a in k), None) for k in known)
        if ours is not None and theirs is not None:
            tensors[name] = (ours, theirs)
        elif name not in buffers or ours is not theirs:
            raise _different(
                original, unlearned, f"{(original if ours is None else unlearned).path} has no tensor {name!r}"
            )
    canonical = {alias: name for name, aliases in groups.items() for alias in aliases}
    return Pairing(tensors, {stored: canonical[name] for name, stored in both[0][1].names.items() if name in state})


def _is_tied(model: Any, files: WeightFiles, stored: Stored) -> bool:
    """Whether a checkpoint has one value for both embeddings, under one name or two."""
    found = [stored.names[n] for n in embedding_names(model) if n.endswith(".weight") and n in stored.names]
    return all(same_value(files, found[0], other) for other in found[1:])


def _with_ties(model: Any, names: Mapping[str, str]) -> dict[str, str]:
    """The names of a checkpoint with tied embeddings, in which the stored name stands for both."""
    ends = [n for n in embedding_names(model) if n.endswith(".weight")]
    stored = next((names[n] for n in ends if n in names), None)
    return {**(dict.fromkeys(ends, stored) if stored is not None else {}), **names}


def _require_same_shapes(model: Any, both: Sequence[tuple[WeightFiles, Stored]]) -> None:
    """Raise ModelError if the shapes of a tensor in the two checkpoints and in the model are not all equal."""
    (original, ours), (unlearned, theirs) = both
    for name in ours.names.keys() & theirs.names.keys():
        first, second = original.shapes[ours.names[name]], unlearned.shapes[theirs.names[name]]
        if first != second and name in embedding_names(model) and first[1:] == second[1:]:
            how = f"{original.path} has embeddings ({name!r}) for {first[0]} tokens, {unlearned.path} for {second[0]}"
            raise _different(original, unlearned, how)
        if first != second:
            how = f"{name!r} is {first} in {original.path}, and {second} in {unlearned.path}"
            raise _different(original, unlearned, how)
    state = model.state_dict()
    for files, stored in both:
        require_shapes(model, files, [(n, files.shapes[key], tuple(state[n].shape)) for n, key in stored.names.items()])


def _different(original: WeightFiles, unlearned: WeightFiles, how: str) -> ModelError:
    return ModelError(
        f"{original.path} and {unlearned.path} have different architectures or vocabularies: {how}; "
        "mixing needs two checkpoints of one model"
    )


class StreamedMixer:
    """Sets a model's weights to any mixture of two checkpoints on disk, without another copy in memory.

    Both are read in blocks of rows, each of which is moved to the device that holds the weight. Weights that the model
    itself reads from files (``device: map``) are mixed whenever a forward pass reads them.

    Args:
        working: the model whose weights `mix` overwrites: the loaded original or unlearned model.
        original: the files of the model before unlearning.
        unlearned: the files of the model after it.
        ties: whether their configurations tie the embeddings; if one does not, the mixtures' are not tied.

    Raises:
        ModelError: the two differ in architecture or vocabulary.
    """

    def __init__(
        self, working: Model, original: WeightFiles, unlearned: WeightFiles, *, ties: Sequence[bool] = (True, True)
    ) -> None:
        self.working, self.original, self.unlearned = working, original, unlearned
        model = working.model
        self.pairing = pair_weights(model, original, unlearned, ties=ties)
        self._dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
        self._names = {alias: name for name, aliases in tied_groups(model).items() for alias in aliases}
        self._held: dict[str, dict[int, Tensor]] = {}
        for alias, tensor in held(model).items():
            self._held.setdefault(self._names[alias], {})[tensor.data_ptr()] = tensor
        self._alpha = 0.0
        read_otherwise(model, self._read)

    @torch.no_grad()
    def mix(self, alpha: float) -> Model:
        """The model with the weights (1 - alpha) * original + alpha * unlearned.

        Raises:
            ValueError: alpha is outside 0..1.
            ModelError: a weight of one of the two is not finite.
        """
        require_alpha(alpha)
        self._alpha = alpha
        parameters = {name for name, _ in self.working.model.named_parameters(remove_duplicate=False)}
        for name in self.pairing.tensors:
            held = tuple(self._held.get(name, {}).values())
            for weight in held:
                self._write(name, weight)
            if alpha in (0.0, 1.0) and name in parameters:
                path = (self.unlearned if alpha else self.original).path
                require_finite(name, held[0] if held else self._read(name), model=path)
        return self.working

    @torch.no_grad()
    def _write(self, name: str, into: Tensor) -> None:
        ours, theirs = self.pairing.tensors[name]
        for rows in self.original.blocks(ours):
            first, second = self.original.read(ours, rows), self.unlearned.read(theirs, rows)
            mix_into(into if rows is None else into[rows], first, second, self._alpha)

    def _read(self, name: str) -> Tensor:
        """The mixture of a tensor, for weights that are in files."""
        name = self._names[name]
        mixed = torch.empty(self.original.shapes[self.pairing.tensors[name][0]], dtype=self._dtypes[name])
        self._write(name, mixed)
        return mixed
