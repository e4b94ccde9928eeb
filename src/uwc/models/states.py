"""Hidden states at chosen depths, captured during a model's forward pass."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from uwc import progress
from uwc.data.batches import Batch, collate
from uwc.data.example import Example
from uwc.data.prompts import EncodedExample
from uwc.errors import ConfigError, ModelError
from uwc.models.batching import DEFAULT_TOKEN_BUDGET, results_in_batches, token_budget_of
from uwc.models.chunks import Columns
from uwc.models.contrast import ContrastModel
from uwc.models.head import head_sees, labelled_states, unwrapped
from uwc.models.model import Model


def blocks(model: Any) -> nn.ModuleList:
    """The text model's transformer blocks in order, without the other towers of a multimodal model.

    Raises:
        ModelError: there is no such list, or the model is a contrast of two.
    """
    inner = unwrapped(model)
    if isinstance(inner, ContrastModel):
        raise ModelError("a contrast of two models has no blocks of its own; take its base or its reinforced model")
    depth = inner.config.get_text_config().num_hidden_layers
    for decoder in (inner.get_decoder() if hasattr(inner, "get_decoder") else inner, inner):
        lists = [child for child in decoder.children() if isinstance(child, nn.ModuleList) and len(child)]
        nested = [module for module in decoder.modules() if isinstance(module, nn.ModuleList) and len(module) == depth]
        right = [child for child in lists if len(child) == depth] or (lists if len(lists) == 1 else nested)
        if right:
            return right[0]
    raise ModelError(
        f"{type(inner).__name__}: found no list of {depth} transformer blocks, whose states and weights this needs; "
        "leave the metric, method or attack out for this model"
    )


def embedding_of(model: Any) -> Any:
    """The model's input embedding. Raises ModelError for a contrast of two models, which has two."""
    inner = unwrapped(model)
    if isinstance(inner, ContrastModel):
        raise ModelError("a contrast of two models has two input embeddings; take its base or its reinforced model")
    return inner.get_input_embeddings()


def resolve_layer(model: Any, layer: int | None, *, where: str = "layer") -> int:
    """A depth in 1..L with L the number of blocks; None is a third of L, negative numbers count from the last.

    Args:
        model: the model, or its number of blocks.
        layer: the setting.
        where: its name, for the message.

    Raises:
        ConfigError: there is no such block.
    """
    depth = model if isinstance(model, int) else len(blocks(model))
    if layer is None:
        return max(1, round(depth / 3))
    resolved = layer + depth + 1 if layer < 0 else layer
    if not 1 <= resolved <= depth:
        raise ConfigError(
            f"{where} = {layer}: the model has {depth} blocks; give 1..{depth}, or -{depth}..-1 from the last"
        )
    return resolved


def output_states(output: Any) -> Tensor:
    """The states in a block's output: the first of several outputs, or the only one."""
    states: Tensor = output[0] if isinstance(output, tuple | list) else output
    return states


@contextmanager
def capturing_outputs(
    model: Any, layers: Iterable[int], choose: Callable[[Tensor], Tensor] | None = None
) -> Iterator[dict[int, Tensor]]:
    """While open, each forward pass stores the [B, T, d] outputs of some blocks, or `choose` of them.

    Yields a dict: layer k in 1..L -> the output of block k (before the final norm, also for k = L).
    """
    captured: dict[int, Tensor] = {}
    layers = list(layers)
    modules = blocks(model) if layers else nn.ModuleList()

    def hook_of(layer: int) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            states = output_states(output)
            captured[layer] = states if choose is None else choose(states)

        return hook

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(modules[layer - 1].register_forward_hook(hook_of(layer)).remove)
        yield captured


