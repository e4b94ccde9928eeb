"""The public functions: models, data, metrics, attacks, measures and terms as users have them, and what they show."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from tests.conftest import PEOPLE, copied, people

import uwc
from uwc.api import attack_curve
from uwc.errors import ConfigError, DataError, ModelError, UserError
from uwc.models.adapters import add_adapter
from uwc.models.load import save_model
from uwc.objectives.methods import WeightedTerm, get_method
from uwc.results import RESULTS, SCHEMA_VERSION, UnlearnResult

pytestmark = pytest.mark.usefixtures("restored_registries")

FORGET, RETAIN = people(4)[:4], people(4)[4:]


def damaged(model: uwc.Model, amount: float) -> uwc.Model:
    made, noise = copied(model), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in made.model.parameters():
            weight.add_(amount * torch.randn(weight.shape, generator=noise))
    return made


def frame(examples: list[uwc.Example]) -> pd.DataFrame:
    return pd.DataFrame([{**asdict(e), "perturbed_answers": list(e.perturbed_answers)} for e in examples]).drop(
        columns=["history", "prefill", "split"]
    )


@pytest.fixture(scope="module")
def folder(knowing: uwc.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("api")
    save_model(knowing, path / "original")
    for name, part in (("forget", FORGET), ("retain", RETAIN)):
        frame(part).to_json(path / f"{name}.jsonl", orient="records", lines=True)
    return path


def test_every_name_is_there() -> None:
    assert all(getattr(uwc, name) is not None for name in uwc.__all__)


def test_data_and_models_of_every_kind_give_the_same_scores(folder: Path, knowing: uwc.Model) -> None:
    table = frame(FORGET)
    kinds: list[Any] = [
        folder / "forget.jsonl",
        str(folder / "forget.jsonl"),
        FORGET,
        table,
        datasets.Dataset.from_pandas(table),
        table.to_dict("records"),
        {"forget": table},
    ]
    scores = [uwc.score(knowing, kind, metrics="ES", max_new_tokens=0).scores for kind in kinds]
    scores.append(uwc.score(folder / "original", FORGET, metrics=["ES"], max_new_tokens=0, device="cpu").scores)
    assert all(repr(found) == repr(scores[0]) for found in scores[1:]) and scores[0][0].n == 4
    loaded = uwc.load_model(folder / "original", device="cpu", prompt="{question} ->")
    assert loaded.template == uwc.PromptTemplate("{question} ->", chat=False)


def test_columns_are_named_for_one_set_or_for_all_that_have_them(knowing: uwc.Model, tmp_path: Path) -> None:
    """The mapped column of two tables, the field's own name in a third, and another mapping for one alone."""
    asked = frame(FORGET).rename(columns={"question": "Q"})
    other = frame(FORGET).drop(columns="perturbed_answers").rename(columns={"answer": "A"})
    other.to_csv(tmp_path / "other.csv", index=False)
    sets = {"one": asked, "two": asked, "three": frame(FORGET), "four": tmp_path / "other.csv"}
    found = uwc.score(knowing, sets, metrics="ES", columns={"question": "Q", "four:answer": "A"}, max_new_tokens=0)
    assert {s.set: s.mean for s in found.scores} == dict.fromkeys(sets, found.scores[0].mean)
    for columns, message in (
        ({"question": "ask"}, "no file or table has the column 'ask'; the data frame 'one': id, Q"),
        ({"five:question": "Q"}, "'five:question' names the set 'five', which is not given"),
        ({"one:question": "ask"}, "data frame 'one'.*'ask'"),
    ):
        with pytest.raises((ConfigError, DataError), match=message):
            uwc.score(knowing, sets, metrics="ES", columns=columns)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (frame(FORGET).assign(answer=["a", None, "b", "c"]), "data frame 'forget', row 1: the answer is empty"),
        (frame(FORGET).drop(columns="answer"), "data frame 'forget': there is no column 'answer'"),
        (frame([FORGET[0], FORGET[0]]), "data frame 'forget', row 1: the id '0/0' was used before, in row 0"),
        (frame(FORGET)[:0], "data frame 'forget' has no rows"),
        (
            datasets.Dataset.from_dict({"question": ["a"], "answer": [" "]}),
            "dataset 'forget', row 0: the answer is empty",
        ),
        ([FORGET[0], {"question": "a", "answer": "b"}], "forget, item 1: a dict among examples"),
        ([FORGET[0], FORGET[0]], "forget: the id '0/0' occurs twice"),
        (3, "forget is a int; give a path, a list of examples, a pandas DataFrame"),
    ],
)
def test_wrong_data_name_the_row_and_the_column(data: Any, message: str, knowing: uwc.Model) -> None:
    with pytest.raises(uwc.UserError, match=message):
        uwc.score(knowing, data)


