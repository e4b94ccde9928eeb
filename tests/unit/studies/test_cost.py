"""The counted work of steps, against numbers worked out by hand, torch's own counter and published sizes."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from benchmarks.tofu_cost import MODELS
from tests.helpers.small_study import STUDY
from torch.utils.flop_counter import FlopCounterMode

from uwc.attacks.strongest import carried_out, own_part
from uwc.data.example import Example
from uwc.errors import ConfigError
from uwc.models.load import build_model
from uwc.studies.config import StudyConfig
from uwc.studies.cost import CHARACTERS_OF_BUILT, TEMPLATE_OF_BUILT, Cost, Counter, Shape, Work, shape_of
from uwc.studies.estimate import MACHINES
from uwc.studies.plan import Plan, make_plan
from uwc.studies.steps import Attack, Calibrate, FineTune, Score, Unlearn
from uwc.training.settings import LoraSettings

ONE, EIGHT = MODELS["1 B"], MODELS["8 B"]
PHI = {
    "hidden_act": "gelu_new",
    "vocab_size": 51200,
    "hidden_size": 2048,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "intermediate_size": 8192,
}
GPT2 = {"n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257, "activation_function": "gelu_new"}


@pytest.mark.parametrize(
    ("config", "published"),
    [(EIGHT, 8_030_261_248), (ONE, 1_235_814_400), (PHI, 1_418_270_720), (GPT2, 124_439_808 - 1024 * 768)],
)
def test_the_parameters_are_those_published(config: dict[str, Any], published: int) -> None:
    """Without norms, biases and position embeddings, which are below 0.1 % of them."""
    assert Shape.of_config(config, where="config.json").parameters == pytest.approx(published, rel=1.2e-3)


def test_a_size_that_is_missing_is_named() -> None:
    with pytest.raises(ConfigError, match=r"some/config\.json has no num_hidden_layers"):
        Shape.of_config({"hidden_size": 8, "num_attention_heads": 2}, where="some/config.json")


@pytest.mark.parametrize("config", [[], {**EIGHT, "num_attention_heads": 0}, {**EIGHT, "hidden_size": "wide"}])
def test_an_odd_configuration_is_refused(config: Any) -> None:
    with pytest.raises(ConfigError, match=r"x\.json"):
        Shape.of_config(config, where="x.json")


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_the_precision_of_the_checkpoint_is_that_of_auto(plan: Plan, key: str) -> None:
    shape = Shape.of_config({**EIGHT, key: "bfloat16"}, where="x")
    counts = {}
    for dtype in ("auto", "bfloat16", "float32"):
        model = plan.config.model.model_copy(update={"dtype": dtype})
        counted = Counter(replace(plan, config=plan.config.model_copy(update={"model": model})), shape)
        counts[dtype] = counted.weights
    assert counts["auto"] == counts["bfloat16"] == counts["float32"] / 2 == 2 * shape.parameters
    assert Shape.of_config(EIGHT, where="x").dtype == "float32"


def test_text_models_inside_others_are_read() -> None:
    assert Shape.of_config({"text_config": EIGHT}, where="x") == Shape.of_config(EIGHT, where="x")


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(STUDY)


@pytest.fixture(scope="module")
def counter(plan: Plan) -> Counter:
    return Counter(plan, shape_of(plan))


def test_operations_are_those_that_torch_counts() -> None:
    """Forward and backward passes of a Llama over 40 tokens, all with logits, without the products of attention."""
    model = build_model([Example("1", "Who?", "Ann.")], vocabulary=300, hidden_size=32, layers=3, heads=2, seed=0).model
    shape = Shape(3, 32, model.config.vocab_size, queries=32, keys=32, inner=96, tied=True)
    ids = torch.arange(40)[None] % 200
    with FlopCounterMode(display=False) as forward:
        loss = model(input_ids=ids).logits.sum()
    with FlopCounterMode(display=False) as backward:
        loss.backward()

    def of_matrices(found: FlopCounterMode) -> int:
        operations = found.get_flop_counts()["Global"]
        return sum(count for op, count in operations.items() if "mm" in str(op) and "bmm" not in str(op))

    counter = Counter(make_plan(STUDY), shape)
    assert of_matrices(forward) == counter.scored(40, 40).scoring
    assert of_matrices(forward) + of_matrices(backward) == pytest.approx(3 * counter.scored(40, 40).scoring, rel=0.02)


def test_fine_tuning_is_six_times_parameters_times_tokens(plan: Plan, counter: Counter) -> None:
    """6 n P operations of matrices; the output embedding reads answers alone. The optimizer moves 7 numbers each."""
    step = next(step for step in plan.steps if isinstance(step, FineTune))
    asked = sum(len(e.question) for e in step.answers) / CHARACTERS_OF_BUILT + TEMPLATE_OF_BUILT * len(step.answers)
    answered = sum(len(e.answer) for e in step.answers) / CHARACTERS_OF_BUILT
    shape, epochs = counter.shape, step.training.epochs
    work = counter.cost(step).work
    assert work.training == pytest.approx(6 * epochs * ((asked + answered) * shape.blocks + answered * shape.head))
    updates = -(-epochs * len(step.answers) // step.training.batch_size)
    moved = updates * (7 + 3) * counter.weights + 9 * epochs * answered * shape.vocabulary * 4
    assert work.training_bytes == pytest.approx(moved)
    assert work.disk == counter.weights and work.passes == 3 * updates * shape.layers


def test_the_settings_of_training_count(plan: Plan, counter: Counter) -> None:
    step = next(step for step in plan.steps if isinstance(step, FineTune))

    def changed(**settings: Any) -> tuple[Work, float]:
        cost = counter.cost(replace(step, training=replace(step.training, **settings)))
        return cost.work, cost.memory

    work, memory = changed()
    again, less = changed(gradient_checkpointing=True)
    assert again.training == pytest.approx(work.training * 4 / 3) and less < memory
    adapter, smaller = changed(lora=LoraSettings())
    assert adapter.training == pytest.approx(work.training * 2 / 3) and smaller < memory
    half, _ = changed(precision="bf16")
    assert (half.training, half.training_half) == (0, work.training)
    assert changed(epochs=2 * step.training.epochs)[0].training == pytest.approx(2 * work.training)
    assert changed(micro_batch_size=1)[1] < memory


def test_a_choice_of_examples_takes_a_pass_over_those_that_there_are(plan: Plan, counter: Counter) -> None:
    """Of retain questions in unlearning, and of the attacker's in relearning on one of them."""
    step = next(step for step in plan.steps if isinstance(step, Unlearn))

    def passes(rule: str) -> float:
        training = replace(step.training, retain={"examples": 1, "select": rule})
        return counter.cost(replace(step, training=training)).parts["selection"].scoring

    checked = counter.cost(step).parts["retain perplexity"].scoring
    assert passes("random") == 0.0
    assert passes("likelihood") == pytest.approx(checked / 2), "which is measured before and after"
    assert passes("fisher") > passes("likelihood")
    data = STUDY.model_dump()
    chain = {"chain": "relearn_retain", "settings": {"relearn_retain": {"examples": 1, "select": "fisher"}}}
    data["attack"] = {"chains": [chain], "sets": ["forget"], "attacker": {"forget_share": 0.5}}
    attack = next(s for s in make_plan(StudyConfig.model_validate(data)).steps if isinstance(s, Attack))
    assert counter.cost(attack).parts["attack"].scoring > 0


