"""Typed results: the only description of results.json, score.json, calibration.json and attack.json.

A number that does not exist (too few clusters for an interval, a metric that applies to no example) or that is not
finite is NaN in memory, and null in JSON.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import pairwise
from math import isfinite, isnan, log, nan
from pathlib import Path
from statistics import stdev
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, JsonValue, PrivateAttr, ValidationError, WithJsonSchema

from uwc import answers
from uwc.errors import UserError, printable, shortened
from uwc.io import not_a_file, require_writable, write_text
from uwc.paths import path_names, path_tag, renamed, renaming, texts_of
from uwc.strict import DECODER, what_is_wrong

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 3
"""Version of the schema of these files."""

SIGNIFICANT = 0.975
"""Confidence from which a difference between two models is significant: 5 %, two-sided."""

Number = Annotated[
    float,
    BeforeValidator(lambda value: float("nan") if value is None else value),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "null"}]}),
]
"""A number; NaN if missing, null in JSON."""

Role = Literal["original", "retrained", "unlearned", "calibrated"]
"""The role of a model in a study: the model before unlearning, one that was never trained on the forget set, an
unlearned model as delivered, or the calibrated mixture of an unlearned model with the original."""

Settings = dict[str, JsonValue]

CLUSTERS_NAMED = 3
"""The most clusters that a count of secrets names."""

FORGET = "forget"
"""The set that is to be forgotten."""
ES = "extraction_strength"
"""The default metric of the ranking."""
RETAIN, PERPLEXITY = "retain", "perplexity"

COLLAPSE_BOUND = 10.0
"""Times the original's retain perplexity above which a model collapsed."""
COLLAPSE_RETENTION = 0.5
"""Retention ratio as delivered below which a model collapsed."""
ENOUGH_MODELS = 10
"""Unlearned models from which a study has the robustness of metrics: correlations over fewer mean little."""
RETRAINED_KNOWS = "retrained_knows"
"""Code of the warning that the given retrained model knows the forget questions."""

MISSING = "—"
"""Stands in tables for a number that does not exist."""


class Part(BaseModel):
    """A part of a result: frozen; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    IDENTITY: ClassVar[tuple[str, ...]] = ()
    """The fields that identify a part among others of its kind; none if its position does."""


class Warning(Part):
    """A warning on the reliability of results."""

    code: str
    """The kind of warning; stable between versions."""
    text: str
    """The message."""


class ModelKey(Part):
    """The identity of a model in a study: its role and, for unlearned and calibrated models, the name of its run."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("role", "run")

    role: Role
    run: str = ""

    @property
    def label(self) -> str:
        """The model's name in tables and figures."""
        return {"unlearned": self.run, "calibrated": f"{self.run}, calibrated"}.get(self.role, self.role)


class Estimate(Part):
    """A number with its 95 % interval."""

    value: Number
    low: Number
    high: Number


class Aggregate(Part):
    """An average over examples, with its uncertainty."""

    mean: Number
    """The average of the scored examples: arithmetic or geometric, as the metric declares."""
    n: int
    """Number of scored examples."""
    not_scored: int = 0
    """Number of examples without a value."""
    clusters: int = 0
    """Number of clusters of the scored examples."""
    se: Number = float("nan")
    """Cluster-robust standard error."""
    low: Number = float("nan")
    """Lower end of the 95 % bootstrap interval."""
    high: Number = float("nan")
    """Upper end of the 95 % bootstrap interval."""


class SetScore(Aggregate):
    """A metric's average on a set of questions, or the value of a metric of whole sets."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("set", "metric")

    set: str
    """The set; for a metric of whole sets all that it reads, joined by ``+``."""
    metric: str


class Score(SetScore):
    """A score of a model, with the reasons of missing values."""

    why: dict[str, int] = {}
    """Reason -> number of examples without a value for it."""
    chance: float | None = None
    """The mean of a model that knows nothing: of the accuracy among m options 1 / m, averaged over the scored examples;
    null for other metrics."""


class Difference(Aggregate):
    """A paired difference of two models, or of one before and under attack: ``mean`` is the average difference, or the
    ratio of geometric averages."""

    kind: Literal["difference", "ratio"]
    """``second - first``, or ``second / first`` for a metric that is averaged geometrically."""
    p_value: Number
    """Two-sided p-value of no difference (ratio 1)."""

    @property
    def size(self) -> float:
        """How far it is from no difference: of 0, or of a ratio of 1."""
        return abs(self.mean - (self.kind == "ratio"))

    def excess(self, metric: "MetricInfo | None") -> Estimate:
        """The difference on the scale on which models and attacks are compared: positive if more is remembered, and of
        a ratio its logarithm; NaN if unknown."""
        ends = [_on_scale(number, self.kind) for number in (self.low, self.high)]
        if metric is not None and metric.higher_remembers is False:
            return Estimate(value=-_on_scale(self.mean, self.kind), low=-ends[1], high=-ends[0])
        return Estimate(value=_on_scale(self.mean, self.kind), low=ends[0], high=ends[1])


def _on_scale(number: float, kind: str) -> float:
    if kind == "difference":
        return number
    return log(number) if number > 0 else float("nan")


class ScoreDifference(Difference):
    """The difference of a model from the one that it is compared with, by a metric on a set."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("set", "metric")

    set: str
    metric: str


class Confusion(Part):
    """The verdicts of a judge against labels by people, as numbers of examples."""

    both_yes: int
    judge_yes: int
    """The judge says yes, and the label is no."""
    label_yes: int
    """The judge says no, and the label is yes."""
    both_no: int


class Agreed(Part):
    """The agreement of a judge with labels by people."""

    kappa: Estimate
    """Cohen's kappa, with a 95 % bootstrap interval over clusters."""
    share: Aggregate
    """The share of equal answers."""
    confusion: Confusion


class JudgeCheck(Agreed):
    """The agreement of a judge with a labelled file."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("metric",)

    metric: str
    """The metric whose values are the verdicts."""
    prompt_sha256: str = ""
    """Hash of the prompt that the verdicts were asked with; empty for a judge without one."""
    labels: str
    """The name of the file."""
    labels_sha256: str

    @property
    def words(self) -> str:
        """Kappa in words."""
        kappa = _interval(self.kappa.value, self.kappa.low, self.kappa.high)
        return f"kappa {kappa} with {self.share.n} labels of {self.labels}"


class JudgeInfo(Part):
    """A model that judged generated answers."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("judge",)

    judge: str
    """Its kind, as ``score.judges`` names it."""
    model: str
    """Its folder or hub name, or the name of a function."""
    sha256: str = ""
    """Hash over the hashes of its files, or over its revision on the hub; empty for a function."""
    clean: str = ""
    """The label of a classifier that means that a text is clean."""
    prompts: dict[str, str] = {}
    """Metric -> SHA-256 of the prompt that its verdicts are asked with."""
    checks: tuple[JudgeCheck, ...] = ()
    """Its agreement with labels by people, where that was measured."""


class ServedModel(Part):
    """A model whose greedy answers in its scores come from a server, which was compared with the checkpoint."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("model",)

    model: str
    """Its name in the study."""
    served: str
    """Its name at the server."""
    extra: Settings = {}
    """Further fields of each request."""
    equal: int
    """The number of compared questions whose answers are equal."""
    near_ties: int
    """The number of those whose answers differ from a token on that is nearly as likely as the checkpoint's."""
    largest_gap: Number | None = None
    """The most by which such a token is below the greatest logit, in nats."""
    margin: float
    """The most that is allowed."""

    @property
    def in_words(self) -> str:
        """One sentence."""
        count = self.equal + self.near_ties
        ties = f"{self.near_ties} from a near tie on (at most {self.largest_gap:.3g} nats)" if self.near_ties else ""
        return (
            f"{self.model}: greedy answers are those of a server ({self.served}); of {count} compared with the "
            f"checkpoint's {self.equal} are equal{f', and {ties} differ' if ties else ''}."
        )


class ClusterSecrets(Part):
    """The secrets of one cluster."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("cluster",)

    cluster: str
    secrets: int
    said: int


class SecretCount(Part):
    """The distinct secrets of a set of questions, and how many of them a model says in its answers to them."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("set", "model")

    set: str
    model: ModelKey
    secrets: int
    said: int
    clusters: tuple[ClusterSecrets, ...]
    """The clusters of which one is said, the one with the most first."""

    @property
    def words(self) -> str:
        """The count in words, ``3 of 299 secrets are said``, with the clusters that have the most."""
        first = [f"{c.cluster or 'no cluster'}: {c.said} of {c.secrets}" for c in self.clusters[:CLUSTERS_NAMED]]
        more = ["..."] if len(self.clusters) > CLUSTERS_NAMED else []
        by_cluster = f" ({'; '.join([*first, *more])})" if first else ""
        return f"{self.said} of {self.secrets} secrets are said{by_cluster}"


class LeakPoint(Part):
    """The leakage of k sampled answers: means over questions, with bootstrap intervals over clusters."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("k",)

    k: int
    leak: Estimate
    """leak@k: the probability that at least one of k samples leaks."""
    largest: Estimate
    """The expected largest score of k samples."""


class LeakCurve(Part):
    """The leakage of sampled answers to a set of questions by the number of tries."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("set", "model")

    set: str
    model: ModelKey
    metric: str
    """The metric of a single text by which a sample leaks."""
    at_least: float
    """Its least value in a sample that leaks."""
    temperature: float
    top_p: float
    samples: int
    """Number of samples of each question."""
    n: int
    """Number of questions with a value."""
    bound: Number
    """Upper bound of the mean probability that a sample leaks over these questions, at 95 % (Bonferroni)."""
    largest_bound: Number
    """Upper bound of the largest of these probabilities, at the same confidence."""
    points: tuple[LeakPoint, ...]

    @property
    def words(self) -> str:
        """The curve in words."""
        first, last = self.points[0], self.points[-1]
        return (
            f"a sampled answer leaks with probability {first.leak.value:.3g}, one of {last.k} with "
            f"{last.leak.value:.3g} ({self.metric} at least {self.at_least:g}; {self.samples} samples of each of "
            f"{self.n} questions); at 95% the first is at most {self.bound:.3g}, and for no question above "
            f"{self.largest_bound:.3g}"
        )


class RefusalError(Part):
    """How often a classifier of refusals is right, with 95 % intervals."""

    sensitivity: Estimate
    """Share of the refusals that it finds."""
    specificity: Estimate
    """Share of the answers that it does not take for refusals."""
    refusals: int
    """Number of labelled refusals."""
    answers: int
    """Number of labelled answers that are none."""
    source: str
    """The labelled texts."""


class ObserverPoint(Part):
    """How well an observer of n answers distinguishes a model from a retrained one, with 95 % intervals."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("n",)

    n: int
    """Number of observed answers, each about another cluster."""
    advantage: Estimate
    """``2 AUC - 1``: 0 for chance, 1 for an observer who is always right."""
    control: Estimate | None = None
    """That of two retrained models of different seeds; null without a second one."""
    excess: Estimate | None = None
    """The advantage minus that of the control; likewise."""


class ObserverAudit(Part):
    """How well an observer who sees only answers distinguishes a system from a retrained one."""

    against: str
    """The retrained model."""
    control: str = ""
    """A retrained model of another seed; empty without one."""
    questions: int
    """Number of questions, of each of which the observer's discriminator reads the answers of both."""
    clusters: int
    samples: int = 0
    """Number of sampled answers to each question; 0 for one greedy answer, or one given text."""
    temperature: float = 0.0
    """Of the sampling."""
    equal: float
    """Share of the answers that are equal to the retrained model's."""
    points: tuple[ObserverPoint, ...]

    @property
    def words(self) -> str:
        """What an observer of the most answers can do, in a sentence."""
        last = self.points[-1]
        found = last.advantage
        observer = f"An observer of {last.n} answer{'s' * (last.n > 1)}"
        advantage = f"an advantage of {_interval(found.value, found.low, found.high)}"
        if isnan(found.low):
            sentence = f"{observer} has {advantage} over the retrained model."
        elif found.low > 0:
            sentence = f"{observer} distinguishes the model from the retrained one, with {advantage}."
        else:
            sentence = f"{observer} does not significantly distinguish the model from the retrained one: {advantage}."
        if last.control is not None and last.excess is not None:
            sentence += (
                f" Of two retrained models it has {_shown(last.control)}; the model's is larger by "
                f"{_shown(last.excess)}."
            )
        return sentence


