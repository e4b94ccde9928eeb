"""Training as a plain loop does it: two models, full logits in float32 for every position, padded to the longest."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from uwc.data.prompts import EncodedExample
from uwc.training.data import Loader
from uwc.training.settings import TrainingSettings


def padded(examples: tuple[EncodedExample, ...], device: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, attention mask, and labels with -100 where no loss is taken."""
    width = max(len(e.tokens) for e in examples)
    ids = torch.tensor([list(e.tokens) + [0] * (width - len(e.tokens)) for e in examples], device=device)
    mask = torch.tensor([[1] * len(e.tokens) + [0] * (width - len(e.tokens)) for e in examples], device=device)
    places = torch.arange(width, device=device)[None, :]
    starts = torch.tensor([[e.start] for e in examples], device=device)
    return ids, mask, ids.masked_fill((places < starts) | (mask == 0), -100)


def logits_of(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """[B, T - 1, V] logits in float32."""
    return model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()


def sequence_nll(logits: Tensor, labels: Tensor) -> Tensor:
    """[B] negative log-likelihoods, summed over the answer."""
    loss = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="none")
    return loss.view(labels.shape[0], -1).sum(dim=1)


def npo(model: Any, frozen: Any, roles: Any, device: Any) -> Tensor:
    ids, mask, labels = padded(roles["forget"].encoded, device)
    ours = sequence_nll(logits_of(model, ids, mask), labels)
    with torch.no_grad():
        theirs = sequence_nll(logits_of(frozen, ids, mask), labels)
    return (-(2 / 0.5) * F.logsigmoid(0.5 * (ours - theirs))).mean()


def dpo(model: Any, frozen: Any, roles: Any, device: Any) -> Tensor:
    margin = torch.zeros(len(roles["forget"].keys), device=device)
    for role, sign in (("forget", 1), ("refusal", -1)):
        ids, mask, labels = padded(roles[role].encoded, device)
        ours = sequence_nll(logits_of(model, ids, mask), labels)
        with torch.no_grad():
            theirs = sequence_nll(logits_of(frozen, ids, mask), labels)
        margin = margin + sign * (ours - theirs)
    return (-(2 / 0.1) * F.logsigmoid(0.1 * margin)).mean()


def kl(model: Any, frozen: Any, roles: Any, device: Any) -> Tensor:
    ids, mask, labels = padded(roles["forget"].encoded, device)
    nll = sequence_nll(logits_of(model, ids, mask), labels)
    ascent = -nll.sum() / (labels[:, 1:] != -100).sum()
    ids, mask, labels = padded(roles["retain"].encoded, device)
    with torch.no_grad():
        theirs = logits_of(frozen, ids, mask).log_softmax(-1)
    ours = logits_of(model, ids, mask).log_softmax(-1)
    answer = labels[:, 1:] != -100
    divergence = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1)
    return ascent + (divergence * answer).sum() / answer.sum()


def fine_tuning(model: Any, _frozen: Any, roles: Any, device: Any) -> Tensor:
    ids, mask, labels = padded(roles["retain"].encoded, device)
    return sequence_nll(logits_of(model, ids, mask), labels).sum() / (labels[:, 1:] != -100).sum()


LOSSES: dict[str, Callable[..., Tensor]] = {"npo": npo, "dpo": dpo, "kl": kl, "fine-tuning": fine_tuning}


def plain_loop(method: str, model: Any, frozen: Any, loader: Loader, settings: TrainingSettings) -> Iterator[float]:
    """Train on the loader's steps; yields each step's loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=0.0)
    model.train()
    for step in loader.plan:
        (micro,) = loader.micro_batches(step, None)
        device = next(model.parameters()).device
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            loss = LOSSES[method](model, frozen, micro.roles, device)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip or 1e9)
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()
