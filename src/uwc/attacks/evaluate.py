"""Metrics under attack: scores by example under each variant, recovery, and budget curves."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from uwc import answers, progress
from uwc.attacks.chain import Chain, attacked, make_chain, precision_of
from uwc.attacks.data import AttackData
from uwc.attacks.registry import Texts, attacks
from uwc.code_digest import NoSource, code_digest, comes_from_package
from uwc.data.example import Example, fingerprint
from uwc.errors import AttackFailed, ConfigError, DataError, TrainingDiverged
from uwc.io import plain
from uwc.metrics.depth import KnownDrops
from uwc.metrics.evaluate import question_columns
from uwc.metrics.registry import INPUTS, metrics
from uwc.metrics.samples import LeakSettings
from uwc.metrics.scored import ScoredSet, needs_of, score_set
from uwc.metrics.stats import aggregate, bootstrap_confidence, bootstrap_interval, mean_draws, paired_difference
from uwc.metrics.suites import any_perturbed, any_secret
from uwc.models import chunks
from uwc.models.model import Model
from uwc.models.selection import Select
from uwc.models.token_scores import Floats
from uwc.results import (
    Aggregate,
    AttackedModel,
    AttackInfo,
    AttackOutcome,
    BudgetCurve,
    Difference,
    HalfRecovery,
    ModelKey,
    Variant,
)

Values = Mapping[str, Floats]
"""Metric -> [E] its values by example."""

_MEASURABLE = {
    *("scores", "texts", "text_tokens", "answers", "restated", "perturbed", "sampled", "reference", "secrets"),
    *("samples", "letters"),
}


@dataclass(frozen=True)
class Said:
    """A question as an attack put it.

    Attributes:
        prompt: the prompt as sent to the model; empty if it is not known.
        answer: the true answer as the prompt template renders it.
        generated: the generated text; None if none was generated.
        completed_from: see `ScoredSet.completed_from`; None if extraction strength was not measured.
    """

    prompt: str
    answer: str
    generated: str | None
    completed_from: int | None


@dataclass(frozen=True)
class VariantValues:
    """One variant of an attack, scored by example.

    Attributes:
        label: the variant (a template, a depth, a budget); ``""`` if there is only one.
        effort: the attacker's effort, or None.
        note: a finding of the attack.
        changed: the share of the numbers in the blocks' parameters that an attack on weights changed, or None.
        values: metric -> [E] its values for the scored examples.
        said: the index of an example -> its prompt and text under this variant, for those that are kept.
        tokens: the tokens that the attack trained on; not in files.
    """

    label: str
    effort: float | None
    note: str
    changed: float | None
    values: Values
    said: Mapping[int, Said] = field(default_factory=dict)
    tokens: int = 0


def check_metrics(
    names: Sequence[str],
    chains: Sequence[Chain],
    *,
    examples: Sequence[Example] = (),
    reference: bool = False,
    depth: bool = False,
) -> None:
    """Raise ConfigError for a metric that is unknown, insensitive to an attack, or whose needs are not met.

    Args:
        names: the metrics.
        chains: the attacks.
        examples: the scored examples.
        reference: whether there is a reference model.
        depth: whether the drops of the original with the retrained model's states are known.
    """
    measurable = _MEASURABLE | ({"depth"} if depth else set())
    for name in names:
        needs = needs_of([name])
        if needs - measurable:
            raise ConfigError(
                f"the metric {name!r} needs {', '.join(sorted(needs - measurable))}, which attacks do not provide; "
                "take one of scores or generated texts, such as extraction_strength or rouge_l"
            )
        if "reference" in needs and not reference:
            raise ConfigError(f"the metric {name!r} needs {INPUTS['reference']}")
        for need in needs & {"perturbed", "letters"}:
            if not any_perturbed(examples):
                raise ConfigError(f"the metric {name!r} needs {INPUTS[need]}")
        if "secrets" in needs and not any_secret(examples):
            raise ConfigError(f"the metric {name!r} needs {INPUTS['secrets']}")
        for chain in chains:
            if "depth" in needs and not _only_weights(chain):
                raise ConfigError(
                    f"the attack {chain.name!r} changes more than weights, and {name!r} compares the states of models "
                    "on the same prompts; take an attack on weights, such as relearn, or another metric"
                )
            if name not in visible([name], chain):
                raise ConfigError(
                    f"the attack {chain.name!r} changes only how answers are generated, which {name!r} does not see; "
                    "take a metric of generated texts, such as rouge_l"
                )


def visible(names: Sequence[str], chain: Chain) -> list[str]:
    """The metrics that are sensitive to an attack: those of generated texts alone for attacks on decoding, and those of
    a model's states only for attacks on weights."""
    needs = {name: needs_of([name]) for name in names if _only_weights(chain) or "depth" not in needs_of([name])}
    decoding = chain.steps[-1].entry.facts["kind"] == "decoding"
    return [name for name, of in needs.items() if not decoding or "texts" in of]


