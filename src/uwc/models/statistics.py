"""Statistics of next-token distributions, accumulated over tiles of the vocabulary."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from uwc.models.token_scores import Sampling

_FLOOR = -1e4  # exp of it is 0 in float32; stands for -inf where 0 * -inf would be NaN
_LOWEST = -1e30  # stands for the greatest logit of a tile where all are -inf
_BLOCK = 64
_DRAWN = "drawn at "


def tile_sums(
    logits: Tensor,
    targets: Tensor,
    *,
    first: int = 0,
    reference: Tensor | None = None,
    samplings: Sequence[Sampling] = (),
    margins: bool = False,
) -> dict[str, Tensor]:
    """The contribution of v adjacent tokens of the vocabulary to the statistics of n distributions.

    With m the greatest of the v logits: ``sum e^(z - m) (z - m)^k`` for k = 0, 1, 2; the position of the greatest; the
    target's logit, if it is among them; and whether all v logits are finite.

    Args:
        logits: [n, v]; overwritten if it is float32 already.
        targets: [n] the true tokens.
        first: the first of the v tokens.
        reference: [n, v] the same part of another model's logits; overwritten likewise.
        samplings: sampling settings.
        margins: whether to include the greatest logit of all tokens except the target.
    """
    z = logits.float()
    rival = _greatest_rival(z, targets - first) if margins else {}
    greatest, best = _first_greatest(z)
    greatest = greatest.clamp_min(_LOWEST)
    z.sub_(greatest[:, None])
    place = targets - first
    inside = (place >= 0) & (place < z.shape[1])
    place = place.clamp(0, z.shape[1] - 1)[:, None]
    sums = {"greatest": greatest, "best": best + first, "inside": inside, "target": z.gather(1, place)[:, 0]}
    for sampling in samplings:
        sums |= _sampled_sums(z, greatest, first, sampling)
    sums |= rival | _moments(z)
    return sums if reference is None else sums | _divergence_sums(z, place, reference)


def joined(
    tiles: Sequence[Mapping[str, Tensor]],
    targets: Tensor,
    ends: Sequence[int] = (),
    samplings: Sequence[Sampling] = (),
) -> dict[str, Tensor]:
    """The statistics of n distributions from the sums over all tiles of the vocabulary.

    Args:
        tiles: the results of `tile_sums`, in order.
        targets: [n] the true tokens.
        ends: the tokens that end a turn.
        samplings: sampling settings.

    Returns:
        ``finite``, whether all logits are; ``logprob``, ``greedy``, ``stops``, ``mean_logprob``, ``var_logprob``,
        ``kl`` and ``reference_logprob`` as in `TokenScores`; ``margin`` if the sums have it; and one column for each
        sampling, under its name.
    """
    each = {name: torch.stack([t[name] for t in tiles]) for name in tiles[0] if not name.startswith(_DRAWN)}
    greatest, shift, weight = _levels(each["greatest"])
    total = (weight * each["total"]).sum(dim=0)
    mean = (weight * (each["first"] + shift * each["total"])).sum(dim=0) / total
    second = each["second"] + 2 * shift * each["first"] + shift * shift * each["total"]
    square = (weight * second).sum(dim=0) / total
    log_sum = total.log()
    of_target = torch.where(each["inside"], each["target"] + shift, 0.0).sum(dim=0)
    best = each["best"].gather(0, each["greatest"].argmax(dim=0)[None])[0]
    columns = {
        "logprob": of_target - log_sum,
        "greedy": best == targets,
        "stops": torch.isin(best, torch.tensor(list(ends), dtype=best.dtype, device=best.device)),
        "finite": each["finite"].all(dim=0),
        "mean_logprob": mean - log_sum,
        "var_logprob": (square - mean * mean).clamp_min_(0.0),
        **_divergence(each, shift, log_sum),
    }
    if "rival" in each:
        columns["margin"] = of_target + greatest - each["rival"].amax(dim=0)
    return columns | {s.name: _sampled_logprob(tiles, of_target + greatest, targets, s) for s in samplings}


def _first_greatest(z: Tensor) -> tuple[Tensor, Tensor]:
    """[n] the greatest value of each row, and its first position.

    ``z.max(dim=1)``, but several times faster on a CPU: searches the position only in the block with the greatest
    value.
    """
    if z.shape[1] % _BLOCK:
        return z.max(dim=1)
    blocks = torch.unflatten(z, 1, (-1, _BLOCK))
    greatest, block = blocks.amax(dim=2).max(dim=1)
    place = blocks[torch.arange(len(z), device=z.device), block].argmax(dim=1)
    return greatest, block * _BLOCK + place


def _greatest_rival(z: Tensor, place: Tensor) -> dict[str, Tensor]:
    """[n] the greatest value of each row except the one at `place`, which may be outside the tile."""
    inside = ((place >= 0) & (place < z.shape[1]))[:, None]
    place = place.clamp(0, z.shape[1] - 1)[:, None]
    own = z.gather(1, place)
    z.scatter_(1, place, own.masked_fill(inside, float("-inf")))
    rival = z.amax(dim=1)
    z.scatter_(1, place, own)
    return {"rival": rival}


def _levels(greatest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[n] the greatest logit of all tiles, and [tiles, n] the difference of each tile's greatest, and its
    exponential."""
    overall = greatest.amax(dim=0)
    shift = (greatest - overall).clamp_min_(_FLOOR)
    return overall, shift, shift.exp()


