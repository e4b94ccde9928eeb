"""Sampled answers: n for each question, whose prompt is computed once."""

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from uwc import progress
from uwc.data.example import Example
from uwc.errors import ConfigError
from uwc.models.batching import memory_of, own_settings_off, results_in_batches, same_logits, token_budget_of
from uwc.models.chunks import Columns, of_lists, to_lists
from uwc.models.double import device_of_double, in_double
from uwc.models.generation import answer_cut, padded_left, said, until
from uwc.models.model import Model
from uwc.models.overflow import warn_of_overflow

_BLOCK = 256
"""Tokens of the vocabulary that are summed at once."""
_DRAWN_AT_ONCE = 1 << 19
"""Logits that are read at once in a draw on a CPU, which stay in its cache."""
_TOKENS, _CACHE_BYTES = 1 << 15, 1 << 30
"""The most tokens in a batch, and the most bytes of keys and values on a CPU."""
_WASTE = 7 / 8
"""Rows that have ended are dropped once at most this share is left."""
_LOOK = {"cpu": 1}
"""Steps between two looks at which rows have ended, by device; elsewhere a look waits for the device."""
_LOOK_ELSEWHERE = 4
_TEXTS_EVERY = 8
"""Steps between two searches for stop texts."""


@dataclass(frozen=True)
class Samples:
    """n sampled answers to each of E questions.

    Attributes:
        texts: [E][n] the texts, without special tokens and surrounding white space; ``""`` if the model stopped at
            once.
        finite: [E] whether all logits were finite; otherwise the texts are meaningless.
    """

    texts: tuple[tuple[str, ...], ...]
    finite: NDArray[np.bool_]


def sample(
    model: Model,
    examples: Sequence[Example],
    *,
    count: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    token_budget: int | None = None,
) -> Samples:
    """Sample answers of at most `max_new_tokens` tokens, `count` for each question.

    A token is the first whose cumulative probability exceeds a uniform number. The numbers of a sample depend on the
    seed, the question's id and the sample's number only, so that batches and other questions change an answer through
    the rounding of logits alone, and two models draw with the same numbers. An answer ends as in `generate`.

    The states of a prompt are computed once and repeated for its samples, and rows that have ended are dropped. Models
    whose cache has more than keys and values, and those that an attack wraps, generate by transformers, with the same
    numbers.

    Args:
        model: the model.
        examples: the questions.
        count: n, at least 1.
        max_new_tokens: the most tokens of an answer; fewer where the model's context ends.
        temperature: logits are divided by it; positive.
        top_p: draw from the most likely tokens with at least this total probability.
        seed: of the draws.
        token_budget: the most tokens in a batch; `token_budget_of` by default, halved when out of memory.

    Raises:
        ConfigError: a number is out of its range.
        DataError: a question with its answer does not fit into the context.
        ModelError: a single sample does not fit into the memory.
    """
    tokens, finite = sample_tokens(
        model,
        examples,
        count=count,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        token_budget=token_budget,
    )
    stop_texts = model.template.stop_texts(chat=model.template.uses_chat(model.tokenizer))
    texts = [
        tuple(answer_cut(model.tokenizer, row, () if example.raw else stop_texts)[1].strip() for row in rows)
        for example, rows in zip(examples, tokens, strict=True)
    ]
    warn_of_overflow(model, [e.id for e in examples], finite)
    return Samples(tuple(texts), finite)


