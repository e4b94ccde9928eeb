"""Model mixing: the weights between an original model and an unlearned one (arXiv:2406.09179)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from uwc.errors import ModelError
from uwc.models.target import Target


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
                f"{tuple(original[key].shape)} in one and {tuple(unlearned[key].shape)} in the other"
            )


@torch.no_grad()
def mix_tensor(original: Tensor, unlearned: Tensor, alpha: float) -> Tensor:
    """(1 - alpha) * original + alpha * unlearned, computed in float32 and rounded once to the original's dtype.

    Evaluated as ``original + alpha * (unlearned - original)`` (from the nearer end), so that equal weights stay equal
    to the bit; alpha = 0 and alpha = 1 give the two tensors themselves. Tensors of integers are not mixed: the
    original's are kept below alpha = 1.
    """
    if alpha == 0.0 or (alpha < 1.0 and not original.is_floating_point()):
        return original
    if alpha == 1.0:
        return unlearned.to(original.dtype)
    return torch.lerp(original.float(), unlearned.float(), alpha).to(original.dtype)


class Mixer:
    """Sets a working model's weights to any mixture of two models, in place and without reading files again.

    Args:
        original: the model before unlearning; its weights are copied once.
        unlearned: the model after it; becomes the working copy whose weights `mix` overwrites.

    Raises:
        ModelError: the two differ in architecture or vocabulary.
    """

    def __init__(self, original: Target, unlearned: Target) -> None:
        check_same_architecture(
            original.model.state_dict(), unlearned.model.state_dict(), names=(original.name, unlearned.name)
        )
        self.working = unlearned
        self._original = dict(original.model.state_dict())
        self._unlearned = {name: tensor.clone() for name, tensor in unlearned.model.state_dict().items()}

    @torch.no_grad()
    def mix(self, alpha: float) -> Target:
        """The working model with the weights (1 - alpha) * original + alpha * unlearned.

        Raises:
            ValueError: alpha is outside 0..1.
        """
        if not 0.0 <= alpha <= 1.0:
            raise ValueError(f"alpha = {alpha} is outside 0..1 (0 = original, 1 = unlearned)")
        for name, tensor in self.working.model.state_dict().items():
            tensor.copy_(mix_tensor(self._original[name], self._unlearned[name], alpha).to(tensor.device))
        return self.working