def _only_weights(chain: Chain) -> bool:
    return all(step.entry.facts["kind"] == "weights" for step in chain.steps)


def attacked_values(
    model: Model,
    data: AttackData,
    chain: Chain,
    names: Sequence[str],
    *,
    max_new_tokens: int,
    reference: Model | None = None,
    texts: Texts = True,
    leaks: LeakSettings | None = None,
    known: KnownDrops | None = None,
) -> list[VariantValues]:
    """Score a model under each variant of an attack; its own weights stay bit-identical.

    Args:
        model: the model.
        data: the scored examples, and the attacker's.
        chain: the attack.
        names: the metrics.
        max_new_tokens: the most tokens of a generated answer.
        reference: the original model, for metrics that compare with it; it gets the same prompts.
        texts: the texts that are kept. One is generated for each example whose value by the first metric is worse than
            under the variants before (of the largest budget), which are about ln(n) of n variants; if a metric reads
            texts, none is generated besides.
        leaks: settings of sampling answers, if a metric reads samples.
        known: the drops of the retrained model, if a metric reads those of the attacked one.

    Raises:
        UserError: data or layers are missing.
    """
    found: list[VariantValues] = []
    worst = _Worst(names[0], budgets=_has_budgets(chain))
    with chunks.within(partial(_determining, chain, data)), attacked(model, data, chain) as offered:
        for variant in offered:
            with chunks.within(partial(list, [variant.label])):
                scored = _scored(variant.model, data.scored, names, max_new_tokens, reference, leaks)
                if known is not None:
                    scored = replace(scored, depth=known.depth(variant.model, data.scored))
                values = {name: scored.values(name) for name in names}
                worse = worst.updated(variant.effort, values[names[0]])
                said = _said(
                    variant.model,
                    data.scored,
                    scored,
                    range(len(data.scored)) if texts == "all" else worse,
                    max_new_tokens=max_new_tokens if texts else 0,
                    prefixes="extraction_strength" in names,
                )
                about = (variant.label, variant.effort, variant.note, variant.changed)
                found.append(VariantValues(*about, values, said, variant.tokens))
    return found if texts == "all" else _last_only(found)


def _determining(chain: Chain, data: AttackData) -> list[object]:
    """What determines an attack and its results, besides the model's weights and tokens and the variant."""
    found: list[object] = []
    for step in chain.steps:
        outside = [entry.function for entry in step.used if not comes_from_package(entry.function)]
        found.append([step.entry.name, plain(step.settings), *map(_code_of, outside)])
    parts = [getattr(data, f.name) for f in fields(data)]
    examples = [p for p in parts if isinstance(p, Sequence) and p and isinstance(p[0], Example)]
    return [*found, *map(fingerprint, examples)]


def _code_of(function: Callable[..., Any]) -> str:
    """The digest of a function; without its source, one that is equal to no other."""
    try:
        return code_digest(function)
    except NoSource:
        return os.urandom(16).hex()


