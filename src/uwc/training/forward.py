"""The forward passes of a step: of the model in training, and of its frozen reference."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import embedding, linear

from uwc.data.batches import Batch, collate
from uwc.data.prompts import EncodedExample
from uwc.errors import ModelError
from uwc.models.adapters import adapter_off, has_adapter
from uwc.models.batching import BATCH_COST
from uwc.models.head import answer_logits, unwrapped
from uwc.models.model import Batching, Model
from uwc.models.states import blocks, capturing_states, shifting_outputs
from uwc.objectives.forwards import Pass, target_logprobs
from uwc.objectives.objective import Objective
from uwc.training.data import Key
from uwc.training.distributed import is_sharded
from uwc.training.settings import TrainingSettings

WORTH = 0.95
"""The most that a shared forward pass may cost, as a share of separate ones: it holds activations of all its roles."""


class DetachedForwards:
    """The outputs of a step's forwards, detached from the graph of its loss, for a backward pass one forward at a time.

    A weight has a gradient from each forward that used it. In one graph autograd holds the first, for all weights,
    until the second is there: as much memory again as the gradients take. Here each is added to ``grad`` at once, and
    the activations of a forward are freed before those of the next are read.
    """

    def __init__(self) -> None:
        self._forwards: list[list[tuple[Tensor, Tensor]]] = []

    def detach(self, outputs: Mapping[Any, Tensor]) -> dict[Any, Tensor]:
        """The outputs of one forward pass as leaves of a separate graph."""
        leaves = {name: output.detach().requires_grad_(output.requires_grad) for name, output in outputs.items()}
        self._forwards.append([(output, leaves[name]) for name, output in outputs.items()])
        return leaves

    def backward(self) -> None:
        """Continue from the leaves, whose gradients are known; the latest forward pass first."""
        while self._forwards:
            read = [(output, leaf.grad) for output, leaf in self._forwards.pop() if leaf.grad is not None]
            if read:
                torch.autograd.backward([output for output, _ in read], [gradient for _, gradient in read])


def run_passes(
    model: Any,
    objective: Objective,
    batches: Mapping[str, Batch],
    *,
    detached: DetachedForwards | None = None,
    sharing: Batching | None = None,
) -> dict[str, Pass]:
    """The trained model's pass for each role, before any trick; without outputs where tokens alone are read.

    Roles whose passes end at the same depth go through the model together where that costs less: they are padded to
    the longest, but a forward has costs of its own. In a sharded model they always do: every process must make the
    same number of forwards, and lengths differ.

    Args:
        model: the model, possibly wrapped for data-parallel training.
        objective: says what is read of each role.
        batches: role -> its examples.
        detached: detaches the passes from the graphs of the forwards.
        sharing: which sequences may share a forward; any by default. Those of each role are taken to be such.

    Raises:
        ModelError: a sharded model must read sequences together that it may not.
    """
    passes = {role: Pass(batch) for role, batch in batches.items() if not objective.reads(role)}
    order, batches = list(batches), {role: batch for role, batch in batches.items() if role not in passes}
    sharing, sharded = sharing or Batching(), is_sharded(model)
    if sharded and not sharing.share([batch.input_ids.shape[1] for batch in batches.values()]):
        raise ModelError("this model's results depend on what it reads together; train it without sharding (FSDP)")
    for roles in _groups(objective, batches, sharing, together=sharded):
        joint = join([batches[role] for role in roles])
        layers = sorted({layer for role in roles for layer in objective.layers(role)})
        logits, values = run_model(model, joint, layers=layers, logits=bool(objective.reads(roles[0]) - {"states"}))
        outputs: dict[Any, Tensor] = dict(values)
        if logits is not None and any("logits" in objective.reads(role) for role in roles):
            outputs["logits"] = logits
        elif logits is not None:
            outputs["logprobs"] = target_logprobs(logits, joint.targets)
        passes |= _split(objective, roles, batches, outputs if detached is None else detached.detach(outputs))
    return {role: passes[role] for role in order}


def separate_roles(objective: Objective, batches: Mapping[str, Batch], sharing: Batching) -> list[list[str]]:
    """Groups of roles whose gradients can be computed one after the other: no term reads passes of two of them, and no
    two share a forward pass. Those with most tokens are first.

    Args:
        objective: the terms.
        batches: role -> its examples.
        sharing: which sequences may share a forward.
    """
    groups: list[set[str]] = []
    read = {role: batch for role, batch in batches.items() if objective.reads(role)}
    linked = [*_groups(objective, read, sharing, together=False), *(term.read_roles for term in objective.terms)]
    for roles in map(set, linked):
        touching = [group for group in groups if group & roles]
        groups = [group for group in groups if group not in touching] + [roles.union(*touching)]
    groups.sort(key=lambda roles: -sum(batches[role].input_ids.numel() for role in roles))
    return [[role for role in batches if role in group] for group in groups]


def run_model(
    model: Any, batch: Batch, *, layers: Sequence[int], logits: bool
) -> tuple[Tensor | None, dict[int, Tensor]]:
    """One forward pass: [N, V] logits that predict the labelled tokens, if `logits`, and [N, d] states by layer.

    Without logits the forward ends after the deepest of the layers. The batch's shifts are in all states.
    """
    if logits:
        with shifting_outputs(model, batch.shifts), capturing_states(model, layers, batch) as states:
            return answer_logits(model, batch), states
    with shifting_outputs(model, batch.shifts), capturing_states(model, layers, batch) as states:
        if unwrapped(model) is model and not is_sharded(model):
            handle = blocks(model)[max(layers) - 1].register_forward_hook(_stop)
            try:
                model(input_ids=batch.input_ids, use_cache=False)
            except _Reached:
                pass
            finally:
                handle.remove()
            return None, states
        # in parallel, the gradient of every weight that the output depends on is waited for: add a zero
        nothing = answer_logits(model, batch)[:0].sum()
        return None, {layer: values + nothing for layer, values in states.items()}


def join(batches: Sequence[Batch]) -> Batch:
    """The examples of several batches in one, padded to the longest; labelled tokens stay in order.

    Either none of them has shifts, or all do, of the same blocks.
    """
    if len(batches) == 1:
        return batches[0]
    width = max(b.input_ids.shape[1] for b in batches)
    starts = torch.tensor([0, *[b.size for b in batches[:-1]]]).cumsum(0).tolist()
    padded = [torch.nn.functional.pad(b.input_ids, (0, width - b.input_ids.shape[1])) for b in batches]
    shifts = [b.shifts for b in batches if b.shifts is not None]
    longest = {
        layer: torch.cat([functional.pad(s[layer], (0, 0, 0, width - s[layer].shape[1])) for s in shifts])
        for layer in (shifts[0] if shifts else ())
    }
    return Batch(
        input_ids=torch.cat(padded),
        rows=torch.cat([b.rows + start for b, start in zip(batches, starts, strict=True)]),
        positions=torch.cat([b.positions for b in batches]),
        targets=torch.cat([b.targets for b in batches]),
        in_answer=torch.cat([b.in_answer for b in batches]),
        shifts=longest or None,
    )


def _groups(
    objective: Objective, batches: Mapping[str, Batch], sharing: Batching, *, together: bool
) -> list[list[str]]:
    """Roles that share a forward pass, those with most tokens last, as their backward pass is first."""
    groups: list[list[str]] = []
    for deep in (True, False):
        roles = [role for role in batches if bool(objective.reads(role) - {"states"}) == deep]
        apart = sum(batches[role].input_ids.numel() for role in roles)
        width = max((batches[role].input_ids.shape[1] for role in roles), default=0)
        joint = width * sum(batches[role].size for role in roles)
        saved = sum(BATCH_COST.get(batches[role].input_ids.device.type, BATCH_COST["cpu"]) for role in roles[1:])
        may_share = sharing.share([batches[role].input_ids.shape[1] for role in roles])
        cheaper = may_share and joint <= WORTH * (apart + saved)
        groups += [roles] if roles and (together or cheaper) else [[role] for role in roles]
    return sorted(groups, key=lambda roles: sum(batches[role].input_ids.numel() for role in roles))


def _split(
    objective: Objective, roles: Sequence[str], batches: Mapping[str, Batch], outputs: Mapping[Any, Tensor]
) -> dict[str, Pass]:
    """Each role's part of the outputs of a shared forward pass."""
    sizes = [len(batches[role].rows) for role in roles]
    parts = {name: torch.split(values, sizes) if len(roles) > 1 else (values,) for name, values in outputs.items()}
    passes = {}
    for i, role in enumerate(roles):
        of_role = {name: values[i] for name, values in parts.items()}
        states = {layer: of_role[layer] for layer in objective.layers(role)}
        passes[role] = Pass(batches[role], of_role.get("logits"), states, known_logprobs=of_role.get("logprobs"))
    return passes


