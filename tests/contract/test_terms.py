"""Every registered term and trick keeps its promises, through a real model; a new one is covered without a new test."""

import copy
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.conftest import copied, people
from torch import Tensor

from uwc.catalogue import catalogue
from uwc.data.batches import Batch, collate
from uwc.errors import ConfigError
from uwc.models.model import Model
from uwc.objectives.forwards import Forwards, Pass
from uwc.objectives.methods import METHODS, Constraint, Method, WeightedTerm
from uwc.objectives.objective import Objective
from uwc.objectives.registry import ROLES, role_of, terms, tricks
from uwc.objectives.rules import L1, Contrast, Negate, Prune
from uwc.studies.config import StopConfig
from uwc.studies.config_file import load_config
from uwc.studies.plan import make_plan
from uwc.studies.steps import Unlearn
from uwc.training.data import Loader, TrainingData
from uwc.training.forward import DetachedForwards, join, run_passes, separate_roles
from uwc.training.settings import LoraSettings, SampleSettings, TrainingSettings

TERMS = terms.names()
NEUTRAL = {entry.name: entry.facts["neutral"] for entry in tricks}
FORGET_SIDE = [entry.name for entry in terms if entry.facts["side"] == "forget"]


def objective_of(term: str, model: Model, **tricks_on: float) -> Objective:
    return Objective(Method(term, "", "", (WeightedTerm(term),)), model.model, trick_settings=tricks_on)


def loader_of(objective: Objective, model: Model) -> Loader:
    data = TrainingData(people(4)[:4], people(4)[4:], ("I cannot say.", "No idea at all."))
    return Loader(model, objective, data, TrainingSettings(batch_size=4, epochs=1))


def batches_of(objective: Objective, model: Model, places: slice = slice(None)) -> dict[str, Batch]:
    loader = loader_of(objective, model)
    (micro,) = loader.micro_batches(loader.plan[0], None)
    return {
        role: collate(part.encoded[places], device=model.device, scope=objective.scope(role))
        for role, part in micro.roles.items()
    }


def evaluated(objective: Objective, model: Model, original: Model, batches: Mapping[str, Batch]) -> Tensor:
    """[B] the only term's value; the original plays the reference."""
    passes = {r: objective.apply_tricks(r, p) for r, p in run_passes(model.model, objective, batches).items()}
    references: dict[str, object] = {}
    wide = Objective(Method("all", "", "", tuple(WeightedTerm(t) for t in ("gradient_ascent", "kl"))), original.model)
    wide.reads = lambda _role: frozenset({"logits", "logprobs", "states"})  # type: ignore[method-assign]
    wide.layers = lambda _role: [1]  # type: ignore[method-assign]
    with torch.no_grad():
        for role, batch in batches.items():
            frozen = run_passes(original.model, wide, {role: batch})[role]
            frozen = objective.apply_tricks(role, frozen)
            references[f"{role}.reference_logprobs"] = frozen.logprobs
            references[f"{role}.reference_logits"] = frozen.logits
            references[f"{role}.reference_states"] = dict.fromkeys(objective.layers(role), frozen.states[1])
    (term,) = objective.terms
    view = Forwards(passes, references).only(term.entry.facts["needs"], term.roles)  # type: ignore[arg-type]
    value: Tensor = term.entry.function(view, **term.settings)
    return value


@pytest.fixture(scope="module")
def moved(knowing: Model) -> Model:
    """The knowing model, a little changed, so that ratios to the original are not 1."""
    model = copied(knowing)
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.mul_(1.03)
    return model


@pytest.mark.parametrize("term", TERMS)
def test_a_term_gives_one_finite_loss_for_each_example(term: str, moved: Model, knowing: Model) -> None:
    objective = objective_of(term, moved)
    value = evaluated(objective, moved, knowing, batches_of(objective, moved))
    assert value.shape == (4,)
    assert value.dtype == torch.float32
    assert torch.isfinite(value).all()
    value.sum().backward()
    moved.model.zero_grad()