class _Worst:
    """The worst value of each example over the variants so far, of those at the largest budget if there are several."""

    def __init__(self, metric: str, *, budgets: bool) -> None:
        self._sign = 1.0 if metrics.get(metric).facts["higher_remembers"] else -1.0
        self._budgets, self._effort = budgets, 0.0
        self._worst: Floats | None = None

    def updated(self, effort: float | None, values: Floats) -> list[int]:
        """The examples for which the next variant is the worst so far."""
        values, effort = self._sign * values, effort or 0.0
        if self._budgets and effort < self._effort:
            return []
        if self._worst is None or (self._budgets and effort > self._effort):
            self._worst, self._effort = values, effort
            return list(range(len(values)))
        worse = (values > self._worst) | (np.isnan(self._worst) & ~np.isnan(values))
        self._worst = np.fmax(self._worst, values)
        return np.flatnonzero(worse).tolist()


def _last_only(variants: Sequence[VariantValues]) -> list[VariantValues]:
    """The variants, each with the texts of the examples that no later one has."""
    found: list[VariantValues] = []
    seen: set[int] = set()
    for variant in reversed(variants):
        found.insert(0, replace(variant, said={i: s for i, s in variant.said.items() if i not in seen}))
        seen.update(variant.said)
    return found


def _said(
    model: Model,
    examples: Sequence[Example],
    scored: ScoredSet,
    kept: Sequence[int],
    *,
    max_new_tokens: int,
    prefixes: bool,
) -> dict[int, Said]:
    """Prompts and texts of some examples; texts are generated if the scores have none."""
    from uwc.models.generation import generate

    texts: Mapping[int, str] = {}
    if max_new_tokens and scored.texts:
        texts = dict(enumerate(scored.texts))
    elif max_new_tokens and len(kept):
        generated = generate(model, [examples[i] for i in kept], max_new_tokens=max_new_tokens)
        texts = dict(zip(kept, generated.texts, strict=True))
    ends = scored.completed_from() if prefixes else [None] * len(examples)
    return {i: Said(scored.prompts[i], scored.answers[i], texts.get(i), ends[i]) for i in kept}


def metric_values(
    model: Model,
    examples: Sequence[Example],
    names: Sequence[str],
    *,
    max_new_tokens: int,
    reference: Model | None = None,
    leaks: LeakSettings | None = None,
) -> dict[str, Floats]:
    """Metric -> [E] its values for the examples."""
    scored = _scored(model, examples, names, max_new_tokens, reference, leaks)
    return {name: scored.values(name) for name in names}


def _scored(
    model: Model,
    examples: Sequence[Example],
    names: Sequence[str],
    max_new_tokens: int,
    reference: Model | None,
    leaks: LeakSettings | None,
) -> ScoredSet:
    needs = needs_of(names)
    compared = reference if "reference" in needs else None
    return score_set(model, examples, needs=needs, reference=compared, max_new_tokens=max_new_tokens, leaks=leaks)


def measure(
    model: Model,
    data: AttackData,
    chain: Chain,
    names: Sequence[str],
    *,
    name: str = "",
    of_set: str = "forget",
    before: Values | None = None,
    control: Sequence[VariantValues] = (),
    max_new_tokens: int = 64,
    reference: Model | None = None,
    seed: int = 0,
) -> list[AttackOutcome]:
    """Score a model before an attack and under each of its variants: one outcome for each metric.

    Args:
        model: the model; not changed.
        data: the scored examples, and the attacker's.
        chain: the attack.
        names: the metrics.
        name: the attack's name in results; the chain's name by default.
        of_set: the name of the scored set in results.
        before: metric -> [E] values without the attack, if known.
        control: the values of a control under the same attack.
        max_new_tokens, reference: as in `attacked_values`.
        seed: of the bootstrap.

    Raises:
        UserError: data or layers are missing, or a metric does not suit the attack.
    """
    check_metrics(names, [chain], examples=data.scored, reference=reference is not None)
    if before is None:
        before = metric_values(model, data.scored, names, max_new_tokens=max_new_tokens, reference=reference)
    variants = attacked_values(
        model, data, chain, names, max_new_tokens=max_new_tokens, reference=reference, texts=False
    )
    return outcomes(name or chain.name, chain, {of_set: data.scored}, before, variants, control=control, seed=seed)


