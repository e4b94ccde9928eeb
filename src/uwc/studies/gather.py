"""The results of a study, gathered from its finished steps."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import isnan
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import numpy as np
import pandas as pd

from uwc import __version__, answers
from uwc.attacks.evaluate import VariantValues, describe, load_variants, outcomes
from uwc.attacks.evaluate import answer_rows as attacked_rows
from uwc.calibration.calibrate import Calibrated
from uwc.calibration.frontier import pair_confidences, seed_groups
from uwc.calibration.probed import ROUNDING, Measured
from uwc.io import digest, expanded, file_digest
from uwc.meta_evaluation import NO_CHANGE, Change, Stressed, evaluate_metric, meta_evaluation, pool_faithfulness
from uwc.metrics.depth import depth_profiles, load_drops, with_depth, without_change
from uwc.metrics.evaluate import answer_rows, evaluate, load_sets, not_finite_in_words
from uwc.metrics.leaks import leak_curves
from uwc.metrics.registry import metrics, set_metrics
from uwc.metrics.scored import NOT_FINITE, ScoredSet
from uwc.metrics.secrets import secret_counts
from uwc.metrics.stats import cluster_codes
from uwc.metrics.suites import metric_info, set_info
from uwc.metrics.tasks import TaskScore, load_tasks
from uwc.models.token_scores import Floats
from uwc.results import (
    ENOUGH_MODELS,
    FORGET,
    AfterRequest,
    AttackedModel,
    AttackOutcome,
    Attacks,
    BenchmarkInfo,
    Calibration,
    DepthProfile,
    Faithfulness,
    GradientEffects,
    Group,
    LeakCurve,
    MetaEvaluation,
    ModelInfo,
    ModelKey,
    Provenance,
    ReferenceModel,
    Requests,
    Robustness,
    Score,
    SecretCount,
    ServedModel,
    SplitInfo,
    StepNames,
    StepOrigin,
    StopScores,
    StudyInfo,
    StudyResults,
    TrainingLog,
    TrainingRecord,
    UnlearnedModel,
    Verdict,
    find,
)
from uwc.robustness import points_of, robustness
from uwc.studies.checks import on_servers, retrained_knows, study_warnings
from uwc.studies.compute import step_status
from uwc.studies.evidence import StudyEvidence
from uwc.studies.plan import RETRAINED, Plan, PlannedAttack, PlannedMember, PlannedModel, PlannedRun
from uwc.studies.requests import AfterRequests, PlannedRequests
from uwc.studies.sections import FORGET_SETS
from uwc.studies.steps import (
    ATTACKED,
    EFFECTS,
    LOG,
    SERVED,
    STORE_VERSION,
    Calibrate,
    Checkpoint,
    Depth,
    Outcome,
    Step,
    Tune,
    Unlearn,
)
from uwc.studies.steps import Score as ScoreStep
from uwc.studies.store import Store
from uwc.studies.verdict import decide, without_sums

POINTS = 50
"""The most steps of a run in the record."""

DIGITS = 5

_MEASURES = ("loss", "gradient_norm", "lr")
_SCORE, _DUAL = "stop_score", "dual "

Entry = Mapping[str, Any]


M = TypeVar("M", ReferenceModel, UnlearnedModel)


class Logged(TypedDict):
    """The fields of `TrainingRecord` that a training's log gives."""

    steps: int
    log: TrainingLog
    scores: StopScores | None
    effects: GradientEffects | None


def training_record(folder: Path, outcome: Outcome) -> TrainingRecord:
    """The record of one run, from the logs of its step.

    Args:
        folder: the folder of the step's result.
        outcome: the step's outcome.
    """
    log: list[Entry] = json.loads((folder / LOG).read_text(encoding="utf-8"))
    path = folder / EFFECTS
    effects: list[Entry] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return TrainingRecord(
        **logged(log, effects, thin=True),
        stopped=outcome.stopped,
        diverged=outcome.diverged,
        collapse=outcome.collapse,
    )


