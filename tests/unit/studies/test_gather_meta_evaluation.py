"""The meta-evaluation of a study: its pools, its refusals, and its numbers recomputed from what the study stored."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers.hub_copies import REAL
from tests.helpers.small_study import STUDY, run_plan

from uwc.errors import ConfigError
from uwc.metrics.depth import Depth, load_drops, unlearning_depth_score
from uwc.metrics.scored import ScoredSet
from uwc.results import ENOUGH_MODELS, StudyResults
from uwc.robustness import faithfulness_auc
from uwc.studies import gather as gathering
from uwc.studies import sections
from uwc.studies.config import StudyConfig
from uwc.studies.config_file import load_config
from uwc.studies.plan import Plan, make_plan
from uwc.studies.steps import Attack, FineTune, identity
from uwc.studies.store import Store

RELEARN, NF4 = "relearn_forget", "quantization_nf4"
POOLS = {"knowing": 2, "ignorant": 3, "epochs": [0.5, 1.0]}


def study(**changes: Any) -> StudyConfig:
    """A study of a few seconds with pools."""
    given = STUDY.model_dump(exclude={"finetune"}) | {
        "finetune": {"epochs": 20, "batch_size": 16, "lr": 1e-2, "seed": 5},
        "retrained": True,
        "unlearn": {
            "training": {"epochs": 5, "batch_size": 2, "lr": 1e-2, "warmup_ratio": 0.0},
            "runs": [{"method": "kl"}, {"method": "gd"}],
        },
        "score": {"metrics": ["probability", "perplexity", "kl_to_original", "uds"], "max_new_tokens": 0},
        "calibrate": None,
        "attack": {"chains": [RELEARN, NF4, "token_noise"], "attacker": {"forget_share": 0.5}},
        "robustness": {"pools": POOLS, "utility": "probability", "least_utility": 1e-6},
    }
    return StudyConfig(**{**given, **changes})


@pytest.fixture(scope="module")
def few() -> Any:
    """Two unlearned models are enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gathering, "ENOUGH_MODELS", 2)
        patch.setattr(sections, "ENOUGH_MODELS", 2)
        yield


@pytest.fixture(scope="module")
def made(few: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Store, StudyResults]:
    """The study's plan, store and results."""
    plan, store = make_plan(study()), Store(tmp_path_factory.mktemp("meta") / "store")
    return plan, store, run_plan(plan, store)[0]


def test_the_pools_differ_in_seed_length_and_data(few: None) -> None:
    plan = make_plan(study())
    found = [(m.knowing, m.model.training.seed, m.model.training.epochs) for m in plan.pools]
    assert found == [(True, 6, 10.0), (True, 7, 20.0), (False, 6, 10.0), (False, 7, 20.0), (False, 8, 10.0)]
    everything, kept = (len(plan.benchmark.training_examples(with_forget=w)) for w in (True, False))
    assert [len(m.model.answers) for m in plan.pools] == [everything] * 2 + [kept] * 3 and kept < everything
    assert {m.model.id for m in plan.pools} <= {step.id for step in plan.steps}
    assert len({step.id for step in plan.steps}) == len(plan.steps)
    base = plan.pools[0].model.base
    assert all(m.model.base is base and isinstance(m.model, FineTune) for m in plan.pools)


def test_only_the_attack_that_relearns_the_forget_set_is_keyed_by_it(few: None) -> None:
    """The other attacks have the keys that they have without it."""
    steps = [step for step in make_plan(study()).steps if isinstance(step, Attack)]
    for step in steps:
        relearns = step.attack[0][0] == RELEARN
        assert bool(step.data.forget) == relearns and ("forget" in identity(step.data)) == relearns
    alone = study(attack={"chains": ["token_noise"], "attacker": {"forget_share": 0.5}}, robustness=None)
    keys = {step.key for step in steps if step.attack[0][0] == "token_noise"}
    assert {step.key for step in make_plan(alone).steps if isinstance(step, Attack)} == keys


def pool_means(plan: Plan, store: Store, metric: str) -> tuple[list[float], list[float]]:
    pools: tuple[list[float], list[float]] = ([], [])
    for member in plan.pools:
        scored = ScoredSet.load(store.folder(member.score), "forget")
        pools[0 if member.knowing else 1].append(scored.aggregate(metric).mean)
    return pools


