"""A model with its tokenizer and prompt template, and the token budget of its batches."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from uwc.data.batches import group_by_length
from uwc.data.example import Example
from uwc.data.prompts import EncodedExample, PromptTemplate, added_tokens, end_ids
from uwc.errors import DataError, ModelError
from uwc.models.batching import Batching, examined

FALLBACK_CONTEXT = 2048

Rewrite = Callable[[Example], Example]
Edit = Callable[[EncodedExample], EncodedExample]


@dataclass(frozen=True)
class Model:
    """A causal language model with its tokenizer and prompt template.

    Attributes:
        model: a transformers causal language model.
        tokenizer: its tokenizer.
        template: the prompt template.
        name: its name in messages and reports.
        rewrites: functions that are applied to each example before it is encoded, in order.
        edits: functions that are applied to each encoded example, in order; they keep its id.
        ends: the tokens that end the model's turn; by default those of its tokenizer and generation configuration.
        batching: which sequences may share a forward pass; tested on first use by default.
    """

    model: Any
    tokenizer: Any
    template: PromptTemplate = field(default_factory=PromptTemplate)
    name: str = "model"
    rewrites: tuple[Rewrite, ...] = ()
    edits: tuple[Edit, ...] = ()
    ends: tuple[int, ...] | None = None
    batching: Batching | None = None

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The tokens that end the model's turn, independent of the template."""
        if self.ends is not None:
            return self.ends
        return end_ids(self.tokenizer, getattr(self.model, "generation_config", None))

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        device: torch.device = self.model.device
        return device

    @property
    def context_length(self) -> int:
        """The longest sequence, in tokens; 2048 if the configuration has no such value."""
        config = self.model.config.get_text_config()
        length = int(getattr(config, "max_position_embeddings", None) or 0)
        return length if length > 0 else FALLBACK_CONTEXT

    def sharing(self) -> Batching:
        """Which sequences may share a forward pass of the model.

        Raises:
            ModelError: it is not a causal language model.
        """
        if self.batching is None:
            object.__setattr__(self, "batching", examined(self.model, self.name))
        return self.batching or Batching()

    def reading(self, tokenizer: Any, template: PromptTemplate, ends: tuple[int, ...]) -> "Model":
        """The same model with another tokenizer, prompt template and tokens that end its turn."""
        return replace(self, tokenizer=tokenizer, template=template, ends=ends)

    def rewritten(self, rewrite: Rewrite) -> "Model":
        """The same model with `rewrite` added after its rewrites."""
        return replace(self, rewrites=(*self.rewrites, rewrite))

    def edited(self, edit: Edit) -> "Model":
        """The same model with `edit` added after its edits."""
        return replace(self, edits=(*self.edits, edit))

    def encode(self, examples: Sequence[Example]) -> list[EncodedExample]:
        """Encode examples for this model. Raises DataError if one does not fit into its context."""
        for rewrite in self.rewrites:
            examples = [rewrite(e) for e in examples]
        encoded = self.template.encode(examples, self.tokenizer, max_length=self.context_length, ends=self.end_ids)
        for edit in self.edits:
            encoded = [edit(e) for e in encoded]
        for example in encoded if self.edits else ():
            if len(example.tokens) > self.context_length:
                raise DataError(
                    f"example {example.id!r}, as the attack puts it, has {len(example.tokens)} tokens, more than the "
                    f"model's context of {self.context_length}; leave it out or weaken the attack (fewer shots)"
                )
        return encoded

    def groups(self, encoded: Sequence[EncodedExample], *, token_budget: int, batch_cost: int = 64) -> list[list[int]]:
        """Indices of encoded examples in batches that may share a forward pass; see `group_by_length`."""
        lengths = [len(e.tokens) for e in encoded]
        kinds = self.sharing().kinds(lengths)
        return group_by_length(lengths, token_budget=token_budget, batch_cost=batch_cost, kinds=kinds)

    def stops(self, encoded: Iterable[EncodedExample]) -> list[int]:
        """The tokens that end a generated answer: `end_ids`, and those that end the turns of encoded examples."""
        written = {e.tokens[-1] for e in encoded if e.end < len(e.tokens)}
        return sorted({*self.end_ids, *(written & added_tokens(self.tokenizer))})


DEFAULT_TOKEN_BUDGET = 8192
SCORING_BUDGET = 2048
"""Tokens in a scoring batch on a CPU: larger batches are no faster, and need more padding."""
BATCH_COST = {"cpu": 64, "cuda": 1024, "mps": 256}
"""Fixed cost of a scoring batch by device, in tokens."""
_LEAST, _MOST = 1024, 1 << 15  # beyond it a GPU gains nothing, and padding grows
_SHARE_OF_FREE = 0.5


def token_budget_of(model: Model, *, elsewhere: int = DEFAULT_TOKEN_BUDGET) -> int:
    """The most padded tokens in a batch: a power of two that fits half the free memory of the model's GPU.

    A block's forward pass needs about ``4 * hidden + 3 * intermediate`` numbers a token. On other devices than CUDA it
    is a constant, so that results do not depend on the load of the machine.

    Args:
        model: the model.
        elsewhere: the budget on other devices.
    """
    if model.device.type != "cuda":
        return elsewhere
    config = model.model.config.get_text_config()
    hidden = int(config.hidden_size)
    intermediate = int(getattr(config, "intermediate_size", None) or 4 * hidden)
    bytes_a_token = (4 * hidden + 3 * intermediate) * model.model.dtype.itemsize
    free, _total = torch.cuda.mem_get_info(model.device)
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