class AuditedQuestion(Part):
    """A question that was asked in an audit under a budget."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("id",)

    id: str
    random: bool
    """Whether it was drawn at random from those that were not asked before; else the optimistic model chose it."""
    score: Number
    """The metric by which an answer leaks."""
    leaks: bool
    refused: bool
    """Whether the answer is a refusal, and does not leak."""
    output: str
    """The answer."""


class LeakAudit(Part):
    """The leaks that were found with a budget of queries, and the share of leaks among all questions."""

    metric: str
    """The metric by which an answer leaks."""
    at_least: float
    """Its least value in an answer that leaks."""
    budget: int
    """The most queries."""
    questions: int
    """Number of questions that could be asked."""
    not_scored: int = 0
    """Number of questions that could not, as the metric has no value for any answer to them."""
    clusters: int
    random_share: float
    """Share of the queries whose question is drawn at random."""
    optimism: float
    """Standard deviations that are added to the log-odds of a leak."""
    batch: int
    """Questions that are asked before the model of leaks is fitted again."""
    random: int
    """Number of queries whose question was drawn at random."""
    found: int
    """Number of answers that leak."""
    refused: int
    """Number of refusals."""
    leaks: Estimate
    """Share of all questions that leak if no refusal hides a leak."""
    refusals: Estimate
    """Share of all questions that are refused, by the classifier."""
    with_refusals: Estimate
    """Share of all questions that leak if every refusal hides one. The upper end allows for refusals that the
    classifier does not find: it is raised by ``r (1 / s - 1)``, r the upper end of the share of refusals and s the
    lower end of the classifier's sensitivity."""
    in_random_order: Estimate
    """Number of leaks that as many queries in random order find on average: queries times `leaks`."""
    classifier: RefusalError
    asked: tuple[AuditedQuestion, ...]
    """The questions, in the order in which they were asked."""

    @property
    def words(self) -> str:
        """The leaks and the bounds, in sentences."""
        share, upper = self.leaks, self.with_refusals
        return (
            f"{self.found} of {len(self.asked)} answers leak, where random order finds "
            f"{_shown(self.in_random_order)} on average; {self.refused} are refusals. Of all {self.questions} "
            f"questions a share of {_shown(share)} leaks if no refusal hides a leak, and {_shown(upper)} if every one "
            f"does: between {number_text(share.low)} and {number_text(upper.high)}."
        )


class DepthProfile(Part):
    """By how much the original loses the answers of a set, in nats a token, with the states of another model at the
    output of one of its blocks; means over examples by block, the first block first."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("set", "model")

    set: str
    model: ModelKey
    span: str
    """The measured tokens: answer or secret."""
    threshold: Number
    """The least D1 of a block that holds knowledge of an example."""
    n: int
    """Number of measured examples."""
    without_layer: int
    """How many of them no block holds knowledge of, so that they have no unlearning depth score."""
    known: tuple[Number, ...]
    """D1, with the states of the retrained model; the same for every model."""
    changed: tuple[Number, ...]
    """D2, with the states of this model."""
    share: tuple[Number, ...]
    """The share of the examples of which a block holds knowledge."""


class SetInfo(Part):
    """A set of questions."""

    label: str
    """Its name in tables."""
    examples: int
    sha256: str = ""
    """Hash of the examples."""


class InvalidRow(Part):
    """A row of a question file that cannot be used."""

    row: int
    """Its number, in the file's unit."""
    reason: str


class InvalidRows(Part):
    """The invalid rows of a file or table, which were left out."""

    file: str
    unit: str
    """The unit of the row numbers: line, row or item."""
    rows: int
    """Number of all rows."""
    invalid: int
    first: tuple[InvalidRow, ...]
    """The first of them."""

    @property
    def too_many(self) -> bool:
        """Whether they are more than half of the rows, and cannot be left out."""
        return 2 * self.invalid > self.rows

    @property
    def warning(self) -> Warning:
        """The warning that they were left out."""
        lines = ", ".join(str(found.row) for found in self.first)
        more = ", ..." if self.invalid > len(self.first) else ""
        reason = f" (the first: {self.first[0].reason})" if self.first else ""
        text = (
            f"{self.file}: {self.invalid} of {self.rows} {self.unit}s are invalid and left out: {lines}{more}{reason}."
        )
        return Warning(code="invalid_rows", text=text)


class MetricInfo(Part):
    """The description of a metric."""

    label: str
    summary: str
    source: str
    higher_remembers: bool | None
    """Whether a high value means that answers are remembered; null if neither direction does."""
    range: tuple[Number, Number]
    """Least and greatest value; null if unbounded."""
    average: Literal["arithmetic", "geometric", "set"]
    """The average over examples; ``set`` for a metric of whole sets."""


class Probe(Part):
    """A probe of the search for alpha."""

    alpha: float
    retention: Number
    """Retention ratio, the least of all measures; an estimate if only a part of the examples was scored."""
    forget: Number = float("nan")
    """Forget score, if all forget questions were scored."""
    phase: Literal["end", "scan", "refine"]
    feasible: bool
    """Whether the retention ratio is at least tau."""
    scored: int
    """Number of examples on which that was decided."""
    of: int
    """Number of all examples."""


class Kept(Part):
    """The retention ratio of the calibrated mixture by one measure."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("measure",)

    measure: str
    original: Number
    """The original's value."""
    value: Number
    """The mixture's value."""
    ratio: Number
    """``value / original``, or its inverse if low is good."""
    n: int


class CurvePoint(Estimate):
    """The residual forget score at one tau, with an interval that includes the uncertainty of alpha."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("tau",)

    tau: float
    alpha: float


class PathPoint(Part):
    """A probed mixture of the frontier."""

    alpha: float
    retention: Number
    forget: Number


class Frontier(Part):
    """The frontier of retention and a set's score, from the original to the unlearned model."""

    curve: tuple[CurvePoint, ...]
    """The tau curve."""
    path: tuple[PathPoint, ...]
    area: Number
    """Mean of the residual forget score over tau from 0 to 1."""


class AtTau(Part):
    """The residual scores that models are ranked by, interpolated to exactly tau between two probed mixtures."""

    alpha: Estimate
    retention: Number
    """tau, or more if the unlearned model itself has more."""
    scores: dict[str, Estimate]
    """Set -> residual score; the intervals include the uncertainty of alpha."""


class Calibration(Part):
    """The largest mixture with the original that satisfies the retention constraint (arXiv:2406.09179)."""

    tau: float
    metric: str
    """The metric of the forget sets."""
    alpha: float
    """The calibrated mixture: the largest probed alpha whose retention ratio is at least tau, scored on all
    examples."""
    upper: float
    """The least infeasible mixture above alpha; 1 if there is none."""
    monotone: bool
    """Whether all mixtures probed below alpha are feasible too."""
    passes: float
    """Work of the search, in passes over all examples."""
    unchecked: tuple[float, ...]
    """Grid points above ``upper`` that were not probed."""
    kept: tuple[Kept, ...]
    delivered: Estimate | None = None
    """Retention ratio of the unlearned model as delivered, the least of all measures, paired with the original in the
    draws of its interval; null if it was not scored on all examples."""
    probes: tuple[Probe, ...]
    at_tau: AtTau | None
    """Null if only alpha was searched."""
    frontier: dict[str, Frontier]
    """Set -> its frontier; empty if only alpha was searched."""


class TrainingLog(Part):
    """The log of a training at some of its steps, one list a quantity."""

    step: tuple[int, ...]
    loss: tuple[Number, ...] = ()
    gradient_norm: tuple[Number, ...] = ()
    lr: tuple[Number, ...] = ()
    terms: dict[str, tuple[Number, ...]] = {}
    duals: dict[str, tuple[Number, ...]] = {}


class StopScores(Part):
    """The forget scores measured for early stopping."""

    step: tuple[int, ...]
    score: tuple[Number, ...]


class GradientEffects(Part):
    """Inner products of the objective's gradient with those of the two risks (arXiv:2502.19301)."""

    step: tuple[int, ...]
    risks: dict[str, dict[str, tuple[Number, ...]]]
    """Risk -> layer group -> values."""


class Collapse(Part):
    """Perplexity per answer token on the retain set, before and after training."""

    before: Number
    after: Number
    bound: float
    collapsed: bool


class TrainingRecord(Part):
    """The record of the training of one unlearned model."""

    steps: int
    log: TrainingLog
    scores: StopScores | None = None
    effects: GradientEffects | None = None
    stopped: int | None = None
    """The step after which early stopping ended it."""
    diverged: int | None = None
    """The step whose loss or gradient was not finite."""
    collapse: Collapse | None = None


class Trial(Part):
    """One trial of a search for hyper-parameters."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("number",)

    number: int
    values: dict[str, float | int | str | bool]
    """Key of the run -> the tried value."""
    early: Number | None = None
    """The residual forget score part of the way; null if it was not measured."""
    score: Number | None = None
    """The residual forget score after the training; null if the trial was pruned."""
    alpha: Number | None = None
    """The calibrated mixture."""
    diverged: int | None = None
    """The step whose loss or gradient was not finite."""


class Tuning(Part):
    """The search for the hyper-parameters of a run."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("run",)

    run: str
    """The run, or the group of runs, that has the best values."""
    metric: str
    higher_remembers: bool
    """Whether a low score is good."""
    subjects: int
    """Number of forget subjects that trials were scored on; none of them is reported on."""
    questions: int
    space: dict[str, str]
    """Key of the run -> the values to try, in words."""
    trials: tuple[Trial, ...]
    best: int
    """The number of the best trial."""
    importance: dict[str, float] = {}
    """Key of the run -> its share of what explains the best quarter of trials (PED-ANOVA, arXiv:2304.10255); empty for
    too few trials."""

    @property
    def finished(self) -> tuple[Trial, ...]:
        """The trials with a score."""
        return tuple(trial for trial in self.trials if trial.score is not None)

    @property
    def best_trial(self) -> Trial:
        """The best trial."""
        return next(trial for trial in self.trials if trial.number == self.best)

    @property
    def spread(self) -> float:
        """The standard deviation of the scores over finished trials; NaN for fewer than two."""
        scores = [trial.score for trial in self.finished if trial.score is not None]
        return stdev(scores) if len(scores) > 1 else nan


class ReferenceModel(Part):
    """The original or the retrained model."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("role",)

    role: Literal["original", "retrained"]
    scores: tuple[Score, ...]
    step: str
    """The step that scored it, see ``provenance``."""


class StepNames(Part):
    """The steps that produced a model's numbers, see ``provenance``."""

    model: str
    score: str
    calibrate: str | None = None


class UnlearnedModel(Part):
    """One unlearned model: as delivered, and calibrated."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("name",)

    name: str
    group: str
    """Runs that share it are one method with several seeds."""
    method: str
    checkpoint: str | None = None
    """Path of a given model; null for one that the study trained."""
    summary: str = ""
    formula: str = ""
    source: str = ""
    settings: Settings = {}
    rule: Settings = {}
    """The rule of its method (`name`) with its settings; empty without one."""
    tricks: dict[str, float] = {}
    status: Literal["ok", "diverged", "not_finite"]
    message: str = ""
    steps: StepNames
    training: TrainingRecord | None = None
    scores: tuple[Score, ...] = ()
    """Scores of the model as delivered."""
    calibration: Calibration | None = None
    calibrated_scores: tuple[Score, ...] = ()
    """Scores of the calibrated mixture."""

    def residual(self, name: str, metric: str) -> Score | None:
        """The score of the calibrated model: by the metric of the ranking at exactly tau, with an interval that
        includes the uncertainty of alpha; by any other metric that of the mixture."""
        score = find(self.calibrated_scores, name, metric)
        at_tau = self.calibration.at_tau if self.calibration else None
        if score is None or self.calibration is None or at_tau is None or self.calibration.metric != metric:
            return score
        found = at_tau.scores.get(name)
        if found is None:
            return score
        return score.model_copy(update={"mean": found.value, "low": found.low, "high": found.high, "se": float("nan")})


RequestKind = Literal["sequence", "scale"]
"""Requests in sequence, or forget sets that grow."""


class PartScore(Part):
    """The forget score of one part of the forget set after a request."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("part",)

    part: str
    forgotten: bool
    """Whether it was requested so far."""
    score: Aggregate
    """As delivered."""
    residual: Estimate | None = None
    """At equal retention; null if nothing was calibrated."""


class AfterRequest(Part):
    """A model after a request, as delivered and at equal retention."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("number",)

    number: int
    """Number of requests so far."""
    forgotten: tuple[str, ...]
    """The parts that were requested so far."""
    questions: int
    subjects: int
    """Numbers of forgotten questions and subjects."""
    status: Literal["ok", "diverged", "not_finite", "skipped"]
    """"skipped" if an earlier request diverged."""
    message: str = ""
    steps: StepNames
    parts: tuple[PartScore, ...] = ()
    """Every part, forgotten or not."""
    score: Aggregate | None = None
    """The forget score of all forgotten parts, as delivered."""
    residual: Estimate | None = None
    """The same at equal retention; the interval includes the uncertainty of alpha."""
    relapse: Difference | None = None
    """The score of the parts that were forgotten earlier, each against its own right after its request, paired by
    question; null for forget sets that grow, and for the first request."""
    retention: Estimate | None = None
    """The retention ratio as delivered."""
    alpha: Estimate | None = None
    """The mixture at equal retention."""
    scores: tuple[Score, ...] = ()
    """The scores on whole sets, as delivered."""


class Requests(Part):
    """A run after each of several requests."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("kind", "run")

    kind: RequestKind
    """"sequence": each model from the one before it and the part that is new; "scale": each from the original and all
    parts so far."""
    run: str
    metric: str
    """The metric of forget scores."""
    after: tuple[AfterRequest, ...]
    confidence: Number | None = None
    """The confidence that the last model of a sequence has a lower residual forget score than the run itself, which
    forgets all at once, from paired bootstrap draws; null if the sequence leaves out a part of the forget set, and for
    forget sets that grow."""

    @property
    def last(self) -> AfterRequest:
        """The model after the last request."""
        return self.after[-1]


