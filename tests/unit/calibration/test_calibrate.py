"""Calibration of models in memory: the mixture, the scores of every condition, storage, warnings."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conftest import copied, people

from uwc.calibration.calibrate import Calibrated, calibrate
from uwc.calibration.measures import ExampleMeasure, Measure, NumberMeasure, retention_measures
from uwc.data.example import Example
from uwc.errors import ConfigError
from uwc.metrics.likelihood import extraction_strength, perplexity
from uwc.metrics.stats import aggregate
from uwc.models.mixing import Mixer
from uwc.models.model import Model
from uwc.models.scoring import score_tokens
from uwc.models.token_scores import TokenScores

FORGET, RETAIN = people(4)[:4], people(4)[4:]


def noisy(knowing: Model, amount: float = 0.3) -> Model:
    model = copied(knowing)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.add_(amount * torch.randn(parameter.shape, generator=generator))
    return model


def found(knowing: Model, measures: list[Measure] | None = None, *, tau: float = 0.9, curve: bool = True) -> Calibrated:
    mixer = Mixer(knowing, noisy(knowing))
    kept = measures or [ExampleMeasure(RETAIN, metric="extraction_strength")]
    return calibrate(mixer, kept, {"forget": FORGET}, tau=tau, curve=curve)


def test_the_mixture_keeps_tau_and_no_probed_one_above_does(knowing: Model) -> None:
    calibrated = found(knowing)
    record = calibrated.record()
    assert 0 < record.alpha < record.upper < 1
    mixed = Mixer(knowing, noisy(knowing)).mix(record.alpha)
    (kept,) = record.kept
    assert extraction_strength(score_tokens(mixed, RETAIN)).mean() == kept.value == kept.ratio * kept.original
    assert kept.ratio >= 0.9 and kept.n == len(RETAIN)
    assert {k / 8 for k in range(9)} <= {p.alpha for p in record.probes}
    assert all(p.retention < 0.9 for p in record.probes if p.alpha > record.alpha)
    assert record.probes[0].retention == 1.0
    assert all(p.scored == p.of == len(RETAIN) for p in record.probes)
    assert record.at_tau is not None and record.alpha <= record.at_tau.alpha.value <= record.upper
    path = record.frontier["forget"].path
    assert {(p.alpha, p.retention, p.forget) for p in path} == {(p.alpha, p.retention, p.forget) for p in record.probes}


def test_every_condition_is_scored_on_all_examples(knowing: Model) -> None:
    """Against plain scores of the three models; the intervals are those of `aggregate`, at tau those through alpha."""
    calibrated = found(knowing)
    rows = {(row.set, row.condition): row for row in calibrated.scores(seed=3)}
    assert list(rows) == [
        (name, condition)
        for name in ("forget", "retain")
        for condition in ("original", "as delivered", "calibrated", "at tau")
    ]
    models = {
        "original": knowing,
        "as delivered": noisy(knowing),
        "calibrated": Mixer(knowing, noisy(knowing)).mix(calibrated.alpha),
    }
    for condition, model in models.items():
        for name, examples in {"forget": FORGET, "retain": RETAIN}.items():
            values = extraction_strength(score_tokens(model, examples))
            expected = aggregate(values, [e.subject for e in examples], seed=3)
            row = rows[name, condition]
            assert (row.mean, row.n, row.clusters) == (expected.mean, len(examples), expected.clusters)
            assert (row.se, row.low, row.high) == (expected.se, expected.low, expected.high)
    at_tau = calibrated.record(seed=3).at_tau
    assert at_tau is not None
    assert (rows["forget", "at tau"].mean, rows["forget", "at tau"].low) == (
        at_tau.scores["forget"].value,
        at_tau.scores["forget"].low,
    )
    assert rows["retain", "at tau"].mean == pytest.approx(0.9 * rows["retain", "original"].mean)
    assert {row.n for row in rows.values()} == {4}


def test_a_geometric_metric_is_averaged_geometrically(knowing: Model) -> None:
    calibrated = found(knowing, [ExampleMeasure(RETAIN, metric="perplexity")])
    rows = {row.condition: row for row in calibrated.scores() if row.set == "retain"}
    values = perplexity(score_tokens(noisy(knowing), RETAIN))
    assert rows["as delivered"].mean == pytest.approx(np.exp(np.log(values).mean()))
    assert rows["at tau"].mean == pytest.approx(rows["original"].mean / 0.9)
    assert {row.metric for row in rows.values()} == {"perplexity"}
    assert {row.metric for row in calibrated.scores() if row.set == "forget"} == {"extraction_strength"}


def test_a_search_alone_has_no_interval_through_alpha_and_no_score_of_a_part(knowing: Model) -> None:
    """The forget set was scored at alpha, the retain set there and on the original; at alpha = 1 perhaps a part."""
    many = [replace(e, id=f"{e.id} {i}") for i in range(20) for e in RETAIN]
    calibrated = found(knowing, [ExampleMeasure(many, metric="extraction_strength")], curve=False)
    record = calibrated.record()
    assert record.at_tau is None and not record.frontier
    assert any(p.scored < p.of for p in record.probes)
    conditions = {(row.set, row.condition) for row in calibrated.scores()}
    assert conditions == {("forget", "calibrated"), ("retain", "original"), ("retain", "calibrated")}
    assert all(row.n == (len(many) if row.set == "retain" else 4) for row in calibrated.scores())
    mixed = Mixer(knowing, noisy(knowing)).mix(calibrated.alpha)
    assert calibrated.forget_score == extraction_strength(score_tokens(mixed, FORGET)).mean()


def test_no_mixture_is_scored_twice(knowing: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each probe scores both sets once, and the record and the rows score nothing."""
    scored: list[int] = []

    def counted(model: Model, examples: list[Example], **options: object) -> TokenScores:
        scored.append(len(examples))
        return score_tokens(model, examples, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("uwc.models.scoring.score_tokens", counted)
    calibrated = found(knowing)
    calibrated.record()
    calibrated.scores()
    assert sum(scored) == len(calibrated.search.probes) * (len(FORGET) + len(RETAIN))


def several(distance: Callable[[Model], float]) -> list[Measure]:
    sets = {"retain": RETAIN[:2], "real_authors": RETAIN[2:3], "world_facts": RETAIN[3:]}
    return [
        *retention_measures(sets, metric="model_utility", max_new_tokens=8),
        *retention_measures(sets, metric="perplexity", keep=["real_authors"], further=[distance]),
    ]


@pytest.mark.slow
def test_what_is_stored_is_read_back_by_itself(knowing: Model, tmp_path: Path) -> None:
    """A utility, a geometric average and a number: the same bits from the files alone."""
    start = knowing.model.model.norm.weight[0].detach().clone()

    def closeness(model: Model) -> float:
        return 1.0 - abs(float(model.model.model.norm.weight[0].detach() - start))

    calibrated = found(knowing, several(closeness), tau=0.7)
    calibrated.save(tmp_path)
    again = Calibrated.load(tmp_path)
    assert again.record(seed=1).model_dump_json() == calibrated.record(seed=1).model_dump_json()
    rows = zip(again.scores(seed=1), calibrated.scores(seed=1), strict=True)
    assert all(one.model_dump_json() == other.model_dump_json() for one, other in rows)
    assert [k.measure for k in again.record().kept] == ["model_utility", "perplexity on real_authors", "closeness"]
    assert [k.n for k in again.record().kept] == [4, 1, 1]
    utility = [row for row in again.scores() if row.metric == "model_utility"]
    assert {row.set for row in utility} == {"retain+real_authors+world_facts"} and len(utility) == 4
    assert {p.name for p in tmp_path.iterdir()} == {"probes.parquet", "probes.json"}


def test_what_makes_a_calibration_doubtful_is_in_the_result(knowing: Model, capsys: pytest.CaptureFixture[str]) -> None:
    unknown = [Example(id=f"u{i}", question=e.question, answer=e.answer) for i, e in enumerate(people()[-4:])]
    for curve in (False, True):
        calibrated = calibrate(
            Mixer(knowing, noisy(knowing)),
            [ExampleMeasure(RETAIN[:2], metric="extraction_strength")],
            {"forget": unknown},
            tau=0.8,
            resolution=1 / 4,
            curve=curve,
        )
        assert [w.code for w in calibrated.warnings] == ["low_forget"]
    assert "there is little to forget" in " ".join(capsys.readouterr().err.split())


def test_what_cannot_be_asked_for_is_refused(knowing: Model) -> None:
    for tau in (0.0, 1.5):
        with pytest.raises(ConfigError, match=f"tau = {tau} must be"):
            found(knowing, [NumberMeasure(lambda _: 1.0, label="one")], tau=tau)
    with pytest.raises(ConfigError, match="unknown retention metric 'kl_to_original'"):
        retention_measures({"retain": RETAIN}, metric="kl_to_original")
