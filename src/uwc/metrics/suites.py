"""Names of sets, metrics and suites, and the check that the needs of metrics are met."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from inspect import signature
from itertools import chain
from typing import Any

from uwc.data.choices import options_of
from uwc.data.example import Example, asked_in_both, fingerprint, has_subject, paraphrased, repeated
from uwc.errors import ConfigError, listed
from uwc.metrics.registry import INPUTS, JUDGES, inputs_of, metric, metrics, set_metrics
from uwc.metrics.samples import SAMPLES, LeakSettings
from uwc.metrics.set_metrics import BOUNDS, MEMBERSHIP_ATTACKS
from uwc.metrics.stats import cluster_codes
from uwc.registry import Entry, unknown_name
from uwc.results import MetricInfo, SetInfo, Warning

FORGET, VERBATIM = "forget", "verbatim"
FEW_CLUSTERS = 5
"""Number of clusters below which intervals cover less than 95 %."""
SET_FLAGS = {name: f"--{name}" for name in (FORGET, "retain", "holdout")} | {
    name: f"--set benchmark.settings.further.{name}=FILE" for name in ("real_authors", "world_facts", VERBATIM)
}
"""Set -> the option that gives it on the command line."""
RETRAINED = "retrained/"

SUITES: dict[str, tuple[str, ...]] = {
    "core": (
        "extraction_strength",
        "exact_memorization",
        "probability",
        "perplexity",
        "rouge_l",
        "kl_to_original",
        "secret_said",
    ),
    "tofu": (
        "probability",
        "rouge_l_ascii",
        "truth_ratio_forget",
        "truth_ratio_utility",
        "extraction_strength",
        "exact_memorization",
        "forget_quality",
        "model_utility",
    ),
    "muse": ("verbatim_memorization", "knowledge_memorization", "privleak"),
    "lume": ("rouge_l_ascii", "exact_match", "lume_tasks", "lume_mia"),
    "open-unlearning": (
        "extraction_strength",
        "exact_memorization",
        "paraphrase_probability",
        "truth_probability",
        "fluency",
        "model_utility",
        "ou_memorization",
        "ou_privacy",
        "ou_utility",
        "ou_overall",
    ),
    "membership": (
        *(f"mia_{a}" for a in MEMBERSHIP_ATTACKS),
        *(f"auc_{a}" for a in MEMBERSHIP_ATTACKS),
        *(f"tpr_{bound}_{a}" for a in MEMBERSHIP_ATTACKS for bound in BOUNDS),
        "privleak",
    ),
}
"""Suite -> its metrics; ``all`` is every metric."""

OPTIONAL: dict[str, frozenset[str]] = {
    "core": frozenset({"kl_to_original", "rouge_l", "secret_said"}),
    "lume": frozenset({"lume_mia"}),
    "open-unlearning": frozenset({"fluency"}),
    "membership": frozenset({"mia_reference", "auc_reference", *(f"tpr_{bound}_reference" for bound in BOUNDS)}),
}
"""Suite -> metrics that are left out, with a note, if a need is not met; in ``all`` this holds for every metric."""


NO_RETRAINED = "a model that was never trained on the data; give it with --retrained (a study: retrained)"
"""The missing need of a metric that compares with the retrained model."""
WEIGHTS = "the model's weights"
"""The missing need of a metric of likelihoods where there are texts only."""
OF_TEXTS = frozenset({"answers", "labelled", "texts", "questions", "secrets", *JUDGES})
"""The inputs of metrics that texts generated elsewhere have."""


@dataclass(frozen=True)
class OnlyTexts:
    """What is available where there are texts of a system, and no model.

    Attributes:
        logged: set -> the metrics whose values by example an evaluation log has.
        silent: the sets of a log that has no texts of them.
    """

    logged: Mapping[str, frozenset[str]] = field(default_factory=dict)
    silent: frozenset[str] = frozenset()

    def missing_input(self, name: str, of_set: str) -> str:
        """The missing need of a metric of single examples of which no values are logged; empty if there is none."""
        needs = set(inputs_of(name))
        if needs - OF_TEXTS:
            return WEIGHTS
        return f"texts of the set {of_set!r}, which the log lacks" if "texts" in needs and of_set in self.silent else ""

    @property
    def metrics(self) -> list[str]:
        """The metrics of the log: those of examples with values, and those of whole sets that are made of them."""
        known = dict.fromkeys(name for names in self.logged.values() for name in names)
        return [*sorted(known, key=metrics.names().index), *(("forget_quality", "model_utility") if known else ())]


@dataclass(frozen=True)
class Given:
    """The questions and models that are available to metrics.

    Attributes:
        sets: the sets of examples by name.
        models: the further models that are given: "original", "retrained" and the names of judges.
        max_new_tokens: the most tokens of a generated answer.
        samples: settings of sampling answers, and which of them leak.
        only_texts: what is available in place of a model; None for a model.
        sets_of: metric of single examples -> the sets on which it is measured; without it, all that meet its needs.
    """

    sets: Mapping[str, Sequence[Example]]
    models: frozenset[str] = field(default_factory=frozenset)
    max_new_tokens: int = 64
    samples: LeakSettings = field(default_factory=LeakSettings)
    only_texts: OnlyTexts | None = None
    sets_of: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def leaves_out(self, name: str, of_set: str) -> bool:
        """Whether a metric of single examples is not measured on a set because others were named for it."""
        return of_set not in self.sets_of.get(name, (of_set,))


def in_all_wordings(sets: Mapping[str, Sequence[Example]]) -> dict[str, Sequence[Example]]:
    """The sets that are not empty, with the forget and retain set also with their paraphrased questions."""
    found: dict[str, Sequence[Example]] = {}
    for name, examples in sets.items():
        found[name] = examples
        if name in (FORGET, "retain"):
            found[f"{name}_paraphrased"] = paraphrased(examples)
    return {name: examples for name, examples in found.items() if examples}


def set_label(name: str) -> str:
    """The name of a set in tables and messages."""
    base, found, _ = name.partition("_paraphrased")
    return f"{base}, paraphrased" if found else name.replace("_", " ")


def set_info(name: str, examples: Sequence[Example]) -> SetInfo:
    """The description of a set in results."""
    return SetInfo(label=set_label(name), examples=len(examples), sha256=fingerprint(examples))


def metric_info(name: str) -> MetricInfo:
    """The description of a metric in results. Raises ConfigError if there is none of that name or label."""
    entry = entry_of(name)
    return MetricInfo(
        label=entry.facts["label"],
        summary=entry.summary,
        source=entry.source,
        higher_remembers=entry.facts["higher_remembers"],
        range=entry.facts["range"],
        average=entry.facts.get("average", "set"),
    )


def metric_name(text: Any) -> str:
    """The name of the metric with this name or label ("ES", "PPL", in any case); an unknown text is returned unchanged.

    A function that is not registered is registered with default declarations, see `uwc.metrics.registry.metric`.
    """
    if callable(text):
        return metrics.name_of(text) or str(metrics.name_of(metric(text)))
    if not isinstance(text, str):
        raise ConfigError(f"{text!r} is not a metric; give a name, a label or a function")
    if text in metrics.names() or text in set_metrics.names():
        return text
    labels: dict[str, str] = {str(e.facts["label"]).lower(): e.name for e in (*metrics, *set_metrics)}
    return labels.get(text.lower(), text)


def entry_of(name: Any) -> Entry[Any]:
    """The metric of that name, label or function, of examples or of whole sets. Raises ConfigError if there is none."""
    known = metric_name(name)
    if known in set_metrics.names():
        return set_metrics.get(known)
    if known not in metrics.names():
        raise ConfigError(unknown_name("metric", name, [*metrics.names(), *set_metrics.names()]))
    return metrics.get(known)


def is_set_metric(name: str) -> bool:
    """Whether the metric is one of whole sets."""
    return name in set_metrics.names()


def is_judged(name: str) -> bool:
    """Whether a metric of single examples needs a judge."""
    return not is_set_metric(name) and bool(set(inputs_of(name)) & set(JUDGES))


def require_suite(name: str | None) -> None:
    """Raise ConfigError if there is no such suite."""
    if name is not None and name not in (*SUITES, "all"):
        raise ConfigError(unknown_name("suite", name, [*SUITES, "all"]))


def is_suite(name: Any) -> bool:
    """Whether it is the name of a suite."""
    return isinstance(name, str) and name in (*SUITES, "all")


def chosen_metrics(suite: str | None, names: Sequence[Any], given: Given) -> tuple[list[str], dict[str, str]]:
    """The metrics of suites and further ones, and the metrics of suites that are left out.

    Args:
        suite: one of `SUITES`, or "all"; None for `names` alone, or for core if there are none.
        names: further metrics, by name, label or function, and suites.
        given: the questions and models that are available.

    Returns:
        The names of the metrics, and metric -> its missing need for those that are left out.

    Raises:
        ConfigError: unknown suite or metric, or a need that is not met.
    """
    require_suite(suite)
    suites = [name for name in dict.fromkeys([suite, *filter(is_suite, names)]) if name is not None]
    named = [entry_of(name).name for name in names if not is_suite(name)]
    if not suites and not named:
        suites = ["core"]
    of_suites = {name: _of_suite(name) for name in suites}
    if given.only_texts is not None and not named:
        of_suites["log"] = given.only_texts.metrics
    chosen: list[str] = []
    left_out: dict[str, str] = {}
    for name in dict.fromkeys([*chain.from_iterable(of_suites.values()), *named]):
        if not (lacking := what_is_missing(name, given)):
            chosen.append(name)
            continue
        needing = [s for s, of in of_suites.items() if name in of and s != "all" and name not in OPTIONAL.get(s, ())]
        if name in named or (needing and given.only_texts is None):
            alone = f" (suite {needing[0]!r}; name single metrics instead)" if needing else ""
            texts = (
                ", and there are only its texts; take a metric of texts, such as rouge_l" if lacking == WEIGHTS else ""
            )
            raise ConfigError(f"the metric {name!r} needs {lacking}{alone}{texts}")
        if lacking != INPUTS["secrets"]:  # which few questions have
            left_out[name] = lacking
    if not chosen and left_out:
        raise ConfigError(
            f"no metric of the suite {listed(map(repr, suites))} can be computed; the first, {next(iter(left_out))!r}, "
            f"needs {next(iter(left_out.values()))}"
        )
    return chosen, left_out


def _of_suite(name: str) -> list[str]:
    return [*metrics.names(), *set_metrics.names()] if name == "all" else list(SUITES[name])


def required_inputs(entry: Entry[Any], given: Given) -> list[tuple[bool, str, str]]:
    """(of the retrained model?, set, metric) for each argument of a set metric.

    Without a retrained model the arguments with a default, the last ones, are left out. The optional ones that can be
    measured follow.
    """
    inputs = [split_input(text) for text in entry.facts["needs"]]
    if "retrained" not in given.models:
        defaults = sum(p.default is not p.empty for p in signature(entry.function).parameters.values())
        inputs = inputs[: len(inputs) - defaults]
    optional = map(split_input, entry.facts.get("optional", ()))
    return [*inputs, *(found for found in optional if found[1] in given.sets and not _lacks(found, given))]


def _lacks(needed: tuple[bool, str, str], given: Given) -> str:
    """The missing need of an argument of a metric of whole sets, whose set is given; empty if there is none."""
    return missing_input(needed[2], needed[1], given)


def split_input(text: str) -> tuple[bool, str, str]:
    """``"retrained/forget:mia_loss"`` as (True, "forget", "mia_loss")."""
    where, _, metric = text.partition(":")
    return where.startswith(RETRAINED), where.removeprefix(RETRAINED), metric


def what_is_missing(name: str, given: Given) -> str:
    """The missing need of a metric, on at least one set, in words for the user; empty if there is none."""
    entry = entry_of(name)
    if is_set_metric(entry.name):
        if given.only_texts is not None and not given.only_texts.logged and _of_likelihoods(entry):
            return WEIGHTS
        for retrained, of_set, metric in required_inputs(entry, given):
            if of_set not in given.sets:
                return _missing_set(of_set)
            if retrained and "retrained" not in given.models:
                return NO_RETRAINED
            if lacking := missing_input(metric, of_set, given):
                return lacking
        inputs = zip(required_inputs(entry, given), entry.facts.get("groups", ()), strict=False)
        for (_, of_set, _), pattern in inputs:
            if not any(fnmatchcase(e.id, pattern) for e in given.sets[of_set]):
                return f"examples with ids such as {pattern} in the set {of_set!r}, as the benchmark that it is for has"
        return ""
    only = entry.facts.get("only")
    by_set = [missing_input(entry.name, of_set, given) for of_set in given.sets if _suits(of_set, only)]
    if not by_set:
        return _missing_set(only or FORGET)
    return "" if "" in by_set else by_set[0]


def _of_likelihoods(entry: Entry[Any]) -> bool:
    """Whether a metric of whole sets reads one that needs more than texts."""
    inputs = [split_input(text) for text in entry.facts["needs"]]
    return any(set(inputs_of(metric)) - OF_TEXTS for _, _, metric in inputs)


def measured_on(name: str, of_set: str, given: Given) -> bool:
    """Whether a metric of single examples can be computed on a set."""
    return not missing_need(name, of_set, given)


def missing_need(name: str, of_set: str, given: Given) -> str:
    """What a metric of single examples lacks on a set, in words for the user: the set itself, or a need; empty if
    nothing."""
    if of_set not in given.sets:
        return _missing_set(of_set)
    if not _suits(of_set, metrics.get(name).facts.get("only")):
        return f"another set than {of_set!r}, which the metric {name!r} is not for"
    if given.leaves_out(name, of_set):
        return f"another set than {of_set!r}, which is not among those in score.sets"
    return missing_input(name, of_set, given)


def missing_input(name: str, of_set: str, given: Given) -> str:
    """The missing need of a metric of single examples on a given set; empty if there is none."""
    texts = given.only_texts
    if texts is not None and name in texts.logged.get(of_set, ()):
        return ""
    if texts is not None and (lacking := texts.missing_input(name, of_set)):
        return lacking
    for need in inputs_of(name):
        if need == "depth" and (lacking := _missing_models(given)):
            return lacking
        absent = {
            **dict.fromkeys(("reference", "reference_states"), "original" not in given.models),
            **{judge: judge not in given.models for judge in JUDGES},
            "texts": given.max_new_tokens < 1,
            "text_tokens": given.max_new_tokens < 1,
            SAMPLES: given.max_new_tokens < 1,
            "perturbed": not any_perturbed(given.sets[of_set]),
            "letters": not any(map(options_of, given.sets[of_set])),
            "secrets": not any_secret(given.sets[of_set]),
        }.get(need, False)
        if absent:
            return INPUTS[need] + (f" (set {of_set!r})" if need in ("perturbed", "letters") else "")
        if need == SAMPLES and (lacking := missing_input(given.samples.metric.name, of_set, given)):
            return lacking
    return ""


def _missing_models(given: Given) -> str:
    """The original, the retrained model or both, if they were not given, in words for the user."""
    if "original" in given.models:
        return "" if "retrained" in given.models else NO_RETRAINED
    return INPUTS["reference"] if "retrained" in given.models else INPUTS["depth"]


def _missing_set(name: str) -> str:
    flag = SET_FLAGS.get(name)
    return (
        f"the set {name!r}; give it with {flag} (a study: a benchmark that has it)"
        if flag
        else (f"the set {name!r}, which was not given")
    )


def _suits(of_set: str, only: str | None) -> bool:
    """Whether a set is of the kind of a metric: texts to be continued, or questions."""
    return (only == VERBATIM) == (of_set == VERBATIM) and only in (None, of_set)


def question_warnings(sets: Mapping[str, Sequence[Example]], *, several: bool = False) -> list[Warning]:
    """The warnings on given questions: few clusters, no subjects, repetitions, and questions of two sets.

    Args:
        sets: the questions by set, each in its own wording.
        several: whether models are compared on them.
    """
    found = (*_on_clusters(sets, several=several), *_on_questions(sets))
    return [Warning(code=code, text=text) for code, text in found]


def clusters_of(examples: Sequence[Example]) -> int:
    """The number of clusters of a set."""
    return len(set(cluster_codes([e.subject for e in examples]).tolist()))


def few_clusters(what: str, count: int, *, kind: str = "subject", several: bool = False) -> Iterator[tuple[str, str]]:
    """The code and text of the warning on fewer than five clusters, if there are fewer.

    Args:
        what: what has them, as in "The forget questions".
        count: the number of clusters.
        kind: the name of one of them.
        several: whether models are compared on them.
    """
    if count == 1:
        yield "one_cluster", f"{what} have only one {kind}, so that no number has an interval."
    elif count < FEW_CLUSTERS:
        unsure = ", and no two models differ significantly by them" if several else ""
        yield (
            "few_clusters",
            f"{what} have only {count} {kind}s: intervals from fewer than {FEW_CLUSTERS} cover less than 95%{unsure}; "
            f"use more {kind}s.",
        )


def _on_clusters(sets: Mapping[str, Sequence[Example]], *, several: bool) -> Iterator[tuple[str, str]]:
    for name, examples in sets.items():
        yield from few_clusters(f"The {set_label(name)} questions", clusters_of(examples), several=several)
    silent = [set_label(name) for name, examples in sets.items() if not any(map(has_subject, examples))]
    if silent:
        yield (
            "no_subjects",
            f"No subject is named for the {' and '.join(silent)} questions, so each counts as independent of the "
            "others. If several are about one person or thing, name it in a column 'subject'; otherwise intervals are "
            "too narrow.",
        )


def _on_questions(sets: Mapping[str, Sequence[Example]]) -> Iterator[tuple[str, str]]:
    for name, examples in sets.items():
        if count := repeated(examples):
            yield (
                "repeated_questions",
                f"{count} of the {set_label(name)} questions repeat another one: each has its weight in averages, and "
                "repetitions are drawn together, as one cluster.",
            )
        if name != FORGET and (both := asked_in_both(sets.get(FORGET, ()), examples)):
            yield (
                "asked_in_both",
                f"{len(both)} of the forget questions {'is' if len(both) == 1 else 'are'} asked in the "
                f"{set_label(name)} set too ({both[0][:60]!r}); remove them from one.",
            )


def rate_warnings(sets: Mapping[str, Sequence[Example]], names: Iterable[str]) -> list[Warning]:
    """The warnings on metrics of whole sets for which a set has fewer questions than they ask for.

    Args:
        sets: set -> its questions.
        names: the metrics that are measured.
    """
    found: dict[tuple[str, int], list[str]] = {}
    for entry in (set_metrics.get(name) for name in names if is_set_metric(name)):
        for of_set, least in entry.facts.get("fewest", {}).items():
            if len(sets.get(of_set, ())) < least:
                found.setdefault((of_set, least), []).append(str(entry.facts["label"]))
    return [
        Warning(
            code="few_for_rate",
            text=f"There are {len(sets[of_set])} {set_label(of_set)} questions, fewer than {least:,}, which allow no "
            f"false positive: {', '.join(labels)} is the rate without any.",
        )
        for (of_set, least), labels in found.items()
        if of_set in sets
    ]


def any_perturbed(examples: Iterable[Example]) -> bool:
    """Whether any example has wrong answers."""
    return any(e.perturbed_answers for e in examples)


def any_secret(examples: Iterable[Example]) -> bool:
    """Whether any example has secrets."""
    return any(e.secret for e in examples)
