"""Audits of models, texts and endpoints by their answers."""

import json
from pathlib import Path

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
    them and not by the other's difference. Greedy answers show the seed too, of which a warning speaks."""
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
    assert "greedy_without_control" in {warning.code for warning in greedy.warnings}


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
        ([*line, "--outputs", "first"], "one of them"),
    ):
        refused = CliRunner().invoke(app, options)
        assert refused.exit_code and reason in str(refused.exception)
