"""Verdicts from values by example that are given by hand: numbers, statuses, outcomes, and changes since a baseline."""

from dataclasses import dataclass
from math import exp, isnan
from typing import Any, Literal

import numpy as np
import pytest

from uwc.errors import UserError
from uwc.metrics.suites import metric_info
from uwc.results import CheckedSet, CheckedSystem, CheckResults, ModelKey, RequirementResult, Verdict
from uwc.studies.policy import Policy, load_policy
from uwc.studies.sections import ChainConfig
from uwc.studies.verdict import CheckedRole, Lacking, Measured, against_baseline, decide

ES, PPL = "extraction_strength", "perplexity"
KEY = ModelKey(role="unlearned", run="npo")
Found = Measured | Lacking


@dataclass(frozen=True)
class Given:
    """Evidence by role, set, metric and attack."""

    known: dict[tuple[str, str, str, str], Found]

    def values(
        self,
        role: CheckedRole,
        name: str,
        metric: str,
        *,
        chain: ChainConfig | None = None,
        variants: Literal["mean", "worst"] = "mean",
    ) -> Found:
        attack = "" if chain is None else f"{chain.label}{' worst' if variants == 'worst' else ''}"
        return self.known.get((role, name, metric, attack), Lacking(f"no {role}"))


def given(**of_role: Found) -> Given:
    """Extraction strength of the forget questions by each role."""
    return Given({(role, "forget", ES, ""): found for role, found in of_role.items()})


def measured(values: Any, *, each: int = 1, lost: int = 0, named: bool = True) -> Measured:
    """Values of examples 0, 1, ..., of which `each` make a cluster."""
    found = np.asarray(values, dtype=np.float64)
    subjects = [f"person {i // each}" if named else "" for i in range(len(found))]
    return Measured([str(i) for i in range(len(found))], subjects, found, lost)


def asked(*requirements: dict[str, Any]) -> Policy:
    filled = [{"name": f"r{i}", "metric": ES, **r} for i, r in enumerate(requirements)]
    return load_policy({"name": "mine", "requirements": filled})


def decided(evidence: Given, *requirements: dict[str, Any]) -> Verdict:
    return decide(asked(*requirements), evidence, model=KEY)


def one(evidence: Given, **requirement: Any) -> RequirementResult:
    (found,) = decided(evidence, requirement).requirements
    return found


LOW = np.linspace(0.0, 0.1, 20)
HIGH = np.linspace(0.8, 1.0, 20)
NOISE = np.random.default_rng(0).normal(0, 0.01, 20)
NOISE -= NOISE.mean()


def test_a_bound_on_the_number_itself() -> None:
    found = one(given(model=measured(LOW)), at_most=0.2)
    assert found.value.value == found.score == pytest.approx(0.05)
    assert 0 <= found.value.low < 0.05 < found.value.high < 0.2
    assert (found.status, found.n, found.clusters) == ("met", 20, 20) and isnan(found.reference)
    assert one(given(model=measured(LOW)), at_least=0.2).status == "violated"
    close = one(given(model=measured(LOW)), at_most=0.051)
    assert close.status == "undecided" and close.clusters_needed is not None and close.clusters_needed > 20


def test_a_difference_is_paired_by_id_whatever_the_order_and_further_examples() -> None:
    ours = measured(LOW + 0.3 + NOISE)
    theirs = measured([*LOW, 0.9, 0.9])
    order = np.random.default_rng(0).permutation(22)
    shuffled = Measured([theirs.ids[i] for i in order], [theirs.subjects[i] for i in order], theirs.values[order])
    found = one(given(model=ours, retrained=shuffled), relative_to="retrained", at_most=0.4)
    assert (found.value.value, found.score, found.reference) == pytest.approx((0.3, 0.35, 0.05))
    assert found.status == "met" and found.n == 20
    over = one(given(model=ours, retrained=shuffled), relative_to="retrained", at_most=0.1)
    assert over.status == "violated"