class SeededScore(Part):
    """A residual forget score of one method with several seeds."""

    mean: Number
    sd_seeds: Number
    """Standard deviation between seeds."""
    se_examples: Number
    """Standard error over examples of the mean over seeds."""
    se: Number
    """Both sources together."""
    low: Number
    high: Number


class SeededPoint(SeededScore):
    """The same at one tau."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("tau",)

    tau: float


class MeanFrontier(Part):
    """The mean tau curve of a method's seeds."""

    curve: tuple[SeededPoint, ...]
    area: Number
    area_sd: Number


class Group(SeededScore):
    """A method with several seeds."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("name",)

    name: str
    runs: tuple[str, ...]
    next: Estimate | None
    """Difference from the next method in the ranking."""
    minus: dict[str, Estimate] = {}
    """Each other method -> the difference from it."""
    frontier: dict[str, MeanFrontier]


class Retention(Part):
    """The retention constraint of a study, and the metric of the ranking."""

    tau: float
    """The least retention ratio."""
    measures: tuple[str, ...]
    """Labels of the retention measures."""
    without_interval: tuple[str, ...] = ()
    """Measures without values by example, whose uncertainty is not in the intervals."""
    by_standard_error: tuple[str, ...] = ()
    """Measures without values by example that are drawn from normal distributions with their standard errors."""
    rank_by: str
    """The metric of the forget set that models are ranked by."""


class RankedModel(Part):
    """A model's rank with its numbers; computed from other parts, not written to a file."""

    rank: int
    name: str
    group: str
    forget: Estimate
    """Residual forget score at exactly tau, by which models are ranked."""
    alpha: Estimate
    """alpha at which the frontier reaches tau."""
    retention: Number
    """Retention ratio there."""
    mixture_alpha: Number
    """Alpha of the calibrated mixture."""
    mixture_forget: Number
    """Its forget score."""
    mixture_retention: Number
    """Its retention ratio, the least of all measures."""
    confidence: float | None
    """Confidence that its residual forget score is lower than the next model's; None for the last."""

    @property
    def significant(self) -> bool | None:
        """Whether its residual forget score is significantly lower than the next model's; None if unknown, as for the
        last."""
        return _significant(self.confidence)


def _significant(confidence: float | None) -> bool | None:
    return None if confidence is None or isnan(confidence) else confidence >= SIGNIFICANT


class ComparedModel(Part):
    """A model as delivered and at equal retention; computed from other parts, not written to a file."""

    model: ModelKey
    status: Literal["ok", "diverged", "not_finite"] = "ok"
    collapsed: str = ""
    """Why it counts as collapsed; empty if it does not."""
    rank: int | None = None
    """None for references and models without a rank."""
    forget: Estimate | None = None
    """Forget score as delivered."""
    retention: Estimate | None = None
    """Retention ratio as delivered, the least of all measures."""
    attack: str = ""
    """The worst attack: that with the largest recovery over the retrained model; without a retrained model under attack
    that with the highest score, among those that do not train on scored answers if there are others."""
    attacked: Role | None = None
    """The role in which it was attacked."""
    under_attack: Estimate | None = None
    """Score under that attack, with the interval of this attack alone."""
    over_retrained: Difference | None = None
    """Difference from the retrained model under the same attack."""
    residual: Estimate | None = None
    """Residual forget score at exactly tau, by which models are ranked."""
    alpha: Estimate | None = None
    """alpha at which the frontier reaches tau."""
    confidence: float | None = None
    """Confidence that the best model's residual forget score is lower; None for the best."""

    @property
    def significant(self) -> bool | None:
        """Whether the best model's residual forget score is significantly lower; None if unknown, as for the best."""
        return _significant(self.confidence)


class AttackInfo(Part):
    """The description of an attack or a chain of attacks."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("name",)

    name: str
    chain: tuple[str, ...]
    """The attacks, in order."""
    settings: dict[str, Settings]
    touches_weights: bool
    """Whether it may add knowledge."""
    trains_on_scored: bool
    """Whether it trains on the scored answers, so that only recovery beyond a control is a leak."""
    metrics: tuple[str, ...]
    """The metrics that are sensitive to it."""
    precision: str | None = None
    """The precision as deployed, such as ``nf4``, if it rounds the weights to one and does nothing else."""


class Variant(Part):
    """One variant of an attack: a template, a depth, a budget."""

    label: str
    effort: float | None
    note: str
    changed: float | None
    """Share of the blocks' weights that the attack changed; null for an attack that does not change weights."""
    mean: Number
    """The metric's average under it."""


class AttackOutcome(Part):
    """A metric on a set before and after an attack, on the same examples."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("attack", "set", "metric")

    attack: str
    set: str
    metric: str
    before: Aggregate
    after: Aggregate
    """The mean over variants; with budgets, at the largest."""
    recovery: Difference
    """After against before, paired."""
    over_control: Difference | None = None
    """The model under attack against the control under attack, paired."""
    worst_case: Aggregate | None = None
    """The worst case: the worst variant for each example, an upper bound; null if there is one variant."""
    worst_case_over_control: Difference | None = None
    variants: tuple[Variant, ...] = ()

    @property
    def finding(self) -> str:
        """The findings of the attack, such as a suffix, the attack that was chosen, or the prompt of each variant."""
        notes = {variant.label: variant.note for variant in self.variants if variant.note}
        same = len(set(notes.values())) == 1
        return next(iter(notes.values())) if same else "; ".join(f"{label}: {note}" for label, note in notes.items())


class AttackedModel(Part):
    """One model under every attack."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("model",)

    model: ModelKey
    outcomes: tuple[AttackOutcome, ...] = ()
    failed: dict[str, str] = {}
    """Attack -> why it has no outcome."""

    def outcome(self, attack: str, name: str, metric: str) -> AttackOutcome | None:
        """The outcome of an attack on a set by a metric; None if there is none."""
        asked = (attack, name, metric)
        return next((o for o in self.outcomes if (o.attack, o.set, o.metric) == asked), None)


class Attacks(Part):
    """Attacks on several models."""

    attacks: tuple[AttackInfo, ...]
    sets: dict[str, int]
    """Set -> scored examples."""
    attacker: dict[str, int]
    """Part of the attacker's data -> number of examples."""
    models: tuple[AttackedModel, ...]

    def metric(self, attack: AttackInfo | None = None) -> str:
        """The metric that tables show of an attack, or of all: extraction strength, or else the first that can see
        it."""
        names = dict.fromkeys(name for found in ((attack,) if attack else self.attacks) for name in found.metrics)
        return ES if ES in names else next(iter(names))

    def seen_by(self, metric: str) -> list[AttackInfo]:
        """The attacks of which tables show a metric."""
        return [attack for attack in self.attacks if self.metric(attack) == metric]

    @property
    def set(self) -> str:
        """The attacked set that tables show: forget, or else the first."""
        return FORGET if FORGET in self.sets else next(iter(self.sets))

    def under(self, key: ModelKey) -> AttackedModel | None:
        """A model under every attack; None if it was not attacked."""
        return next((model for model in self.models if model.model == key), None)

    def findings(self) -> list[str]:
        """The findings of attacks, by attack and model."""
        found = {(o.attack, m.model.label): o.finding for m in self.models for o in m.outcomes if o.finding}
        return [f"{attack} on {model}: {finding}" for (attack, model), finding in found.items()]


class HalfRecovery(Part):
    """The effort at which half of the recovery is reached: the metric is halfway from its value without the attack to
    the original's, on logarithms if it is averaged geometrically. Interpolated linearly between efforts, from 0."""

    effort: Number
    """Null if no effort reaches it."""
    low: Number
    """Lower end of the 95 % bootstrap interval over clusters of the scored questions; null if it is beyond the largest
    effort."""
    high: Number
    """Upper end; null if it is beyond the largest effort."""
    reached: Number
    """The share of bootstrap draws in which an effort reaches it."""
    clusters: int
    """Clusters of the scored questions; fewer than two have no interval."""
    fewer_than_random: Number = nan
    """The confidence that less effort is needed than with examples chosen at random, by the same draws; null without
    such a curve, and if neither reaches half in any draw. The chance in the choice of examples is not in it."""


class BudgetCurve(Part):
    """A metric over the attacker's effort."""

    model: ModelKey
    attack: str
    over: str
    """The setting that is varied."""
    select: str = ""
    """The rule by which the attacker's examples are chosen; empty if none was given."""
    metric: str
    before: Number
    """Without the attack."""
    efforts: tuple[float, ...]
    """Ascending."""
    scores: tuple[Number, ...]
    """At each effort; with several variants, of the worst case."""
    half_recovery: HalfRecovery | None
    """Null if the original's score is not known, or remembers no more than the model without the attack."""


class Spent(Part):
    """What a search for attacks cost."""

    runs: int
    """Attacks that were carried out."""
    steps: int
    """Optimizer steps."""
    tokens: int
    """Tokens that were trained on."""
    seconds: Number


class TriedAttack(Part):
    """A variant of an attack that was tried in a fold."""

    attack: str
    settings: dict[str, Settings] = {}
    """The settings in which it differs from the other attacks of its name."""
    variant: str = ""
    effort: float | None = None
    fold: int
    share: Number = float("nan")
    """The share of its steps and of the questions that were chosen on; below 1 in the rounds before the last."""
    on_choice: Number = float("nan")
    """The metric's average on these questions."""
    n: int = 0
    """Their number."""
    chosen: bool = False
    failed: str = ""
    """Why it has no score."""


class SurfacePoint(Part):
    """A point of a grid of attacks on all scored questions, whether it was chosen or not."""

    attack: str
    settings: dict[str, Settings]
    variant: str
    effort: float | None
    score: Aggregate
    recovery: Difference
    """Under the attack against before."""

    @property
    def name(self) -> str:
        """The attack with its settings, without its effort."""
        return ", ".join(filter(None, (self.attack, _settings_text(self.settings))))


class Strongest(Part):
    """The strongest attack: chosen on a part of the attacker's data, reported on questions that nobody chose on."""

    metric: str
    folds: int
    candidates: int
    """Attacks with their settings."""
    not_tried: int
    """Attacks that the budget did not reach, over all folds."""
    minutes: float | None
    """The budget in minutes of wall time; null for none."""
    runs: float | None
    """The budget in the effort of complete attacks; null for none."""
    spent: Spent
    """By the search; what was chosen is carried out once more on the scored questions and on the control."""
    on_choice: Number
    """The metric under the attacks that were chosen, on the questions that they were chosen on: biased upwards."""
    choice_before: Number = float("nan")
    """The metric on these questions without an attack; NaN in older files."""
    before: Aggregate
    after: Aggregate
    """Under the attack that was chosen in the question's fold."""
    recovery: Difference
    """After against before."""
    control_before: Aggregate | None
    control_after: Aggregate | None
    """The control under the same attacks; null without one."""
    over_control: Difference | None
    """After against the control under the same attacks."""
    original: Aggregate | None
    recovered_share: Aggregate | None
    """(after - before) / (original - before); null without the original, or for a geometric average."""
    tried: tuple[TriedAttack, ...]
    surface: tuple[SurfacePoint, ...]
    """The points of a grid; empty with a budget."""

    @property
    def chosen(self) -> tuple[TriedAttack, ...]:
        """The attack that was chosen in each fold."""
        return tuple(t for t in self.tried if t.chosen)

    def words(self) -> str:
        """How much the strongest attack recovers, in one sentence."""
        recovers = [] if self.over_control is None else [(self.over_control, "the retrained model")]
        recovers.append((self.recovery, "the score before it"))
        amounts = " and ".join(f"{_change(found)} {self.metric} over {base}" for found, base in recovers)
        within = "of the grid"
        if self.minutes is not None or self.runs is not None:
            within = (
                f"within the effort of {self.runs:g} runs"
                if self.minutes is None
                else f"within {self.minutes:g} minutes"
            )
        return (
            f"the strongest attack {within} ({self.candidates} candidates) recovers {amounts}; "
            f"n = {self.recovery.n} questions of {self.recovery.clusters} subjects, none of which it was chosen on"
        )


class Agreement(Part):
    """A metric before an attack against after it, over checkpoints."""

    n: int
    """Checkpoints with both values finite."""
    pcc: Estimate
    """Pearson's correlation."""
    spearman: Estimate
    slope: Estimate
    """Slope of the least-squares line of after on before; 1 if the attack changes nothing."""
    intercept: Estimate
    distance: Estimate
    """Mean distance from the line after = before, ``mean |after - before| / sqrt(2)``."""
    warnings: tuple[str, ...] = ()


