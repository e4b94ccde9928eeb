"""Multiple choice by letters: the log-probabilities of the options' letters, averaged over cyclic permutations."""

import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from uwc import progress
from uwc.data.choices import lettered, options_of
from uwc.data.example import Example, Variant, with_variants
from uwc.models.model import Model
from uwc.models.scoring import score_tokens
from uwc.models.token_scores import Floats

VARIANTS: tuple[Variant, ...] = ("answer", "perturbed_answers")
CUE = "Answer:"
"""The last line of a lettered question, unless a plain prompt template writes a text of its own after the question."""


def letter_scores(model: Model, examples: Sequence[Example], *, token_budget: int | None = None) -> tuple[Floats, ...]:
    """The mean log-probability of each option's letter over the m cyclic permutations of the options.

    ``s_j = (1/m) sum_shift log p(letter of option j | question, options rotated by shift)``, in nats. A permutation is
    one more question (see `lettered`), asked as all others are: with the chat template or the plain one, earlier turns
    and what an attack adds, which rewrites the question before its options are listed.

    Args:
        model: the model.
        examples: the questions.
        token_budget: the most padded tokens in a batch; `token_budget_of` by default.

    Returns:
        [E] arrays [m], the true answer first; empty for an example without options (see `options_of`), or that is
        longer than the context with them.
    """
    asked, plain = model.rewrite(examples), replace(model, rewrites=())
    cue = CUE if _asks_nothing(model) else ""
    rotated = [
        [lettered(example, listed, shift, cue=cue) for shift in range(len(listed))]
        for example, listed in zip(asked, map(options_of, asked), strict=True)
    ]
    longer = [i for i, questions in enumerate(rotated) if not _fit(plain, questions)]
    if longer:
        progress.warn(
            f"{len(longer)} of {len(examples)} questions (such as {examples[longer[0]].id!r}) are longer with their "
            f"options listed than the context of {model.context_length} tokens; they have no scores by letters"
        )
    rotated = [[] if i in longer else questions for i, questions in enumerate(rotated)]
    rows = [row for questions in rotated for row in questions]
    found: list[Floats] = [np.zeros(0)] * len(examples)
    if not rows:
        return tuple(found)
    tokens = score_tokens(plain, rows, variants=VARIANTS, token_budget=token_budget)
    values = np.where(tokens.answer_lengths() > 0, tokens.total(tokens.logprob, with_end=False), np.nan)
    values[~tokens.finite] = np.nan
    true, wrong = values[: len(rows)], values[len(rows) :]
    row = other = 0
    for i, questions in enumerate(rotated):
        if m := len(questions):
            of_wrong = wrong[other : other + m * (m - 1)].reshape(m, m - 1)
            found[i] = np.concatenate([true[row : row + m, None], of_wrong], axis=1).mean(axis=0)
            row, other = row + m, other + m * (m - 1)
    return tuple(found)


def _fit(model: Model, rows: Sequence[Example]) -> bool:
    """Whether questions with all their answers fit into the context."""
    encoded = model.template.encode(
        with_variants(rows, VARIANTS)[0], model.tokenizer, max_length=sys.maxsize, ends=model.end_ids
    )
    return all(len(e.tokens) <= model.context_length for e in encoded)


def _asks_nothing(model: Model) -> bool:
    """Whether the prompt writes nothing after the question that asks for the answer."""
    template = model.template
    return template.uses_chat(model.tokenizer) or not template.text.partition("{question}")[2].strip()
