"""The strongest of many attacks: folds, the budget, and an interval that holds for the choice."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.conftest import people
from tests.helpers.hidden_knowledge import ignorant, robust_knower

import uwc
from uwc.attacks import strongest
from uwc.attacks.chain import make_chain
from uwc.attacks.data import AttackData
from uwc.attacks.evaluate import VariantValues
from uwc.attacks.strongest import (
    Budget,
    Candidate,
    Search,
    candidates,
    carried_out,
    cross_fitting,
    every_attack,
    halvings,
    own_part,
    read_budget,
    read_vary,
    recovered_share,
    scaled,
)
from uwc.data.example import Example
from uwc.errors import AttackFailed, ConfigError, DataError
from uwc.models.model import Model

KNOWN, OTHERS = people(4), people()[8:]


def questions(subjects: int, each: int = 2) -> list[Example]:
    return [
        Example(f"{s}/{i}", f"Q {s} {i}?", f"A {s} {i}", subject=f"s{s}") for s in range(subjects) for i in range(each)
    ]


def ids(examples: Any) -> set[str]:
    return {e.id for e in examples}


def subjects(examples: Any) -> set[str]:
    return {e.subject for e in examples}


def test_every_question_is_scored_once_and_never_trained_or_chosen_on_in_its_fold() -> None:
    asked = questions(11)
    folds = cross_fitting(asked, 4, seed=3)
    assert sorted(e.id for fold in folds for e in fold.scored) == sorted(ids(asked))
    for fold in folds:
        parts = [subjects(fold.train), subjects(fold.choice), subjects(fold.scored)]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 11
        assert all(len(part) in (2, 3, 5, 6) for part in parts)
    assert subjects(folds[0].choice) == subjects(folds[1].scored)


def test_with_data_of_its_own_the_attacker_trains_on_half_and_chooses_on_half() -> None:
    (fold,) = own_part(questions(6), KNOWN)
    assert len(subjects(fold.train)) == len(subjects(fold.choice)) == 3
    assert fold.scored == KNOWN


@pytest.mark.parametrize(
    ("number", "count", "error"), [(2, 9, "at least 3 are needed"), (5, 4, "5 folds of 4 subjects")]
)
def test_folds_that_cannot_be_made_are_refused(number: int, count: int, error: str) -> None:
    with pytest.raises((ConfigError, DataError), match=error):
        cross_fitting(questions(count), number)


def test_candidates_are_all_combinations_of_the_values_that_vary() -> None:
    found = candidates(
        ["relearn+probe", "nf4", "relearn_retain"],
        settings={"probe": {"epochs": 2}},
        vary={"lr": [1e-4, 1e-3], "relearn.batch_size": [4, 8], "probe.lr": [1e-2]},
    )
    assert [c.name for c in found] == [
        *(f"relearn+probe lr={lr} batch_size={size}" for lr in ("0.0001", "0.001") for size in (4, 8)),
        "quantization_nf4", "relearn_retain lr=0.0001", "relearn_retain lr=0.001",
    ]  # fmt: skip
    first = {step.entry.name: step.settings for step in found[0].chain.steps}
    assert (first["relearn"]["lr"], first["probe"]["lr"], first["probe"]["epochs"]) == (1e-4, 1e-2, 2)


@pytest.mark.parametrize(
    ("vary", "error"),
    [
        ({"bits": [4]}, "none of the attacks has this setting"),
        ({"quantization.bits": [4]}, "none of the attacks has this setting"),
        ({"lr": ["high"]}, "lr"),
        ({"relearn.steps": [0]}, "steps"),
    ],
)
def test_values_that_no_attack_takes_are_refused(vary: Any, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        candidates(["relearn"], vary=vary)


def test_words_of_the_command_line_are_read() -> None:
    assert read_vary(["lr=1e-5,0.1", "relearn.lora_rank=null,8", "budgets=[1,2],[4]", "optimizer=sgd"]) == {
        "lr": [1e-5, 0.1], "relearn.lora_rank": [None, 8], "budgets": [(1, 2), (4,)], "optimizer": ["sgd"],
    }  # fmt: skip
    assert read_budget("minutes=1.5") == Budget(minutes=1.5)
    assert read_budget("runs=30") == Budget(runs=30)
    for text in ("10", "hours=1", "minutes=", "minutes=x", "runs=-1", "minutes=nan"):
        with pytest.raises(ConfigError, match="budget"):
            read_budget(text)
    for text in ("lr", "=1", "lr=", "lr=[1"):
        with pytest.raises(ConfigError, match="--vary"):
            read_vary([text])


def test_rounds_keep_one_attack_in_three() -> None:
    assert halvings(1) == [(1.0, 1)]
    assert halvings(2) == [(1.0, 1)]
    assert halvings(3) == [(1 / 3, 1), (1.0, 1)]
    assert halvings(33) == [(1 / 9, 11), (1 / 3, 4), (1.0, 2)]


def test_a_share_of_an_attack_has_a_share_of_its_steps_and_the_budgets_within() -> None:
    chain = make_chain("relearn+probe", {"relearn": {"steps": 30, "budgets": [3, 10, 30]}, "probe": {"epochs": 7}})
    steps = scaled(chain, 1 / 3).steps
    assert (steps[0].settings["steps"], steps[0].settings["budgets"]) == (10, (3, 10))
    assert steps[1].settings["epochs"] == 7
    assert scaled(chain, 1 / 30).steps[0].settings["budgets"] == (1,)
    assert scaled(chain, 1.0) == chain


def test_the_recovered_share_is_that_of_what_unlearning_took() -> None:
    before, after, original = np.array([0.1, 0.3]), np.array([0.5, 0.3]), np.array([0.9, 0.7])
    assert recovered_share(before, after, original) == pytest.approx((0.4 - 0.2) / (0.8 - 0.2))
    assert np.isnan(recovered_share(before, after, before))


def test_every_attack_that_the_data_admit_is_tried_and_none_that_is_given_the_answers() -> None:
    data = AttackData(KNOWN[:2], train=KNOWN[2:], retain=OTHERS)
    names = {c.chain.name for c in every_attack(data, "extraction_strength")}
    assert {"relearn", "relearn_retain", "quantization", "jailbreak", "soft_prompt", "gcg"} <= names
    given = {"relearn_original", "relearn_forget", "gcg_per_question", "prefix"}
    assert not names & {*given, "relearn_unrelated", "translation", "sampling"}  # no data, or unseen by this metric
    assert "sampling" in {c.chain.name for c in every_attack(data, "rouge_l")}


class _Made:
    """A search whose attacks are drawn numbers: every attack has the same true recovery, and noise by subject."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, attacks: int, true: float) -> None:
        self.calls: list[tuple[str, int]] = []
        chains = [Candidate(make_chain("quantization", {"quantization": {"group_size": i}})) for i in range(attacks)]
        self.chains, self.true, self.random = chains, true, np.random.default_rng(0)
        self.noise: dict[tuple[int, str], float] = {}
        monkeypatch.setattr(strongest, "attacked_values", self.attacked)
        monkeypatch.setattr(strongest, "metric_values", lambda _m, asked, names, **_: {names[0]: np.zeros(len(asked))})

    def attacked(self, _model: Any, data: AttackData, chain: Any, names: Any, **_: Any) -> list[VariantValues]:
        number = chain.steps[0].settings["group_size"]
        self.calls.append((chain.name, len(data.scored)))
        values = [self.true + self.of(number, e.subject) for e in data.scored]
        return [VariantValues("", None, "", None, {names[0]: np.array(values)})]

    def of(self, attack: int, subject: str) -> float:
        if (attack, subject) not in self.noise:
            self.noise[attack, subject] = float(self.random.normal())
        return self.noise[attack, subject]

    def run(self, folds: int = 3, budget: Budget | None = None) -> Any:
        self.noise.clear()
        asked = questions(24)
        model: Any = None
        data = AttackData(asked)
        return Search(model, data, cross_fitting(asked, folds), self.chains, "rouge_l", budget).run()