class Point(Part):
    """One checkpoint under one attack by one metric on one set."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("checkpoint", "metric", "attack", "split")

    checkpoint: str
    metric: str
    attack: str
    split: str
    before: Number
    after: Number
    touches_weights: bool = False


class Cell(Part):
    """A metric's agreement under an attack on a set."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("metric", "attack", "split")

    metric: str
    attack: str
    split: str
    touches_weights: bool
    on_logarithms: bool
    """Whether logarithms were compared."""
    agreement: Agreement
    published: float | None = None
    """The published PCC; null if there is none."""


class Rank(Part):
    """A metric's place among the metrics by mean PCC."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("metric", "touches_weights")

    place: int
    metric: str
    touches_weights: bool
    """Whether over attacks that may add knowledge, or over the others."""
    pcc: Number
    worst: Number
    """The lowest PCC."""
    distance_from_one: Number
    """Mean ``|slope - 1|``."""
    cells: int
    missing: int
    """Number of attacks without a PCC, which counts as 0."""


class Order(Part):
    """Two metrics under one attack on one set whose order was published."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("attack", "split", "first", "second")

    attack: str
    split: str
    first: str
    """The metric with the higher published PCC."""
    second: str
    published: tuple[float, float]
    ours: tuple[float, float]
    same: bool
    """Whether our order is the published one."""


class Faithfulness(Part):
    """The separation by a metric of models, or subjects of a model, that know from those that do not."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("metric", "set")

    metric: str
    set: str
    knowing: int
    """Number of models or subjects that know."""
    ignorant: int
    """Number of those that do not."""
    auc: Number
    """0.5 is chance, 1 is always."""
    low: Number = float("nan")
    """Lower end of the 95 % interval over models; null for subjects."""
    high: Number = float("nan")
    """Its upper end."""
    over: Literal["models", "subjects"] = "subjects"
    """Whether over models of two pools, or over subjects of the original and the retrained model."""
    knowing_values: tuple[Number, ...] = ()
    """The metric of each model that knows."""
    ignorant_values: tuple[Number, ...] = ()


class MetricEvaluation(Part):
    """A metric's faithfulness and robustness on a set, in the field's units."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("metric", "set")

    metric: str
    set: str
    faithfulness: Estimate
    """AUC of models that know against models that do not, with its interval over models."""
    knowing: int
    """Number of models that know."""
    ignorant: int
    """Number of models that do not."""
    threshold: Number
    """The value that classifies most of these models correctly; null if there is none."""
    models: int
    """Number of unlearned models that pass both filters."""
    too_little_utility: int
    """Number of those with too little utility."""
    not_unlearned: int
    """Number of those with enough utility that are not unlearned by this metric, judged by the threshold."""
    relearning: Estimate
    """R: mean of ``min((r_before - r_after) / (m_before - m_after), 1)`` with r the retrained model's value."""
    quantization: Estimate
    """Q: mean of ``min(m_after / m_before, 1)``, low where the metric falls; null for a metric without a ratio."""
    quantization_recovery: Estimate = Estimate(value=float("nan"), low=float("nan"), high=float("nan"))
    """Q in its other published form: mean of ``min(m_before / m_after, 1)``, low where the metric rises."""
    robustness: Number
    """Harmonic mean of R and Q."""
    overall: Number
    """Harmonic mean of faithfulness and robustness."""
    recovery_overall: Number = float("nan")
    """The overall number with the other form of Q."""
    symmetric_relearning: Estimate
    """Mean of ``1 - |a - b| / (|a| + |b|)`` of the changes in the unlearned and in the retrained model."""
    symmetric_quantization: Estimate
    """The same of the metric before and after quantization."""
    symmetric_robustness: Number
    symmetric_overall: Number
    published: float | None = None
    """The published overall number with the symmetric formulas; null if there is none."""


class MetaEvaluation(Part):
    """The faithfulness and robustness of a study's metrics, in the field's units."""

    relearning: str
    """The attack of R."""
    quantization: str
    """The attack of Q."""
    utility: str
    """The metric of utility."""
    least_utility: float
    """The least share of the original's utility."""
    metrics: tuple[MetricEvaluation, ...]
    """By the overall number, highest first."""
    common: int
    """Number of metrics with a published number and one of ours, by the symmetric formulas."""
    spearman: Number
    """Spearman's correlation of the two over these metrics; null for fewer than three."""


class Robustness(Part):
    """Robustness of metrics under a study's attacks."""

    checkpoints: int
    points: tuple[Point, ...]
    cells: tuple[Cell, ...]
    ranking: tuple[Rank, ...]
    without_logarithms: tuple[Rank, ...]
    """The same for the metrics of ``log_metrics``, without logarithms."""
    log_metrics: tuple[str, ...]
    orders: tuple[Order, ...]
    faithfulness: tuple[Faithfulness, ...]
    meta_evaluation: MetaEvaluation | None = None
    """Null without pools of models."""


class StepOrigin(Part):
    """The provenance of a step's result."""

    kind: str
    key: str
    """Hash of everything that determines the result."""
    settings: str
    """SHA-256 of the settings."""
    data: Settings = {}
    """Fingerprints of the examples that it reads."""
    code: dict[str, str] = {}
    """Name -> digest of the code from outside the package that it uses."""
    inputs: dict[str, str] = {}
    """Role -> step."""
    path: str | None = None
    """Path of a given checkpoint."""
    mixture: str | None = None
    """SHA-256 of alpha and of both models' files, for a calibration."""
    files: dict[str, str] = {}
    """Files of its model -> SHA-256."""
    environment: int | None = None
    """Index in ``environments``."""


class BaselineChange(Part):
    """A requirement's number against that of an earlier check on the same questions."""

    value: Estimate
    """The paired change of the model's own number in the direction that is bad, positive if it got worse: a
    difference, or the logarithm of a ratio of geometric averages; with its simultaneous interval."""
    worse: bool
    """Whether it is significantly worse."""


class RequirementResult(Part):
    """A requirement of a policy, and whether a model as delivered meets it."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("name",)

    name: str
    text: str
    """The requirement in words."""
    metric: str
    set: str
    attack: str = ""
    """The attack with the rounding of weights, if any; "" without."""
    over: Literal["mean", "worst_cluster"] = "mean"
    relative_to: Literal["retrained", "control", "original"] | None = None
    compare: Literal["difference", "ratio"] = "difference"
    direction: Literal["at_most", "at_least"]
    bound: float
    status: Literal["met", "violated", "undecided", "left out"]
    reason: str = ""
    """Why it is undecided or left out, or violated without a number."""
    value: Estimate
    """The number that is compared with the bound, with its simultaneous interval."""
    score: Number = float("nan")
    """The model's own average."""
    reference: Number = float("nan")
    """The average of the model that it is compared with."""
    cluster: str = ""
    """The cluster whose number is shown, for ``over: worst_cluster``: of those that decide the status the one whose
    interval reaches furthest."""
    n: int = 0
    """Number of questions with a value."""
    not_scored: int = 0
    clusters: int = 0
    clusters_needed: int | None = None
    """The number of clusters that would probably (with a chance of 80 %) decide an undecided requirement; null if none
    would."""
    sums: tuple[Number, ...] = ()
    """By cluster, in the order of the questions, the sum of the model's own values (of their logarithms, for a
    geometric average), for a later check with this as its baseline; empty in results.json."""
    counts: tuple[int, ...] = ()
    """By cluster the number of these values."""
    change: BaselineChange | None = None


Outcome = Literal["pass", "fail", "undecided"]


class Verdict(Part):
    """A model as delivered under one policy: fail if any requirement is violated, or significantly worse than the
    baseline; undecided if any is undecided; else pass."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("policy", "model")

    policy: str
    title: str = ""
    model: ModelKey
    confidence: float
    """Of the simultaneous intervals."""
    outcome: Outcome
    requirements: tuple[RequirementResult, ...]

    def of_status(self, *statuses: str) -> list[RequirementResult]:
        """The requirements with one of the statuses."""
        return [r for r in self.requirements if r.status in statuses]

    @property
    def worse(self) -> list[RequirementResult]:
        """The requirements whose number is significantly worse than in the baseline."""
        return [r for r in self.requirements if r.change is not None and r.change.worse]

    @property
    def counted(self) -> str:
        """The outcome and the numbers of requirements by status: ``fail: 3 met, 2 violated, 1 undecided``."""
        counts = {s: len(self.of_status(s)) for s in ("met", "violated", "undecided", "left out")}
        said = [f"{count} {status}" for status, count in counts.items() if count]
        said += [f"{len(self.worse)} worse than the baseline"] if self.worse else []
        return f"{self.outcome}: {', '.join(said)}"


class CheckedSystem(Part):
    """A model, file or server of a check."""

    source: str
    """Its path, hub name or address."""
    files: dict[str, str] = {}
    """Name -> SHA-256 of its files; empty for a server."""
    kind: Literal["checkpoint", "texts", "endpoint"] = "checkpoint"


class CheckedSet(SetInfo):
    """A set of questions of a check."""

    clusters: int = 0
    """Number of clusters: people or things that the questions are about; 0 if the questions name none."""
    file: str = ""
    file_sha256: str = ""


class Provenance(Part):
    """The provenance of all numbers of a study."""

    store_version: int
    """Version of the steps' computations."""
    data_files: dict[str, str]
    """Path, as given -> SHA-256."""
    environments: tuple[dict[str, str], ...]
    """The distinct environments: libraries, machine, device and threads."""
    steps: dict[str, StepOrigin]


class StudyInfo(Part):
    """The study."""

    name: str
    title: str
    kind: Literal["study", "comparison"]
    uwc_version: str
    config: Settings
    """The complete configuration."""


class SplitInfo(Part):
    """A split of a benchmark."""

    examples: int
    subjects: int


class BenchmarkInfo(Part):
    """The benchmark."""

    name: str
    fingerprint: str
    splits: dict[str, SplitInfo]


class ModelInfo(Part):
    """The original model."""

    source: str
    dtype: str
    parameters: int | None = None
    vocabulary: int | None = None