def logged(log: Sequence[Entry], effects: Sequence[Entry], *, thin: bool = False) -> Logged:
    """The log of a training, by quantity.

    Args:
        log: one entry a step.
        effects: one entry a recorded step.
        thin: keep at most `POINTS` steps, and `DIGITS` digits.
    """
    kept = thinned if thin else list
    digits = DIGITS if thin else None
    return {
        "steps": log[-1]["step"] if log else 0,
        "log": _log(kept(log), digits),
        "scores": _scores(kept([entry for entry in log if _SCORE in entry]), digits),
        "effects": _effects(kept(effects), digits),
    }


def thinned(entries: Sequence[Entry], *, points: int = POINTS) -> list[Entry]:
    """At most `points` of the entries, evenly spaced, including the first and the last."""
    if len(entries) <= points:
        return list(entries)
    last = len(entries) - 1
    return [entries[round(i * last / (points - 1))] for i in range(points)]


def _log(log: Sequence[Entry], digits: int | None) -> TrainingLog:
    names = list(dict.fromkeys(name for entry in log for name in entry))
    duals = [name for name in names if name.startswith(_DUAL)]
    terms = [name for name in names if name not in (*_MEASURES, "step", _SCORE, *duals)]
    return TrainingLog(
        step=tuple(entry["step"] for entry in log),
        terms={name: _column(log, name, digits) for name in terms},
        duals={name.removeprefix(_DUAL): _column(log, name, digits) for name in duals},
        **{name: _column(log, name, digits) for name in _MEASURES if name in names},
    )


def _scores(kept: Sequence[Entry], digits: int | None) -> StopScores | None:
    if not kept:
        return None
    return StopScores(step=tuple(entry["step"] for entry in kept), score=_column(kept, _SCORE, digits))


def _effects(effects: Sequence[Entry], digits: int | None) -> GradientEffects | None:
    if not effects:
        return None
    risks = [name for name in effects[0] if name != "step"]
    return GradientEffects(
        step=tuple(entry["step"] for entry in effects),
        risks={
            risk: {group: _column([entry[risk] for entry in effects], group, digits) for group in effects[0][risk]}
            for risk in risks
        },
    )


def _column(entries: Sequence[Entry], name: str, digits: int | None) -> tuple[float, ...]:
    def read(value: float | None) -> float:
        if value is None:
            return float("nan")
        return float(value) if digits is None else float(f"{value:.{digits}g}")

    return tuple(read(entry.get(name)) for entry in entries)


def origins(plan: Plan, store: Store) -> Provenance:
    """The provenance of a study's results, from the manifests of its steps.

    Scores name their step, and steps their inputs, down to checkpoints and data files. The mixture of a calibration is
    not stored; its hash is made of alpha and of the weights of the step's two inputs.
    """
    environments: list[dict[str, str]] = []
    steps = {}
    for step in plan.steps:
        manifest = store.manifest(step)
        found = None if manifest is None else manifest.environment
        if found is not None and found not in environments:
            environments.append(found)
        steps[step.id] = StepOrigin(
            kind=step.kind,
            key=step.key,
            settings=digest(step.settings),
            data=dict(step.fingerprints),
            code={} if step.not_cached else step.code,
            inputs={role: s.id for role, s in step.inputs.items()},
            path=step.path if isinstance(step, Checkpoint) else None,
            mixture=_mixture(step, store),
            files=_files(step, store),
            environment=None if found is None else environments.index(found),
        )
    return Provenance(
        store_version=STORE_VERSION,
        data_files={name: file_digest(expanded(name)) for name in plan.benchmark.files},
        environments=tuple(environments),
        steps=steps,
    )


def _mixture(step: Step, store: Store) -> str | None:
    """The hash of a calibrated mixture: of alpha and of the weights of both models."""
    if not isinstance(step, Calibrate) or store.manifest(step) is None:
        return None
    parents = {role: _parent(of, store) for role, of in step.inputs.items()}
    return digest({"alpha": store.outcome(step).alpha, **parents})


def _parent(step: Step, store: Store) -> list[Any]:
    """The files of a model; for an adapter those of its base too."""
    bases = step.inputs.values() if isinstance(step, Checkpoint) else ()
    return [_files(step, store), *(_parent(base, store) for base in bases)]


