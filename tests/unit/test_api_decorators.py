"""`uwc.metric`, `uwc.loss` and `uwc.attack_method`: defaults, checks when they are applied, cells run again."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import copied, people

import uwc
from uwc.attacks.chain import with_own_weights
from uwc.attacks.data import AttackData
from uwc.attacks.registry import attacks
from uwc.errors import ConfigError
from uwc.metrics import likelihood
from uwc.metrics.registry import INPUTS, metrics
from uwc.models.scoring import score_tokens
from uwc.objectives.registry import terms

pytestmark = pytest.mark.usefixtures("restored_registries")


def notebook(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as one of a notebook's."""
    function.__module__ = "__main__"
    return function


def test_a_metric_is_its_function_with_defaults() -> None:
    @uwc.metric
    def length(answers: list[str]) -> np.ndarray:
        """Characters of the answer."""
        return np.array([float(len(a)) for a in answers])

    facts = metrics.get("length").facts
    assert facts["needs"] == ("answers",) and facts["label"] == "length" and facts["average"] == "arithmetic"
    assert facts["range"] == (-np.inf, np.inf) and facts["higher_remembers"] is True
    assert length(["four"]).tolist() == [4.0], "the function stays what it was"


def test_declarations_and_settings_are_kept() -> None:
    @uwc.metric(name="capped", label="CAP", range=(0, 3), higher_remembers=False, average="geometric", source="here")
    def anything(answers: list[str], texts: list[str], *, most: int = 3) -> np.ndarray:
        return np.array([float(min(len(a), most)) for a in answers])

    entry = metrics.get("capped")
    assert (entry.facts["needs"], entry.facts["label"], entry.source) == (("answers", "texts"), "CAP", "here")
    assert metrics.check("capped", {"most": 2.0}) == {"most": 2}


def test_a_metric_is_computed_by_label_and_by_itself(knowing: uwc.Model) -> None:
    def chance(scores: Any) -> np.ndarray:
        return likelihood.probability(scores)

    @uwc.metric(label="LEN")
    def letters(answers: list[str]) -> np.ndarray:
        return np.array([float(len(a)) for a in answers])

    expected = float(np.mean([len(e.answer) for e in people(2)]))
    found = uwc.score(knowing, people(2), metrics=["len", letters, chance, "probability"], max_new_tokens=0)
    of_forget = [s for s in found.scores if s.set == "forget"]
    assert [s.metric for s in of_forget] == ["letters", "chance", "probability"]
    assert of_forget[0].mean == expected and of_forget[1].mean == of_forget[2].mean
    assert found.metrics["letters"].label == "LEN"


WRONG_METRICS: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (
        lambda scoress: scoress,
        {},
        r"unknown input of the metric 'x' 'scoress' \(did you mean 'scores'\?\); valid: scores, ",
    ),
    (lambda: None, {}, "has no argument; valid inputs: scores, answers"),
    (lambda *scores: scores, {}, r"takes \* or \*\* arguments"),
    (lambda scores, **more: scores, {}, r"takes \* or \*\* arguments"),
    (lambda scores: scores, {"average": "harmonic"}, "unknown average.*valid: arithmetic, geometric"),
    (lambda scores: scores, {"range": (1, 0)}, "declares the range 1 to 0"),
    (lambda scores: scores, {"average": "geometric"}, "averaged geometrically, and its range begins at -inf"),
    (lambda scores: scores, {"higher_remembers": None}, "higher_remembers.*valid: True, False"),
    (lambda scores: scores, {"name": "perplexity"}, "'perplexity' is registered twice, by uwc.metrics.likelihood"),
    (lambda scores: scores, {"label": "ES"}, "would share 'es' with 'extraction_strength'"),
    (lambda scores: scores, {"name": "ppl"}, "would share 'ppl' with 'perplexity'"),
    (lambda scores: scores, {"name": "core"}, "'core' has the name of a suite"),
    (lambda scores: scores, {"name": "model_utility"}, "name of a suite or of a metric of whole sets"),
    (lambda scores: scores, {"name": None}, "the metric <lambda> has no name; give it one"),
]


