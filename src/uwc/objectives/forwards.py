"""The forward passes of one training step, which the loss terms read, and their log-probabilities."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from uwc.data.batches import Batch
from uwc.objectives.registry import role_of

_ROWS, _CACHE_BYTES = 256, 2 << 20


def chunk_rows(logits: Tensor) -> int:
    """The number of rows in a chunk; on a CPU as many as fit its cache."""
    return _ROWS if logits.is_cuda else max(_CACHE_BYTES // (4 * logits.shape[1]), 8)


def target_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """[N] float32 log-probabilities ``z_y - log sum_v exp z_v`` of the targets [N] under logits [N, V]."""
    result: Tensor = _TargetLogprobs.apply(logits, targets)  # type: ignore[no-untyped-call]
    return result


def divergence(reference: Tensor, logits: Tensor) -> Tensor:
    """[N] float32 ``KL(softmax(reference) || softmax(logits))`` in nats; no gradient flows to the reference."""
    result: Tensor = _Divergence.apply(reference, logits)  # type: ignore[no-untyped-call]
    return result


def jensen_shannon_divergence(reference: Tensor, logits: Tensor) -> Tensor:
    """[N] float32 ``(KL(q || m) + KL(p || m)) / 2`` in nats, ``m = (p + q) / 2``, of ``q = softmax(reference)`` and
    ``p = softmax(logits)``; between 0 and log 2. No gradient flows to the reference."""
    result: Tensor = _JensenShannon.apply(reference, logits)  # type: ignore[no-untyped-call]
    return result


def _log_normalizers(logits: Tensor) -> Tensor:
    return torch.cat(
        [part.float().logsumexp(dim=1) for part in torch.split(logits, chunk_rows(logits))]
        or [logits.new_zeros(0).float()]
    )


def _parts(logits: Tensor) -> Iterator[slice]:
    size = chunk_rows(logits)
    return (slice(start, start + size) for start in range(0, len(logits), size))


def _float32(memory: Tensor) -> Tensor:
    """A float32 buffer for a gradient that is written to `memory`: `memory` itself if it is float32, else a new one."""
    return memory if memory.dtype == torch.float32 else torch.empty_like(memory, dtype=torch.float32)


def _put(piece: Tensor, memory: Tensor) -> None:
    """Copy the buffer ``_float32(memory)`` to `memory`, unless it is the same."""
    if piece is not memory:
        memory.copy_(piece)


class _TargetLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        normalizers = _log_normalizers(logits)
        ctx.save_for_backward(logits, targets, normalizers)
        return logits.gather(1, targets[:, None])[:, 0].float() - normalizers

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        logits, targets, normalizers = ctx.saved_tensors
        result = torch.empty_like(logits)
        for part in _parts(logits):
            memory = result[part]
            piece = torch.sub(logits[part], normalizers[part, None], out=_float32(memory))
            piece.exp_().mul_(-gradient[part, None])
            piece.scatter_add_(1, targets[part, None], gradient[part, None])
            _put(piece, memory)
        return result, None


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, reference: Tensor, logits: Tensor) -> Tensor:
        result, ours, theirs = (torch.empty(len(logits), device=logits.device) for _ in range(3))
        for part in _parts(logits):
            z, z_reference = logits[part].float(), reference[part].float()
            ours[part], theirs[part] = z.logsumexp(dim=1), z_reference.logsumexp(dim=1)
            log_q = z_reference - theirs[part, None]
            difference = (log_q - z).add_(ours[part, None])
            q = log_q.exp_()
            result[part] = difference.mul_(q).masked_fill_(q == 0, 0.0).sum(dim=1)  # 0 log 0 = 0, also where z = -inf
        ctx.save_for_backward(reference, logits, theirs, ours)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        reference, logits, theirs, ours = ctx.saved_tensors
        result = torch.empty_like(logits)
        for part in _parts(logits):
            memory = result[part]
            p = torch.sub(logits[part], ours[part, None], out=_float32(memory)).exp_()
            q = (reference[part].float() - theirs[part, None]).exp_()
            _put(p.sub_(q).mul_(gradient[part, None]), memory)
        return None, result


class _JensenShannon(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, reference: Tensor, logits: Tensor) -> Tensor:
        result = torch.empty(len(logits), device=logits.device)
        theirs, ours = _log_normalizers(reference), _log_normalizers(logits)
        for part in _parts(logits):
            log_q, log_p, log_m = _with_mean(reference[part], logits[part], theirs[part, None], ours[part, None])
            result[part] = (_divergence_of(log_q, log_m) + _divergence_of(log_p, log_m)) / 2
        ctx.save_for_backward(reference, logits, theirs, ours)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        """``dL/dz_v = p_v (log(p_v / m_v) - KL(p || m)) / 2``."""
        reference, logits, theirs, ours = ctx.saved_tensors
        result = torch.empty_like(logits)
        for part in _parts(logits):
            _, log_p, log_m = _with_mean(reference[part], logits[part], theirs[part, None], ours[part, None])
            p, ratio = log_p.exp(), (log_p - log_m).nan_to_num_(0.0, neginf=0.0)  # where z = -inf, p is 0
            ratio.sub_((p * ratio).sum(dim=1, keepdim=True))
            result[part] = p.mul_(ratio).mul_(gradient[part, None] / 2).to(result.dtype)
        return None, result


def _with_mean(reference: Tensor, logits: Tensor, theirs: Tensor, ours: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[n, V] float32 log-probabilities of the reference, of the model and of their mean, from [n, 1] normalizers."""
    log_q, log_p = reference.float() - theirs, logits.float() - ours
    return log_q, log_p, torch.logaddexp(log_p, log_q) - math.log(2)


