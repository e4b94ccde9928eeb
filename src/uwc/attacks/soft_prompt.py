"""Soft prompts: trained embeddings before each question."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated

import numpy as np
from pydantic import Field

from uwc.attacks.chain import Attacked
from uwc.attacks.data import AttackData
from uwc.attacks.registry import attacks
from uwc.data.batches import collate
from uwc.models.model import Model


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
    import torch

    from uwc.attacks.surrogate import SoftPrompted
    from uwc.models.batching import DEFAULT_TOKEN_BUDGET
    from uwc.models.head import answer_logits, token_logprobs
    from uwc.models.states import embedding_of

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