@dataclass(frozen=True)
class AttackedValues:
    """A model under every attack.

    Attributes:
        model: the outcomes, and why an attack has none.
        variants: attack -> each of its variants, scored by example.
        before: the same without an attack.
    """

    model: AttackedModel
    variants: Mapping[str, Sequence[VariantValues]]
    before: VariantValues


def attack_model(
    model: Model,
    data: AttackData,
    sets: Mapping[str, Sequence[Example]],
    chains: Mapping[str, Chain],
    names: Sequence[str],
    *,
    key: ModelKey,
    control: Mapping[str, Sequence[VariantValues]] | None = None,
    max_new_tokens: int = 64,
    reference: Model | None = None,
    texts: Texts = True,
    leaks: LeakSettings | None = None,
    seed: int = 0,
) -> AttackedValues:
    """Score a model before and under attacks, each carried out by itself; the model is left bit-identical.

    Args:
        model: the model.
        data: the scored examples, set after set, and the attacker's data.
        sets: set -> its scored examples, which together are those of `data`.
        chains: what results call an attack -> the attack.
        names: the metrics.
        key: what results call the model.
        control: attack -> the variants of a model that was never trained on the data.
        max_new_tokens, reference, texts, leaks: as `attacked_values` takes them.
        seed: of the bootstrap.

    Returns:
        The outcomes; an attack that fails or diverges has none, and a warning says so.

    Raises:
        UserError: data or layers are missing.
    """
    scored = _scored(model, data.scored, names, max_new_tokens, reference, leaks)
    before = {name: scored.values(name) for name in names}
    everything = range(len(data.scored))
    said = _said(model, data.scored, scored, everything, max_new_tokens=max_new_tokens if texts else 0, prefixes=True)
    variants: dict[str, list[VariantValues]] = {}
    found: list[AttackOutcome] = []
    failed: dict[str, str] = {}
    for name, chain in chains.items():
        progress.note(f"attack {key.label} with {name}")
        try:
            variants[name] = attacked_values(
                model,
                data,
                chain,
                names,
                max_new_tokens=max_new_tokens,
                reference=reference,
                texts=texts,
                leaks=leaks,
            )
        except (AttackFailed, TrainingDiverged) as error:
            failed[name] = str(error)
            progress.warn(f"{key.label}: {error}")
            continue
        theirs = (control or {}).get(name, ())
        found += outcomes(name, chain, sets, before, variants[name], control=theirs, seed=seed)
    plain = VariantValues("", None, "", None, before, said)
    return AttackedValues(AttackedModel(model=key, outcomes=tuple(found), failed=failed), variants, plain)


def describe(name: str, chain: Chain, names: Sequence[str]) -> AttackInfo:
    """The description of an attack in results; `names` are the metrics that are sensitive to it."""
    return AttackInfo(
        name=name,
        chain=tuple(step.entry.name for step in chain.steps),
        settings={step.entry.name: plain(step.settings) for step in chain.steps},
        touches_weights=chain.touches_weights,
        trains_on_scored=chain.trains_on_scored,
        metrics=tuple(names),
        precision=precision_of(chain),
    )


