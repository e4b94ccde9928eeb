"""The verdict of a policy: which of its requirements a model meets, from values by example of any source."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import exp, inf, isfinite, isnan, log, nan
from typing import Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from uwc.errors import UserError
from uwc.metrics.registry import metrics
from uwc.metrics.scored import NOT_FINITE
from uwc.metrics.simultaneous import (
    FEWEST_CLUSTERS,
    ClusterChange,
    Decision,
    Statement,
    changes_together,
    decide_together,
)
from uwc.metrics.stats import cluster_codes
from uwc.metrics.suites import set_label
from uwc.models.token_scores import Floats
from uwc.results import BaselineChange, CheckResults, Estimate, ModelKey, Outcome, RequirementResult, Verdict
from uwc.studies.policy import Policy, Requirement, in_words
from uwc.studies.sections import ChainConfig

CheckedRole = Literal["model", "original", "retrained"]
Status = Literal["met", "violated", "undecided", "left out"]
LEAST_LOG = -700.0
"""The least logarithm of a value of a geometric average, which stands for that of 0."""
UNKNOWN = Estimate(value=nan, low=nan, high=nan)
LARGEST_EXPONENT = 709.0
"""The largest exponent whose exp is finite."""
ROUNDING = 1e-12
"""Shown numbers below it are 0, and not -1e-17."""


@dataclass(frozen=True)
class Measured:
    """The values of a metric by example, of one model on one set.

    Attributes:
        ids: [E] the examples.
        subjects: [E] what they are about, which names their clusters; "" without one.
        values: [E] NaN for an example to which the metric does not apply.
        lost: the number of examples without a value that should have one, as the model's logits are not finite.
        attack: the attack's name in results, if it is not that of the policy.
    """

    ids: Sequence[str]
    subjects: Sequence[str]
    values: Floats
    lost: int = 0
    attack: str = ""


@dataclass(frozen=True)
class Lacking:
    """There are no values.

    Attributes:
        reason: why, and what to give.
        absent: whether the check was not given what they need, so that an optional requirement is left out.
    """

    reason: str
    absent: bool = True


class Evidence(Protocol):
    """A source of values by example: a finished study, texts from files, the answers of a server."""

    def values(
        self,
        role: CheckedRole,
        name: str,
        metric: str,
        *,
        chain: ChainConfig | None = None,
        variants: Literal["mean", "worst"] = "mean",
    ) -> Measured | Lacking:
        """The values of a metric.

        Args:
            role: the checked model, the original or the retrained model.
            name: the set.
            metric: the metric.
            chain: the attack, if any; its examples may be a part of the set.
            variants: of an attack the mean over its variants, or the worst one for each example.
        """


def decide(policy: Policy, evidence: Evidence, *, model: ModelKey, seed: int = 0) -> Verdict:
    """The verdict of a policy on a model.

    All requirements are decided together: the chance that any of them is wrongly called met or violated is at most one
    minus the policy's confidence.

    Args:
        policy: the requirements.
        evidence: the values.
        model: the checked model.
        seed: of the draws of clusters.
    """
    posed = [_posed(requirement, evidence) for requirement in policy.requirements]
    statements = [statement for one in posed for statement in one.statements]
    decisions = iter(decide_together(statements, confidence=policy.confidence, seed=seed) if statements else ())
    found = tuple(one.result(list(islice(decisions, len(one.statements)))) for one in posed)
    return Verdict(
        policy=policy.name,
        title=policy.title,
        model=model,
        confidence=policy.confidence,
        outcome=_outcome(found),
        requirements=found,
    )


def _outcome(requirements: Sequence[RequirementResult]) -> Outcome:
    status = [r.status for r in requirements]
    if "violated" in status or any(r.change is not None and r.change.worse for r in requirements):
        return "fail"
    return "pass" if "undecided" not in status and "met" in status else "undecided"


def without_sums(verdict: Verdict) -> Verdict:
    """The verdict without sums by cluster."""
    bare = tuple(r.model_copy(update={"sums": (), "counts": ()}) for r in verdict.requirements)
    return verdict.model_copy(update={"requirements": bare})


@dataclass(frozen=True)
class _Posed:
    """A requirement with what is decided about it.

    Attributes:
        known: the fields of its result that are known before.
        statements: the means to be compared with their bounds: one, or one for each cluster; none if it is not decided.
        shown: for each the number that is shown for a mean.
        clusters: for each the name of its cluster; none for the mean over all.
    """

    known: Mapping[str, object]
    statements: Sequence[Statement] = ()
    shown: Sequence[Callable[[float], float]] = ()
    clusters: Sequence[str] = field(default=())

    def result(self, decisions: Sequence[Decision]) -> RequirementResult:
        """The result, given a decision for each statement."""
        if not decisions:
            return RequirementResult.model_validate(self.known)
        statements = list(self.statements)
        ends = [
            d.high - s.bound if s.direction == "at_most" else s.bound - d.low
            for s, d in zip(statements, decisions, strict=True)
        ]
        status = next(s for s in ("violated", "undecided", "met") if s in {d.status for d in decisions})
        decisive = [i for i, d in enumerate(decisions) if d.status == status]
        worst = max(decisive, key=lambda i: -inf if isnan(ends[i]) else ends[i])
        found, show = decisions[worst], self.shown[worst]
        changes: dict[str, object] = {
            "status": status,
            "value": _estimate(show, found),
            "clusters": found.clusters,
            "clusters_needed": found.clusters_needed,
        }
        open_ones = [i for i, d in enumerate(decisions) if d.status == "undecided"]
        reason = found.reason
        if self.clusters:
            named = f"{len(open_ones)} of {len(decisions)} clusters are undecided"
            reason = f"{named}, such as {self.clusters[worst]!r}: {_of_questions(found.reason)}"
            changes |= {"cluster": self.clusters[worst], "clusters": len(decisions), "clusters_needed": None}
        changes["reason"] = reason if changes["status"] == "undecided" else ""
        return RequirementResult.model_validate({**self.known, **changes})


def _estimate(show: Callable[[float], float], found: Decision) -> Estimate:
    value, low, high = map(show, (found.mean, found.low, found.high))
    value, low, high = (
        0.0 if abs(number) < ROUNDING else number if isfinite(number) else nan for number in (value, low, high)
    )
    return Estimate(value=value, low=low, high=high)


def _of_questions(reason: str) -> str:
    """The reason for the mean of one cluster, whose questions are counted as clusters."""
    return reason.replace("clusters", "questions").replace("cluster", "question")


def _posed(r: Requirement, evidence: Evidence) -> _Posed:
    chain = r.chain
    own = evidence.values("model", r.set, r.metric, chain=chain, variants=r.variants)
    attack = own.attack if isinstance(own, Measured) else ""
    known: dict[str, object] = {
        "name": r.name,
        "text": in_words(r),
        "metric": r.metric,
        "set": r.set,
        "attack": attack or (chain.label if chain else ""),
        "over": r.over,
        "relative_to": r.relative_to,
        "compare": r.compare,
        "direction": r.direction,
        "bound": r.bound,
        "value": UNKNOWN,
    }
    other = _other(r, evidence)
    lacking = next((found for found in (own, other) if isinstance(found, Lacking)), None)
    if lacking is not None or not isinstance(own, Measured) or isinstance(other, Lacking):
        assert lacking is not None
        return _Posed({**known, "status": _status(r, lacking), "reason": lacking.reason})
    return _compared(r, own, other, known)


def _status(r: Requirement, lacking: Lacking) -> Status:
    return "left out" if r.optional and lacking.absent else "undecided"


def _other(r: Requirement, evidence: Evidence) -> Measured | Lacking | None:
    """The values of the model that a requirement compares with."""
    if r.relative_to is None:
        return None
    if r.relative_to == "control":
        return evidence.values("retrained", r.set, r.metric, chain=r.chain, variants=r.variants)
    return evidence.values(r.relative_to, r.set, r.metric)


def _compared(r: Requirement, own: Measured, other: Measured | None, known: dict[str, object]) -> _Posed:
    """The statements about the values of a model and of the one that it is compared with."""
    geometric = metrics.get(r.metric).facts["average"] == "geometric"
    scaled, back = (_logarithms, _exp) if geometric else (np.asarray, _finite)
    x = scaled(own.values)
    y = None if other is None else scaled(_aligned(other, own.ids))
    used = ~np.isnan(x) if y is None else ~np.isnan(x) & ~np.isnan(y)
    lost = max(own.lost, 0 if y is None else int((np.isnan(x) & ~np.isnan(y)).sum()))
    known |= _by_cluster(x, own)
    known |= {"n": int(used.sum()), "not_scored": len(x) - int(used.sum())}
    if not used.any() and not lost:
        lacking = Lacking("none of the questions has a value")
        return _Posed({**known, "status": _status(r, lacking), "reason": lacking.reason})
    known["score"] = back(_mean(x[used]))
    if y is not None:
        known["reference"] = back(_mean(y[used]))
    if own.lost:
        return _Posed({**known, "status": "violated", "reason": f"for {own.lost} of {len(x)} questions {NOT_FINITE}"})
    if lost:
        reason = f"{lost} of {len(x)} questions have no value, and one of the model that it is compared with"
        return _Posed({**known, "status": "undecided", "reason": reason})
    if y is not None and not np.isfinite(y[used]).all():
        reason = "a value of the model that it is compared with is not finite"
        return _Posed({**known, "status": "undecided", "reason": reason})
    subjects = [subject or example for subject, example in zip(own.subjects, own.ids, strict=True)]
    if r.over == "mean":
        if r.compare == "ratio" and not geometric and y is not None and not _mean(y[used]) > 0:
            reason = (
                f"the average of the model that it is compared with is {_mean(y[used]):g}, so no ratio to it exists"
            )
            return _Posed({**known, "status": "undecided", "reason": reason})
        if geometric and y is not None and np.array_equal(x[used], y[used]):
            return _Posed({**known, **_equal(r, known)})
        statement, show = _statement(r, x, y, subjects, draws=r.set, geometric=geometric)
        return _Posed(known, (statement,), (show,))
    clusters = list(dict.fromkeys(subject for subject in own.subjects if subject))
    if not clusters:
        lacking = Lacking("the questions do not say whom or what they are about; name it in a column 'subject'")
        return _Posed({**known, "status": _status(r, lacking), "reason": lacking.reason})
    found = zip(clusters, _members(own.subjects, clusters), strict=True)
    members = [(name, chosen) for name, chosen in found if used[chosen].any()]
    posed = [
        _statement(
            r,
            x[chosen],
            None if y is None else y[chosen],
            [own.ids[i] for i in chosen],
            draws=f"{r.set} {name}",
            geometric=geometric,
        )
        for name, chosen in members
    ]
    return _Posed(known, [s for s, _ in posed], [show for _, show in posed], [name for name, _ in members])


def _equal(r: Requirement, known: Mapping[str, object]) -> dict[str, object]:
    """The fields of a result where both models have exactly the same values of a metric without a greatest one."""
    if int(str(known["clusters"])) < FEWEST_CLUSTERS:
        return {"status": "undecided", "reason": f"fewer than {FEWEST_CLUSTERS} clusters"}
    within = r.bound >= 1 if r.at_most is not None else r.bound <= 1
    return {"status": "met" if within else "violated", "value": Estimate(value=1, low=1, high=1)}


def _members(subjects: Sequence[str], clusters: Sequence[str]) -> list[NDArray[np.int64]]:
    """For each cluster the indices of its examples."""
    number = {name: i for i, name in enumerate(clusters)}
    codes = np.array([number.get(subject, -1) for subject in subjects], dtype=np.int64)
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.searchsorted(codes[order], np.arange(len(clusters))))[1:]


def _statement(
    r: Requirement, x: Floats, y: Floats | None, subjects: Sequence[str], *, draws: str, geometric: bool
) -> tuple[Statement, Callable[[float], float]]:
    """What is decided, and the number that is shown for its mean."""
    low, high = _own_range(r.metric)
    show: Callable[[float], float] = _exp if geometric else float
    if y is None:
        values, bound = x, log(r.bound) if geometric else r.bound
    elif geometric:
        values, bound = x - y, log(r.bound)
        low, high = low - high, high - low
    elif r.compare == "difference":
        values, bound = x - y, r.bound
        low, high = low - high, high - low
    else:
        factor = r.bound
        values, bound = x - factor * y, 0.0
        low, high = low - factor * high, high - factor * low
        base = _mean(y[~np.isnan(x) & ~np.isnan(y)])
        show = (lambda z: factor + z / base) if base > 0 else (lambda z: nan)
    return Statement(values, subjects, bound, r.direction, (low, high), draws), show


def _own_range(metric: str) -> tuple[float, float]:
    """The least and the greatest value of a metric; of their logarithms for a geometric average."""
    facts = metrics.get(metric).facts
    low, high = facts["range"]
    return (_log(low), _log(high)) if facts["average"] == "geometric" else (low, high)


def _aligned(other: Measured, ids: Sequence[str]) -> Floats:
    """[E] the other model's values for these examples; NaN where it has none."""
    known = dict(zip(other.ids, np.asarray(other.values, dtype=np.float64).tolist(), strict=True))
    return np.array([known.get(example, nan) for example in ids], dtype=np.float64)


