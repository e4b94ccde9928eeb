"""The results of a study, gathered from its finished steps into one plain dictionary."""

import json
import math
from itertools import pairwise
from typing import Any

from uwc import __version__
from uwc.calibration.frontier import Frontier, sure_lower
from uwc.calibration.retention import ROUNDING
from uwc.calibration.spread import difference, mean_curve, seeded_at
from uwc.data.benchmark import Benchmark
from uwc.io import finite
from uwc.metrics.registry import metrics
from uwc.metrics.scored import NOT_FINITE
from uwc.studies.attack_results import gather_attacks
from uwc.studies.cautions import cautions
from uwc.studies.config import RunConfig
from uwc.studies.held import RECORD, describe_held, read_frontiers
from uwc.studies.origins import origins
from uwc.studies.plan import SET_LABELS, Plan, Step, scored_sets
from uwc.studies.robustness_results import gather_robustness
from uwc.studies.runner import step_status
from uwc.studies.sanity import doubts
from uwc.studies.scores import StepScores
from uwc.studies.store import Store
from uwc.studies.training_record import training_record

FORMAT = 1
"""Version of the layout of results.json; the report reads this one."""


def gather(plan: Plan, store: Store) -> dict[str, Any]:
    """All that a report shows, computed from stored scores alone: the same bits each time.

    Returns:
        Plain data: study, benchmark, model, metrics, sets, retention (what is held fixed: `describe_held`; null where
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
        "metrics": {name: _describe_metric(name) for name in plan.scoring.of_examples},
        "sets": {
            name: {"label": SET_LABELS.get(name, name.replace("_", " ")), "examples": len(examples)}
            for name, examples in scored_sets(plan.benchmark).items()
        },
        "retention": describe_held(plan.config.calibration, SET_LABELS) if plan.config.calibrate else None,
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
        self.step_scores = StepScores(plan, store)

    def scores(self, step: Step) -> dict[str, Any]:
        """Set -> metric -> aggregate."""
        found: dict[str, Any] = {}
        for score in self.step_scores(step):
            row = score.model_dump()
            found.setdefault(row.pop("set"), {})[row.pop("metric")] = row
        return found

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
        folder = self.store.folder(calibrated.kind, calibrated.key)
        tau, seed = self.plan.config.calibration.tau, self.plan.config.seed
        frontiers = self.frontiers(run.label)
        calibration = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        _require_kept(run.label, calibration, self.plan.config.calibration.tau)
        return record | {
            "calibration": calibration,
            "after": self.scores(calibrated),
            "at_tau": {
                "alpha": frontiers["forget"].alpha_at(tau),
                "retain": frontiers["forget"].retain_at(tau),
                **{name: frontier.forget_at(tau) for name, frontier in frontiers.items()},
            },
            "intervals": {
                "alpha": frontiers["forget"].alpha_interval(tau, seed=seed),
                **{name: frontier.interval(tau, seed=seed) for name, frontier in frontiers.items()},
            },
            "frontier": {name: frontier.record(seed=seed) for name, frontier in frontiers.items()},
        }

    def pairs(self, names: list[str]) -> dict[str, dict[str, float]]:
        """For each two methods, how surely the first leaves less of the forget set than the second."""
        tau, seed = self.plan.config.calibration.tau, self.plan.config.seed
        frontiers = {name: self.frontiers(name)["forget"] for name in names}
        draws = {name: f.resampled_forget_at(tau, seed=seed) for name, f in frontiers.items()}
        clusters = [f.clusters for f in frontiers.values()]
        return {a: {b: sure_lower(draws[a], draws[b], clusters=min(clusters)) for b in names if b != a} for a in names}

    def frontiers(self, name: str) -> dict[str, Frontier]:
        """The path of a run's scores on each set to be forgotten, as its calibration probed it."""
        step = self.plan.step(f"calibrate {name}")
        return read_frontiers(self.plan.config.calibration, self.store.folder(step.kind, step.key))

    def groups(self, ranked: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The methods by their mean over seeds, with their mean tau curve and their difference from the next; none
        without several seeds."""
        members: dict[str, list[dict[str, Any]]] = {}
        for record in ranked:
            members.setdefault(record["group"] or record["name"], []).append(record)
        if all(len(records) == 1 for records in members.values()):
            return []
        tau, seed = self.plan.config.calibration.tau, self.plan.config.seed
        frontiers = {name: [self.frontiers(r["name"]) for r in records] for name, records in members.items()}
        seeded = {name: seeded_at([f["forget"] for f in runs], tau, seed=seed) for name, runs in frontiers.items()}
        order = sorted(seeded, key=lambda name: (seeded[name].mean, name))
        following = dict(pairwise(order))
        return [
            {
                "name": name, "runs": [r["name"] for r in members[name]], **seeded[name].record(),
                "next": difference(seeded[name], seeded[following[name]]) if name in following else None,
                "frontier": {s: mean_curve([f[s] for f in frontiers[name]], seed=seed) for s in frontiers[name][0]},
            }
            for name in order
        ]  # fmt: skip


def _require_kept(name: str, calibration: dict[str, Any], tau: float) -> None:
    """Raise AssertionError if a calibrated model keeps less than tau: no such row is ever printed."""
    for kept in calibration["kept"]:
        if not kept["share"] >= tau - ROUNDING:
            raise AssertionError(
                f"{name}: calibrated at tau = {tau}, and keeps {kept['share']} of the original's {kept['measure']}"
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
    held = describe_held(plan.config.calibration, SET_LABELS)
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