class _Reached(Exception):
    """Ends a forward pass after the deepest layer that is read."""


def _stop(_module: Any, _args: Any, _output: Any) -> None:
    raise _Reached


@contextmanager
def attention_in_float32(device: torch.device, precision: str) -> Iterator[None]:
    """While open, attention within autocast to 16 bits is computed in float32 on a CPU.

    The backward pass of the fused kernel takes half the time there. It is to be open in backward passes, too, which
    compute attention again under gradient checkpointing.

    Args:
        device: the model's.
        precision: of the training.
    """
    if device.type != "cpu" or precision not in COMPUTE_DTYPES:
        yield
        return
    attend = functional.scaled_dot_product_attention

    def attended(*args: Any, **named: Any) -> Tensor:
        if not torch.is_autocast_enabled("cpu"):
            return attend(*args, **named)
        with torch.autocast("cpu", enabled=False):
            found = attend(*map(_in_float32, args), **{name: _in_float32(value) for name, value in named.items()})
        return found.to(torch.get_autocast_dtype("cpu"))

    functional.scaled_dot_product_attention = attended
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = attend


def _in_float32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


@contextmanager
def embedding_gradients(model: Any) -> Iterator[None]:
    """While open, ``backward()`` adds the gradients of both embeddings to ``weight.grad`` in place.

    Autograd makes a [V, d] tensor of the input embedding's, nearly all zeros, and one of the output embedding's for
    each forward, and then adds them up; for a small model each is a good part of all its memory. The values are the
    same up to the order of a sum. An embedding that is more than a table or a matrix (a subclass, hooks on a table, a
    norm, a bias) is left as it is. `torch.autograd.grad` does not see these gradients, and neither do hooks on the
    weights.
    """
    table: Any = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    head: Any = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    with ExitStack() as replaced:
        if _is_table(table):
            anchor = torch.zeros((), requires_grad=True)
            table.forward = lambda ids: _Rows.apply(ids, anchor, table)  # type: ignore[no-untyped-call]
            replaced.callback(vars(table).pop, "forward")
        if _is_matrix(head):
            head.forward = lambda states: _product(states, head)
            replaced.callback(vars(head).pop, "forward")
        yield