def test_faithfulness_is_over_the_pools(made: tuple[Plan, Store, StudyResults]) -> None:
    plan, store, results = made
    assert results.robustness is not None
    for metric, higher in (("probability", True), ("perplexity", False), ("kl_to_original", False)):
        (found,) = (f for f in results.robustness.faithfulness if (f.metric, f.set) == (metric, "forget"))
        knowing, ignorant = pool_means(plan, store, metric)
        assert (found.over, found.knowing, found.ignorant) == ("models", 2, 3)
        assert (found.knowing_values, found.ignorant_values) == (tuple(knowing), tuple(ignorant))
        assert found.auc == pytest.approx(faithfulness_auc(knowing, ignorant, higher_remembers=higher))
        assert found.low < found.auc <= found.high


def test_a_metric_on_named_sets_is_evaluated_on_these(made: tuple[Plan, Store, StudyResults]) -> None:
    _, store, whole = made
    score = {"metrics": ["probability", "perplexity", "kl_to_original", "uds"], "max_new_tokens": 0}
    some = make_plan(study(score={**score, "sets": {"uds": ["forget", "retain"]}}))
    found, before = run_plan(some, store)[0].robustness, whole.robustness
    assert found is not None and before is not None
    rows = {(f.metric, f.set): f.auc for f in found.faithfulness}
    assert ("uds", "forget") in rows and ("uds", "forget_paraphrased") not in rows
    assert rows == {
        key: auc for key, auc in {(f.metric, f.set): f.auc for f in before.faithfulness}.items() if key in rows
    }
    places = [[(c.metric, c.attack, c.split) for c in r.cells] for r in (found, before)]
    assert places[0] == [place for place in places[1] if place[0] != "uds" or place[2] in ("forget", "retain")]


def test_robustness_is_that_of_the_attacked_models(made: tuple[Plan, Store, StudyResults]) -> None:
    """R and Q of the probability from the outcomes, and of perplexity on 1 / PPL."""
    plan, store, results = made
    attacks, robustness = results.attacks, results.robustness
    assert attacks is not None and robustness is not None and robustness.meta_evaluation is not None
    meta = robustness.meta_evaluation
    assert {(row.metric, row.set) for row in meta.metrics} == {
        (metric, "forget") for metric in ("probability", "perplexity", "kl_to_original", "uds")
    }
    for metric, turned in (("probability", lambda x: x), ("perplexity", lambda x: 1 / x)):
        (row,) = (row for row in meta.metrics if row.metric == metric)
        assert row.models + row.too_little_utility + row.not_unlearned == 2
        values = {
            m.model.label: [
                (turned(o.before.mean), turned(o.after.mean))
                for attack in (RELEARN, NF4)
                for o in m.outcomes
                if (o.attack, o.metric, o.set) == (attack, metric, "forget")
            ]
            for m in attacks.models
        }
        pools = [sorted(map(turned, pool)) for pool in pool_means(plan, store, metric)]
        passing = [
            name
            for name in ("kl", "gd")
            if turned(next(s.mean for s in results.run(name).scores if (s.metric, s.set) == (metric, "forget")))
            <= turned(row.threshold) + 1e-12
        ]
        assert pools[1][-1] < pools[0][0], "the pools are apart"
        assert turned(row.threshold) == pytest.approx((pools[1][-1] + pools[0][0]) / 2)
        assert row.models == len(passing) == 2
        control = np.subtract(*values["retrained"][0])
        r = [min(max(control / np.subtract(*values[n][0]), 0.0), 1.0) for n in passing]
        q = [min(values[n][1][1] / values[n][1][0], 1.0) for n in passing]
        assert row.relearning.value == pytest.approx(np.mean(r))
        assert row.quantization.value == pytest.approx(np.mean(q))