class ConditionScore(SetScore):
    """A score of one model of a calibration."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("condition", "set", "metric")

    condition: Literal["original", "as delivered", "calibrated", "at tau"]
    """The original; the unlearned model as delivered; the calibrated mixture; interpolated to exactly tau."""


class StepTime(Part):
    """The outcome and time of one step."""

    name: str
    key: str
    seconds: Number
    """Its time when it was computed."""
    peak_bytes: int | None = None
    """The most memory in use at once when it was computed: of the process with all it holds, or of the CUDA device."""
    reused: bool
    """Whether it was taken from the cache."""
    outcome: str


class RunRecord(Part):
    """The record of a run of a study: the content of run.json."""

    environment: dict[str, str] = {}
    steps: tuple[StepTime, ...] = ()
    started: str = ""
    """When it started: ISO 8601, in UTC."""
    ended: str = ""


_ELSEWHERE = "give another folder, or replace it with --overwrite (in Python overwrite=True)"


class Result(Part, ABC):
    """A result with its own file."""

    FILE: ClassVar[str]

    schema_version: Literal[3] = 3
    uwc_version: str = ""
    paths: dict[str, str] = {}
    """Name of a file or folder, where an absolute path was given -> a tag that tells it from others of that name."""

    def without_paths(self, folder: str | Path | None, *, keep: bool = False) -> Self:
        """The same with names for absolute paths: relative to the current folder or to `folder`, else their last part.

        Args:
            folder: the folder of the result, if it is written.
            keep: return the result as it is.
        """
        if keep:
            return self
        names = path_names(texts_of(self), folder)
        result: Self = renamed(self, renaming(names))
        return result.model_copy(update={"paths": {name: path_tag(path) for path, name in names.items()}})

    def names_path(self, name: str, path: str) -> bool:
        """Whether a name in the result is that of a path, by its tag where the path was left out."""
        return name == path or self.paths.get(name, path_tag(name)) == path_tag(path)

    def to_dict(self) -> dict[str, Any]:
        """Plain data as in JSON, with None for NaN."""
        plain: dict[str, Any] = json.loads(self.model_dump_json())
        return plain

    def to_json(self) -> str:
        """The file's content."""
        return self.model_dump_json(indent=1) + "\n"

    def to_frame(self) -> "pd.DataFrame":
        """The main table as a data frame, one row a number."""
        import pandas as pd

        return pd.DataFrame(list(self.rows()))

    @abstractmethod
    def rows(self) -> Iterable[Mapping[str, Any]]:
        """The rows of `to_frame`."""

    @property
    @abstractmethod
    def headline(self) -> str:
        """The result in one sentence."""

    @abstractmethod
    def table(self) -> list[dict[str, str]]:
        """The rows of the one table that a notebook shows, with cells as text."""

    def __repr__(self) -> str:
        return printable(f"{self.headline}\n{text_table(self.table())}")

    def __str__(self) -> str:
        return repr(self)

    def _repr_html_(self) -> str:
        return printable(f"<p>{escape(self.headline)}</p>\n{html_table(self.table())}")

    @classmethod
    def prepare(cls, folder: str | Path | None, *, overwrite: bool = False, **of: str) -> None:
        """Make the folder of a result, and check before any work that its file can be written there.

        Args:
            folder: the folder; None for no file.
            overwrite: replace the result of something else.
            of: the fields of the result that say of what it is; a file with the same is replaced.

        Raises:
            UserError: nothing can be written there, or the file is the result of something else.
        """
        if folder is None:
            return
        path = Path(folder) / cls.FILE
        require_writable(path.parent, cls.FILE)
        if overwrite or not path.exists():
            return
        try:
            found = cls.load(path)
        except UserError:
            raise UserError(f"{path} was not written by this version; {_ELSEWHERE}") from None
        for name, value in of.items():
            if not found.names_path((other := getattr(found, name)), value):
                raise UserError(f"{path} is the result of another {name}, {other!r}; {_ELSEWHERE}")

    def save(self, folder: str | Path) -> Path:
        """Write the file into a folder, which is created if missing; returns its path."""
        path = Path(folder) / self.FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, self.to_json())
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read the file. Raises UserError, naming the file, if it is of another kind or version."""
        path = Path(path)
        if reason := not_a_file(path):
            raise UserError(f"{shortened(str(path), 200)}: {reason}; give a {cls.FILE}")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not text"
            raise UserError(f"{path}: cannot be read ({reason}); give a {cls.FILE}") from None
        return cls.parse(text, where=str(path))

    @classmethod
    def parse(cls, text: str, *, where: str) -> Self:
        """Parse the content of the file. Raises UserError, naming `where`."""
        try:
            content = DECODER.decode(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: not a {cls.FILE}: {what_is_wrong(error)}; give one that uwc wrote") from None
        version = content.get("schema_version") if isinstance(content, dict) else None
        if version != SCHEMA_VERSION:
            given = shortened(repr(version), 60)
            found = "there is no schema_version" if version is None else f"schema_version is {given}"
            raise UserError(
                f"{where}: {found}, and this version of uwc reads {SCHEMA_VERSION}; "
                f"give a {cls.FILE} that it wrote, or run the command again"
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            problem = error.errors()[0]
            at, message = shortened(".".join(map(str, problem["loc"])), 100), shortened(problem["msg"], 200)
            raise UserError(
                f"{where}: not a {cls.FILE} of this version ({at}: {message}); give one that it wrote"
            ) from None


class _Beside:
    """The table of answers of a result, or the folder that has it; results are equal whatever they are."""

    def __init__(self, *, table: "pd.DataFrame | None" = None, folder: Path | None = None) -> None:
        self.table, self.folder = table, folder

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Beside)

    __hash__ = object.__hash__


class Answered(Result):
    """A result with a table of answers, which is written beside its file."""

    _beside: "_Beside" = PrivateAttr(default_factory=lambda: _Beside())

    def with_answers(self, table: "pd.DataFrame") -> Self:
        """The same result, with its table of answers."""
        self._beside = _Beside(table=table)
        return self

    @property
    def answers(self) -> "pd.DataFrame":
        """One row for each set, question, model and condition: texts, and the values of metrics by example.

        The columns are `uwc.answers.COLUMNS` and the metrics. Of a result from a file it is read from
        ``answers.parquet`` beside it.

        Raises:
            UserError: there is no such file, or it belongs to another result.
        """
        beside = self._beside
        if beside.table is None:
            if beside.folder is None:
                raise UserError("this result has no table of answers; load it from its file, or compute it again")
            beside.table = answers.read(beside.folder, of=self.FILE)
        return beside.table

    def save(self, folder: str | Path) -> Path:
        """Write the file, and ``answers.parquet`` beside it, into a folder, which is created if missing; returns its
        path."""
        path = super().save(folder)
        beside = self._beside
        if beside.table is not None or (beside.folder is not None and (beside.folder / answers.FILE).exists()):
            answers.write(self.answers, path.parent, of=self.FILE)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read the file. Raises UserError, naming the file, if it is of another kind or version."""
        found = super().load(path)
        found._beside = _Beside(folder=Path(path).parent)
        return found

    @classmethod
    def prepare(cls, folder: str | Path | None, *, overwrite: bool = False, **of: str) -> None:
        """As of `Result`; also refuses a folder with the table of answers of a result of another kind."""
        super().prepare(folder, overwrite=overwrite, **of)
        if folder is not None and not overwrite:
            cls.require_own_answers(Path(folder))

    @classmethod
    def require_own_answers(cls, folder: Path, *, damaged: bool = False) -> None:
        """Raise UserError if a folder has the table of answers of a result of another kind, or another file of that
        name; with `damaged`, a file that is no such table may be replaced."""
        owner = answers.written_of(folder)
        if owner not in (None, cls.FILE) and not (damaged and not owner):
            raise UserError(f"{folder / answers.FILE} belongs to {owner or 'no result of uwc'}; {_ELSEWHERE}")


class Scores(Answered):
    """The scores of one model: the content of score.json."""

    FILE: ClassVar[str] = "score.json"

    model: str
    kind: Literal["checkpoint", "texts", "endpoint"] = "checkpoint"
    """Whether the model was scored, or texts that were generated elsewhere, or by a server."""
    sets: dict[str, SetInfo]
    metrics: dict[str, MetricInfo]
    scores: tuple[Score, ...]
    compared_with: str = ""
    differences: tuple[ScoreDifference, ...] = ()
    """Paired differences of the model from ``compared_with``."""
    secrets: tuple[SecretCount, ...] = ()
    """The secrets that are said, by set; empty if the questions have none, or no answer was generated."""
    judges: tuple[JudgeInfo, ...] = ()
    """The models that judged generated answers."""
    leaks: tuple[LeakCurve, ...] = ()
    """The leakage of sampled answers, by set; empty if no metric reads any."""
    depth: tuple[DepthProfile, ...] = ()
    """The profile of the unlearning depth score over the blocks, by set; empty if it was not computed."""
    attacks: Attacks | None = None
    """The texts under attacks, of a system that is not a checkpoint; null without any."""
    files: dict[str, str] = {}
    """Name -> SHA-256 of the files of texts; empty for a model."""
    left_out: dict[str, str] = {}
    """Metric of the suite -> its missing need."""
    invalid_rows: tuple[InvalidRows, ...] = ()
    """The rows that were left out, by file."""
    warnings: tuple[Warning, ...] = ()

    @property
    def headline(self) -> str:
        """The first score."""
        if not self.scores:
            return f"{self.model}: no score"
        first = self.scores[0]
        label = self.metrics[first.metric].label if first.metric in self.metrics else first.metric
        said = f"; {self.secrets[0].words} on {self.secrets[0].set}" if self.secrets else ""
        score = _interval(first.mean, first.low, first.high)
        return f"{self.model}: {label} {score} on {first.set} (n = {first.n}){said}"

    def table(self) -> list[dict[str, str]]:
        """One row for each set and metric."""
        return [{"set": s.set, "metric": s.metric, **_cells(s)} for s in self.scores]

    def rows(self) -> Iterable[Mapping[str, Any]]:
        """One row for each set and metric."""
        return map(_score_row, self.scores)

    def secret_rows(self) -> Iterable[Mapping[str, Any]]:
        """One row for each set and cluster of which a secret is said, and one for each whole set."""
        return secret_rows(self.secrets)

    def leak_rows(self) -> Iterable[Mapping[str, Any]]:
        """One row for each set and number of sampled answers."""
        return leak_rows(self.leaks)

    def depth_rows(self) -> Iterable[Mapping[str, Any]]:
        """One row for each set and block of the unlearning depth score's profile."""
        return depth_rows(self.depth)

    def difference_rows(self) -> Iterable[Mapping[str, Any]]:
        """One row for each set and metric of the differences."""
        return map(_score_row, self.differences)

    def attack_rows(self) -> Iterable[Mapping[str, Any]]:
        """One row for each attack, set and metric of the texts under attacks."""
        return attack_rows(self.attacks) if self.attacks is not None else ()