def _by_cluster(x: Floats, own: Measured) -> dict[str, object]:
    """Sums and counts of the model's own values by cluster, in the order of the questions."""
    codes, scored = cluster_codes(own.subjects), np.isfinite(x)
    number = int(codes.max()) + 1 if len(codes) else 0
    sums = np.bincount(codes[scored], weights=x[scored], minlength=number)
    counts = np.bincount(codes[scored], minlength=number)
    return {"sums": tuple(sums.tolist()), "counts": tuple(counts.tolist()), "clusters": int((counts > 0).sum())}


def _logarithms(values: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = np.maximum(np.log(np.asarray(values, dtype=np.float64)), LEAST_LOG)
    return found


def _log(end: float) -> float:
    return -inf if end <= 0 else inf if end == inf else log(end)


def _exp(value: float) -> float:
    """exp; NaN if it is not finite, as in all results."""
    return exp(value) if value < LARGEST_EXPONENT else nan


def _finite(value: float) -> float:
    return value if isfinite(value) else nan


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else nan


def against_baseline(results: CheckResults, baseline: CheckResults, *, name: str, seed: int = 0) -> CheckResults:
    """A check with the changes since an earlier one, of the requirements that both have; a significantly worse number
    makes it fail.

    Args:
        results: the check.
        baseline: the earlier check.
        name: what results call the earlier check.
        seed: of the draws of clusters.

    Raises:
        UserError: the two have no requirement in common, or other questions.
    """
    sets = {of_set: found.sha256 for of_set, found in results.sets.items()}
    common = require_comparable(results.policy, sets, baseline, name=name)
    earlier = {r.name: r for r in baseline.verdict.requirements}
    pairs = [(earlier[r.name], r) for r in results.verdict.requirements if r.name in common]
    for old, new in pairs:
        if len(old.sums) != len(new.sums):
            reason = "other questions were asked under its attack; make the baseline again"
            if not (old.sums and new.sums):
                reason = "give both checks the same models (--retrained), files and options"
            raise UserError(
                f"the baseline {name} has {len(old.sums)} clusters for the requirement {new.name!r}, and this check "
                f"{len(new.sums)}: {reason}"
            )
    known = [(old, new) for old, new in pairs if sum(old.counts) and sum(new.counts)]
    found = changes_together(
        [
            ClusterChange(
                np.array(old.sums, dtype=np.float64),
                np.array(old.counts, dtype=np.float64),
                np.array(new.sums, dtype=np.float64),
                np.array(new.counts, dtype=np.float64),
                1 if new.direction == "at_most" else -1,
                f"{new.set} {len(new.sums)}",
                _own_range(new.metric),
            )
            for old, new in known
        ],
        confidence=results.verdict.confidence,
        seed=seed,
    )
    changed = {
        new.name: BaselineChange(value=Estimate(value=c.mean, low=c.low, high=c.high), worse=c.worse)
        for (_, new), c in zip(known, found, strict=True)
    }
    requirements = tuple(r.model_copy(update={"change": changed.get(r.name)}) for r in results.verdict.requirements)
    verdict = results.verdict.model_copy(update={"requirements": requirements, "outcome": _outcome(requirements)})
    return results.model_copy(update={"verdict": verdict, "baseline": name})


def require_comparable(
    policy: Mapping[str, Any], sets: Mapping[str, str], baseline: CheckResults, *, name: str
) -> set[str]:
    """The names of the requirements that a policy and an earlier check define alike.

    Args:
        policy: the complete policy, as in results.
        sets: set -> the hash of its questions.
        baseline: the earlier check.
        name: what messages call it.

    Raises:
        UserError: there is none, or one of them was decided on other questions.
    """
    ours, theirs = ({str(r["name"]): r for r in p["requirements"]} for p in (policy, cast(Any, baseline.policy)))
    known = {r.name for r in baseline.verdict.requirements}
    common = {named for named, requirement in ours.items() if named in known and theirs.get(named) == requirement}
    if not common:
        raise UserError(
            f"the baseline {name} has no requirement in common with this check (its policy is "
            f"{baseline.verdict.policy!r}, this one's {policy['name']!r}); give a check under the same policy"
        )
    for of_set in dict.fromkeys(str(ours[named]["set"]) for named in ours if named in common):
        before = baseline.sets[of_set].sha256 if of_set in baseline.sets else ""
        if sets.get(of_set, "") != before:
            raise UserError(
                f"the baseline {name} was made with other {set_label(of_set)} questions; give a check of the same "
                "questions, or make the baseline again"
            )
    return common