def _divergence_of(log_p: Tensor, log_m: Tensor) -> Tensor:
    """[n] ``sum_v p_v log(p_v / m_v)``; 0 log 0 is 0."""
    p = log_p.exp()
    return (p * (log_p - log_m)).masked_fill_(p == 0, 0.0).sum(dim=1)


@dataclass(eq=False)
class Pass:
    """The forward pass of one batch, with N labelled tokens of B examples. Has only what some term declares.

    Attributes:
        batch: the tokens.
        all_logits: [N, V] logits that predict them, in the precision of the forward pass; in float32 after temperature
            scaling if that trick is used.
        states: layer -> [N, d] hidden states that predict them, for the declared layers.
        weights: [N] weight of each token in losses; 1 unless a trick changed it.
        selected: [N] True for the tokens in means; all unless a trick selected some.
        unread: number of tokens at the start of each answer that no term reads; loss selection skips them.
        known_logprobs: [N] log-probabilities of the labelled tokens, if they were computed without keeping logits.
    """

    batch: Batch
    all_logits: Tensor | None = None
    states: Mapping[int, Tensor] = field(default_factory=dict)
    weights: Tensor | None = None
    selected: Tensor | None = None
    unread: int = 0
    known_logprobs: Tensor | None = None

    @property
    def logits(self) -> Tensor:
        """[N, V] logits that predict the labelled tokens, in the precision of the forward pass: sums over the
        vocabulary need their ``float()``. Raises LookupError if no term declared ``ROLE.logits``."""
        if self.all_logits is None:
            raise LookupError("the logits of this pass were not kept; declare 'ROLE.logits' to read them")
        return self.all_logits

    @cached_property
    def logprobs(self) -> Tensor:
        """[N] float32 log-probabilities of the labelled tokens."""
        if self.known_logprobs is not None:
            return self.known_logprobs
        return target_logprobs(self.logits, self.batch.targets)

    def total(self, values: Tensor, *, attended: bool = False) -> Tensor:
        """[B] weighted sum of [N] values over each example's answer, or over all labelled tokens."""
        if not attended:
            values = values * self.batch.in_answer
        if self.weights is not None:
            values = values * self.weights
        zeros = torch.zeros(self.batch.size, dtype=values.dtype, device=values.device)
        return zeros.index_add(0, self.batch.rows, values)

    def counts(self) -> Tensor:
        """[B] number of answer tokens of each example in means, including the end-of-sequence token."""
        counted = self.batch.in_answer if self.selected is None else self.batch.in_answer & self.selected
        zeros = torch.zeros(self.batch.size, device=counted.device)
        return zeros.index_add(0, self.batch.rows, counted.float())

    def order_in_answer(self) -> Tensor:
        """[N] position of each token in its answer, from 0; negative before the answer."""
        places = torch.arange(len(self.batch.rows), device=self.batch.rows.device)
        firsts = torch.full((self.batch.size,), len(places), device=places.device)
        firsts = firsts.scatter_reduce(0, self.batch.rows[self.batch.in_answer], places[self.batch.in_answer], "amin")
        return places - firsts[self.batch.rows]