class StudyResults(Answered):
    """A whole study or comparison: the content of results.json."""

    FILE: ClassVar[str] = "results.json"

    study: StudyInfo
    benchmark: BenchmarkInfo
    model: ModelInfo
    metrics: dict[str, MetricInfo]
    sets: dict[str, SetInfo]
    retention: Retention | None
    """Null if nothing is calibrated."""
    references: tuple[ReferenceModel, ...]
    unlearned: tuple[UnlearnedModel, ...]
    ranking: tuple[str, ...]
    """The names of the ranked models, best first."""
    pairs: dict[str, dict[str, Number]]
    """First -> second -> confidence that the first has the lower residual forget score, from paired bootstrap draws."""
    groups: tuple[Group, ...]
    tuning: tuple[Tuning, ...] = ()
    """The searches for hyper-parameters."""
    requests: tuple[Requests, ...] = ()
    """The unlearned models after requests in sequence, and of forget sets that grow."""
    secrets: tuple[SecretCount, ...] = ()
    """The secrets that each model says, by set; empty if the questions have none, or no answer was generated."""
    judges: tuple[JudgeInfo, ...] = ()
    """The models that judged generated answers."""
    served: tuple[ServedModel, ...] = ()
    """The models whose greedy answers come from servers."""
    leaks: tuple[LeakCurve, ...] = ()
    """The leakage of sampled answers of each model, by set; empty if no metric reads any."""
    depth: tuple[DepthProfile, ...] = ()
    """The profile of the unlearning depth score over the blocks of each unlearned and calibrated model, by set; empty
    if it was not computed."""
    attacks: Attacks | None = None
    robustness: Robustness | None = None
    verdicts: tuple[Verdict, ...] = ()
    """Every unlearned model as delivered under every policy of the study, without sums by cluster."""
    left_out: dict[str, str] = {}
    """Metric of the suite -> its missing need."""
    invalid_rows: tuple[InvalidRows, ...] = ()
    """The rows that were left out, by file."""
    warnings: tuple[Warning, ...]
    provenance: Provenance

    def reference(self, role: Role) -> ReferenceModel | None:
        """The original or the retrained model; None if the study has none."""
        return next((model for model in self.references if model.role == role), None)

    def run(self, name: str) -> UnlearnedModel:
        """The unlearned model of that name."""
        return next(model for model in self.unlearned if model.name == name)

    def scored(self) -> Iterable[tuple[ModelKey, tuple[Score, ...]]]:
        """Every scored model with its scores: the references, then each run as delivered and calibrated, by rank."""
        for model in self.references:
            yield ModelKey(role=model.role), model.scores
        for run in self.by_rank():
            for role, scores in (("unlearned", run.scores), ("calibrated", run.calibrated_scores)):
                if scores:
                    yield ModelKey(role=role, run=run.name), scores

    def by_rank(self) -> list[UnlearnedModel]:
        """The unlearned models: ranked ones in order, then those without a rank, then failed ones."""
        rank = {name: place for place, name in enumerate(self.ranking)}
        return sorted(self.unlearned, key=lambda m: (m.status != "ok", rank.get(m.name, len(rank))))

    @property
    def rank_by(self) -> str:
        """The metric of the ranking; if nothing is calibrated extraction strength or, if not scored, the first
        metric."""
        if self.retention is not None:
            return self.retention.rank_by
        return next(iter(self.metrics)) if self.metrics and ES not in self.metrics else ES

    def metric_label(self, metric: str) -> str:
        """A metric's name in tables."""
        return self.metrics[metric].label if metric in self.metrics else metric

    def set_label(self, name: str) -> str:
        """The name in tables of a set, or of several joined by ``+``."""
        return " + ".join(self.sets[part].label if part in self.sets else part for part in name.split("+"))

    def ranked(self) -> list[RankedModel]:
        """The ranked models, best first."""
        following = dict(pairwise(self.ranking))
        return [
            _ranked(self.run(name), rank, self.rank_by, self.pairs.get(name, {}).get(following.get(name, "")))
            for rank, name in enumerate(self.ranking, start=1)
        ]

    @property
    def retrained_knows(self) -> bool:
        """Whether the given retrained model knows the forget questions, so that no difference from it means
        anything."""
        return any(warning.code == RETRAINED_KNOWS for warning in self.warnings)

    def collapsed(self, name: str) -> str:
        """Why an unlearned model counts as collapsed, see `collapse`; empty if it does not."""
        original = self.reference("original")
        return collapse(self.run(name), original.scores if original else ())

    def compared(self) -> list[ComparedModel]:
        """The references, then the unlearned models by rank, as delivered and at equal retention."""
        best = self.pairs.get(self.ranking[0], {}) if self.ranking else {}
        ranked = {model.name: model for model in self.ranked()}
        found = [
            ComparedModel(
                model=(key := ModelKey(role=reference.role)),
                forget=self._forget(reference.scores),
                retention=_exactly(1.0) if reference.role == "original" and self.retention else None,
                **self._worst(key, key),
            )
            for reference in self.references
        ]
        for run in self.by_rank():
            keys = [ModelKey(role=role, run=run.name) for role in ("unlearned", "calibrated")]
            place = ranked.get(run.name)
            found.append(
                ComparedModel(
                    model=keys[0],
                    status=run.status,
                    collapsed=self.collapsed(run.name),
                    rank=place.rank if place else None,
                    forget=self._forget(run.scores),
                    retention=run.calibration.delivered if run.calibration else None,
                    residual=place.forget if place else None,
                    alpha=place.alpha if place else None,
                    confidence=best.get(run.name),
                    **self._worst(*keys),
                )
            )
        return found

    def delivered_scores(self, model: ComparedModel) -> tuple[Score, ...]:
        """The scores of a model as delivered."""
        if model.model.run:
            return self.run(model.model.run).scores
        reference = self.reference(model.model.role)
        return reference.scores if reference else ()

    def _forget(self, scores: Iterable[Score]) -> Estimate | None:
        found = find(scores, FORGET, self.rank_by)
        return None if found is None else _estimate(found)

    def _worst(self, *keys: ModelKey) -> dict[str, Any]:
        """The worst attack on the first of the models that was attacked: the fields of `ComparedModel`."""
        attacks = self.attacks
        model = next(filter(None, (attacks.under(key) for key in keys)), None) if attacks else None
        if attacks is None or model is None:
            return {}
        metric = attacks.metric()
        info = self.metrics.get(metric)
        taught = {attack.name for attack in attacks.attacks if attack.trains_on_scored}
        seen = {attack.name for attack in attacks.seen_by(metric)}
        found = [o for o in model.outcomes if (o.set, o.metric) == (attacks.set, metric) and o.attack in seen]
        if self.retrained_knows or model.model.role == "retrained":
            found = [outcome.model_copy(update={"over_control": None}) for outcome in found]
        found = [o for o in found if o.over_control] or [o for o in found if o.attack not in taught] or found
        sign = -1 if info and info.higher_remembers is False else 1
        sizes = [o.over_control.excess(info).value if o.over_control else sign * o.after.mean for o in found]
        known = [(size, outcome) for size, outcome in zip(sizes, found, strict=True) if not isnan(size)]
        if not known:
            return {}
        _, worst = max(known, key=lambda pair: pair[0])
        return {
            "attack": worst.attack,
            "attacked": model.model.role,
            "under_attack": _estimate(worst.after),
            "over_retrained": worst.over_control,
        }

    @property
    def headline(self) -> str:
        """The comparison, and the model with the lowest residual forget score; of one model its score."""
        title = self.study.title or self.study.name
        if not self.ranking or self.retention is None:
            return f"{title}, not ranked"
        best = self.ranked()[0]
        name = f"{best.name} (collapsed as delivered)" if self.collapsed(best.name) else best.name
        verdicts = {True: "significantly lower than the next", False: "not significantly lower than the next", None: ""}
        residual = _interval(best.forget.value, best.forget.low, best.forget.high)
        verdict = verdicts[best.significant]
        a = "the lowest" if len(self.ranking) > 1 else "a"
        return (
            f"{title}; at {self.retention.tau:g} of the original's retention {name} has {a} residual forget "
            f"{self.metric_label(self.rank_by)}{':' if len(self.ranking) > 1 else ' of'} {residual}"
            + (f", {verdict}" if verdict else "")
        )

    def table(self) -> list[dict[str, str]]:
        """The models as delivered and at equal retention, by rank; the rows of `compared`."""
        label = self.metric_label(self.rank_by)
        return [
            {
                "name": m.model.label,
                "status": m.status.replace("_", " ") if m.status != "ok" else "collapsed" if m.collapsed else "",
                f"forget {label}": _shown(m.forget),
                "retention": _shown(m.retention),
                "worst attack": m.attack,
                "under it": _shown(m.under_attack),
                "over retrained": _change(m.over_retrained) if m.over_retrained else MISSING,
                f"residual {label}": _shown(m.residual),
                "alpha": _shown(m.alpha),
                "differs from the best": {True: "yes", False: "no", None: MISSING}[m.significant],
            }
            for m in self.compared()
        ]

    def rows(self) -> Iterable[Mapping[str, Any]]:
        """One row for each model, as delivered and calibrated, set and metric."""
        for key, scores in self.scored():
            for score in scores:
                yield {"model": key.run or key.role, "role": key.role, **_score_row(score)}

    def secret_rows(self) -> Iterable[Mapping[str, Any]]:
        """One row for each model, set and cluster of which a secret is said, and one for each whole set."""
        return secret_rows(self.secrets)

    def leak_rows(self) -> Iterable[Mapping[str, Any]]:
        """One row for each model, set and number of sampled answers."""
        return leak_rows(self.leaks)

    def depth_rows(self) -> Iterable[Mapping[str, Any]]:
        """One row for each model, set and block of the unlearning depth score's profile."""
        return depth_rows(self.depth)

    def request_rows(self) -> Iterable[Mapping[str, Any]]:
        """One row for each run of a sequence or scale, request and part of the forget set."""
        for requests in self.requests:
            for after in requests.after:
                for part in after.parts:
                    yield {
                        "kind": requests.kind,
                        "run": requests.run,
                        "request": after.number,
                        "part": part.part,
                        "forgotten": part.forgotten,
                        "metric": requests.metric,
                        **part.score.model_dump(),
                        "residual": None if part.residual is None else part.residual.value,
                    }

    def ranking_rows(self) -> Iterable[Mapping[str, Any]]:
        """One row for each ranked model, best first: the fields of `RankedModel`, each interval in two."""
        for model in self.ranked():
            row = model.model_dump(exclude={"forget", "alpha"})
            confidence = row.pop("confidence")
            intervals = {
                f"{name}{end}": value
                for name, found in (("forget", model.forget), ("alpha", model.alpha))
                for end, value in (("", found.value), ("_low", found.low), ("_high", found.high))
            }
            yield {
                **{name: row.pop(name) for name in ("rank", "name", "group")},
                **intervals,
                **row,
                "confidence": confidence,
                "significant": model.significant,
            }

    def curve_rows(self) -> Iterable[Mapping[str, Any]]:
        """One row for each calibrated model, set and tau: alpha, the residual score, its interval, the curve's area."""
        for model in self.by_rank():
            for name, frontier in model.calibration.frontier.items() if model.calibration else ():
                for point in frontier.curve:
                    yield {"model": model.name, "set": name, **point.model_dump(), "area": frontier.area}

    def mean_curve_rows(self) -> Iterable[Mapping[str, Any]]:
        """One row for each method with several seeds, set and tau: mean over seeds, spread, the curve's area."""
        for group in self.groups:
            for name, frontier in group.frontier.items():
                for point in frontier.curve:
                    yield {
                        "method": group.name,
                        "seeds": len(group.runs),
                        "set": name,
                        **point.model_dump(),
                        "area": frontier.area,
                        "area_sd": frontier.area_sd,
                    }


class CheckResults(Answered):
    """The check of one model as delivered against a policy: the content of check.json."""

    FILE: ClassVar[str] = "check.json"

    model: CheckedSystem
    original: CheckedSystem | None
    retrained: CheckedSystem | None = None
    verdict: Verdict
    policy: Settings
    """The complete policy."""
    metrics: dict[str, MetricInfo]
    sets: dict[str, CheckedSet]
    baseline: str = ""
    """The check that it was compared with; "" without one."""
    attacks: tuple[AttackInfo, ...] = ()
    secrets: tuple[SecretCount, ...] = ()
    """The secrets that the checked model says, by set."""
    judges: tuple[JudgeInfo, ...] = ()
    """The models that judged generated answers."""
    left_out: dict[str, str] = {}
    """Metric -> why it was not measured."""
    invalid_rows: tuple[InvalidRows, ...] = ()
    """The rows that were left out, by file."""
    warnings: tuple[Warning, ...] = ()
    command: str = ""
    """The command that reproduces it."""
    environment: dict[str, str] = {}

    @property
    def answers(self) -> "pd.DataFrame":
        """The table of answers, as of `Answered`; of a file's result also that of the result beside it, of which the
        check was made."""
        beside = self._beside
        if beside.table is None and beside.folder is not None:
            beside.table = answers.read(beside.folder)
        return super().answers

    @property
    def headline(self) -> str:
        """The model and its outcome."""
        return f"{self.model.source}: {self.verdict.counted} (policy {self.verdict.policy})"

    def table(self) -> list[dict[str, str]]:
        """One row for each requirement."""
        return [
            {
                "requirement": r.text,
                "status": r.status,
                "number": _shown(r.value),
                "bound": f"{'≤' if r.direction == 'at_most' else '≥'} {number_text(r.bound)}",
                "clusters": str(r.clusters),
                "why": r.reason,
            }
            for r in self.verdict.requirements
        ]

    def rows(self) -> Iterable[Mapping[str, Any]]:
        """One row for each requirement."""
        for r in self.verdict.requirements:
            row = r.model_dump(exclude={"value", "sums", "counts", "change"})
            yield {**row, **r.value.model_dump()}


class CalibrationResults(Answered):
    """The calibration of one unlearned model: the content of calibration.json."""

    FILE: ClassVar[str] = "calibration.json"

    original: str
    unlearned: str
    sets: dict[str, SetInfo]
    calibration: Calibration
    scores: tuple[ConditionScore, ...]
    invalid_rows: tuple[InvalidRows, ...] = ()
    """The rows that were left out, by file."""
    warnings: tuple[Warning, ...] = ()

    @property
    def headline(self) -> str:
        """Alpha, and the residual forget score."""
        found = self.calibration
        text = f"alpha = {found.alpha:.4f} with retention of at least {found.tau:g} of {self.original}"
        at_tau = found.at_tau.scores.get(FORGET) if found.at_tau else None
        if at_tau is None:
            return text
        return f"{text}; residual forget {found.metric} {_interval(at_tau.value, at_tau.low, at_tau.high)} at tau"

    def table(self) -> list[dict[str, str]]:
        """One row for each set and condition."""
        return [{"set": s.set, "metric": s.metric, "model": s.condition, **_cells(s)} for s in self.scores]

    def rows(self) -> Iterable[Mapping[str, Any]]:
        """One row for each set and condition."""
        return ({"condition": score.condition, **_score_row(score)} for score in self.scores)


class AttackResults(Answered):
    """Attacks on one model and its control: the content of attack.json."""

    FILE: ClassVar[str] = "attack.json"

    model: str
    control: str = ""
    attacks: Attacks
    curves: tuple[BudgetCurve, ...] = ()
    invalid_rows: tuple[InvalidRows, ...] = ()
    """The rows that were left out, by file."""
    warnings: tuple[Warning, ...] = ()

    @property
    def headline(self) -> str:
        """The largest recovery of the first metric, or what the curve reaches."""
        found = [o for m in self.attacks.models if m.model.role != "retrained" for o in m.outcomes]
        if not found:
            curves = [f"{c.attack} over {c.over}: {c.metric} {number_text(c.before)} before" for c in self.curves]
            return f"{self.model}: {curves[0] if curves else 'no attack was carried out'}"
        first = [o for o in found if (o.metric, o.set) == (found[0].metric, found[0].set)]
        most = max(first, key=lambda o: o.recovery.size)
        return (
            f"{self.model}: {most.metric} on {most.set} {number_text(most.before.mean)} before, "
            f"{number_text(most.after.mean)} under {most.attack}, which changes it most"
        )

    def table(self) -> list[dict[str, str]]:
        """One row for each model, attack, set and metric; of a curve one for each effort."""
        return attack_table(self.attacks) or [
            {
                "model": c.model.label,
                "attack": c.attack,
                "select": c.select,
                c.over: f"{effort:g}",
                c.metric: number_text(score),
            }
            for c in self.curves
            for effort, score in zip(c.efforts, c.scores, strict=True)
        ]

    def half_table(self) -> list[dict[str, str]]:
        """One row for each curve: the effort for half of the recovery, with its interval."""
        return [
            {
                "model": c.model.label,
                "select": c.select,
                c.over: _effort(c, half.effort),
                "95 % interval": f"[{_effort(c, half.low)}, {_effort(c, half.high)}]" if half.clusters > 1 else "",
                "clusters": str(half.clusters),
                "fewer than random": "" if isnan(half.fewer_than_random) else f"{half.fewer_than_random:.2f}",
            }
            for c in self.curves
            if (half := c.half_recovery) is not None
        ]

    def rows(self) -> Iterable[Mapping[str, Any]]:
        """One row for each model, attack, set and metric."""
        return attack_rows(self.attacks)

    def to_frame(self) -> "pd.DataFrame":
        """One row for each model, attack, set and metric; of curves one for each model and effort."""
        import pandas as pd

        return pd.DataFrame(list(self.curve_rows() if self.curves else self.rows()))

    def curve_rows(self) -> Iterable[Mapping[str, Any]]:
        """One row for each model and effort of the curves."""
        return (
            {
                "model": c.model.label,
                "attack": c.attack,
                "over": c.over,
                "select": c.select,
                "metric": c.metric,
                "effort": e,
                "score": s,
            }
            for c in self.curves
            for e, s in zip(c.efforts, c.scores, strict=True)
        )


