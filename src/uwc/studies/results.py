"""The results of a study, gathered from its finished steps into one plain dictionary."""

import math
from collections.abc import Mapping
from typing import Any

from uwc import __version__
from uwc.calibration.calibrate import Calibrated
from uwc.calibration.frontier import Frontier
from uwc.calibration.probed import ROUNDING
from uwc.calibration.seeds import pair_confidences, seed_groups
from uwc.data.benchmark import Benchmark
from uwc.io import finite
from uwc.metrics.registry import metrics
from uwc.metrics.scored import NOT_FINITE, ScoredSet
from uwc.results import Calibration
from uwc.studies.attack_results import gather_attacks
from uwc.studies.cautions import cautions
from uwc.studies.config import RunConfig
from uwc.studies.origins import origins
from uwc.studies.plan import SET_LABELS, Plan, Step, scored_sets
from uwc.studies.robustness_results import gather_robustness
from uwc.studies.runner import step_status
from uwc.studies.sanity import doubts
from uwc.studies.store import Store
from uwc.studies.training_record import training_record

FORMAT = 1
"""Version of the layout of results.json; the report reads this one."""


def gather(plan: Plan, store: Store) -> dict[str, Any]:
    """All that a report shows, computed from stored scores alone: the same bits each time.

    Returns:
        Plain data: study, benchmark, model, metrics, sets, retention (null where
        nothing is calibrated), models (original and retrained), unlearned (each with scores
        before and after calibration, its frontier, what is left at exactly tau on it (at_tau), and what its training
        did), ranking by the forget score at tau,
        pairs (first -> second -> how sure paired bootstrap draws are that the first leaves less), groups (methods with
        several seeds, by their mean), notes, and provenance, in which each record's `step` is found; for a study with
        attacks also attacks (see `gather_attacks`) and robustness (see `gather_robustness`). NaN is given as null.
    """
    gatherer = _Gatherer(plan, store)
    unlearned = [gatherer.unlearned(run) for run in plan.config.unlearn.runs]
    ranked = sorted((u for u in unlearned if "after" in u), key=lambda u: (_forget_score(u), u["name"]))
    results = {
        "schema": FORMAT,
        "study": {
            "name": plan.config.name, "title": plan.config.title, "uwc_version": __version__,
            "kind": "comparison" if all(run.given for run in plan.config.unlearn.runs) else "study",
            "config": plan.config.model_dump(mode="json"),
        },
        "benchmark": _describe(plan.benchmark),
        "model": gatherer.model(),
        "metrics": {name: _describe_metric(name) for name in plan.config.score.metrics},
        "sets": {
            name: {"label": SET_LABELS.get(name, name.replace("_", " ")), "examples": len(examples)}
            for name, examples in scored_sets(plan.benchmark).items()
        },
        "retention": _described(plan) if plan.config.calibrate else None,
        "models": gatherer.models(),
        "unlearned": unlearned,
        "ranking": [u["name"] for u in ranked],
        "pairs": gatherer.pairs([u["name"] for u in ranked]),
        "groups": gatherer.groups(ranked),
        "notes": [*doubts(plan, store), *cautions(plan), *_on_readings(plan, store), *_notes(plan, unlearned)],
        **_under_attack(plan, store),
        "provenance": origins(plan, store),
    }  # fmt: skip
    cleaned: dict[str, Any] = finite(results)
    return cleaned


def _under_attack(plan: Plan, store: Store) -> dict[str, Any]:
    """The attacks and the robustness of the metrics, for a study that has attacks."""
    attacks = gather_attacks(plan, store)
    if attacks is None:
        return {}
    return {"attacks": attacks, "robustness": gather_robustness(plan, store, attacks)}


