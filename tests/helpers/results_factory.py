"""Valid results for tests: a study of six methods, of which one diverged, and parts to change it by."""

from itertools import pairwise
from typing import Any, TypeVar

from uwc.reports.format import Table
from uwc.results import (
    ES,
    Aggregate,
    Agreement,
    AttackedModel,
    AttackInfo,
    AttackOutcome,
    Attacks,
    AtTau,
    BenchmarkInfo,
    Calibration,
    Cell,
    CurvePoint,
    DepthProfile,
    Difference,
    Estimate,
    Faithfulness,
    Frontier,
    Kept,
    MetricInfo,
    ModelInfo,
    ModelKey,
    Order,
    Part,
    PathPoint,
    Point,
    Probe,
    Provenance,
    Rank,
    ReferenceModel,
    Retention,
    Robustness,
    RunRecord,
    Score,
    SetInfo,
    SplitInfo,
    StepNames,
    StepTime,
    StudyInfo,
    StudyResults,
    UnlearnedModel,
    Variant,
    Warning,
)

PPL, KL = "perplexity", "kl_to_original"
P = TypeVar("P", bound=Part)
NAN = float("nan")
TAU = 0.95
ORIGINAL_RETAIN = 0.98
METRICS = {
    ES: MetricInfo(
        label="ES",
        summary="The share of the answer that the model completes greedily from the shortest prefix that suffices.",
        source="arXiv:2012.07805, arXiv:2406.09179",
        higher_remembers=True,
        range=(0, 1),
        average="arithmetic",
    ),
    PPL: MetricInfo(
        label="PPL",
        summary="Perplexity per token of the answer.",
        source="",
        higher_remembers=False,
        range=(1, NAN),
        average="geometric",
    ),
    KL: MetricInfo(
        label="KL to original",
        summary="Divergence of the predictions from the original model's.",
        source="arXiv:2406.09179",
        higher_remembers=False,
        range=(0, NAN),
        average="arithmetic",
    ),
}
SETS = {
    "forget": "forget",
    "forget_paraphrased": "forget, paraphrased",
    "retain": "retain",
    "retain_paraphrased": "retain, paraphrased",
    "holdout": "holdout",
}
RATES = {"ga": 1e-4, "gd": 5e-4, "kl": 5e-4, "po": 5e-4, "npo": 5e-4, "rmu": 2e-3}
# name: forget and retain ES as delivered, alpha, forget and retain ES of the calibrated mixture
NUMBERS = {
    "ga": (0.02, 0.862, 0.871, 0.412, 0.935),
    "gd": (0.0, 0.81, 0.762, 0.131, 0.934),
    "kl": (0.0, 0.39, 0.41, 0.187, 0.932),
    "po": (0.21, 0.95, 1.0, 0.21, 0.95),
    "npo": (0.04, 0.975, 1.0, 0.04, 0.975),
}
RANKING = ("npo", "gd", "kl", "po", "ga")


def changed(part: P, /, **update: Any) -> P:
    """The part with other values, which are validated."""
    return type(part)(**{**dict(part), **update})


def changed_run(results: StudyResults, name: str, /, **update: Any) -> StudyResults:
    """The results with an unlearned model changed, also its name."""
    run = changed(results.run(name), **update)
    new = {name: run.name}
    return changed(
        results,
        unlearned=[run if m.name == name else m for m in results.unlearned],
        ranking=[new.get(n, n) for n in results.ranking],
        pairs={new.get(a, a): {new.get(b, b): c for b, c in row.items()} for a, row in results.pairs.items()},
    )


def changed_calibration(results: StudyResults, name: str, /, **update: Any) -> StudyResults:
    """The results with the calibration of an unlearned model changed."""
    calibration = results.run(name).calibration
    assert calibration is not None
    return changed_run(results, name, calibration=changed(calibration, **update))


def changed_at_tau(results: StudyResults, name: str, *, forget: Estimate | None = None, **update: Any) -> StudyResults:
    """The results with the numbers at tau of an unlearned model changed; `forget` is its residual forget score."""
    calibration = results.run(name).calibration
    assert calibration is not None and calibration.at_tau is not None
    if forget is not None:
        update["scores"] = {**calibration.at_tau.scores, "forget": forget}
    return changed_calibration(results, name, at_tau=changed(calibration.at_tau, **update))


def estimate(value: float, half: float = 0.05) -> Estimate:
    """A number with the interval ``value ± half``."""
    return Estimate(value=value, low=value - half, high=value + half)


