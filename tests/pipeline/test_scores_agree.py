"""`uwc score` and `uwc compare` give the same scores of one model, numbers for whole sets and judged ones too."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from math import isnan
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import people, tiny_model
from tests.pipeline.conftest import run_command
from tests.pipeline.test_bad_input import line_of
from tests.pipeline.test_compare import damaged
from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizerFast

from uwc.data.example import Example
from uwc.metrics.registry import metrics, set_metrics
from uwc.models.load import save_model
from uwc.models.model import Model
from uwc.results import AttackResults, Score, Scores, StudyResults, find
from uwc.studies.config_file import load_config, validated
from uwc.studies.gather import gather
from uwc.studies.plan import Plan, make_plan
from uwc.studies.store import Store

SETS = {
    "forget": (0, 2), "retain": (1, 3), "holdout": (8, 10), "real_authors": (4, 6), "world_facts": (5, 7),
    "verbatim": (9, 11),
}  # fmt: skip
"""Two people's questions each; the original knows all but those of holdout and verbatim."""
OPTIONS = ("forget", "retain", "holdout")
FURTHER = "benchmark.settings.further."
FILES = tuple(
    word
    for name in SETS
    for word in ((f"--{name}", f"{name}.jsonl") if name in OPTIONS else ("--set", f"{FURTHER}{name}={name}.jsonl"))
)
JUDGES = (
    "--set",
    "score.judges={encoder: encoder, entailment: entailment, contradiction: entailment, classifier: entailment, "
    "clean: entailment, language_model: ignorant}",
)
MODELS = ("--original", "original", "--retrained", "ignorant")
ALL = ("--metric", "all", "--set", "score.max_new_tokens=6")
SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "in", "near", "a", "old", "clocks", "little", "mends")


def write(path: Path, examples: list[Example]) -> None:
    path.write_text("".join(json.dumps(asdict(e)) + "\n" for e in examples), encoding="utf-8")


def save_judges(folder: Path) -> None:
    """A sentence encoder and a judge of entailment of random weights."""
    kinds = {"encoder": BertModel, "entailment": BertForSequenceClassification}
    for name, kind in kinds.items():
        (folder / name).mkdir()
        (folder / name / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
        BertTokenizerFast(str(folder / name / "vocab.txt")).save_pretrained(folder / name)
        torch.manual_seed(0)
        labels = {0: "contradiction", 1: "entailment"}
        config = BertConfig(vocab_size=len(WORDS), id2label=labels, label2id={v: k for k, v in labels.items()}, **SIZES)
        kind(config).save_pretrained(folder / name)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, knowing: Model) -> Path:
    folder = tmp_path_factory.mktemp("agree")
    models = {"original": knowing, "mild": damaged(knowing, 0.03, seed=1), "ignorant": tiny_model(hidden_size=64)}
    for name, model in models.items():
        save_model(model, folder / name)
    known = [replace(e, paraphrased_answer=e.answer, secret=(e.answer,)) for e in people()]
    for name, part in SETS.items():
        write(folder / f"{name}.jsonl", [known[i] for i in part])
    save_judges(folder)
    return folder