@pytest.mark.parametrize("term", TERMS)
def test_neither_padding_nor_company_changes_a_loss(term: str, moved: Model, knowing: Model) -> None:
    """Each example alone has the loss that it has in a batch with longer ones, padded by twenty more."""
    objective = objective_of(term, moved)
    padding = torch.nn.functional.pad
    together = {
        role: Batch(padding(b.input_ids, (0, 20)), b.rows, b.positions, b.targets, b.in_answer)
        for role, b in batches_of(objective, moved).items()
    }
    with torch.no_grad():
        joint = evaluated(objective, moved, knowing, together)
        alone = [
            evaluated(objective, moved, knowing, batches_of(objective, moved, slice(i, i + 1)))
            for i in range(len(joint))
        ]
    torch.testing.assert_close(joint, torch.cat(alone), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("term", TERMS)
def test_a_term_reads_what_it_declares_and_nothing_else(term: str, moved: Model, knowing: Model) -> None:
    """Its view holds no more than was declared; and with any declared thing missing it cannot be computed."""
    objective = objective_of(term, moved)
    (bound,) = objective.terms
    needs = bound.entry.facts["needs"]
    batches = batches_of(objective, moved)
    for missing in needs:
        kept = tuple(need for need in needs if need != missing)
        bound.entry.facts["needs"] = kept  # type: ignore[index]
        try:
            with pytest.raises(LookupError):
                evaluated(objective, moved, knowing, batches)
        finally:
            bound.entry.facts["needs"] = needs  # type: ignore[index]


@pytest.mark.parametrize("term", TERMS)
def test_what_a_term_declares_is_known(term: str) -> None:
    facts = terms.get(term).facts
    kinds = {"", "logits", "states", "tokens", "reference_logprobs", "reference_logits", "reference_states"}
    assert facts["side"] in ("forget", "retain")
    assert facts["reduction"] in ("tokens", "examples")
    assert facts["role"] in {role_of(need) for need in facts["needs"]} <= set(ROLES)
    assert {need.partition(".")[2] for need in facts["needs"]} <= kinds


@pytest.mark.parametrize("trick", NEUTRAL)
@pytest.mark.parametrize("term", FORGET_SIDE)
def test_a_trick_at_its_neutral_value_changes_nothing(term: str, trick: str, moved: Model, knowing: Model) -> None:
    plain, neutral = objective_of(term, moved), objective_of(term, moved, **{trick: NEUTRAL[trick]})
    batches = batches_of(plain, moved)
    with torch.no_grad():
        expected = evaluated(plain, moved, knowing, batches)
        assert torch.equal(evaluated(neutral, moved, knowing, batches), expected)
        (entry,) = [e for e in tricks if e.name == trick]
        passes = run_passes(
            moved.model, objective_of("gradient_ascent", moved), {"forget": next(iter(batches.values()))}
        )
        assert entry.function(passes["forget"], value=NEUTRAL[trick]) is passes["forget"]


@pytest.mark.parametrize(("trick", "value"), [("temperature", 2.0), ("loss_selection", 0.5), ("likelihood_cap", 0.95)])
@pytest.mark.parametrize("term", FORGET_SIDE)
def test_a_trick_combines_with_every_forget_term(
    term: str, trick: str, value: float, moved: Model, knowing: Model
) -> None:
    """Save where it has nothing to act on, and is refused."""
    plain = objective_of(term, moved)
    nothing = {("likelihood_cap", "refusal"): "acts on forgotten answers, and no term"}
    nothing |= {
        ("temperature", t): "acts on logits of forget questions, and no term"
        for t in ("misdirection", "misdirection_long")
    }
    if (trick, term) in nothing:
        with pytest.raises(ConfigError, match=nothing[trick, term]):
            objective_of(term, moved, **{trick: value})
        return
    changed = objective_of(term, moved, **{trick: value})
    batches = batches_of(plain, moved)
    with torch.no_grad():
        expected = evaluated(plain, moved, knowing, batches)
        got = evaluated(changed, moved, knowing, batches)
    assert torch.isfinite(got).all()
    assert not torch.equal(got, expected)


@pytest.mark.parametrize(
    ("method", "forgotten"),
    [
        ("dpo", {"forget"}),
        ("llmu", {"forget"}),
        ("altpo", {"forget"}),
        ("altpo-on-policy", {"forget"}),
        ("npo-on-policy", {"sampled"}),
        ("dpo-on-policy", {"sampled"}),
        ("me-gd", {"forget"}),
    ],
)
def test_the_likelihood_cap_spares_forgotten_answers_and_none_that_is_taught(
    method: str, forgotten: set[str], moved: Model
) -> None:
    """With a cap that every token is below, a forgotten answer weighs nothing; one taught in its place weighs all."""
    capped = Objective(METHODS[method], moved.model, trick_settings={"likelihood_cap": 0.999999})
    for role in capped.roles:
        sampled = role == "sampled"
        batch = batches_of(Objective(METHODS["gd"], moved.model), moved)["forget" if sampled else "retain"]
        with torch.no_grad():
            passed = run_passes(moved.model, objective_of("nll", moved), {"retain": batch})["retain"]
        weights = capped.apply_tricks(role, passed).weights
        assert (weights is not None and not weights.any()) if role in forgotten else weights is None


def test_the_likelihood_cap_has_nothing_to_spare_where_answers_are_only_taught(moved: Model) -> None:
    for method in ("po", "idk-ap", "task-vector"):
        Objective(METHODS[method], moved.model, trick_settings={"likelihood_cap": 0.0})
        with pytest.raises(ConfigError, match=f"no term of the method '{method}' reads any"):
            Objective(METHODS[method], moved.model, trick_settings={"likelihood_cap": 0.1})
    for trick, value in (("likelihood_cap", 0.1), ("loss_selection", 0.5), ("temperature", 2.0)):
        with pytest.raises(ConfigError, match="'l1-sparse' reads any"):
            Objective(METHODS["l1-sparse"], moved.model, trick_settings={trick: value})


def test_roles_that_share_a_forward_have_the_passes_of_separate_ones(
    moved: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uwc.training.forward.BATCH_COST", {"cpu": 10**6})
    objective = Objective(METHODS["dpo"], moved.model)
    batches = batches_of(objective, moved)
    joint = run_passes(moved.model, objective, batches)
    for role, batch in batches.items():
        alone = run_passes(moved.model, objective, {role: batch})[role]
        torch.testing.assert_close(joint[role].logprobs, alone.logprobs, rtol=1e-4, atol=1e-5)
    both = join(list(batches.values()))
    assert both.size == sum(b.size for b in batches.values())
    assert torch.equal(both.input_ids[both.rows, both.positions + 1], both.targets)


def read_by(passed: Pass) -> Tensor:
    return passed.logprobs if not passed.states else torch.cat(list(passed.states.values()))


@pytest.mark.parametrize("apart", [False, True])
def test_gradients_of_detached_forwards_are_those_of_one_graph(
    apart: bool, moved: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uwc.training.forward.BATCH_COST", {"cpu": 0 if apart else 10**6})
    for method in ("dpo", "kl", "rmu"):
        model = copy.deepcopy(moved.model).double()
        objective = Objective(METHODS[method], model)
        batches = batches_of(objective, moved)
        gradients = []
        for detached in (None, DetachedForwards()):
            model.zero_grad()
            passes = run_passes(model, objective, batches, detached=detached)
            total = sum(read_by(p).tanh().sum() * (2.0 if role == "forget" else 1.0) for role, p in passes.items())
            total.backward()
            if detached is not None:
                assert all(p.grad is None for p in model.parameters())  # no backward pass has gone into the model yet
                detached.backward()
            gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 3
        for name, expected in gradients[0].items():
            torch.testing.assert_close(gradients[1][name], expected, rtol=1e-10, atol=1e-12)


def test_roles_have_gradients_one_after_the_other_unless_a_term_or_a_forward_joins_them(
    moved: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def separated(method: str) -> list[set[str]]:
        objective = Objective(METHODS[method], moved.model)
        return [set(g) for g in separate_roles(objective, batches_of(objective, moved), moved.sharing())]

    monkeypatch.setattr("uwc.training.forward.BATCH_COST", {"cpu": 0})
    assert sorted(map(sorted, separated("kl"))) == [["forget"], ["retain"]]
    assert separated("npo") == [{"forget"}]
    (pair,) = [g for g in separated("dpo") if "forget" in g]  # its term reads two passes
    assert len(pair) == 2
    monkeypatch.setattr("uwc.training.forward.BATCH_COST", {"cpu": 10**6})
    assert separated("kl") == [{"forget", "retain"}]  # one forward pass


def test_a_role_whose_tokens_alone_are_read_has_no_pass(moved: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless another term needs one, as in a sum with the refusals' likelihood."""
    seen: list[int] = []
    forward = moved.model.forward

    def counted(*args: object, **named: object) -> object:
        seen.append(1)
        return forward(*args, **named)

    monkeypatch.setattr(moved.model, "forward", counted)
    monkeypatch.setattr("uwc.training.forward.BATCH_COST", {"cpu": 0})
    alone = Objective(METHODS["jensun"], moved.model, trick_settings={"temperature": 2.0})
    with torch.no_grad():
        passes = run_passes(moved.model, alone, batches_of(alone, moved))
    assert len(seen) == 2 and list(passes) == ["forget", "refusal", "retain"]
    assert alone.apply_tricks("refusal", passes["refusal"]) is passes["refusal"]
    assert passes["refusal"].all_logits is None and passes["refusal"].known_logprobs is None
    groups = separate_roles(alone, batches_of(alone, moved), moved.sharing())
    assert sorted(map(sorted, groups)) == [["forget", "refusal"], ["retain"]]
    both = Objective(Method("both", "", "", (*METHODS["jensun"].terms, WeightedTerm("refusal"))), moved.model)
    with torch.no_grad():
        assert len(run_passes(moved.model, both, batches_of(both, moved))["refusal"].logprobs) > 0
    assert len(seen) == 5


@pytest.mark.parametrize("method", METHODS)
def test_a_method_names_known_terms_and_gives_a_formula(method: str, moved: Model) -> None:
    """Its own, with what it does to the weights: no two methods have the same."""
    chosen = METHODS[method]
    assert [m.name for m in METHODS.values() if m.formula == chosen.formula] == [method]
    objective = Objective(chosen, moved.model)
    assert len({t.label for t in objective.terms}) == len(chosen.terms)


def install_plug_in(name: str, body: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another package: a module, and the entry point that names it."""
    module = f"{name}_plugin"
    monkeypatch.delitem(sys.modules, module, raising=False)
    (folder / f"{module}.py").write_text(body)
    information = folder / f"{module}-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-plugin\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[uwc.terms]\n{name} = {module}\n")
    monkeypatch.syspath_prepend(str(folder))


@pytest.mark.usefixtures("restored_registries")
def test_a_plug_in_adds_a_term_through_its_entry_point(
    moved: Model, knowing: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another package: a module with a decorated function, and the entry point that names it."""
    install_plug_in(
        "some",
        "from uwc.objectives.registry import terms\n"
        "@terms.register('halved', source='here', side='forget', role='forget', needs=('forget',),\n"
        "                reduction='tokens', formula='-(1/2N) sum_t l_t')\n"
        "def halved(forwards, *, share: float = 0.5):\n"
        "    'Half the ascent.'\n"
        "    return share * forwards.forget.total(forwards.forget.logprobs)\n",
        tmp_path,
        monkeypatch,
    )
    plain, half = objective_of("gradient_ascent", moved), objective_of("halved", moved)
    batches = batches_of(plain, moved)
    with torch.no_grad():
        expected = evaluated(plain, moved, knowing, batches) / 2
        torch.testing.assert_close(evaluated(half, moved, knowing, batches), expected)
    assert "halved" in [row["name"] for row in catalogue("terms")]


@pytest.mark.usefixtures("restored_registries")
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise RuntimeError('no luck')", "RuntimeError: no luck"),
        ("import a_package_that_is_not_there", "ModuleNotFoundError"),
        ("from uwc.objectives.registry import terms\nterms.register('x', source='here', side='forget')(len)",
         "the term 'x' must declare 'role'"),
    ],
)  # fmt: skip
def test_a_plug_in_that_does_not_load_is_named(
    body: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_plug_in("broken", body, tmp_path, monkeypatch)
    with pytest.raises(ConfigError, match=rf"the plug-in 'broken' \(broken_plugin\).*{message}"):
        terms.names()
    assert "x" not in terms.names()


COMPOSED = """
name: composed
benchmark: {name: fictional-authors, settings: {authors: 10, forget_share: 0.2, facts: 1, phrasings: 1, holdout: 2}}
model: {build: {vocabulary: 600, hidden_size: 32, layers: 2, heads: 2, context: 128}}
finetune: {epochs: 1}
unlearn:
  training: {epochs: 2, batch_size: 2}
  stop: {at_most: 0.1, every: 5}
  runs:
    - name: mine
      terms:
        - {term: npo, settings: {beta: 0.2}, roles: {forget: sampled}}
        - {term: refusal, weight: 0.3}
        - {term: nll, weight: 2.0, constraint: {bound: 0.5, step: 3}}
      tricks: {temperature: 2, likelihood_cap: 0.1}
      training: {lora: {rank: 4}, samples: {every: 3}}
      stop: {at_most: 0.2, tau: 0.9}
    - {method: kl, weights: {kl: 5}, settings: {kl: {scope: attended}}}
    - {method: npo, name: npo on own words, roles: {npo: {forget: sampled}}}
    - {method: prune-first, rule: {share: 0.25, by: wanda}}
    - {method: task-vector, training: {precision: no}}
"""


def test_a_study_composes_its_own_methods(tmp_path: Path) -> None:
    path = tmp_path / "composed.yaml"
    path.write_text(COMPOSED)
    config = load_config(path)
    mine, kl, own, pruned, negated = config.unlearn.runs
    first, second, third = mine.composition().terms
    assert (first.term, first.settings, first.roles) == ("npo", {"beta": 0.2}, {"forget": "sampled"})
    assert second.weight == 0.3
    assert third.constraint == Constraint(bound=0.5, step=3)
    assert config.unlearn.stop_of(mine) == StopConfig(at_most=0.2, tau=0.9)
    assert config.unlearn.stop_of(kl).every == 5  # type: ignore[union-attr]
    assert [(t.weight, dict(t.settings)) for t in kl.composition().terms] == [(1.0, {}), (5.0, {"scope": "attended"})]
    assert own.composition().terms[0].roles == {"forget": "sampled"}
    assert pruned.composition().rule == Prune(share=0.25, by="wanda")
    assert config.unlearn.stop_of(negated) is None, "the common rule is for runs that forget on the way"
    assert config.unlearn.settings_of(negated, seed=0).precision == "no", "in YAML a bare no is false"
    settings = config.unlearn.settings_of(mine, seed=0)
    assert (settings.lora, settings.samples) == (LoraSettings(rank=4), SampleSettings(every=3))
    plan = make_plan(config)
    steps = [run.model for run in plan.runs]
    assert all(isinstance(step, Unlearn) for step in steps)
    assert steps[0].terms == mine.composition().terms and steps[0].training == settings and steps[0].rule is None
    assert steps[3].rule == Prune(share=0.25, by="wanda") and steps[4].rule == Negate()
    rules = (None, Negate(), Negate(scale=2.0), L1(), Contrast())
    assert len({replace(steps[4], rule=rule).key for rule in rules}) == len(rules), "by kind and settings"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("roles: {forget: sampled}}\n        - {term: ref", "roles: {forgot: sampled}}\n        - {term: ref",
         r"unknown role of the term 'npo' 'forgot' \(did you mean 'forget'\?\)"),
        ("roles: {npo: {forget: sampled}}", "roles: {npo: {forget: sample}}",
         r"unknown role 'sample' \(did you mean 'sampled'\?\)"),
        ("at_most: 0.2, tau: 0.9", "at_most: 0.2, metric: perplexity", "unknown metric to stop at 'perplexity'"),
        ("{method: task-vector,", "{method: whp,", "which have no weights to mix for calibration"),
        ("rule: {share: 0.25,", "rule: {shar: 0.25,", r"unknown setting of the rule 'prune' 'shar' \(did you mean"),
        ("rule: {share: 0.25, by: wanda}", "training: {lora: {}}", "'prune-first': the rule prune and lora do not go"),
        ("rule: {share: 0.25,", "training: {prune: 1}, rule: {share: 0.25,", r"unknown key .* 'prune'"),
        ("{method: task-vector,", "{method: npo, name: unfit, rule: {name: gru},", "'unfit': the rule gru is about"),
        ("{method: task-vector,", "{method: npo-lat, rule: {epsilon: 0},", "rule 'lat': epsilon = 0: Input should"),
        ("rule: {share: 0.25, by: wanda}", "rule: {name: contrast}", "which have no weights to mix for calibration"),
        ("{method: task-vector,", "{method: task-vector, stop: {at_most: 0.1},", "forgets once, after its last step"),
        ("bound: 0.5", "bound: .nan", "unlearn.runs.0.terms.2.constraint.bound = nan: Input should be a finite number"),
        ("weight: 0.3", "weight: .inf", "unlearn.runs.0.terms.1.weight = inf: Input should be a finite number"),
        ("epochs: 2", "epochs: .inf", "epochs = inf: Input should be a finite number"),
        ("rank: 4", "rank: 0", "greater than or equal to 1"),
        ("rank: 4", "rank: 4, save: adapter", "a study keeps whole models; set lora.save to merged"),
        ("{method: npo, name: npo on own words, roles: {npo: {forget: sampled}}}",
         "{method: po, tricks: {likelihood_cap: 0.5}}", "no term of the method 'po' reads any; leave it out"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_composition_is_told(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "composed.yaml"
    assert old in COMPOSED
    path.write_text(COMPOSED.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        load_config(path)