def _moments(z: Tensor) -> dict[str, Tensor]:
    """Sums over a tile of e^z z^k for k = 0, 1, 2, for z with greatest value 0; and whether all z are finite."""
    p = z.exp()
    total = p.sum(dim=1)
    first = p.mul_(z).sum(dim=1)
    second = p.mul_(z).sum(dim=1)
    finite = torch.isfinite(first)  # a logit of -inf has e^z z = 0 * -inf
    if not finite.all() and torch.isinf(z).any():
        return {**_moments(z.clamp_min_(_FLOOR)), "finite": finite}
    return {"total": total, "first": first, "second": second, "finite": finite}


def _divergence_sums(z: Tensor, place: Tensor, reference: Tensor) -> dict[str, Tensor]:
    """The same sums under the reference, of the difference between its logits and the model's; overwrites `z`."""
    other = reference.to(z.device).float()
    greatest = other.amax(dim=1).clamp_min(_LOWEST)
    other.sub_(greatest[:, None]).clamp_min_(_FLOOR)
    of_target = other.gather(1, place)[:, 0]
    gap = z.clamp_min_(_FLOOR).sub_(other).neg_()
    q = other.exp_()
    total = q.sum(dim=1)
    return {
        "q greatest": greatest,
        "q target": of_target,
        "q total": total,
        "q gap": q.mul_(gap).sum(dim=1),
    }


def _divergence(each: Mapping[str, Tensor], shift: Tensor, log_sum: Tensor) -> dict[str, Tensor]:
    """KL(reference || model) and the reference's log-probability of the targets."""
    if "q total" not in each:
        unknown = torch.full_like(log_sum, float("nan"))
        return {"kl": unknown, "reference_logprob": unknown}
    _greatest, other_shift, weight = _levels(each["q greatest"])
    total = (weight * each["q total"]).sum(dim=0)
    gap = (weight * (each["q gap"] + (other_shift - shift) * each["q total"])).sum(dim=0)
    of_target = torch.where(each["inside"], each["q target"] + other_shift, 0.0).sum(dim=0)
    kl = gap / total - total.log() + log_sum
    return {"kl": kl.clamp_min_(0.0), "reference_logprob": of_target - total.log()}


def _sampled_sums(z: Tensor, greatest: Tensor, first: int, sampling: Sampling) -> dict[str, Tensor]:
    """The contribution of a tile to a sampling: its log-sum-exp, or its most likely tokens."""
    name = _DRAWN + sampling.name
    if not sampling.top_k:
        return {name: (z / sampling.temperature).logsumexp(dim=1) + greatest / sampling.temperature}
    values, tokens = z.topk(min(sampling.top_k, z.shape[1]), dim=1)
    return {name: values + greatest[:, None], f"{name} tokens": tokens + first}


def _sampled_logprob(
    tiles: Sequence[Mapping[str, Tensor]], of_target: Tensor, targets: Tensor, sampling: Sampling
) -> Tensor:
    """[n] log-probability of drawing the target; -inf if it is not among the top k."""
    name = _DRAWN + sampling.name
    if not sampling.top_k:
        return of_target / sampling.temperature - torch.stack([t[name] for t in tiles]).logsumexp(dim=0)
    values = torch.cat([t[name] for t in tiles], dim=1)
    values, places = values.topk(min(sampling.top_k, values.shape[1]), dim=1)
    tokens = torch.cat([t[f"{name} tokens"] for t in tiles], dim=1).gather(1, places)
    logprob = of_target / sampling.temperature - (values / sampling.temperature).logsumexp(dim=1)
    return logprob.masked_fill(~(tokens == targets[:, None]).any(dim=1), float("-inf"))