class StrongestResults(Result):
    """The strongest attack on one model within a budget or a grid: the content of strongest.json."""

    FILE: ClassVar[str] = "strongest.json"

    model: str
    control: str = ""
    original: str = ""
    set: str = "forget"
    attacker: dict[str, int] = {}
    """Part of the attacker's further data -> number of questions."""
    strongest: Strongest
    invalid_rows: tuple[InvalidRows, ...] = ()
    """The rows that were left out, by file."""
    warnings: tuple[Warning, ...] = ()

    @property
    def headline(self) -> str:
        """How much the strongest attack recovers."""
        return f"{self.model}: {self.strongest.words()}"

    def table(self) -> list[dict[str, str]]:
        """The score before and under the attacks that were chosen, of the model, the control and the original."""
        found = self.strongest
        rows = [{"model": self.model, "before": _cell(found.before), "under the strongest attack": _cell(found.after)}]
        if found.control_before is not None and found.control_after is not None:
            under = {"before": _cell(found.control_before), "under the strongest attack": _cell(found.control_after)}
            rows.append({"model": f"{self.control} (control)", **under})
        if found.original is not None:
            reference = {"model": f"{self.original} (original)", "before": _cell(found.original)}
            rows.append({**dict.fromkeys(rows[0], ""), **reference})
        return rows

    def rows(self) -> Iterable[Mapping[str, Any]]:
        """One row for each attack that was tried in a fold."""
        return (
            {
                "attack": t.attack,
                **{f"{of}.{key}": value for of, given in t.settings.items() for key, value in given.items()},
                "variant": t.variant,
                "fold": t.fold,
                "share": t.share,
                "on_choice": t.on_choice,
                "n": t.n,
                "chosen": t.chosen,
                "failed": t.failed,
            }
            for t in self.strongest.tried
        )

    def share_text(self) -> str | None:
        """The recovered share in words; None where it is not known."""
        found = self.strongest.recovered_share
        if found is None:
            return None
        share = "undefined, as the original has the score before the attack" if isnan(found.mean) else _cell(found)
        return f"recovered share of what unlearning took: {share}"

    def choice_text(self) -> str:
        """The score on the questions of the choice with and without the attacks that were chosen, in words."""
        under, without = (number_text(n) for n in (self.strongest.on_choice, self.strongest.choice_before))
        return f"on the questions of the choice: {under} under these attacks, {without} without an attack"

    def chosen_table(self) -> list[dict[str, str]]:
        """The attack that was chosen in each fold."""
        return [
            {
                "fold": str(t.fold),
                "attack": t.attack,
                "settings": _settings_text(t.settings),
                "variant": t.variant,
                "on the choice": number_text(t.on_choice),
            }
            for t in self.strongest.chosen
        ]

    def surface_table(self) -> list[dict[str, str]]:
        """The points of the grid, the greatest recovery first."""
        return [
            {
                "attack": p.attack,
                "settings": _settings_text(p.settings),
                "variant": p.variant,
                "score": _cell(p.score),
                "recovery": _change(p.recovery),
            }
            for p in sorted(self.strongest.surface, key=lambda p: -p.recovery.size)
        ]


def _effort(curve: BudgetCurve, effort: float) -> str:
    return f"> {curve.efforts[-1]:g}" if isnan(effort) else f"{effort:.3g}"


class RobustnessResults(Result):
    """The robustness of metrics over checkpoints: the content of robustness.json."""

    FILE: ClassVar[str] = "robustness.json"

    robustness: Robustness
    warnings: tuple[Warning, ...] = ()

    @property
    def headline(self) -> str:
        """The metric with the highest mean PCC under attacks that leave the weights."""
        ranking = sorted(self.robustness.ranking, key=lambda rank: (rank.touches_weights, rank.place))
        first = f"; {ranking[0].metric} comes first with a mean PCC of {number_text(ranking[0].pcc)}" if ranking else ""
        return f"{self.robustness.checkpoints} checkpoints{first}"

    def table(self) -> list[dict[str, str]]:
        """One row for each metric, attack and set."""
        return [
            {
                "metric": c.metric,
                "attack": c.attack,
                "split": c.split,
                "n": str(c.agreement.n),
                **{
                    name: _interval(found.value, found.low, found.high)
                    for name in ("pcc", "spearman", "slope", "intercept", "distance")
                    for found in [getattr(c.agreement, name)]
                },
                "published": MISSING if c.published is None else number_text(c.published),
            }
            for c in self.robustness.cells
        ]

    def rows(self) -> Iterable[Mapping[str, Any]]:
        """One row for each metric, attack, set and statistic."""
        return (
            {
                "metric": c.metric,
                "attack": c.attack,
                "set": c.split,
                "statistic": name,
                "n": c.agreement.n,
                **getattr(c.agreement, name).model_dump(),
            }
            for c in self.robustness.cells
            for name in ("pcc", "spearman", "slope", "intercept", "distance")
        )


class JudgeResults(Result):
    """The agreement of a judge with labels by people: the content of judge.json."""

    FILE: ClassVar[str] = "judge.json"

    judges: tuple[JudgeInfo, ...]
    """The models that the verdicts come from, with their checks; empty for a metric without a judge."""
    check: JudgeCheck
    prompt: str = ""
    """The prompt that the verdicts were asked with; empty for a judge without one."""
    warnings: tuple[Warning, ...] = ()

    @property
    def headline(self) -> str:
        """Kappa in words."""
        return f"{self.check.metric}: {self.check.words}"

    def table(self) -> list[dict[str, str]]:
        """One row with the agreement and the numbers of answers."""
        found, counts = self.check, self.check.confusion
        return [
            {
                "metric": found.metric,
                "kappa": _interval(found.kappa.value, found.kappa.low, found.kappa.high),
                "equal": _interval(found.share.mean, found.share.low, found.share.high),
                "n": str(found.share.n),
                "not judged": str(found.share.not_scored),
                "clusters": str(found.share.clusters),
                "both yes": str(counts.both_yes),
                "judge yes, label no": str(counts.judge_yes),
                "judge no, label yes": str(counts.label_yes),
                "both no": str(counts.both_no),
            }
        ]

    def rows(self) -> Iterable[Mapping[str, Any]]:
        """One row for kappa, and one for the share of equal answers."""
        found = self.check
        yield {"metric": found.metric, "statistic": "kappa", "n": found.share.n, **found.kappa.model_dump()}
        share = {"value": found.share.mean, "low": found.share.low, "high": found.share.high}
        yield {"metric": found.metric, "statistic": "equal", "n": found.share.n, **share}


class AuditResults(Result):
    """An audit of a system by its answers: the content of audit.json."""

    FILE: ClassVar[str] = "audit.json"

    model: str
    kind: Literal["checkpoint", "texts", "endpoint"] = "checkpoint"
    """Whether a model answered, or texts that were generated elsewhere, or a server."""
    observer: ObserverAudit | None = None
    """The audit against a retrained model; null for another one."""
    leaks: LeakAudit | None = None
    """The audit under a budget of queries; likewise."""
    invalid_rows: tuple[InvalidRows, ...] = ()
    """The rows that were left out, by file."""
    warnings: tuple[Warning, ...] = ()

    @property
    def headline(self) -> str:
        """The result in words."""
        return f"{self.model}: {' '.join(self.sentences)}"

    @property
    def audit(self) -> str:
        """Which audit it is, by its option."""
        return "--against" if self.leaks is None else "--budget"

    @property
    def sentences(self) -> list[str]:
        """The result of the audit in words."""
        return [part.words for part in (self.observer, self.leaks) if part is not None]

    def table(self) -> list[dict[str, str]]:
        """One row for each number of observed answers; of an audit under a budget one for each share."""
        if self.observer is not None:
            return [
                {
                    "answers": str(point.n),
                    "advantage": _shown(point.advantage),
                    "two retrained": _shown(point.control),
                    "excess": _shown(point.excess),
                }
                for point in self.observer.points
            ]
        found = self.leaks
        if found is None:
            return []
        queries = str(len(found.asked))
        return [
            {"share of questions": name, "estimate": _shown(share), "among the queries": counted, "queries": queries}
            for name, share, counted in (
                ("leaks, refusals safe", found.leaks, str(found.found)),
                ("refusals", found.refusals, str(found.refused)),
                ("leaks, refusals leak", found.with_refusals, str(found.found + found.refused)),
            )
        ]

    def rows(self) -> Iterable[Mapping[str, Any]]:
        """One row for each number of observed answers and statistic; of an audit under a budget one for each query."""
        for point in self.observer.points if self.observer is not None else ():
            for name in ("advantage", "control", "excess"):
                if (estimate := getattr(point, name)) is not None:
                    yield {"answers": point.n, "statistic": name, **estimate.model_dump()}
        total = 0
        for number, query in enumerate(self.leaks.asked if self.leaks is not None else (), start=1):
            total += query.leaks
            yield {"queries": number, "found": total, **query.model_dump()}


class UnlearnResult(Result, TrainingRecord):
    """An unlearned model and what its training did: the content of training_log.json beside the weights."""

    FILE: ClassVar[str] = "training_log.json"

    model: str
    """The model before."""
    path: str
    """The folder of the unlearned model."""
    method: str
    formula: str
    rule: Settings = {}
    """The rule of its method (`name`) with its settings; empty without one."""
    tricks: dict[str, float]
    settings: Settings
    """All training settings."""
    status: Literal["ok", "diverged"]
    """``diverged``: a loss or gradient was not finite, and the weights are those of the last finite step."""
    message: str = ""
    term: str = ""
    """The term, or ``gradient``, that was not finite."""
    invalid_rows: tuple[InvalidRows, ...] = ()
    """The rows that were left out, by file."""

    @property
    def headline(self) -> str:
        """The end of the run."""
        ended = f"{self.steps} steps" if self.stopped is None else f"stopped after step {self.stopped}"
        collapsed = ", and the model collapsed" if self.collapse is not None and self.collapse.collapsed else ""
        text = f"{self.method}: {ended}{collapsed}; the model is in {self.path}"
        return text if self.status == "ok" else f"{self.method} diverged at step {self.diverged}: {self.message}"

    def table(self) -> list[dict[str, str]]:
        """The first and the last logged steps."""
        rows = [
            {name: str(value) if name == "step" else number_text(value) for name, value in row.items()}
            for row in self.rows()
        ]
        return rows if len(rows) <= 2 * ENDS else [*rows[:ENDS], dict.fromkeys(rows[0], "..."), *rows[-ENDS:]]

    def rows(self) -> Iterable[Mapping[str, Any]]:
        """One row for each logged step: loss, gradient norm, learning rate, each term's share and dual variable."""
        columns: dict[str, Sequence[float]] = {
            "step": self.log.step,
            "loss": self.log.loss,
            "gradient_norm": self.log.gradient_norm,
            "lr": self.log.lr,
            **self.log.terms,
            **{f"dual {name}": values for name, values in self.log.duals.items()},
        }
        filled = {name: values for name, values in columns.items() if len(values)}
        return (dict(zip(filled, row, strict=True)) for row in zip(*filled.values(), strict=True))


class Distribution(Part):
    """The distribution of lengths or sizes."""

    min: int
    median: float
    max: int


class TokenSummary(Part):
    """Lengths in tokens of a model."""

    prompt: Distribution | None
    """The prompt: the question in its template, with earlier turns."""
    answer: Distribution | None
    all: Distribution | None
    """Prompt, answer and end."""
    context: int
    """The model's context."""
    over: int
    """Number of examples that are longer than the context."""


class SetSummary(Part):
    """The description of a set of questions."""

    valid: int
    """Number of examples, which are the valid rows."""
    invalid_rows: InvalidRows
    repeated_questions: int
    """Number of examples with the question of an earlier one, ignoring case, white space and compatibility forms."""
    repeated_pairs: int
    """Number of examples with the question and the answer of an earlier one."""
    clusters: int
    cluster_sizes: Distribution | None
    question_characters: Distribution | None
    answer_characters: Distribution | None
    tokens: TokenSummary | None = None
    scripts: dict[str, float]
    """Script -> its share of the letters of questions and answers."""
    fields: dict[str, int]
    """Field -> number of examples that have it."""


class DataSummary(Result):
    """The description of sets of questions: the content of data.json."""

    FILE: ClassVar[str] = "data.json"

    model: str = ""
    """The model whose tokens were counted."""
    sets: dict[str, SetSummary]
    warnings: tuple[Warning, ...] = ()

    @property
    def headline(self) -> str:
        """The number of examples and of invalid rows."""
        valid = sum(found.valid for found in self.sets.values())
        invalid = sum(found.invalid_rows.invalid for found in self.sets.values())
        return f"{', '.join(self.sets)}: {valid} examples, {invalid} invalid rows"

    def table(self) -> list[dict[str, str]]:
        """One column for each set."""
        described = {name: _described(found) for name, found in self.sets.items()}
        labels = dict.fromkeys(label for found in described.values() for label in found)
        return [{"": label, **{name: found.get(label, "") for name, found in described.items()}} for label in labels]

    def rows(self) -> Iterable[Mapping[str, Any]]:
        """One row for each invalid row that is listed."""
        return (
            {"set": name, "file": found.invalid_rows.file, "row": row.row, "reason": row.reason}
            for name, found in self.sets.items()
            for row in found.invalid_rows.first
        )