def test_the_depth_score_is_measured_for_the_pools_and_under_both_attacks(
    made: tuple[Plan, Store, StudyResults],
) -> None:
    """From its drops, and as the other metrics' numbers from there on."""
    plan, store, results = made
    assert results.robustness is not None and results.attacks is not None and plan.retrained is not None
    (found,) = (f for f in results.robustness.faithfulness if (f.metric, f.set) == ("uds", "forget"))
    pools: tuple[list[float], list[float]] = ([], [])
    assert plan.retrained.depth is not None
    known = load_drops(store.folder(plan.retrained.depth), ["forget"])["forget"]
    for member in plan.pools:
        assert member.depth is not None
        changed = load_drops(store.folder(member.depth), ["forget"])["forget"]
        pools[0 if member.knowing else 1].append(
            float(np.nanmean(unlearning_depth_score(Depth("answer", known, changed))))
        )
    assert found.knowing_values == pytest.approx(pools[0]) and found.ignorant_values == pytest.approx(pools[1])
    assert max(pools[0]) < min(pools[1]) and found.auc == 1, "models without the answers have lost them"
    for model in results.attacks.models:
        by_attack = {o.attack: o for o in model.outcomes if (o.metric, o.set) == ("uds", "forget")}
        assert set(by_attack) == {RELEARN, NF4}, "not under an attack on prompts"
        assert all(0 <= o.after.mean <= 1 for o in by_attack.values())
        if model.model.role == "retrained":
            assert by_attack[RELEARN].before.mean == 1 > by_attack[RELEARN].after.mean


def test_a_study_without_the_section_has_no_pools(few: None) -> None:
    assert make_plan(study(robustness=None)).pools == ()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"attack": None}, "the study has no attacks"),
        ({"attack": {"chains": [RELEARN]}}, r"robustness\.quantization: unknown attack 'quantization_nf4'"),
        ({"robustness": {"pools": POOLS, "relearning": "token_noise"}}, "'token_noise' does not change weights"),
        ({"retrained": False}, "set retrained: true"),
        ({"attack": {"chains": [RELEARN, NF4], "sets": ["retain"]}}, "forget to attack.sets"),
        ({"attack": {"chains": [RELEARN, NF4], "models": ["unlearned"]}}, "add them to attack.models"),
        ({"robustness": {"pools": POOLS, "utility": "perplexity"}}, r"robustness\.utility: unknown metric of utility"),
        ({"finetune": None, "model": {"path": "there"}, "retrained": "there"}, "needs 'finetune'"),
        ({"robustness": {"pools": {"knowing": 1, "ignorant": 2}}}, "knowing"),
        ({"robustness": {"pools": {**POOLS, "epochs": [0.0]}}}, "epochs"),
    ],
)
def test_what_a_meta_evaluation_lacks_is_named(few: None, changes: dict[str, Any], told: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=told):
        study(**changes)


def test_fewer_than_ten_unlearned_models_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections, "ENOUGH_MODELS", ENOUGH_MODELS)
    with pytest.raises(ConfigError, match="at least 10 unlearned models, and the study has 2"):
        study()


def test_the_utility_is_scored_even_if_it_is_not_named(few: None) -> None:
    plan = make_plan(study(robustness={"pools": POOLS, "utility": "exact_memorization"}))
    assert "exact_memorization" in plan.scoring.metrics


def test_the_shipped_study_has_pools_and_the_fields_attacks() -> None:
    plan = make_plan(load_config("robustness"))
    assert len(plan.runs) == 36 and len(plan.pools) == 12
    labels = {planned.chain.label for planned in plan.attacks}
    assert {RELEARN, NF4} <= labels and len(plan.attacks) == len(labels) * 38


@pytest.mark.skipif(not (REAL / "tofu_full").is_dir(), reason="TOFU's files are not there")
def test_the_study_of_the_real_model_is_planned(few: None, tmp_path: Path) -> None:
    """With a small model of as many blocks: 12 models of six methods, the paper's attacks, and 20 forget questions."""
    from tests.conftest import people

    from uwc.models.load import build_model, save_model

    save_model(build_model(people(), vocabulary=300, hidden_size=4, layers=30, heads=1, context=64, seed=0), tmp_path)
    changes = {"benchmark.settings.path": str(REAL / "tofu_full"), "model.path": str(tmp_path)}
    plan = make_plan(load_config("robustness-smollm2", overrides=changes))
    assert len(plan.runs) == 12 and len({run.config.method for run in plan.runs}) == 6
    assert {"jailbreak", "probe", "relearn_original", "token_noise", RELEARN, NF4} <= {
        step.attack[0][0] for step in plan.steps if isinstance(step, Attack)
    }
    assert len(plan.sets["forget"]) == 20 and len(plan.sets["retain"]) == 10
    assert len(plan.pools) == 6 and len(plan.attacks) == 13 * 7
    shipped = make_plan(load_config("robustness")).scoring.metrics
    assert set(shipped) - set(plan.scoring.metrics) == {"letter_accuracy", "letter_margin"}, "else comparable"
    assert set(plan.scoring.metrics) < set(shipped)