def test_the_splits_of_a_dataset_are_sets(knowing: uwc.Model) -> None:
    splits = datasets.DatasetDict(
        {name: datasets.Dataset.from_pandas(frame(part)) for name, part in (("forget", FORGET), ("retain", RETAIN))}
    )
    found = uwc.score(knowing, splits, metrics="ES", max_new_tokens=0)
    expected = uwc.score(knowing, {"forget": FORGET, "retain": RETAIN}, metrics="ES", max_new_tokens=0)
    assert repr(found.scores) == repr(expected.scores)
    with pytest.raises(ConfigError, match=r"forget holds several splits.*: forget, retain"):
        uwc.calibrate("nowhere", "nowhere", forget=splits)


def test_two_files_of_one_name_have_ids_of_their_own(tmp_path: Path, knowing: uwc.Model) -> None:
    for name, part in (("forget", FORGET), ("retain", RETAIN)):
        (tmp_path / name).mkdir()
        frame(part)[["question", "answer"]].to_csv(tmp_path / name / "data.csv", index=False)
    files = {name: tmp_path / name / "data.csv" for name in ("forget", "retain")}
    examples = uwc.score(knowing, files, metrics="ES", max_new_tokens=0).answers
    assert examples["id"].is_unique and len(examples) == 8
    uwc.unlearn(knowing, "gd", **files, training={"epochs": 0.5, "warmup_ratio": 0}, output_dir=tmp_path / "out")