class Forwards:
    """The inputs of the terms of one step; reading an undeclared one is an error.

    Args:
        passes: role -> the trained model's pass.
        references: "ROLE.reference_logprobs" -> [N], "ROLE.reference_logits" -> [N, V],
            "ROLE.reference_states" -> {layer: [N, d]}, of the frozen original model.
    """

    def __init__(self, passes: Mapping[str, Pass], references: Mapping[str, Tensor | Mapping[int, Tensor]]) -> None:
        self._values: dict[str, Pass | Tensor | Mapping[int, Tensor]] = {**passes, **references}

    def only(self, needs: tuple[str, ...], roles: Mapping[str, str] | None = None) -> "Forwards":
        """A view with the declared inputs only.

        Args:
            needs: the needs of a term: "ROLE" (log-probabilities), "ROLE.logits", "ROLE.states", "ROLE.tokens",
                "ROLE.reference_*".
            roles: declared role -> the role used for it, if it is another.
        """
        view = Forwards({}, {})
        wants_logits = {role_of(need) for need in needs if need.endswith(".logits")}
        for need in needs:
            role, _, what = need.partition(".")
            actual = (roles or {}).get(role, role)
            if what.startswith("reference_"):
                view._values[need] = self._values[f"{actual}.{what}"]
            elif role not in view._values:
                passed, no_logprobs = self.pass_of(actual), what in ("states", "tokens")
                view._values[role] = passed if role in wants_logits else _without_logits(passed, no_logprobs)
        return view

    def _get(self, name: str) -> object:
        if name not in self._values:
            raise LookupError(f"the term reads {name!r} but declares only {sorted(self._values)}")
        return self._values[name]

    def pass_of(self, role: str) -> Pass:
        """The trained model's pass over the examples of a role."""
        value = self._get(role)
        if not isinstance(value, Pass):
            raise LookupError(f"{role!r} is not a pass")
        return value

    @property
    def forget(self) -> Pass:
        """The pass over the forget examples."""
        return self.pass_of("forget")

    @property
    def retain(self) -> Pass:
        """The pass over the retain examples."""
        return self.pass_of("retain")

    @property
    def refusal(self) -> Pass:
        """The pass over the forget questions answered with refusals."""
        return self.pass_of("refusal")

    def reference_logprobs(self, role: str) -> Tensor:
        """[N] the original model's log-probabilities of the labelled tokens."""
        value = self._get(f"{role}.reference_logprobs")
        if not isinstance(value, Tensor):
            raise LookupError(f"{role}.reference_logprobs is not a tensor")
        return value

    def reference_logits(self, role: str) -> Tensor:
        """[N, V] the original model's logits."""
        value = self._get(f"{role}.reference_logits")
        if not isinstance(value, Tensor):
            raise LookupError(f"{role}.reference_logits is not a tensor")
        return value

    def reference_states(self, role: str, layer: int) -> Tensor:
        """[N, d] the original model's hidden states after block `layer`."""
        value = self._get(f"{role}.reference_states")
        if isinstance(value, Tensor | Pass) or not isinstance(value, Mapping):
            raise LookupError(f"{role}.reference_states is not a mapping")
        states = value[layer]
        if not isinstance(states, Tensor):
            raise LookupError(f"{role}.reference_states[{layer}] is not a tensor")
        return states


def _without_logits(passed: Pass, no_logprobs: bool) -> Pass:
    """The pass without its logits, and with its log-probabilities unless only states or tokens were declared."""
    return replace(passed, all_logits=None, known_logprobs=None if no_logprobs else passed.logprobs)