def _is_table(table: Any) -> bool:
    return (
        type(table) is torch.nn.Embedding
        and table.weight.requires_grad
        and table.max_norm is None
        and not (table.scale_grad_by_freq or table.sparse)
        and not (table._forward_hooks or table._forward_pre_hooks or "forward" in vars(table))
    )


def _is_matrix(head: Any) -> bool:
    return (
        type(head) is torch.nn.Linear
        and head.weight.requires_grad
        and head.bias is None
        and "forward" not in vars(head)
    )


def _product(states: Tensor, head: torch.nn.Linear) -> Tensor:
    if not states.requires_grad:
        return linear(states, head.weight)
    logits: Tensor = _Product.apply(states, head)  # type: ignore[no-untyped-call]
    return logits


class _Rows(torch.autograd.Function):
    """Embedding lookup; `anchor` takes the place of the weight in autograd, whose gradient is added in `backward`."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, anchor: Tensor, table: torch.nn.Embedding) -> Tensor:
        ctx.ids, ctx.table = ids, table
        return embedding(ids, table.weight.detach())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:
        ids, weight = ctx.ids.flatten(), ctx.table.weight
        rows = gradient.flatten(0, -2).to(weight.dtype)
        if ctx.table.padding_idx is not None:
            rows = rows.masked_fill((ids == ctx.table.padding_idx)[:, None], 0.0)
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        weight.grad.index_add_(0, ids, rows)
        return None, None, None


class _Product(torch.autograd.Function):
    """``states @ weight.T``, under autocast in its precision; weights in another one are cast again for `backward`."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, head: torch.nn.Linear) -> Tensor:
        logits = linear(states, head.weight.detach())
        ctx.save_for_backward(states.to(logits.dtype))
        ctx.head, ctx.dtype = head, states.dtype
        return logits

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (states,), weight = ctx.saved_tensors, ctx.head.weight
        rows, states = gradient.flatten(0, -2), states.flatten(0, -2)
        if weight.grad is None:
            weight.grad = (rows.T @ states).to(weight.dtype)
        elif rows.dtype == weight.dtype:
            weight.grad.addmm_(rows.T, states)
        else:
            weight.grad.add_(rows.T @ states)
        return (gradient @ weight.detach().to(gradient.dtype)).to(ctx.dtype), None


COMPUTE_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

