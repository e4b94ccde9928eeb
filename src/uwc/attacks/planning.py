"""Answers that are planned at decision time: rollouts, ranked by a learned reward and its value at their end."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uwc.attacks.surrogate import Wrapped, require_one_model
from uwc.data.example import Example
from uwc.data.prompts import EncodedExample
from uwc.errors import AttackFailed, ModelError
from uwc.metrics.regression import fit_logistic, standardisation
from uwc.models.double import device_of_double
from uwc.models.generation import FiniteWatch, answer_cut, said
from uwc.models.model import Model
from uwc.models.samples import (
    Prefix,
    TokenDraw,
    can_share,
    sample_tokens,
    sampling_budget,
    uniforms_of,
)
from uwc.models.states import capturing_outputs, states_after
from uwc.models.token_scores import Floats


@dataclass(frozen=True)
class Linear:
    """A linear function of states.

    Attributes:
        weights: [d].
        intercept: its value at 0.
    """

    weights: Floats
    intercept: float

    def __call__(self, states: Floats) -> Floats:
        """[N] its values at [N, d] states."""
        return states @ self.weights + self.intercept

    def of_tensor(self, states: Tensor) -> Tensor:
        """The same in float32, on the device of the states."""
        weights = torch.from_numpy(self.weights.astype(np.float32)).to(states.device)
        return states.float() @ weights + float(self.intercept)


@dataclass(frozen=True)
class Reward:
    """What planning ranks rollouts by.

    Attributes:
        token: state of a token -> its reward.
        value: state of a token -> the expected sum of the rewards of the tokens after it.
    """

    token: Linear
    value: Linear


def logistic_regression(states: Floats, positive: NDArray[np.bool_]) -> Linear:
    """The log-odds that a state is positive, by logistic regression.

    ``f(x) = w^T z(x) + b`` with z the standardised states (see `standardisation`) minimises ``sum_i c_i log(1 +
    exp(-y_i f(x_i))) + |w|^2 / 2``, with y = 1 or -1 and c such that both classes weigh N / 2, so that f is 0 where
    nothing is known.

    Args:
        states: [N, d].
        positive: [N] the class; both occur.
    """
    mean, scale = standardisation(states)
    rows = np.column_stack([(states - mean) / scale, np.ones(len(states))])
    weights = 0.5 / np.where(positive, positive.mean(), 1 - positive.mean())
    penalty = np.append(np.ones(states.shape[1]), 0.0)
    found = fit_logistic(rows, np.where(positive, 1.0, -1.0), penalty=penalty, weights=weights)
    return _unstandardised(found[:-1], float(found[-1]), mean, scale)


def ridge_regression(states: Floats, values: Floats) -> Linear:
    """The linear function ``f(x) = w^T z(x) + b`` of standardised states that minimises ``sum_i (f(x_i) - v_i)^2 +
    |w|^2``, for [N, d] states and [N] values."""
    mean, scale = standardisation(states)
    rows, centre = (states - mean) / scale, float(values.mean())
    weights: Floats = np.linalg.solve(rows.T @ rows + np.eye(rows.shape[1]), rows.T @ (values - centre)).astype(float)
    return _unstandardised(weights, centre, mean, scale)


def _unstandardised(weights: Floats, intercept: float, mean: Floats, scale: Floats) -> Linear:
    plain = weights / scale
    return Linear(plain, intercept - float(mean @ plain))


def sums_after(rewards: Floats, answers: NDArray[np.int64]) -> Floats:
    """[N] for each token the sum of the rewards of the later tokens of its answer; answers follow each other."""
    bounds = [0, *(np.flatnonzero(np.diff(answers)) + 1).tolist(), len(answers)]
    return np.concatenate([rewards[a:b][::-1].cumsum()[::-1] - rewards[a:b] for a, b in pairwise(bounds)])


def learn_reward(
    model: Model,
    examples: Sequence[Example],
    *,
    layer: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> Reward:
    """A reward that prefers true answers to the model's own, and its value.

    The reward of a token is the log-odds, by `logistic_regression` on the state that has read it, that it stands in a
    true answer and not in one that the model samples. The value is by `ridge_regression` the sum of the rewards after a
    token of the model's own answers. The end of an answer is a token of it.

    Args:
        model: the model.
        examples: questions with true answers; one answer is sampled to each.
        layer: the block 1..L whose output is read.
        max_new_tokens: the most tokens of a sampled answer.
        temperature, top_p, seed: of the sampling.

    Raises:
        AttackFailed: the sampled answers are the true ones, or states are not finite.
    """
    true = model.encode(examples)
    drawn, _ = sample_tokens(
        model, examples, count=1, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed
    )
    stop_texts = model.template.stop_texts(chat=model.template.uses_chat(model.tokenizer))
    own = [
        _answered(model, e, rows[0], max_new_tokens, () if x.raw else stop_texts)
        for x, e, rows in zip(examples, true, drawn, strict=True)
    ]
    spoken = [(e, o) for e, o in zip(true, own, strict=True) if len(o.tokens) > o.start]
    if all(e.tokens == o.tokens for e, o in spoken):
        raise AttackFailed(
            f"the attack 'planning' has nothing to learn a reward from: {model.name} answers the {len(examples)} "
            "retained questions as the data do; give others (--retain), or raise planning.temperature"
        )
    (known, _), (drawn_states, answers) = (states_after(model, part, layer) for part in (true, [o for _, o in spoken]))
    both = np.concatenate([known, drawn_states]).astype(np.float64)
    if not np.isfinite(both).all():
        raise AttackFailed(
            f"the attack 'planning' reads states of {model.name} that are not finite; load it in a higher precision "
            "(model.dtype)"
        )
    token = logistic_regression(both, np.arange(len(both)) < len(known))
    mine = both[len(known) :]
    return Reward(token, ridge_regression(mine, sums_after(token(mine), answers)))


def _answered(
    model: Model, example: EncodedExample, tokens: list[int], most: int, stop_texts: Sequence[str]
) -> EncodedExample:
    """A question with sampled tokens as its answer, and its end if the model ended it by a token."""
    kept, _ = answer_cut(model.tokenizer, tokens, stop_texts)
    room = min(most, model.context_length - example.start)
    end = example.tokens[example.end :] if len(kept) == len(tokens) < room else ()
    answered = (*example.before, *kept, *end)
    return replace(example, tokens=answered, end=example.start + len(kept))


@dataclass(frozen=True)
class Planning:
    """How answers are planned.

    Attributes:
        rollouts: K, the continuations that are drawn for each stride.
        horizon: H, their most tokens.
        stride: S <= H, the tokens of the best one that are kept.
        layer: the block 1..L whose output the reward reads.
        temperature: of the draws.
        top_p: draw from the most likely tokens with this total probability.
        seed: of the draws.
    """

    rollouts: int
    horizon: int
    stride: int
    layer: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0

    @property
    def drawn(self) -> float:
        """The tokens that are drawn for each token of an answer."""
        return self.rollouts * self.horizon / self.stride


class PlannedBy(Wrapped):
    """A model whose answers are planned; its forward is unchanged.

    For each stride K continuations of H tokens are drawn. That with the largest sum of rewards, plus the value of its
    last state unless it has ended, is kept for S tokens; then it is planned again, until an end is kept. A token is the
    first whose cumulative probability exceeds a uniform number; the numbers depend on the seed, the tokens of the
    prompt, the stride, the rollout and the step alone.

    The states of the text so far are computed once for the K rollouts, and those of the kept tokens are taken from the
    rollout that drew them. Models whose cache cannot be rewound (sliding windows) read the text again for every stride,
    those whose cache cannot be repeated (recurrent ones) for every token.

    Args:
        model: the model.
        reward: ranks rollouts.
        planning: the settings.
        passages: whether some prompts are passages, which do not end at stop texts.

    Raises:
        ModelError: the model is a contrast of two.
    """

    def __init__(self, model: Model, reward: Reward, planning: Planning, *, passages: bool = False) -> None:
        require_one_model(model.model)
        super().__init__(model.model)
        self._of, self._reward, self._planning = model, reward, planning
        stop_texts = model.template.stop_texts(chat=model.template.uses_chat(model.tokenizer))
        self._stop_texts = () if passages else stop_texts
        self._draw = TokenDraw(planning.temperature, planning.top_p)
        self._shares: bool | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's forward."""
        return self.inner(*args, **kwargs)

    @torch.inference_mode()
    def generate(
        self,
        *,
        input_ids: Tensor,
        attention_mask: Tensor,
        generation_config: Any,
        logits_processor: Sequence[FiniteWatch] = (),
        stopping_criteria: Iterable[Callable[..., Tensor]] = (),
    ) -> Tensor:
        """[B, T + new] the prompts with the planned answers, filled up with the padding token."""
        if not all(isinstance(watch, FiniteWatch) for watch in logits_processor):
            raise ModelError("planned answers are drawn by the attack itself; they take no processor of logits")
        new, ends = generation_config.max_new_tokens, generation_config.eos_token_id or []
        pad = int(generation_config.pad_token_id)
        prompts = [row[mask.bool()].tolist() for row, mask in zip(input_ids, attention_mask, strict=True)]
        if self._shares is None:
            self._shares = can_share(self._of, prompts[0], new)
        rows = self._planning.rollouts * (input_ids.shape[1] + new) if self._shares else len(input_ids)
        most = max(1, sampling_budget(self._of) // rows)
        found = torch.full((len(prompts), new), pad, dtype=torch.long, device=input_ids.device)
        finite = torch.ones(len(prompts), new, dtype=torch.bool, device=input_ids.device)
        for first in range(0, len(prompts), most):
            part = slice(first, first + most)
            self._plan(input_ids[part], attention_mask[part], prompts[part], ends, found[part], finite[part])
        flags = torch.where(finite, 0.0, float("nan"))
        ended = torch.zeros(len(prompts), dtype=torch.bool, device=input_ids.device)
        stops = torch.tensor(ends, dtype=torch.long, device=input_ids.device)
        for t in range(new):
            for watch in logits_processor:
                watch(input_ids, flags[:, t : t + 1])
            found[ended, t] = pad
            read = torch.cat([input_ids, found[:, : t + 1]], dim=1)
            ended |= torch.isin(found[:, t], stops)
            for criterion in stopping_criteria:
                ended |= criterion(read, None)
        return torch.cat([input_ids, found], dim=1)

    def _plan(
        self,
        ids: Tensor,
        mask: Tensor,
        prompts: Sequence[list[int]],
        ends: Sequence[int],
        found: Tensor,
        finite: Tensor,
    ) -> None:
        """Write the planned [B, new] tokens, and whether their logits were finite, into `found` and `finite`."""
        of, device = self._planning, ids.device
        count, new = of.rollouts, found.shape[1]
        steps = ceil(new / of.stride) * of.horizon
        drawn = [uniforms_of(",".join(map(str, prompt)), of.seed, count, steps) for prompt in prompts]
        numbers = torch.from_numpy(np.concatenate(drawn)).to(device_of_double(device))
        stops = torch.tensor(list(ends), dtype=torch.long, device=device)
        texts = self._states(ids, mask, prompts, room=new + of.horizon)
        live = torch.arange(len(ids), device=device)
        done = plans = 0
        while done < new and len(live):
            horizon, take = min(of.horizon, new - done), min(of.stride, new - done)
            of_rows = (live[:, None] * count + torch.arange(count, device=device)).flatten()
            columns = numbers[of_rows.to(numbers.device), plans * of.horizon : plans * of.horizon + horizon]
            rollouts = self._rolled(texts, columns, stops, take, found[live, :done])
            best = rollouts.score.view(-1, count).argmax(dim=1)
            chosen = best + torch.arange(len(live), device=device) * count
            kept = rollouts.tokens[chosen, :take]
            found[live, done : done + take] = kept
            finite[live, done : done + take] = rollouts.finite[chosen, :take]
            done, plans = done + take, plans + 1
            ended = torch.isin(kept, stops).any(dim=1)
            if self._stop_texts:
                ended |= said(self._of.tokenizer, self._stop_texts, found[live, :done], last=take)
            if done < new and not bool(ended.all()):
                left = torch.nonzero(~ended)[:, 0]
                texts.keep(chosen, take, left)
                live = live[left]
            else:
                break

    def _rolled(self, texts: "Texts", numbers: Tensor, stops: Tensor, take: int, before: Tensor) -> "_Rollouts":
        """Continuations of the texts, drawn by [R, H] numbers; `before` are the [B, n] tokens that were kept before."""
        rows, horizon = numbers.shape
        device, count = texts.logits.device, self._planning.rollouts
        tokens = torch.zeros(rows, horizon, dtype=torch.long, device=device)
        finite = torch.ones(rows, horizon, dtype=torch.bool, device=device)
        score = torch.zeros(rows, dtype=torch.float32, device=device)
        ended = torch.zeros(rows, dtype=torch.bool, device=device)
        told = before.repeat_interleave(count, dim=0)
        for step in range(horizon):
            finite[:, step] = torch.isfinite(texts.logits.float().sum(dim=1)) | ended
            tokens[:, step] = token = self._draw(texts.logits, numbers[:, step])
            states = texts.step(token, cut=step + 1 == take)
            score += self._reward.token.of_tensor(states).to(device).masked_fill(ended, 0.0)
            ended |= torch.isin(token, stops)
            if self._stop_texts:
                whole = torch.cat([told, tokens[:, : step + 1]], dim=1)
                ended |= said(self._of.tokenizer, self._stop_texts, whole, last=1)
            if bool(ended.all()):
                break
        else:
            score += self._reward.value.of_tensor(states).to(device).masked_fill(ended, 0.0)
        return _Rollouts(tokens, finite, score)

    def _states(self, ids: Tensor, mask: Tensor, prompts: Sequence[list[int]], *, room: int) -> "Texts":
        of = self._planning
        if not self._shares:
            return _Read(self.inner, prompts, of.rollouts, of.layer)
        return _Kept(self.inner, ids, mask, of.rollouts, of.layer, room=room)


@dataclass(frozen=True)
class _Rollouts:
    """R continuations of at most H tokens.

    Attributes:
        tokens: [R, H]; those after an end mean nothing.
        finite: [R, H] whether the logits that they were drawn from were finite.
        score: [R] what they are ranked by.
    """

    tokens: Tensor
    finite: Tensor
    score: Tensor


class Texts(ABC):
    """B texts, each with K continuations.

    Attributes:
        logits: [B K, V] of the next token.
    """

    logits: Tensor

    @abstractmethod
    def step(self, token: Tensor, *, cut: bool) -> Tensor:
        """[B K, d] the states that have read one more token of each continuation; after the last one that may be kept,
        `cut`."""

    @abstractmethod
    def keep(self, chosen: Tensor, take: int, left: Tensor) -> None:
        """Continue each text by the first `take` tokens of a continuation, and only the texts `left`.

        Args:
            chosen: [B] the row of the continuation.
            take: the number of tokens, after which `step` had `cut`.
            left: the indices of the texts that are continued.
        """


class _Kept(Texts):
    """Texts whose states are computed once, and go on from those of the kept tokens; they are computed for every stride
    if they cannot be rewound.

    Args:
        model: a causal language model.
        ids: [B, T] the prompts, padded on the left.
        mask: their attention mask.
        count: K.
        layer: the block whose output `step` returns.
        room: the most tokens that are added.
    """

    def __init__(self, model: Any, ids: Tensor, mask: Tensor, count: int, layer: int, *, room: int) -> None:
        self._model, self._count, self._layer, self._room = model, count, layer, room
        self._start(ids, mask)

    def _start(self, ids: Tensor, mask: Tensor) -> None:
        self._ids, self._mask = ids, mask
        given = None if bool(mask.all()) else mask
        self._states = Prefix(self._model, ids, given, [self._count] * len(ids), room=self._room)
        self.logits, self._length = self._states.logits, self._states.length
        self._tokens: list[Tensor] = []
        self._at_cut = self.logits

    def step(self, token: Tensor, *, cut: bool) -> Tensor:
        with capturing_outputs(self._model, [self._layer]) as captured:
            self.logits = self._states.step(token)
        self._tokens.append(token)
        if cut:
            self._at_cut = self.logits
        return captured[self._layer][:, -1]

    def keep(self, chosen: Tensor, take: int, left: Tensor) -> None:
        if not self._states.rewinds:
            added = torch.stack(self._tokens[:take], dim=1)[chosen]
            longer = torch.cat([self._ids, added], dim=1)[left]
            self._start(longer, torch.cat([self._mask, torch.ones_like(added)], dim=1)[left])
            return
        self._states.rewind(chosen.repeat_interleave(self._count), self._length, self._length + take)
        self.logits = self._at_cut[chosen].repeat_interleave(self._count, dim=0)
        if len(left) < len(chosen):
            rows = (left[:, None] * self._count + torch.arange(self._count, device=left.device)).flatten()
            self._states.select(rows)
            self.logits = self.logits[rows]
        self._tokens, self._length = [], self._length + take


class _Read(Texts):
    """Texts that are read as a whole, one by one, for every token.

    Args:
        model: a causal language model.
        prompts: [B] token ids.
        count: K.
        layer: the block whose output `step` returns.
    """

    def __init__(self, model: Any, prompts: Sequence[list[int]], count: int, layer: int) -> None:
        self._model, self._count, self._layer = model, count, layer
        self._rows = [list(prompt) for prompt in prompts for _ in range(count)]
        self._start = [len(row) for row in self._rows]
        self._device = next(iter(model.parameters())).device
        self._read()

    def _read(self) -> Tensor:
        logits: list[Tensor] = []
        states: list[Tensor] = []
        for i, row in enumerate(self._rows):
            if i and row == self._rows[i - 1]:
                logits.append(logits[-1])
                states.append(states[-1])
                continue
            with capturing_outputs(self._model, [self._layer]) as captured:
                output = self._model(input_ids=torch.tensor([row], device=self._device), use_cache=False)
            logits.append(output.logits[0, -1])
            states.append(captured[self._layer][0, -1])
        self.logits = torch.stack(logits)
        return torch.stack(states)

    def step(self, token: Tensor, *, cut: bool) -> Tensor:
        for row, added in zip(self._rows, token.tolist(), strict=True):
            row.append(added)
        return self._read()

    def keep(self, chosen: Tensor, take: int, left: Tensor) -> None:
        ends = [self._rows[row][: self._start[row] + take] for row in chosen[left].tolist()]
        self._rows = [list(row) for row in ends for _ in range(self._count)]
        self._start = [len(row) for row in self._rows]
        self._read()
