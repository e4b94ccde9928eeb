"""Results as typed objects."""

from pathlib import Path

import pytest
from tests.helpers.results_factory import (
    ES,
    PPL,
    aggregate,
    changed_at_tau,
    estimate,
    outcome,
    study_results,
)

from uwc.errors import UserError
from uwc.results import StudyResults, Variant, find


def test_a_residual_score_by_another_metric_is_that_of_the_mixture() -> None:
    results = changed_at_tau(study_results(), "gd", forget=estimate(0.2))
    run = results.run("gd")
    residual, mixture = run.residual("forget", ES), run.residual("forget", PPL)
    assert residual is not None and residual.mean == 0.2 and residual.n == 100
    assert mixture == find(run.calibrated_scores, "forget", PPL)


def test_what_an_attack_found_is_named_by_variant_where_that_differs() -> None:
    def found(*notes: tuple[str, str]) -> str:
        variants = tuple(Variant(label=label, effort=None, note=note, changed=None, mean=0.5) for label, note in notes)
        return outcome("a", 0.1, 0.5, 0.0, variants=variants).finding

    assert found() == found(("first", ""), ("second", "")) == ""
    assert found(("", "suffix")) == found(("1 steps", "suffix"), ("2 steps", "suffix")) == "suffix"
    assert found(("1 steps", "x"), ("2 steps", "y"), ("3 steps", "")) == "1 steps: x; 2 steps: y"


def test_aggregates_of_the_factory_are_valid_and_refuse_what_the_schema_does_not_have() -> None:
    assert StudyResults.parse(study_results().to_json(), where="factory").run("gd").scores[0].mean == 0.0
    with pytest.raises(ValueError, match="extra"):
        aggregate(0.5, meen=0.5)


@pytest.mark.parametrize(
    "text",
    [
        "", "[" * 100_000 + "]" * 100_000, '{"schema_version": 2, "schema_version": 2}', "\0" * 10,
        f'{{"schema_version": {"9" * 5000}}}', f'{{"schema_version": "{"v" * 5000}"}}',
        f'{{"schema_version": 2, "{"k" * 5000}": 1}}',
    ],
    ids=range(7),
)  # fmt: skip
def test_a_file_that_holds_no_results_is_refused_in_one_short_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"results\.json") as raised:
        StudyResults.load(path)
    assert "\n" not in str(raised.value) and len(str(raised.value)) <= 500
