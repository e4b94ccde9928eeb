"""Soft prompts: trained embeddings before each question."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from uwc.attacks.chain import Attacked
from uwc.attacks.data import AttackData
from uwc.attacks.registry import attacks
from uwc.attacks.surrogate import Wrapped
from uwc.data.batches import collate
from uwc.models.head import answer_logits, head_of, token_logprobs
from uwc.models.model import DEFAULT_TOKEN_BUDGET, Model
from uwc.models.states import embedding_of


class SoftPrompted(Wrapped):
    """A model with [k, d] embeddings before the first token of every input, after left padding.

    The model's own forward and generation run on k more tokens, whose embeddings are replaced in the output of the
    embedding module, and whose states are removed from the input of the output embedding.

    Args:
        model: the model.
        prompt: the embeddings, in the scale of the embedding module's output.
        tokens: [k] ids of the further tokens, for models that read ids besides embeddings.
    """

    def __init__(self, model: Any, prompt: Tensor, tokens: Tensor) -> None:
        super().__init__(model)
        self.prompt = nn.Parameter(prompt)
        self.tokens = tokens

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Any:
        """Logits of the [B, T] tokens alone."""
        ids, mask, places = self._lengthened(input_ids, attention_mask)
        own = torch.ones_like(ids, dtype=torch.bool).scatter(1, places, False)

        def leave_out(_module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (args[0][own].view(*input_ids.shape, -1), *args[1:])

        given = {} if mask is None else {"attention_mask": mask}
        handle = head_of(self.inner).register_forward_pre_hook(leave_out, prepend=True)
        try:
            with self._embedding(places, ids.shape[1]):
                return self.inner(input_ids=ids, **given, **options)
        finally:
            handle.remove()

    def generate(self, *, input_ids: Tensor, attention_mask: Tensor, **options: Any) -> Tensor:
        """[B, T + new] the model's continuations, generated from the longer input."""
        ids, mask, places = self._lengthened(input_ids, attention_mask)
        with self._embedding(places, ids.shape[1]):
            output = self.inner.generate(input_ids=ids, attention_mask=mask, **options)
        return torch.cat([input_ids, output[:, ids.shape[1] :]], dim=1)

    def _lengthened(self, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor]:
        """The [B, k + T] ids and mask with the prompt's tokens after the padding, and their [B, k] positions."""
        size, count = len(ids), len(self.tokens)
        padding = torch.zeros(size, device=ids.device).long() if mask is None else mask.long().argmax(dim=1)
        places = padding[:, None] + torch.arange(count, device=ids.device)
        own = torch.ones(size, count + ids.shape[1], dtype=torch.bool, device=ids.device).scatter(1, places, False)
        longer = torch.empty_like(own, dtype=ids.dtype).scatter(1, places, self.tokens.expand(size, -1))
        longer[own] = ids.flatten()
        if mask is None:
            return longer, None, places
        longer_mask = torch.ones_like(own, dtype=mask.dtype)
        longer_mask[own] = mask.flatten()
        return longer, longer_mask, places

    @contextmanager
    def _embedding(self, places: Tensor, length: int) -> Iterator[None]:
        """While open, the embedding module returns the prompt at these positions of inputs of `length` tokens."""

        def replace_rows(_module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if output.shape[1] < length:
                return output  # a later step of generation, from the cache
            rows = self.prompt.to(output.dtype).expand(len(places), -1, -1)
            return output.scatter(1, places[..., None].expand_as(rows), rows)

        handle = self.inner.get_input_embeddings().register_forward_hook(replace_rows)
        try:
            yield
        finally:
            handle.remove()


@attacks.register(
    "soft_prompt",
    source="arXiv:2104.08691, arXiv:2402.09063",
    kind="inside",
    touches_weights=False,
    needs=("train|retain",),
    effort="steps",
    budgets=False,
    check=None,
    trains_on_scored=False,
)
def soft_prompt(
    model: Model,
    data: AttackData,
    *,
    tokens: Annotated[int, Field(ge=1)] = 8,
    steps: Annotated[int, Field(ge=1)] = 100,
    lr: Annotated[float, Field(gt=0)] = 1e-2,
    batch_size: Annotated[int, Field(ge=1)] = 8,
    seed: int = 0,
) -> Iterator[Attacked]:
    """Train embeddings before the question to elicit answers to the attacker's questions.

    Adam on the mean negative log-likelihood of answer tokens; only the embeddings are trained.

    Args:
        model: the model; its weights are not changed.
        data: trained on `train`, or on `retain` if that is empty; never on the scored examples.
        tokens: the number of embeddings, k, initialised from random tokens.
        steps: optimizer steps.
        lr: Adam's.
        batch_size: examples a step.
        seed: of initialisation and order.

    Raises:
        ModelError: the model has no input embedding, or two.
    """
    rng = np.random.default_rng(seed)
    encoded = model.encode(list(data.train or data.retain))
    embedding = embedding_of(model.model)
    first = torch.from_numpy(rng.integers(len(embedding.weight), size=tokens)).to(model.device)
    with torch.no_grad():
        prompt = embedding(first[None])[0].float()
    wrapper = SoftPrompted(model.model, prompt, first).eval()
    prompted = replace(model, model=wrapper, batching=model.sharing().lengthened(tokens))
    optimizer = torch.optim.Adam([wrapper.prompt], lr=lr)
    with torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad()
            chosen = [encoded[i] for i in rng.permutation(len(encoded))[:batch_size]]
            batches = [
                collate([chosen[i] for i in group], device=model.device)
                for group in prompted.groups(chosen, token_budget=DEFAULT_TOKEN_BUDGET)
            ]
            for batch in batches:
                losses = -token_logprobs(answer_logits(wrapper, batch), batch.targets)
                loss = losses.sum() / sum(len(each.targets) for each in batches)
                torch.autograd.backward(loss, inputs=[wrapper.prompt])
            optimizer.step()
    yield Attacked(prompted, effort=steps)