def outcomes(
    name: str,
    chain: Chain | None,
    sets: Mapping[str, Sequence[Example]],
    before: Values,
    variants: Sequence[VariantValues],
    *,
    control: Sequence[VariantValues] = (),
    seed: int = 0,
) -> list[AttackOutcome]:
    """The recovery by an attack, for each metric and set.

    ``after`` is the mean over variants, with budgets at the largest one; the worst case is, for each example, the
    variant under which it is remembered most. Differences are paired by example, and ratios for metrics that are
    averaged geometrically.

    Args:
        name: the attack's name in results.
        chain: the attack; None for texts that were generated elsewhere.
        sets: set -> its scored examples; all values are concatenated in this order.
        before: metric -> [E] values without the attack.
        variants: the values under it.
        control: the same of a model that was never trained on the data; ignored if its variants differ.
        seed: of the bootstrap.
    """
    theirs = control if len(control) == len(variants) else ()
    found, start = [], 0
    for of_set, examples in sets.items():
        part = slice(start, start + len(examples))
        start += len(examples)
        measure = _Measure([e.subject for e in examples], seed)
        for metric in variants[0].values:
            ours = _summaries(metric, _headline(chain, variants), part)
            his = _summaries(metric, _headline(chain, theirs), part) if theirs else {}
            after, worst = ours[False], ours.get(True)
            found.append(
                AttackOutcome(
                    attack=name,
                    set=of_set,
                    metric=metric,
                    before=measure.average(metric, before[metric][part]),
                    after=measure.average(metric, after),
                    recovery=measure.difference(metric, before[metric][part], after),
                    over_control=measure.difference(metric, his[False], after) if his else None,
                    worst_case=None if worst is None else measure.average(metric, worst),
                    worst_case_over_control=(
                        measure.difference(metric, his[True], worst) if worst is not None and True in his else None
                    ),
                    variants=tuple(
                        Variant(
                            label=v.label,
                            effort=v.effort,
                            note=v.note,
                            changed=v.changed,
                            mean=measure.average(metric, v.values[metric][part]).mean,
                        )
                        for v in variants
                    ),
                )
            )
    return found


@dataclass(frozen=True)
class _Measure:
    """Averages and differences over the examples of one set."""

    subjects: Sequence[str]
    seed: int

    def average(self, metric: str, values: Floats) -> Aggregate:
        return aggregate(values, self.subjects, average=metrics.get(metric).facts["average"], seed=self.seed)

    def difference(self, metric: str, first: Floats, second: Floats) -> Difference:
        average = metrics.get(metric).facts["average"]
        return paired_difference(first, second, self.subjects, average=average, seed=self.seed)


def _has_budgets(chain: Chain) -> bool:
    return any(step.settings.get("budgets") for step in chain.steps)


def _headline(chain: Chain | None, variants: Sequence[VariantValues]) -> list[VariantValues]:
    """The variants of the headline: those at the largest budget if there are several, otherwise all."""
    if chain is None or not _has_budgets(chain):
        return list(variants)
    largest = max(v.effort or 0.0 for v in variants)
    return [v for v in variants if v.effort == largest]


def under_attack(
    chain: Chain | None,
    variants: Sequence[VariantValues],
    sets: Mapping[str, Sequence[Example]],
    of_set: str,
    metric: str,
    *,
    worst: bool = False,
) -> Floats:
    """[E] the values of a metric for one set under an attack, as `outcomes` averages them.

    Args:
        chain: the attack; None for texts that were generated elsewhere.
        variants: its variants, with values of all sets.
        sets: set -> its scored examples; all values are concatenated in this order.
        of_set: the set.
        metric: the metric.
        worst: the worst case instead of the mean over variants.
    """
    start = sum(len(sets[name]) for name in list(sets)[: list(sets).index(of_set)])
    found = _summaries(metric, _headline(chain, variants), slice(start, start + len(sets[of_set])))
    return found.get(worst, found[False])


def _summaries(metric: str, variants: Sequence[VariantValues], part: slice) -> dict[bool, Floats]:
    """False -> [E] the mean of the variants; True -> [E] their worst case, if there are several."""
    values = [v.values[metric][part] for v in variants]
    if len(values) == 1:
        return {False: values[0]}
    facts = metrics.get(metric).facts
    worst, mean = combine(values, higher_remembers=facts["higher_remembers"], average=facts["average"])
    return {False: mean, True: worst}


