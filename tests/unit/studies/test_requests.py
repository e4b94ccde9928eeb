"""Requests in sequence and forget sets that grow: the parts, the steps, and the results of a small study."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers.small_study import STUDY, run_plan
from tests.helpers.written_files import complaint

from uwc.calibration.calibrate import Calibrated
from uwc.calibration.frontier import Frontier
from uwc.calibration.probed import RetentionCurve
from uwc.data.benchmark import Benchmark
from uwc.data.benchmarks.fictional import fictional_authors
from uwc.data.example import Example
from uwc.errors import ConfigError
from uwc.metrics.evaluate import load_sets
from uwc.models.model import Loading
from uwc.reports.requests import requests_tables
from uwc.results import ES, Requests, StudyResults, find
from uwc.studies.config import SequenceConfig, StudyConfig, UnlearnConfig
from uwc.studies.context import Context
from uwc.studies.estimate import estimate as estimated
from uwc.studies.estimate import machine_of
from uwc.studies.plan import Plan, make_plan
from uwc.studies.requests import scale_parts, sequence_parts
from uwc.studies.steps import Unlearn
from uwc.studies.store import Store
from uwc.training.data import TrainingData
from uwc.training.unlearn import unlearn


def subjects(examples: tuple[Example, ...]) -> set[str]:
    return {example.subject for example in examples}


def config(**changes: Any) -> StudyConfig:
    given = STUDY.model_dump()
    given["benchmark"]["settings"] |= {"authors": 12, "forget_share": 0.5, "facts": 2, "general": True}
    given["score"] = {"metrics": ["extraction_strength", "UDS"], "max_new_tokens": 0}
    given["unlearn"] = {
        "training": {"epochs": 2, "batch_size": 4, "lr": 2e-3, "warmup_ratio": 0.0},
        "runs": [{"method": "gd"}],
        "sequence": {"parts": 3},
        "scale": [1, 2, 3],
    }
    return StudyConfig(**{**given, "retrained": True, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Store, StudyResults]:
    plan, store = make_plan(config()), Store(tmp_path_factory.mktemp("store"))
    return plan, store, run_plan(plan, store)[0]


@pytest.fixture(scope="module")
def curves(finished: tuple[Plan, Store, StudyResults]) -> dict[str, Requests]:
    return {found.kind: found for found in finished[2].requests}


def benchmark(authors: int = 20, share: float = 0.5, **portions: tuple[str, ...]) -> Benchmark:
    found = fictional_authors(authors=authors, forget_share=share, facts=2, phrasings=1)
    return Benchmark(found.name, found.splits, portions=portions)


@pytest.mark.parametrize(("parts", "sizes"), [(4, [3, 2, 3, 2]), (10, [1] * 10), (3, [3, 4, 3])])
def test_parts_have_like_numbers_of_whole_subjects(parts: int, sizes: list[int]) -> None:
    whole = benchmark()
    found = sequence_parts(SequenceConfig(parts=parts), whole, seed=3)
    assert list(found) == [str(i) for i in range(1, parts + 1)]
    assert [len(subjects(part)) for part in found.values()] == sizes
    asked = [example for part in found.values() for example in part]
    assert len(asked) == len(whole["forget"]) and set(asked) == set(whole["forget"])
    assert sum(len(subjects(part)) for part in found.values()) == 10, "no subject is divided"
    again = sequence_parts(SequenceConfig(parts=parts), whole, seed=4)
    assert parts == 3 or again != found, "the order of subjects is drawn"


def test_a_scale_gives_what_each_forget_set_adds() -> None:
    whole = benchmark(authors=16)
    found = scale_parts([1, 2, 4], whole, seed=0)
    assert {name: len(subjects(part)) for name, part in found.items()} == {"x1": 2, "x2": 2, "x4": 4}
    first = sequence_parts(SequenceConfig(parts=4), whole, seed=0)
    assert found["x1"] == first["1"] and found["x2"] == first["2"]


def test_named_portions_add_what_is_new_in_them() -> None:
    ids = [example.id for example in benchmark()["forget"]]
    whole = benchmark(small=tuple(ids[:3]), large=tuple(ids[:8]))
    found = scale_parts(["small", "large"], whole, seed=0)
    assert [[e.id for e in part] for part in found.values()] == [ids[:3], ids[3:8]]
    assert sequence_parts(SequenceConfig(splits=("small", "large")), whole, seed=0) == found
    assert "'small' that is not in the parts" in complaint(
        lambda: sequence_parts(SequenceConfig(splits=("large", "small")), whole, seed=0), ConfigError
    )
    assert "did you mean 'small'" in complaint(lambda: scale_parts(["smal", "large"], whole, seed=0), ConfigError)
    message = complaint(lambda: scale_parts(["small", "large"], benchmark(), seed=0), ConfigError)
    assert message.startswith("unlearn.scale: unknown portion of the forget set 'small'")


def test_parts_by_subject_names() -> None:
    whole = benchmark()
    names = sorted(subjects(whole["forget"]))
    splits = {"january": tuple(names[:2]), "february": (names[4],)}
    found = sequence_parts(SequenceConfig(splits=splits), whole, seed=0)
    assert {name: subjects(part) for name, part in found.items()} == {n: set(of) for n, of in splits.items()}
    message = complaint(
        lambda: sequence_parts(SequenceConfig(splits={"a": (names[0],), "b": ("Nobody",)}), whole, seed=0), ConfigError
    )
    assert "unlearn.sequence.splits: unknown subject of the forget set 'Nobody'" in message


def test_too_many_parts_are_refused() -> None:
    message = complaint(lambda: sequence_parts(SequenceConfig(parts=11), benchmark(), seed=0), ConfigError)
    assert "unlearn.sequence" in message and "too few subjects" in message


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sequence": {}}, "either 'parts'"),
        ({"sequence": {"parts": 2, "splits": ["a", "b"]}}, "either 'parts'"),
        ({"sequence": {"parts": 1}}, "greater than or equal to 2"),
        ({"sequence": {"splits": ["a"]}}, "one part is not a sequence"),
        ({"sequence": {"splits": ["a", "b", "a"]}}, "'a' is named twice"),
        ({"scale": [4]}, "at least two"),
        ({"scale": [2, 1]}, "larger than the one before"),
        ({"scale": [1, 1, 2]}, "1 is named twice"),
        ({"scale": [1, "all"]}, "by name"),
        ({"scale": [0, 1]}, "greater than or equal to 1"),
        ({"scale": [1, 2], "runs": [{"name": "given", "checkpoint": "folder"}]}, "unlearn.scale: all runs are given"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=said):
        UnlearnConfig(**{"runs": [{"method": "gd"}], **given})


def test_each_request_starts_from_the_last_model(finished: tuple[Plan, Store, StudyResults]) -> None:
    plan, _, _ = finished
    sequence, scale = plan.requests
    original, (run,) = plan.original.model, plan.runs
    models = [request.model for request in sequence.models]
    assert all(isinstance(model, Unlearn) for model in models)
    assert [model.original for model in models] == [original, *models[:2]]  # type: ignore[attr-defined]
    assert [set(m.forget) for m in models] == [set(p) for p in sequence.parts.values()]  # type: ignore[attr-defined]
    for request in (*sequence.models, *scale.models):
        assert request.score.original is original and request.calibrate is not None
        assert request.calibrate.original is original, "retention is always that of the first model"
    assert [request.model for request in scale.models] == [models[0], scale.models[1].model, run.model]
    assert scale.models[1].model.inputs["original"] is original
    assert scale.models[2].score is run.score, "the whole forget set is the run itself"
    assert len({step.key for step in plan.steps}) == len(plan.steps)


def test_the_models_are_those_of_unlearning_by_hand(finished: tuple[Plan, Store, StudyResults]) -> None:
    plan, store, _ = finished
    context, loading, sequence = Context(store), Loading(), plan.requests[0]
    model = context.model(plan.original.model, loading)
    for request, part in zip(sequence.models[:2], list(sequence.parts.values())[:2], strict=True):
        step = request.model
        assert isinstance(step, Unlearn)
        examples = [example for example in plan.benchmark["forget"] if example in part]
        data = TrainingData(examples, plan.benchmark["retain"], ())
        unlearn(model, plan.runs[0].config.composition(), data, step.training)
        stored = context.model(step, loading).model.state_dict()
        ours = model.model.state_dict()
        assert all(torch.equal(stored[name], ours[name]) for name in stored)


def test_forget_scores_by_part(finished: tuple[Plan, Store, StudyResults], curves: dict[str, Requests]) -> None:
    plan, store, _ = finished
    for planned in plan.requests:
        for request, after in zip(planned.models, curves[planned.kind].after, strict=True):
            scored = load_sets(store.folder(request.score), ["forget"])["forget"]
            values = dict(zip(scored.ids, scored.values(ES).tolist(), strict=True))
            assert after.status == "ok" and [part.part for part in after.parts] == list(planned.parts)
            for part in after.parts:
                assert part.score.mean == pytest.approx(np.mean([values[e.id] for e in planned.parts[part.part]]))
                assert part.forgotten == (part.part in after.forgotten)
            asked = [e for name in after.forgotten for e in planned.parts[name]]
            assert (after.questions, after.subjects) == (len(asked), len({e.subject for e in asked}))
            assert after.score is not None and after.score.n == len(asked)
            assert after.score.mean == pytest.approx(np.mean([values[e.id] for e in asked]))


def test_residual_scores_are_those_of_the_frontier(
    finished: tuple[Plan, Store, StudyResults], curves: dict[str, Requests]
) -> None:
    """Of all questions the score of a calibration itself; of a part by interpolation by hand."""
    plan, store, results = finished
    (run,) = results.unlearned
    assert run.calibration is not None and run.calibration.at_tau is not None
    last, at_tau = curves["scale"].last, run.calibration.at_tau
    pairs = [(last.residual, at_tau.scores["forget"]), (last.alpha, at_tau.alpha)]
    for ours, theirs in (*pairs, (last.retention, run.calibration.delivered)):
        assert ours and theirs and ours.model_dump_json() == theirs.model_dump_json()
    planned, after = plan.requests[0], curves["sequence"].after[1]
    step = planned.models[1].calibrate
    assert step is not None
    found = Calibrated.load(store.folder(step))
    whole = Frontier(RetentionCurve(found.measures), found.forget["forget"])
    alpha = whole.alpha_at(0.95)
    for part in after.parts:
        ids = {e.id for e in planned.parts[part.part]}
        columns = [i for i, identity in enumerate(whole.forget.ids) if identity in ids]
        means = whole.forget.values[:, columns].mean(axis=1)
        assert part.residual is not None
        assert part.residual.value == pytest.approx(np.interp(alpha, whole.alphas, means))


def test_relapse_is_against_each_parts_own_request(
    finished: tuple[Plan, Store, StudyResults], curves: dict[str, Requests]
) -> None:
    first, second, third = curves["sequence"].after
    assert first.relapse is None and all(after.relapse is None for after in curves["scale"].after)

    def mean(after: int, part: str) -> float:
        return next(p.score.mean for p in curves["sequence"].after[after].parts if p.part == part)

    assert second.relapse is not None and third.relapse is not None
    assert second.relapse.mean == pytest.approx(mean(1, "1") - mean(0, "1"))
    change = (mean(2, "1") - mean(0, "1") + mean(2, "2") - mean(1, "2")) / 2  # of equally many questions
    assert third.relapse.mean == pytest.approx(change)
    assert third.relapse.n == 8 and third.relapse.clusters == 4


def test_against_all_at_once(finished: tuple[Plan, Store, StudyResults], curves: dict[str, Requests]) -> None:
    plan, _, _ = finished
    confidence = curves["sequence"].confidence
    assert confidence is not None and 0 <= confidence <= 1 and curves["scale"].confidence is None
    assert len(plan.sets["forget"]) == curves["sequence"].last.questions


def test_metrics_that_compare_with_the_retrained_model_are_not_scored_after_requests(
    finished: tuple[Plan, Store, StudyResults], curves: dict[str, Requests]
) -> None:
    """Their states by block would be of another model."""
    _, _, results = finished
    assert find(results.unlearned[0].scores, "forget", "uds") is not None
    for after in (*curves["sequence"].after, *curves["scale"].after):
        assert {score.metric for score in after.scores} == {ES}
        assert {score.set for score in after.scores} == {score.set for score in results.unlearned[0].scores}


def test_the_results_are_read_back_and_shown(finished: tuple[Plan, Store, StudyResults]) -> None:
    plan, _, results = finished
    assert StudyResults.model_validate_json(results.to_json()).to_json() == results.to_json()
    rows = list(results.request_rows())
    assert len(rows) == 2 * 3 * 3 and rows[1]["part"] == "2" and rows[1]["forgotten"] is False
    assert [table.title for table in requests_tables(results)] == ["Requests in sequence", "Forget sets that grow"]
    found = estimated(plan, machine_of("cpu"))
    assert {"requests in sequence", "forget sets that grow"} <= {saving.what for saving in found.leave_out}


def test_after_a_request_that_diverges_the_others_are_skipped(tmp_path: Path) -> None:
    changed = config(
        score={"metrics": ["extraction_strength"], "max_new_tokens": 0}, retrained=False, calibrate=None
    ).model_dump()
    changed["unlearn"] |= {"scale": (), "runs": [{"method": "ga", "training": {"lr": 1e30, "clip": None}}]}
    plan, store = make_plan(StudyConfig(**changed)), Store(tmp_path)
    (found,) = run_plan(plan, store)[0].requests
    assert [after.status for after in found.after] == ["diverged", "skipped", "skipped"]
    assert found.after[0].message and found.confidence is None