@pytest.mark.parametrize(
    ("loading", "message"),
    [
        ({"dtype": "float8"}, "unknown dtype 'float8'.*valid: float32, bfloat16, float16"),
        ({"device": "gpu"}, "unknown device 'gpu'.*valid: auto, cpu"),
        ({"prompt": "Question:"}, "must contain {question}"),
    ],
)
def test_how_a_model_is_loaded_is_checked_first(loading: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        uwc.load_model("nowhere", **loading)
    with pytest.raises(ConfigError, match=message):
        uwc.score("nowhere", FORGET, **loading)


def test_suites_stand_among_metrics(knowing: uwc.Model) -> None:
    found = uwc.score(knowing, {"forget": FORGET, "holdout": RETAIN}, metrics=["core", "auc_loss", "PPL"])
    measured = list(dict.fromkeys(s.metric for s in found.scores))
    assert measured[:4] == ["extraction_strength", "exact_memorization", "probability", "perplexity"]
    assert measured.count("perplexity") == 1 and "auc_loss" in measured and set(found.left_out) == {"kl_to_original"}
    with pytest.raises(ConfigError, match="not a metric; give a name, a label or a function"):
        uwc.score(knowing, FORGET, metrics=[3])


def test_calibration_leaves_the_models_as_they_are_and_takes_functions(knowing: uwc.Model) -> None:
    """A measure that falls linearly with alpha decides: alpha is where it is tau, up to the resolution."""
    unlearned = damaged(knowing, 0.05)
    before = [p.clone() for p in unlearned.model.parameters()]
    start, end = (float(m.model.model.norm.weight[0].detach()) for m in (knowing, unlearned))

    def nearness(model: uwc.Model) -> float:
        return 1.0 - abs(float(model.model.model.norm.weight[0].detach()) - start) / abs(end - start)

    only = uwc.Retention(tau=0.6, tasks=(nearness,), resolution=1 / 64)
    found = uwc.calibrate(knowing, unlearned, forget=FORGET, retention=only)
    assert 0 <= 0.4 - found.calibration.alpha <= 2 / 64
    assert [k.measure for k in found.calibration.kept] == ["nearness"]
    assert all(torch.equal(p, q) for p, q in zip(unlearned.model.parameters(), before, strict=True))
    kept = uwc.calibrate(knowing, unlearned, forget=frame(FORGET), retain={"a": RETAIN[:2], "b": RETAIN[2:]})
    assert [k.measure for k in kept.calibration.kept] == ["extraction_strength on a", "extraction_strength on b"]
    one = uwc.calibrate(
        knowing, unlearned, forget=FORGET, retain={"a": RETAIN[:2], "b": RETAIN[2:]}, retention={"sets": ["b"]}
    )
    assert [k.measure for k in one.calibration.kept] == ["extraction_strength on b"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs a retention constraint; give --retain"),
        ({"retain": RETAIN, "retention": {"tau": 2}}, "tau = 2"),
        ({"retain": RETAIN, "retention": {"metric": "rouge"}}, "unknown retention metric 'rouge'"),
        ({"retain": RETAIN, "retention": {"sets": ["a"]}}, "unknown retain set 'a'"),
        ({"retain": FORGET}, "overlap"),
        ({"retain": RETAIN, "retention": {"metric": "model_utility"}}, "needs the sets real_authors and world_facts"),
    ],
)
def test_wrong_constraints_are_refused_before_a_model_is_loaded(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(uwc.UserError, match=message):
        uwc.calibrate("nowhere", "nowhere", forget=FORGET, **arguments)


def test_a_custom_metric_ranks_and_is_kept(knowing: uwc.Model) -> None:
    """The same function under another name has the same numbers, bit by bit."""
    from uwc.metrics.likelihood import exact_memorization

    @uwc.metric(range=(0.0, 1.0))
    def ours(scores: Any) -> np.ndarray:
        return exact_memorization(scores)

    unlearned = damaged(knowing, 0.05)
    found = [
        uwc.calibrate(
            knowing, unlearned, forget=FORGET, retain=RETAIN, retention=uwc.Retention(metric=name)
        ).calibration
        for name in ("ours", "exact_memorization")
    ]
    assert found[0].alpha == found[1].alpha and repr(found[0].at_tau) == repr(found[1].at_tau)


def test_what_the_attacker_has_is_never_scored(knowing: uwc.Model) -> None:
    attacker = uwc.Attacker(train=frame(RETAIN), retain=people()[8:])
    sets, settings = {"forget": FORGET[:2], "other": FORGET[2:]}, {"few_shot": {"shots": 1}}
    found = uwc.attack(knowing, sets, "few_shot", attacker=attacker, metrics="ES", settings=settings)
    assert found.attacks.sets == {"forget": 2, "other": 2} and found.attacks.attacker["train"] == len(RETAIN)
    assert [o.set for o in found.attacks.models[0].outcomes] == ["forget", "other"]
    with pytest.raises(DataError, match="attacker's train"):
        uwc.attack(knowing, FORGET, "few_shot", attacker=uwc.Attacker(train=FORGET))
    with pytest.raises(DataError, match="needs examples of the forgotten data"):
        uwc.attack("nowhere", FORGET, "relearn")
    with pytest.raises(ConfigError, match=r"unknown attack 'jailbrake'.*did you mean 'jailbreak'"):
        uwc.attack("nowhere", FORGET, ["jailbrake"])


def test_the_function_of_a_term_is_the_term(knowing: uwc.Model, tmp_path: Path) -> None:
    """A method by name, by terms, by mappings and by a function: the same losses and weights."""

    @uwc.loss
    def climb(forwards: Any, *, scale: float = 1.0) -> torch.Tensor:
        return scale * forwards.forget.total(forwards.forget.logprobs)

    training = uwc.TrainingSettings(epochs=1, lr=1e-3, batch_size=2)  # type: ignore[call-arg]
    methods: dict[str, Any] = {
        "name": "gd",
        "method": get_method("gd"),
        "terms": [WeightedTerm("gradient_ascent"), WeightedTerm("nll")],
        "mappings": [{"term": "gradient_ascent"}, {"term": "nll", "weight": 1.0}],
        "function": [climb, {"term": "nll"}],
        "settings": [{"term": climb, "weight": 0.5, "settings": {"scale": 2.0}}, {"term": "nll"}],
    }
    before = [p.clone() for p in knowing.model.parameters()]
    done = {
        name: uwc.unlearn(
            knowing, method, forget=FORGET, retain=RETAIN, training=training, output_dir=tmp_path / name, device="cpu"
        )
        for name, method in methods.items()
    }
    weights = {name: [*uwc.load_model(tmp_path / name, device="cpu").model.parameters()] for name in methods}
    for name, result in done.items():
        assert result.status == "ok" and result.log.loss == done["name"].log.loss
        assert all(torch.equal(p, q) for p, q in zip(weights[name], weights["name"], strict=True)), name
    assert all(torch.equal(p, q) for p, q in zip(knowing.model.parameters(), before, strict=True))
    assert done["settings"].formula == "0.5 climb[climb] + nll[" + done["settings"].formula.split("nll[")[1]
    alone = uwc.unlearn(knowing, climb, forget=FORGET, training=training, output_dir=tmp_path / "alone")
    assert alone.method == "climb" and alone.settings["lr"] == 1e-3


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("nop", "unknown method 'nop'"),
        ([{"term": "nll", "wieght": 1}], r"'wieght' \(did you mean 'weight'\?\)"),
        ([{"term": "nlll"}], r"unknown term 'nlll'"),
        ([WeightedTerm("npo", settings={"bta": 1})], r"'bta' \(did you mean 'beta'\?\)"),
        ([3], "3 is not a term; give a WeightedTerm, a function or a mapping"),
    ],
)
def test_wrong_methods_are_refused_before_a_model_is_loaded(method: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        uwc.unlearn("nowhere", method, forget=FORGET, output_dir=tmp_path / "out")


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        (
            [{"term": "misdirection", "settings": {"layer": 9}}],
            {},
            "layer of the term 'misdirection' = 9: the model has 2 blocks; give 1..2",
        ),
        ("npo-lat", {"rule": {"layer": -3}}, "layer = -3: the model has 2 blocks; give 1..2"),
        (
            [{"term": "misdirection", "settings": {"layer": 1}}],
            {"rule": {"name": "lat", "layer": 2}},
            "perturbs block 2, and the forget terms read no state after block 1; set rule.layer to 1 or less",
        ),
        ("ga", {"tricks": {"temprature": 2.0}}, "unknown trick 'temprature'"),
        ("gd", {"retain": ()}, r"the method 'gd' needs retain examples, and there are none; give some \(--retain\)"),
        ("idk-ap", {"refusals": ()}, "needs refusal examples, and there are none.*benchmark.settings.refusals"),
        ("ga", {"training": {"optimizer": "adamm"}}, "unknown optimizer 'adamm'"),
        ([{"term": "nll"}], {"rule": {"name": "mini-unlearning"}}, "takes no other terms; give the method"),
        ("gd", {"training": {"epochs": 1, "batch_size": 64}}, "warmup_ratio = 0.1 with a single step"),
    ],
)
def test_what_cannot_be_trained_is_refused_without_weights(
    method: Any, given: dict[str, Any], message: str, folder: Path, tmp_path: Path
) -> None:
    copytree(folder / "original", tmp_path / "model", ignore=ignore_patterns("*.safetensors"))
    with pytest.raises(UserError, match=message):
        uwc.unlearn(
            tmp_path / "model", method, **{"forget": FORGET, "retain": RETAIN, "output_dir": tmp_path / "out", **given}
        )
    assert not (tmp_path / "out").exists()


