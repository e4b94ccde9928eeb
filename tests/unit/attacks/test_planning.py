"""Planned answers, against one token a pass without a cache, and a reward that is fitted slowly."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from tests.conftest import people
from tests.helpers.architectures import architecture
from tests.helpers.hidden_knowledge import KNOWN, SCORED, SPOKEN, UNKNOWN, ignorant, outcomes, reluctant

from uwc.attacks import planning
from uwc.attacks.chain import attacked, make_chain
from uwc.attacks.data import AttackData
from uwc.attacks.evaluate import attacked_values, budget_curves, measure
from uwc.attacks.planning import Linear, PlannedBy, Planning, Reward, learn_reward, logistic_regression
from uwc.data.example import Example
from uwc.errors import AttackFailed, ConfigError, DataError
from uwc.models import samples
from uwc.models.generation import continue_greedily, generate
from uwc.models.load import build_model
from uwc.models.model import Model
from uwc.models.samples import sample_tokens


def test_planning_tells_what_greedy_decoding_hides() -> None:
    """As many tokens are drawn as by 16 samples, whose mean is what a single answer has without planning."""
    model = reluctant()
    sampled = outcomes(model, "sampling", {"samples": 16}, SPOKEN)
    planned = outcomes(model, "planning", {"rollouts": 8, "horizon": 8, "stride": 4}, SPOKEN)
    assert planned[""] > 0.7 > 0.4 > sampled["mean"]


def test_planning_recovers_nothing_that_was_never_known() -> None:
    """A model against another one that never saw the data, by the recovery of the one beyond that of the other."""
    data = AttackData(KNOWN, retain=UNKNOWN)
    chain = make_chain("planning", {"planning": {"rollouts": 4}})
    control = build_model(people(), vocabulary=600, hidden_size=64, layers=2, heads=2, context=512, seed=5)
    theirs = attacked_values(control, data, chain, [SPOKEN], max_new_tokens=16, texts=False)
    (found,) = measure(ignorant(), data, chain, [SPOKEN], control=theirs, max_new_tokens=16)
    assert found.after.mean < 0.1
    assert found.over_control is not None and found.over_control.low <= 0 <= found.over_control.high


def reading(model: Model, tokens: list[int], layer: int) -> tuple[np.ndarray, np.ndarray]:
    """The last logits and the state after each token, without a cache."""
    with torch.no_grad():
        output = model.model(input_ids=torch.tensor([tokens]), use_cache=False, output_hidden_states=True)
    place = layer - (model.model.config.model_type == "mamba")  # which leaves the embeddings out
    return output.logits[0, -1].double().numpy(), output.hidden_states[place][0].double().numpy()


def slowly(model: Model, examples: list[Example], reward: Reward, of: Planning, *, new: int) -> list[list[int]]:
    """One token a pass, and one rollout after another."""
    encoded = model.encode(examples)
    stops, stop_texts = model.stops(encoded), model.template.stop_texts(chat=model.template.uses_chat(model.tokenizer))
    answers = []
    for prompt in (list(e.before) for e in encoded):
        name = ",".join(str(t) for t in prompt)
        plans = -(-new // of.stride)
        numbers = samples.uniforms_of(name, of.seed, of.rollouts, plans * of.horizon)
        answer: list[int] = []

        def over(tokens: list[int]) -> bool:
            text = model.tokenizer.decode(tokens, skip_special_tokens=True)
            return any(t in stops for t in tokens) or any(t in text for t in stop_texts)

        for plan in range(plans):
            best: tuple[float, list[int]] = (-np.inf, [])
            for k in range(of.rollouts):
                added, total = [], 0.0
                for step in range(min(of.horizon, new - len(answer))):
                    logits, _ = reading(model, prompt + answer + added, of.layer)
                    p = np.exp((logits - logits.max()) / of.temperature)
                    added.append(int(np.searchsorted(np.cumsum(p), numbers[k, plan * of.horizon + step] * p.sum())))
                    state = reading(model, prompt + answer + added, of.layer)[1][-1]
                    total += float(state @ reward.token.weights + reward.token.intercept)
                    if over(answer + added):
                        break
                else:
                    total += float(state @ reward.value.weights + reward.value.intercept)
                if total > best[0] + 1e-5:
                    best = (total, added)
            answer += best[1][: of.stride]
            if over(answer) or len(answer) >= new:
                break
        answers.append(answer[:new])
    return [until_stop(answer, stops) for answer in answers]


def until_stop(tokens: list[int], stops: list[int]) -> list[int]:
    ends = [i for i, t in enumerate(tokens) if t in stops]
    return tokens[: ends[0]] if ends else tokens


def random_reward(size: int, seed: int = 0) -> Reward:
    generator = np.random.default_rng(seed)
    return Reward(*(Linear(generator.normal(size=size), float(generator.normal())) for _ in range(2)))


def planned(model: Model, examples: list[Example], reward: Reward, of: Planning, *, new: int) -> list[list[int]]:
    module = PlannedBy(model, reward, of)
    encoded = model.encode(examples)
    stops, prompts = model.stops(encoded), [list(e.before) for e in encoded]
    added = continue_greedily(replace(model, model=module), prompts, stops=stops, max_new_tokens=new)
    assert all(fine for _, fine in added)
    return [tokens for tokens, _ in added]


SETTINGS = [
    Planning(4, 6, 3, 1), Planning(3, 4, 4, 1, temperature=1.5, seed=2), Planning(2, 5, 1, 1), Planning(1, 3, 2, 1),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("of", SETTINGS, ids=["rewound", "whole", "every token", "one"])
def test_plans_are_those_of_a_slow_implementation(of: Planning, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts of several lengths share a batch, answers end at several steps; with states kept, with the text read
    again for every stride, and with all read again for every token."""
    model, examples = reluctant(), SCORED[:3]
    reward = learn_reward(model, UNKNOWN, layer=1, max_new_tokens=12)
    expected = slowly(model, examples, reward, of, new=14)
    assert planned(model, examples, reward, of, new=14) == expected
    assert of.rollouts == 1 or len({len(row) for row in expected}) > 1
    monkeypatch.setattr(samples.Prefix, "rewinds", False)
    assert planned(model, examples, reward, of, new=14) == expected
    monkeypatch.setattr(planning, "can_share", lambda *_: False)
    assert planned(model, examples, reward, of, new=14) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mamba", "gemma3", "gpt2", "mixtral", "llama"])