def test_a_method_counts_the_passes_of_its_terms(plan: Plan, counter: Counter) -> None:
    """ga reads the forget pass, gd that of retain too, and kl also the frozen copy's."""

    def of(method: str) -> Work:
        data = STUDY.model_dump()
        data["unlearn"]["runs"] = [{"method": method, "training": {"lr": 1e-3}}]
        found = make_plan(StudyConfig.model_validate(data))
        return counter.cost(next(step for step in found.steps if isinstance(step, Unlearn))).work

    ga, gd, kl, rmu = (of(method) for method in ("ga", "gd", "kl", "rmu"))
    assert 1.5 * ga.training < gd.training < 2.5 * ga.training
    assert kl.training == gd.training and kl.scoring > gd.scoring
    assert rmu.training < gd.training, "its passes end at a block, without logits"


def test_a_rule_counts_the_passes_that_it_repeats(plan: Plan, counter: Counter) -> None:
    """SAM has the forget pass twice, LAT 1 + 6 x 2/3 times; UNDO has 5 passes over all tokens of the retain set."""

    def of(method: str, **rule: Any) -> Cost:
        data = STUDY.model_dump()
        data["unlearn"]["runs"] = [{"method": method, "rule": rule, "training": {"lr": 1e-3}}]
        found = make_plan(StudyConfig.model_validate(data))
        return counter.cost(next(step for step in found.steps if isinstance(step, Unlearn)))

    forget, plain = of("npo").work.training, of("npo-gd")
    assert of("npo-sam").work.training == pytest.approx(plain.work.training + forget)
    assert of("npo-lat").work.training == pytest.approx(plain.work.training + 4 * forget)
    assert of("npo-gru").work == plain.work
    undo = of("npo-undo")
    step = next(s for s in plan.steps if isinstance(s, Unlearn))
    asked = sum(len(e.question) for e in step.retain) / CHARACTERS_OF_BUILT + TEMPLATE_OF_BUILT * len(step.retain)
    tokens = asked + sum(len(e.answer) for e in step.retain) / CHARACTERS_OF_BUILT
    distilled = 6 * 5 * tokens * (counter.shape.blocks + counter.shape.head)
    assert undo.work.training == pytest.approx(plain.work.training + distilled)
    for rule in ("sam", "gru", "undo"):
        assert of("gd", name=rule).memory > of("gd").memory == of("gd", name="lat").memory