@contextmanager
def shifting_outputs(model: Any, shifts: Mapping[int, Tensor] | None) -> Iterator[None]:
    """While open, each forward pass adds a tensor to the outputs of some blocks.

    Args:
        model: the model.
        shifts: layer k in 1..L -> [B, T, d], added to the output of block k; None adds nothing.

    A forward pass raises ModelError if a block's output is not one state a token.
    """

    def hook_of(shift: Tensor) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> Any:
            states = output_states(output)
            if states.shape != shift.shape:
                raise ModelError(
                    f"the blocks of {type(unwrapped(model)).__name__} return states of shape {tuple(states.shape)}, "
                    f"and not {tuple(shift.shape)}; its hidden states cannot be shifted: leave the attack or rule out "
                    "for this model"
                )
            shifted = states + shift.to(states.dtype)
            return (shifted, *output[1:]) if isinstance(output, tuple | list) else shifted

        return hook

    with ExitStack() as stack:
        for layer, shift in (shifts or {}).items():
            stack.callback(blocks(model)[layer - 1].register_forward_hook(hook_of(shift)).remove)
        yield


def capturing_states(model: Any, layers: Iterable[int], batch: Batch) -> AbstractContextManager[dict[int, Tensor]]:
    """`capturing_outputs` with only the [N, d] states that predict the batch's labelled tokens.

    A forward pass raises ModelError if a block's output is not one state a token (as in Gemma 3n).
    """

    def choose(states: Tensor) -> Tensor:
        if states.shape[:-1] != batch.input_ids.shape:
            raise ModelError(
                f"the blocks of {type(unwrapped(model)).__name__} return states of shape {tuple(states.shape)}, and "
                f"not one for each of {tuple(batch.input_ids.shape)} tokens; its hidden states cannot be read: leave "
                "the metric, method or attack out for this model"
            )
        return labelled_states(states, batch)

    return capturing_outputs(model, layers, choose)


def mean_states(model: Model, examples: Sequence[Example], layers: Sequence[int]) -> dict[int, Tensor]:
    """Block -> [d] the mean of its output over the positions that predict answer tokens, float32.

    The model's forward runs in eval mode, with its output embedding at a single position. The sums of batches are kept,
    see `uwc.models.chunks.keeping`.
    """

    def sums(batch: Batch) -> Columns:
        with capturing_states(model.model, layers, batch) as captured, head_sees(model.model, _first):
            model.model(input_ids=batch.input_ids, use_cache=False)
        totals = {str(layer): captured[layer].float().sum(dim=0).cpu().numpy() for layer in layers}
        return {**totals, "count": np.array([len(batch.targets)])}

    found = _over_answers(model, model.encode(examples), sums, ["mean states", list(layers)])
    count = sum(int(columns["count"][0]) for columns in found)
    totals: dict[int, Tensor] = {}
    for columns in found:
        for layer in layers:
            total = torch.from_numpy(columns[str(layer)]).to(model.device)
            totals[layer] = totals[layer] + total if layer in totals else total
    return {layer: total / count for layer, total in totals.items()}


@torch.no_grad()
def prompt_states(model: Model, examples: Sequence[Example]) -> NDArray[np.float32]:
    """[E, d] the states that predict the first answer token, after the middle block.

    The output of block ``ceil(L / 2)`` of L at the last position of the prompt; the answer is not read. A contrast of
    two models has no blocks of its own: its states are [E, 1] NaN, and a warning says so.

    Raises:
        ModelError: the model's blocks are not found, or do not return one state a token.
    """
    if isinstance(unwrapped(model.model), ContrastModel):
        progress.warn(f"{model.name}: a contrast of two models has no states, so that traces are not measured")
        return np.full((len(examples), 1), np.nan, dtype=np.float32)
    layer = (len(blocks(model.model)) + 1) // 2
    encoded = [replace(e, tokens=(*e.tokens[: e.start], e.tokens[0]), end=e.start + 1) for e in model.encode(examples)]
    model.model.eval()
    states: NDArray[np.float32] = np.zeros((0, 0), dtype=np.float32)
    with progress.bar(f"states {model.name}", total=len(encoded)) as advance:

        def work(group: list[int]) -> Columns:
            batch = collate([encoded[i] for i in group], device=model.device)
            with capturing_states(model.model, [layer], batch) as captured, head_sees(model.model, _first):
                model.model(**batch.inputs, use_cache=False)
            return {"states": captured[layer].float().cpu().numpy()}

        def content() -> list[object]:
            tokens = np.fromiter((t for e in encoded for t in e.tokens), dtype=np.int64)
            return ["states", str(model.device), tokens, layer, model.model]

        lengths = [len(e.tokens) for e in encoded]
        kinds, budget = model.sharing().kinds(lengths), token_budget_of(model, elsewhere=DEFAULT_TOKEN_BUDGET)
        for group, columns in results_in_batches(
            lengths, kinds=kinds, token_budget=budget, batch_cost=0, work=work, content=content
        ):
            if not len(states):
                states = np.empty((len(encoded), columns["states"].shape[1]), dtype=np.float32)
            states[group] = columns["states"]
            advance(len(group))
    return states