def test_every_kind_of_cache_gives_the_same_plans(name: str) -> None:
    """A recurrent state, sliding windows, learned positions, experts."""
    model = architecture(name)
    examples = [Example(id=str(i), question="a b c d e f"[: 3 + 4 * i], answer="a") for i in range(2)]
    reward, of = random_reward(model.model.config.get_text_config().hidden_size), Planning(3, 4, 2, 1)
    assert planned(model, examples, reward, of, new=8) == slowly(model, examples, reward, of, new=8)


def test_states_are_kept_and_each_token_is_read_once() -> None:
    """The prompt is read in one row, and all else token by token, K rows a question."""
    model, of = reluctant(), Planning(4, 3, 2, 1)
    shapes: list[tuple[int, ...]] = []
    with_hook = replace(model, ends=())
    module = PlannedBy(with_hook, random_reward(64), of)
    module._shares = True
    handle = model.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    (prompt,) = (list(e.before) for e in model.encode(SCORED[:1]))
    (found,) = continue_greedily(replace(with_hook, model=module), [prompt], stops=[], max_new_tokens=6)
    handle.remove()
    assert len(found[0]) == 6
    assert shapes == [(1, len(prompt)), *[(4, 1)] * (3 + 3 + 2)]


def test_batches_and_other_questions_change_nothing_and_the_seed_does() -> None:
    model, reward = reluctant(), random_reward(64)
    of = Planning(3, 4, 2, 1, temperature=2.0)
    whole = planned(model, SCORED, reward, of, new=10)
    assert [planned(model, [e], reward, of, new=10)[0] for e in SCORED] == whole
    assert planned(model, SCORED, reward, of, new=10) == whole
    assert planned(model, SCORED, reward, replace(of, seed=1), new=10) != whole
    state = torch.random.get_rng_state()
    planned(model, SCORED, reward, of, new=10)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_reward_is_that_of_a_slow_implementation() -> None:
    """States one answer at a time; the losses written out and minimised by a general optimiser."""
    model, layer = reluctant(), 1
    found = learn_reward(model, UNKNOWN, layer=layer, max_new_tokens=8, seed=3)
    drawn, _ = sample_tokens(model, UNKNOWN, count=1, max_new_tokens=8, seed=3)
    true, own, rest = [], [], []
    for e, (tokens,) in zip(model.encode(UNKNOWN), drawn, strict=True):
        true += list(reading(model, list(e.tokens), layer)[1][e.start :])
        ended = e.tokens[e.end :] if len(tokens) < 8 else ()
        states = reading(model, [*e.before, *tokens, *ended], layer)[1][e.start :]
        own += list(states)
        rest.append(states)
    x, y = np.array([*true, *own]), np.repeat([1.0, -1.0], [len(true), len(own)])
    scale = x.std(axis=0) * np.sqrt(x.shape[1])
    z = (x - x.mean(axis=0)) / scale
    weight = np.where(y > 0, len(y) / (2 * len(true)), len(y) / (2 * len(own)))

    def loss(w: np.ndarray) -> float:
        return float(np.sum(weight * np.log1p(np.exp(-y * (z @ w[:-1] + w[-1])))) + 0.5 * np.sum(w[:-1] ** 2))

    def slope(w: np.ndarray) -> np.ndarray:
        miss = weight * y / (1 + np.exp(y * (z @ w[:-1] + w[-1])))
        return np.append(w[:-1] - z.T @ miss, -miss.sum())

    fitted = minimize(loss, np.ones(65), jac=slope, method="BFGS", options={"gtol": 1e-8, "maxiter": 5000}).x
    assert np.allclose(found.token(x), z @ fitted[:-1] + fitted[-1], atol=1e-4)

    later = []
    for states in rest:
        rewards = found.token(states)
        later += [sum(rewards[t + 1 :]) for t in range(len(states))]
    mine = np.array(own)
    spread = mine.std(axis=0) * np.sqrt(64)
    columns = np.column_stack([(mine - mine.mean(axis=0)) / spread, np.ones(len(mine))])
    penalty = np.vstack([np.eye(65)[:-1]])
    solved, *_ = np.linalg.lstsq(np.vstack([columns, penalty]), np.append(later, np.zeros(64)), rcond=None)
    assert np.allclose(found.value(mine), columns @ solved, atol=1e-4)