def test_every_model_is_looked_for_before_one_is_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", None)
    model, nowhere = folder / "original", folder / "nowhere"
    calls: list[Callable[[], object]] = [
        lambda: uwc.score(model, FORGET, retrained=nowhere),
        lambda: uwc.score(model, FORGET, compare=nowhere, own_tokenizer=True),
        lambda: uwc.attack(nowhere, FORGET, "prefix", control=model, original=model),
        lambda: attack_curve(model, FORGET, "prefix", [1, 2], control=nowhere),
        lambda: uwc.strongest_attack(model, people(), ["prefix"], control=nowhere),
        lambda: uwc.audit_against(model, model, people(), control=nowhere),
    ]
    for call in calls:
        with pytest.raises(ModelError, match="nowhere: there is no such folder"):
            call()


def test_a_prompt_without_effect_is_refused_before_weights_are_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", None)
    for prompt in (uwc.PromptTemplate(date="2024-07-26"), uwc.PromptTemplate(template_arguments={"thinking": False})):
        with pytest.raises(ConfigError, match=r"prompt: date .*no chat template is used here"):
            uwc.load_model(folder / "original", prompt=prompt, device="cpu")


def test_the_rule_of_a_method_is_its_own_unless_another_is_given(knowing: uwc.Model, tmp_path: Path) -> None:
    """`task-vector` goes the opposite way by itself, whatever the training settings say."""
    own, scaled, pruned = {}, {"scale": 0.5}, {"name": "prune", "share": 0.25}
    expected = {"name": "negate", "scale": 1.0}, {"name": "negate", "scale": 0.5}, {**pruned, "by": "magnitude"}
    given = uwc.TrainingSettings(epochs=1, warmup_ratio=0.0)  # type: ignore[call-arg]
    for rule, recorded in zip((own, scaled, pruned), expected, strict=True):
        done = uwc.unlearn(
            knowing, "task-vector", forget=FORGET, training=given, rule=rule, output_dir=tmp_path, overwrite=True
        )
        assert done.rule == recorded and done.settings["epochs"] == 1
    with pytest.raises(ConfigError, match="'prune-first': the rule prune and lora do not go together"):
        uwc.unlearn("nowhere", "prune-first", forget=FORGET, training={"lora": {}}, output_dir=tmp_path / "out")


