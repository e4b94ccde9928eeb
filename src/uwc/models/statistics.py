"""What is kept of each next-token distribution: a few numbers instead of the whole vocabulary."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from uwc.errors import ConfigError, ModelError

_FLOOR = -1e4  # exp of it is 0 in float32; stands for -inf where 0 * -inf would be NaN


@dataclass(frozen=True)
class Sampling:
    """A way of drawing the next token.

    Attributes:
        temperature: logits are divided by it; positive.
        top_k: only the k most likely tokens can be drawn; 0 means all.
    """

    temperature: float = 1.0
    top_k: int = 0

    def __post_init__(self) -> None:
        if not self.temperature > 0 or self.top_k < 0:
            raise ConfigError(
                f"sampling at temperature {self.temperature} and top-k {self.top_k}: the temperature must be positive "
                "and top-k at least 0 (0 = the whole vocabulary)"
            )

    @property
    def name(self) -> str:
        """The name of its column in stored scores."""
        return f"temperature={self.temperature:g} top_k={self.top_k}"


def chunk_statistics(
    logits: Tensor,
    targets: Tensor,
    *,
    end: int | None = None,
    reference: Tensor | None = None,
    samplings: Sequence[Sampling] = (),
) -> dict[str, Tensor]:
    """Statistics of n next-token distributions, in float32.

    Args:
        logits: [n, V]; overwritten if it is float32 already.
        targets: [n] the true tokens.
        end: the end-of-sequence token.
        reference: [n, V] logits of another model; overwritten likewise.
        samplings: the ways of drawing whose log-probabilities are wanted.

    Returns:
        logprob, greedy, stops, mean_logprob, var_logprob, kl and reference_logprob as `TokenScores` describes them,
        and one column for each sampling, under its name.

    Raises:
        ModelError: the reference has another vocabulary.
    """
    z = logits.float()
    greatest, best = z.max(dim=1)
    z.sub_(greatest[:, None])
    of_target = z.gather(1, targets[:, None])[:, 0]
    sampled = {s.name: _sampled_logprob(z, of_target, targets, s) for s in samplings}
    log_sum, mean, square = _moments(z)
    columns = {
        "logprob": of_target - log_sum,
        "greedy": best == targets,
        "stops": torch.zeros_like(best, dtype=torch.bool) if end is None else best == end,
        "mean_logprob": mean - log_sum,
        "var_logprob": (square - mean * mean).clamp_min_(0.0),
        **_divergence(z, log_sum, targets, reference),
    }
    return columns | sampled


def _moments(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log sum exp z, and mean and mean square of z under softmax(z), for z with greatest value 0."""
    p = z.exp()
    total = p.sum(dim=1)
    first = p.mul_(z).sum(dim=1)
    second = p.mul_(z).sum(dim=1)
    if not torch.isfinite(first).all() and torch.isinf(z).any():
        return _moments(z.clamp_min_(_FLOOR))
    return total.log(), first / total, second / total


def _divergence(z: Tensor, log_sum: Tensor, targets: Tensor, reference: Tensor | None) -> dict[str, Tensor]:
    """KL(reference || model) and the reference's log-probability of the targets; `z` is used up."""
    if reference is None:
        unknown = torch.full_like(log_sum, float("nan"))
        return {"kl": unknown, "reference_logprob": unknown}
    if reference.shape != z.shape:
        raise ModelError(
            f"the reference has a vocabulary of {reference.shape[1]} tokens and the model one of {z.shape[1]}; "
            "a divergence needs the same one"
        )
    other = reference.to(z.device).float()
    other.sub_(other.amax(dim=1, keepdim=True)).clamp_min_(_FLOOR)
    other_logprob = other.gather(1, targets[:, None])[:, 0]
    gap = z.clamp_min_(_FLOOR).sub_(other).neg_()
    q = other.exp_()
    total = q.sum(dim=1)
    kl = q.mul_(gap).sum(dim=1) / total - total.log() + log_sum
    return {"kl": kl.clamp_min_(0.0), "reference_logprob": other_logprob - total.log()}


def _sampled_logprob(z: Tensor, of_target: Tensor, targets: Tensor, sampling: Sampling) -> Tensor:
    """[n] log-probability of drawing the target; -inf where it is not among the top k."""
    k = min(sampling.top_k or z.shape[1], z.shape[1])
    if k == z.shape[1]:
        return of_target / sampling.temperature - (z / sampling.temperature).logsumexp(dim=1)
    values, tokens = z.topk(k, dim=1)
    inside = (tokens == targets[:, None]).any(dim=1)
    logprob = of_target / sampling.temperature - (values / sampling.temperature).logsumexp(dim=1)
    return logprob.masked_fill(~inside, float("-inf"))
