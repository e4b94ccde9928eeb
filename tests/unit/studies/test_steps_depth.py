"""The unlearning depth score in a study, alone, and the steps that it takes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from tests.helpers.small_study import STUDY, run_plan

import uwc
from uwc.attacks.chain import attacked, make_chain
from uwc.attacks.data import AttackData
from uwc.errors import ConfigError
from uwc.metrics.depth import load_drops
from uwc.models import chunks, patching
from uwc.models.model import Loading
from uwc.models.patching import patched_drops
from uwc.results import RETRAINED_KNOWS, ModelKey, StudyResults, find
from uwc.studies.config import StudyConfig
from uwc.studies.plan import Plan, make_plan
from uwc.studies.store import Store

WHOLE = "trace_auc_retrained_retain"


def config(**changes: Any) -> StudyConfig:
    given = STUDY.model_dump()
    given["unlearn"]["runs"] = [{"method": "gd"}]
    given["score"] = {"metrics": ["extraction_strength", "UDS"], "max_new_tokens": 0}
    return StudyConfig(**{**given, "retrained": True, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Store, StudyResults]:
    """A study without the score, and then with it."""
    store = Store(tmp_path_factory.mktemp("store"))
    before = make_plan(config(score={"metrics": ["extraction_strength"], "max_new_tokens": 0}))
    run_plan(before, store)
    plan = make_plan(config())
    results, steps = run_plan(plan, store)
    computed = {name for name, step in steps.items() if not step.reused}
    assert computed == {"depth of retrained", "depth of gd", "depth of gd, calibrated"}
    return plan, store, results


def test_scores_of_all_models(finished: tuple[Plan, Store, StudyResults]) -> None:
    _, _, results = finished
    ends = {model.role: find(model.scores, "forget", "uds") for model in results.references}
    (run,) = results.unlearned
    ends |= {"gd": find(run.scores, "forget", "uds"), "calibrated": find(run.calibrated_scores, "forget", "uds")}
    means = {name: score.mean for name, score in ends.items() if score is not None and score.n}
    assert means["original"] == 0 and means["retrained"] == 1
    assert 0 < means["calibrated"] <= means["gd"] < 1
    assert {score.not_scored for score in ends.values() if score} == {ends["original"].not_scored}  # type: ignore[union-attr]


def test_profiles(finished: tuple[Plan, Store, StudyResults]) -> None:
    plan, store, results = finished
    assert {(p.model.label, p.set) for p in results.depth} == {
        (name, of) for name in ("gd", "gd, calibrated") for of in plan.sets
    }
    profile = next(p for p in results.depth if p.model.role == "unlearned" and p.set == "forget")
    assert plan.retrained is not None and plan.retrained.depth is not None
    known = load_drops(store.folder(plan.retrained.depth), ["forget"])["forget"]
    assert profile.known == pytest.approx(known.mean(axis=0)) and len(profile.known) == 2
    assert profile.share == pytest.approx((known > 0.05).mean(axis=0))
    rows = [row for row in results.depth_rows() if row["role"] == "unlearned" and row["set"] == "forget"]
    assert [row["layer"] for row in rows] == [1, 2] and rows[1]["changed"] == profile.changed[1]
    assert StudyResults.model_validate_json(results.to_json()).depth == results.depth


def test_score_alone_gives_the_same_numbers_to_the_bit(finished: tuple[Plan, Store, StudyResults]) -> None:
    plan, store, results = finished
    paths = {name: store.folder(step) / "model" for name, step in models_of(plan).items()}
    sets = {name: list(plan.sets[name]) for name in ("forget", "retain")}
    alone = uwc.score(
        paths["gd"], sets, metrics="uds", original=paths["original"], retrained=paths["retrained"], max_new_tokens=0
    )
    (run,) = results.unlearned
    for name in sets:
        assert find(alone.scores, name, "uds") == find(run.scores, name, "uds")
        (profile,) = (p for p in alone.depth if p.set == name)
        (theirs,) = (p for p in results.depth if p.set == name and p.model.role == "unlearned")
        assert (profile.known, profile.changed, profile.share) == (theirs.known, theirs.changed, theirs.share)
    assert np.isfinite(alone.answers["uds"]).sum() == sum(s.n for s in alone.scores)


def models_of(plan: Plan) -> Mapping[str, Any]:
    assert plan.retrained is not None
    return {"original": plan.original.model, "retrained": plan.retrained.model, "gd": plan.runs[0].model}


def test_another_run_takes_the_retrained_models_part_from_the_store(
    finished: tuple[Plan, Store, StudyResults],
) -> None:
    plan, _, _ = finished
    other = make_plan(config(unlearn={"runs": [{"method": "ga"}]}))
    assert [m.depth and m.depth.key for m in other.references] == [m.depth and m.depth.key for m in plan.references]
    assert other.runs[0].depth.key != plan.runs[0].depth.key  # type: ignore[union-attr]
    assert other.original.score.key == plan.original.score.key


def test_settings_reach_the_score_and_its_step() -> None:
    plain = make_plan(config())
    plan = make_plan(config(score={"metrics": ["uds"], "settings": {"UDS": {"span": "secret", "threshold": 0.1}}}))
    assert plan.scoring.settings == {"uds": {"span": "secret", "threshold": 0.1}}
    assert plan.runs[0].depth.work.span == "secret"  # type: ignore[union-attr]
    assert plan.runs[0].depth.key != plain.runs[0].depth.key  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"retrained": False}, "score: the metric 'uds' needs a model that was never trained"),
        ({"score": {"metrics": ["probability"], "settings": {"uds": {"span": "secret"}}}}, "'uds' is not measured"),
        ({"score": {"metrics": ["uds"], "settings": {"uds": {"span": "word"}}}}, "span"),
        ({"calibrate": {"rank_by": "uds"}}, "uds"),
        (
            {
                "score": {"metrics": ["probability", "mia_min_k"], "settings": {"mia_min_k": {"k": 0.3}}},
                "attack": {"chains": ["quantization"]},
            },
            "attacks measure 'mia_min_k' with its defaults",
        ),
        ({"attack": {"chains": ["token_noise"], "metrics": ["uds"]}}, "'token_noise' changes more than weights"),
        (
            {
                "score": {"metrics": ["uds"], "settings": {"uds": {"span": "secret"}}},
                "attack": {"chains": ["quantization"], "metrics": ["uds"]},
            },
            "attacks measure 'uds' with its defaults",
        ),
        ({"score": {"metrics": ["uds"], "sets": {"probability": ["forget"]}}}, "'probability' is not measured"),
        ({"score": {"metrics": ["uds"], "sets": {"uds": ["train"]}}}, "unknown set 'train'.*valid: forget"),
        ({"score": {"metrics": ["uds"], "sets": {"uds": []}}}, "'uds' has no set"),
        (
            {"score": {"metrics": ["extraction_strength"], "sets": {"ES": ["retain"]}}},
            "'extraction_strength' leaves out 'forget', and models are ranked by it there; add it",
        ),
        (
            {"score": {"metrics": ["uds"], "sets": {"uds": ["forget"]}}, "attack": {"chains": ["quantization"]}},
            "'uds' leaves out 'retain', and attacks measure it there; add it",
        ),
        (
            {
                "score": {
                    "metrics": ["trace_auc_retrained_retain"],
                    "sets": {"trace_auc_retrained_retain": ["forget"]},
                },
            },
            "'trace_auc_retrained_retain' is of whole sets",
        ),
    ],
)
def test_what_a_study_cannot_do(changes: dict[str, Any], said: str) -> None:
    with pytest.raises((ConfigError, ValidationError), match=said):
        make_plan(config(**changes))


def test_a_metric_on_named_sets_alone(finished: tuple[Plan, Store, StudyResults]) -> None:
    plan, store, whole = finished
    score = {**config().score.model_dump(exclude_defaults=True), "sets": {"UDS": ["forget_paraphrased", "forget"]}}
    some = make_plan(config(score=score))
    assert set(some.runs[0].depth.work.sets) == {"forget", "forget_paraphrased"}  # type: ignore[union-attr]
    assert [run.score.key for run in some.runs] == [run.score.key for run in plan.runs], "the other scores are the same"
    results, _ = run_plan(some, store)
    found, before = results.unlearned[0].scores, whole.unlearned[0].scores
    assert {s.set for s in found if s.metric == "uds"} == {"forget", "forget_paraphrased"}
    assert {s.set for s in before if s.metric == "uds"} > {"forget", "forget_paraphrased"}
    assert [s for s in before if s.metric != "uds" or s.set.startswith("forget")] == list(found)


def test_attacks_measure_the_other_metrics_where_it_has_settings_of_its_own() -> None:
    score = {"metrics": ["extraction_strength", "uds"], "settings": {"uds": {"threshold": 0.1}}, "max_new_tokens": 0}
    plan = make_plan(config(score=score, attack={"chains": ["quantization"]}))
    assert plan.attacks[0].step.measured == ("extraction_strength",)


def test_an_interrupted_step_continues_with_the_same_bits(
    finished: tuple[Plan, Store, StudyResults], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before every second batch; each is computed once, and the files are the same."""
    plan, store, _ = finished
    step = plan.runs[0].depth
    assert step is not None
    expected = load_drops(store.folder(step), step.work.sets)
    monkeypatch.setattr(chunks, "EVERY", 0.0)
    monkeypatch.setattr(patching, "SCORING_BUDGET", 64)
    work, calls, most = patching._drops, [0], [10**9]

    def counted(*given: Any, **settings: Any) -> Any:
        if calls[0] >= most[0]:
            raise KeyboardInterrupt
        calls[0] += 1
        return work(*given, **settings)

    monkeypatch.setattr(patching, "_resumes", lambda *_: True)
    monkeypatch.setattr(patching, "_drops", counted)
    found, counts = [], []
    for pause in (10**9, 2):
        store.remove(step)
        calls[0], most[0], stopped = 0, pause, 0
        while True:
            try:
                run_plan(plan, store)
            except KeyboardInterrupt:
                most[0], stopped = calls[0] + pause, stopped + 1
                continue
            break
        counts.append(calls[0])
        found.append(load_drops(store.folder(step), step.work.sets))
    assert counts[0] == counts[1] > 4 and stopped == (counts[0] - 1) // 2
    for name, drops in expected.items():
        assert found[0][name].tobytes() == found[1][name].tobytes()
        assert found[0][name] == pytest.approx(drops, abs=1e-4, nan_ok=True)
    assert not store.checkpoints(step).exists()