def test_a_ratio_is_the_mean_over_the_mean_and_decided_on_its_own_side_of_the_bound() -> None:
    evidence = given(model=measured(0.5 * HIGH + LOW), original=measured(HIGH))
    ratio = (0.5 * HIGH + LOW).mean() / HIGH.mean()
    for bound in (0.3, 0.5, 0.55, 0.556, 0.6, 0.9):
        found = one(evidence, relative_to="original", compare="ratio", at_most=bound)
        assert found.value.value == pytest.approx(ratio)
        low, high = found.value.low, found.value.high
        assert found.status == ("met" if high <= bound else "violated" if low > bound else "undecided"), bound
    nothing = one(
        given(model=measured(LOW), original=measured(0 * LOW)), relative_to="original", compare="ratio", at_most=0.5
    )
    assert nothing.status == "undecided" and nothing.reason


def test_a_geometric_average_is_compared_on_logarithms() -> None:
    logs = np.linspace(0.0, 1.0, 20)
    known = {
        ("model", "retain", PPL, ""): measured(np.exp(logs + 0.5 + NOISE)),
        ("original", "retain", PPL, ""): measured(np.exp(logs)),
    }
    ratio = one(Given(known), metric=PPL, set="retain", relative_to="original", compare="ratio", at_most=2)
    assert ratio.value.value == pytest.approx(exp(0.5)) and ratio.status == "met"
    assert (ratio.score, ratio.reference) == pytest.approx((exp(1.0), exp(0.5)))
    itself = one(Given(known), metric=PPL, set="retain", at_most=2)
    assert itself.value.value == pytest.approx(exp(1.0)) and itself.status == "violated"
    assert itself.value.low < itself.value.value < itself.value.high


def test_infinite_perplexity_is_a_violation_and_no_missing_value() -> None:
    broken = np.full(12, np.inf)
    known = {
        ("model", "retain", PPL, ""): measured(broken),
        ("original", "retain", PPL, ""): measured(np.full(12, 2.0)),
    }
    found = one(Given(known), metric=PPL, set="retain", relative_to="original", compare="ratio", at_most=2)
    assert found.status == "violated" and found.n == 12


def test_under_an_attack_a_part_of_the_questions_is_compared_with_the_control_or_the_original_as_it_is() -> None:
    part = slice(4, 16)
    attacked, control = measured(HIGH), measured(LOW)
    ours = Measured(attacked.ids[part], attacked.subjects[part], HIGH[part] - 0.2, attack="jailbreak (mine)")
    theirs = Measured(control.ids[part], control.subjects[part], LOW[part] + 0.1)
    known: dict[tuple[str, str, str, str], Found] = {
        ("model", "forget", ES, "jailbreak"): ours,
        ("retrained", "forget", ES, "jailbreak"): theirs,
        ("retrained", "forget", ES, ""): control,
        ("original", "forget", ES, ""): attacked,
    }
    asked = {"attack": "jailbreak", "at_most": 0.1}
    against = {r: one(Given(known), relative_to=r, **asked) for r in ("control", "retrained", "original")}
    assert {found.n for found in against.values()} == {12}
    expected = {"control": 0.55, "retrained": 0.65, "original": -0.2}
    assert {r: found.value.value for r, found in against.items()} == pytest.approx(expected)
    assert {found.attack for found in against.values()} == {"jailbreak (mine)"}
    worst = one(Given(known), relative_to="control", variants="worst", **asked)
    assert worst.status == "undecided" and worst.reason == "no model"


@pytest.mark.parametrize(
    ("found", "optional", "status"),
    [
        (Lacking("give it"), True, "left out"),
        (Lacking("give it"), False, "undecided"),
        (Lacking("give it", absent=False), True, "undecided"),
    ],
)
def test_what_was_not_given_leaves_out_what_is_optional(found: Lacking, optional: bool, status: str) -> None:
    result = one(given(model=measured(LOW), retrained=found), relative_to="retrained", at_most=0.1, optional=optional)
    assert (result.status, result.reason) == (status, "give it") and isnan(result.value.value)


