"""Mixing from files: one model in memory; each mixture reads the two checkpoints once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from uwc.errors import ModelError
from uwc.models.mixing import mix_into, require_alpha, require_finite
from uwc.models.stored import (
    Stored,
    refuse_surplus,
    require_floats,
    require_one_value,
    require_shapes,
    same_value,
    stored_in,
)
from uwc.models.target import Target
from uwc.models.ties import embedding_names, tied_embeddings, tied_groups, untie_embeddings
from uwc.models.weight_files import WeightFiles


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

    Args:
        working: the model whose weights `mix` overwrites: the loaded original or unlearned model.
        original: the files of the model before unlearning.
        unlearned: the files of the model after it.
        ties: whether their configurations tie the embeddings; if one does not, the mixtures' are not tied.

    Raises:
        ModelError: the two differ in architecture or vocabulary.
    """

    def __init__(
        self, working: Target, original: WeightFiles, unlearned: WeightFiles, *, ties: Sequence[bool] = (True, True)
    ) -> None:
        self.working, self.original, self.unlearned = working, original, unlearned
        self.pairing = pair_weights(working.model, original, unlearned, ties=ties)
        self._state: dict[str, Tensor] = dict(working.model.state_dict())

    @torch.no_grad()
    def mix(self, alpha: float) -> Target:
        """The model with the weights (1 - alpha) * original + alpha * unlearned.

        Raises:
            ValueError: alpha is outside 0..1.
            ModelError: a weight of one of the two is not finite.
        """
        require_alpha(alpha)
        for name, (ours, theirs) in self.pairing.tensors.items():
            mix_into(self._state[name], self.original.read(ours), self.unlearned.read(theirs), alpha)
        if alpha in (0.0, 1.0):
            for name, weight in self.working.model.named_parameters():
                require_finite(name, weight.detach(), model=(self.unlearned if alpha else self.original).path)
        return self.working