def compared(place: Path, out: str, *options: str) -> StudyResults:
    done = run_command(
        "compare", *MODELS, "--unlearned", "mild", *FILES, "--attack", "none", "--output-dir", out, "--json", *options,
        cwd=place,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return StudyResults.parse(done.stdout, where="uwc compare")


def scored(place: Path, model: str, *options: str) -> Scores:
    done = run_command("score", model, *FILES, *MODELS, *options, "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    return Scores.parse(done.stdout, where="uwc score")


def rows(scores: Sequence[Score]) -> dict[tuple[str, str], str]:
    """(set, metric) -> the score as JSON, to the last bit."""
    return {(score.set, score.metric): score.model_dump_json() for score in scores}


@pytest.fixture(scope="module")
def results(place: Path) -> StudyResults:
    return compared(place, "all", *ALL, *JUDGES)


def mean(scores: Sequence[Score], name: str, metric: str) -> Score:
    found = find(scores, name, metric)
    assert found is not None
    return found


def test_every_number_is_the_same_to_the_bit(place: Path, results: StudyResults) -> None:
    """Every metric there is on every set, of the unlearned model: as delivered by both commands.

    LUME's are left out, since they need its ids and documents.
    """
    found = scored(place, "mild", *ALL, *JUDGES)
    by_command = found.scores
    assert rows(results.run("mild").scores) == rows(by_command)
    assert found.judges == results.judges and len(found.judges) == 5
    assert all("judge_not_checked" in {w.code for w in of.warnings} for of in (found, results))
    assert {score.metric for score in by_command} == {*metrics.names(), *set_metrics.names()} - {
        "lume_tasks",
        "lume_mia",
    }
    assert not isnan(mean(by_command, "forget", "forget_quality").mean)
    assert 0 < mean(by_command, "retain+real_authors+world_facts", "model_utility").mean < 1
    assert 0 < mean(by_command, "forget", "linguistic_score_forget").mean < 1
    assert 0 <= mean(by_command, "retain", "trace_auc_original_retain").mean <= 1
    auc = mean(by_command, "forget+holdout", "auc_loss")
    assert auc.low <= auc.mean <= auc.high


def test_the_retrained_model_against_itself(results: StudyResults) -> None:
    """Its truth ratios are its own, with a p-value of 1, and so is its AUC."""
    retrained = results.reference("retrained")
    assert retrained is not None
    assert mean(retrained.scores, "forget", "forget_quality").mean == 1.0
    assert mean(retrained.scores, "forget+holdout", "privleak").mean == 0.0
    assert mean(retrained.scores, "retain", "trace_auc_retrained_retain").mean == 0.5


def test_the_calibrated_mixture_has_the_same_scores(results: StudyResults) -> None:
    mild = results.run("mild")
    assert rows(mild.calibrated_scores).keys() == rows(mild.scores).keys()


def test_chosen_metrics_are_reported_by_name_and_by_label(place: Path) -> None:
    options = ("--metric", "PrivLeak", "--metric", "auc_loss", "--metric", "ppl", "--set", "score.max_new_tokens=0")
    found = rows(compared(place, "chosen", *options).run("mild").scores)
    assert {metric for _, metric in found} == {"privleak", "auc_loss", "perplexity", "extraction_strength"}
    assert found == rows(scored(place, "mild", *options, "--metric", "ES").scores)


def plan_of(results: StudyResults) -> Plan:
    return make_plan(validated(results.study.config, where="the comparison"))


def test_gathering_loads_no_judge(place: Path, results: StudyResults, monkeypatch: pytest.MonkeyPatch) -> None:
    """The judges' verdicts are stored with the scores."""

    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError("a judge was loaded")

    monkeypatch.chdir(place)
    for loader in ("load_encoder", "load_inference", "load_classifier", "load_language_model"):
        monkeypatch.setattr(f"uwc.models.judges.{loader}", refused)
    found = gather(plan_of(results), Store(place / "all" / "store"))
    assert rows(found.run("mild").scores) == rows(results.run("mild").scores)
    assert {"semantic_similarity", "entailment"} <= {score.metric for score in found.run("mild").scores}


def test_another_judge_is_another_step(place: Path, results: StudyResults, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content of the judges is part of what a score is kept under, wherever they lie; other steps stay."""
    monkeypatch.chdir(place)
    first = {s.name: s.key for s in plan_of(results).steps}
    weights = place / "encoder" / "model.safetensors"
    before = weights.read_bytes()
    try:
        torch.manual_seed(1)
        BertModel(BertConfig(vocab_size=len(WORDS), **SIZES)).save_pretrained(place / "encoder")
        second = {s.name: s.key for s in plan_of(results).steps}
    finally:
        weights.write_bytes(before)
    changed = {name for name, key in first.items() if second[name] != key}
    assert changed == {
        "score original", "score retrained", "score mild", "calibrate mild", "depth of mild, calibrated"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "essentials"),
    [
        (
            ("--metric", "semantic_similarity"),
            ["'semantic_similarity' needs a sentence encoder", "score.judges.encoder"],
        ),
        (("--metric", "forget_qualty"), ["unknown metric 'forget_qualty'", "did you mean 'forget_quality'"]),
        (("--set", "score.suite=tofuu"), ["unknown suite 'tofuu'"]),
        (("--metric", "ROUGE-L", "--set", "score.max_new_tokens=0"), ["'rouge_l' needs generated answers"]),
    ],
)
def test_what_is_missing_is_refused_before_anything_is_computed(
    place: Path, options: tuple[str, ...], essentials: list[str]
) -> None:
    arguments = ("compare", *MODELS, "--unlearned", "mild", *FILES[:4], "--output-dir", "refused", *options)
    line = line_of(run_command(*arguments, cwd=place))
    for essential in essentials:
        assert essential in line
    assert not list((place / "refused").rglob("manifest.json"))


def test_a_set_that_a_number_needs_is_asked_for(place: Path) -> None:
    arguments = ("compare", *MODELS, "--unlearned", "mild", *FILES[:4], "--output-dir", "refused")
    assert "'auc_loss' needs the set 'holdout'" in line_of(run_command(*arguments, "--metric", "auc_loss", cwd=place))
    without = ("compare", *MODELS[:2], "--unlearned", "mild", *FILES[:4], "--output-dir", "refused")
    assert "--retrained" in line_of(run_command(*without, "--metric", "forget_quality", cwd=place))


ATTACKS = ("relearn", "jailbreak", "quantization")
SETTINGS = ("relearn.steps=2", "relearn.lr=1e-2", "jailbreak.kinds=[pressure,fiction]")


def test_an_attack_has_the_same_numbers_in_a_study_and_alone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attacker's data are those that the study takes; both models are scored before and under each attack."""
    settings = [word for setting in SETTINGS for word in ("--set", f"attack.settings.{setting}")]
    metrics = ("--metric", "ES", "--metric", "PPL")
    done = run_command(
        "compare", *MODELS, "--unlearned", "mild", *FILES[:4], "--output-dir", "attacked", "--json", *metrics,
        *(word for attack in ATTACKS for word in ("--attack", attack)), *settings,
        "--set", "attack.metrics=[ES, PPL]", "--set", "attack.attacker.forget_share=0.5",
        "--set", "score.max_new_tokens=0", cwd=place,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = StudyResults.parse(done.stdout, where="uwc compare")
    monkeypatch.chdir(place)
    setup = make_plan(load_config(results.study.config)).setup
    assert setup is not None and results.attacks is not None
    for name in ("scored", "train", "retain"):
        write(place / f"attacker-{name}.jsonl", list(getattr(setup.data, name)))
    alone = run_command(
        "attack", "mild", "--data", "attacker-scored.jsonl", "--attacker-data", "attacker-train.jsonl",
        "--retain", "attacker-retain.jsonl", "--retrained", "ignorant", "--original", "original", "--json", *metrics,
        *(word for attack in ATTACKS for word in ("--attack", attack)), *settings, cwd=place,
    )  # fmt: skip
    assert alone.returncode == 0, alone.stderr
    found = AttackResults.parse(alone.stdout, where="uwc attack").attacks
    kinds = set()
    for model in results.attacks.models:
        (own,) = [m for m in found.models if m.model.role == model.model.role]
        for outcome in model.outcomes:
            other = own.outcome(outcome.attack, outcome.set, outcome.metric)
            assert other is not None and other.recovery.kind == outcome.recovery.kind
            kinds.add((outcome.metric, outcome.recovery.kind))
            for name in ("before", "after", "recovery", "worst_case"):
                ours, theirs = getattr(outcome, name), getattr(other, name)
                assert (ours is None) == (theirs is None)
                if ours is not None:
                    values = [(a.mean, a.low, a.high, a.n) for a in (ours, theirs)]
                    assert values[0] == pytest.approx(values[1], rel=1e-4, abs=1e-6, nan_ok=True)
    assert kinds == {("extraction_strength", "difference"), ("perplexity", "ratio")}
