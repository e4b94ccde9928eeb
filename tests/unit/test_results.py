"""Results as typed objects."""

import pytest
from tests.helpers.results_factory import (
    ES,
    PPL,
    aggregate,
    changed_at_tau,
    estimate,
    study_results,
)

from uwc.results import StudyResults, find


def test_a_residual_score_by_another_metric_is_that_of_the_mixture() -> None:
    results = changed_at_tau(study_results(), "gd", forget=estimate(0.2))
    run = results.run("gd")
    residual, mixture = run.residual("forget", ES), run.residual("forget", PPL)
    assert residual is not None and residual.mean == 0.2 and residual.n == 100
    assert mixture == find(run.calibrated_scores, "forget", PPL)


def test_aggregates_of_the_factory_are_valid_and_refuse_what_the_schema_does_not_have() -> None:
    assert StudyResults.parse(study_results().to_json(), where="factory").run("gd").scores[0].mean == 0.0
    with pytest.raises(ValueError, match="extra"):
        aggregate(0.5, meen=0.5)