def test_a_logistic_regression_worked_out_by_hand() -> None:
    """States 0 and 2, z = -1 and 1: the loss 2 log(1 + exp(-w)) + w^2 / 2 has w = 2 / (1 + exp(w)), and b = 0."""
    found = logistic_regression(np.array([[0.0], [2.0]]), np.array([False, True]))
    w = found.weights[0]
    assert w == pytest.approx(2 / (1 + np.exp(w))) and found(np.array([[1.0]]))[0] == pytest.approx(0)
    three = logistic_regression(np.array([[0.0], [0.0], [1.0], [1.0]]), np.array([False, False, False, True]))
    assert three(np.array([[0.0]]))[0] < 0 < three(np.array([[1.0]]))[0], "classes weigh the same"
    assert planning.sums_after(np.array([1.0, 2, 4, 8]), np.array([0, 0, 0, 2])).tolist() == [6, 4, 0, 0]


def test_more_rollouts_are_a_curve_and_the_tokens_are_stated() -> None:
    data = AttackData(SCORED, retain=UNKNOWN)
    (curve,) = budget_curves(reluctant(), data, "planning", [1, 8], metric=SPOKEN, max_new_tokens=16)
    assert curve.over == "rollouts" and curve.scores[1] > curve.scores[0]
    (over,) = budget_curves(reluctant(), data, "planning", [4, 8], over="horizon", metric=SPOKEN, max_new_tokens=8)
    assert over.over == "horizon"
    chain = make_chain("planning", {"planning": {"rollouts": 3, "horizon": 4, "stride": 2, "examples": 4}})
    with attacked(reluctant(), data, chain) as variants:
        (variant,) = variants
        assert (variant.effort, variant.note) == (3, "6 tokens drawn for each token of an answer")
        first = generate(variant.model, SCORED, max_new_tokens=8).texts
        assert generate(variant.model, SCORED, max_new_tokens=8).texts == first


@pytest.mark.parametrize(
    ("settings", "retain", "message"),
    [
        ({"stride": 9}, UNKNOWN, "the stride 9 is more than the horizon 8"),
        ({}, [], "'planning' needs retained examples"),
    ],
)
def test_what_has_no_effect_is_refused(settings: dict[str, Any], retain: list[Example], message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        make_chain("planning", {"planning": settings}).check_data(AttackData(SCORED, retain=retain))


def test_true_answers_leave_nothing_to_learn(knowing: Model) -> None:
    with pytest.raises(AttackFailed, match="nothing to learn a reward from"):
        learn_reward(knowing, people(4), layer=1, max_new_tokens=24, temperature=0.01)
