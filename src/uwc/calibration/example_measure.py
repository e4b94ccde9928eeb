"""A metric on examples as a measure that calibration holds fixed, decided as early as it can be."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uwc import progress
from uwc.calibration.deciding import ERROR, MeanTest, looks
from uwc.calibration.expecting import Expectation
from uwc.calibration.retention import Kept
from uwc.calibration.search import meaningless
from uwc.data.example import Example
from uwc.errors import ConfigError
from uwc.metrics.registry import metrics, set_metrics
from uwc.metrics.scored import ScoredSet
from uwc.metrics.scoring import needs_of, score_set
from uwc.metrics.set_level import UTILITY_SETS
from uwc.models.forward import score_tokens
from uwc.models.target import Target
from uwc.models.token_scores import Floats, TokenScores
from uwc.registry import Entry, unknown_name

RANDOM_PART = 4
"""One in so many examples is scored in random order where that may decide a probe."""
FURTHER = 1.25
"""Those expected to have lost most, at a mixture and at so many times as much of it, are scored first."""
NEAR_ZERO, LITTLE = 0.02, 0.2
"""Mean scores of the original, on metrics from 0 to 1, below which calibration is refused, and warned about."""
_ANY_MODEL_HAS = frozenset(
    {"scores", "answers", "restated", "perturbed", "texts", "text_tokens", "sampled", "gradient_norms", "similar_from"}
)


def example_metrics() -> list[str]:
    """The metrics of single examples that can be held fixed: those with a direction that need one model only."""
    return [e.name for e in metrics if _fits(e)]


def retention_names() -> list[str]:
    """All metrics that can be held fixed: those of single examples, and those of sets of data to keep."""
    kept = [e.name for e in set_metrics if {need.partition(":")[0] for need in e.facts["needs"]} <= set(UTILITY_SETS)]
    return [*example_metrics(), *(n for n in kept if set_metrics.get(n).facts["higher_remembers"])]


def _fits(entry: Entry[Any]) -> bool:
    facts = entry.facts
    return (
        set(facts["needs"]) <= _ANY_MODEL_HAS and facts["higher_remembers"] is not None and "only" not in facts
        and facts["range"][0] > -np.inf
    )  # fmt: skip


class ExampleMeasure:
    """A metric's average over examples, decided as early as it can be.

    A metric for which high means 'remembers' keeps its value v if ``mean(v) >= tau mean(v_original)``, one for which
    low does if ``mean(v) <= mean(v_original) / tau``; a geometric average does on logarithms, so that the share kept
    is the ratio of averages, or its inverse, throughout. The examples are scored in blocks: some in a fixed random
    order, then those first that are expected (see `Expectation`) to have lost most; after each block `MeanTest` looks
    at the paired differences to the original. Examples that the metric gives no value for on the original are left
    out.

    Args:
        examples: the questions.
        metric: a metric of single examples, see `example_metrics`.
        tau: share of the original's average to keep.
        name: what messages call the set.
        early: stop as soon as it is decided, and expect values at other mixtures; metrics without bounds are always
            scored on all examples.
        max_new_tokens: the most tokens of a generated answer.
        error: the chance of a wrong early decision in each direction.
        seed: of the order.

    Raises:
        ConfigError: the metric cannot be held fixed, or the examples lack what it needs.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        metric: str,
        tau: float,
        name: str = "retain",
        early: bool = True,
        max_new_tokens: int = 64,
        error: float = ERROR,
        seed: int = 0,
    ) -> None:
        if metric not in example_metrics():
            raise ConfigError(unknown_name("metric to hold fixed", metric, example_metrics()))
        self.entry = metrics.get(metric)
        self.higher = bool(self.entry.facts["higher_remembers"])
        self.geometric = self.entry.facts["average"] == "geometric"
        self.examples, self.metric, self.tau, self.name, self.error = list(examples), metric, tau, name, error
        self.label = f"{metric} on {name}"
        self.max_new_tokens = max_new_tokens
        low, high = self.entry.facts["range"]
        self.expects = early
        self.early = early and not self.geometric and bool(np.isfinite([low, high]).all())
        self.seed = seed
        self.order = np.arange(len(self.examples))
        self.original = np.zeros(0)
        self._seen: dict[float, _Seen] = {}
        self._expectation: Expectation | None = None

    def probe(self, target: Target, alpha: float, *, whole: bool) -> Kept:
        """See `Measure.probe`."""
        if alpha == 0.0 and not self._seen:
            self._set_original(target)
        elif alpha not in self._seen:
            random = self._random_part(alpha)
            self._seen[alpha] = _Seen(alpha, np.full(len(self.examples), np.nan), 0, self._test(), self.order, random)
        seen = self._seen[alpha]
        for count in [len(self.order)] if whole or not self.early else looks(len(self.order)):
            if count > seen.count and (whole or seen.decided is None):
                self._score(target, seen, count)
        return self._kept(seen)

    def values_at(self, alpha: float) -> Floats:
        """[n] the values of `scored_examples` at a mixture that was scored on all of them."""
        values: Floats = self._seen[alpha].values[np.sort(self.order)]
        return values

    @property
    def scored_examples(self) -> list[Example]:
        """The n examples that the metric has a value for on the original."""
        return [self.examples[i] for i in np.sort(self.order)]

    def _set_original(self, target: Target) -> None:
        """Score the original, and put the examples that have a value into their order."""
        self.original, tokens = self._measured(target, self.examples)
        scored = np.flatnonzero(~np.isnan(self.original))
        self.order = np.random.default_rng(self.seed).permutation(scored)
        self._seen[0.0] = _Seen(0.0, self.original, len(scored), None, self.order, 0)
        if self.expects:
            self._expectation = Expectation(self.entry, self.original, tokens)
        mean = self._average(self.original[np.sort(self.order)])
        unit = self.entry.facts["range"] == (0.0, 1.0) and self.higher
        if not 0 < mean < np.inf or (unit and mean < NEAR_ZERO):
            raise meaningless(mean, f"the {self.name} data ({self.metric})", needed=NEAR_ZERO if unit else None)
        if unit and mean < LITTLE:
            progress.warn(
                f"the original model itself scores only {mean:.3g} ({self.metric}) on the {self.name} data; "
                "a share of so little says little: give retain data that it knows, or another retention metric"
            )

    def _score(self, target: Target, seen: "_Seen", count: int) -> None:
        """Score on to `count` examples, and look whether it is decided."""
        random = seen.count < seen.random
        if not random and seen.order is self.order:
            rest = self.order[seen.count :]
            ahead = self._ahead(seen.alpha)[rest] + self._ahead(min(1.0, FURTHER * seen.alpha))[rest]
            seen.order = np.append(self.order[: seen.count], rest[np.argsort(ahead, kind="stable")])
        part = seen.order[seen.count : count]
        sorted_part = np.sort(part)
        examples = [self.examples[i] for i in sorted_part]
        seen.values[sorted_part], tokens = self._measured(target, examples)
        if self._expectation is not None:
            self._expectation.add(seen.alpha, sorted_part, seen.values[sorted_part], tokens)
        seen.count = count
        if np.isnan(seen.values[part]).any():
            seen.decided = False
        elif seen.test is not None and seen.decided is None:
            differences = self._line(seen.values[part]) - self._bar(part)
            seen.decided = seen.test.see(np.searchsorted(np.sort(self.order), part), differences, random=random)

    def _measured(self, target: Target, examples: Sequence[Example]) -> tuple[Floats, TokenScores | None]:
        return measured_closely(target, examples, self.entry, max_new_tokens=self.max_new_tokens, margins=self.expects)

    def expected_share(self, alpha: float) -> float:
        """The share expected to be kept at a mixture, from what tokens scored at others; NaN if none were followed."""
        if self._expectation is None or not self._expectation.by_token:
            return float("nan")
        return self._share(self._average(self._expected(alpha)[np.sort(self.order)]))

    def _expected(self, alpha: float) -> Floats:
        """[E] for each example its value expected at a mixture."""
        return self.original if self._expectation is None else self._expectation.values(alpha)

    def _ahead(self, alpha: float) -> Floats:
        """[E] by how much each example is expected to be above what keeps exactly tau."""
        ahead: Floats = self._line(self._expected(alpha)) - self._bar(slice(None))
        return ahead

    def _random_part(self, alpha: float) -> int:
        """How many examples are scored in random order before those that are expected to have lost most.

        A quarter, where nothing is known yet, or where that many may be expected to win the bet that the bar is
        reached. Else those up to the first look, so that some examples are scored at every mixture.
        """
        first = looks(len(self.order))[0]
        part = max(first, len(self.order) // RANDOM_PART)
        if self._expectation is None or len(self._seen) == 1:
            return part
        ahead = self._ahead(alpha)[self.order]
        return part if ahead.mean() > np.sqrt(2 * np.log(1 / self.error) * ahead.var() / part) else first

    def _kept(self, seen: "_Seen") -> Kept:
        of = len(self.order)
        if seen.count == of:
            score = self._average(seen.values[np.sort(self.order)])
            return Kept(score, self._share(score), self._reaches(seen.values), of, of)
        score = float(
            np.clip(self._average(self._expected(seen.alpha)[np.sort(self.order)]), *self.entry.facts["range"])
        )
        bar = self._average(self.original[np.sort(self.order)]) * (self.tau if self.higher else 1 / self.tau)
        score = max(score, bar) if bool(seen.decided) is self.higher else min(score, bar)
        return Kept(score, self._share(score), bool(seen.decided), seen.count, of)

    def _test(self) -> MeanTest | None:
        if not self.early:
            return None
        ends = self._line(np.array(self.entry.facts["range"]))
        bar = self._bar(np.sort(self.order))
        return MeanTest(ends.min() - bar, ends.max() - bar, error=self.error)

    def _line(self, values: Floats) -> Floats:
        """The values on the line on which they are averaged, turned so that high means 'remembers'."""
        with np.errstate(divide="ignore"):
            line: Floats = np.log(values) if self.geometric else values
        return line if self.higher else -line

    def _bar(self, part: NDArray[np.int64] | slice) -> Floats:
        """What each example would have to score on that line for exactly tau to be kept."""
        original = self._line(self.original[part])
        factor = self.tau if self.higher else 1 / self.tau
        bar: Floats = original + np.log(self.tau) if self.geometric else original * factor
        return bar

    def _reaches(self, values: Floats) -> bool:
        order = np.sort(self.order)
        if self.higher and not self.geometric:
            return bool(values[order].mean() >= self.tau * self.original[order].mean())
        return bool(self._line(values[order]).mean() >= self._bar(order).mean() - 1e-12)

    def _average(self, values: Floats) -> float:
        return geometric_mean(values) if self.geometric else float(values.mean()) if len(values) else float("nan")

    def _share(self, score: float) -> float:
        original = self._average(self.original[np.sort(self.order)])
        with np.errstate(divide="ignore"):
            return float(np.divide(score, original) if self.higher else np.divide(original, score))


@dataclass
class _Seen:
    """Values of a mixture, [E], NaN where not scored; how many are, in their order, and how many of these in random
    order; what they decide."""

    alpha: float
    values: Floats
    count: int
    test: MeanTest | None
    order: NDArray[np.int64]
    random: int
    decided: bool | None = None


def geometric_mean(values: Floats) -> float:
    """``exp(mean(log v))``."""
    with np.errstate(divide="ignore"):
        return float(np.exp(np.log(values).mean())) if len(values) else float("nan")


def measured(target: Target, examples: Sequence[Example], entry: Entry[Any], *, max_new_tokens: int = 64) -> Floats:
    """[E] a metric's values on a model, scored with no more than it needs."""
    return measured_closely(target, examples, entry, max_new_tokens=max_new_tokens)[0]


def measured_closely(
    target: Target, examples: Sequence[Example], entry: Entry[Any], *, max_new_tokens: int = 64, margins: bool = False
) -> tuple[Floats, TokenScores | None]:
    """[E] the same, and the token scores, with margins if wanted, where the metric reads these alone."""
    if entry.facts["needs"] == ("scores",):
        tokens = score_tokens(target, examples, margins=margins)
        return ScoredSet(tokens, ()).values(entry.name), tokens
    scored = score_set(target, examples, needs=needs_of([entry.name]), max_new_tokens=max_new_tokens)
    return scored.values(entry.name), None
