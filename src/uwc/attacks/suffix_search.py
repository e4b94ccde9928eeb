"""The search of greedy coordinate gradient (arXiv:2307.15043) over tokens of a suffix."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from uwc.attacks.surrogate import reading_at
from uwc.data.prompts import EncodedExample, added_tokens
from uwc.errors import ModelError
from uwc.models.chunks import Columns
from uwc.models.deterministic import deterministic
from uwc.models.head import head_sees, relative_tolerance
from uwc.models.model import Model
from uwc.models.placement import require_on_one_device
from uwc.models.states import embedding_of, resolve_layer

_TOKENS_A_BATCH = 8192
_ROWS_A_CHUNK = 8192  # of the embedding


@dataclass(frozen=True)
class SearchSettings:
    """Settings of a search, see `gcg`."""

    steps: int
    candidates: int
    top_k: int
    target_tokens: int | None
    layer: int | None
    seed: int


@dataclass(frozen=True)
class Problem:
    """One question: tokens before the suffix, tokens between the suffix and the answer, and tokens of the answer."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    wanted: tuple[int, ...]

    @classmethod
    def of(cls, example: EncodedExample, tail: int, target_tokens: int | None) -> "Problem":
        """The problem of an encoded example without a suffix, with `tail` tokens of the prompt after the suffix."""
        place = max(example.start - tail, 1)
        answer = example.tokens[example.start : example.end][:target_tokens]
        return cls(example.tokens[:place], example.tokens[place : example.start], answer)

    def with_suffix(self, suffix: tuple[int, ...]) -> tuple[int, ...]:
        """The tokens of the question with a suffix and the answer."""
        return (*self.before, *suffix, *self.between, *self.wanted)


@dataclass(frozen=True)
class SearchState:
    """The state of a search after a step; its random draws depend on the step alone.

    Attributes:
        step: the number of finished steps.
        current: the suffix that the next step changes.
        best: the best suffix so far, including the first one.
        best_loss: its loss, in nats a token.
        barren: number of steps without a readable candidate.
    """

    step: int
    current: tuple[int, ...]
    best: tuple[int, ...]
    best_loss: float
    barren: int

    def columns(self) -> Columns:
        """The state as arrays."""
        return {
            "current": np.array(self.current, dtype=np.int64),
            "best": np.array(self.best, dtype=np.int64),
            "best loss": np.array([self.best_loss]),
            "barren": np.array([self.barren], dtype=np.int64),
        }

    @classmethod
    def of(cls, step: int, columns: Columns) -> "SearchState":
        """The state that `columns` was called for."""
        current, best = (tuple(columns[name].tolist()) for name in ("current", "best"))
        return cls(step, current, best, float(columns["best loss"][0]), int(columns["barren"][0]))


def allowed_tokens(tokenizer: Any) -> list[int]:
    """Tokens whose text is printable ASCII, without special and added ones."""
    added = added_tokens(tokenizer)
    texts = ((i, text_of(tokenizer, [i])) for i in range(len(tokenizer)) if i not in added)
    return [i for i, text in texts if text and text.isascii() and text.isprintable()]


def text_of(tokenizer: Any, tokens: Sequence[int]) -> str:
    """The exact text of token ids."""
    return str(tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False))