def test_under_an_attack_on_weights_as_by_whole_passes(finished: tuple[Plan, Store, StudyResults]) -> None:
    _, store, _ = finished
    attack = {"chains": ["quantization_nf4", "token_noise"], "models": ["unlearned", "retrained"], "examples": 3}
    plan = make_plan(config(attack=attack))
    assert {planned.chain.label: planned.step.measured for planned in plan.attacks} == {
        "quantization_nf4": ("extraction_strength", "uds"),
        "token_noise": ("extraction_strength",),
    }
    results, _ = run_plan(plan, store)
    assert results.attacks is not None and plan.setup is not None
    under = results.attacks.under(ModelKey(role="unlearned", run="gd"))
    outcome = under and under.outcome("quantization_nf4", "forget", "uds")

    loaded = {name: Loading().plain(str(store.folder(step) / "model")) for name, step in models_of(plan).items()}
    examples = list(plan.setup.sets["forget"])
    assert 0 < len(examples) < len(plan.sets["forget"]), "the rows of D1 are looked up"
    with attacked(loaded["gd"], AttackData(examples), make_chain("quantization_nf4")) as variants:
        changed, known = (
            patched_drops(loaded["original"], source, {"": examples}, resume=False)[""]
            for source in (next(variants).model, loaded["retrained"])
        )
    weights = np.where(known > 0.05, known, 0.0)
    expected = (weights * np.clip(changed / known, 0, 1)).sum(axis=1) / weights.sum(axis=1)
    assert outcome is not None and outcome.after.mean == pytest.approx(np.nanmean(expected), rel=1e-4)
    assert outcome.after.mean != outcome.before.mean


def test_a_retrained_model_that_knows_the_answers_gives_no_score(
    finished: tuple[Plan, Store, StudyResults], tmp_path: Path
) -> None:
    plan, store, _ = finished
    path = store.folder(plan.original.model) / "model"
    given = config(
        model={"path": str(path)},
        finetune=None,
        retrained=str(path),
        unlearn={"runs": [{"name": "x", "checkpoint": str(path)}]},
        calibrate=None,
    )
    results, _ = run_plan(make_plan(given), Store(tmp_path))
    assert RETRAINED_KNOWS in {warning.code for warning in results.warnings}
    score = find(results.unlearned[0].scores, "forget", "uds")
    assert score is not None and score.n == 0 and "knows" in next(iter(score.why))
    assert not results.depth