def test_calibration_scores_the_grid_and_a_bisection(plan: Plan, counter: Counter) -> None:
    """8 intervals, and 4 halvings of one of them to 1/128, each as long as scoring the two sets' answers."""
    step = next(step for step in plan.steps if isinstance(step, Calibrate))
    retention = step.retention.model_copy(update={"scan": 8, "resolution": 1 / 128})
    search = counter.cost(replace(step, retention=retention)).parts["search"]
    once = counter.cost(replace(step, retention=retention.model_copy(update={"scan": 1, "resolution": 0.99}))).parts[
        "search"
    ]
    assert search.scoring == pytest.approx(once.scoring * 12 / 2, rel=0.01)


def test_scores_of_another_model_take_the_original_too(plan: Plan, counter: Counter) -> None:
    first, second = [step for step in plan.steps if isinstance(step, Score)][:2]
    assert first.model is first.original is not second.model
    alone, both = counter.cost(first).parts["answers"], counter.cost(second).parts["answers"]
    assert both.scoring == 2 * alone.scoring
    assert counter.cost(second).memory - counter.cost(first).memory == pytest.approx(1.6 * counter.weights)


def test_samples_of_a_question_share_its_prompt() -> None:
    def samples(count: int) -> Work:
        score = {"metrics": ["leak_at_k"], "settings": {"leak_at_k": {"k": 1}}, "samples": {"count": count}}
        found = make_plan(StudyConfig(**{**STUDY.model_dump(), "score": {**score, "max_new_tokens": 8}}))
        return Counter(found, shape_of(found)).cost(found.original.score).parts["samples"]

    one, nine = samples(1), samples(9)
    assert nine.decoding == 9 * one.decoding > 0
    assert nine.scoring == one.scoring > 0


def test_a_calibration_holds_the_mixture_and_the_original(plan: Plan, counter: Counter) -> None:
    """Both checkpoints are streamed into one model, so that it needs what a score beside the original needs."""
    mixture = next(step for step in plan.steps if isinstance(step, Calibrate))
    alone, beside = [step for step in plan.steps if isinstance(step, Score)][:2]
    assert alone.model is alone.original is not beside.model
    memory = counter.cost(mixture).memory
    assert memory == counter.cost(beside).memory
    assert memory - counter.cost(alone).memory == pytest.approx(1.6 * counter.weights)


def test_a_suffix_search_reads_every_candidate() -> None:
    """250 steps x 8 questions x 512 candidates, so that gcg takes most of a study that has it."""
    data = STUDY.model_dump()
    data["attack"] = {"chains": ["gcg", "token_noise"], "sets": ["forget"], "attacker": {"forget_share": 0.5}}
    plan = make_plan(StudyConfig.model_validate(data))
    counter = Counter(plan, shape_of(plan))
    steps = {step.of[-1]: step for step in plan.steps if isinstance(step, Attack)}
    asked = min(8, len(steps["gcg"].data.train))
    search = counter.cost(steps["gcg"]).parts["attack"]
    length = search.scoring / (250 * asked * 512) / (2 * counter.shape.blocks)
    assert 25 < length < 100, "tokens a candidate"
    assert search.scoring > 1000 * counter.cost(steps["token_noise"]).work.scoring


def test_awq_tries_twenty_scales() -> None:
    """Each takes ``2 out in^2`` operations a matrix; GPTQ takes half of that once. For gpt2's blocks ``out in^2`` is
    3 d^3 and d^3 in attention, and d^2 f and f^2 d after it, 24 d^3 with f = 4 d."""
    assert Shape(12, 768, 50257, queries=768, keys=768, inner=3072, gated=False).products == 12 * 24 * 768**3
    data = STUDY.model_dump()
    data["attack"] = {"chains": ["gptq_int4", "awq_int4"], "sets": ["forget"], "attacker": {"forget_share": 0.5}}
    plan = make_plan(StudyConfig.model_validate(data))
    counter = Counter(plan, shape_of(plan))
    steps = [step for step in plan.steps if isinstance(step, Attack)][:2]
    gptq, awq = (counter.cost(step).parts["attack"].scoring for step in steps)
    assert awq - gptq == pytest.approx(39 * counter.shape.products) and gptq > counter.shape.products