def entering_states(model: Model, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """[N, d] inputs of the output embedding at the positions that predict the N answer tokens, float32, and the [N]
    tokens. They are kept by batch, see `uwc.models.chunks.keeping`."""

    def read(batch: Batch) -> Columns:
        states: list[Tensor] = []

        def choose(entering: Tensor) -> Tensor:
            states.append(labelled_states(entering, batch))
            return states[-1][:1]

        with head_sees(model.model, choose):
            model.model(input_ids=batch.input_ids, use_cache=False)
        return {"states": states[0].float().cpu().numpy(), "tokens": batch.targets.cpu().numpy()}

    found = _over_answers(model, model.encode(examples), read, ["entering states"])
    states, tokens = (torch.from_numpy(np.concatenate([c[name] for c in found])) for name in ("states", "tokens"))
    return states.to(model.device), tokens.to(model.device)


def states_after(
    model: Model, encoded: Sequence[EncodedExample], layer: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """[N, d] outputs of block `layer` at the N tokens of the answers and their ends, which have read these tokens, and
    [N] the number of each token's answer, ascending. They are kept by batch, see `uwc.models.chunks.keeping`."""

    def read(batch: Batch) -> Columns:
        def choose(states: Tensor) -> Tensor:
            return states[batch.rows.to(states.device), batch.positions.to(states.device) + 1]

        with capturing_outputs(model.model, [layer], choose) as captured, head_sees(model.model, _first):
            model.model(input_ids=batch.input_ids, use_cache=False)
        return {"states": captured[layer].float().cpu().numpy(), "rows": batch.rows.cpu().numpy()}

    found = _over_answers(model, encoded, read, ["states after", layer])
    firsts = np.cumsum([0, *(columns["rows"].max() + 1 for columns in found)])
    rows = [columns["rows"] + first for columns, first in zip(found, firsts[:-1], strict=True)]
    return np.concatenate([columns["states"] for columns in found]), np.concatenate(rows)


@torch.no_grad()
def _over_answers(
    model: Model, encoded: Sequence[EncodedExample], work: Callable[[Batch], Columns], content: Sequence[object]
) -> list[Columns]:
    """The result of each of the batches of encoded examples, in their order; kept."""
    model.model.eval()
    lengths = [len(e.tokens) for e in encoded]
    order = {i: number for number, i in enumerate(chain(*model.groups(encoded, token_budget=DEFAULT_TOKEN_BUDGET)))}
    found: list[tuple[int, Columns]] = []
    for group, columns in results_in_batches(
        lengths,
        kinds=model.sharing().kinds(lengths),
        token_budget=DEFAULT_TOKEN_BUDGET,
        batch_cost=64,
        work=lambda group: work(collate([encoded[i] for i in group], device=model.device)),
        content=lambda: [
            *content,
            str(model.device),
            [(e.tokens, e.start, e.end) for e in encoded],
            model.model,
        ],
    ):
        found.append((order[group[0]], columns))
    return [columns for _, columns in sorted(found, key=itemgetter(0))]


def answer_batches(model: Model, examples: Sequence[Example]) -> Iterator[Batch]:
    """The encoded examples in batches; puts the model into eval mode."""
    encoded = model.encode(examples)
    model.model.eval()
    for group in model.groups(encoded, token_budget=DEFAULT_TOKEN_BUDGET):
        yield collate([encoded[i] for i in group], device=model.device)


def _first(entering: Tensor) -> Tensor:
    return entering[0, :1]