def test_a_question_that_the_checked_model_alone_has_no_value_for_is_never_met() -> None:
    values = LOW.copy()
    values[3] = np.nan
    evidence = given(model=measured(values), original=measured(HIGH))
    assert one(evidence, at_most=0.5).status == "met"  # the metric does not apply to it
    found = one(evidence, relative_to="original", at_most=0.5)
    assert found.status == "undecided" and "1 of 20" in found.reason
    lost = one(given(model=measured(values, lost=1)), at_most=0.5)
    assert lost.status == "violated" and "1 of 20" in lost.reason and lost.score == pytest.approx(np.nanmean(values))
    none = measured(np.full(20, np.nan))
    assert one(given(model=none), at_most=0.5).status == "undecided"
    assert one(given(model=none), at_most=0.5, optional=True).status == "left out"


def test_the_worst_cluster_decides_for_all() -> None:
    """Four people with ten questions; the third one is remembered."""
    values = np.concatenate([LOW[:10], LOW[:10], HIGH[:10], LOW[:10]])
    found = one(given(model=measured(values, each=10)), over="worst_cluster", at_most=0.5)
    assert (found.status, found.cluster, found.clusters) == ("violated", "person 2", 4)
    assert found.value.value == pytest.approx(HIGH[:10].mean()) and found.score == pytest.approx(values.mean())
    forgotten = one(given(model=measured(np.tile(LOW[:10], 4), each=10)), over="worst_cluster", at_most=0.5)
    assert forgotten.status == "met"
    few = one(given(model=measured(np.tile(LOW[:4], 4), each=4)), over="worst_cluster", at_most=0.9)
    assert few.status == "undecided" and "4 of 4" in few.reason and "questions" in few.reason
    for optional, status in ((True, "left out"), (False, "undecided")):
        unnamed = given(model=measured(LOW, named=False))
        assert one(unnamed, over="worst_cluster", at_most=0.5, optional=optional).status == status


def test_fewer_than_five_clusters_meet_nothing() -> None:
    assert one(given(model=measured(LOW, each=5)), at_most=0.99).status == "undecided"


@pytest.mark.parametrize(
    ("bounds", "outcome"),
    [
        ((0.5, 0.5), "pass"),
        ((0.5, 0.051), "undecided"),
        ((0.051, 0.001), "fail"),
        ((0.5, None), "pass"),
        ((None,), "undecided"),
    ],
)
def test_the_outcome_follows_from_the_statuses(bounds: tuple[float | None, ...], outcome: str) -> None:
    requirements = [
        {"at_most": 0.1, "relative_to": "retrained", "optional": True} if bound is None else {"at_most": bound}
        for bound in bounds
    ]
    verdict = decided(given(model=measured(LOW)), *requirements)
    assert (verdict.outcome, verdict.policy, verdict.model) == (outcome, "mine", KEY)


def test_more_requirements_make_wider_intervals_and_the_same_evidence_the_same_verdict() -> None:
    random = np.random.default_rng(1)
    evidence = given(model=measured(random.random(40), each=2), original=measured(random.random(40), each=2))
    alone = one(evidence, at_most=0.5)
    many = decided(evidence, {"at_most": 0.5}, *({"relative_to": "original", "at_most": b} for b in (0.1, 0.2)))
    assert many.requirements[0].value.low < alone.value.low and alone.value.high < many.requirements[0].value.high
    again = decided(evidence, {"at_most": 0.5}, *({"relative_to": "original", "at_most": b} for b in (0.1, 0.2)))
    assert again == many


def checked(values: Any, policy: Policy, *, sha256: str = "a") -> CheckResults:
    verdict = decide(policy, given(model=measured(values, each=2)), model=KEY)
    return CheckResults(
        model=CheckedSystem(source="npo"),
        original=None,
        verdict=verdict,
        policy=policy.model_dump(mode="json"),
        metrics={ES: metric_info(ES)},
        sets={"forget": CheckedSet(label="forget", examples=40, sha256=sha256)},
    )