def attacking(chain: str, **settings: Any) -> tuple[Counter, Attack]:
    """The first step of an attack on four forgotten authors, two of which the attacker has."""
    data = STUDY.model_dump()
    data["benchmark"]["settings"] |= {"authors": 12, "forget_share": 1 / 3}
    given = {"chain": chain, "settings": {chain: settings} if settings else {}}
    data["attack"] = {"chains": [given], "sets": ["forget"], "attacker": {"forget_share": 0.5}}
    plan = make_plan(StudyConfig.model_validate(data))
    return Counter(plan, shape_of(plan)), next(s for s in plan.steps if isinstance(s, Attack))


def searched(**settings: Any) -> tuple[Counter, Work]:
    """What `strongest` takes, besides the scores under it."""
    counter, step = attacking("strongest", **settings)
    return counter, counter.cost(step).parts["attack"]


def test_the_time_of_a_search_is_its_budget_in_minutes() -> None:
    """On every machine, besides the attack that it chooses, which is carried out once more."""
    among = {"attacks": ["relearn", "int8"]}
    (counter, ten), (_, twenty) = searched(minutes=10, **among), searched(minutes=20, **among)
    for name, machine in MACHINES.items():
        first, second = (machine.seconds(work, dtype=counter.dtype) for work in (ten, twenty))
        assert second - first == pytest.approx(600), name
        assert first > 600
    assert ten.flops == twenty.flops > 0 and ten.seconds == 600


def test_the_work_of_a_search_is_that_of_the_attacks_that_its_runs_carry_out() -> None:
    """One attack is carried out once to be chosen, and once to be reported; of three attacks those of the first round
    take a third of the steps, one goes on, and the third of the budget's runs that a round has is the bound."""
    _, once = searched(attacks=["relearn"], runs=0.5)
    _, plenty = searched(attacks=["relearn"], runs=100)
    assert once == plenty and once.seconds == 0 and once.disk == 0
    counter, few = searched(attacks=["pruning", "int8", "int4"], runs=1)
    _, all_of_them = searched(attacks=["pruning", "int8", "int4"], runs=4)
    rounded = 3 * counter.weights
    assert few.scoring_bytes > 4 * rounded and all_of_them.scoring_bytes - few.scoring_bytes > rounded
    assert [carried_out(3, runs) for runs in (1, 4)] == [[(1 / 3, 2), (1, 1)], [(1 / 3, 3), (1, 1)]]
    _, steps = searched(attacks=["relearn"], runs=1)
    _, whole = attacking("relearn")
    (fold,) = own_part(whole.data.train, whole.data.scored)
    own = replace(whole.data, train=fold.train, scored=fold.choice)
    on_choice = counter.cost(replace(whole, measured=("extraction_strength",), data=own)).parts
    assert steps.training == pytest.approx(2 * on_choice["attack"].training)
    assert steps.scoring == pytest.approx(on_choice["answers"].scoring)


def test_evolved_prompts_are_answered_and_rewritten() -> None:
    """With m rewrites of 16 prompts, then of 3, there are 16 + 19 (m + 1) prompts and the plain one; with one
    generation and no rewrites 33."""
    data = STUDY.model_dump()
    shared = {"population": 3, "generations": 2, "best": 2}
    settings = {**{f"{m}": {"mutations": m} for m in range(3)}, "short": {"mutations": 0, "generations": 1}}
    chains = [{"chain": "evolution", "name": n, "settings": {"evolution": shared | s}} for n, s in settings.items()]
    data["attack"] = {"chains": chains, "sets": ["forget"], "attacker": {"forget_share": 0.5}}
    plan = make_plan(StudyConfig.model_validate(data))
    counter = Counter(plan, shape_of(plan))
    work = {s.of[-1]: counter.cost(s).parts["attack"].decoding for s in plan.steps if isinstance(s, Attack)}
    assert work["0"] == pytest.approx(work["short"] * 36 / 33)
    assert work["2"] - work["1"] == pytest.approx(work["1"] - work["0"])
    assert work["1"] - work["0"] > work["0"] * 19 / 36


def test_work_adds_and_scales() -> None:
    assert Work(1, 2, 3) + Work(10, 20, 30, 40) == Work(11, 22, 33, 40)
    assert Work(1, 2, 3) * 2 == Work(2, 4, 6) and Work(1, 2, 9, 4, 9, 5).flops == 12
