"""Soft prompts: trained embeddings before every question."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from uwc.attacks.attacked import Attacked
from uwc.attacks.data import AttackData
from uwc.attacks.registry import attacks
from uwc.attacks.surrogate import Surrogate
from uwc.data.batches import collate
from uwc.models.head import answer_logits, token_logprobs
from uwc.models.target import Target


class SoftPrompted(Surrogate):
    """A model that reads [k, d] embeddings before every input.

    Args:
        model: the model.
        prompt: the embeddings.
    """

    def __init__(self, model: Any, prompt: Tensor) -> None:
        super().__init__(model)
        self.prompt = nn.Parameter(prompt)

    def states(self, input_ids: Tensor, attention_mask: Tensor | None = None, cache: Any = None) -> Tensor:
        """[B, T, d] the final states at the positions of the tokens; what a cache holds begins with the prompt."""
        embedded = self.get_input_embeddings()(input_ids)
        prompt = self.prompt.to(embedded.dtype).expand(len(input_ids), -1, -1)
        if attention_mask is not None:
            attention_mask = torch.cat(
                [attention_mask.new_ones(len(input_ids), prompt.shape[1]), attention_mask], dim=1
            )
        if cache is not None and cache.get_seq_length():
            return self.body({"inputs_embeds": embedded}, attention_mask, cache)
        whole = self.body({"inputs_embeds": torch.cat([prompt, embedded], dim=1)}, attention_mask, cache)
        return whole[:, prompt.shape[1] :]


@attacks.register(
    "soft_prompt", source="arXiv:2104.08691, arXiv:2402.09063", kind="inside", touches_weights=False,
    needs=("train|retain",), effort="steps", budgets=False, check=None, trains_on_scored=False,
)  # fmt: skip
def soft_prompt(
    target: Target,
    data: AttackData,
    *,
    tokens: Annotated[int, Field(ge=1)] = 8,
    steps: Annotated[int, Field(ge=1)] = 100,
    lr: Annotated[float, Field(gt=0)] = 1e-2,
    batch_size: Annotated[int, Field(ge=1)] = 8,
    seed: int = 0,
) -> Iterator[Attacked]:
    """Train embeddings that, read before the question, make the model answer the attacker's questions.

    Adam on the mean negative log-likelihood of answer tokens; nothing else is trained.

    Args:
        target: the model; its weights are not changed.
        data: trained on `train`, or on `retain` where that is empty; never on what is scored.
        tokens: how many embeddings, k; they begin as those of random tokens.
        steps: optimizer steps.
        lr: Adam's.
        batch_size: examples a step.
        seed: of the beginning and of the order.
    """
    rng = np.random.default_rng(seed)
    encoded = target.encode(list(data.train or data.retain))
    embedding = target.model.get_input_embeddings().weight
    first = embedding[torch.from_numpy(rng.integers(len(embedding), size=tokens)).to(target.device)]
    wrapper = SoftPrompted(target.model, first.detach().float().clone()).eval()
    optimizer = torch.optim.Adam([wrapper.prompt], lr=lr)
    with torch.enable_grad():
        for _ in range(steps):
            chosen = rng.permutation(len(encoded))[:batch_size]
            batch = collate([encoded[i] for i in chosen], device=target.device)
            loss = -token_logprobs(answer_logits(wrapper, batch), batch.targets).mean()
            (wrapper.prompt.grad,) = torch.autograd.grad(loss, [wrapper.prompt])
            optimizer.step()
    yield Attacked(replace(target, model=wrapper), effort=steps)