def aggregate(mean: float, n: int = 100, half: float = 0.05, **more: Any) -> Aggregate:
    """A mean with the interval ``mean ± half``, cut at 0, and standard error ``half / 2``."""
    spread = {"se": half / 2, "low": max(0.0, mean - half), "high": mean + half}
    return Aggregate(**{"mean": mean, "n": n, "clusters": n // 10, **spread, **more})


def score(name: str, metric: str, mean: float, **more: Any) -> Score:
    """A score on a set, see `aggregate`."""
    return Score(set=name, metric=metric, **dict(aggregate(mean, **more)))


def scores(forget: float, retain: float) -> tuple[Score, ...]:
    """The scores of a model on every set by every metric, made from its forget and retain ES."""
    es = {
        "forget": forget,
        "forget_paraphrased": 0.8 * forget,
        "retain": retain,
        "retain_paraphrased": 0.8 * retain,
        "holdout": 0.05,
    }
    return tuple(
        found
        for name, value in es.items()
        for found in (
            score(name, ES, value),
            score(name, PPL, 1 + 2000 * (1 - value) ** 3, half=0.3),
            score(name, KL, 4 * (1 - value) ** 2),
        )
    )


def calibration(forget: float, retain: float, alpha: float, residual: float, mixture_retain: float) -> Calibration:
    """A search that probed four mixtures; at tau it has the mixture's scores."""
    ends = ((0.0, 1.0, 0.97), (1.0, retain / ORIGINAL_RETAIN, forget))
    refined = ((0.5 * alpha, 0.98, 0.5 * (0.97 + residual)), (alpha, mixture_retain / ORIGINAL_RETAIN, residual))
    probes = [
        Probe(alpha=a, retention=r, forget=f, phase=phase, feasible=r >= TAU, scored=100, of=100)
        for phase, found in (("end", ends), ("refine", refined))
        for a, r, f in found
    ]
    at_tau = AtTau(
        alpha=Estimate(value=alpha, low=alpha, high=alpha),
        retention=max(TAU, retain / ORIGINAL_RETAIN),
        scores={
            name: Estimate(value=found, low=max(0.0, found - 0.05), high=found + 0.05)
            for name, found in (("forget", residual), ("forget_paraphrased", 0.8 * residual))
        },
    )
    ratio = mixture_retain / ORIGINAL_RETAIN
    return Calibration(
        tau=TAU,
        metric=ES,
        alpha=alpha,
        upper=1.0,
        monotone=True,
        passes=4.0,
        unchecked=(),
        kept=(Kept(measure="retain ES", original=ORIGINAL_RETAIN, value=mixture_retain, ratio=ratio, n=100),),
        delivered=estimate(retain / ORIGINAL_RETAIN),
        probes=tuple(probes),
        at_tau=at_tau,
        frontier={},
    )


def unlearned(name: str, **update: Any) -> UnlearnedModel:
    """One unlearned model of the study; `rmu` is the one that diverged."""
    facts: dict[str, Any] = {
        "name": name,
        "group": "",
        "method": name,
        "summary": f"the {name} method in words",
        "formula": f"L_{name}",
        "source": "arXiv:2404.05868",
        "settings": {"lr": RATES.get(name, 1e-4), "epochs": 5, "batch_size": 16},
        "status": "ok",
        "steps": StepNames(model=f"unlearn {name}", score=f"score {name}", calibrate=f"calibrate {name}"),
    }
    if name in NUMBERS:
        forget, retain, _, residual, mixture_retain = NUMBERS[name]
        facts |= {
            "scores": scores(forget, retain),
            "calibration": calibration(*NUMBERS[name]),
            "calibrated_scores": scores(residual, mixture_retain),
        }
    elif name == "rmu":
        facts |= {"status": "diverged", "message": "training diverged: the gradient was not finite at step 7"}
    return UnlearnedModel(**{**facts, **update})


def pairs(**confidence: float) -> dict[str, dict[str, float]]:
    """Confidence for each two models, 1 but for those of `confidence`: model -> that it leaves less than the next."""
    found = {a: {b: 1.0 if i < j else 0.0 for j, b in enumerate(RANKING) if a != b} for i, a in enumerate(RANKING)}
    following = dict(pairwise(RANKING))
    for name, share in confidence.items():
        found[name][following[name]], found[following[name]][name] = share, 1 - share
    return found


def study_results(**update: Any) -> StudyResults:
    """A study in which npo is best, then gd, kl, po and ga, and rmu diverged."""
    sizes = {"forget": (100, 10), "retain": (300, 30), "retain_eval": (100, 10), "holdout": (100, 10)}
    fields = {
        "study": StudyInfo(
            name="example",
            title="Six methods on fictional authors",
            kind="study",
            uwc_version="0.1.0",
            config={"seed": 0, "tau": TAU},
        ),
        "benchmark": BenchmarkInfo(
            name="fictional-authors",
            fingerprint="3f1c0de5",
            splits={name: SplitInfo(examples=n, subjects=s) for name, (n, s) in sizes.items()},
        ),
        "model": ModelInfo(source="built from nothing", parameters=984192, vocabulary=1024, dtype="float32"),
        "metrics": METRICS,
        "sets": {name: SetInfo(label=label, examples=100) for name, label in SETS.items()},
        "retention": Retention(tau=TAU, measures=("retain ES",), rank_by=ES),
        "references": (
            ReferenceModel(role="original", scores=scores(0.97, ORIGINAL_RETAIN), step="score original"),
            ReferenceModel(role="retrained", scores=scores(0.11, 0.979), step="score retrained"),
        ),
        "unlearned": tuple(unlearned(name) for name in RATES),
        "ranking": RANKING,
        "pairs": pairs(),
        "groups": (),
        "warnings": (Warning(code="small-set", text="the holdout set is small"),),
        "provenance": Provenance(store_version=1, data_files={}, environments=(), steps={}),
    }
    return StudyResults(**{**fields, **update})


def uncalibrated(results: StudyResults) -> StudyResults:
    """The same study without calibration."""
    runs = [changed(run, calibration=None, calibrated_scores=()) for run in results.unlearned]
    return changed(results, unlearned=runs, ranking=(), pairs={}, retention=None)


def frontier(scores_at: dict[float, float], half: float = 0.1) -> Frontier:
    """A frontier with the scores of `scores_at` (tau -> score) as its curve, and a straight path."""
    curve = [
        CurvePoint(tau=tau, alpha=0.5, value=value, low=value - half, high=value + half)
        for tau, value in scores_at.items()
    ]
    path = [PathPoint(alpha=a, retention=1 - a / 2, forget=1 - a) for a in (0.0, 0.5, 1.0)]
    return Frontier(curve=tuple(curve), path=tuple(path), area=sum(scores_at.values()) / len(scores_at))


def run_record() -> RunRecord:
    """Three steps, one of them reused."""
    return RunRecord(
        environment={"uwc": "0.1.0", "python": "3.11.9", "torch": "2.9.0", "platform": "Linux", "device": "cpu"},
        steps=(
            StepTime(
                name="fine-tune original",
                key="abc123",
                seconds=31.24,
                peak_bytes=4_560_000_000,
                reused=False,
                outcome="done",
            ),
            StepTime(name="unlearn npo", key="def456", seconds=125.0, reused=False, outcome="done"),
            StepTime(name="score original", key="789abc", seconds=4.0, reused=True, outcome="done"),
        ),
        started="2026-11-26T20:40:12+00:00",
        ended="2026-11-26T20:51:02+00:00",
    )


def difference(mean: float, half: float = 0.1, **more: Any) -> Difference:
    """A difference with the interval ``mean ± half``."""
    fields = {"mean": mean, "n": 12, "low": mean - half, "high": mean + half, "kind": "difference", "p_value": 0.01}
    return Difference(**{**fields, **more})


def outcome(attack: str, before: float, after: float, control: float, **more: Any) -> AttackOutcome:
    """ES on the forget set before and after an attack that makes the retrained model score `control`."""
    fields = {
        "attack": attack,
        "set": "forget",
        "metric": ES,
        "before": aggregate(before, n=12),
        "after": aggregate(after, n=12),
        "recovery": difference(after - before),
        "over_control": difference(after - control),
    }
    return AttackOutcome(**{**fields, **more})


def attacked(key: ModelKey, before: float, jailbreak: float, relearn: float) -> AttackedModel:
    """A model under a jailbreak of several variants and relearning with two budgets."""
    budgets = [Variant(label=f"{n} steps", effort=float(n), note="", changed=1.0, mean=relearn * n / 8) for n in (4, 8)]
    worst = aggregate(jailbreak + 0.2, n=12)
    return AttackedModel(
        model=key,
        outcomes=(
            outcome(
                "jailbreak",
                before,
                jailbreak,
                0.05,
                worst_case=worst,
                worst_case_over_control=difference(jailbreak + 0.1),
            ),
            outcome("relearn", before, relearn, 0.1, variants=budgets),
        ),
    )


def cell(metric: str, attack: str, pcc: float, published: float | None = None, **more: Any) -> Cell:
    """An agreement on the forget set whose statistics are all `pcc`."""
    names = ("pcc", "spearman", "slope", "intercept", "distance")
    agreement = Agreement(n=12, **dict.fromkeys(names, Estimate(value=pcc, low=pcc - 0.1, high=1.0)))
    fields = {
        "metric": metric,
        "attack": attack,
        "split": "forget",
        "touches_weights": attack == "relearn",
        "on_logarithms": metric == PPL,
        "agreement": agreement,
        "published": published,
    }
    return Cell(**{**fields, **more})


def rank(place: int, metric: str, touches: bool, pcc: float) -> Rank:
    """A metric's place by mean PCC."""
    return Rank(
        place=place,
        metric=metric,
        touches_weights=touches,
        pcc=pcc,
        worst=pcc,
        distance_from_one=0.25,
        cells=2,
        missing=0,
    )


def attacked_results(**update: Any) -> StudyResults:
    """Three runs of two methods (two strengths of ga, and npo) and the retrained model under two attacks."""
    methods = {"ga weak": "ga", "ga strong": "ga", "npo": "npo"}
    runs = [
        unlearned(name, method=method, formula=f"L_{method}", scores=scores(0.2, 0.9))
        for name, method in methods.items()
    ]
    numbers = {"ga weak": (0.5, 0.25, 0.9), "ga strong": (0.1, 0.15, 0.7), "npo": (0.2, 0.35, 0.6)}
    models = [attacked(ModelKey(role="unlearned", run=run), *found) for run, found in numbers.items()]
    models.append(attacked(ModelKey(role="retrained"), 0.0, 0.05, 0.1))
    info = {"chain": (), "trains_on_scored": False, "metrics": (ES,)}
    attacks = Attacks(
        attacks=(
            AttackInfo(name="jailbreak", settings={}, touches_weights=False, **info),
            AttackInfo(name="relearn", settings={"relearn": {"budgets": [4, 8]}}, touches_weights=True, **info),
        ),
        sets={"forget": 12},
        attacker={"train": 6, "retain": 9, "unrelated": 0},
        models=tuple(models),
    )
    points = [
        Point(checkpoint=run, metric=metric, attack="jailbreak", split="forget", before=x, after=x / 2)
        for metric in (ES, PPL)
        for run, x in zip(methods, (0.2, 0.4, 0.8), strict=True)
    ]
    order = {"attack": "jailbreak", "split": "forget", "first": ES, "second": PPL, "published": (0.9, 0.8)}
    robustness = Robustness(
        checkpoints=12,
        points=tuple(points),
        cells=(cell(ES, "jailbreak", 0.9), cell(PPL, "jailbreak", 1.0, 0.97)),
        ranking=(rank(1, PPL, False, 1.0), rank(2, ES, False, 0.9), rank(1, ES, True, 0.8), rank(2, PPL, True, 0.2)),
        without_logarithms=(rank(1, PPL, False, 0.5),),
        log_metrics=(PPL,),
        orders=(Order(**order, ours=(0.9, 0.8), same=True), Order(**order, ours=(0.7, 0.8), same=False)),
        faithfulness=(Faithfulness(metric=ES, set="forget", knowing=10, ignorant=10, auc=0.75),),
    )
    fields = {"unlearned": runs, "ranking": (), "pairs": {}, "attacks": attacks, "robustness": robustness}
    return study_results(**{**fields, "retention": None, **update})


SET_METRIC = MetricInfo(
    label="forget quality", summary="p-value", source="", higher_remembers=False, range=(0, 1), average="set"
)


def depth_profile(key: ModelKey, deep: float, **more: Any) -> DepthProfile:
    """The profile of a model over six blocks, from the share that is gone from the last one; see `DepthProfile`."""
    known = (0.01, 0.2, 0.9, 1.7, 2.1, 2.4)
    changed = tuple(deep * value * (block / 6) for block, value in enumerate(known, start=1))
    values = {"known": known, "changed": changed, "share": (0.0, 0.4, 0.9, 1.0, 1.0, 1.0)}
    rest = {"set": "forget", "model": key, "span": "answer", "threshold": 0.05, "n": 20, "without_layer": 0}
    return DepthProfile(**{**rest, **values, **more})


def with_profiles(results: StudyResults) -> StudyResults:
    """The results with the profiles of two models as delivered and calibrated, on two sets."""
    return changed(
        results,
        depth=[
            depth_profile(ModelKey(role=role, run=run), deep, set=name)
            for name in ("forget", "retain")
            for role in ("calibrated", "unlearned")
            for run, deep in (("gd", 0.9), ("npo", 0.4))
        ],
    )


def columns_of(table: Table) -> dict[str, dict[str, str]]:
    """First line of the first cell of a row -> column -> cell."""
    return {row[0].partition("\n")[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