def combine(values: Sequence[Floats], *, higher_remembers: bool, average: str = "arithmetic") -> tuple[Floats, Floats]:
    """[E] the worst value of each example over n variants, and [E] their mean; NaN if all are.

    Args:
        values: n times [E].
        higher_remembers: whether the worst value is the greatest.
        average: "arithmetic" or "geometric".
    """
    stacked = np.stack(values)
    extreme = np.fmax if higher_remembers else np.fmin
    with np.errstate(divide="ignore"):
        averaged = np.log(stacked) if average == "geometric" else stacked
    counted = (~np.isnan(stacked)).sum(axis=0)
    mean = np.full(stacked.shape[1], np.nan)
    np.divide(np.nansum(averaged, axis=0), counted, out=mean, where=counted > 0)
    return extreme.reduce(stacked, axis=0), np.exp(mean) if average == "geometric" else mean


def answer_rows(
    attack: str,
    variants: Sequence[VariantValues],
    sets: Mapping[str, Sequence[Example]],
    *,
    key: ModelKey,
    name: str = "",
    condition: str = answers.ATTACK,
) -> pd.DataFrame:
    """The rows of a model under an attack in the table of answers: those of the examples whose texts are kept.

    Args:
        attack: the attack's name in results.
        variants: the variants, with values and texts of all sets, one after another.
        sets: set -> its scored examples.
        key: the model.
        name: its name in the table, if that is not its key's.
        condition: see `uwc.answers.CONDITIONS`.
    """
    parts, start = [], 0
    for of_set, examples in sets.items():
        kept = [(i, v) for i in range(len(examples)) for v in variants if start + i in v.said]
        said = [v.said[start + i] for i, v in kept]
        parts.append(
            answers.rows(
                set=of_set,
                **question_columns([examples[i] for i, _ in kept]),
                answers=[s.answer for s in said],
                values={m: [v.values[m][start + i] for i, v in kept] for m in variants[0].values},
                role=key.role,
                model=name or key.run or key.role,
                condition=condition,
                attack=attack,
                variant=[v.label for _, v in kept],
                prompts=[s.prompt or None for s in said],
                generated=[s.generated for s in said],
                completed_from=[s.completed_from for s in said],
            )
        )
        start += len(examples)
    return answers.joined(parts)


def save_variants(path: Path, variants: Sequence[VariantValues], sets: Mapping[str, Sequence[Example]]) -> None:
    """Write a row for each variant and example as Parquet: set, id, variant, label, effort, note, changed, what was
    said, metrics."""
    keys = {
        "set": [name for name, examples in sets.items() for _ in examples],
        "id": [e.id for examples in sets.values() for e in examples],
    }
    frames = [
        pd.DataFrame(
            {
                **keys,
                "variant": number,
                "label": v.label,
                "effort": v.effort,
                "note": v.note,
                "changed": v.changed,
                **{f.name: _column(v, f.name) for f in fields(Said)},
                **v.values,
            }
        )
        for number, v in enumerate(variants)
    ]
    pd.concat(frames, ignore_index=True).to_parquet(path, index=False)


_VARIANT = ("set", "id", "variant", "label", "effort", "note", "changed", *(f.name for f in fields(Said)))
"""The columns of the file besides the metrics."""


def _column(variant: VariantValues, name: str) -> Any:
    """[E] a field of what was said, missing where nothing is kept."""
    count = len(next(iter(variant.values.values())))
    values = [getattr(variant.said.get(i), name, None) for i in range(count)]
    return pd.array(values, dtype="Int64" if name == "completed_from" else "string")