def _files(step: Step, store: Store) -> dict[str, str]:
    if isinstance(step, Checkpoint):
        return dict(step.files)
    manifest = store.manifest(step)
    return {} if manifest is None else manifest.model


def gather(plan: Plan, store: Store) -> StudyResults:
    """The results of a study, computed from stored scores alone; deterministic to the bit."""
    gatherer = _Gatherer(plan, store)
    unlearned = [gatherer.unlearned(run) for run in plan.runs]
    ranking = gatherer.ranking(unlearned)
    references = tuple(gatherer.reference(model) for model in plan.references)
    distrusted = retrained_knows(plan, references)
    if distrusted:
        references = tuple(_uncompared(model, "scores") for model in references)
        unlearned = [_uncompared(model, "scores", "calibrated_scores") for model in unlearned]
    attacks = gatherer.attacks(distrusted=bool(distrusted))
    config = plan.config
    checked = map(without_sums, gatherer.verdicts(references))
    retention = config.calibrate.described(gatherer.measured()) if config.calibrate else None
    of_tasks, served = gatherer.tasks(plan.original.score), tuple(gatherer.served())
    return StudyResults(
        uwc_version=__version__,
        study=StudyInfo(
            name=config.name,
            title=config.title,
            kind="comparison" if all(run.given for run in config.unlearn.runs) else "study",
            uwc_version=__version__,
            config=config.model_dump(mode="json"),
        ),
        benchmark=BenchmarkInfo(
            name=plan.benchmark.name,
            fingerprint=plan.benchmark.fingerprint(),
            splits={
                name: SplitInfo(examples=len(split), subjects=len({e.subject for e in split if e.subject}))
                for name, split in plan.benchmark.splits.items()
            },
        ),
        model=gatherer.model(),
        metrics={name: metric_info(name) for name in plan.scoring.metrics} | {t.metric_name: t.info for t in of_tasks},
        sets={name: set_info(name, examples) for name, examples in plan.sets.items()}
        | {task.name: task.info for task in plan.tasks},
        retention=retention,
        references=references,
        unlearned=tuple(unlearned),
        ranking=tuple(ranking),
        pairs=gatherer.pairs(ranking),
        groups=gatherer.groups([u for u in unlearned if u.name in ranking]),
        tuning=tuple(step.found(store) for step in plan.steps if isinstance(step, Tune)),
        requests=tuple(map(gatherer.requests, plan.requests)),
        secrets=tuple(gatherer.secrets()),
        judges=plan.judges,
        served=served,
        leaks=tuple(gatherer.leaks()),
        depth=() if distrusted else tuple(gatherer.depth()),
        attacks=attacks,
        robustness=gatherer.robustness(attacks, references, unlearned),
        verdicts=tuple(checked),
        left_out=dict(plan.left_out),
        invalid_rows=plan.benchmark.left_out,
        warnings=(*study_warnings(plan, store, references, unlearned, retention), *on_servers(served)),
        provenance=origins(plan, store),
    ).with_answers(gatherer.answers())


def verdicts(plan: Plan, store: Store) -> list[Verdict]:
    """Every unlearned model as delivered under every policy of a study, with sums by cluster."""
    gatherer = _Gatherer(plan, store)
    return list(gatherer.verdicts([gatherer.reference(model) for model in plan.references]))