def sample_tokens(
    model: Model,
    examples: Sequence[Example],
    *,
    count: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    token_budget: int | None = None,
) -> tuple[list[list[list[int]]], NDArray[np.bool_]]:
    """[E][n] the tokens of the answers of `sample`, before a token that ends them and with a stop text, and [E] whether
    all logits were finite."""
    if count < 1 or max_new_tokens < 1 or not temperature > 0 or not 0 < top_p <= 1:
        raise ConfigError(
            f"{count} samples of {max_new_tokens} tokens at temperature {temperature} and top-p {top_p}: the first two "
            "must be at least 1, the temperature positive, and top-p above 0 and at most 1"
        )
    encoded = model.encode(examples)
    prompts = [list(e.before) for e in encoded]
    rooms = [min(max_new_tokens, model.context_length - len(p)) for p in prompts]
    stop_texts = model.template.stop_texts(chat=model.template.uses_chat(model.tokenizer))
    sampler = _Sampler(
        model,
        stops=model.stops(encoded),
        stop_texts=() if any(e.raw for e in examples) else stop_texts,
        draw=TokenDraw(temperature, top_p),
    )
    uniforms = [uniforms_of(e.id, seed, count, max_new_tokens) for e in examples]
    tokens: list[list[list[int]]] = [[[]] * count for _ in examples]
    finite = np.ones(len(examples), dtype=bool)

    budget = token_budget or sampling_budget(model)
    parts = [
        (i, slice(first, min(first + most, count)))
        for i, prompt in enumerate(prompts)
        for most in [max(1, min(count, budget // (len(prompt) + rooms[i])))]
        for first in range(0, count, most)
    ]

    def work(group: list[int]) -> Columns:
        chosen = [parts[place] for place in group]
        rows = [uniforms[i][which] for i, which in chosen]
        drawn = sampler([prompts[i] for i, _ in chosen], rows, rooms[chosen[0][0]])
        rows_of = [row for found, _ in drawn for row in found]
        return {**of_lists(rows_of), "finite": np.array([fine for _, fine in drawn], dtype=bool)}

    def content() -> list[object]:
        settings = [count, max_new_tokens, temperature, top_p, stop_texts, sampler.stops]
        return ["samples", str(model.device), *settings, prompts, *uniforms, model.model]

    lengths = [(len(prompts[i]) + rooms[i]) * (which.stop - which.start) for i, which in parts]
    sharing = model.sharing().prompt_kinds([len(prompts[i]) for i, _ in parts], new=max_new_tokens)
    alike = [(rooms[i], len(prompts[i]) if model.device.type == "cpu" else 0) for i, _ in parts]
    kinds: list[Hashable] = list(
        zip(sharing, alike, strict=True)
    )  # on a CPU padding, and its mask, costs more than it saves
    with progress.bar(f"sample {model.name}", total=count * len(examples)) as advance:
        for group, columns in results_in_batches(
            lengths, kinds=kinds, token_budget=budget, batch_cost=budget, work=work, content=content
        ):
            drawn = iter(to_lists(columns))
            for place, fine in zip(group, columns["finite"].tolist(), strict=True):
                i, which = parts[place]
                tokens[i][which] = islice(drawn, which.stop - which.start)
                finite[i] &= fine
                advance(which.stop - which.start)
    return tokens, finite


def sampling_budget(model: Model) -> int:
    """The most tokens in a batch: more than in scoring, since few rows cost as much as many, as long as keys and values
    fit."""
    config = model.model.config.get_text_config()
    heads = int(getattr(config, "num_attention_heads", None) or 1)
    width = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    of_keys = int(getattr(config, "num_key_value_heads", None) or heads) * width
    bytes_a_token = 2 * of_keys * int(config.num_hidden_layers) * int(model.model.dtype.itemsize)
    room = memory_of(model.device) // 4 if model.device.type == "cuda" else _CACHE_BYTES
    return max(1, min(token_budget_of(model, elsewhere=_TOKENS), room // bytes_a_token))


def uniforms_of(identity: str, seed: int, count: int, steps: int) -> NDArray[np.float64]:
    """[n, T] numbers in 0..1, less than 1; fewer samples have the first rows of more."""
    name = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "little")
    return np.random.default_rng([seed, name]).random((count, steps))


@dataclass(frozen=True)
class TokenDraw:
    """Draws tokens by uniform numbers.

    Attributes:
        temperature: logits are divided by it.
        top_p: the least total probability of the tokens that are drawn.
    """

    temperature: float
    top_p: float

    def __call__(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """[R] or [R, n], as the numbers: the first tokens whose cumulative probability by [R, V] logits exceeds them.

        The sums are taken by blocks of the vocabulary, and within the block that is met in double precision, so that
        the last tokens of a large vocabulary are not lost to rounding.
        """
        count = _DRAWN_AT_ONCE // logits.shape[1] if logits.device.type == "cpu" else len(logits)
        if len(logits) > max(count, 1):
            parts = (torch.split(tensor, max(count, 1)) for tensor in (logits, uniform))
            return torch.cat([self(some, numbers) for some, numbers in zip(*parts, strict=True)])
        z = logits.float()
        z = z - z.amax(dim=1, keepdim=True)
        p = (z if self.temperature == 1.0 else z / self.temperature).exp_()
        if self.top_p < 1.0:
            p = _most_likely(p, self.top_p)
        blocks = torch.unflatten(torch.nn.functional.pad(p, (0, -p.shape[1] % _BLOCK)), 1, (-1, _BLOCK))
        sums = in_double(blocks.sum(dim=2)).cumsum(dim=1)
        block, over = _place(sums, uniform.view(len(uniform), -1) * sums[:, -1:])
        met = block.to(p.device)[..., None].expand(-1, -1, _BLOCK)
        inside = in_double(blocks.gather(1, met)).cumsum(dim=2)
        place, _ = _place(inside, over[..., None])
        token = (block * _BLOCK + place[..., 0]).clamp_max_(p.shape[1] - 1)  # beyond it only for logits that are NaN
        return token.view(uniform.shape).to(logits.device)


def _place(sums: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """[..., n] the first places in each row of ascending sums that exceed n values, and by how much a value exceeds the
    place before; rounding never takes it beyond the last place that adds something."""
    value = torch.minimum(value, torch.nextafter(sums[..., -1:], torch.zeros_like(value))).clamp_min_(0.0)
    place = torch.searchsorted(sums, value, right=True).clamp_max_(sums.shape[-1] - 1)
    before = sums.gather(-1, (place - 1).clamp_min(0)).masked_fill(place == 0, 0.0)
    return place, value - before


def _most_likely(p: Tensor, share: float) -> Tensor:
    """[R, V] without all but the fewest, most likely, tokens that have a share of each row's total."""
    ordered, places = p.sort(dim=1, descending=True, stable=True)
    wide = in_double(ordered)
    unlikely = wide.cumsum(dim=1) - wide >= share * wide.sum(dim=1, keepdim=True)
    ordered = ordered.masked_fill(unlikely.to(p.device), 0.0)
    return torch.zeros_like(p).scatter_(1, places, ordered)


Drawn = tuple[list[list[int]], bool]
"""The tokens of each sample of a question, and whether all logits were finite."""


@dataclass
class _Sampler:
    """Samples with one model.

    Attributes:
        model: the model.
        stops: the tokens that end an answer.
        stop_texts: the texts at which an answer ends.
        draw: draws tokens.
        shares: whether prompts are computed once; tried with the first batch.
    """

    model: Model
    stops: Sequence[int]
    stop_texts: Sequence[str]
    draw: TokenDraw
    shares: bool | None = field(default=None)

    @torch.inference_mode()
    def __call__(self, prompts: Sequence[list[int]], uniforms: Sequence[NDArray[np.float64]], new: int) -> list[Drawn]:
        """For each prompt one answer a row of its [n, T] numbers, of at most `new` tokens."""
        self.model.model.eval()
        counts = [len(rows) for rows in uniforms]
        numbers = torch.from_numpy(np.concatenate(uniforms)[:, :new]).to(device_of_double(self.model.device))
        if self.shares is None:
            self.shares = can_share(self.model, prompts[0], new)
        tokens, finite = (self._shared if self.shares else self._generated)(prompts, counts, numbers)
        ends = np.cumsum(counts)
        answers = [until(row, self.stops) for row in tokens]
        return [
            (answers[end - count : end], all(finite[end - count : end]))
            for end, count in zip(ends.tolist(), counts, strict=True)
        ]

    def _shared(
        self, prompts: Sequence[list[int]], counts: Sequence[int], numbers: Tensor
    ) -> tuple[list[list[int]], list[bool]]:
        """Tokens, and whether logits are finite, of each row; rows of one prompt follow each other."""
        device, rows = self.model.device, sum(counts)
        ids, mask, _ = padded_left(self.model, prompts, self.stops)
        new = numbers.shape[1]
        states = Prefix(self.model.model, ids, None if bool(mask.all()) else mask, counts, room=new)
        ends = torch.tensor(list(self.stops), dtype=torch.long, device=device)
        filler = int(self.stops[0]) if self.stops else 0
        found = torch.full((rows, new), filler, dtype=torch.long, device=device)
        finite = torch.ones(rows, dtype=torch.bool, device=device)
        live = torch.arange(rows, device=device)
        ended = torch.zeros(rows, dtype=torch.bool, device=device)
        look, logits = _LOOK.get(device.type, _LOOK_ELSEWHERE), states.logits
        for step in range(new):
            finite[live] &= torch.isfinite(logits.float().sum(dim=1)) | ended
            token = self.draw(logits, numbers[live.to(numbers.device), step])
            found[live, step] = token
            ended |= torch.isin(token, ends)
            if step + 1 == new:
                break
            if self.stop_texts and step % _TEXTS_EVERY == _TEXTS_EVERY - 1:
                ended |= said(self.model.tokenizer, self.stop_texts, found[live, : step + 1], last=_TEXTS_EVERY)
            if step % look == look - 1:
                left = int((~ended).sum())
                if not left:
                    break
                if left <= _WASTE * len(live):
                    kept = torch.nonzero(~ended)[:, 0]
                    states.select(kept)
                    live, token, ended = live[kept], token[kept], ended[kept]
            logits = states.step(token)
        return found.tolist(), finite.tolist()

    def _generated(
        self, prompts: Sequence[list[int]], counts: Sequence[int], numbers: Tensor
    ) -> tuple[list[list[int]], list[bool]]:
        """The same by transformers, each row with its own prompt."""
        rows = [prompt for prompt, count in zip(prompts, counts, strict=True) for _ in range(count)]
        size = 1 if self.model.sharing().continued == "alone" else len(rows)
        tokens: list[list[int]] = []
        finite: list[bool] = []
        for first in range(0, len(rows), size):
            part = slice(first, first + size)
            found, fine = self._generated_batch(rows[part], numbers[part])
            tokens, finite = tokens + found, finite + fine
        return tokens, finite

    def _generated_batch(self, rows: Sequence[list[int]], numbers: Tensor) -> tuple[list[list[int]], list[bool]]:
        from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

        model = self.model
        ids, mask, pad = padded_left(model, rows, self.stops)
        ends = list(self.stops) or None
        config = GenerationConfig(
            do_sample=False, num_beams=1, max_new_tokens=numbers.shape[1], eos_token_id=ends, pad_token_id=pad
        )
        drawn = _Drawn(self.draw, numbers)

        def has_said(input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
            return said(model.tokenizer, self.stop_texts, input_ids[:, ids.shape[1] :], last=1)

        with own_settings_off(model.model):
            output = model.model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=config,
                logits_processor=LogitsProcessorList([drawn]),
                stopping_criteria=StoppingCriteriaList([has_said] if self.stop_texts else []),
            )
        tokens = output[:, ids.shape[1] :].tolist()
        return tokens, [drawn.finite(i, len(until(row, self.stops)) + 1) for i, row in enumerate(tokens)]


@torch.no_grad()
def can_share(model: Model, prompt: list[int], new: int) -> bool:
    """Whether a prompt's states can be repeated for continuations by `new` tokens: two rows from repeated states are as
    one without a cache."""
    module = model.model
    if hasattr(module, "inner") or model.sharing().continued == "alone":
        return False
    ids = torch.tensor([prompt], device=model.device)
    cache = getattr(module(input_ids=ids[:, :1], use_cache=True), "past_key_values", None)
    if not keys_and_values_only(cache):
        return False
    if new < 2 or len(prompt) < 2:
        return True
    states = Prefix(module, ids[:, :-1], None, [2], room=1)
    other = states.step(ids[0, -1:].expand(2))
    return same_logits(other[1:], module(input_ids=ids, use_cache=False).logits[:, -1])


class _Drawn:
    """A logits processor that leaves only the token that is drawn.

    Args:
        draw: draws tokens.
        numbers: [R, T] uniform numbers.
    """

    def __init__(self, draw: TokenDraw, numbers: Tensor) -> None:
        self._draw, self._numbers = draw, numbers
        self._steps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """[R, V] 0 for the drawn token, and minus infinity for all others."""
        token = self._draw(scores, self._numbers[:, len(self._steps)])
        self._steps.append(torch.isfinite(scores.float().sum(dim=1)))
        return torch.full_like(scores, float("-inf")).scatter_(1, token[:, None], 0.0)

    def finite(self, row: int, steps: int) -> bool:
        """Whether a row's logits were finite in the first `steps` steps."""
        return all(bool(step[row]) for step in self._steps[:steps])


class Prefix:
    """The states of prompts, computed once, for several continuations of each, and their next logits.

    Args:
        model: a causal language model whose cache has keys and values only, see `keys_and_values_only`.
        ids: [B, T] the prompts, padded on the left.
        mask: their attention mask; None without padding.
        counts: [B] the number of continuations of each; R in all.
        room: the most tokens that are added.

    Attributes:
        logits: [R, V] of the next token.
    """

    def __init__(self, model: Any, ids: Tensor, mask: Tensor | None, counts: Sequence[int], *, room: int) -> None:
        self._model = model
        repeats = torch.tensor(counts, device=ids.device)
        places = {} if mask is None else {"attention_mask": mask, "position_ids": _positions(mask)}
        output = model(input_ids=ids, use_cache=True, **places)
        self.logits: Tensor = output.logits[:, -1].repeat_interleave(repeats, dim=0)
        self._cache = output.past_key_values
        for i, layer in enumerate(self._cache.layers):
            self._cache.layers[i] = _repeated(layer, repeats, room)
        self._mask = self._next = None
        if mask is not None:
            added = torch.ones(len(self.logits), room, dtype=mask.dtype, device=mask.device)
            self._mask = torch.cat([mask.repeat_interleave(repeats, dim=0), added], dim=1)
            self._next = mask.sum(dim=1).repeat_interleave(repeats)
        self._length = ids.shape[1]

    def step(self, token: Tensor) -> Tensor:
        """[R, V] the logits after one more token of each continuation."""
        self._length += 1
        places = {}
        if self._mask is not None and self._next is not None:
            places = {"attention_mask": self._mask[:, : self._length], "position_ids": self._next[:, None]}
            self._next = self._next + 1
        output = self._model(input_ids=token[:, None], past_key_values=self._cache, use_cache=True, **places)
        self.logits = output.logits[:, -1]
        return self.logits

    @property
    def rewinds(self) -> bool:
        """Whether tokens can be taken back: layers that keep the last tokens only have lost those before."""
        return all(type(layer) is _Growing or not layer.is_initialized for layer in self._cache.layers)

    @property
    def length(self) -> int:
        """The number of tokens of each continuation, with prompt and padding."""
        return self._length

    def rewind(self, rows: Tensor, start: int, length: int) -> None:
        """Let continuation i go on from the first `length` tokens of continuation ``rows[i]``, of the same prompt; both
        have the same first `start` tokens. `logits` stay those of the last token."""
        for layer in self._cache.layers:
            if layer.is_initialized:
                layer.rewind(rows, start, length)
        if self._next is not None:
            self._next = self._next - (self._length - length)
        self._length = length

    def select(self, rows: Tensor) -> None:
        """Keep only some continuations."""
        self._cache.batch_select_indices(rows)
        if self._mask is not None and self._next is not None:
            self._mask, self._next = self._mask[rows], self._next[rows]


def _positions(mask: Tensor) -> Tensor:
    return (mask.long().cumsum(dim=1) - 1).clamp_min(0)


def keys_and_values_only(cache: Any) -> bool:
    """Whether a model's cache has only keys and values, which can be repeated and reordered by row."""
    known = (DynamicLayer, DynamicSlidingWindowLayer)
    return type(cache) is DynamicCache and all(type(layer) in known for layer in cache.layers)


def _repeated(layer: Any, repeats: Tensor, room: int) -> Any:
    """A cache layer with each row repeated; a growing one with room for further tokens, which are not copied again."""
    if not layer.is_initialized:  # a block that uses the keys and values of another one
        return layer
    layer.keys = layer.keys.repeat_interleave(repeats, dim=0)
    layer.values = layer.values.repeat_interleave(repeats, dim=0)
    return _Growing(layer.keys, layer.values, room) if type(layer) is DynamicLayer else layer


class _Growing(DynamicLayer):  # type: ignore[misc]
    """A cache layer that writes new tokens into free places instead of copying all before them.

    Args:
        keys: [R, H, T, d] the keys of the tokens before.
        values: their values.
        room: the number of free places.
    """

    def __init__(self, keys: Tensor, values: Tensor, room: int) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._length = keys.shape[-2]
        self._all_keys, self._all_values = (torch.nn.functional.pad(t, (0, 0, 0, room)) for t in (keys, values))
        self._view()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """The keys and values with those of one or more further tokens."""
        start, self._length = self._length, self._length + key_states.shape[-2]
        self._all_keys[..., start : self._length, :] = key_states
        self._all_values[..., start : self._length, :] = value_states
        self._view()
        return self.keys, self.values

    def rewind(self, rows: Tensor, start: int, length: int) -> None:
        """Replace the tokens from `start` to `length` by those of other rows, and drop the later ones."""
        for states in (self._all_keys, self._all_values):
            states[..., start:length, :] = states[..., start:length, :][rows]
        self._length = length
        self._view()

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only these rows."""
        self._all_keys, self._all_values = self._all_keys[indices], self._all_values[indices]
        self._view()

    def _view(self) -> None:
        self.keys = self._all_keys[..., : self._length, :]
        self.values = self._all_values[..., : self._length, :]
