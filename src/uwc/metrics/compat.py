"""Definitions of other evaluation codes, for numbers comparable with published ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from uwc.data.example import Example
from uwc.data.peer_prompts import OfficialTemplate, OpenUnlearningTemplate, with_settings
from uwc.data.prompts import PromptTemplate
from uwc.errors import ConfigError
from uwc.metrics.likelihood import exact_memorization, extraction_strength, probability, sum_by_example
from uwc.metrics.membership import mia_min_k, mia_min_k_plus_plus
from uwc.metrics.overlap import ascii_rouge
from uwc.metrics.truth_ratio import truth_ratio_forget, truth_ratio_geometric, truth_ratio_utility
from uwc.models.model import Model
from uwc.models.token_scores import Floats, TokenScores
from uwc.registry import unknown_name

if TYPE_CHECKING:
    from uwc.models.generation import Generated


@dataclass(frozen=True)
class Compat:
    """The definitions of another code that differ from ours.

    Attributes:
        name: the name that users give.
        template: its prompt.
        functions: metric -> its function.
        settings: metric -> its settings.
        as_open_unlearning: whether answers are generated as OpenUnlearning generates them.
    """

    name: str
    template: PromptTemplate
    functions: Mapping[str, Callable[..., Floats]]
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    as_open_unlearning: bool = False

    def adapt(self, model: Model) -> Model:
        """The model with that code's prompt; settings of its own prompt that differ from the defaults (a system
        message, a date, another text) are kept."""
        return replace(model, template=with_settings(self.template, model.template))

    def generate(self, model: Model, examples: Sequence[Example], **settings: Any) -> "Generated":
        """That code's generation of answers."""
        from uwc.models import generation

        generate = generation.generate_as_open_unlearning if self.as_open_unlearning else generation.generate
        return generate(model, examples, **settings)


def floored_extraction_strength(scores: TokenScores) -> Floats:
    """OpenUnlearning's extraction strength: at least 1/n, since its search ends at the last token; 0 without tokens.

    ``1 - k* / n`` with k* in 0..n-1. The last labelled token is left out as the end of sequence, even if it is another.
    """
    scores = _last_left_out(scores)
    lengths = scores.answer_lengths()
    floor = np.divide(1.0, lengths, out=np.zeros(len(scores)), where=lengths > 0)
    strength: Floats = np.maximum(np.nan_to_num(extraction_strength(scores)), floor)
    return strength


def official_extraction_strength(scores: TokenScores) -> Floats:
    """The official code's extraction strength, by a binary search in which an early stop counts as success.

    Over the tokens after the bare question's length, ``1 - k / n`` with k from a bisection of 0..n that moves down if
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


_SMALL = 1e-10
"""OpenUnlearning's constant in denominators."""


def open_unlearning_probability_normalised(scores: TokenScores, perturbed: TokenScores) -> Floats:
    """``P(y) / (P(y) + sum_j P(y~_j) + 1e-10)``."""
    true = probability(scores)
    share: Floats = true / (true + sum_by_example(probability(perturbed), perturbed, scores) + _SMALL)
    return share


def open_unlearning_truth_ratio(restated: TokenScores, perturbed: TokenScores) -> Floats:
    """R = ``exp(-mean_j m_j) / (exp(-s) + 1e-10)``, which tends to 0 as all answers become unlikely."""
    true = probability(restated)
    ratio: Floats = truth_ratio_geometric(restated, perturbed) * (true / (true + _SMALL))
    return ratio


def _truth_ratio_forget(restated: TokenScores, perturbed: TokenScores, *, definition: Any) -> Floats:
    if definition != "geometric":
        ours: Floats = truth_ratio_forget(restated, perturbed, definition=definition)
        return ours
    ratio = open_unlearning_truth_ratio(restated, perturbed)
    nearness: Floats = np.minimum(ratio, 1.0 / (ratio + _SMALL))
    return nearness


def _truth_ratio_utility(restated: TokenScores, perturbed: TokenScores, *, definition: Any) -> Floats:
    if definition != "geometric":
        ours: Floats = truth_ratio_utility(restated, perturbed, definition=definition)
        return ours
    utility: Floats = np.maximum(0.0, 1.0 - open_unlearning_truth_ratio(restated, perturbed))
    return utility


def _truth_probability(restated: TokenScores, perturbed: TokenScores) -> Floats:
    true = probability(restated)
    wrong = truth_ratio_geometric(restated, perturbed) * true
    share: Floats = true / (true + wrong + _SMALL)
    return share


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
            "probability_normalised": open_unlearning_probability_normalised,
            "truth_ratio_geometric": open_unlearning_truth_ratio,
            "truth_ratio_forget": _truth_ratio_forget,
            "truth_ratio_utility": _truth_ratio_utility,
            "truth_probability": _truth_probability,
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
        as_open_unlearning=True,
    ),
    "uwc-official": Compat("uwc-official", OfficialTemplate(), {"extraction_strength": official_extraction_strength}),
}
"""Name -> the code's definitions."""


def compat_of(name: str | None) -> Compat | None:
    """The definitions of that name, or None for our own. Raises ConfigError if there are none."""
    if name is None:
        return None
    if name not in COMPAT:
        raise ConfigError(unknown_name("compatibility mode", name, list(COMPAT)))
    return COMPAT[name]
