"""What attacks brought back, gathered from finished steps: each model before and after, beside the control."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from uwc.attacks.measuring import MEAN, STRONGEST, combine
from uwc.metrics.registry import metrics
from uwc.metrics.scored import ScoredSet
from uwc.metrics.stats import aggregate, paired_difference
from uwc.models.token_scores import Floats
from uwc.studies.attack_config import ChainConfig
from uwc.studies.attack_steps import load_attacked
from uwc.studies.config import ORIGINAL, RETRAINED
from uwc.studies.plan import ATTACKED, CALIBRATED, Plan, attack_step_name, attacked_models
from uwc.studies.runner import step_status
from uwc.studies.store import Store

Values = dict[str, dict[str, Floats]]


def gather_attacks(plan: Plan, store: Store) -> dict[str, Any] | None:
    """All that the attacks of a study brought back; None for a study without attacks.

    Returns:
        Plain data: chains (name, attack, settings, touches_weights, trains_on_scored, metrics), sets (-> examples),
        attacker (-> examples), and models, each with name, kind, run, before (set -> metric -> aggregate), failed
        (chain -> why) and outcomes: chain -> set -> metric -> after, difference (after - before), over_control
        (after - the retrained model's after), all aggregates; strongest and strongest_over_control where the attack has
        several variants, of which `after` is the mean; and variants (label, effort, note, changed, mean). With budgets,
        `after` is at the largest. Where a metric's average is geometric, differences are ratios.
    """
    if plan.config.attack is None or plan.attacks is None:
        return None
    gatherer = _Attacks(plan, store)
    data = plan.attacks.data
    return {
        "chains": [gatherer.chain(chain) for chain in plan.config.attack.chains],
        "sets": {name: len(examples) for name, examples in plan.attacks.sets.items()},
        "attacker": {part: len(getattr(data, part)) for part in ("train", "retain", "unrelated")},
        "models": [gatherer.model(name) for name in attacked_models(plan.config)],
    }


class _Attacks:
    def __init__(self, plan: Plan, store: Store) -> None:
        assert plan.config.attack is not None and plan.attacks is not None
        self.plan = plan
        self.store = store
        self.config = plan.config.attack
        self.sets = plan.attacks.sets
        self.steps = {s.name: s for s in plan.steps}
        self.control: dict[str, list[Values]] = {}
        if RETRAINED in attacked_models(plan.config):
            self.control = {c.label: self._variants(c, RETRAINED)[1] for c in self.config.chains}

    def chain(self, config: ChainConfig) -> dict[str, Any]:
        """What the attack is."""
        chain = config.made()
        first = next(iter(attacked_models(self.plan.config)))
        settings = {s.entry.name: dict(s.settings) for s in chain.steps}
        return {
            "name": config.label, "attack": chain.name, "settings": settings,
            "touches_weights": chain.touches_weights, "trains_on_scored": chain.trains_on_scored,
            "metrics": self.steps[attack_step_name(config.label, first)].settings["metrics"],
        }  # fmt: skip

    def model(self, name: str) -> dict[str, Any]:
        """A model under every attack."""
        run = name.removesuffix(CALIBRATED)
        kind = name if name in (ORIGINAL, RETRAINED) else "unlearned" if run == name else "calibrated"
        before = self._before(name, run)
        record: dict[str, Any] = {"name": name, "kind": kind, "run": run, "before": {}, "failed": {}, "outcomes": {}}
        if before is None:
            return record | {"failed": {c.label: "the run diverged" for c in self.config.chains}}
        record["steps"] = {c.label: attack_step_name(c.label, name) for c in self.config.chains}
        record["before"] = {
            of_set: {metric: self._aggregate(metric, of_set, values) for metric, values in of_metrics.items()}
            for of_set, of_metrics in before.items()
        }
        for chain in self.config.chains:
            step = self.steps[attack_step_name(chain.label, name)]
            if step_status(step, self.store) != "done":
                outcome = (self.store.manifest(step.kind, step.key) or {}).get("outcome", {})
                record["failed"][chain.label] = str(outcome.get("message", "it was not carried out"))
                continue
            told, values = self._variants(chain, name)
            record["outcomes"][chain.label] = {
                of_set: {
                    metric: self._outcome(chain, of_set, metric, before[of_set][metric], told, values)
                    for metric in step.settings["metrics"]
                }
                for of_set in self.sets
            }
        return record

    def _before(self, name: str, run: str) -> Values | None:
        """Set -> metric -> [E] the values of the attacked examples before the attack, from the study's scores."""
        step = self.steps[f"score {run}" if run == name else f"calibrate {run}"]
        if step_status(step, self.store) != "done":
            return None
        names = self.plan.attacked_metrics
        found: Values = {}
        for of_set, examples in self.sets.items():
            scored = ScoredSet.load(self.store.folder(step.kind, step.key), of_set)
            place = {identity: i for i, identity in enumerate(scored.scores.ids)}
            chosen = [place[e.id] for e in examples]
            found[of_set] = {metric: scored.values(metric)[chosen] for metric in names}
        return found

    def _variants(self, chain: ChainConfig, name: str) -> tuple[list[dict[str, Any]], list[Values]]:
        """What each variant of an attack is, and set -> metric -> [E] the values under it."""
        step = self.steps[attack_step_name(chain.label, name)]
        if step_status(step, self.store) != "done":
            return [], []
        table = load_attacked(self.store.folder(step.kind, step.key) / ATTACKED)
        told, values = [], []
        for _, rows in table.groupby("variant", sort=True):
            first = rows.iloc[0]
            effort, changed = (None if pd.isna(first[name]) else float(first[name]) for name in ("effort", "changed"))
            told.append({"label": first["label"], "effort": effort, "note": first["note"], "changed": changed})
            by_set = {str(of_set): part for of_set, part in rows.groupby("set")}
            values.append(
                {s: {m: by_set[s][m].to_numpy(np.float64) for m in step.settings["metrics"]} for s in self.sets}
            )
        return told, values

    def _outcome(
        self, chain: ChainConfig, of_set: str, metric: str, before: Floats, told: Sequence[Mapping[str, Any]],
        values: Sequence[Values],
    ) -> dict[str, Any]:  # fmt: skip
        each = [v[of_set][metric] for v in values]
        theirs = [v[of_set][metric] for v in self.control.get(chain.label, [])]
        after = _summarised(metric, _headline(chain, told, each))
        control = _summarised(metric, _headline(chain, told, theirs)) if len(theirs) == len(each) else {}
        record = {
            "after": self._aggregate(metric, of_set, after[MEAN]),
            "difference": self._difference(metric, of_set, before, after[MEAN]),
            "over_control": self._difference(metric, of_set, control[MEAN], after[MEAN]) if control else None,
            "variants": [
                {**what, "mean": self._aggregate(metric, of_set, v)["mean"]} for what, v in zip(told, each, strict=True)
            ],
        }
        if STRONGEST in after:
            record["strongest"] = self._aggregate(metric, of_set, after[STRONGEST])
            above = self._difference(metric, of_set, control[STRONGEST], after[STRONGEST]) if control else None
            record["strongest_over_control"] = above
        return record

    def _aggregate(self, metric: str, of_set: str, values: Floats) -> dict[str, Any]:
        subjects = [e.subject for e in self.sets[of_set]]
        average = metrics.get(metric).facts["average"]
        return aggregate(values, subjects, average=average, seed=self.plan.config.seed).model_dump()

    def _difference(self, metric: str, of_set: str, first: Floats, second: Floats) -> dict[str, Any]:
        subjects = [e.subject for e in self.sets[of_set]]
        average = metrics.get(metric).facts["average"]
        found = paired_difference(first, second, subjects, average=average, seed=self.plan.config.seed)
        return found.model_dump(exclude={"kind", "p_value"})


def _headline(chain: ChainConfig, told: Sequence[Mapping[str, Any]], values: Sequence[Floats]) -> list[Floats]:
    """The variants that count: those at the largest budget, where the attack is scored at several; otherwise all."""
    if not any(s.settings.get("budgets") for s in chain.made().steps):
        return list(values)
    largest = max(what["effort"] for what in told)
    return [v for what, v in zip(told, values, strict=True) if what["effort"] == largest]


def _summarised(metric: str, values: Sequence[Floats]) -> dict[str, Floats]:
    """The mean of an attack's variants and, where there are several, the strongest."""
    if len(values) == 1:
        return {MEAN: values[0]}
    facts = metrics.get(metric).facts
    return combine(values, higher_remembers=facts["higher_remembers"], average=facts["average"])