def load_variants(path: Path) -> list[VariantValues]:
    """Read the file of `save_variants`. Raises DataError if it is damaged."""
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: damaged or missing ({error}); run again with --verify") from error
    names = [c for c in table.columns if c not in _VARIANT]
    found = []
    for _, rows in table.groupby("variant", sort=True):
        first = rows.iloc[0]
        effort, changed = (None if pd.isna(first[name]) else float(first[name]) for name in ("effort", "changed"))
        values = {name: rows[name].to_numpy(np.float64) for name in names}
        said = {
            i: Said(prompt, answer, None if pd.isna(text) else text, None if pd.isna(start) else int(start))
            for i, (prompt, answer, text, start) in enumerate(zip(*(rows[f.name] for f in fields(Said)), strict=True))
            if not pd.isna(prompt)
        }
        found.append(VariantValues(str(first["label"]), effort, str(first["note"]), changed, values, said))
    return found


MODEL = ModelKey(role="unlearned")


def budget_curves(
    model: Model,
    data: AttackData,
    attack: str,
    efforts: Sequence[float],
    *,
    key: ModelKey = MODEL,
    settings: Mapping[str, Any] | None = None,
    over: str | None = None,
    select: Sequence[Select] = (),
    metric: str = "extraction_strength",
    original: Floats | None = None,
    max_new_tokens: int = 64,
    reference: Model | None = None,
    seed: int = 0,
) -> list[BudgetCurve]:
    """Score an attack at several efforts; relearning and GCG share one run over their steps.

    Args:
        model: the model; not changed.
        data: the scored examples, and the attacker's.
        attack: a registered attack.
        efforts: the values of its effort, such as steps, in any order.
        key: the model's name in results.
        settings: the attack's other settings.
        over: another setting to vary, such as ``examples`` in relearning (data efficiency).
        select: the rules by which the attack chooses its examples, with a curve for each; that of `settings`, or its
            default, if empty.
        metric: the metric.
        original: [E] the metric of the original model for the scored examples; the curves then have `half_recovery`.
        max_new_tokens: the most tokens of a generated answer.
        reference: the original model, for metrics that compare with it.
        seed: of the bootstrap.

    Raises:
        ConfigError: the attack has no effort, or no such setting, or no effort is given.
    """
    ordered = tuple(sorted(set(efforts)))
    given = dict(settings or {})
    rules = [{**given, "select": rule} for rule in select] or [given]
    made = [curve_chains(attack, efforts, settings=own, over=over) for own in rules]
    for _, chains in made:
        check_metrics([metric], chains, examples=data.scored, reference=reference is not None)
    of_set = _Measure([e.subject for e in data.scored], seed)
    before = metric_values(model, data.scored, [metric], max_new_tokens=max_new_tokens, reference=reference)[metric]
    rows: list[list[Floats]] = []
    for _, chains in made:
        run = partial(attacked_values, model, data, names=[metric], max_new_tokens=max_new_tokens, texts=False)
        found = [run(chain=chain, reference=reference) for chain in chains]
        if len(chains) < len(ordered):
            rows.append([variant.values[metric] for variant in found[0]])
        else:
            means = [_summaries(metric, _headline(c, v), slice(None)) for c, v in zip(chains, found, strict=True)]
            rows.append([mean.get(True, mean[False]) for mean in means])
    names = [str(own.get("select", "")) for own in rules]
    halves = _half_recoveries(before, original, ordered, rows, names, metric=metric, of_set=of_set)
    return [
        BudgetCurve(
            model=key,
            attack=attack,
            over=setting,
            select=name,
            metric=metric,
            before=of_set.average(metric, before).mean,
            efforts=ordered,
            scores=tuple(of_set.average(metric, values).mean for values in scores),
            half_recovery=half,
        )
        for (setting, _), name, scores, half in zip(made, names, rows, halves, strict=True)
    ]


