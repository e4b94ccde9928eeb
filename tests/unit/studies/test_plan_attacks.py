"""What a study's attacker has and what is scored: shares, spreading, and no overlap."""

import json
from pathlib import Path

import pytest
from tests.conftest import tiny_model
from tests.helpers.small_study import STUDY

from uwc.data.benchmarks.fictional import fictional_authors
from uwc.errors import ConfigError, DataError
from uwc.models.load import save_model
from uwc.studies.config import StudyConfig
from uwc.studies.plan import AttackSetup, attack_setup, chain_metrics, make_plan, scored_sets
from uwc.studies.sections import AttackConfig
from uwc.studies.steps import Attack

BENCHMARK = fictional_authors(authors=20, forget_share=0.5, facts=2, phrasings=1, holdout=2)


def made(**given: object) -> AttackSetup:
    config = AttackConfig.model_validate({"chains": ["probe"], **given})
    return attack_setup(config, BENCHMARK, scored_sets(BENCHMARK), seed=0)


def test_the_attackers_subjects_are_a_share_of_the_forget_set_and_not_scored() -> None:
    setup = made(attacker={"forget_share": 0.3})
    theirs = {e.subject for e in setup.data.train}
    scored = {e.subject for e in setup.sets["forget"]}
    assert (len(theirs), len(scored)) == (3, 7) and not theirs & scored
    assert {e.subject for e in setup.data.retain}.isdisjoint(e.subject for e in setup.sets["retain"])
    assert {e.split for e in setup.data.unrelated} == {"general"}
    assert len(setup.data.original) == len(BENCHMARK.training_examples(with_forget=True))


def test_fewer_examples_are_spread_over_all_of_a_set() -> None:
    setup = made(attacker={"forget_share": 0.3, "retain_examples": 4}, examples=7)
    everything = made(attacker={"forget_share": 0.3}).sets["forget"]
    places = [everything.index(e) for e in setup.sets["forget"]]
    assert len(places) == 7 and places[0] == 0 and places[-1] == len(everything) - 1
    assert len({e.subject for e in setup.sets["forget"]}) == 7
    assert len(setup.data.retain) == 4
    assert setup.data.scored == [*setup.sets["forget"], *setup.sets["retain"]]


def test_rewordings_of_what_the_attacker_has_are_not_scored_either() -> None:
    setup = made(sets=["forget_paraphrased"], attacker={"forget_share": 0.3})
    assert {e.id for e in setup.data.train}.isdisjoint(e.id for e in setup.sets["forget_paraphrased"])


def test_overlap_and_unknown_sets_are_refused() -> None:
    with pytest.raises(DataError, match="attacker's unrelated and scored sets overlap"):
        made(attacker={"unrelated": "retain_eval"})
    with pytest.raises(ConfigError, match=r"unknown set in attack\.sets 'forgotten'"):
        made(sets=["forgotten"])


def test_common_settings_are_for_every_chain_that_does_not_set_them_itself() -> None:
    config = AttackConfig.model_validate(
        {
            "chains": ["relearn+probe", "jailbreak", {"chain": "relearn", "settings": {"relearn": {"steps": 3}}}],
            "settings": {"relearn": {"steps": 20, "lr": 1e-3}},
        }
    )
    steps = [{s.entry.name: s.settings for s in chain.made().steps} for chain in config.chains]
    assert [found.get("relearn", {}).get("steps") for found in steps] == [20, None, 3]
    assert steps[2]["relearn"]["lr"] == 1e-3
    with pytest.raises(ConfigError, match="'probe', which is not among the attacks: jailbreak"):
        AttackConfig.model_validate({"chains": ["jailbreak"], "settings": {"probe": {"epochs": 1}}})
    assert AttackConfig.model_validate(config.model_dump()) == config


def test_attacks_can_be_measured_by_what_models_are_ranked_by() -> None:
    """And by ROUGE-L too where an attack changes only how answers are generated."""
    scored, visible = ["extraction_strength", "rouge_l", "probability"], ["extraction_strength"]
    for chains, expected in (
        (["jailbreak"], ("probability",)),
        (["jailbreak", "sampling"], ("probability", "rouge_l")),
    ):
        config = AttackConfig.model_validate({"chains": chains, "metrics": ["rank_by"]})
        assert config.measured(scored, visible=visible, ranked_by="probability") == expected


def test_other_forms_come_from_files_and_must_cover_what_is_scored(tmp_path: Path) -> None:
    asked = made().data.scored
    path = tmp_path / "forms.jsonl"
    rows = [{"question": e.question, "aliases": f"{e.question} As said", "hops": f"Well, {e.question}"} for e in asked]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    chain = {"chains": ["rewritten"], "attacker": {"questions": {"aliases": str(path), "hops": str(path)}}}
    setup = made(**chain)
    assert {form: of[asked[0].id] for form, of in setup.data.questions.items()} == {
        "aliases": f"{asked[0].question} As said", "hops": f"Well, {asked[0].question}"
    }  # fmt: skip
    config = AttackConfig.model_validate(chain)
    assert chain_metrics(["extraction_strength"], config.chains[0], setup, depths=[]) == ["extraction_strength"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[1:]), encoding="utf-8")
    with pytest.raises(DataError, match=f"'aliases' .*{asked[0].id}.*attack.attacker.questions"):
        chain_metrics(["extraction_strength"], config.chains[0], made(**chain), depths=[])


def test_translations_come_from_a_file_and_must_cover_what_is_scored(tmp_path: Path) -> None:
    asked = made().data.scored
    path = tmp_path / "translated.jsonl"
    rows = [{"question": e.question, "translation": f"Auf Deutsch: {e.question}"} for e in asked]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    chain = {"chains": ["translation"], "attacker": {"translations": str(path)}}
    setup = made(**chain)
    assert setup.data.translations[asked[0].id] == f"Auf Deutsch: {asked[0].question}"
    config = AttackConfig.model_validate(chain)
    assert chain_metrics(["extraction_strength"], config.chains[0], setup, depths=[]) == ["extraction_strength"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[1:]), encoding="utf-8")
    with pytest.raises(DataError, match=f"{asked[0].id}.*attack.attacker.translations"):
        chain_metrics(["extraction_strength"], config.chains[0], made(**chain), depths=[])


def test_an_attack_that_asks_another_model_is_rerun_when_that_changes(tmp_path: Path) -> None:
    folder = tmp_path / "attacker"
    save_model(tiny_model(), folder)

    def keys(**settings: object) -> list[str]:
        data = STUDY.model_dump()
        chain = {"chain": "evolution", "settings": {"evolution": settings}}
        data["attack"] = {"chains": [chain], "sets": ["forget"], "attacker": {"forget_share": 0.5}}
        plan = make_plan(StudyConfig.model_validate(data))
        return [step.key for step in plan.steps if isinstance(step, Attack)]

    first, alone = keys(attacker=str(folder)), keys()
    assert keys(attacker=str(folder)) == first
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**config, "max_length": 99}))
    assert not set(keys(attacker=str(folder))) & set(first)
    assert keys() == alone and alone
