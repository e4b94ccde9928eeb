"""Named lists of metrics, and the check that everything they need was given."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

from uwc.data.example import Example
from uwc.errors import ConfigError
from uwc.metrics.registry import INPUTS, metrics, set_metrics
from uwc.metrics.set_level import MEMBERSHIP_ATTACKS
from uwc.registry import Entry, unknown_name

SET_FLAGS = {
    "data": "--data", "retain": "--retain", "holdout": "--holdout", "authors": "--real-authors",
    "facts": "--world-facts", "verbatim": "--verbatim",
}  # fmt: skip
RETRAINED = "retrained/"

SUITES: dict[str, tuple[str, ...]] = {
    "core": (
        "extraction_strength", "exact_memorization", "probability", "perplexity", "rouge_l", "kl_to_original",
    ),
    "tofu": (
        "probability", "rouge_l_ascii", "truth_ratio_forget", "truth_ratio_utility", "extraction_strength",
        "exact_memorization", "forget_quality", "model_utility",
    ),
    "muse": ("verbatim_memorization", "knowledge_memorization", "privleak"),
    "membership": (
        *(f"mia_{a}" for a in MEMBERSHIP_ATTACKS), *(f"auc_{a}" for a in MEMBERSHIP_ATTACKS), "privleak",
    ),
}  # fmt: skip
"""Suite -> its metrics. ``all`` is every metric there is."""

OPTIONAL: dict[str, frozenset[str]] = {
    "core": frozenset({"kl_to_original"}),
    "membership": frozenset({"mia_reference", "auc_reference"}),
}
"""Suite -> metrics that are left out, with a note, where what they need was not given; in ``all`` every metric is."""


@dataclass(frozen=True)
class Given:
    """What there is to measure with.

    Attributes:
        sets: the sets of examples, by the names of `SET_FLAGS`.
        models: which further models were given: "reference", "retrained", "encoder", "entailment".
        max_new_tokens: the most tokens of a generated answer.
    """

    sets: Mapping[str, Sequence[Example]]
    models: frozenset[str] = field(default_factory=frozenset)
    max_new_tokens: int = 64


def chosen_metrics(suite: str | None, names: Sequence[str], given: Given) -> tuple[list[str], dict[str, str]]:
    """The metrics of a suite and those asked for by name, and those of the suite that are left out with the reason.

    Raises:
        ConfigError: unknown suite or metric, or something needed was not given.
    """
    if suite is not None and suite not in (*SUITES, "all"):
        raise ConfigError(unknown_name("suite", suite, [*SUITES, "all"]))
    of_suite = [*metrics.names(), *set_metrics.names()] if suite == "all" else list(SUITES.get(suite or "", ()))
    optional = set(of_suite) if suite == "all" else OPTIONAL.get(suite or "", frozenset())
    chosen: list[str] = []
    left_out: dict[str, str] = {}
    for name in dict.fromkeys([*of_suite, *names]):
        lacking = what_is_missing(name, given)
        if not lacking:
            chosen.append(name)
        elif name in optional and name not in names:
            left_out[name] = lacking
        else:
            alone = f" (suite {suite!r}; ask for single metrics with --metric)" if name in of_suite else ""
            raise ConfigError(f"the metric {name!r} needs {lacking}{alone}")
    return chosen, left_out


def entry_of(name: str) -> Entry[Any]:
    """The metric of that name, for an example or for sets. Raises ConfigError if there is none."""
    if name in set_metrics.names():
        return set_metrics.get(name)
    if name not in metrics.names():
        raise ConfigError(unknown_name("metric", name, [*metrics.names(), *set_metrics.names()]))
    return metrics.get(name)


def is_set_metric(name: str) -> bool:
    """Whether the metric is one number for whole sets."""
    return name in set_metrics.names()


def required_inputs(entry: Entry[Any], given: Given) -> list[tuple[bool, str, str]]:
    """(of the retrained model?, set, metric) for each argument of a set metric.

    Without a retrained model the arguments that have a default, the last ones, are left out.
    """
    inputs = [split_input(text) for text in entry.facts["needs"]]
    if "retrained" in given.models:
        return inputs
    optional = sum(p.default is not p.empty for p in signature(entry.function).parameters.values())
    return inputs[: len(inputs) - optional]


def split_input(text: str) -> tuple[bool, str, str]:
    """``"retrained/data:mia_loss"`` as (True, "data", "mia_loss")."""
    where, _, metric = text.partition(":")
    return where.startswith(RETRAINED), where.removeprefix(RETRAINED), metric


def what_is_missing(name: str, given: Given) -> str:
    """What a user has to provide for a metric; empty if all is there."""
    entry = entry_of(name)
    if is_set_metric(name):
        for retrained, of_set, metric in required_inputs(entry, given):
            if of_set not in given.sets:
                return f"the set {of_set!r}; give a file with {SET_FLAGS[of_set]}"
            if retrained and "retrained" not in given.models:
                return "a model that was never trained on the data; give it with --retrained"
            lacking = _missing_input(metrics.get(metric), of_set, given)
            if lacking:
                return lacking
        return ""
    return _missing_input(entry, entry.facts.get("only", "data"), given)


def _missing_input(entry: Entry[Any], of_set: str, given: Given) -> str:
    if of_set not in given.sets:
        return f"the set {of_set!r}; give a file with {SET_FLAGS[of_set]}"
    for need in entry.facts["needs"]:
        absent = {
            "reference": "reference" not in given.models,
            "encoder": "encoder" not in given.models,
            "entailment": "entailment" not in given.models,
            "texts": given.max_new_tokens < 1,
            "text_tokens": given.max_new_tokens < 1,
            "perturbed": not any_perturbed(given.sets[of_set]),
        }.get(need, False)
        if absent:
            return INPUTS[need] + (f" (set {of_set!r})" if need == "perturbed" else "")
    return ""


def any_perturbed(examples: Iterable[Example]) -> bool:
    """Whether any example has wrong answers to compare with."""
    return any(e.perturbed_answers for e in examples)