TOKEN_BUDGET = 1024
"""Padded tokens in a batch of the original's; small, so that its logits do not decide the run's peak memory."""


def needs_frozen_copy(objective: Objective, settings: TrainingSettings) -> bool:
    """Whether a second copy of the weights must be held while training.

    It is for terms that read the original's logits or states at every step, and for its log-probabilities of answers
    that are sampled again on the way; with an adapter the original is the model without it.
    """
    sampled_again = settings.samples.every is not None and "sampled.reference_logprobs" in objective.needs
    return settings.lora is None and (objective.needs_reference_model or sampled_again)


def frozen_copy(model: Any, settings: TrainingSettings) -> Any:
    """The model itself as a frozen reference, in place: in eval mode, its weights in the precision of training.

    Buffers keep theirs: positions rounded to 16 bits would turn far tokens by whole radians.
    """
    dtype = COMPUTE_DTYPES.get(settings.precision)
    for parameter in model.parameters():
        if dtype is not None and parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    return model.requires_grad_(False).eval()


class Reference:
    """The values of the model before training that the terms declare.

    Log-probabilities of fixed answers are computed once and kept; a frozen copy of the weights is kept only if a term
    needs its logits or states at every step, and with an adapter no copy at all: the original is the model without it.

    Args:
        model: the model before training.
        objective: declares the values.
        settings: of the run.
        frozen: a `frozen_copy` of the original to use instead of making one, so that several runs may share it.
        autocast: makes the context in which the trained model's forwards run too.

    Attributes:
        copy: the frozen copy, where one is held.
    """

    def __init__(
        self,
        model: Model,
        objective: Objective,
        settings: TrainingSettings,
        *,
        frozen: Any = None,
        autocast: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._model, self._objective, self._autocast = model, objective, autocast
        self._logprobs: dict[tuple[str, Key], Tensor] = {}
        self.copy: Any = None
        if needs_frozen_copy(objective, settings) and not has_adapter(model.model):
            self.copy = frozen or frozen_copy(copy.deepcopy(model.model), settings)

    @torch.no_grad()
    def remember(self, role: str, examples: Mapping[Key, EncodedExample]) -> None:
        """Compute the log-probabilities of a role's examples, at the temperature of training, where a term needs them.

        Without a frozen copy, must be called while the weights of the model are still the original's.
        """
        if f"{role}.reference_logprobs" not in self._objective.needs:
            return
        keys = list(examples)
        groups = self._model.groups([examples[k] for k in keys], token_budget=TOKEN_BUDGET)
        with self._frozen() as model:
            for group in groups:
                scope = self._objective.scope(role)
                batch = collate([examples[keys[i]] for i in group], device=model.device, scope=scope)
                with self._autocast():
                    logits, _ = run_model(model, batch, layers=(), logits=True)
                logprobs = self._objective.apply_tricks(role, Pass(batch, logits)).logprobs
                sizes = torch.bincount(batch.rows, minlength=batch.size).tolist()
                for index, values in zip(group, torch.split(logprobs, sizes), strict=True):
                    self._logprobs[role, keys[index]] = values

    @torch.no_grad()
    def values(self, role: str, keys: Sequence[Key], batch: Batch) -> dict[str, Tensor | Mapping[int, Tensor]]:
        """The reference values of a micro-batch, by the names that terms declare.

        Args:
            role: the batch's role.
            keys: its examples' keys.
            batch: the micro-batch.
        """
        values: dict[str, Tensor | Mapping[int, Tensor]] = {}
        if f"{role}.reference_logprobs" in self._objective.needs:
            values[f"{role}.reference_logprobs"] = torch.cat([self._logprobs[role, key] for key in keys])
        wanted = {f"{role}.reference_logits", f"{role}.reference_states"} & self._objective.needs
        if wanted:
            needs_logits = f"{role}.reference_logits" in wanted
            with self._frozen() as model, self._autocast():
                logits, states = run_model(model, batch, layers=self._objective.layers(role), logits=needs_logits)
            if logits is not None:
                values[f"{role}.reference_logits"] = self._objective.apply_tricks(role, Pass(batch, logits)).logits
            values[f"{role}.reference_states"] = states
        return {name: value for name, value in values.items() if name in self._objective.needs}

    @contextmanager
    def _frozen(self) -> Iterator[Any]:
        """The original model: the frozen copy, the model with its adapter off, or the model itself before training."""
        if self.copy is not None:
            yield self.copy
        else:
            with adapter_off(self._model.model) as model:
                training = model.training
                model.eval()
                yield model
                model.train(training)
