"""The output embedding: logits at the labelled positions only, at once or in tiles."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from uwc.data.batches import Batch
from uwc.errors import ModelError
from uwc.models.placement import device_of, value_of

TILE_BYTES = {"cpu": 8 << 20, "mps": 128 << 20, "cuda": 512 << 20}
TILE_ROWS = 512  # enough for a matrix product at full speed
_TILE_STEP = 64  # a multiple of the width of vector units
_RELATIVE_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3}


def unwrapped(model: Any) -> Any:
    """The model inside a data-parallel wrapper, or the model itself."""
    return getattr(model, "module", model)


def head_of(model: Any) -> Any:
    """The model's output embedding. Raises ModelError if it has none."""
    head = unwrapped(model).get_output_embeddings()
    if head is None:
        raise ModelError(f"{type(model).__name__} has no output embedding; give a causal language model")
    return head


@contextmanager
def head_sees(model: Any, choose: Callable[[Tensor], Tensor]) -> Iterator[list[Tensor]]:
    """While open, the output embedding receives ``choose(states)`` as one [1, n, d] in place of the [B, T, d] states.

    The rest of the model's forward runs unchanged, including scaling or soft caps of logits, and no [B, T, V] tensor is
    made. Yields a list that receives the chosen states.
    """
    chosen: list[Tensor] = []

    def replace(_module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        chosen.append(choose(args[0]).unsqueeze(0))
        return (chosen[-1], *args[1:])

    handle = head_of(model).register_forward_pre_hook(replace)
    try:
        yield chosen
    finally:
        handle.remove()


@contextmanager
def replaced_head(model: Any, head: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While open, the output embedding returns ``head(states)``; the rest of the model's forward is unchanged."""
    own = head_of(model)
    before = vars(own).get("forward")
    own.forward = head
    try:
        yield
    finally:
        if before is None:
            del own.forward
        else:
            own.forward = before


def own_steps_after_head(model: Any) -> Callable[[Tensor], Tensor]:
    """The map that the model's forward applies to [n, V] logits after its output embedding; differentiable.

    Runs the forward itself on one token, with the logits in place of those of the output embedding. Works for any
    model.
    """
    device = device_of(model)
    token = torch.zeros(1, 1, dtype=torch.long, device=device)

    def finish(logits: Tensor) -> Tensor:
        with replaced_head(model, lambda _states: logits[None]):
            finished: Tensor = model(input_ids=token, use_cache=False).logits
        if finished.shape != (1, *logits.shape):
            raise _no_plain_head(model)
        return finished[0]

    with torch.no_grad():
        trial = torch.linspace(-99.0, 99.0, head_of(model).weight.shape[0], device=device)[None]
        return (lambda logits: logits) if torch.equal(finish(trial), trial) else finish


def _no_plain_head(model: Any) -> ModelError:
    return ModelError(
        f"{type(model).__name__} does not compute its logits through its output embedding alone, as scoring and "
        "training need; give a model of another architecture"
    )


def labelled_states(states: Tensor, batch: Batch) -> Tensor:
    """[N, d] the states that predict the batch's labelled tokens, of the [B, T, d] states of a device."""
    return states[batch.rows.to(states.device), batch.positions.to(states.device)]


def answer_logits(model: Any, batch: Batch) -> Tensor:
    """[N, V] logits that predict the batch's labelled tokens, differentiable, in the model's dtype.

    Raises:
        ModelError: the model does not compute its logits by its output embedding alone.
    """
    with head_sees(model, lambda states: labelled_states(states, batch)) as chosen:
        logits = model(**batch.inputs, use_cache=False).logits
    if not chosen or logits.shape[:2] != (1, len(batch.rows)):
        raise _no_plain_head(model)
    return logits.squeeze(0)  # type: ignore[no-any-return]  # indexing would allocate zeros for its gradient


def token_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """[N] float32 log-probabilities of the targets under [N, V] logits."""
    logits = logits.float()
    return logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(dim=1)


class AnswerLogits:
    """The [N, V] logits that predict a batch's labelled tokens, computed in tiles.

    The model's own forward gives the states, and the logits of one position; the output embedding and `after_head` give
    the others. If these disagree with the model at that position, its logits involve further steps, and all are
    computed at once by `answer_logits`.

    Attributes:
        rows: N.
        vocabulary: V.
    """

    def __init__(self, model: Any, batch: Batch) -> None:
        states: list[Tensor] = []

        def choose(entering: Tensor) -> Tensor:
            states.append(labelled_states(entering, batch))
            return states[0][:1]

        with head_sees(model, choose):
            own = model(**batch.inputs, use_cache=False).logits[0, 0]
        self.rows, self.vocabulary = len(batch.rows), own.shape[0]
        self._head, self._finish = head_of(model), after_head(model)
        self._weight, self._bias = (value_of(self._head, name) for name in ("weight", "bias"))
        self._states = states[0] if self._weight is None else states[0].to(self._weight.device)
        self._whole: Tensor | None = None
        if not _agree(self.tile(slice(0, 1), slice(0, self.vocabulary))[0], own):
            self._whole = answer_logits(model, batch)

    @property
    def divisible(self) -> bool:
        """Whether logits of a part of the vocabulary can be computed alone: a plain linear map without hooks."""
        head = self._head
        return type(head) is torch.nn.Linear and not head._forward_hooks and not head._forward_pre_hooks

    @property
    def device(self) -> torch.device:
        """The device of the logits."""
        return self._states.device

    def tile(self, rows: slice, tokens: slice) -> Tensor:
        """[n, v] logits of a slice of rows and a slice of tokens, as a new tensor."""
        if self._whole is not None:
            return self._whole[rows, tokens].clone()
        states = self._states[None, rows]
        if not self.divisible:
            return self._finish(self._head(states))[0, :, tokens]
        assert self._weight is not None
        bias = None if self._bias is None else self._bias[tokens]
        return self._finish(linear(states, self._weight[tokens], bias))[0]

    @property
    def weight(self) -> Tensor | None:
        """[V, d] the weight by which alone the states become logits, before `after_head`; None if there is none."""
        return self._weight if self._whole is None and self.divisible else None

    def slopes(self, rows: slice) -> Tensor | None:
        """[n, V] derivatives of each logit in the output embedding's value; None if it is that value."""
        one = torch.ones(1)
        if self._finish(one) is one:
            return None
        with torch.enable_grad():
            raw = self._head(self._states[None, rows])[0].detach().requires_grad_()
            slopes: Tensor = torch.autograd.grad(self._finish(raw).sum(), raw)[0]
        return slopes


def tile_grid(logits: AnswerLogits, *others: AnswerLogits) -> Iterator[tuple[slice, list[slice]]]:
    """Slices of rows, and for each the slices of the vocabulary, such that a tile fits the CPU's cache.

    Raises:
        ModelError: the models have different vocabularies.
    """
    for other in others:
        if other.vocabulary != logits.vocabulary:
            raise ModelError(
                f"the reference has a vocabulary of {other.vocabulary} tokens and the model one of "
                f"{logits.vocabulary}; give the original of this model, with the same vocabulary"
            )
    cells = TILE_BYTES.get(logits.device.type, TILE_BYTES["cpu"]) // 4
    divisible = all(each.divisible for each in (logits, *others))
    width = min(logits.vocabulary, max(cells // TILE_ROWS, cells // logits.rows)) if divisible else logits.vocabulary
    if logits.vocabulary > width > _TILE_STEP:
        width -= width % _TILE_STEP
    height = max(cells // width, 1)
    for top in range(0, logits.rows, height):
        rows = slice(top, min(top + height, logits.rows))
        yield rows, [slice(at, min(at + width, logits.vocabulary)) for at in range(0, logits.vocabulary, width)]


def after_head(model: Any) -> Callable[[Tensor], Tensor]:
    """The map that the model's forward applies to logits after its output embedding, from its configuration.

    Division by ``logits_scaling`` (Granite), multiplication by ``logit_scale`` (Cohere), and ``c tanh(z / c)`` with c
    the ``final_logit_softcapping`` (Gemma).
    """
    config = unwrapped(model).config.get_text_config()
    divisor = getattr(config, "logits_scaling", None)
    factor = getattr(config, "logit_scale", None)
    cap = getattr(config, "final_logit_softcapping", None)

    def finish(logits: Tensor) -> Tensor:
        if divisor is not None:
            logits = logits / divisor
        if factor is not None:
            logits = logits * factor
        return logits if cap is None else torch.tanh(logits / cap) * cap

    return finish


def relative_tolerance(dtype: torch.dtype) -> float:
    """Relative tolerance of two computations of a logit in this precision."""
    return _RELATIVE_TOLERANCE.get(dtype, 1e-4)


def _agree(ours: Tensor, own: Tensor) -> bool:
    """Whether two [V] logits are equal up to rounding; NaN where both are NaN counts as equal."""
    if ours.shape != own.shape:
        return False
    ours = ours.to(own.device)
    bound = relative_tolerance(own.dtype) * float(own.float().nan_to_num(0, 0, 0).abs().max())
    return torch.allclose(ours.float(), own.float(), rtol=0.0, atol=bound, equal_nan=True)
