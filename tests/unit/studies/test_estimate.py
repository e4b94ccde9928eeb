"""Hours, devices and savings of a study, against sums by hand; the rates, against their fit to recorded times."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from benchmarks.step_times import CPU, counted, errors, fit, recorded
from tests.helpers.small_study import STUDY
from typer.testing import CliRunner

from uwc import estimate_study
from uwc.cli.main import app
from uwc.errors import ConfigError
from uwc.studies.cost import Work
from uwc.studies.estimate import CPU_RATES, MACHINES, Machine, estimate, machine_of, measured_here, path
from uwc.studies.plan import Plan, make_plan
from uwc.studies.steps import Calibrate, Checkpoint


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(STUDY)


def test_seconds_are_those_by_the_peaks_times_the_rates() -> None:
    """0.605 (2 + 1) + 1.01 x 4 + 0.558 x 5 + 2.01 (1 + 2) + 0.1 = 14.775."""
    machine = Machine("m", "cpu", float32=10.0, half=5.0, bandwidth=2.0)
    work = Work(20, 20, 2, 50, 0, 10, 4, passes=7, steps=1)
    assert machine.seconds(work, dtype="float32") == pytest.approx(14.775)
    assert machine.features(work, dtype="bfloat16")["scoring"] == 10


def test_the_parts_of_an_estimate_add_up(plan: Plan) -> None:
    found = estimate(plan, MACHINES["cpu"])
    assert sum(kind.hours for kind in found.kinds) == pytest.approx(found.total.hours)
    assert sum(kind.share for kind in found.kinds) == pytest.approx(1)
    assert sum(kind.steps for kind in found.kinds) == sum(not isinstance(s, Checkpoint) for s in plan.steps)
    assert found.total.memory_gb == max(kind.memory_gb for kind in found.kinds)
    assert 0 < found.path_hours < found.total.hours
    hours = [kind.hours for kind in found.kinds]
    assert hours == sorted(hours, reverse=True)


def test_only_the_given_steps_are_counted(plan: Plan) -> None:
    calibrations = [step for step in plan.steps if isinstance(step, Calibrate)]
    found = estimate(plan, MACHINES["cpu"], calibrations)
    assert [(kind.kind, kind.steps) for kind in found.kinds] == [("calibrate", len(calibrations))]
    assert next(s.share for s in found.leave_out if s.how == "calibrate: null") == pytest.approx(1)
    assert estimate(plan, MACHINES["cpu"], []).total.hours == 0


def test_a_step_that_does_not_fit_one_device_takes_several(plan: Plan) -> None:
    one = estimate(plan, MACHINES["h100"])
    small = replace(MACHINES["h100"], memory=one.total.memory_gb * 1e9 / 2.5)
    several = estimate(plan, small)
    assert (one.total.devices, several.total.devices) == (1, 3)
    assert one.total.hours < several.total.hours <= 3 * one.total.hours
    assert several.path_hours == pytest.approx(one.path_hours), "they work one after the other"


def test_the_longest_chain(plan: Plan) -> None:
    """With a second for each step it is the depth of the graph: build, fine-tune, unlearn, calibrate."""
    steps = [step for step in plan.steps if step.kind != "attack"]
    assert path({step.id: 1.0 for step in steps}, steps) == 4
    assert path({}, steps) == 0


def test_unknown_machines_are_named() -> None:
    with pytest.raises(ConfigError, match="h100"):
        machine_of("nosuch")


def test_this_machine_is_measured() -> None:
    found = measured_here()
    assert found.name == "here" and min(found.float32, found.half, found.bandwidth) > 1e8


@pytest.mark.slow
def test_the_command_prints_what_python_returns(tmp_path: Path) -> None:
    """In Python as on the command line, the same numbers."""
    found = estimate_study("quickstart", machine="h100", runs=tmp_path)
    arguments = ["study", "plan", "quickstart", "--estimate", "--machine", "h100", "-o", str(tmp_path), "--json"]
    printed = json.loads(CliRunner().invoke(app, arguments).stdout)
    assert printed["total"] == asdict(found.total) and printed["leave_out"] == [asdict(s) for s in found.leave_out]
    assert printed["machine"]["name"] == "h100"
    for wrong in (["--machine", "h100"], ["--estimate", "--machine", "nosuch"], ["--estimate", "--slurm", "jobs"]):
        assert CliRunner().invoke(app, ["study", "plan", "quickstart", *wrong]).exit_code


def test_the_rates_are_the_fit_to_the_recorded_times() -> None:
    found = fit([run for run in recorded() if run.device == "cpu"])
    assert asdict(CPU_RATES) == pytest.approx(asdict(found.rates), rel=3e-3)
    assert 2 * CPU.float32 == MACHINES["cpu"].float32


@pytest.mark.slow
def test_recorded_counts_are_those_of_the_code() -> None:
    """Record the runs again (benchmarks/step_times.py) when the model counts otherwise."""
    run = next(run for run in recorded() if run.study == "quickstart")
    now = counted("quickstart", [], device="cpu")
    assert [(s.name, s.inputs) for s in now] == [(s.name, s.inputs) for s in run.steps]
    for ours, theirs in zip(now, run.steps, strict=True):
        assert asdict(ours.work) == pytest.approx(asdict(theirs.work), rel=1e-3), ours.name
        assert ours.counted_memory == pytest.approx(theirs.counted_memory, rel=1e-3), ours.name


def test_most_steps_are_predicted_well() -> None:
    """Also of a study that the rates are not fitted to."""
    runs = [run for run in recorded() if run.device == "cpu"]
    for run in runs:
        assert errors(run, CPU_RATES).median < 0.2
        assert errors(run, fit([other for other in runs if other is not run]).rates).median < 0.5
