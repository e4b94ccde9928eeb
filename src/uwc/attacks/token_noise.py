"""Token noise: a share of the tokens replaced by random ones."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from uwc.attacks.attacked import Attacked
from uwc.attacks.data import AttackData
from uwc.attacks.registry import attacks
from uwc.data.prompts import EncodedExample
from uwc.models.target import Target


@attacks.register(
    "token_noise",
    source="arXiv:2406.09179",
    kind="prompt",
    touches_weights=False,
    needs=(),
    effort="rate",
    budgets=False,
    check=None,
    trains_on_scored=False,
)
def token_noise(
    target: Target,
    _data: AttackData,
    *,
    rate: Annotated[float, Field(ge=0, le=1)] = 0.05,
    where: Literal["prompt", "answer", "both"] = "both",
    seed: int = 0,
) -> Iterator[Attacked]:
    """Replace a share of an example's tokens by others, drawn uniformly from the vocabulary without special tokens.

    Of n tokens in the chosen part, ``floor(rate n + u)`` are replaced, with u uniform in 0..1, so that short texts have
    the rate on average. A replaced token of the answer is both input and label, so that a model that recites the answer
    is wrong at the replaced tokens.

    Args:
        target: the model.
        rate: the share replaced, in 0..1.
        where: in the prompt, in the answer (not its end token), or in both.
        seed: of the noise, together with the example's id; independent of order and batch.
    """
    special = set(target.tokenizer.all_special_ids)
    vocabulary = np.array([t for t in range(len(target.tokenizer)) if t not in special])

    def edit(e: EncodedExample) -> EncodedExample:
        digest = hashlib.sha256(f"{seed}/{e.id}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        span = {"prompt": (0, e.start), "answer": (e.start, e.end), "both": (0, e.end)}[where]
        places = [i for i in range(*span) if e.tokens[i] not in special]
        count = int(rate * len(places) + rng.random()) if rate < 1 else len(places)
        tokens = list(e.tokens)
        for place in rng.permutation(places)[:count]:
            others = vocabulary[vocabulary != tokens[place]]
            tokens[place] = int(rng.choice(others))
        return replace(e, tokens=tuple(tokens))

    yield Attacked(target.edited(edit), effort=rate)
