"""What an attack brings back: a metric before and after, each variant, the strongest for each example and the mean."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from uwc.attacks.attacked import Attacked
from uwc.attacks.chain import Chain, attacked
from uwc.attacks.data import AttackData
from uwc.data.example import Example
from uwc.errors import ConfigError
from uwc.metrics.registry import INPUTS, metrics
from uwc.metrics.scoring import needs_of, score_set
from uwc.metrics.stats import aggregate
from uwc.metrics.suites import any_perturbed
from uwc.models.target import Target
from uwc.models.token_scores import Floats

STRONGEST, MEAN = "strongest", "mean"
_MEASURABLE = {"scores", "texts", "text_tokens", "answers", "restated", "perturbed", "sampled", "reference"}


@dataclass(frozen=True)
class Outcome:
    """One variant of an attack, or their summary, by one metric over the scored examples.

    Attributes:
        attack: the chain's name.
        variant: a variant's label, ``"strongest"`` (for each example the variant under which it is remembered most) or
            ``"mean"`` (of the variants); ``""`` if there is only one variant.
        metric: the metric.
        before: its mean without the attack.
        after: its mean under attack.
        difference: ``after - before``.
        low: lower end of the difference's 95 % bootstrap interval over subjects.
        high: its upper end.
        effort: the attacker's effort, or None.
        note: what the attack found.
        changed: the share of the numbers in the blocks' parameters that an attack on weights changed, or None.
    """

    attack: str
    variant: str
    metric: str
    before: float
    after: float
    difference: float
    low: float
    high: float
    effort: float | None
    note: str
    changed: float | None = None


def check_metrics(
    names: Sequence[str], chains: Sequence[Chain], *, examples: Sequence[Example] = (), reference: bool = False
) -> None:
    """Raise ConfigError for a metric that is unknown, cannot see an attack, or needs more than there is.

    Args:
        names: the metrics.
        chains: the attacks.
        examples: what is scored, which some metrics want wrong answers for.
        reference: whether there is a model to compare with.
    """
    for name in names:
        needs = needs_of([name])
        if needs - _MEASURABLE:
            raise ConfigError(
                f"the metric {name!r} needs {', '.join(sorted(needs - _MEASURABLE))}, which attacks do not provide; "
                "take one of scores or generated texts, such as extraction_strength or rouge_l"
            )
        if "reference" in needs and not reference:
            raise ConfigError(f"the metric {name!r} needs {INPUTS['reference']}")
        if "perturbed" in needs and not any_perturbed(examples):
            raise ConfigError(f"the metric {name!r} needs {INPUTS['perturbed']}")
        for chain in chains:
            if name not in visible([name], chain):
                raise ConfigError(
                    f"the attack {chain.name!r} changes only how answers are generated, which {name!r} does not see; "
                    "take a metric of generated texts, such as rouge_l"
                )


def visible(names: Sequence[str], chain: Chain) -> list[str]:
    """The metrics that can see what an attack changes: one on decoding shows in generated texts only."""
    if chain.steps[-1].entry.facts["kind"] != "decoding":
        return list(names)
    return [name for name in names if "texts" in needs_of([name])]


def measure(
    target: Target,
    data: AttackData,
    chain: Chain,
    names: Sequence[str],
    *,
    max_new_tokens: int = 64,
    before: Mapping[str, Floats] | None = None,
    reference: Target | None = None,
) -> list[Outcome]:
    """Score a target before an attack and under each of its variants.

    Args:
        target: the model; left bit-identical.
        data: what is scored, and what the attacker has.
        chain: the attack.
        names: the metrics.
        max_new_tokens: the most tokens of a generated answer.
        before: metric -> [E] its values without the attack, where they are known already.
        reference: the original model, for metrics that compare with it; it reads what the attacked model reads.

    Returns:
        For each metric one outcome a variant and, where there are several, the strongest and the mean.

    Raises:
        UserError: data or layers are missing, or a metric does not suit the attack.
    """
    check_metrics(names, [chain], examples=data.scored, reference=reference is not None)
    if before is None:
        before = metric_values(target, data.scored, names, max_new_tokens=max_new_tokens, reference=reference)
    found = list(attacked_values(target, data, chain, names, max_new_tokens=max_new_tokens, reference=reference))
    variants, after = [v for v, _ in found], [values for _, values in found]
    return [
        outcome
        for name in names
        for outcome in _outcomes(chain, name, data.scored, before[name], [a[name] for a in after], variants)
    ]


def attacked_values(
    target: Target,
    data: AttackData,
    chain: Chain,
    names: Sequence[str],
    *,
    max_new_tokens: int,
    reference: Target | None = None,
) -> Iterator[tuple[Attacked, dict[str, Floats]]]:
    """For each variant of an attack metric -> [E] its values, beside the variant with the target as it was before.

    Raises:
        UserError: data or layers are missing.
    """
    with attacked(target, data, chain) as offered:
        for variant in offered:
            values = metric_values(
                variant.target, data.scored, names, max_new_tokens=max_new_tokens, reference=reference
            )
            yield replace(variant, target=target), values


def metric_values(
    target: Target,
    examples: Sequence[Example],
    names: Sequence[str],
    *,
    max_new_tokens: int,
    reference: Target | None = None,
) -> dict[str, Floats]:
    """Metric -> [E] its values for the examples; nothing is scored or generated that no metric reads."""
    needs = needs_of(names)
    compared = reference if "reference" in needs else None
    scored = score_set(target, examples, needs=needs, reference=compared, max_new_tokens=max_new_tokens)
    return {name: scored.values(name) for name in names}


def mean_value(
    target: Target, examples: Sequence[Example], name: str, *, max_new_tokens: int = 64, reference: Target | None = None
) -> float:
    """The metric's mean over the examples, without an attack."""
    values = metric_values(target, examples, [name], max_new_tokens=max_new_tokens, reference=reference)[name]
    return aggregate(values, [e.subject for e in examples], average=metrics.get(name).facts["average"]).mean


