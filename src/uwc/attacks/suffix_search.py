"""The search behind GCG (arXiv:2307.15043): gradients on one-hot tokens, candidates scored on a cached prefix."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from uwc.attacks.surrogate import final_norm
from uwc.data.prompts import EncodedExample
from uwc.models.states import capturing_outputs, resolve_layer
from uwc.models.target import Target

_TOKENS_A_BATCH = 8192


@dataclass(frozen=True)
class SearchSettings:
    """Settings of a search, as `uwc.attacks.gcg.gcg` explains them."""

    steps: int
    candidates: int
    top_k: int
    target_tokens: int | None
    layer: int | None
    seed: int


@dataclass(frozen=True)
class Problem:
    """One question: tokens before the suffix, tokens between the suffix and the answer, and the answer asked for."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    wanted: tuple[int, ...]

    @classmethod
    def of(cls, example: EncodedExample, tail: int, target_tokens: int | None) -> "Problem":
        """The problem of an encoded example whose prompt ends in `tail` tokens after the question."""
        place = max(example.start - tail, 1)
        answer = example.tokens[example.start : example.end][:target_tokens]
        return cls(example.tokens[:place], example.tokens[place : example.start], answer)


def allowed_tokens(tokenizer: Any) -> list[int]:
    """Tokens whose text is printable ASCII, without special tokens."""
    special = set(tokenizer.all_special_ids)
    texts = ((i, tokenizer.decode([i])) for i in range(len(tokenizer)) if i not in special)
    return [i for i, text in texts if text and text.isascii() and text.isprintable()]


class SuffixSearch:
    """A search for the suffix with the lowest mean loss over some problems.

    Args:
        target: the model; its weights and gradients are not changed.
        problems: the questions.
        start: the suffix to begin with.
        settings: of the search.

    Attributes:
        best: the best suffix seen, the first one included.
        best_loss: its loss, in nats a token.
    """

    def __init__(
        self, target: Target, problems: Sequence[Problem], start: tuple[int, ...], settings: SearchSettings
    ) -> None:
        self._model, self._tokenizer = target.model.eval(), target.tokenizer
        self._problems, self._settings = problems, settings
        self._device = target.device
        self._allowed = torch.tensor(allowed_tokens(target.tokenizer), device=self._device)
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._layer = None if settings.layer is None else resolve_layer(target.model, settings.layer)
        self._current = torch.tensor(start, device=self._device)
        with torch.no_grad():
            self.best_loss = float(self._losses(self._current[None])[0])
        self.best = start

    @cached_property
    def _caches(self) -> list[Any]:
        """The keys and values of each problem's tokens before the suffix, computed once."""
        with torch.no_grad():
            ids = [torch.tensor([p.before], device=self._device) for p in self._problems]
            return [self._model(input_ids=i, use_cache=True, logits_to_keep=1).past_key_values for i in ids]

    def step(self) -> None:
        """Replace one token of the suffix by the best of the candidates."""
        candidates = self._candidates(self._gradient())
        if not len(candidates):
            return
        with torch.no_grad():
            losses = self._losses(candidates)
        lowest = int(losses.argmin())
        self._current = candidates[lowest]
        if float(losses[lowest]) < self.best_loss:
            self.best, self.best_loss = tuple(self._current.tolist()), float(losses[lowest])

    def _gradient(self) -> Tensor:
        """[S, V] gradient of the mean loss by the one-hot suffix."""
        embedding = self._model.get_input_embeddings().weight
        with torch.enable_grad():
            one_hot = nn.functional.one_hot(self._current, len(embedding)).to(embedding.dtype).requires_grad_()
            total = torch.zeros_like(one_hot)
            for problem, cache in zip(self._problems, self._caches, strict=True):
                loss = self._loss(problem, (one_hot @ embedding)[None], cache).mean()
                total += torch.autograd.grad(loss, [one_hot])[0]
        return total / len(self._problems)

    def _candidates(self, gradient: Tensor) -> Tensor:
        """[n, S] suffixes that differ from the current one in one place and survive decoding and encoding."""
        steepest = (-gradient[:, self._allowed]).topk(min(self._settings.top_k, len(self._allowed)), dim=1).indices
        count, generator = self._settings.candidates, self._generator
        place = torch.randint(len(self._current), (count,), generator=generator).to(self._device)
        rank = torch.randint(steepest.shape[1], (count,), generator=generator).to(self._device)
        suffixes = self._current.repeat(count, 1)
        suffixes[torch.arange(count, device=self._device), place] = self._allowed[steepest[place, rank]]
        suffixes = torch.tensor(sorted(set(map(tuple, suffixes.tolist()))), device=self._device)
        again = self._tokenizer(self._tokenizer.batch_decode(suffixes.tolist()), add_special_tokens=False)["input_ids"]
        kept = [i for i, (a, b) in enumerate(zip(suffixes.tolist(), again, strict=True)) if a == b]
        return suffixes[torch.tensor(kept, dtype=torch.long, device=self._device)]

    def _losses(self, suffixes: Tensor) -> Tensor:
        """[n] the mean loss over the problems."""
        embedding = self._model.get_input_embeddings()
        total = torch.zeros(len(suffixes), device=self._device)
        for problem, cache in zip(self._problems, self._caches, strict=True):
            length = len(problem.before) + suffixes.shape[1] + len(problem.between) + len(problem.wanted)
            parts = torch.split(suffixes, max(1, _TOKENS_A_BATCH // length))
            total += torch.cat([self._loss(problem, embedding(part), cache) for part in parts])
        return total / len(self._problems)

    def _loss(self, problem: Problem, suffixes: Tensor, cache: Any) -> Tensor:
        """[n] mean cross-entropy of the wanted tokens after each of the [n, S, d] embedded suffixes."""
        n, wanted = len(suffixes), torch.tensor(problem.wanted, device=self._device)
        rest = torch.tensor([*problem.between, *problem.wanted], device=self._device)
        embedded = self._model.get_input_embeddings()(rest).expand(n, -1, -1)
        expanded = copy.deepcopy(cache)
        expanded.batch_repeat_interleave(n)
        keep = len(wanted) + 1
        with capturing_outputs(self._model, [] if self._layer is None else [self._layer]) as states:
            logits = self._model(
                inputs_embeds=torch.cat([suffixes.to(embedded.dtype), embedded], dim=1),
                past_key_values=expanded, use_cache=True, logits_to_keep=keep,
            ).logits  # fmt: skip
        if self._layer is not None:
            head = self._model.get_output_embeddings()
            logits = head(final_norm(self._model)(states[self._layer][:, -keep:]))
        logits = logits[:, :-1].float()
        losses = nn.functional.cross_entropy(logits.flatten(0, 1), wanted.repeat(n), reduction="none")
        means: Tensor = losses.view(n, -1).mean(dim=1)
        return means