def test_the_interval_holds_for_the_choice_and_that_of_the_maximum_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """60 attacks without effect: the greatest of their recoveries is far above 0, that of the chosen one is not."""
    made = _Made(monkeypatch, attacks=60, true=0.0)
    held = naive = 0
    for _ in range(50):
        found = made.run()
        held += found.recovery.low <= 0 <= found.recovery.high
        best = max(found.surface, key=lambda p: p.recovery.mean)
        naive += best.recovery.low <= 0 <= best.recovery.high
        assert found.on_choice > found.after.mean
    assert held >= 43  # of 50 at 95 %, with 24 subjects
    assert naive <= 25


def test_a_budget_of_runs_is_kept_and_shared_by_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    made = _Made(monkeypatch, attacks=27, true=0.5)
    found = made.run(budget=Budget(runs=27))
    # 3 a round and fold: 27 attacks with a ninth of the choice, 9 with a third, 3 of it all; then the report
    assert (found.spent.runs, found.not_tried) == (3 * (27 + 9 + 3), 0)
    assert [sum(t.share == share for t in found.tried) for share in (1 / 9, 1 / 3, 1.0)] == [81, 27, 9]
    assert len(made.calls) == found.spent.runs + 3
    assert found.surface == ()
    fewer = made.run(budget=Budget(runs=9))
    assert (fewer.spent.runs, fewer.not_tried) == (3 * (9 + 3 + 1), 3 * 18)
    assert carried_out(27, 9) == [(1 / 9, 27), (1 / 3, 9), (1, 3)]
    assert carried_out(27, 3) == [(1 / 9, 9), (1 / 3, 3), (1, 1)]