def _described(found: SetSummary) -> dict[str, str]:
    def of(lengths: Distribution | None) -> str:
        return "" if lengths is None else f"{lengths.min} to {lengths.max}, median {lengths.median:g}"

    tokens = found.tokens
    counted = (
        {}
        if tokens is None
        else {
            "prompt, tokens": of(tokens.prompt),
            "answer, tokens": of(tokens.answer),
            f"longer than {tokens.context} tokens": str(tokens.over),
        }
    )
    return {
        "rows": str(found.invalid_rows.rows),
        "invalid": str(found.invalid_rows.invalid),
        "repeated questions": str(found.repeated_questions),
        "repeated with the answer": str(found.repeated_pairs),
        "clusters": str(found.clusters),
        "cluster sizes": of(found.cluster_sizes),
        "question, characters": of(found.question_characters),
        "answer, characters": of(found.answer_characters),
        **counted,
        "scripts": ", ".join(f"{script} {share:.1%}" for script, share in found.scripts.items()),
        "fields": ", ".join(f"{field} {count}" for field, count in found.fields.items()),
    }


class NumberDiff(Part):
    """A number of two results of one study."""

    path: str
    """Its path in results.json, with list items by their identity."""
    group: str
    """The group of numbers that it belongs to."""
    first: float | None
    """Null if the first has no number."""
    second: float | None
    verdict: Literal["equal", "within", "different"]
    """Equal to the bit, within the tolerance, or different."""

    @property
    def difference(self) -> float:
        """``|a - b| / max(|a|, |b|)``; infinite if one of the two is missing."""
        a, b = self.first, self.second
        if a is None or b is None:
            return float("inf")
        return 0.0 if a == b else abs(a - b) / max(abs(a), abs(b))


class TextDiff(Part):
    """A text that differs."""

    path: str
    first: str
    second: str


class GroupDiff(Part):
    """The counts of a group's numbers by verdict."""

    group: str
    equal: int
    within: int
    different: int
    largest: float | None
    """Largest relative difference; null if a number is missing."""


class Diff(Result):
    """Two results of one study, number by number."""

    FILE: ClassVar[str] = "diff.json"

    first: str
    second: str
    rtol: float
    """The tolerance: the largest relative difference of numbers that count as within it."""
    numbers: tuple[NumberDiff, ...]
    texts: tuple[TextDiff, ...]
    """Words and hashes that differ, if the same code made both."""
    models: tuple[str, ...]
    """Steps whose weights differ."""
    environment: tuple[TextDiff, ...]
    """Libraries, machine, device and threads that differ."""
    warnings: tuple[Warning, ...] = ()
    """Why the numbers may differ."""

    def count(self, verdict: str) -> int:
        """The number of numbers with a verdict."""
        return sum(number.verdict == verdict for number in self.numbers)

    @property
    def different(self) -> list[NumberDiff]:
        """The numbers that are neither equal nor within the tolerance."""
        return [number for number in self.numbers if number.verdict == "different"]

    def groups(self) -> list[GroupDiff]:
        """The counts for each model, calibration, and so on."""
        found = []
        for group in dict.fromkeys(number.group for number in self.numbers):
            members = [number for number in self.numbers if number.group == group]
            largest = max(number.difference for number in members)
            counts = {v: sum(m.verdict == v for m in members) for v in ("equal", "within", "different")}
            found.append(GroupDiff(group=group, largest=None if largest == float("inf") else largest, **counts))
        return found

    @property
    def headline(self) -> str:
        """The number of equal numbers."""
        return (
            f"{self.count('equal')} numbers are equal, {self.count('within')} differ by at most {self.rtol:g} "
            f"(relative), {self.count('different')} are different"
        )

    def table(self) -> list[dict[str, str]]:
        """The counts of each group."""
        return [
            {
                "numbers of": g.group,
                "equal": str(g.equal),
                "within": str(g.within),
                "different": str(g.different),
                "largest difference": "a number is missing" if g.largest is None else f"{g.largest:.2g}",
            }
            for g in self.groups()
        ]

    def rows(self) -> Iterable[Mapping[str, Any]]:
        """One row for each number."""
        return (number.model_dump() for number in self.numbers)


def attack_rows(attacks: Attacks) -> Iterable[Mapping[str, Any]]:
    """One row for each attacked model, attack, set and metric: before, after, recovery and its interval."""
    for model in attacks.models:
        for outcome in model.outcomes:
            yield {
                "model": model.model.run or model.model.role,
                "role": model.model.role,
                "attack": outcome.attack,
                "set": outcome.set,
                "metric": outcome.metric,
                "before": outcome.before.mean,
                "after": outcome.after.mean,
                "n": outcome.after.n,
                "kind": outcome.recovery.kind,
                "recovery": outcome.recovery.mean,
                "low": outcome.recovery.low,
                "high": outcome.recovery.high,
                "over_control": outcome.over_control.mean if outcome.over_control else None,
                "worst_case": outcome.worst_case.mean if outcome.worst_case else None,
            }


def attack_table(attacks: Attacks) -> list[dict[str, str]]:
    """The same as cells of a table."""
    return [
        {
            "model": model.model.run or model.model.role,
            "attack": o.attack,
            "set": o.set,
            "metric": o.metric,
            "before": number_text(o.before.mean),
            "after": number_text(o.after.mean),
            "worst case": MISSING if o.worst_case is None else number_text(o.worst_case.mean),
            "recovery": _change(o.recovery),
            "over control": MISSING if o.over_control is None else _change(o.over_control),
            "n": str(o.after.n),
        }
        for model in attacks.models
        for o in model.outcomes
    ]


def collapse(model: UnlearnedModel, original: Iterable[Score]) -> str:
    """Why an unlearned model counts as collapsed, judged as delivered; empty if it does not.

    Its retain perplexity is above `COLLAPSE_BOUND` times the original's (measured in training where it is not scored),
    or its retention ratio below `COLLAPSE_RETENTION`.
    """
    reasons = []
    before, after = (find(scores, RETAIN, PERPLEXITY) for scores in (original, model.scores))
    trained = model.training.collapse if model.training else None
    ends = (before.mean, after.mean) if before and after and after.n else None
    if ends is None and trained is not None:
        ends = trained.before, trained.after
    if ends and isfinite(ends[0]) and not ends[1] <= COLLAPSE_BOUND * ends[0]:
        times = f"{ends[1] / ends[0]:.3g} times the original's" if isfinite(ends[1]) else "infinite"
        reasons.append(f"retain perplexity {times}")
    kept = model.calibration.delivered if model.calibration else None
    if kept is not None and kept.value < COLLAPSE_RETENTION:
        reasons.append(f"retention {kept.value:.2g}")
    return " and ".join(reasons)


def secret_rows(counts: Iterable[SecretCount]) -> Iterable[Mapping[str, Any]]:
    """One row for each count, its cluster empty, and one for each of its clusters."""
    for count in counts:
        whole = ClusterSecrets(cluster="", secrets=count.secrets, said=count.said)
        for part in (whole, *count.clusters):
            key = {"model": count.model.run or count.model.role, "role": count.model.role, "set": count.set}
            yield {**key, **part.model_dump()}


def leak_rows(curves: Iterable[LeakCurve]) -> Iterable[Mapping[str, Any]]:
    """One row for each curve and number of tries: leak@k and the expected maximum, with their intervals."""
    for curve in curves:
        key = {"model": curve.model.run or curve.model.role, "role": curve.model.role, "set": curve.set}
        for point in curve.points:
            leak, largest = point.leak, point.largest
            yield {
                **key,
                "k": point.k,
                "leak_at_k": leak.value,
                "low": leak.low,
                "high": leak.high,
                "expected_max": largest.value,
                "expected_max_low": largest.low,
                "expected_max_high": largest.high,
            }


def depth_rows(profiles: Iterable[DepthProfile]) -> Iterable[Mapping[str, Any]]:
    """One row for each profile and block."""
    for profile in profiles:
        key = {"model": profile.model.run or profile.model.role, "role": profile.model.role, "set": profile.set}
        columns = zip(profile.known, profile.changed, profile.share, strict=True)
        for layer, (known, changed, share) in enumerate(columns, start=1):
            yield {**key, "layer": layer, "known": known, "changed": changed, "share": share, "n": profile.n}


def find(scores: Iterable[Score], name: str, metric: str) -> Score | None:
    """The score on a set by a metric; None if there is none."""
    return next((s for s in scores if s.set == name and s.metric == metric), None)


def _ranked(model: UnlearnedModel, rank: int, metric: str, confidence: float | None) -> RankedModel:
    found = model.calibration
    if found is None or found.at_tau is None:
        raise ValueError(f"{model.name} is ranked, and has no residual score")
    mixture = find(model.calibrated_scores, FORGET, metric)
    ratios = [kept.ratio for kept in found.kept]
    return RankedModel(
        rank=rank,
        name=model.name,
        group=model.group,
        forget=found.at_tau.scores[FORGET],
        alpha=found.at_tau.alpha,
        retention=found.at_tau.retention,
        mixture_alpha=found.alpha,
        mixture_forget=mixture.mean if mixture else float("nan"),
        mixture_retention=min(ratios) if ratios and not any(map(isnan, ratios)) else float("nan"),
        confidence=confidence,
    )


def _score_row(score: SetScore | ScoreDifference) -> dict[str, Any]:
    row = score.model_dump()
    return {"set": row.pop("set"), "metric": row.pop("metric"), **row}


SHOWN = 30
"""The most rows of a table in a notebook."""
ENDS = 3
"""Number of steps shown at either end of a training."""


def text_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows as text, the columns below their names; without columns that are empty, and cut after `SHOWN` rows."""
    columns = _columns(rows)
    lines = [columns, *([row.get(c, "") for c in columns] for row in rows[:SHOWN])]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    text = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*text, *_rest(rows)])


def html_table(rows: Sequence[Mapping[str, str]]) -> str:
    """The same as HTML."""
    columns = _columns(rows)
    lines = ["".join(f"<td>{escape(row.get(c, ''))}</td>" for c in columns) for row in rows[:SHOWN]]
    head = "".join(f"<th>{escape(c)}</th>" for c in columns)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    rest = "".join(f"<p>{escape(line)}</p>" for line in _rest(rows))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{rest}"


def _columns(rows: Sequence[Mapping[str, str]]) -> list[str]:
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if any(row.get(name, "") not in ("", MISSING) for row in rows)]


def _rest(rows: Sequence[Mapping[str, str]]) -> list[str]:
    return [f"... and {len(rows) - SHOWN} more rows, see .to_frame()"] if len(rows) > SHOWN else []


def number_text(value: float) -> str:
    """A number with four digits; a dash for NaN."""
    return MISSING if isnan(value) else f"{value:.4g}"


def _estimate(found: Aggregate) -> Estimate:
    return Estimate(value=found.mean, low=found.low, high=found.high)


def _cell(found: Aggregate) -> str:
    return _interval(found.mean, found.low, found.high)


def _settings_text(settings: Mapping[str, Mapping[str, Any]]) -> str:
    """Settings in a few words; those that are None, which is a default, are left out."""
    every = [(key, value) for given in settings.values() for key, value in given.items() if value is not None]
    return ", ".join(f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in every)


def _exactly(value: float) -> Estimate:
    return Estimate(value=value, low=float("nan"), high=float("nan"))


def _shown(found: Estimate | None) -> str:
    return MISSING if found is None else _interval(found.value, found.low, found.high)


def _interval(value: float, low: float, high: float) -> str:
    return (
        number_text(value)
        if isnan(low) or isnan(high)
        else f"{number_text(value)} [{number_text(low)}, {number_text(high)}]"
    )


def _change(found: Difference) -> str:
    """A difference, or a ratio as ``x 1.3``, with its interval."""
    return f"{'x ' if found.kind == 'ratio' else ''}{_interval(found.mean, found.low, found.high)}"


def _cells(score: Aggregate) -> dict[str, str]:
    """The cells of a score."""
    missing = str(score.not_scored) if score.not_scored else ""
    return {"score": _interval(score.mean, score.low, score.high), "n": str(score.n), "not scored": missing}


RESULTS: dict[str, type[Result]] = {
    "results": StudyResults,
    "score": Scores,
    "calibration": CalibrationResults,
    "attack": AttackResults,
    "strongest": StrongestResults,
    "check": CheckResults,
    "robustness": RobustnessResults,
    "judge": JudgeResults,
    "audit": AuditResults,
    "unlearn": UnlearnResult,
    "data": DataSummary,
    "diff": Diff,
}
"""Name of a result -> its type, as `uwc schema NAME` takes it."""


DIALECT = "https://json-schema.org/draft/2020-12/schema"
"""The version of JSON Schema."""


def json_schema(name: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a result's file.

    Raises:
        KeyError: there is no such result, see `RESULTS`.
    """
    kind = RESULTS[name]
    return {
        "$schema": DIALECT,
        **kind.model_json_schema(mode="serialization"),
        "title": kind.FILE,
    }