class _Gatherer:
    def __init__(self, plan: Plan, store: Store) -> None:
        self.plan, self.store = plan, store
        self.seed = plan.config.seed
        self._scored: dict[str, dict[str, ScoredSet]] = {}
        self._calibrations: dict[str, Calibrated] = {}

    def scored(self, step: Step) -> dict[str, ScoredSet]:
        """Set -> a model's scored set."""
        if step.key not in self._scored:
            found = load_sets(self.store.folder(step), list(self.plan.sets))
            self._scored[step.key] = self._with_depth(step, found)
        return self._scored[step.key]

    def _with_depth(self, step: Step, scored: dict[str, ScoredSet]) -> dict[str, ScoredSet]:
        """The scored sets with the drops by block of their model, where a metric reads them."""
        retrained = self.plan.retrained
        if retrained is None or retrained.depth is None:
            return scored
        known = self.drops(retrained.depth)
        by_score = {m.score.key: m.depth for m in self.plan.models} | {m.score.key: m.depth for m in self.plan.pools}
        if step.key not in by_score:
            return scored
        of_model = by_score[step.key]
        changed = without_change(known) if of_model is None else self.drops(of_model)
        return with_depth(scored, retrained.depth.work.span, known=known, changed=changed)

    def drops(self, step: Depth) -> dict[str, Floats]:
        """Set -> the stored drops."""
        return load_drops(self.store.folder(step), step.work.sets)

    def scores(self, model: PlannedModel | PlannedMember, *, intervals: bool = True) -> tuple[Score, ...]:
        """Every metric on every set."""
        retrained = self.plan.retrained
        control = None if retrained is None else self.scored(retrained.score)
        of_tasks = (task.score(seed=self.seed) for task in self.tasks(model.score))
        scoring = replace(self.plan.scoring, intervals=intervals)
        return (*evaluate(self.scored(model.score), scoring, retrained=control), *of_tasks)

    def tasks(self, step: Step) -> list[TaskScore]:
        """A model's scores on tasks of lm-evaluation-harness."""
        return load_tasks(self.store.folder(step)) if self.plan.tasks else []

    def measured(self) -> tuple[Measured, ...]:
        """The retention measures of the first run that was calibrated; empty if none was."""
        for run in self.plan.runs:
            if run.calibrate is not None and step_status(run.calibrate, self.store) == "done":
                return self.calibration(run.config.label).measures
        return ()

    def reference(self, model: PlannedModel) -> ReferenceModel:
        role: Any = model.key.role
        return ReferenceModel(role=role, scores=self.scores(model), step=model.score.id)

    def model(self) -> ModelInfo:
        """The description of the original."""
        outcome, config = self.store.outcome(self.plan.original.score), self.plan.config.model
        return ModelInfo(
            source=config.path or "built from nothing",
            dtype=outcome.dtype or config.dtype,
            parameters=outcome.parameters,
            vocabulary=outcome.vocabulary,
        )

    def unlearned(self, run: PlannedRun) -> UnlearnedModel:
        """One run as delivered and calibrated; a message if it diverged, and no calibrated scores if its logits are not
        finite."""
        outcome = self.store.outcome(run.model)
        known: dict[str, Any] = {
            "name": run.config.label,
            "group": run.config.group,
            **self.made_by(run),
            "steps": StepNames(
                model=run.model.id,
                score=run.score.id,
                calibrate=None if run.calibrate is None else run.calibrate.id,
            ),
        }
        if isinstance(run.model, Unlearn):
            known["training"] = training_record(self.store.folder(run.model), outcome)
        if step_status(run.model, self.store) == "diverged":
            return UnlearnedModel(**known, status="diverged", message=outcome.message)
        known["scores"] = self.scores(run.delivered)
        if lost := not_finite_in_words(known["scores"]):
            message = f"{NOT_FINITE} on {lost}, so that it is not ranked"
            return UnlearnedModel(**known, status="not_finite", message=message)
        if run.calibrate is None:
            return UnlearnedModel(**known, status="ok")
        calibration = self.calibration(run.config.label).record(seed=self.seed)
        _require_kept(run.config.label, calibration)
        return UnlearnedModel(
            **known, status="ok", calibration=calibration, calibrated_scores=self.scores(run.calibrated)
        )

    def made_by(self, run: PlannedRun) -> dict[str, Any]:
        """The origin of an unlearned model: its method and settings; for a given checkpoint only its path."""
        config, step = run.config, run.model
        if not isinstance(step, Unlearn):
            return {"method": config.group or config.label, "checkpoint": config.checkpoint}
        method = (config if step.tuned is None else step.tuned.best(self.store)).composition()
        chosen = step.chosen(self.store)
        return {
            "method": config.method or "composed",
            "summary": method.summary,
            "formula": method.formula,
            "source": method.source,
            "settings": dict(chosen.settings["training"]),
            "rule": chosen.settings["rule"] or {},
            "tricks": dict(chosen.tricks),
        }

    def calibration(self, name: str) -> Calibrated:
        """The stored calibration of a run."""
        step = next(run.calibrate for run in self.plan.runs if run.config.label == name)
        assert step is not None
        return self.calibrated(step)

    def calibrated(self, step: Calibrate) -> Calibrated:
        """The result of a calibration."""
        if step.key not in self._calibrations:
            self._calibrations[step.key] = Calibrated.load(self.store.folder(step))
        return self._calibrations[step.key]

    def ranking(self, unlearned: Sequence[UnlearnedModel]) -> list[str]:
        """The calibrated models by residual forget score at tau, lowest first; without those that have none."""
        scores = {u.name: _residual(u) for u in unlearned if u.calibration is not None}
        return sorted((name for name in scores if not isnan(scores[name])), key=lambda name: (scores[name], name))

    def pairs(self, names: Sequence[str]) -> dict[str, dict[str, float]]:
        """For each two methods the confidence that the first has the lower residual forget score."""
        frontiers = {name: self.calibration(name).frontiers["forget"] for name in names}
        return pair_confidences(frontiers, self.plan.config.calibration.tau, seed=self.seed)

    def groups(self, ranked: Sequence[UnlearnedModel]) -> tuple[Group, ...]:
        """The methods by mean over seeds; empty without several seeds."""
        members: dict[str, list[str]] = {}
        for model in ranked:
            members.setdefault(model.group or model.name, []).append(model.name)
        if all(len(names) == 1 for names in members.values()):
            return ()
        frontiers = {name: {run: self.calibration(run).frontiers for run in runs} for name, runs in members.items()}
        return seed_groups(frontiers, self.plan.config.calibration.tau, seed=self.seed)

    def requests(self, planned: PlannedRequests) -> Requests:
        """A run after each request."""
        config = self.plan.config.calibration
        collected = AfterRequests(planned, tau=config.tau, seed=self.seed)
        after = tuple(self.after(number, planned, collected) for number in range(1, len(planned.models) + 1))
        return Requests(
            kind=planned.kind,
            run=planned.run,
            metric=config.ranked_by,
            after=after,
            confidence=self.against_at_once(planned, after[-1]),
        )

    def against_at_once(self, planned: PlannedRequests, last: AfterRequest) -> float | None:
        """The confidence that the last model of a sequence has a lower residual score than the run itself."""
        whole = len(self.plan.sets[FORGET])
        run = next(run for run in self.plan.runs if run.config.label == planned.run)
        step = planned.models[-1].calibrate
        if planned.kind != "sequence" or last.residual is None or last.questions < whole or step is None:
            return None
        if run.calibrate is None or step_status(run.calibrate, self.store) != "done":
            return None
        both = {"in sequence": step, "at once": run.calibrate}
        frontiers = {name: self.calibrated(found).frontiers[FORGET] for name, found in both.items()}
        pairs = pair_confidences(frontiers, self.plan.config.calibration.tau, seed=self.seed)
        return pairs["in sequence"]["at once"]

    def after(self, number: int, planned: PlannedRequests, collected: AfterRequests) -> AfterRequest:
        """A model after a request: its forget scores by part, its calibration, and its scores by metrics that do not
        compare with the retrained model."""
        model, status = planned.models[number - 1], step_status(planned.models[number - 1].model, self.store)
        if status == "diverged":
            return collected.without(number, status, self.store.outcome(model.model).message)
        if status == "skipped":
            return collected.without(number, status, "an earlier request diverged")
        alone = [metric for metric in self.plan.scoring.metrics if not _compares(metric)]
        scores = evaluate(self.scored(model.score), replace(self.plan.scoring, metrics=alone))
        lost = not_finite_in_words(scores)
        frontier = None
        if model.calibrate is not None and not lost:
            frontier = self.calibrated(model.calibrate).frontiers[FORGET]
        forget, metric = self.scored(model.score)[FORGET], self.plan.config.calibration.ranked_by
        message = f"{NOT_FINITE} on {lost}" if lost else ""
        return collected.measured(number, forget, metric, frontier, scores, message)

    def attacks(self, *, distrusted: bool) -> Attacks | None:
        """The outcomes of all attacks, without those of metrics that compare with the retrained model if that knows the
        forget data; None for a study without attacks."""
        setup = self.plan.setup
        if setup is None or not self.plan.attacks:
            return None
        by_model: dict[str, list[PlannedAttack]] = {}
        for planned in self.plan.attacks:
            by_model.setdefault(planned.model.key.model_dump_json(), []).append(planned)
        first = next(iter(by_model.values()))
        return Attacks(
            attacks=tuple(describe(p.chain.label, p.chain.made(), p.step.measured) for p in first),
            sets={name: len(examples) for name, examples in setup.sets.items()},
            attacker=setup.data.owned,
            models=tuple(self.attacked(planned, distrusted=distrusted) for planned in by_model.values()),
        )

    def attacked(self, attacks: Sequence[PlannedAttack], *, distrusted: bool) -> AttackedModel:
        """A model under every attack."""
        model, found, failed = attacks[0].model, list[AttackOutcome](), dict[str, str]()
        if step_status(model.score, self.store) != "done":
            return AttackedModel(model=model.key, failed={a.chain.label: "the run diverged" for a in attacks})
        before = self.before(model)
        for attack in attacks:
            if step_status(attack.step, self.store) != "done":
                failed[attack.chain.label] = self.store.outcome(attack.step).message or "it did not run"
                continue
            found += outcomes(
                attack.chain.label,
                attack.chain.made(),
                attack.step.sets,
                before,
                self.variants(attack),
                control=self.control(attack),
                seed=self.seed,
            )
        trusted = tuple(o for o in found if not (distrusted and _compares(o.metric)))
        return AttackedModel(model=model.key, outcomes=trusted, failed=failed)

    def verdicts(self, references: Sequence[ReferenceModel]) -> Iterator[Verdict]:
        """Every unlearned model as delivered under every policy."""
        distrusted = retrained_knows(self.plan, references)
        for run in self.plan.runs:
            evidence = StudyEvidence(
                self.plan,
                self.store,
                run.delivered,
                scored=self.scored,
                variants=self.variants,
                distrusted=distrusted,
            )
            for policy in self.plan.config.check:
                yield decide(policy, evidence, model=run.delivered.key, seed=self.seed)

    def models(self) -> Iterator[PlannedModel]:
        """The models that were scored: the references, and each run as delivered and calibrated."""
        for model in self.plan.models:
            if step_status(model.score, self.store) == "done":
                yield model

    def served(self) -> Iterator[ServedModel]:
        """The models whose greedy answers come from servers, with what their comparison with the checkpoints found."""
        for model in self.models():
            if not isinstance(model.score, ScoreStep) or (asked := model.score.served) is None:
                continue
            found = json.loads((self.store.folder(model.score) / SERVED).read_text(encoding="utf-8"))
            yield ServedModel(
                model=model.key.run or model.key.role,
                served=asked.model,
                extra=dict(asked.extra),
                equal=found["equal"],
                near_ties=len(found["gaps"]),
                largest_gap=max(found["gaps"], default=None),
                margin=asked.margin,
            )

    def secrets(self) -> Iterator[SecretCount]:
        """The secrets that each model says, by set."""
        for model in self.models():
            yield from secret_counts(self.scored(model.score), model.key)

    def leaks(self) -> Iterator[LeakCurve]:
        """The leakage of sampled answers of each model, by set."""
        for model in self.models():
            given = self.plan.scoring.given
            yield from leak_curves(self.scored(model.score), model.key, given.samples, seed=self.seed)

    def depth(self) -> Iterator[DepthProfile]:
        """The profile over blocks of each unlearned and calibrated model, by set."""
        for model in self.models():
            if model.depth is not None and model.key.role != "retrained":
                yield from depth_profiles(self.scored(model.score), model.key, self.plan.scoring)

    def answers(self) -> pd.DataFrame:
        """The table of answers of all models, as delivered, calibrated and under attack."""
        return answers.joined([*self._plain_answers(), *self._attacked_answers()])

    def _plain_answers(self) -> Iterator[pd.DataFrame]:
        for model in self.models():
            condition = answers.CALIBRATED if model.key.role == "calibrated" else answers.AS_DELIVERED
            yield answer_rows(self.scored(model.score), self.plan.scoring, key=model.key, condition=condition)

    def _attacked_answers(self) -> Iterator[pd.DataFrame]:
        for attack in self.plan.attacks:
            done = (step_status(step, self.store) == "done" for step in (attack.model.score, attack.step))
            if all(done):
                found = self.variants(attack)
                yield attacked_rows(attack.chain.label, found, attack.step.sets, key=attack.model.key)

    def variants(self, attack: PlannedAttack) -> list[VariantValues]:
        return load_variants(self.store.folder(attack.step) / ATTACKED)

    def control(self, attack: PlannedAttack) -> list[VariantValues]:
        """The retrained model under the same attack; empty if it is not attacked, or the attack failed."""
        theirs = [a for a in self.plan.attacks if a.model.key.role == "retrained" and a.chain is attack.chain]
        done = [a for a in theirs if step_status(a.step, self.store) == "done"]
        return self.variants(done[0]) if done else []

    def before(self, model: PlannedModel) -> dict[str, Floats]:
        """Metric -> [E] the values of the attacked examples before the attack, concatenated by set."""
        assert self.plan.setup is not None
        names = self.plan.attacked_metrics
        found: dict[str, list[Floats]] = {name: [] for name in names}
        for of_set, examples in self.plan.setup.sets.items():
            scored = self.scored(model.score)[of_set]
            place = {identity: i for i, identity in enumerate(scored.scores.ids)}
            chosen = [place[e.id] for e in examples]
            for name in names:
                found[name].append(scored.values(name)[chosen])
        return {name: np.concatenate(values) for name, values in found.items()}

    def robustness(
        self, attacks: Attacks | None, references: Sequence[ReferenceModel], unlearned: Sequence[UnlearnedModel]
    ) -> Robustness | None:
        """Statistics of every metric before against after every attack, over the study's unlearned models; None for
        fewer than `ENOUGH_MODELS`."""
        points = [] if attacks is None else points_of(attacks)
        if attacks is None or len({point.checkpoint for point in points}) < ENOUGH_MODELS:
            return None
        names = self.plan.attacked_metrics
        found = robustness(
            points,
            self.known(names),
            log_metrics=[name for name in names if metrics.get(name).facts["average"] == "geometric"],
            chains={info.name: "+".join(info.chain) for info in attacks.attacks},
            seed=self.seed,
        )
        if not self.plan.pools:
            return found
        faithful = self.pools()
        meta = self.meta_evaluation(faithful, attacks, references, unlearned)
        return found.model_copy(update={"faithfulness": tuple(faithful), "meta_evaluation": meta})

    def pools(self) -> list[Faithfulness]:
        """The faithfulness of every metric on each forget set, and of metrics of whole sets that read one."""
        values: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
        for member in self.plan.pools:
            for score in self.scores(member, intervals=False):
                if set(score.set.split("+")) & set(FORGET_SETS):
                    pools = values.setdefault((score.metric, score.set), ([], []))
                    pools[0 if member.knowing else 1].append(score.mean)
        infos = {metric: metric_info(metric) for metric, _ in values}
        return [
            pool_faithfulness(metric, of_set, infos[metric], knowing=knowing, ignorant=ignorant)
            for (metric, of_set), (knowing, ignorant) in values.items()
            if infos[metric].higher_remembers is not None
        ]

    def meta_evaluation(
        self,
        faithful: Sequence[Faithfulness],
        attacks: Attacks,
        references: Sequence[ReferenceModel],
        unlearned: Sequence[UnlearnedModel],
    ) -> MetaEvaluation:
        """Faithfulness and robustness of every metric on the attacked forget sets."""
        config, utility = self.plan.config.robustness, self.plan.config.utility
        assert config is not None
        whole = {model.role: _utility(model.scores, utility) for model in references}["original"]
        retrained = None if retrained_knows(self.plan, references) else attacks.under(RETRAINED)

        def change(model: AttackedModel | None, attack: str, found: Faithfulness) -> Change:
            outcome = model.outcome(attack, found.set, found.metric) if model else None
            return (outcome.before.mean, outcome.after.mean) if outcome else NO_CHANGE

        def stressed(model: UnlearnedModel, found: Faithfulness) -> Stressed:
            attacked, score = attacks.under(_key(model)), find(model.scores, found.set, found.metric)
            return Stressed(
                value=score.mean if score else float("nan"),
                utility=_utility(model.scores, utility) / whole if whole else float("nan"),
                relearning=change(attacked, config.relearning, found),
                quantization=change(attacked, config.quantization, found),
            )

        rows = [
            evaluate_metric(
                found,
                metric_info(found.metric),
                [stressed(model, found) for model in unlearned],
                retrained=change(retrained, config.relearning, found),
                least_utility=config.least_utility,
                seed=self.seed,
            )
            for found in faithful
            if found.set in attacks.sets
        ]
        return meta_evaluation(
            rows,
            relearning=config.relearning,
            quantization=config.quantization,
            utility=utility,
            least_utility=config.least_utility,
        )

    def known(self, names: Sequence[str]) -> dict[tuple[str, str], tuple[list[float], list[float]]]:
        """(metric, forget set) -> the means of subjects by the original, and by the retrained model."""
        if self.plan.retrained is None:
            return {}
        knowing, ignorant = (self.scored(m.score) for m in (self.plan.original, self.plan.retrained))
        sets = [name for name in FORGET_SETS if name in self.plan.sets]
        return {
            (metric, name): (_by_subject(knowing[name], metric), _by_subject(ignorant[name], metric))
            for name in sets
            for metric in names
            if metric in self.plan.scoring.measured(name)
        }


