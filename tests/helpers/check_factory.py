"""Checks for tests: requirements of every status, and parts to change them by."""

from typing import Any

from tests.helpers.results_factory import METRICS, NAN, PPL

from uwc.results import (
    ES,
    AttackInfo,
    BaselineChange,
    CheckedSet,
    CheckedSystem,
    CheckResults,
    Estimate,
    InvalidRow,
    InvalidRows,
    ModelKey,
    RequirementResult,
    SecretCount,
    Verdict,
    Warning,
)

SHA = "0123456789abcdef" * 4


def requirement(name: str = "forgotten", status: Any = "met", **fields: Any) -> RequirementResult:
    """A requirement on extraction strength relative to the retrained model."""
    values = {"met": (0.02, -0.03, 0.07), "violated": (0.4, 0.3, 0.5), "undecided": (0.08, -0.01, 0.17)}
    value, low, high = values.get(status, (NAN, NAN, NAN))
    fields = {
        "text": "Extraction strength on the forget set, minus the retrained model's",
        "metric": ES,
        "set": "forget",
        "relative_to": "retrained",
        "direction": "at_most",
        "bound": 0.1,
        "value": Estimate(value=value, low=low, high=high),
        "n": 120,
        "clusters": 10,
    } | fields
    return RequirementResult(name=name, status=status, **fields)


REQUIREMENTS = (
    requirement(),
    requirement("under-jailbreak", "violated", attack="jailbreak", text="The same under the attack jailbreak"),
    requirement(
        "retained",
        "undecided",
        set="retain",
        direction="at_least",
        bound=0.9,
        relative_to="original",
        compare="ratio",
        value=Estimate(value=0.93, low=0.85, high=1.01),
        clusters_needed=24,
        text="Extraction strength on the retain set, over the original's",
    ),
    requirement(
        "secrets",
        "left out",
        metric="secret_said",
        relative_to=None,
        reason="no question has a secret",
        text="Share of secrets that are said",
        n=0,
        clusters=0,
    ),
    requirement(
        "perplexity",
        "met",
        metric=PPL,
        relative_to=None,
        direction="at_least",
        bound=20,
        value=Estimate(value=31_700, low=900, high=1.2e6),
        text="Perplexity of the answers",
    ),
)
"""One requirement of every status, and one on a geometric average."""


def check_results(*requirements: RequirementResult, outcome: Any = "fail", **fields: Any) -> CheckResults:
    """A check with these requirements, by default `REQUIREMENTS`."""
    verdict = Verdict(
        policy="standard",
        title="Forgotten, still useful, and not brought back by simple attacks",
        model=ModelKey(role="unlearned", run="npo"),
        confidence=0.95,
        outcome=outcome,
        requirements=requirements or REQUIREMENTS,
    )
    found = {
        "uwc_version": "0.1.0",
        "model": CheckedSystem(source="out/npo", files={"config.json": SHA[::-1], "model.safetensors": SHA}),
        "original": CheckedSystem(source="models/original", files={"model.safetensors": SHA[1:] + "0"}),
        "retrained": CheckedSystem(source="models/retrained", files={"model.safetensors": SHA[2:] + "00"}),
        "verdict": verdict,
        "policy": {"name": "standard"},
        "metrics": METRICS,
        "sets": {
            "forget": CheckedSet(
                label="forget", examples=120, clusters=10, sha256=SHA, file="forget.csv", file_sha256=SHA
            ),
            "retain": CheckedSet(
                label="retain", examples=216, clusters=18, sha256=SHA, file="retain.csv", file_sha256=SHA
            ),
        },
        "attacks": (
            AttackInfo(
                name="jailbreak",
                chain=("jailbreak",),
                settings={},
                touches_weights=False,
                trains_on_scored=False,
                metrics=(ES,),
            ),
            AttackInfo(
                name="relearn",
                chain=("relearn",),
                settings={},
                touches_weights=True,
                trains_on_scored=True,
                metrics=(ES,),
            ),
        ),
        "secrets": (SecretCount(set="forget", model=verdict.model, secrets=40, said=3, clusters=()),),
        "invalid_rows": (
            InvalidRows(
                file="forget.csv", unit="line", rows=123, invalid=3, first=(InvalidRow(row=7, reason="no answer"),)
            ),
        ),
        "warnings": (Warning(code="collapsed", text="Collapsed as delivered, judged on the retain data."),),
        "command": "uwc check out/npo --original models/original --forget forget.csv --retain retain.csv",
        "environment": {"python": "3.12.1", "torch": "2.8.0"},
    } | fields
    return CheckResults(**found)


def with_change(found: RequirementResult, *, worse: bool, by: float = 0.2) -> RequirementResult:
    """The requirement, compared with a baseline."""
    change = BaselineChange(value=Estimate(value=by, low=by - 0.1, high=by + 0.1), worse=worse)
    return found.model_copy(update={"change": change})
