"""Cuts between the loss of a step and the forwards of the model that it reads."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Seams:
    """Where the loss of a step was cut from the forwards that it reads, so that they are gone back through one by one.

    A weight has a gradient from each forward that used it. In one graph autograd holds the first, for all weights,
    until the second is there: as much memory again as the gradients take. Through one seam after another each is added
    to ``grad`` at once, and the activations of a forward are gone before those of the next are read.
    """

    def __init__(self) -> None:
        self._forwards: list[list[tuple[Tensor, Tensor]]] = []

    def cut(self, outputs: Mapping[Any, Tensor]) -> dict[Any, Tensor]:
        """The outputs of one forward as leaves of a graph of their own."""
        leaves = {name: output.detach().requires_grad_(output.requires_grad) for name, output in outputs.items()}
        self._forwards.append([(output, leaves[name]) for name, output in outputs.items()])
        return leaves

    def backward(self) -> None:
        """Go on from the leaves, which have their gradients by now; the latest forward first."""
        while self._forwards:
            read = [(output, leaf.grad) for output, leaf in self._forwards.pop() if leaf.grad is not None]
            if read:
                torch.autograd.backward([output for output, _ in read], [gradient for _, gradient in read])