@pytest.mark.parametrize(("function", "declared", "message"), WRONG_METRICS)
def test_an_impossible_metric_is_refused_when_it_is_declared(
    function: Callable[..., Any], declared: dict[str, Any], message: str
) -> None:
    before = metrics.names()
    with pytest.raises(ConfigError, match=message) as error:
        uwc.metric(**{"name": "x", **declared})(function)
    assert metrics.names() == before and "\n" not in str(error.value)


def test_the_valid_inputs_are_listed() -> None:
    with pytest.raises(ConfigError) as error:
        uwc.metric(name="x")(lambda nothing: nothing)
    assert all(name in str(error.value) for name in INPUTS)


WRONG_LOSSES: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (lambda f: f, {"needs": "forgot"}, r"unknown role that the term 'x' needs 'forgot' \(did you mean 'forget'\?\)"),
    (lambda f: f, {"needs": ("forget.logit",)}, r"unknown input .* 'forget.logit' \(did you mean 'forget.logits'\?\)"),
    (lambda f: f, {"needs": ("retain",)}, "trains on the role 'forget', and needs only retain; add it"),
    (lambda f: f, {"needs": ("forget.states",)}, "give it a setting that says of which block: layer"),
    (lambda f: f, {"needs": ()}, "needs nothing"),
    (lambda f: f, {"side": "both"}, "unknown side.*valid: forget, retain"),
    (lambda f: f, {"role": "forgetting", "needs": "forget"}, "unknown role of the term"),
    (lambda f: f, {"reduction": "batch"}, "unknown reduction.*valid: tokens, examples"),
    (
        lambda f, beta: f,
        {},
        r"takes the arguments \(f, beta\), and is called with \(forwards\); write settings after a \*",
    ),
    (lambda f: f, {"name": "npo"}, "'npo' is registered twice"),
]


@pytest.mark.parametrize(("function", "declared", "message"), WRONG_LOSSES)
def test_an_impossible_loss_is_refused_when_it_is_declared(
    function: Callable[..., Any], declared: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        uwc.loss(**{"name": "x", **declared})(function)
    assert "x" not in terms.names()


WRONG_ATTACKS: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (lambda t, d: t, {"kind": "prompts"}, r"unknown kind .* \(did you mean 'prompt'\?\); valid: weights, inside"),
    (
        lambda t, d: t,
        {"needs": "train|retian"},
        r"'retian' \(did you mean 'retain'\?\); valid: train, retain, unrelated",
    ),
    (lambda t, d: t, {"effort": "steps"}, "unknown effort of the attack 'x' 'steps'; valid: none"),
    (lambda t, d: t, {"budgets": True}, "declares budgets"),
    (lambda t: t, {}, r"is called with \(model, data\)"),
    (lambda t, d: t, {"name": "relearn"}, "'relearn' is registered twice"),
]