def test_load_config_takes_what_a_file_holds(tmp_path: Path) -> None:
    benchmark = {"name": "fictional-authors", "settings": {"authors": 4}}
    study = {
        "name": "x",
        "benchmark": benchmark,
        "model": {"path": "somewhere"},
        "unlearn": {"runs": [{"method": "npo"}]},
        "score": {"metrics": ["core", "PPL"]},
    }
    config = uwc.load_config(study, overrides=["calibrate.tau=0.5"])
    assert config.calibration.tau == 0.5 and config.score.metrics == ("core", "perplexity")
    assert "calibrate" not in study and uwc.load_config("quickstart").name == "quickstart"

    @uwc.loss
    def mine(forwards: Any) -> torch.Tensor:
        return forwards.forget.total(forwards.forget.logprobs)

    def length(answers: list[str]) -> np.ndarray:
        return np.array([float(len(a)) for a in answers])

    runs = [{"name": "a", "terms": [{"term": mine}]}]
    config = uwc.load_config({**study, "unlearn": {"runs": runs}, "score": {"metrics": [length]}})
    assert config.unlearn.runs[0].terms[0].term == "mine" and config.score.metrics == ("length",)


STUDY: dict[str, Any] = {
    "model": {"device": "cpu"},
    "name": "small",
    "unlearn": {"training": {"epochs": 1, "lr": 1e-3, "warmup_ratio": 0.0}, "runs": [{"method": "ga"}]},
    "score": {"metrics": ["ES"], "max_new_tokens": 0},
    "calibrate": {"scan": 2, "resolution": 0.25},
}