def combine(values: Sequence[Floats], *, higher_remembers: bool, average: str = "arithmetic") -> dict[str, Floats]:
    """The strongest value of each example over [n] variants, and their mean of that kind; NaN where all are."""
    stacked = np.stack(values)
    extreme = np.fmax if higher_remembers else np.fmin
    with np.errstate(divide="ignore"):
        averaged = np.log(stacked) if average == "geometric" else stacked
    counted = (~np.isnan(stacked)).sum(axis=0)
    mean = np.full(stacked.shape[1], np.nan)
    np.divide(np.nansum(averaged, axis=0), counted, out=mean, where=counted > 0)
    return {STRONGEST: extreme.reduce(stacked, axis=0), MEAN: np.exp(mean) if average == "geometric" else mean}


def _outcomes(
    chain: Chain, name: str, examples: Sequence[Example], before: Floats, after: Sequence[Floats],
    variants: Sequence[Attacked],
) -> Iterator[Outcome]:  # fmt: skip
    facts = metrics.get(name).facts
    listed = [(v.label, v.effort, v.note, v.changed, values) for v, values in zip(variants, after, strict=True)]
    if len(listed) > 1:
        summary = combine(after, higher_remembers=facts["higher_remembers"], average=facts["average"])
        listed += [(label, None, "", None, values) for label, values in summary.items()]
    subjects = [e.subject for e in examples]
    for label, effort, note, changed, values in listed:
        first, second = (aggregate(v, subjects, average=facts["average"]).mean for v in (before, values))
        difference = aggregate(values - before, subjects)
        low, high = difference.low, difference.high
        if facts["average"] == "geometric":  # the interval of a difference of arithmetic means would not belong to it
            low = high = float("nan")
        yield Outcome(chain.name, label, name, first, second, second - first, low, high, effort, note, changed)
