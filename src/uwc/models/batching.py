"""Which sequences may share a forward pass of a model, and batches that fit into memory.

Each model is tested before use: two sequences are scored and continued alone and in one padded batch. If the results of
a model depend on padding (as with a recurrent state that runs through it), it runs on batches of equal length, or on
one sequence at a time. A model that attends to later tokens is refused.

The answers to a question share its prompt: a token tree is read in place of them (`data/trees.py`), if the model gives
a sequence the same logits in a tree as alone.
"""

import os
import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from uwc import progress
from uwc.data.batches import collate, collate_trees, group_by_length
from uwc.data.prompts import EncodedExample
from uwc.data.trees import TokenTree, single_tree, token_tree, token_trees
from uwc.errors import ConfigError, ModelError, UserError
from uwc.memory import give_back
from uwc.models.chunks import Columns, chunks_of
from uwc.models.head import AnswerLogits, unwrapped
from uwc.models.model import Batching, Model, Sharing
from uwc.models.placement import device_of
from uwc.models.processes import is_first, of_first, share, together
from uwc.models.quantised import REMEDY, is_llm_int8

_LONG, _SHORT, _NEW = 11, 5, 4
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
_TREE_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}
_LOW_PRECISION = 5e-2


@torch.no_grad()
def examined(model: Any, name: str) -> Batching:
    """Score and continue two short sequences alone and together, and compare the results.

    Results are equal if the root mean square of the differences of the logits, at the median position, is at most
    0.1 % (in half precision 5 %) of the standard deviation of the logits.

    Raises:
        ModelError: the model attends to later tokens, so that it is not a causal language model; or a pass fails.
    """
    while hasattr(model, "inner"):  # the model inside the wrapper of an attack
        model = model.inner
    was_training = model.training
    model.eval()
    try:
        long, short = _sequences(model)
        _require_causal(model, long, name)
        found = Batching(_scored(model, long, short), _continued(model, long, short), _switch(model))
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # what a configuration with odd values causes
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        raise ModelError(f"{name}: a forward pass of the model fails ({reason}); check its config.json") from error
    finally:
        model.train(was_training)
    for what, sharing in (("scored", found.scored), ("answered", found.continued)):
        if sharing != "padded":
            how = "in batches of one length" if sharing == "equal" else "one by one"
            progress.warn(f"{name}: its results depend on padding; questions are {what} {how}")
    return found


def _sequences(model: Any) -> tuple[Tensor, Tensor]:
    """[1, 11] and [1, 5] ordinary tokens."""
    config = unwrapped(model).config
    settings = [*config.to_dict().items(), *config.get_text_config().to_dict().items()]
    special = {value for name, value in settings if "token" in name and isinstance(value, int)}
    vocabulary = int(unwrapped(model).get_input_embeddings().weight.shape[0])
    ordinary = [t for t in range(vocabulary) if t not in special][: 16 * _LONG] or list(range(vocabulary))
    chosen = [ordinary[(7 * i * i + 3 * i + 1) % len(ordinary)] for i in range(_LONG + _SHORT)]
    ids = torch.tensor(chosen, device=device_of(model))
    return ids[None, :_LONG], ids[None, _LONG:]


def _require_causal(model: Any, ids: Tensor, name: str) -> None:
    other = ids.clone()
    other[0, -1] = ids[0, 0]
    first, second = (_logits(model, tokens)[0, :-1] for tokens in (ids, other))
    if not torch.equal(ids, other) and not same_logits(first, second):
        if is_llm_int8(unwrapped(model)):
            raise ModelError(
                f"{name} is stored in LLM.int8(), in which an outlier of one token changes how all tokens of a batch "
                f"are rounded, earlier ones included; {REMEDY}, and round its inputs by the attack llm_int8"
            )
        raise ModelError(
            f"{name}: {type(unwrapped(model)).__name__} reads the tokens that follow, as an encoder does; give a "
            "causal language model, which generates its answers from left to right"
        )


def _scored(model: Any, long: Tensor, short: Tensor) -> Sharing:
    def together(first: Tensor, second: Tensor) -> bool:
        width = max(first.shape[1], second.shape[1])
        ids = torch.cat([torch.nn.functional.pad(t, (0, width - t.shape[1])) for t in (first, second)])
        both = _logits(model, ids)
        return all(same_logits(both[i, : t.shape[1]], _logits(model, t)[0]) for i, t in enumerate((first, second)))

    return _widest(together, long, short)


def _continued(model: Any, long: Tensor, short: Tensor) -> Sharing:
    def together(first: Tensor, second: Tensor) -> bool:
        width = max(first.shape[1], second.shape[1])
        ids = torch.cat([torch.nn.functional.pad(t, (width - t.shape[1], 0)) for t in (first, second)])
        ones = [torch.ones_like(t) for t in (first, second)]
        mask = torch.cat([torch.nn.functional.pad(t, (width - t.shape[1], 0)) for t in ones])
        both = _continuation(model, ids, mask)
        return all(
            same_logits(both[i], _continuation(model, t, torch.ones_like(t))[0]) for i, t in enumerate((first, second))
        )

    return _widest(together, long, short)