class SuffixSearch:
    """A search for the suffix with the lowest mean loss over some problems.

    Args:
        model: the model; its weights and gradients are not changed.
        problems: the questions.
        start: the initial suffix.
        settings: of the search.
        readable: a function of the index of a problem and some suffixes: whether the text of each, after the question,
            is tokenized into its tokens. Only candidates that are readable in every problem are used.
        after: the state of an interrupted search with the same arguments, which continues with the same bits.

    Attributes:
        best: the best suffix so far, including the first one.
        best_loss: its loss, in nats a token.
        barren: number of steps without a readable candidate.

    Raises:
        ModelError: the model has no input embedding, or is a contrast of two.
    """

    def __init__(
        self,
        model: Model,
        problems: Sequence[Problem],
        start: tuple[int, ...],
        settings: SearchSettings,
        readable: Callable[[int, Sequence[tuple[int, ...]]], list[bool]] = lambda _number, suffixes: (
            [True] * len(suffixes)
        ),
        after: SearchState | None = None,
    ) -> None:
        require_on_one_device(model.model, model.name, "an adversarial suffix")
        self._model = model.model.eval()
        self._problems, self._settings, self._readable = problems, settings, readable
        self._device = model.device
        self._embedding = embedding_of(model.model)
        self._allowed = torch.tensor(allowed_tokens(model.tokenizer), device=self._device)
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._layer = None if settings.layer is None else resolve_layer(model.model, settings.layer)
        self._start = self._current = torch.tensor(start, device=self._device)
        self._step, self.best, self.barren = 0, start, 0
        if after is None:
            self.best_loss = float(self.losses(self._current[None])[0])
            return
        self._current = torch.tensor(after.current, device=self._device)
        self.best, self.best_loss, self.barren = after.best, after.best_loss, after.barren
        while self._step < after.step:
            self._draw()

    @property
    def state(self) -> SearchState:
        """The state after the last step."""
        return SearchState(self._step, tuple(self._current.tolist()), self.best, self.best_loss, self.barren)

    @cached_property
    def _caches(self) -> list[Any]:
        """The cache of each problem's tokens before the suffix.

        None if whole sequences must be read: for a cache that cannot be repeated for many suffixes (recurrent and
        hybrid models), or that gives another loss for two copies of the first suffix than whole sequences.
        """
        return [self._cache(problem) for problem in self._problems]

    @torch.no_grad()
    def _cache(self, problem: Problem) -> Any:
        ids = torch.tensor([problem.before], device=self._device)
        with head_sees(self._model, lambda states: states[0, :1]):
            cache = getattr(self._model(input_ids=ids, use_cache=True), "past_key_values", None)
        if not hasattr(cache, "batch_repeat_interleave"):
            return None
        twice = self._start.expand(2, -1)
        whole = self._loss(problem, twice, None)
        try:
            cached = self._loss(problem, twice, cache)
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):  # a cache with another interface
            return None
        return cache if torch.allclose(whole, cached, rtol=relative_tolerance(self._model.dtype), atol=0.0) else None

    def step(self) -> None:
        """Replace the suffix by the best readable candidate, if there is one."""
        drawn = self.candidates(self.gradient())
        candidates = [suffix for suffix, kept in zip(drawn, self._readable(0, drawn), strict=True) if kept]
        losses = self.losses(torch.tensor(candidates, device=self._device)) if candidates else torch.zeros(0)
        for place in losses.argsort(stable=True).tolist():
            suffix = candidates[place]
            if all(self._readable(number, [suffix])[0] for number in range(1, len(self._problems))):
                self._current = torch.tensor(suffix, device=self._device)
                if float(losses[place]) < self.best_loss:
                    self.best, self.best_loss = suffix, float(losses[place])
                return
        self.barren += 1

    def _gradients(self, problem: Problem, cache: Any) -> tuple[Tensor, ...]:
        """The gradients of the loss by the outputs of the embedding."""
        with torch.enable_grad(), self._embedding_outputs() as outputs:
            loss = self._loss(problem, self._current[None], cache).mean()
            return torch.autograd.grad(loss, outputs) if outputs else ()

    def gradient(self) -> Tensor:
        """[S, V] gradient of the mean loss by the one-hot suffix: that by the embedding's output, times all embeddings.

        Exact if the embedding module is linear in the one-hot, such as a table with a factor.
        """
        total: Tensor | None = None
        for problem, cache in zip(self._problems, self._caches, strict=True):
            gradients = deterministic(self._device, partial(self._gradients, problem, cache))
            if not gradients:
                raise ModelError(
                    f"the attack 'gcg' does not work on {type(self._model).__name__}, which does not read its tokens "
                    "through its input embedding; take an attack without gradients, such as evolution"
                )
            first = len(problem.before) if cache is None else 0
            part = torch.stack([g[0, first : first + len(self._current)] for g in gradients]).sum(dim=0)
            total = part if total is None else total + part
        assert total is not None
        with torch.no_grad():
            rows = torch.arange(len(self._embedding.weight), device=self._device)
            products = [total @ self._embedding(part[None])[0].T for part in torch.split(rows, _ROWS_A_CHUNK)]
        return torch.cat(products, dim=1) / len(self._problems)

    @contextmanager
    def _embedding_outputs(self) -> Iterator[list[Tensor]]:
        """While open, the outputs of the embedding module are leaves of the graph; yields a list that receives them."""
        outputs: list[Tensor] = []

        def cut(_module: Any, _args: Any, output: Tensor) -> Tensor:
            outputs.append(output.detach().requires_grad_())
            return outputs[-1].clone()  # the model may change it in place

        handle = self._embedding.register_forward_hook(cut)
        try:
            yield outputs
        finally:
            handle.remove()

    def candidates(self, gradient: Tensor) -> list[tuple[int, ...]]:
        """Suffixes that differ from the current one in one place."""
        steepest = (-gradient[:, self._allowed]).topk(self._considered, dim=1).indices
        place, rank = (drawn.to(self._device) for drawn in self._draw())
        suffixes = self._current.repeat(len(place), 1)
        suffixes[torch.arange(len(place), device=self._device), place] = self._allowed[steepest[place, rank]]
        return sorted({tuple(suffix) for suffix in suffixes.tolist()})

    @property
    def _considered(self) -> int:
        return min(self._settings.top_k, len(self._allowed))

    def _draw(self) -> tuple[Tensor, Tensor]:
        """The draws of a step: [n] places of the suffix, and [n] ranks of tokens."""
        self._step += 1
        count, generator = (self._settings.candidates,), self._generator
        place = torch.randint(len(self._start), count, generator=generator)
        return place, torch.randint(self._considered, count, generator=generator)

    @torch.no_grad()
    def losses(self, suffixes: Tensor) -> Tensor:
        """[n] mean loss over the problems of each of the [n, S] suffixes."""
        total = torch.zeros(len(suffixes), device=self._device)
        for problem, cache in zip(self._problems, self._caches, strict=True):
            length = len(problem.with_suffix(self.best))
            parts = torch.split(suffixes, max(1, _TOKENS_A_BATCH // length))
            total += torch.cat([self._loss(problem, part, cache) for part in parts])
        return total / len(self._problems)

    def _loss(self, problem: Problem, suffixes: Tensor, cache: Any) -> Tensor:
        """[n] mean cross-entropy of the answer tokens after each of the [n, S] suffixes."""
        n, keep = len(suffixes), len(problem.wanted)
        wanted = torch.tensor(problem.wanted, device=self._device)
        before = torch.tensor(problem.before if cache is None else (), dtype=torch.long, device=self._device)
        after = torch.tensor((*problem.between, *problem.wanted[:-1]), dtype=torch.long, device=self._device)
        given: dict[str, Any] = {"use_cache": False}
        if cache is not None:
            given = {"use_cache": True, "past_key_values": copy.deepcopy(cache)}
            given["past_key_values"].batch_repeat_interleave(n)
        with ExitStack() as stack:
            if self._layer is not None:
                stack.enter_context(reading_at(self._model, self._layer))
            stack.enter_context(head_sees(self._model, lambda states: states[:, -keep:].flatten(0, 1)))
            ids = torch.cat([before.expand(n, -1), suffixes, after.expand(n, -1)], dim=1)
            logits = self._model(input_ids=ids, **given).logits[0]
        losses = nn.functional.cross_entropy(logits.float(), wanted.repeat(n), reduction="none")
        means: Tensor = losses.view(n, -1).mean(dim=1)
        return means