@pytest.mark.parametrize("runs", [0.1, 2, 5.5, 12, 100])
@pytest.mark.parametrize("count", [1, 4, 11, 27])
def test_the_attacks_that_a_budget_of_runs_carries_out_are_known_before(
    monkeypatch: pytest.MonkeyPatch, count: int, runs: float
) -> None:
    spent = _Made(monkeypatch, attacks=count, true=0.5).run(budget=Budget(runs=3 * runs)).spent
    assert spent.runs == 3 * sum(done for _, done in carried_out(count, runs))


def test_attacks_that_fail_are_listed_and_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    made = _Made(monkeypatch, attacks=3, true=0.5)
    attacked = made.attacked

    def failing(model: Any, data: Any, chain: Any, names: Any, **given: Any) -> list[VariantValues]:
        if chain.steps[0].settings["group_size"] != 1:
            raise AttackFailed("it broke")
        return attacked(model, data, chain, names, **given)

    monkeypatch.setattr(strongest, "attacked_values", failing)
    found = made.run()
    assert [t.failed for t in found.tried].count("it broke") == 6
    assert all(c.failed == "" for c in found.chosen) and len(found.chosen) == 3
    monkeypatch.setattr(made, "chains", made.chains[:1])
    with pytest.raises(AttackFailed, match="every attack failed"):
        made.run()


@pytest.fixture(scope="module")
def unlearned(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("unlearned") / "model"
    settings = {"epochs": 6, "lr": 2e-3, "batch_size": 4}
    uwc.unlearn(robust_knower(), "gd", forget=KNOWN, retain=OTHERS, training=settings, output_dir=folder)
    return uwc.load_model(folder)


@pytest.mark.slow
def test_relearning_recovers_what_a_model_still_knows_and_nothing_from_one_that_never_knew(unlearned: Model) -> None:
    given: dict[str, Any] = {
        "vary": {"lr": [1e-5, 1e-3], "bits": [8]}, "settings": {"relearn": {"budgets": (2, 8)}}, "folds": 4,
    }  # fmt: skip
    found = uwc.strongest_attack(
        unlearned, KNOWN, ["relearn", "quantization"], control=ignorant(), original=robust_knower(), **given
    )
    best = found.strongest
    assert best.over_control is not None and best.over_control.low > 0.2
    assert best.control_after is not None and best.control_after.mean < 0.1
    assert best.recovered_share is not None and best.recovered_share.mean > 0.4
    assert best.choice_before == pytest.approx(best.before.mean)  # each question is chosen on once
    assert {(c.attack, c.variant) for c in best.chosen} <= {("relearn", "2 steps"), ("relearn", "8 steps")}
    assert {c.settings["relearn"]["lr"] for c in best.chosen} == {1e-3}
    assert len(best.surface) == 5  # two rates at two budgets, and eight bits
    assert (best.spent.runs, best.spent.steps) == (4 * 3, 4 * 2 * 8)
    assert best.spent.tokens > 0
    amount = r"\S+ \[.*\] extraction_strength"
    over = f"recovers {amount} over the retrained model and {amount} over the score before it; n"
    assert re.search(over, found.headline)
    never = uwc.strongest_attack(ignorant(), KNOWN, ["relearn", "quantization"], **given, original=ignorant())
    assert never.strongest.recovery.mean < 0.1
    assert "took: undefined" in (never.share_text() or "")


@pytest.mark.slow
def test_the_same_budget_of_runs_gives_the_same_results_and_a_file(unlearned: Model, tmp_path: Any) -> None:
    first, second = (
        uwc.strongest_attack(
            unlearned, KNOWN, ["jailbreak", "nf4", "int3"], budget="runs=6", output_dir=tmp_path / name
        )
        for name in ("a", "b")
    )
    timed = {"spent": first.strongest.spent}
    assert first.strongest == second.strongest.model_copy(update=timed)
    assert uwc.StrongestResults.load(tmp_path / "a" / "strongest.json").strongest == first.strongest
    assert not (tmp_path / "a" / ".chunks").exists()


def test_what_cannot_be_searched_is_refused_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="name the attacks"):
        uwc.strongest_attack(ignorant(), KNOWN)
    with pytest.raises(ConfigError, match="trains on the scored answers"):
        uwc.strongest_attack(ignorant(), KNOWN, ["relearn_forget"], budget="runs=3")
    with pytest.raises(ConfigError, match="changes only how answers are generated"):
        uwc.strongest_attack(ignorant(), KNOWN, ["sampling"], budget="runs=3")
    with pytest.raises(DataError, match="--retain"):
        uwc.strongest_attack(ignorant(), KNOWN, ["relearn_retain"], budget="runs=3")
    with pytest.raises(DataError, match="relearning with subjects = 9"):
        uwc.strongest_attack(ignorant(), KNOWN, ["relearn"], vary={"subjects": [1, 9]})
    with pytest.raises(ConfigError, match="optimizer"):
        uwc.strongest_attack(ignorant(), KNOWN, ["relearn"], vary={"optimizer": ["adamm"]})
    assert replace(Budget(minutes=3), runs=2).part(2) == Budget(minutes=1.5, runs=1)