def _widest(together: Callable[[Tensor, Tensor], bool], long: Tensor, short: Tensor) -> Sharing:
    if together(long, short):
        return "padded"
    return "equal" if together(long, long.flip(1)) else "alone"


def _logits(model: Any, ids: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits


def _continuation(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """[B, 4, V] the logits of the first four tokens that are generated."""
    from transformers import GenerationConfig, LogitsProcessorList

    steps: list[Tensor] = []

    def keep(_ids: Tensor, logits: Tensor) -> Tensor:
        steps.append(logits)
        return logits

    config = GenerationConfig(do_sample=False, max_new_tokens=_NEW, pad_token_id=0)
    with own_settings_off(model):
        model.generate(
            input_ids=ids, attention_mask=mask, generation_config=config, logits_processor=LogitsProcessorList([keep])
        )
    return torch.stack(steps, dim=1)


@contextmanager
def own_settings_off(model: Any) -> Iterator[None]:
    """While open, the model's own generation settings (such as a repetition penalty) have neutral values.

    transformers merges them into those of a call, so that greedy decoding would not be greedy.
    """
    from transformers import GenerationConfig

    holders = [m for m in model.modules() if "generation_config" in vars(m)]
    before = [m.generation_config for m in holders]
    for module in holders:
        module.generation_config = GenerationConfig()
    try:
        yield
    finally:
        for module, own in zip(holders, before, strict=True):
            module.generation_config = own


def same_logits(first: Tensor, second: Tensor) -> bool:
    """Whether two [T, V] logits agree at most positions; values that are not finite in both are ignored."""
    tolerance = _TOLERANCE.get(first.dtype, _LOW_PRECISION)
    gaps = _gaps(first, second)
    return not len(gaps) or bool(gaps.median() <= tolerance)


def _gaps(first: Tensor, second: Tensor) -> Tensor:
    """The root mean square of the differences of two [T, V] logits, relative to the standard deviation of the second,
    at each position where all are finite."""
    known = torch.isfinite(first).all(dim=1) & torch.isfinite(second).all(dim=1)
    if not known.any():
        return torch.zeros(0)
    first, second = first[known].float(), second[known].float()
    spread = second.std(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    return (first - second).square().mean(dim=1).sqrt() / spread


def _switch(model: Any) -> int | None:
    """The length at which longrope switches to its long factors."""
    config = unwrapped(model).config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    parts = [rope, *(v for v in rope.values() if isinstance(v, dict))]
    kinds = {part.get("rope_type", part.get("type")) for part in parts}
    if "longrope" not in kinds:
        return None
    given = [part.get("original_max_position_embeddings") for part in parts]
    length = next((g for g in given if g), None) or getattr(config, "original_max_position_embeddings", None)
    return int(length or config.max_position_embeddings)


def shared_trees(models: Sequence[Model], encoded: Sequence[EncodedExample], *, token_budget: int) -> list[TokenTree]:
    """What models read to score sequences: token trees of the answers to a question, or each sequence by itself.

    Each by itself if the first model's results depend on padding, if it computes long sequences otherwise (longrope),
    if trees would not save much more than their trial costs, or if `fault_of_trees` finds a fault of a model, which a
    warning tells. Sequences longer than a window of attention are in no tree, since the mask of a tree has no window.

    Args:
        models: the scored model, and one that reads the same batches.
        encoded: the sequences.
        token_budget: the most tokens of a tree of several.
    """
    sharing, alone = models[0].sharing(), [single_tree(encoded, i) for i in range(len(encoded))]
    if sharing.scored != "padded" or sharing.switch is not None:
        return alone
    longest = min(_window(unwrapped(each.model).config) for each in models)
    most = min(token_budget, *(each.context_length for each in models))
    trees = token_trees(encoded, longest=longest, most=most)
    tried = trial_of(trees, encoded)
    saved = sum(len(e.tokens) for e in encoded) - sum(len(tree.tokens) for tree in trees)
    if tried is None or saved <= _TRIAL_WORTH * (len(tried.tokens) + len(tried.paths[-1])):
        return alone  # so that it does not depend on earlier trials
    length = len(tried.paths[-1])
    for each in models:
        if length <= _tested.get(each.model, 0):
            continue
        if fault := fault_of_trees(each, encoded, tried):
            progress.warn(f"{each.name}: a question's prompt is computed again for each of its answers, since {fault}")
            return alone
        _tested[each.model] = length
    return trees


def trial_of(trees: Sequence[TokenTree], encoded: Sequence[EncodedExample]) -> TokenTree | None:
    """The tree of the shortest and the longest answer to one question, of all trees that branch the one with the
    longest sequence; None if none branches."""
    pairs = [token_tree(encoded, (tree.members[0], tree.members[-1])) for tree in trees if tree.branches]
    return max((pair for pair in pairs if pair.branches), key=lambda pair: len(pair.paths[-1]), default=None)


@torch.inference_mode()
def fault_of_trees(model: Model, encoded: Sequence[EncodedExample], tree: TokenTree) -> str:
    """Why the model cannot read token trees; empty if it gives the longest sequence of a tree the logits that it gives
    it alone.

    Logits are equal if at every labelled position the root mean square of their differences is at most 0.01 % (in half
    precision 5 %) of their standard deviation.
    """
    try:
        shared = AnswerLogits(model.model, collate_trees([tree], encoded, device=model.device, dtype=dtype_of(model)))
        alone = AnswerLogits(model.model, collate([encoded[tree.members[-1]]], device=model.device))
        gaps = torch.cat([_gaps(_tile(shared, i), _tile(alone, i)) for i in range(alone.rows, 0, -_COMPARED)])
    except Exception as error:  # whatever a model raises that takes no such mask or positions
        reason = str(error).strip().splitlines()
        return f"it cannot read several at once ({type(error).__name__}: {reason[0] if reason else ''})"
    if len(gaps) < alone.rows:
        return "its logits are not finite"
    tolerance = _TREE_TOLERANCE.get(dtype_of(model), _LOW_PRECISION)
    return "" if bool((gaps <= tolerance).all()) else "its logits differ if it reads several at once"


def _tile(logits: AnswerLogits, left: int) -> Tensor:
    """[n, V] the logits of a few labelled tokens, the first of which is `left` before the end."""
    first = logits.rows - left
    return logits.tile(slice(first, min(first + _COMPARED, logits.rows)), slice(0, logits.vocabulary))


def dtype_of(model: Model) -> torch.dtype:
    """The precision of the states that enter the first block."""
    dtype: torch.dtype = model.model.get_input_embeddings().weight.dtype
    return dtype


def _window(config: Any) -> int:
    """The least number of tokens that a token sees in some layer, from the configuration; a large number for all."""
    settings = [*config.to_dict().items(), *config.get_text_config().to_dict().items()]
    named = [value for name, value in settings if name.endswith(("window", "window_size", "chunk_size"))]
    return min((v for v in named if isinstance(v, int) and not isinstance(v, bool) and v > 0), default=sys.maxsize)


_tested: WeakKeyDictionary[torch.nn.Module, int] = WeakKeyDictionary()
"""Model -> the length of the longest sequence of which a trial of trees found no fault."""
_COMPARED = 8
"""The number of tokens whose logits are compared at once."""
_TRIAL_WORTH = 2
"""How many times the tokens of the trial must be saved."""
DEFAULT_TOKEN_BUDGET = 8192
SCORING_BUDGET = 2048
"""Tokens in a scoring batch on a CPU: larger batches are no faster, and need more padding."""
_GAPS = 256 << 20
"""Bytes by which resident memory may grow before the gaps that passes leave are given back."""
BATCH_COST = {"cpu": 64, "cuda": 1024, "mps": 256}
"""Fixed cost of a scoring batch by device, in tokens."""
GPU_MEMORY = "UWC_GPU_MEMORY_GB"
"""The environment variable with the memory, in GB, that batches on a CUDA device are sized for."""
_LEAST, _MOST = 1024, 1 << 15  # beyond it a GPU gains nothing, and padding grows
_SHARE = 0.5


def token_budget_of(model: Model, *, elsewhere: int = DEFAULT_TOKEN_BUDGET) -> int:
    """The most padded tokens in a batch: a power of two that fits half the GPU's memory beside the weights.

    A block's forward pass needs about ``4 * hidden + 3 * intermediate`` numbers a token. The memory is `memory_of`, and
    not what is free, so that a rerun has the same batches and the same bits. On other devices than CUDA it is a
    constant.

    Args:
        model: the model.
        elsewhere: the budget on other devices.

    Raises:
        ConfigError: see `memory_of`.
    """
    if model.device.type != "cuda":
        return elsewhere
    config = model.model.config.get_text_config()
    hidden = int(config.hidden_size)
    intermediate = int(getattr(config, "intermediate_size", None) or 4 * hidden)
    bytes_a_token = (4 * hidden + 3 * intermediate) * model.model.dtype.itemsize
    weights = sum(p.numel() * p.element_size() for p in model.model.parameters())
    fitting = max(1, int((memory_of(model.device) - weights) * _SHARE) // bytes_a_token)
    return int(min(max(1 << (fitting.bit_length() - 1), _LEAST), _MOST))


def memory_of(device: torch.device) -> int:
    """Bytes that batches on a CUDA device are sized for: its total memory, or ``UWC_GPU_MEMORY_GB`` times 10^9.

    Raises:
        ConfigError: the variable is not a positive number.
    """
    given = os.environ.get(GPU_MEMORY)
    if not given:
        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        gigabytes = float(given)
    except ValueError:
        gigabytes = 0.0
    if not 0 < gigabytes < float("inf"):
        raise ConfigError(f"{GPU_MEMORY}={given}: give the memory in GB, a number such as 24, or unset it")
    return int(gigabytes * 1e9)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception is an out-of-memory error, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


def run_in_batches(
    lengths: Sequence[int],
    *,
    kinds: Sequence[Hashable],
    token_budget: int,
    batch_cost: int,
    work: Callable[[list[int]], None],
    share: tuple[int, int] = (0, 1),
) -> Iterator[list[int]]:
    """Call `work` on batches of indices, longest first; when out of memory, halve the budget and retry.

    Args:
        lengths: the length of each item in tokens.
        kinds: a label for each item; items with different labels never share a batch.
        token_budget: the most padded tokens in a batch.
        batch_cost: fixed cost of a batch; see `group_by_length`.
        work: called with each batch; must have no effect before it may fail.
        share: (i, n): only every n-th of the batches, from the i-th on.

    Yields:
        Each batch after its work.

    Raises:
        ModelError: a single item does not fit into the memory.
    """
    waiting = group_by_length(lengths, token_budget=token_budget, batch_cost=batch_cost, kinds=kinds)
    waiting = waiting[share[0] :: share[1]]
    give_back(growth=_GAPS)
    while waiting:
        group = waiting.pop(0)
        try:
            work(group)
        except RuntimeError as error:  # torch.OutOfMemoryError among them
            if not is_out_of_memory(error):
                raise
            if len(group) == 1:
                raise ModelError(
                    f"out of memory with a single example of {lengths[group[0]]} tokens; "
                    "use a lower precision (--set model.dtype=bfloat16), a smaller model or a larger device"
                ) from error
        else:
            yield group
            continue
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        token_budget = max(len(group) * lengths[group[0]] // 2, 1)
        progress.warn(
            f"out of memory: the remaining batches have at most {token_budget} tokens, so that a rerun with more free "
            "memory may differ in the last digits"
        )
        left = [index for indices in (group, *waiting) for index in indices]
        lengths_left, kinds_left = [lengths[i] for i in left], [kinds[i] for i in left]
        groups = group_by_length(lengths_left, token_budget=token_budget, batch_cost=batch_cost, kinds=kinds_left)
        waiting = [[left[i] for i in group] for group in groups]


def results_in_batches(
    lengths: Sequence[int],
    *,
    kinds: Sequence[Hashable],
    token_budget: int,
    batch_cost: int,
    work: Callable[[list[int]], Columns],
    content: Callable[[], Sequence[object]],
) -> Iterator[tuple[list[int], Columns]]:
    """As `run_in_batches`, for work that returns a result: kept in files, and divided between processes.

    The batches are the same whether a run was interrupted (see `uwc.models.chunks.keeping`), or is divided between
    processes (see `uwc.models.processes.dividing`), and so are the bits of the results. A batch for which memory does
    not suffice is an exception: of several processes each makes smaller batches of its own share.

    Args:
        lengths, kinds, token_budget, batch_cost: as `run_in_batches` takes them.
        work: gives the result of a batch; must have no other effect.
        content: gives what determines the results besides these: models, arrays and plain data.

    Yields:
        Each batch with its result, in no particular order.

    Raises:
        ModelError: a single item does not fit into the memory.
    """
    chunks = chunks_of(lambda: [np.array(lengths), repr(kinds), token_budget, batch_cost, *content()])
    done: set[tuple[int, ...]] = set()
    if chunks is not None:
        for batch, result in of_first(chunks.read()):
            done.add(tuple(batch))
            yield batch, result
    results: list[tuple[list[int], Columns]] = []

    def once(batch: list[int]) -> None:
        place = tuple(batch)
        if place in done:
            return
        if chunks is not None and place in chunks.failed:
            raise torch.OutOfMemoryError
        try:
            results.append((batch, work(batch)))
        except RuntimeError as error:
            if chunks is not None and len(batch) > 1 and is_out_of_memory(error):
                chunks.failed.add(place)
            raise

    def own() -> Iterator[tuple[list[int], Columns]]:
        for _ in run_in_batches(
            lengths, kinds=kinds, token_budget=token_budget, batch_cost=batch_cost, work=once, share=share()
        ):
            yield from results
            results.clear()

    for batch, result in together(own()):
        if chunks is not None and is_first():
            chunks.add(batch, result)
        yield batch, result
