"""The token budget of a batch: from the free memory, and halved when it runs out."""

from collections.abc import Callable, Hashable, Iterator, Sequence

import torch

from uwc.data.batches import group_by_length
from uwc.errors import ModelError
from uwc.models.target import Target

DEFAULT_TOKEN_BUDGET = 8192
SCORING_BUDGET = 2048
"""Tokens in a scoring batch on a CPU: larger batches are no faster, and need more padding."""
BATCH_COST = {"cpu": 64, "cuda": 1024, "mps": 256}
"""Fixed cost of a scoring batch by device, in tokens."""
_LEAST, _MOST = 1024, 1 << 15  # beyond it a GPU gains nothing, and padding grows
_SHARE_OF_FREE = 0.5


def token_budget_of(target: Target, *, elsewhere: int = DEFAULT_TOKEN_BUDGET) -> int:
    """The most padded tokens in a batch: a power of two that fits half the free memory of the model's GPU.

    A block's forward pass needs about ``4 * hidden + 3 * intermediate`` numbers a token. On other devices than CUDA it
    is a constant, so that results do not depend on the load of the machine.

    Args:
        target: the model.
        elsewhere: the budget on other devices.
    """
    if target.device.type != "cuda":
        return elsewhere
    config = target.model.config.get_text_config()
    hidden = int(config.hidden_size)
    intermediate = int(getattr(config, "intermediate_size", None) or 4 * hidden)
    bytes_a_token = (4 * hidden + 3 * intermediate) * target.model.dtype.itemsize
    free, _total = torch.cuda.mem_get_info(target.device)
    fitting = max(1, int(free * _SHARE_OF_FREE) // bytes_a_token)
    return int(min(max(1 << (fitting.bit_length() - 1), _LEAST), _MOST))


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
) -> Iterator[list[int]]:
    """Call `work` on batches of indices, longest first; when out of memory, halve the budget and retry.

    Args:
        lengths: the length of each item in tokens.
        kinds: a label for each item; items with different labels never share a batch.
        token_budget: the most padded tokens in a batch.
        batch_cost: fixed cost of a batch; see `group_by_length`.
        work: called with each batch; must have no effect before it may fail.

    Yields:
        Each batch after its work.

    Raises:
        ModelError: a single item does not fit into the memory.
    """
    waiting = group_by_length(lengths, token_budget=token_budget, batch_cost=batch_cost, kinds=kinds)
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
        left = [index for indices in (group, *waiting) for index in indices]
        lengths_left, kinds_left = [lengths[i] for i in left], [kinds[i] for i in left]
        groups = group_by_length(lengths_left, token_budget=token_budget, batch_cost=batch_cost, kinds=kinds_left)
        waiting = [[left[i] for i in group] for group in groups]
