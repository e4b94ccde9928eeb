"""Sets of texts of a system that is not a checkpoint, and the values by example of evaluation logs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy  # its parts are imported on first use

from uwc.data.evaluation_logs import NORMALISED, LoggedSet
from uwc.data.example import Example
from uwc.data.outputs import SystemTexts
from uwc.errors import ConfigError, DataError
from uwc.metrics.compat import Compat
from uwc.metrics.registry import JUDGES
from uwc.metrics.scored import MeasuredSet
from uwc.metrics.semantics import Judges
from uwc.metrics.suites import FORGET, WEIGHTS, OnlyTexts
from uwc.models.token_scores import Floats
from uwc.registry import unknown_name

Settings = Mapping[str, Mapping[str, Any]]
_DEFINITIONS = ("arithmetic", "geometric")


@dataclass(frozen=True)
class TextSet(MeasuredSet):
    """The texts of one system for E questions.

    Attributes:
        examples: the questions.
        answers: [E] the true answers.
        texts: [E] the texts; empty if a log has none.
        secrets: [E] the spans that must not come out; empty if no question has any.
        prompts: [E] the prompts, as sent; empty if they are not known.
        logged: metric -> [E] its values in an evaluation log.
        judged: metric with its settings (see `judged_by`) -> [E] its values.
        compat: None.
    """

    examples: tuple[Example, ...]
    answers: tuple[str, ...]
    texts: tuple[str, ...] = ()
    secrets: tuple[tuple[str, ...], ...] = ()
    prompts: tuple[str, ...] = ()
    logged: Mapping[str, Floats] = field(default_factory=dict)
    judged: Mapping[str, Floats] = field(default_factory=dict)
    compat: Compat | None = None
    _known: dict[str, Floats] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def ids(self) -> tuple[str, ...]:
        """[E] the id of each question."""
        return tuple(e.id for e in self.examples)

    @property
    def questions(self) -> tuple[str, ...]:  # type: ignore[override]
        """[E] the questions."""
        return tuple(e.question for e in self.examples)

    @property
    def subjects(self) -> tuple[str, ...]:
        """[E] the subject of each question, which names its cluster."""
        return tuple(e.subject for e in self.examples)

    def _computed(self, metric: str, settings: Mapping[str, Any], judges: Judges | None = None) -> Floats:
        return self.logged[metric] if metric in self.logged else super()._computed(metric, settings, judges)

    def _lacking(self, need: str) -> str:
        return super()._lacking(need) if need in ("texts", "secrets", *JUDGES) else WEIGHTS


def text_set(
    examples: Sequence[Example],
    texts: Sequence[str],
    prompts: Sequence[str] = (),
    logged: Mapping[str, Floats] | None = None,
) -> TextSet:
    """The texts for E questions.

    Args:
        examples: the questions, with their true answers.
        texts: [E] the texts; empty if there are none.
        prompts: [E] the prompts, as sent; empty if they are not known.
        logged: metric -> [E] values of an evaluation log.
    """
    return TextSet(
        examples=tuple(examples),
        answers=tuple(e.answer for e in examples),
        texts=tuple(texts),
        secrets=tuple(e.secret for e in examples) if any(e.secret for e in examples) else (),
        prompts=tuple(prompts),
        logged=logged or {},
    )


def text_sets(texts: SystemTexts, settings: Settings | None = None) -> dict[str, TextSet]:
    """Set -> the texts of a system, with the values of its log.

    Args:
        texts: the texts.
        settings: metric -> its settings, of which `definition` says which truth ratio is computed from a log.

    Raises:
        UserError: an unknown definition, or a log lacks what it needs.
    """
    return {
        name: text_set(
            examples,
            texts.texts.get(name, ()),
            texts.prompts.get(name, ()),
            dict(_logged(texts.source, name, texts.logged[name], settings or {})) if name in texts.logged else None,
        )
        for name, examples in texts.examples.items()
    }


def only_texts(sets: Mapping[str, TextSet]) -> OnlyTexts:
    """What is available of a system with these texts."""
    return OnlyTexts(
        logged={name: frozenset(found.logged) for name, found in sets.items() if found.logged},
        silent=frozenset(name for name, found in sets.items() if not found.texts),
    )


def _logged(source: str, name: str, log: LoggedSet, settings: Settings) -> Iterator[tuple[str, Floats]]:
    """The metrics of one set of a log, with their values by example.

    R is the truth ratio, wrong answers relative to the true one. The two codes published with TOFU differ in it: the
    paper and the summary of the evaluation average the probabilities of the wrong answers ("arithmetic"), the code of
    the leaderboard and OpenUnlearning their losses ("geometric").
    """
    forget = name == FORGET
    metric = "truth_ratio_forget" if forget else "truth_ratio_utility"
    given = settings.get(metric, {}).get("definition")
    if given not in (None, *_DEFINITIONS):
        raise ConfigError(unknown_name(f"definition of {metric!r}", str(given), list(_DEFINITIONS)))
    ratio = truth_ratio(log, given or log.definition)
    if len(log.logged_ratio) and not len(ratio):
        raise DataError(
            f"{source}: the losses of the wrong answers of {name!r} are missing, and the arithmetic truth ratio needs "
            f"them; leave the definition of {metric!r} out"
        )
    with np.errstate(divide="ignore"):
        truth = np.minimum(ratio, 1.0 / (ratio + log.added)) if forget else np.maximum(0.0, 1.0 - ratio)
    values = {
        "rouge_l_ascii": log.rouge,
        "probability_normalised" if name in NORMALISED else "probability": log.probability,
        metric: truth,
    }
    if forget:
        values["truth_ratio_geometric"] = truth_ratio(log, "geometric")
    if forget and log.added and len(log.wrong_losses):  # what OpenUnlearning reports since December 2025
        true = np.exp(-log.true_loss)
        values["truth_probability"] = true / (true + np.exp(-log.wrong_losses.mean(axis=1)) + log.added)
    return ((m, of_examples) for m, of_examples in values.items() if len(of_examples))


def truth_ratio(log: LoggedSet, definition: str) -> Floats:
    """[E] R: wrong answers relative to the true one; empty if it cannot be computed.

    ``exp(-mean_j m_j) / exp(-s)`` if geometric, ``mean_j exp(-m_j) / exp(-s)`` if arithmetic.
    """
    if not len(log.wrong_losses):
        return log.logged_ratio if definition == "geometric" else np.zeros(0)
    if definition == "geometric":
        log_wrong = -log.wrong_losses.mean(axis=1)
    else:
        log_wrong = scipy.special.logsumexp(-log.wrong_losses, axis=1) - np.log(log.wrong_losses.shape[1])
    with np.errstate(divide="ignore"):
        log_true = np.logaddexp(-log.true_loss, np.log(log.added))
    ratio: Floats = np.exp(np.clip(log_wrong - log_true, -700.0, 700.0))
    return ratio
