"""What an attack brings back: a metric before and after, each variant, the strongest for each example and the mean."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from uwc.attacks.attacked import Attacked
from uwc.attacks.chain import Chain, attacked
from uwc.attacks.data import AttackData
from uwc.data.example import Example
from uwc.errors import ConfigError
from uwc.metrics.aggregation import aggregate
from uwc.metrics.registry import metrics
from uwc.metrics.scored import ScoredSet
from uwc.models.forward import score_tokens
from uwc.models.generation import generate
from uwc.models.target import Target
from uwc.models.token_scores import Floats

STRONGEST, MEAN = "strongest", "mean"
_MEASURABLE = {"scores", "texts", "answers"}


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


def check_metrics(names: Sequence[str], chains: Sequence[Chain]) -> None:
    """Raise ConfigError for a metric that is unknown, needs more than the target, or cannot see an attack."""
    for name in names:
        needs = _needs(name)
        if needs - _MEASURABLE:
            raise ConfigError(
                f"the metric {name!r} needs {', '.join(sorted(needs - _MEASURABLE))}, which attacks do not provide; "
                "take one of scores or generated texts, such as extraction_strength or rouge_l"
            )
        for chain in chains:
            if "texts" not in needs and chain.steps[-1].entry.facts["kind"] == "decoding":
                raise ConfigError(
                    f"the attack {chain.name!r} changes only how answers are generated, which {name!r} does not see; "
                    "take a metric of generated texts, such as rouge_l"
                )


def measure(
    target: Target,
    data: AttackData,
    chain: Chain,
    names: Sequence[str],
    *,
    max_new_tokens: int = 64,
    before: Mapping[str, Floats] | None = None,
) -> list[Outcome]:
    """Score a target before an attack and under each of its variants.

    Args:
        target: the model; left bit-identical.
        data: what is scored, and what the attacker has.
        chain: the attack.
        names: the metrics.
        max_new_tokens: the most tokens of a generated answer.
        before: metric -> [E] its values without the attack, where they are known already.

    Returns:
        For each metric one outcome a variant and, where there are several, the strongest and the mean.

    Raises:
        UserError: data or layers are missing, or a metric does not suit the attack.
    """
    check_metrics(names, [chain])
    chain.check_data(data)
    if before is None:
        before = metric_values(target, data.scored, names, max_new_tokens=max_new_tokens)
    variants: list[Attacked] = []
    after: list[dict[str, Floats]] = []
    with attacked(target, data, chain) as offered:
        for variant in offered:
            after.append(metric_values(variant.target, data.scored, names, max_new_tokens=max_new_tokens))
            variants.append(Attacked(target, variant.label, variant.effort, variant.note))
    return [
        outcome
        for name in names
        for outcome in _outcomes(chain, name, data.scored, before[name], [a[name] for a in after], variants)
    ]


def metric_values(
    target: Target, examples: Sequence[Example], names: Sequence[str], *, max_new_tokens: int
) -> dict[str, Floats]:
    """Metric -> [E] its values for the examples; answers are generated only where a metric reads them."""
    reads_text = any("texts" in _needs(name) for name in names)
    texts = tuple(generate(target, examples, max_new_tokens=max_new_tokens)) if reads_text else ()
    scored = ScoredSet(score_tokens(target, examples), tuple(e.answer for e in examples), texts)
    return {name: scored.values(name) for name in names}


def mean_value(target: Target, examples: Sequence[Example], name: str, *, max_new_tokens: int = 64) -> float:
    """The metric's mean over the examples, without an attack."""
    values = metric_values(target, examples, [name], max_new_tokens=max_new_tokens)[name]
    return aggregate(values, [e.subject for e in examples], average=metrics.get(name).facts["average"]).mean


def combine(values: Sequence[Floats], *, higher_remembers: bool) -> dict[str, Floats]:
    """The strongest value of each example over [n] variants, and their mean; NaN where all are."""
    stacked = np.stack(values)
    extreme = np.fmax if higher_remembers else np.fmin
    counted = (~np.isnan(stacked)).sum(axis=0)
    mean = np.full(stacked.shape[1], np.nan)
    np.divide(np.nansum(stacked, axis=0), counted, out=mean, where=counted > 0)
    return {STRONGEST: extreme.reduce(stacked, axis=0), MEAN: mean}


def _outcomes(
    chain: Chain, name: str, examples: Sequence[Example], before: Floats, after: Sequence[Floats],
    variants: Sequence[Attacked],
) -> Iterator[Outcome]:  # fmt: skip
    facts = metrics.get(name).facts
    listed = [(v.label, v.effort, v.note, values) for v, values in zip(variants, after, strict=True)]
    if len(listed) > 1:
        summary = combine(after, higher_remembers=facts["higher_remembers"])
        listed += [(label, None, "", values) for label, values in summary.items()]
    subjects = [e.subject for e in examples]
    for label, effort, note, values in listed:
        first, second = (aggregate(v, subjects, average=facts["average"]).mean for v in (before, values))
        difference = aggregate(values - before, subjects)
        low, high = difference.low, difference.high
        if facts["average"] == "geometric":  # the interval of a difference of arithmetic means would not belong to it
            low = high = float("nan")
        yield Outcome(chain.name, label, name, first, second, second - first, low, high, effort, note)


def _needs(name: str) -> set[str]:
    needs = metrics.get(name).facts["needs"]
    return {needs} if isinstance(needs, str) else set(needs)
