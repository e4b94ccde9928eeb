"""Other codes' definitions, under their names, for numbers that can be compared with published ones."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from uwc.data.peer_prompts import OfficialTemplate, OpenUnlearningTemplate
from uwc.data.prompts import PromptTemplate
from uwc.errors import ConfigError
from uwc.metrics.membership import mia_min_k, mia_min_k_plus_plus
from uwc.metrics.memorization import exact_memorization, extraction_strength
from uwc.metrics.overlap import ascii_rouge
from uwc.models.target import Target
from uwc.models.token_scores import Floats, TokenScores
from uwc.registry import unknown_name


@dataclass(frozen=True)
class Compat:
    """How another code differs from ours.

    Attributes:
        name: what users write.
        template: its prompt.
        functions: metric -> its definition.
        settings: metric -> the settings that are its definition.
    """

    name: str
    template: PromptTemplate
    functions: Mapping[str, Callable[..., Floats]]
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def adapt(self, target: Target) -> Target:
        """The same model, asked with that code's prompt."""
        return replace(target, template=self.template)


def floored_extraction_strength(scores: TokenScores) -> Floats:
    """OpenUnlearning's extraction strength: at least 1/n, for its search ends at the last token; 0 for no token.

    ``1 - k* / n`` with k* in 0..n-1. The last labelled token is left out as the end of sequence, whatever it is.
    """
    scores = _last_left_out(scores)
    lengths = scores.answer_lengths()
    floor = np.divide(1.0, lengths, out=np.zeros(len(scores)), where=lengths > 0)
    strength: Floats = np.maximum(np.nan_to_num(extraction_strength(scores)), floor)
    return strength


def official_extraction_strength(scores: TokenScores) -> Floats:
    """The official code's extraction strength: a binary search that takes an early stop for success.

    Over the tokens after the bare question's length, ``1 - k / n`` with k from a bisection of 0..n that moves down when
    the continuation from prefix k has no wrong token before the model stops. Such matches need not be monotone in k.
    """
    result = np.full(len(scores), np.nan)
    for i, (start, end) in enumerate(zip(scores.offsets[:-1], scores.offsets[1:], strict=True)):
        wrong = ~scores.greedy[start:end]
        stops = scores.stops[start:end]
        low, high, previous = 0, int(end - start), -1
        while (middle := (low + high) // 2) != previous:
            after = np.flatnonzero(wrong[middle:])
            matches = not len(after) or bool(stops[middle + after[0]])
            low, high = (low, middle) if matches else (middle, high)
            previous = middle
        result[i] = 1.0 - high / (end - start)
    return result


def _last_left_out(scores: TokenScores) -> TokenScores:
    return replace(scores, end_lengths=np.minimum(np.diff(scores.offsets), 1))


def _zero_where_empty(metric: Callable[..., Floats]) -> Callable[..., Floats]:
    def measured(scores: TokenScores, **settings: Any) -> Floats:
        return np.nan_to_num(metric(_last_left_out(scores), **settings))

    return measured


COMPAT: dict[str, Compat] = {
    "open-unlearning": Compat(
        "open-unlearning",
        OpenUnlearningTemplate(),
        {
            "extraction_strength": floored_extraction_strength,
            "exact_memorization": lambda scores: exact_memorization(_last_left_out(scores)),
            "mia_min_k": _zero_where_empty(mia_min_k),
            "mia_min_k_plus_plus": _zero_where_empty(mia_min_k_plus_plus),
            "rouge_l": partial(ascii_rouge, kind="rougeL", part="recall", strict=False),
            "rouge_l_ascii": partial(ascii_rouge, kind="rougeL", part="recall", strict=False),
            "rouge_l_f1": partial(ascii_rouge, kind="rougeL", part="fmeasure", strict=False),
            "rouge_1": partial(ascii_rouge, kind="rouge1", part="recall", strict=False),
            "rouge_1_f1": partial(ascii_rouge, kind="rouge1", part="fmeasure", strict=False),
        },
        {
            "truth_ratio_forget": {"definition": "geometric"},
            "truth_ratio_utility": {"definition": "geometric"},
        },
    ),
    "uwc-official": Compat("uwc-official", OfficialTemplate(), {"extraction_strength": official_extraction_strength}),
}
"""Name -> the code's definitions; see docs/compatibility.md."""


def compat_of(name: str | None) -> Compat | None:
    """The definitions of that name, or None for our own. Raises ConfigError if there are none."""
    if name is None:
        return None
    if name not in COMPAT:
        raise ConfigError(unknown_name("compatibility mode", name, list(COMPAT)))
    return COMPAT[name]