class _Gatherer:
    def __init__(self, plan: Plan, store: Store) -> None:
        self.plan = plan
        self.store = store
        self._calibrated: dict[str, Calibrated] = {}

    def scores(self, step: Step) -> dict[str, Any]:
        """Set -> metric -> aggregate."""
        folder = self.store.folder(step.kind, step.key)
        names = self.plan.config.score.metrics
        return {
            name: ScoredSet.load(folder, name).aggregates(names, seed=self.plan.config.seed)
            for name in scored_sets(self.plan.benchmark)
        }

    def models(self) -> list[dict[str, Any]]:
        """The original and, where there is one, the retrained model."""
        named = {s.name: s for s in self.plan.steps}
        return [
            {"name": name, "scores": self.scores(named[f"score {name}"]), "step": f"score {name}"}
            for name in ("original", "retrained")
            if f"score {name}" in named
        ]

    def model(self) -> dict[str, Any]:
        """What the model is."""
        step = self.plan.step("score original")
        outcome = (self.store.manifest(step.kind, step.key) or {}).get("outcome", {})
        path = self.plan.config.model.path
        return {"source": path or "built from nothing", "dtype": self.plan.config.model.dtype, **outcome}

    def unlearned(self, run: RunConfig) -> dict[str, Any]:
        """One run with its scores before and after calibration; only a message if it diverged, and no calibrated scores
        if its logits are not finite."""
        scored = self.plan.step(f"score {run.label}")
        step = scored.inputs["model"]
        steps = {"model": step.name, "before": scored.name}
        if self.plan.config.calibrate is not None:
            steps["after"] = f"calibrate {run.label}"
        record = {
            "name": run.label, "group": run.group, **_made_by(run, step), "status": "ok", "message": "", "steps": steps,
        }  # fmt: skip
        outcome = (self.store.manifest(step.kind, step.key) or {}).get("outcome") or {}
        if step.kind == "unlearn":
            record["training"] = training_record(self.store.folder(step.kind, step.key), outcome)
        if step_status(step, self.store) == "diverged":
            return record | {"status": "diverged", "message": outcome["message"]}
        record["before"] = self.scores(scored)
        if lost := _not_finite(record["before"]):
            return record | {"status": "not_finite", "message": f"{NOT_FINITE} on {lost}, so that it is not ranked"}
        if self.plan.config.calibrate is None:
            return record
        calibrated = self.plan.step(f"calibrate {run.label}")
        calibration = self.calibrated(run.label).record(seed=self.plan.config.seed)
        _require_kept(run.label, calibration)
        return record | {"after": self.scores(calibrated), **_old_records(calibration)}

    def pairs(self, names: list[str]) -> dict[str, dict[str, float]]:
        """For each two methods, how surely the first leaves less of the forget set than the second."""
        tau, seed = self.plan.config.calibration.tau, self.plan.config.seed
        return pair_confidences({name: self.frontiers(name)["forget"] for name in names}, tau, seed=seed)

    def calibrated(self, name: str) -> Calibrated:
        """What a run's calibration found."""
        if name not in self._calibrated:
            step = self.plan.step(f"calibrate {name}")
            self._calibrated[name] = Calibrated.load(self.store.folder(step.kind, step.key))
        return self._calibrated[name]

    def frontiers(self, name: str) -> Mapping[str, Frontier]:
        """The frontier of a run for each forget set."""
        return self.calibrated(name).frontiers

    def groups(self, ranked: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The methods by their mean over seeds, with their mean tau curve and their difference from the next; none
        without several seeds."""
        members: dict[str, list[dict[str, Any]]] = {}
        for record in ranked:
            members.setdefault(record["group"] or record["name"], []).append(record)
        if all(len(records) == 1 for records in members.values()):
            return []
        tau, seed = self.plan.config.calibration.tau, self.plan.config.seed
        runs = {name: {r["name"]: self.frontiers(r["name"]) for r in records} for name, records in members.items()}
        groups = [g.model_dump() for g in seed_groups(runs, tau, seed=seed)]
        return [g | {"next": g["next"] and {**g["next"], "difference": g["next"]["value"]}} for g in groups]


def _described(plan: Plan) -> dict[str, Any]:
    """The retention constraint in words."""
    config = plan.config.calibration
    found = config.described(SET_LABELS)
    return {
        "held": list(found.measures), "share": True, "plain": False,
        "without_spread": list(found.without_interval), "ranked_by": found.rank_by,
        "label": str(metrics.get(found.rank_by).facts["label"]),
    }  # fmt: skip


def _old_records(calibration: Calibration) -> dict[str, Any]:
    """A calibration as the reports read it."""
    at_tau = calibration.at_tau
    assert at_tau is not None
    kept = [
        {"measure": k.measure, "original": k.original, "score": k.value, "share": k.ratio, "n": k.n}
        for k in calibration.kept
    ]
    trace = [{**p.model_dump(exclude={"retention"}), "retain": p.retention} for p in calibration.probes]
    estimates = {"alpha": at_tau.alpha, **at_tau.scores}
    frontier = {
        name: {
            "curve": [{**p.model_dump(exclude={"value"}), "forget": p.value} for p in found.curve],
            "path": [{"alpha": p.alpha, "retain": p.retention, "forget": p.forget} for p in found.path],
            "area": found.area,
        }
        for name, found in calibration.frontier.items()
    }
    return {
        "calibration": {
            **calibration.model_dump(exclude={"kept", "probes", "at_tau", "frontier"}),
            "set": None, "original": 1.0, "threshold": calibration.tau, "kept": kept, "trace": trace,
        },
        "at_tau": {"retain": at_tau.retention} | {name: e.value for name, e in estimates.items()},
        "intervals": {name: (e.low, e.high) for name, e in estimates.items()},
        "frontier": frontier,
    }  # fmt: skip


def _require_kept(name: str, calibration: Calibration) -> None:
    """Raise AssertionError if a calibrated model keeps less than tau: no such row is ever printed."""
    for kept in calibration.kept:
        if not kept.ratio >= calibration.tau - ROUNDING:
            raise AssertionError(
                f"{name}: calibrated at tau = {calibration.tau}, and keeps {kept.ratio} of the original's "
                f"{kept.measure}"
            )


def _not_finite(scores: dict[str, Any]) -> str:
    """On how many questions of which sets a model's logits were not finite, in words; empty where all were."""
    lost = {
        name: max(int(aggregate["why"].get(NOT_FINITE, 0)) for aggregate in by_metric.values())
        for name, by_metric in scores.items()
        if by_metric
    }
    return ", ".join(f"{count} questions ({SET_LABELS.get(name, name)})" for name, count in lost.items() if count)


def _made_by(run: RunConfig, step: Step) -> dict[str, Any]:
    """What an unlearned model was made by; of a given checkpoint only where it is from is known."""
    if run.given:
        unknown = {"summary": "", "formula": "", "source": "", "settings": {}, "tricks": {}}
        return {"method": run.group or run.label, "checkpoint": run.checkpoint, **unknown}
    method = run.composition()
    return {
        "method": run.method or "composed", "summary": method.summary, "formula": method.formula,
        "source": method.source, "settings": dict(step.settings["training"]), "tricks": dict(run.tricks),
    }  # fmt: skip


def _forget_score(record: dict[str, Any]) -> float:
    """What a run is ranked by: the score at tau, as intervals, pairs and the tau curve have it."""
    return float(record["at_tau"]["forget"])


def _describe(benchmark: Benchmark) -> dict[str, Any]:
    splits = {
        name: {"examples": len(examples), "subjects": len({e.subject for e in examples if e.subject})}
        for name, examples in benchmark.splits.items()
    }
    return {"name": benchmark.name, "fingerprint": benchmark.fingerprint(), "splits": splits}


def _describe_metric(name: str) -> dict[str, Any]:
    entry = metrics.get(name)
    return {
        "label": entry.facts["label"], "summary": entry.summary, "source": entry.source,
        "higher_remembers": entry.facts["higher_remembers"],
        "range": [None if math.isinf(bound) else bound for bound in entry.facts["range"]],
    }  # fmt: skip


def _on_readings(plan: Plan, store: Store) -> list[str]:
    """Which given models have a tokenizer or a prompt of their own that is not the original's."""
    told = []
    for step in (s for s in plan.steps if s.kind == "score"):
        outcome = (store.manifest(step.kind, step.key) or {}).get("outcome") or {}
        if otherwise := outcome.get("read_otherwise"):
            told.append(
                f"{step.name.removeprefix('score ')} has {'; '.join(otherwise)}; it is read with the tokenizer and the "
                "prompt of the original, as all models are."
            )
    return told


def _notes(plan: Plan, unlearned: list[dict[str, Any]]) -> list[str]:
    notes = []
    sets = scored_sets(plan.benchmark)
    if "forget_paraphrased" not in sets:
        notes.append(
            "The questions have no paraphrases, so extraction strength is measured on the original wording only."
        )
    if plan.benchmark.retention == "retain" and any(run.given for run in plan.config.unlearn.runs):
        notes.append(
            "If a given model was trained to keep the very questions on which retention is measured, it looks better "
            "than one that was not; take questions that none of them saw, if you can."
        )
    elif plan.benchmark.retention == "retain":
        notes.append(
            "Retention is measured on questions that the unlearning methods trained on; hold some back if you can."
        )
    collapsed = [u["name"] for u in unlearned if ((u.get("training") or {}).get("collapse") or {}).get("collapsed")]
    if collapsed:
        notes.append(
            f"Collapsed before calibration, by their perplexity on the retain set: {', '.join(collapsed)} "
            "(what training did, below, has the numbers)."
        )
    held = _described(plan)
    if plan.config.calibrate is not None and (silent := held["without_spread"]):
        some = len(silent) < len(held["held"])
        notes.append(
            f"What is held fixed by {' and '.join(silent)} is one number a model, without values by example. The "
            f"intervals have {'only a part' if some else 'nothing'} of what is unsure of alpha in them, and are too "
            "narrow by that."
        )
    for record in unlearned:
        if record["status"] != "ok":
            notes.append(f"{record['name']}: {record['message']}.")
        elif "calibration" not in record:
            continue
        elif not record["calibration"]["monotone"]:
            notes.append(
                f"{record['name']}: retention is not monotone in alpha; some mixture below the chosen alpha keeps less."
            )
        elif record["calibration"]["alpha"] == 0:
            notes.append(f"{record['name']}: no mixture keeps enough retention; calibration gives back the original.")
    return notes
