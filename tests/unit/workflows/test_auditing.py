"""Audits of models, texts and endpoints by their answers."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import people
from tests.helpers.openai_server import MODEL, serving
from typer.testing import CliRunner

import uwc
from uwc.cli.main import app
from uwc.data.benchmarks.fictional import fictional_authors
from uwc.data.example import Example
from uwc.errors import UserError
from uwc.models.load import save_model
from uwc.models.model import Model
from uwc.results import AuditResults

EXAMPLES = people(6)


def taught(examples: list[Example], seed: int) -> Model:
    """A model that was trained on some of the questions, from a seed of its own."""
    from uwc.models.load import build_model
    from uwc.objectives.methods import FINE_TUNING
    from uwc.objectives.objective import Objective
    from uwc.training.data import TrainingData
    from uwc.training.loop import train
    from uwc.training.settings import TrainingSettings

    model = build_model(AUTHORS, vocabulary=600, hidden_size=64, layers=2, heads=2, context=128, seed=seed)
    settings = TrainingSettings(epochs=20, batch_size=16, lr=5e-3, schedule="cosine", seed=seed)
    train(model, Objective(FINE_TUNING, model.model), TrainingData(retain=examples), settings)
    return model


_SPLITS = fictional_authors(authors=60, forget_share=0.3, facts=2, phrasings=1, holdout=2, general=False).splits
FORGET, RETAIN = list(_SPLITS["forget"]), list(_SPLITS["retain"])
AUTHORS = [*FORGET, *RETAIN]
"""Two questions about each of 18 authors that are to be forgotten, and about 34 others."""


@pytest.fixture(scope="module")
def retrained() -> tuple[Model, Model]:
    """Two models that never saw the forget questions, of different seeds."""
    return taught(RETAIN, 1), taught(RETAIN, 2)


def rows(texts: list[str], examples: list[Example] = EXAMPLES) -> list[dict[str, str]]:
    return [{"id": e.id, "output": text} for e, text in zip(examples, texts, strict=True)]


def many(count: int = 24) -> list[Example]:
    """Questions about subjects of their own."""
    return [
        Example(id=str(i), question=f"Where is {i}?", answer=f"{i} is in Vint", subject=str(i // 2))
        for i in range(count)
    ]


@pytest.mark.slow
def test_two_retrained_models_of_different_seeds_do_not_differ_significantly(retrained: tuple[Model, Model]) -> None:
    """By sampled answers zero is in every interval, and a model that knows the answers is distinguished from one of
    them by more than the other one. Without a second one a warning says that seeds differ."""
    model = taught(AUTHORS, 1)
    samples = {"count": 4}
    found = uwc.audit_against(
        model, retrained[0], FORGET, control=retrained[1], samples=samples, max_new_tokens=24
    ).observer
    assert found is not None and found.clusters == 18
    for point in found.points:
        assert point.control is not None and point.control.low <= 0 <= point.control.high
    last = found.points[-1]
    assert last.n == 8 and last.advantage.low > 0 and last.excess is not None and last.excess.low > 0
    greedy = uwc.audit_against(retrained[1], retrained[0], FORGET, max_new_tokens=24)
    assert "no_control" in {warning.code for warning in greedy.warnings}


def test_a_model_that_knows_is_distinguished_and_the_control_is_not(
    retrained: tuple[Model, Model], tmp_path: Path
) -> None:
    """Two retrained models whose answers have the same words, and one that says something else."""
    examples = many()
    said = [f"there is {'one' if i % 3 else 'two'} of {i % 5}" for i in range(24)]
    other = [f"there is {'one' if (i + 1) % 3 else 'two'} of {(i * 7 + 3) % 5}" for i in range(24)]
    known = [e.answer for e in examples]
    found = uwc.audit_against(
        uwc.Outputs(rows(known, examples)),
        uwc.Outputs(rows(said, examples)),
        examples,
        control=uwc.Outputs(rows(other, examples)),
        output_dir=tmp_path,
    )
    assert found.kind == "texts" and found.observer is not None
    last = found.observer.points[-1]
    assert last.n == 4 and found.observer.equal == 0
    assert last.advantage.low > 0.3 and last.control is not None and last.control.low <= 0 <= last.control.high
    assert last.excess is not None and last.excess.low > 0
    assert "distinguishes the model" in found.headline and "Of two retrained models" in found.headline
    assert AuditResults.load(tmp_path / "audit.json") == found
    assert (tmp_path / "audit.svg").read_text(encoding="utf-8").startswith("<?xml")
    assert len(found.to_frame()) == 9 and len(found.table()) == 3


def test_sampled_answers_are_of_their_questions_cluster(retrained: tuple[Model, Model]) -> None:
    samples = {"count": 3, "temperature": 2.0}
    found = uwc.audit_against(*retrained, EXAMPLES, samples=samples, max_new_tokens=4)
    assert found.observer is not None
    assert (found.observer.samples, found.observer.clusters, found.observer.temperature) == (3, 6, 2.0)
    again = uwc.audit_against(retrained[0], retrained[0], EXAMPLES, samples=samples, max_new_tokens=4)
    assert again.observer is not None and again.observer.equal == 1
    assert [point.advantage.value for point in again.observer.points] == pytest.approx([0, 0])


def test_an_endpoint_is_asked_once(tmp_path: Path) -> None:
    examples = many(8)
    with serving(lambda body: f"it said {body['messages'][-1]['content']}") as server:
        for _ in range(2):
            found = uwc.audit_against(
                uwc.Endpoint(server.url, MODEL),
                uwc.Outputs(rows(["no"] * 8, examples)),
                examples,
                output_dir=tmp_path,
            )
        assert len(server.asked) == 8 and found.kind == "endpoint"
    assert found.observer is not None and found.observer.points[-1].advantage.value == pytest.approx(1)


def test_what_no_observer_can_be_given_is_refused(retrained: tuple[Model, Model]) -> None:
    texts = uwc.Outputs(rows(["a"] * 12))
    with pytest.raises(UserError, match=r"about 3 subjects.*at least 4"):
        uwc.audit_against(*retrained, EXAMPLES[:6])
    with pytest.raises(UserError, match="one text of each question"):
        uwc.audit_against(texts, texts, EXAMPLES, samples={"count": 2})
    with pytest.raises(UserError, match="no effect on an observer"):
        uwc.audit_against(*retrained, EXAMPLES, samples={"leaks": "exact_match"})


def test_the_command(retrained: tuple[Model, Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, model in zip(("first", "second"), retrained, strict=True):
        save_model(model, tmp_path / name)
    names = ("id", "question", "answer", "subject")
    lines = [json.dumps({n: getattr(e, n) for n in names}) for e in EXAMPLES]
    (tmp_path / "forget.jsonl").write_text("\n".join(lines), encoding="utf-8")
    line = ["audit", "first", "--against", "second", "--forget", "forget.jsonl", "--set", "score.max_new_tokens=4"]
    told = CliRunner().invoke(app, [*line, "--control", "first", "-o", "out"])
    assert told.exit_code == 0, told.output
    assert "advantage" in told.stdout and "An observer of 2 answers" in told.stdout
    as_json = CliRunner().invoke(app, [*line, "--json"])
    assert json.loads(as_json.stdout)["observer"]["against"] == "second"
    for options, reason in (
        (["audit", "first", "--forget", "forget.jsonl"], "--against"),
        (["audit", "--forget", "forget.jsonl", "--against", "second"], "give a MODEL"),
        (["audit", *line[2:], "--outputs", "forget.jsonl"], "score.max_new_tokens: there is no model"),
        ([*line, "--outputs", "first"], "one of them"),
    ):
        refused = CliRunner().invoke(app, options)
        assert refused.exit_code and reason in str(refused.exception)


def answering(body: dict[str, Any]) -> str:
    """The true answer for the people with a small number, a refusal for the next, and something else for the rest."""
    number = int(body["messages"][-1]["content"].split()[-1][:-1])
    known = f"{number} is in Vint"
    return known if number < 40 else "I'm sorry, I can't help with that." if number < 60 else "Over there it may be."


def test_leaks_are_found_and_bounded_and_no_question_is_asked_twice(tmp_path: Path) -> None:
    """40 of 120 questions leak and 20 are refused; leaks are of the first people."""
    examples = many(120)
    with serving(answering) as server:
        endpoint = uwc.Endpoint(server.url, MODEL)
        found = uwc.audit_leaks(endpoint, examples, budget=60, output_dir=tmp_path).leaks
        assert found is not None and len(server.asked) == 60
        more = uwc.audit_leaks(endpoint, examples, budget=90, output_dir=tmp_path).leaks
        assert more is not None and len(server.asked) == 90 and more.asked[:60] == found.asked
    assert found.random == 18 and found.found > 1.2 * 20
    assert found.leaks.low <= 1 / 3 <= found.leaks.high
    assert found.refusals.low <= 1 / 6 <= found.refusals.high
    assert found.with_refusals.low <= 1 / 2 <= found.with_refusals.high
    assert more.leaks.high - more.leaks.low < found.leaks.high - found.leaks.low
    assert all(q.leaks == (int(q.id) < 40) and q.refused == (40 <= int(q.id) < 60) for q in more.asked)


def test_the_bounds_allow_for_refusals_that_are_not_recognised(tmp_path: Path) -> None:
    """All questions are asked, so that both shares are known: the upper end is the share of leaks and refusals, plus
    that of refusals times 1 / s - 1, s the lower end of a sensitivity of one half of two texts."""
    examples = many(30)
    said = [answering({"messages": [{"content": f"Where is {2 * i}?"}]}) for i in range(30)]
    (tmp_path / "labels.csv").write_text(
        "question,answer,output,label\nq,a,I cannot help with that.,yes\nr,a,Blue sky.,yes", encoding="utf-8"
    )
    texts = uwc.Outputs([{"id": e.id, "output": text} for e, text in zip(examples, said, strict=True)])
    found = uwc.audit_leaks(texts, examples, budget=30, refusal_labels=tmp_path / "labels.csv").leaks
    assert found is not None
    refused = sum(q.refused for q in found.asked)
    assert refused == 10 and found.refusals.value == pytest.approx(1 / 3)
    sensitivity = found.classifier.sensitivity.low
    assert sensitivity == pytest.approx(1 - 0.975**0.5)
    expected = min(1.0, (found.found + refused) / 30 + refused / 30 * (1 / sensitivity - 1))
    assert found.with_refusals.high == pytest.approx(expected)
    assert uwc.audit_leaks(texts, examples, budget=99).leaks.with_refusals.high < expected  # type: ignore[union-attr]


def test_a_model_is_asked_in_batches_and_an_interrupted_audit_resumes(knowing: Model, tmp_path: Path) -> None:
    examples = people(6)
    settings = {"batch": 3, "random_share": 0.5}
    arguments: dict[str, Any] = {"budget": 9, "settings": settings, "max_new_tokens": 24}
    whole = uwc.audit_leaks(knowing, examples, **arguments)
    uwc.audit_leaks(knowing, examples, **(arguments | {"budget": 3}), output_dir=tmp_path)
    kept = (tmp_path / "model_answers.jsonl").read_text(encoding="utf-8")
    assert kept.count("\n") == 3
    again = uwc.audit_leaks(knowing, examples, **arguments, output_dir=tmp_path)
    assert again.leaks == whole.leaks and whole.leaks is not None
    assert (tmp_path / "model_answers.jsonl").read_text(encoding="utf-8").startswith(kept)
    assert all(q.leaks for q in whole.leaks.asked if int(q.id[0]) < 4) and whole.leaks.random == 4
    assert len(again.to_frame()) == 9 and len(again.table()) == 3 and "of 9 answers leak" in again.headline
    assert AuditResults.load(tmp_path / "audit.json") == again and (tmp_path / "audit.svg").exists()


def test_questions_without_a_value_are_not_asked(knowing: Model) -> None:
    """Only questions with a secret can leak one."""
    examples = [replace(e, secret=("old clocks",) if e.id.endswith("1") else ()) for e in people(4)]
    found = uwc.audit_leaks(knowing, examples, budget=20, metric="secret_said", at_least=1).leaks
    assert found is not None and (found.questions, found.not_scored, found.found) == (4, 4, 4)
    assert found.leaks.low == found.leaks.high == 1
    with pytest.raises(UserError, match="none of the questions"):
        uwc.audit_leaks(knowing, people(4), budget=20, metric="secret_said")


def test_what_no_audit_can_be_made_of_is_refused(knowing: Model) -> None:
    for arguments, reason in (
        ({"budget": 0}, "budget = 0"),
        ({"budget": 5, "metric": "probability"}, "a metric of single texts"),
        ({"budget": 5, "metric": "entailment"}, "judge"),
        ({"budget": 5, "at_least": 2}, "at_least"),
        ({"budget": 5, "settings": {"random_share": 0}}, "random_share"),
        ({"budget": 5, "settings": {"nosuch": 0}}, "nosuch"),
    ):
        with pytest.raises(UserError, match=reason):
            uwc.audit_leaks(knowing, people(4), **arguments)  # type: ignore[arg-type]


def test_the_command_with_a_budget(knowing: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(knowing, tmp_path / "model")
    names = ("id", "question", "answer", "subject")
    lines = [json.dumps({n: getattr(e, n) for n in names}) for e in people(6)]
    (tmp_path / "forget.jsonl").write_text("\n".join(lines), encoding="utf-8")
    line = ["audit", "model", "--forget", "forget.jsonl", "--set", "score.max_new_tokens=24"]
    options = ["--budget", "8", "--metric", "exact_match", "--at-least", "1", "--set", "audit.random_share=0.5"]
    told = CliRunner().invoke(app, [*line, *options, "-o", "out"])
    assert told.exit_code == 0, told.output
    assert "answers leak" in told.stdout and "refusals" in told.stdout
    as_json = json.loads(CliRunner().invoke(app, [*line, *options, "--json"]).stdout)
    assert as_json["leaks"]["metric"] == "exact_match" and len(as_json["leaks"]["asked"]) == 8
    other = CliRunner().invoke(app, [*line, "--against", "model", "-o", "out"])
    assert other.exit_code and "another audit, '--budget'" in str(other.exception)
    for more, reason in (
        (["--budget", "8", "--against", "model"], "give one of them"),
        (["--budget", "8", "--control", "model"], "--control"),
        (["--budget", "8", "--set", "score.samples.count=2"], "score.samples"),
        (["--against", "model", "--metric", "rouge_l"], "--metric is for --budget"),
        (["--against", "model", "--set", "audit.batch=2"], "--set audit is for --budget"),
        (["--budget", "8", "--set", "audit.batch=0"], "audit.batch"),
    ):
        refused = CliRunner().invoke(app, [*line, *more])
        assert refused.exit_code and reason in str(refused.exception), refused.exception