def _uncompared(model: M, *fields: str) -> M:
    """The model without the values of metrics that compare with the retrained model."""

    def known(score: Score) -> Score:
        if not _compares(score.metric):
            return score
        count = score.n + score.not_scored
        why = {"the retrained model knows the forget data": count}
        return Score(set=score.set, metric=score.metric, mean=float("nan"), n=0, not_scored=count, why=why)

    return model.model_copy(update={field: tuple(map(known, getattr(model, field))) for field in fields})


def _compares(metric: str) -> bool:
    """Whether a metric compares with the retrained model."""
    entry = next((entry for entry in (*metrics, *set_metrics) if entry.name == metric), None)
    return entry is not None and any(n == "depth" or n.startswith("retrained/") for n in entry.facts["needs"])


def _key(model: UnlearnedModel) -> ModelKey:
    return ModelKey(role="unlearned", run=model.name)


def _utility(scores: Sequence[Score], metric: str) -> float:
    """The mean of a metric on the retain set, or the value of one of whole sets; NaN if it has none."""
    found = find(scores, "retain", metric) or next((s for s in scores if s.metric == metric), None)
    return found.mean if found else float("nan")


def _require_kept(name: str, calibration: Calibration) -> None:
    """Raise AssertionError if the retention ratio of a calibrated model is below tau."""
    for kept in calibration.kept:
        if not kept.ratio >= calibration.tau - ROUNDING:
            raise AssertionError(f"{name}: tau = {calibration.tau}, and {kept.measure} has the ratio {kept.ratio}")


def _residual(model: UnlearnedModel) -> float:
    """The residual forget score that a run is ranked by."""
    assert model.calibration is not None and model.calibration.at_tau is not None
    return model.calibration.at_tau.scores["forget"].value


def _by_subject(scored: ScoredSet, metric: str) -> list[float]:
    """The mean of each subject's scored examples."""
    values, codes = scored.values(metric), cluster_codes(scored.subjects)
    groups = [values[codes == code] for code in np.unique(codes)]
    return [float(np.nanmean(group)) for group in groups if not np.isnan(group).all()]
