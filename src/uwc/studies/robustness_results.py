"""Which metrics hold under a study's attacks: statistics over its unlearned models, and how faithful each metric is."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from uwc.metrics.aggregation import cluster_codes
from uwc.metrics.registry import metrics
from uwc.metrics.scored import ScoredSet
from uwc.models.token_scores import Floats
from uwc.robustness.comparison import Point, compare, rank
from uwc.robustness.faithfulness import faithfulness_auc
from uwc.robustness.published import compared_orders, published_pcc
from uwc.studies.calibrate_config import FORGET_SETS
from uwc.studies.config import ORIGINAL, RETRAINED
from uwc.studies.plan import Plan, scored_sets
from uwc.studies.store import Store


def gather_robustness(plan: Plan, store: Store, attacks: Mapping[str, Any]) -> dict[str, Any]:
    """Statistics of every metric before against after every attack, over the study's unlearned models.

    Args:
        plan: the study.
        store: where its scores are kept.
        attacks: what `gather_attacks` gave.

    Returns:
        Plain data: checkpoints, points (the values compared), cells (one for each metric, attack and set, with its
        published PCC), ranking (apart for attacks that touch the weights), without_logarithms (the same for the metrics
        in log_metrics, as they are), orders (pairs of metrics whose published PCC under one attack are known, and
        whether ours have the same order), log_metrics, and faithfulness: metric, set and the AUC with which the metric
        tells subjects of the original model from those of the retrained model.
    """
    names = plan.config.attack.measured(plan.config.score.metrics) if plan.config.attack else ()
    logged = [name for name in names if metrics.get(name).facts["average"] == "geometric"]
    points = _points(attacks)
    chains = {chain["name"]: chain["attack"] for chain in attacks["chains"]}
    cells = compare(points, log_metrics=logged, seed=plan.config.seed)
    spanning = [p for p in points if p.metric in logged]
    return {
        "checkpoints": len({p.checkpoint for p in points}),
        "points": [asdict(p) for p in points],
        "cells": [{**asdict(c), "published": published_pcc(c.metric, chains[c.attack], c.split)} for c in cells],
        "ranking": [asdict(r) for r in rank(cells)],
        "without_logarithms": [asdict(r) for r in rank(compare(spanning, log_metrics=(), seed=plan.config.seed))],
        "orders": [asdict(o) for o in compared_orders(cells, chains)],
        "log_metrics": logged,
        "faithfulness": _faithfulness(plan, store, names),
    }


def _points(attacks: Mapping[str, Any]) -> list[Point]:
    touching = {chain["name"]: chain["touches_weights"] for chain in attacks["chains"]}
    models = [m for m in attacks["models"] if m["kind"] == "unlearned"]
    return [
        Point(
            model["name"], metric, chain, of_set, model["before"][of_set][metric]["mean"], outcome["after"]["mean"],
            touching[chain],
        )
        for chain in touching
        for model in models
        for of_set, outcomes in model["outcomes"].get(chain, {}).items()
        for metric, outcome in outcomes.items()
    ]  # fmt: skip


def _faithfulness(plan: Plan, store: Store, names: Sequence[str]) -> list[dict[str, Any]]:
    steps = {s.name: s for s in plan.steps}
    if f"score {RETRAINED}" not in steps:
        return []
    rows = []
    for of_set in (s for s in FORGET_SETS if s in scored_sets(plan.benchmark)):
        sides = []
        for model in (ORIGINAL, RETRAINED):
            step = steps[f"score {model}"]
            sides.append(ScoredSet.load(store.folder(step.kind, step.key), of_set))
        for metric in names:
            knowing, ignorant = (_by_subject(s.values(metric), s.subjects) for s in sides)
            higher = metrics.get(metric).facts["higher_remembers"]
            auc = faithfulness_auc(knowing, ignorant, higher_remembers=higher)
            rows.append({"metric": metric, "set": of_set, "subjects": len(knowing), "auc": auc})
    return rows


def _by_subject(values: Floats, subjects: Sequence[str]) -> list[float]:
    """The mean of each subject's scored examples."""
    codes = cluster_codes(subjects)
    groups = [values[codes == code] for code in np.unique(codes)]
    return [float(np.nanmean(group)) for group in groups if not np.isnan(group).all()]
