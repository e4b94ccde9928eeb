"""What a study says of the questions and models that it was given."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tests.conftest import people, tiny_model

from uwc.data.example import Example, asked_in_both, repeated, require_disjoint
from uwc.errors import DataError
from uwc.models.load import save_model
from uwc.results import ES, Score, Warning
from uwc.studies.checks import input_warnings, knows_forget
from uwc.studies.config_file import validated
from uwc.studies.plan import make_plan


def written(path: Path, examples: Sequence[Example]) -> str:
    rows = [{"question": e.question, "answer": e.answer, "subject": e.subject} for e in examples]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def told(folder: Path, forget: Sequence[Example], retain: Sequence[Example], seeds: dict[str, int]) -> list[Warning]:
    """The warnings on a comparison of models of these seeds; seed 0 is the original."""
    for name, seed in {"original": 0, **seeds}.items():
        save_model(tiny_model(seed=seed), folder / name)
    data = {"forget": written(folder / "f.jsonl", forget), "retain": written(folder / "r.jsonl", retain)}
    study = {
        "name": "given",
        "benchmark": {"name": "local-files", "settings": data},
        "model": {"path": str(folder / "original")},
        "finetune": None,
        "retrained": False,
        "unlearn": {"runs": [{"name": n, "checkpoint": str(folder / n)} for n in seeds]},
        "calibrate": {},
    }
    return input_warnings(make_plan(validated(study, where="test")))


def about(subjects: int, *, of: str) -> list[Example]:
    return [Example(f"{of}{i}", f"Who is {of} {i}?", f"It is {i}", subject=f"{of}{i % subjects}") for i in range(12)]


def test_few_subjects_and_none(tmp_path: Path) -> None:
    """Four subjects are too few and five are not; one shows no spread; without a name each question counts."""
    models = {"a": 1, "b": 2}
    assert told(tmp_path, about(5, of="f"), about(6, of="r"), models) == []
    (few,) = told(tmp_path, about(5, of="f"), about(4, of="r"), models)
    assert few.code == "few_clusters" and "retain" in few.text and "4 subjects" in few.text
    (one,) = told(tmp_path, about(1, of="f"), about(5, of="r"), models)
    assert one.code == "one_cluster" and "forget" in one.text
    nameless = [replace(e, subject="") for e in about(5, of="f")]
    (silent,) = told(tmp_path, nameless, about(5, of="r"), models)
    assert silent.code == "no_subjects" and "forget" in silent.text


def test_repeated_questions_and_such_as_are_in_both_sets(tmp_path: Path) -> None:
    forget, retain = about(5, of="f"), about(5, of="r")
    again = replace(forget[3], id="again", question=forget[3].question.upper())
    other = replace(forget[0], id="other", answer="Nobody knows", subject="r0")
    repeats, both = told(tmp_path, [*forget, again], [*retain, other], {"a": 1})
    assert repeats.code == "repeated_questions" and repeats.text.startswith("1 of the forget questions")
    assert both.code == "asked_in_both" and "'Who is f 0" in both.text
    assert repeated([*forget, again, again]) == 2 and asked_in_both(forget, [other]) == [forget[0].question]


def test_case_and_spaces_do_not_hide_an_overlap() -> None:
    first = people(1)
    hidden = [replace(first[0], id="x", question=f" {first[0].question.upper()} ", answer=first[0].answer.lower())]
    with pytest.raises(DataError, match="the forget and retain sets overlap"):
        require_disjoint(first, hidden, names=("forget", "retain"))
    require_disjoint(first, [replace(hidden[0], answer="elsewhere")], names=("forget", "retain"))


def test_one_model_under_several_names(tmp_path: Path) -> None:
    found = told(tmp_path, about(5, of="f"), about(5, of="r"), {"a": 1, "b": 1, "c": 0, "d": 2})
    texts = {w.code: w.text for w in found}
    assert set(texts) == {"weights_of_original", "same_weights"}
    assert texts["weights_of_original"].startswith("c:") and texts["same_weights"].startswith("a and b ")


@pytest.mark.parametrize(
    ("forget", "holdout", "se", "knows"),
    [
        (0.45, None, 0.01, "original"),
        (0.44, None, 0.01, ""),
        (0.2, 0.05, 0.01, "holdout"),
        (0.2, 0.05, 0.1, ""),
        (0.12, 0.05, 0.001, ""),
        (0.05, 0.2, 0.001, ""),
    ],
)
def test_a_retrained_model_that_knows_the_forget_data(
    forget: float, holdout: float | None, se: float, knows: str
) -> None:
    """The original scores 0.9: half of it is known; or 0.15 more than of the holdout data, of standard error 0.014, and
    not 0.141; 0.07 is less than a tenth of 0.9."""

    def scored(**of_sets: float | None) -> list[Score]:
        given = {name: mean for name, mean in of_sets.items() if mean is not None}
        return [Score(set=name, metric=ES, mean=mean, n=40, clusters=20, se=se) for name, mean in given.items()]

    reason = knows_forget(scored(forget=forget, holdout=holdout), scored(forget=0.9), ES)
    assert knows in reason and bool(reason) == bool(knows)
    assert not knows_forget(scored(forget=0.09), scored(forget=0.09), ES), "the original knows nothing itself"
