"""The statistics of distributions whose vocabulary is cut into tiles of a given width."""

from collections.abc import Sequence

from torch import Tensor

from uwc.models.scoring import joined, tile_sums
from uwc.models.token_scores import Sampling


def statistics(
    logits: Tensor,
    targets: Tensor,
    *,
    width: int = 10**6,
    ends: Sequence[int] = (),
    reference: Tensor | None = None,
    samplings: Sequence[Sampling] = (),
    margins: bool = False,
) -> dict[str, Tensor]:
    tiles = []
    for first in range(0, logits.shape[1], width):
        part = slice(first, first + width)
        other = None if reference is None else reference[:, part].clone()
        sums = tile_sums(
            logits[:, part].clone(), targets, first=first, reference=other, samplings=samplings, margins=margins
        )
        tiles.append(sums)
    return joined(tiles, targets, ends, samplings)
