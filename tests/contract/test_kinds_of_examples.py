"""Every metric, method and attack works on questions, conversations, multiple choice and raw text, or says why not."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.conftest import copied, tiny_model
from tests.contract.test_metrics import JUDGE
from tests.helpers.hidden_knowledge import KNOWN, UNKNOWN, ignorant, weights
from tests.unit.attacks.test_chain import QUICK

from uwc.attacks.chain import attacked, make_chain
from uwc.attacks.data import AttackData
from uwc.attacks.registry import attacks
from uwc.data.choices import choice_example
from uwc.data.example import Example
from uwc.data.passages import passage
from uwc.errors import AttackFailed, DataError
from uwc.metrics.depth import Depth
from uwc.metrics.registry import metrics
from uwc.metrics.scored import ScoredSet, needs_of, score_set
from uwc.models.patching import patched_drops
from uwc.objectives.methods import METHODS
from uwc.objectives.objective import Objective
from uwc.objectives.registry import ROLES
from uwc.training.data import TrainingData
from uwc.training.settings import SampleSettings, TrainingSettings
from uwc.training.unlearn import unlearn

TURNS = (("system", "Be brief."), ("user", "Who mends clocks?"), ("assistant", "Somebody in a house."))


def question(example: Example) -> Example:
    return replace(example, secret=(example.answer.split()[-1],))


def conversation(example: Example) -> Example:
    return replace(question(example), history=TURNS)


def choice(example: Example) -> Example:
    options = [example.perturbed_answers[0], example.answer]
    made = choice_example(example.question, options, 1, layout="letters", identity=example.id, subject=example.subject)
    return replace(made, secret=(example.answer,), paraphrased_question=f"Say: {made.question}")


def raw(example: Example) -> Example:
    made = passage(f"{example.question} {example.answer}.", identity=example.id)
    return replace(made, subject=example.subject, secret=(made.answer.split()[-1],))


KINDS: dict[str, Callable[[Example], Example]] = {
    "question": question, "conversation": conversation, "multiple choice": choice, "passage": raw,
}  # fmt: skip
NEEDS = needs_of([e.name for e in metrics])


@pytest.fixture(scope="module")
def scored() -> dict[str, ScoredSet]:
    model = tiny_model()
    found = {}
    for kind, made in KINDS.items():
        needs = NEEDS - {"perturbed"} if kind == "passage" else NEEDS
        examples = [made(e) for e in KNOWN]
        scored = score_set(model, examples, needs=needs, reference=tiny_model(seed=1), max_new_tokens=8)
        known, changed = (patched_drops(model, tiny_model(seed=seed), {"": examples})[""] for seed in (1, 2))
        scored = replace(scored, depth=Depth("answer", np.abs(known), changed))  # untrained models may also gain
        found[kind] = scored.judged_by(JUDGE, [e.name for e in metrics])
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("entry", list(metrics), ids=lambda e: e.name)
def test_a_metric_has_values_for_every_kind(entry: Any, kind: str, scored: dict[str, ScoredSet]) -> None:
    if kind == "passage" and {"perturbed", "letters"} & set(entry.facts["needs"]):
        pytest.skip("a passage has no wrong answers")
    values = scored[kind].values(entry.name)
    assert values.shape == (len(KNOWN),)
    if not np.isfinite(values).any():
        reason = next(reason for reason in NO_VALUE if entry.facts["unscored"].startswith(reason))
        assert kind in NO_VALUE[reason]


NO_VALUE: dict[str, Sequence[str]] = {
    "the true answer has no name or number": ["multiple choice"],  # it is a letter
    "no wrong answer to compare": ["multiple choice"],  # letters are not lettered again
    "the generated text has no word": list(KINDS),  # the model is not trained
}
"""Reason that a metric tells -> the kinds of examples of which it has no value here."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", METHODS)
def test_a_method_trains_on_every_kind_or_says_why_not(name: str, kind: str) -> None:
    model, made = tiny_model(), KINDS[kind]
    before, objective = weights(model), Objective(METHODS[name], model.model)
    data = TrainingData([made(e) for e in KNOWN[:2]], [made(e) for e in KNOWN[2:6]], ("I do not know.",))
    samples = SampleSettings(max_new_tokens=4)
    settings = TrainingSettings(epochs=1, batch_size=2, lr=1e-2, warmup_ratio=0, samples=samples)
    refused = kind == "passage" and any(ROLES[role].answers not in ("own", "samples") for role in objective.roles)
    message = rf"the method '{name}' .*(is a passage|has no perturbed_answers)"
    with pytest.raises(DataError, match=message) if refused else nullcontext():
        model = unlearn(model, METHODS[name], data, settings).model
    assert (weights(model) == before) == refused


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("entry", list(attacks), ids=lambda e: e.name)
def test_an_attack_works_on_every_kind_or_says_why_not(entry: Any, kind: str) -> None:
    made, model = KINDS[kind], copied(ignorant())
    data = AttackData(
        [made(e) for e in KNOWN[:2]], train=[made(e) for e in KNOWN[2:6]], retain=[made(e) for e in KNOWN[6:]],
        unrelated=[made(e) for e in UNKNOWN], translations={e.id: f"¿{e.question}" for e in KNOWN},
        questions={"aliases": {e.id: f"{e.question} As said" for e in KNOWN}},
        forget=[made(e) for e in KNOWN[:4]],
    )  # fmt: skip
    chain = make_chain(entry.name, {entry.name: QUICK.get(entry.name, {})})
    with refusal(entry, kind), attacked(model, data, chain) as variants:
        for variant in variants:
            scored = score_set(variant.model, data.scored, needs={"scores"})
            assert np.isfinite(scored.values("probability")).all()
            if kind == "conversation" and entry.name != "token_noise":
                prompts = variant.model.prompts(variant.model.encode(data.scored))
                assert all(TURNS[-1][1] in prompt for prompt in prompts), "earlier turns stay in the prompt"


def refusal(entry: Any, kind: str) -> AbstractContextManager[object]:
    """Expects the reason why the attack is not carried out on examples of a kind, if there is one."""
    if kind == "passage" and entry.facts["rewords"]:
        return pytest.raises(DataError, match=f"the attack '{entry.name}' rewords questions, .* is a passage")
    if (entry.name, kind) == ("prefix", "multiple choice"):  # a letter has no beginning that could be given
        return pytest.raises(AttackFailed, match="'prefix' changes no prompt")
    return nullcontext()