def _half_recoveries(
    before: Floats,
    original: Floats | None,
    efforts: Sequence[float],
    rows: Sequence[Sequence[Floats]],
    rules: Sequence[str],
    *,
    metric: str,
    of_set: "_Measure",
) -> list[HalfRecovery | None]:
    """The effort for half of the recovery by each rule, all by the same draws of clusters.

    Args:
        before: [E] the values without the attack.
        original: [E] those of the original model.
        efforts: ascending.
        rows: for each rule, and each effort, [E] the values under attack.
        rules: their names.
        metric: the metric.
        of_set: the scored set.
    """
    if original is None:
        return [None] * len(rows)
    facts = metrics.get(metric).facts
    sign = 1.0 if facts["higher_remembers"] else -1.0

    def efforts_of(means: Floats) -> list[float]:
        """The effort by each rule, from the means of all rows; infinite if none reaches it."""
        first, last, *scores = (sign * means).tolist()
        count = len(efforts)
        found = [
            effort_to_reach((first + last) / 2, first, efforts, scores[i * count : (i + 1) * count])
            for i in range(len(rules))
        ]
        return [np.inf if effort is None else effort for effort in found]

    values = np.stack([before, original, *(row for of_rule in rows for row in of_rule)])
    means, draws, clusters = mean_draws(values, of_set.subjects, average=facts["average"], seed=of_set.seed)
    if not sign * means[1] > sign * means[0]:
        return [None] * len(rows)
    point, drawn = efforts_of(means), np.array([efforts_of(row) for row in draws]).reshape(-1, len(rules))
    beyond = 1e9 * efforts[-1]  # so that interpolation between draws has no infinity
    at_random = drawn[:, rules.index("random")] if "random" in rules else None
    found: list[HalfRecovery | None] = []
    for i, rule in enumerate(rules):
        low, high = bootstrap_interval(np.minimum(drawn[:, i], beyond), clusters=clusters)
        ends = [end if end <= efforts[-1] else np.nan for end in (point[i], low, high)]
        fewer = np.nan
        if at_random is not None and rule != "random" and np.isfinite(np.minimum(drawn[:, i], at_random)).any():
            share = float(np.mean(drawn[:, i] < at_random) + np.mean(drawn[:, i] == at_random) / 2)
            fewer = bootstrap_confidence(share, clusters=clusters, resamples=len(drawn))
        found.append(
            HalfRecovery(
                effort=ends[0],
                low=ends[1],
                high=ends[2],
                reached=float(np.isfinite(drawn[:, i]).mean()) if len(drawn) else np.nan,
                clusters=clusters,
                fewer_than_random=fewer,
            )
        )
    return found


def curve_chains(
    attack: str, efforts: Sequence[float], *, settings: Mapping[str, Any] | None = None, over: str | None = None
) -> tuple[str, list[Any]]:
    """The setting that a curve varies, and its runs: one for all efforts, or one for each.

    Raises:
        ConfigError: the attack has no effort, or no such setting, or no effort is given.
    """
    entry = attacks.get(attack)
    setting = over or entry.facts["effort"]
    if not setting:
        varied = [e.name for e in attacks if e.facts["effort"]]
        raise ConfigError(f"the attack {attack!r} has no effort to vary; give a setting, or one of {', '.join(varied)}")
    if not efforts:
        raise ConfigError("a curve needs at least one effort; give some, as in --curve 1,2,4")
    ordered = sorted(set(efforts))
    if entry.facts["budgets"] and setting == "steps":
        merged = {**(settings or {}), "budgets": ordered, "steps": ordered[-1]}
        return setting, [make_chain(attack, {attack: merged})]
    return setting, [make_chain(attack, {attack: {**(settings or {}), setting: e}}) for e in ordered]


def effort_to_reach(threshold: float, before: float, efforts: Sequence[float], scores: Sequence[float]) -> float | None:
    """The least effort at which the score reaches the threshold, interpolated linearly from effort 0.

    Args:
        threshold: the score to reach.
        before: the score at effort 0.
        efforts: ascending.
        scores: the score at each.

    Returns:
        0 if the score before reaches it, None if no effort does.
    """
    if before >= threshold:
        return 0.0
    xs, ys = [0.0, *efforts], [before, *scores]
    for i in range(1, len(xs)):
        if ys[i] >= threshold:
            share = (threshold - ys[i - 1]) / (ys[i] - ys[i - 1])
            return float(xs[i - 1] + share * (xs[i] - xs[i - 1]))
    return None
