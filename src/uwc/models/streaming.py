"""Mixing straight from files: one model in memory, each probe one read of the two checkpoints."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from uwc.errors import ModelError
from uwc.models.mixing import mix_into, require_alpha, require_finite
from uwc.models.target import Target
from uwc.models.weight_files import WeightFiles


class StoredOtherwise(ModelError):
    """The files hold the weights under other names than the model has them; only transformers can load them."""


@dataclass(frozen=True)
class Pairing:
    """Which tensors of two checkpoints make which tensor of the model.

    Attributes:
        tensors: the model's tensor -> its names in the original's and in the unlearned model's files.
        names: tensor in the original's files -> the model's tensor; what the model does not read is not in it.
    """

    tensors: Mapping[str, tuple[str, str]]
    names: Mapping[str, str] = field(default_factory=dict)


def tied_groups(model: Any) -> dict[str, list[str]]:
    """Each distinct tensor of the model's state -> all names that it has there."""
    groups: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        groups.setdefault(id(tensor), []).append(name)
    return {names[0]: names for names in groups.values()}


def pair_weights(model: Any, original: WeightFiles, unlearned: WeightFiles) -> Pairing:
    """Match the tensors of two checkpoints with the model's, from headers alone; the model may be on the meta device.

    Only of a tensor that a checkpoint has under two names are the values read.

    Raises:
        StoredOtherwise: neither checkpoint has a tensor of the model under its name.
        ModelError: a tensor is missing in one, differs in shape, is in one only, or is tied and has two values.
    """
    state = model.state_dict(keep_vars=True)
    groups = tied_groups(model)
    buffers = {name for name, _ in model.named_buffers()}
    ours, theirs = (_by_model_name(w, model, set(state)) for w in (original, unlearned))
    tensors: dict[str, tuple[str, str]] = {}
    for name, aliases in groups.items():
        for known, files in ((ours, original), (theirs, unlearned)):
            _require_tied([known[a] for a in aliases if a in known], files)
        found = [next((known[a] for a in aliases if a in known), None) for known in (ours, theirs)]
        if found[0] is None and found[1] is None:
            if name in buffers:
                continue
            raise StoredOtherwise(f"neither {original.path} nor {unlearned.path} has a tensor {name!r}")
        for one, files in zip(found, (original, unlearned), strict=True):
            if one is None:
                raise _different(original, unlearned, f"{files.path} has no tensor {name!r}")
            if files.shapes[one] != tuple(state[name].shape):
                raise _different(
                    original, unlearned,
                    f"{name!r} is {files.shapes[one]} in {files.path}, and {tuple(state[name].shape)} in the model "
                    f"that the configuration of {original.path} describes",
                )  # fmt: skip
        tensors[name] = (str(found[0]), str(found[1]))
    _require_same_extras(model, original, unlearned, (ours, theirs))
    canonical = {alias: name for name, aliases in groups.items() for alias in aliases}
    return Pairing(tensors, {stored: canonical[name] for name, stored in ours.items()})


def _require_tied(stored: list[str], files: WeightFiles) -> None:
    """Raise ModelError if a checkpoint has several values for one tensor, which transformers then takes for several."""
    for other in stored[1:]:
        if not torch.equal(files.read(stored[0]), files.read(other)):
            raise ModelError(
                f"{files.path}: its configuration ties {stored[0]!r} and {other!r}, and its files have different "
                "values for the two; set tie_word_embeddings to false in both models, or save it with the weights tied"
            )


def _by_model_name(files: WeightFiles, model: Any, wanted: set[str]) -> dict[str, str]:
    """The model's name of each tensor in the files that it has -> the name there; a bare base model's are found too."""
    prefix = getattr(model, "base_model_prefix", "")
    known = {}
    for name in files.shapes:
        if name in wanted:
            known[name] = name
        elif f"{prefix}.{name}" in wanted:
            known[f"{prefix}.{name}"] = name
    return known


@torch.no_grad()
def fill(model: Any, files: WeightFiles) -> list[str]:
    """Write a checkpoint's tensors, known by their plain names, into a model; the names of those that it lacks."""
    state = model.state_dict(keep_vars=True)
    known, lacking = _by_model_name(files, model, set(state)), []
    for name, aliases in tied_groups(model).items():
        stored = next((known[a] for a in aliases if a in known), None)
        if stored is None or files.shapes[stored] != tuple(state[name].shape):
            lacking.append(name)
        else:
            state[name].copy_(files.read(stored))
    return lacking


def _require_same_extras(
    model: Any, original: WeightFiles, unlearned: WeightFiles, known: tuple[dict[str, str], dict[str, str]]
) -> None:
    ignored = [re.compile(p) for p in getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()]
    ignored.append(re.compile(r"rotary_emb\.inv_freq$"))
    extras = [
        {n for n in files.shapes if n not in set(k.values()) and not any(p.search(n) for p in ignored)}
        for files, k in zip((original, unlearned), known, strict=True)
    ]
    for only, files in ((extras[0] - extras[1], original), (extras[1] - extras[0], unlearned)):
        if only:
            raise _different(original, unlearned, f"only {files.path} has a tensor {min(only)!r}")


def _different(original: WeightFiles, unlearned: WeightFiles, how: str) -> ModelError:
    return ModelError(
        f"{original.path} and {unlearned.path} have different architectures or vocabularies: {how}; "
        "mixing needs two checkpoints of one model"
    )


class StreamedMixer:
    """Sets a loaded model's weights to any mixture of two checkpoints on disk; no other copy is in memory.

    Args:
        working: the model whose weights `mix` overwrites: the original or the unlearned one, as loaded.
        original: the files of the model before unlearning.
        unlearned: the files of the model after it.

    Raises:
        ModelError: the two differ in architecture or vocabulary.
    """

    def __init__(self, working: Target, original: WeightFiles, unlearned: WeightFiles) -> None:
        self.working, self.original, self.unlearned = working, original, unlearned
        self.pairing = pair_weights(working.model, original, unlearned)
        self._state: dict[str, Tensor] = dict(working.model.state_dict())

    @torch.no_grad()
    def mix(self, alpha: float) -> Target:
        """The working model with the weights (1 - alpha) * original + alpha * unlearned.

        Raises:
            ValueError: alpha is outside 0..1.
            ModelError: at an end, that one of the two has a weight that is not finite.
        """
        require_alpha(alpha)
        for name, (ours, theirs) in self.pairing.tensors.items():
            mix_into(self._state[name], self.original.read(ours), self.unlearned.read(theirs), alpha)
        if alpha in (0.0, 1.0):
            for name, weight in self.working.model.named_parameters():
                require_finite(name, weight.detach(), model=(self.unlearned if alpha else self.original).path)
        return self.working