RANDOM = np.random.default_rng(2).random(40) * 0.2
SHAPE = np.repeat(NOISE, 2)
POLICY = asked({"at_most": 0.9}, {"at_least": 0.001})


def test_sums_and_counts_by_cluster_are_those_of_the_models_own_values() -> None:
    first = checked(RANDOM, POLICY).verdict.requirements[0]
    assert first.sums == pytest.approx(RANDOM.reshape(20, 2).sum(axis=1)) and first.counts == (2,) * 20


def test_a_significant_worsening_fails_and_no_other_change_does() -> None:
    before = checked(RANDOM, POLICY)
    assert before.verdict.outcome == "pass"
    for shift, worse in ((0.2, {"r0"}), (-0.0005, {"r1"}), (0.0, set())):
        after = against_baseline(checked(RANDOM + shift * (1 + SHAPE), POLICY), before, name="old")
        assert {r.name for r in after.verdict.worse} == worse, shift
        assert after.verdict.outcome == ("fail" if worse else "pass") and after.baseline == "old"
        changes = [r.change.value.value for r in after.verdict.requirements if r.change]
        assert changes == pytest.approx([shift, -shift])
    assert CheckResults.parse(after.to_json(), where="it").to_json() == after.to_json()


def test_a_baseline_of_other_questions_or_requirements_is_refused() -> None:
    now = checked(RANDOM, POLICY)
    for other, said in (
        (checked(RANDOM, POLICY, sha256="b"), "other forget questions"),
        (checked(RANDOM[:20], POLICY), "clusters .* other questions"),
        (checked(RANDOM[:0], POLICY), r"has 0 clusters .* the same models \(--retrained\)"),
        (checked(RANDOM, asked({"at_most": 0.8})), "no requirement in common"),
    ):
        with pytest.raises(UserError, match=said):
            against_baseline(now, other, name="old")
    changed = replace_bound(now)
    partly = against_baseline(changed, now, name="old")
    assert [r.change is None for r in partly.verdict.requirements] == [True, False]


def replace_bound(results: CheckResults) -> CheckResults:
    """The check under a policy whose first bound is another one."""
    return checked(RANDOM, asked({"at_most": 0.85}, {"at_least": 0.001})).model_copy(update={"sets": results.sets})


def test_equal_values_of_a_metric_without_a_greatest_one_are_a_ratio_of_one() -> None:
    """A copy of the original: its perplexity is the original's on every question."""
    values = measured(np.linspace(1.5, 3.0, 20))
    evidence = Given({(role, "retain", "perplexity", ""): values for role in ("model", "original")})
    requirement = {"metric": "perplexity", "set": "retain", "relative_to": "original", "compare": "ratio"}
    found = one(evidence, **requirement, at_most=2.0)
    assert found.status == "met" and (found.value.value, found.value.low, found.value.high) == (1, 1, 1)
    assert one(evidence, **requirement, at_most=0.5).status == "violated"
    few = Measured(values.ids[:4], values.subjects[:4], values.values[:4])
    evidence = Given({(role, "retain", "perplexity", ""): few for role in ("model", "original")})
    assert one(evidence, **requirement, at_most=2.0).status == "undecided"


def test_the_cluster_that_decides_is_shown() -> None:
    """The one with the highest mean is met, another with fewer questions is not decided."""
    values = [0.2] * 10 + [0.21] * 10 + [0.1] * 3
    subjects = ["a"] * 10 + ["b"] * 10 + ["c"] * 3
    found = one(
        given(model=Measured([str(i) for i in range(23)], subjects, np.array(values) + np.tile([0, 0.01], 12)[:23])),
        over="worst_cluster",
        at_most=0.9,
    )
    assert (found.status, found.cluster) == ("undecided", "c") and "3 questions" in found.reason