@pytest.mark.slow
def test_a_study_is_run_resumed_and_run_again(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    settings = {name: str(folder / f"{name}.jsonl") for name in ("forget", "retain")}
    study = STUDY | {
        "benchmark": {"name": "local-files", "settings": settings},
        "model": {"path": str(folder / "original"), "device": "cpu"},
    }
    found = []
    for fresh, to_run in ((False, ", 4 to run"), (False, ", 0 to run"), (True, ", 4 to run")):
        found.append(uwc.run_study(study, runs_dir=tmp_path / "runs", fresh=fresh, overrides={"calibrate.tau": 0.9}))
        assert to_run in capfd.readouterr().err
    assert found[0].retention is not None and found[0].retention.tau == 0.9
    assert repr(found[0].unlearned) == repr(found[2].unlearned)
    path = tmp_path / "runs" / "small" / "results.json"
    same = uwc.diff(found[0], path)
    assert same.count("equal") > 20 and not same.different and "0 are different" in repr(same)
    for result in (found[0], same):
        _require_shown(result)
    assert "ga" in found[0].headline and [row["name"] for row in found[0].table()] == ["original", "ga"]


def _require_shown(result: Any) -> None:
    """A headline and one table, as text and as HTML; the frame and the file have all rows."""
    text, html = repr(result), result._repr_html_()
    assert text.startswith(result.headline) and text == str(result)
    assert html.count("<table>") == 1 and html.count("<tr>") == 1 + min(len(result.table()), 30)
    assert len(text.splitlines()) >= 3 and max(map(len, text.splitlines())) < 400
    assert len(result.to_frame()) and result.to_dict()["schema_version"] == SCHEMA_VERSION
    assert type(result).parse(result.to_json(), where="here").to_dict() == result.to_dict()


def test_every_result_shows_a_headline_and_a_table(knowing: uwc.Model, tmp_path: Path) -> None:
    unlearned = damaged(knowing, 0.05)
    results = [
        uwc.score(unlearned, FORGET, compare=knowing, metrics="ES", max_new_tokens=0),
        uwc.calibrate(knowing, unlearned, forget=FORGET, retain=RETAIN),
        uwc.attack(unlearned, FORGET, ["token_noise", "prefix"], metrics="ES"),
        uwc.unlearn(knowing, "gd", forget=FORGET, retain=RETAIN, training={"epochs": 9}, output_dir=tmp_path / "out"),
    ]
    for result in results:
        _require_shown(result)
        assert RESULTS[{"training_log": "unlearn"}.get(result.FILE[:-5], result.FILE[:-5])] is type(result)
    scores, calibration, attacks, done = results
    assert f"{scores.scores[0].mean:.4g}" in scores.headline and "n = 4" in scores.headline
    assert f"{calibration.calibration.alpha:.4f}" in calibration.headline
    assert "token_noise" in attacks.headline or "prefix" in attacks.headline
    assert set(calibration.answers["condition"]) == {"as delivered", "calibrated"}
    assert calibration.answers.groupby(["role", "set"]).size().tolist() == [4] * 6
    assert calibration.answers.query("role == 'calibrated' and set == 'forget'")["extraction_strength"].mean() == (
        pytest.approx(next(s.mean for s in calibration.scores if (s.condition, s.set) == ("calibrated", "forget")))
    )
    attacked = attacks.answers.groupby("attack")["generated"]
    assert attacked.count().to_dict() == {"": 4, "prefix": 4, "token_noise": 4}
    assert isinstance(done, UnlearnResult) and f"{done.steps} steps" in done.headline and "..." in repr(done)
    assert UnlearnResult.load(tmp_path / "out" / "training_log.json").to_dict() == done.to_dict()


def test_values_by_example_are_in_memory_and_in_the_file(knowing: uwc.Model, tmp_path: Path) -> None:
    found = uwc.score(knowing, FORGET, metrics="ES", max_new_tokens=0, output_dir=tmp_path)
    written = uwc.Scores.load(tmp_path / "score.json").answers
    pd.testing.assert_frame_equal(found.answers, written, check_dtype=False)
    assert set(written["cluster"]) == set(PEOPLE[:2]) and written["generated"].isna().all()
    of_forget = written.query("set == 'forget'")["extraction_strength"]
    assert found.scores[0].mean == pytest.approx(of_forget.mean())
    (tmp_path / "answers.parquet").unlink()
    with pytest.raises(uwc.UserError, match=r"answers\.parquet: there is no such file"):
        _ = uwc.Scores.load(tmp_path / "score.json").answers


def test_a_model_in_memory_is_read_with_its_own_prompt(knowing: uwc.Model) -> None:
    other = replace(knowing, template=uwc.PromptTemplate("{question} ->"))
    alone = uwc.score(other, FORGET, metrics="ES", max_new_tokens=0).scores[0].mean
    beside = uwc.score(other, FORGET, metrics="ES", original=knowing, max_new_tokens=0).scores[0].mean
    assert alone < beside == uwc.score(knowing, FORGET, metrics="ES", max_new_tokens=0).scores[0].mean


def test_an_adapter_that_names_no_base_is_attached_to_the_original(folder: Path, knowing: uwc.Model) -> None:
    """Scored with the original it has the scores of the peft model in memory; alone it is refused."""
    adapted = add_adapter(copied(knowing), rank=2)
    with torch.no_grad():
        for name, weight in adapted.model.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.02)
    save_model(adapted, folder / "adapter")
    config = folder / "adapter" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": None}))
    settings: dict[str, Any] = {"metrics": "probability", "max_new_tokens": 0, "device": "cpu"}
    found = uwc.score(folder / "adapter", FORGET, original=folder / "original", **settings)
    assert found.scores[0].mean == pytest.approx(uwc.score(adapted, FORGET, **settings).scores[0].mean, rel=1e-5)
    assert found.scores[0].mean != uwc.score(knowing, FORGET, **settings).scores[0].mean
    with pytest.raises(ModelError, match="does not name its base"):
        uwc.score(folder / "adapter", FORGET, **settings)


def test_scores_say_what_to_doubt(knowing: uwc.Model) -> None:
    """Repeated questions, and metrics of a suite whose needs are not met."""
    found = uwc.score(knowing, [*FORGET, replace(FORGET[0], id="again")], metrics="core", max_new_tokens=0)
    assert "repeated_questions" in [warning.code for warning in found.warnings]
    assert set(found.left_out) == {"rouge_l", "kl_to_original"}
