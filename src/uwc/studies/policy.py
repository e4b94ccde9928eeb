"""Policies: the requirements that a checkpoint must meet, as YAML files, some of which are shipped."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union

from pydantic import Field, ValidationError, model_validator

from uwc.attacks.registry import PRECISIONS
from uwc.errors import ConfigError
from uwc.metrics.registry import metrics, set_metrics
from uwc.metrics.suites import set_label
from uwc.names import require_name
from uwc.registry import unknown_name
from uwc.results import FORGET
from uwc.studies.config_file import read_config
from uwc.studies.sections import ChainConfig, MetricName, Section, first_problem

Policies = Union[str, Path, Mapping[str, Any], "Policy"]
"""A policy: the name of a shipped one, a YAML file, or a mapping of the same keys."""


Precision = Literal[
    "int8", "int6", "int5", "int4", "int3", "int2", "nf4", "nf4_double", "llm_int8", "gptq_int4", "awq_int4"
]


class Requirement(Section):
    """A bound on one number of a checkpoint as delivered.

    The number is the mean of a metric over a set, or that of the worst cluster, without or under an attack, at the
    weights' own precision or quantized; or its difference from, or ratio to, the same number of another model.

    Attributes:
        name: its name in results; unique in the policy.
        metric: a metric of single examples.
        set: the scored set: forget, retain, or a further one.
        attack: an attack or a chain of attacks, as in a study; none by default.
        precision: the precision to which the weights are rounded before the attack: int8, int4, ... by the attack
            `quantization`; nf4, nf4_double (with double quantization) and llm_int8 as bitsandbytes loads models;
            gptq_int4 and awq_int4 by GPTQ and AWQ, calibrated on the attacker's retain questions.
        variants: of an attack with several variants the mean over variants, or the worst one for each question.
        over: the mean over all questions, or the cluster with the worst mean.
        relative_to: the model with which it is compared: the retrained model as it is, the retrained model under the
            same attack and precision (control), or the original as it is; none for a bound on the number itself.
        compare: the difference or the ratio; a metric with geometric averages is compared by its ratio.
        at_most, at_least: the bound; exactly one of them.
        optional: leave the requirement out where the check lacks what it needs (a retrained model, secrets, a set);
            otherwise it is undecided.
    """

    name: str
    metric: MetricName
    set: str = FORGET
    attack: ChainConfig | None = None
    precision: Precision | None = None
    variants: Literal["mean", "worst"] = "mean"
    over: Literal["mean", "worst_cluster"] = "mean"
    relative_to: Literal["retrained", "control", "original"] | None = None
    compare: Literal["difference", "ratio"] = "difference"
    at_most: float | None = None
    at_least: float | None = None
    optional: bool = False

    @property
    def direction(self) -> Literal["at_most", "at_least"]:
        """The side of the bound on which the number must be."""
        return "at_least" if self.at_most is None else "at_most"

    @property
    def bound(self) -> float:
        """The bound."""
        bound = self.at_least if self.at_most is None else self.at_most
        assert bound is not None
        return bound

    @property
    def chain(self) -> ChainConfig | None:
        """The attack to carry out, rounding of the weights included; None without any."""
        if self.precision is None:
            return self.attack
        if self.attack is None:
            return ChainConfig(chain=(self.precision,))
        return ChainConfig(
            chain=(self.precision, *self.attack.chain),
            name=f"{self.precision}+{self.attack.label}",
            settings=self.attack.settings,
        )

    @model_validator(mode="after")
    def _valid(self) -> "Requirement":
        require_name("requirement", self.name)
        where = f"requirement {self.name!r}"
        if self.metric in set_metrics.names():
            raise ConfigError(
                f"{where}: {self.metric!r} is one number for whole sets; take a metric of single examples"
            )
        if self.metric not in metrics.names():
            raise ConfigError(f"{where}: {unknown_name('metric of single examples', self.metric, metrics.names())}")
        if (self.at_most is None) == (self.at_least is None):
            raise ConfigError(f"{where}: give either at_most or at_least")
        if self.relative_to is None and self.compare == "ratio":
            raise ConfigError(f"{where}: compare: ratio needs relative_to: retrained, control or original")
        if self.relative_to == "control" and self.chain is None:
            raise ConfigError(
                f"{where}: the control is the retrained model under the same attack, and there is no attack; "
                "write relative_to: retrained"
            )
        low, high = metrics.get(self.metric).facts["range"]
        if self.relative_to is None and not low <= self.bound <= high:
            raise ConfigError(
                f"{where}: the bound {self.bound:g} is outside the range of {self.metric!r}, {low:g} to {high:g}; "
                "write one inside it"
            )
        geometric = metrics.get(self.metric).facts["average"] == "geometric"
        if geometric and self.relative_to is not None and self.compare == "difference":
            raise ConfigError(f"{where}: {self.metric!r} has geometric averages; write compare: ratio")
        if (geometric or self.compare == "ratio") and self.bound <= 0:
            raise ConfigError(
                f"{where}: the bound of a ratio or a geometric average is above 0, not {self.bound:g}; write a larger "
                "one"
            )
        if self.attack is None and self.variants == "worst":
            raise ConfigError(f"{where}: variants: worst needs an attack")
        steps = self.attack.steps if self.attack else ()
        rounding = [name for name, _ in steps if name in {attack for attack, _ in PRECISIONS.values()}]
        if self.precision is not None and rounding:
            raise ConfigError(f"{where}: precision and the attack {rounding[0]!r} are the same; give one of them")
        return self


class Policy(Section):
    """The requirements that a checkpoint must meet.

    Attributes:
        name: its name in results.
        title: one line on what it is for.
        confidence: of the simultaneous intervals of all requirements: the chance that any requirement is wrongly
            called met or violated is at most one minus this.
        requirements: the requirements.
    """

    name: str
    title: str = ""
    confidence: float = Field(0.95, ge=0.5, lt=1)
    requirements: tuple[Requirement, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _valid(self) -> "Policy":
        require_name("policy", self.name)
        names = [requirement.name for requirement in self.requirements]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"policy {self.name!r}: two requirements are called {name!r}; give each its own name")
        return self


def in_precisions(policy: Policy, precisions: Sequence[str]) -> Policy:
    """The policy with each requirement without attack and precision also in every given precision, under its name and
    that of the precision."""
    plain = [r for r in policy.requirements if r.precision is None and r.attack is None]
    added = [
        Requirement(**{**dict(r), "name": f"{r.name}-{precision}", "precision": precision})
        for r in plain
        for precision in precisions
    ]
    return Policy(**{**dict(policy), "requirements": (*policy.requirements, *added)})


def load_policy(source: Policies) -> Policy:
    """Read a policy.

    Args:
        source: the name of a shipped policy, a YAML file, or a mapping of the same keys.

    Raises:
        ConfigError: no such policy or file, a syntax error (with its line), an unknown key or name, or a requirement
            that makes no sense.
    """
    if isinstance(source, Policy):
        return source
    content, where = (source, "policy") if isinstance(source, Mapping) else read_config(str(source), "policy")
    try:
        return Policy(**content)
    except ValidationError as error:
        raise ConfigError(f"{where}: {first_problem(error, Policy)}") from None
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except TypeError as error:
        raise ConfigError(f"{where}: keys must be words ({error})") from None


IN_WORDS = {
    "extraction_strength": "Share of the answers to the {questions} that the model completes",
    "secret_said": "Share of the {questions} whose answer says a secret",
    "rouge_l": "Share of the words of the true answers to the {questions} that the model says in order",
    "exact_memorization": "Share of the tokens of the answers to the {questions} that the model predicts",
    "perplexity": "Perplexity of the answers to the {questions}",
    "probability": "Probability of the answers to the {questions}",
}
"""Metric -> its number in plain words."""


def in_words(r: Requirement) -> str:
    """A requirement as a sentence."""
    base, paraphrased, _ = r.set.partition("_paraphrased")
    questions = f"{'paraphrased ' if paraphrased else ''}{set_label(base)} questions"
    number = IN_WORDS.get(r.metric, f"{r.metric[0].upper()}{r.metric[1:].replace('_', ' ')} of the {{questions}}")
    text = number.format(questions=questions)
    if r.over == "worst_cluster":
        text += ", for each person or thing that they are about,"
    if r.attack is not None:
        text += f" under {'the worst variant of ' if r.variants == 'worst' else ''}{r.attack.label}"
    if r.precision:
        text += f" with weights rounded to {r.precision}"
    return f"{text} is {_bound_in_words(r)}"


def _bound_in_words(r: Requirement) -> str:
    side = r.direction.replace("_", " ")
    if r.relative_to is None:
        return f"{side} {r.bound:g}"
    whose = "the original's" if r.relative_to == "original" else "the retrained model's"
    if r.relative_to == "control":
        whose += " under the same attack" if r.attack else " with its weights rounded likewise"
    if r.compare == "ratio":
        return f"{side} {r.bound:g} times {whose}"
    if r.bound == 0:
        return f"{side} {whose}"
    above = r.bound > 0
    size = "at most" if above == (r.direction == "at_most") else "at least"
    return f"{size} {abs(r.bound):g} {'above' if above else 'below'} {whose}"