@pytest.mark.parametrize(("function", "declared", "message"), WRONG_ATTACKS)
def test_an_impossible_attack_is_refused_when_it_is_declared(
    function: Callable[..., Any], declared: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        uwc.attack_method(**{"name": "x", **declared})(function)
    assert "x" not in attacks.names()


def test_a_cell_that_is_run_again_counts_the_last_time() -> None:
    """The same function, an edited one under its name, one that was renamed, a lambda and a partial."""

    def cell(scale: float, called: str) -> Callable[..., Any]:
        def function(answers: list[str]) -> np.ndarray:
            return scale * np.ones(len(answers))

        function.__qualname__ = function.__name__ = called
        return notebook(function)

    for scale, called in ((1.0, "mine"), (1.0, "mine"), (2.0, "mine"), (3.0, "other")):
        uwc.metric(name="mine")(cell(scale, called))
        assert metrics.get("mine").function(["a"]).tolist() == [scale]
    for scale in (4.0, 5.0):
        uwc.metric(name="mine")(notebook(lambda answers, *, by=scale: by * np.ones(len(answers))))
        assert metrics.get("mine").function(["a"]).tolist() == [scale]
    assert metrics.names().count("mine") == 1


def test_two_functions_of_a_module_cannot_have_one_name() -> None:
    def first(answers: list[str]) -> np.ndarray:
        return np.ones(len(answers))

    def second(answers: list[str]) -> np.ndarray:
        return np.zeros(len(answers))

    uwc.metric(name="one")(first)
    with pytest.raises(ConfigError, match=r"'one' is registered twice, by .*first and .*second"):
        uwc.metric(name="one")(second)
    with pytest.raises(ConfigError, match="registered twice"):
        uwc.metric(name="one")(partial(second))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            lambda n: np.float64(0.5),
            r"'wrong' returned an array of shape \(\); return one value for each of the 4 examples",
        ),
        (lambda n: np.ones(n + 1), r"shape \(5,\)"),
        (lambda n: np.full(n, 1.5), "returned 1.5, outside the range 0 to 1 that it declares"),
    ],
)
def test_what_a_metric_returns_is_checked(values: Callable[[int], Any], message: str, untrained: uwc.Model) -> None:
    """A mean instead of a value an example would otherwise be every example's value."""

    @uwc.metric(range=(0.0, 1.0))
    def wrong(answers: list[str]) -> Any:
        return values(len(answers))

    with pytest.raises(ConfigError, match=message):
        uwc.score(untrained, people(2), metrics=wrong, max_new_tokens=0)


def test_what_a_loss_returns_is_checked(knowing: uwc.Model, tmp_path: Any) -> None:
    @uwc.loss
    def averaged(forwards: Any) -> torch.Tensor:
        return forwards.forget.logprobs.mean()

    with pytest.raises(ConfigError, match=r"'averaged' .* shape \(\)"):
        uwc.unlearn(knowing, averaged, forget=people(1), output_dir=tmp_path / "out")


def test_an_attack_returns_a_model_or_yields_several(knowing: uwc.Model) -> None:
    """Each as by hand: the same questions in other words, and weights that are scaled."""

    @uwc.attack_method
    def shout(model: uwc.Model, data: AttackData) -> uwc.Model:
        return model.rewritten(lambda e: replace(e, question=e.question.upper()))

    @uwc.attack_method(kind="weights", effort="steps")
    def shrink(model: uwc.Model, data: AttackData, *, steps: tuple[float, ...] = (0.5, 0.9)) -> Iterator[uwc.Model]:
        for step in steps:
            own = with_own_weights(model)
            with torch.no_grad():
                for weight in own.model.parameters():
                    weight.mul_(step)
            yield own

    before = score_tokens(knowing, people(2)).logprob.copy()
    found = uwc.attack(knowing, people(2), [shout, "shrink"], metrics=["probability"])
    loud, small = found.attacks.models[0].outcomes
    by_hand = [replace(e, question=e.question.upper()) for e in people(2)]
    expected = uwc.score(knowing, {"loud": by_hand}, metrics=["probability"], max_new_tokens=0).scores[0].mean
    assert loud.after.mean == expected and loud.worst_case is None
    assert len(small.variants) == 2 and small.worst_case is not None and small.variants[0].changed is not None
    assert found.attacks.attacks[1].touches_weights and not found.attacks.attacks[0].touches_weights
    assert np.array_equal(score_tokens(knowing, people(2)).logprob, before)


def test_an_attack_that_gives_something_else_is_refused(knowing: uwc.Model) -> None:
    def nothing(model: uwc.Model, data: AttackData) -> None:
        return None

    with pytest.raises(ConfigError, match="'nothing' returned a NoneType"):
        uwc.attack(copied(knowing), people(1), nothing)
