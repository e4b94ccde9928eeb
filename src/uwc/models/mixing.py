"""Model mixing: weights interpolated between an original and an unlearned model (arXiv:2406.09179)."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from uwc.errors import ModelError
from uwc.models.model import Model
from uwc.models.placement import require_on_one_device
from uwc.models.quantised import REMEDY


def tied_groups(model: Any) -> dict[str, list[str]]:
    """Each distinct tensor of the model's state -> all its names."""
    groups: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        groups.setdefault(id(tensor), []).append(name)
    return {names[0]: names for names in groups.values()}


def tied_embeddings(model: Any) -> bool:
    """Whether the output embedding is the input embedding."""
    if not hasattr(model, "get_input_embeddings"):
        return False
    weights = [getattr(end, "weight", None) for end in (model.get_input_embeddings(), model.get_output_embeddings())]
    return weights[0] is not None and weights[0] is weights[1]


def untie_embeddings(model: Any) -> None:
    """Give the output embedding its own copy of the weights, in place, also in the configuration."""
    head = model.get_output_embeddings()
    if head.weight.is_meta and hasattr(model, "hf_device_map"):
        raise ModelError(
            "one of the two models has tied embeddings and the other has not: their mixture cannot be placed with "
            "weights in files; give more model.max_memory, or save both with untied embeddings"
        )
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=head.weight.requires_grad)
    say_untied(model)


def say_untied(model: Any) -> None:
    """Set the configuration to untied embeddings, so that transformers does not tie them again."""
    for config in {id(c): c for c in (model.config, model.config.get_text_config())}.values():
        config.tie_word_embeddings = False
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)


def require_unquantised(model: Any, name: str) -> None:
    """Raise ModelError if the loaded weights are quantised, so that they can be neither trained nor changed."""
    if getattr(model.config, "quantization_config", None):
        raise ModelError(f"{name} is quantised; to train it or change its weights, {REMEDY}")


def embedding_names(model: Any) -> list[str]:
    """The names of the input and output embeddings' weights in the model's state, and of a bias of the latter."""
    ends = {id(m) for m in (model.get_input_embeddings(), model.get_output_embeddings()) if m is not None}
    return [
        f"{name}.{part}"
        for name, module in model.named_modules(remove_duplicate=False)
        if id(module) in ends
        for part in ("weight", "bias")
        if isinstance(getattr(module, part, None), Tensor)
    ]


_CHUNK, _CHUNK_OF_DEVICE = 1 << 18, 1 << 24  # numbers converted at a time: on a CPU such that they stay in its cache


class Mixing(Protocol):
    """A source of models at any mixture of an original and an unlearned one."""

    def mix(self, alpha: float) -> Model:
        """The model at `alpha`; may overwrite the one returned before."""


def require_alpha(alpha: float) -> None:
    """Raise ValueError if alpha is outside 0..1."""
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha = {alpha} is outside 0..1 (0 = original, 1 = unlearned)")


def check_same_architecture(
    original: Mapping[str, Tensor], unlearned: Mapping[str, Tensor], *, names: tuple[str, str]
) -> None:
    """Raise ModelError, naming the first difference, if two state dicts differ in tensor names or shapes."""
    for key in [*original, *unlearned]:
        if key not in unlearned or key not in original:
            missing = names[1] if key not in unlearned else names[0]
            raise ModelError(
                f"{names[0]} and {names[1]} have different architectures: {missing} has no tensor {key!r}; "
                "mixing needs two checkpoints of one model"
            )
        if original[key].shape != unlearned[key].shape:
            raise ModelError(
                f"{names[0]} and {names[1]} have different architectures or vocabularies: {key!r} is "
                f"{tuple(original[key].shape)} in {names[0]} and {tuple(unlearned[key].shape)} in {names[1]}; mixing "
                "needs two checkpoints of one model"
            )


def require_finite(name: str, tensor: Tensor, *, model: str) -> None:
    """Raise ModelError if a weight is NaN or infinite, as all mixtures with it would be."""
    if tensor.is_floating_point() and tensor.numel() and not all(map(torch.isfinite, tensor.aminmax())):
        raise ModelError(
            f"{model}: the weight {name!r} holds NaN or an infinity as {str(tensor.dtype).removeprefix('torch.')}, so "
            "that its results are meaningless; leave the model out, or save it again with finite weights"
        )


@torch.no_grad()
def mix_tensor(original: Tensor, unlearned: Tensor, alpha: float) -> Tensor:
    """(1 - alpha) * original + alpha * unlearned, computed in float32 and rounded once.

    The result has the smallest type that holds both exactly. Evaluated as ``original + alpha * (unlearned - original)``
    (from the nearer end), so that equal weights stay equal to the bit; alpha = 0 and alpha = 1 give the two tensors
    themselves. Integer tensors are not mixed; the original's are used below alpha = 1.
    """
    dtype = torch.promote_types(original.dtype, unlearned.dtype)
    if alpha == 0.0 or (alpha < 1.0 and not original.is_floating_point()):
        return original.to(dtype)
    if alpha == 1.0:
        return unlearned.to(dtype)
    return torch.lerp(original.float(), unlearned.float(), alpha).to(dtype)


@torch.no_grad()
def mix_into(destination: Tensor, original: Tensor, unlearned: Tensor, alpha: float) -> None:
    """Write the mixture (see `mix_tensor`) into a tensor of any floating-point type on any device.

    Conversions and transfers are done in chunks, without a copy of a large tensor.
    """
    plain = all(t.dtype == torch.float32 and t.device == destination.device for t in (original, unlearned))
    if plain and destination.dtype == torch.float32 and 0.0 < alpha < 1.0:
        torch.lerp(original, unlearned, alpha, out=destination)
        return
    into, first, second = destination.view(-1), original.reshape(-1), unlearned.reshape(-1)
    size = _CHUNK if into.device.type == "cpu" else _CHUNK_OF_DEVICE
    for start in range(0, into.numel(), size):
        part = slice(start, start + size)
        ours, theirs = (t[part].to(into.device, non_blocking=True) for t in (first, second))
        into[part].copy_(mix_tensor(ours, theirs, alpha))


class Mixer:
    """Sets a model's weights to any mixture of two models in memory, in place.

    Args:
        original: the model before unlearning; its weights are copied once.
        unlearned: the model after it, whose weights `mix` overwrites. Its embeddings are untied if the original's are.

    Raises:
        ModelError: the two differ in architecture or vocabulary, or a weight is not finite.
    """

    def __init__(self, original: Model, unlearned: Model) -> None:
        for model in (original, unlearned):
            require_on_one_device(model.model, model.name, "mixing without the files of both models")
        check_same_architecture(
            original.model.state_dict(), unlearned.model.state_dict(), names=(original.name, unlearned.name)
        )
        for model in (original, unlearned):
            for name, weight in model.model.named_parameters():
                require_finite(name, weight.detach(), model=model.name)
        if tied_embeddings(unlearned.model) and not tied_embeddings(original.model):
            untie_embeddings(unlearned.model)
        self.working = unlearned
        self._original = dict(original.model.state_dict())
        self._unlearned = {name: tensor.clone() for name, tensor in unlearned.model.state_dict().items()}

    @torch.no_grad()
    def mix(self, alpha: float) -> Model:
        """The model with the weights (1 - alpha) * original + alpha * unlearned.

        Raises:
            ValueError: alpha is outside 0..1.
        """
        require_alpha(alpha)
        for name, tensor in self.working.model.state_dict().items():
            mix_into(tensor, self._original[name], self._unlearned[name], alpha)
        return self.working
