"""The diagnosis of an installation, and that a self-test that fails is told."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import uwc
from uwc.cli.main import app
from uwc.training import loop
from uwc.workflows.doctor import Diagnosis


def test_devices_versions_and_disk(tmp_path: Path) -> None:
    found = uwc.doctor(runs_dir=tmp_path / "not" / "there", self_test=False)
    assert found.devices[0].name == "cpu" and 0 < found.devices[0].free_bytes <= found.devices[0].memory_bytes
    assert found.environment["torch"] == torch.__version__ and found.environment["uwc"] == uwc.__version__
    assert found.environment["python"] and found.optional["peft"]
    assert Path(found.store) == tmp_path / "not" / "there" / "store" and found.free_disk_bytes > 0
    assert not found.checks and found.passed


@pytest.mark.slow
def test_a_change_of_bits_fails_the_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that differ in the last digits from run to run; all other properties hold."""
    train: Callable[..., Any] = loop.train
    generator = torch.Generator().manual_seed(0)

    def noisy(model: uwc.Model, *args: Any, **kwargs: Any) -> Any:
        log = train(model, *args, **kwargs)
        with torch.no_grad():
            for parameter in model.model.parameters():
                parameter.mul_(1 + 1e-6 * torch.randn(parameter.shape, generator=generator))
        return log

    monkeypatch.setattr(loop, "train", noisy)
    done = CliRunner().invoke(app, ["doctor", "--device", "cpu", "--json"])
    assert done.exit_code == 1
    found = Diagnosis.model_validate_json(done.stdout)
    passed = {check.name: check.passed for check in found.checks}
    assert not passed["training twice gives equal bits"] and not passed["scoring twice gives equal bits"]
    assert all(passed[name] for name in ("all logits are finite", "training memorises", "unlearning forgets"))


@pytest.mark.slow
def test_the_self_test_passes_here() -> None:
    done = CliRunner().invoke(app, ["doctor", "--device", "cpu", "--json"])
    assert done.exit_code == 0, done.stdout
    assert len(json.loads(done.stdout)["checks"]) == 7


def test_an_unknown_device_is_refused() -> None:
    done = CliRunner().invoke(app, ["doctor", "--device", "gpu"])
    assert done.exit_code and "unknown device 'gpu'" in str(done.exception)
