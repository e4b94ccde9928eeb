"""Whether a model collapsed: its perplexity on what it should keep, against the original's."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from uwc.data.batches import collate
from uwc.data.example import Example
from uwc.models.head import answer_logits
from uwc.models.model import DEFAULT_TOKEN_BUDGET, Target
from uwc.objectives.forwards import target_logprobs

EXAMPLES = 100
BOUND = 10.0


@dataclass(frozen=True)
class Collapse:
    """Retain perplexity before and after training.

    Attributes:
        before: the original's, per answer token.
        after: the trained model's; infinite where it overflows.
        bound: how many times the original's is too much.
    """

    before: float
    after: float
    bound: float = BOUND

    @property
    def collapsed(self) -> bool:
        """Whether the perplexity is beyond the bound."""
        return not self.after <= self.bound * self.before

    def record(self) -> dict[str, float | bool | None]:
        """As plain data; an infinite perplexity is None."""
        values = {name: value if math.isfinite(value) else None for name, value in asdict(self).items()}
        return {**values, "collapsed": self.collapsed}


@torch.inference_mode()
def retain_perplexity(target: Target, examples: Sequence[Example]) -> float:
    """``exp`` of the mean NLL per answer token over the first `EXAMPLES` examples, end-of-sequence token included."""
    encoded = target.encode(examples[:EXAMPLES])
    was_training = target.model.training
    target.model.eval()
    total, tokens = 0.0, 0
    for group in target.groups(encoded, token_budget=DEFAULT_TOKEN_BUDGET):
        batch = collate([encoded[i] for i in group], device=target.device)
        logprobs = target_logprobs(answer_logits(target.model, batch), batch.targets)
        total, tokens = total - float(logprobs.double().sum()), tokens + len(logprobs)
    target.model.train(was_training)
    mean = total / max(tokens, 1)
    return math.exp(mean) if mean < 700 else (math.inf if mean == mean else math.nan)
