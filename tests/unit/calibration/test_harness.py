"""The adapter to lm-evaluation-harness, against a module that stands in for it: calls as its documentation has them."""

import random
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import people

import uwc
from uwc.calibration.harness import HarnessTask
from uwc.calibration.search import search
from uwc.errors import ConfigError, UserError
from uwc.models.model import Model


class Wrapper:
    """As `lm_eval.models.huggingface.HFLM`: takes a model object and its tokenizer."""

    def __init__(self, pretrained: Any, *, tokenizer: Any, batch_size: int) -> None:
        self.model, self.tokenizer, self.batch_size = pretrained, tokenizer, batch_size


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A stand-in whose model is the alpha itself: accuracy 0.8 (1 - alpha), perplexity 2 / (1 - alpha / 2)."""
    made: list[dict[str, Any]] = []

    def simple_evaluate(model: Wrapper, **options: Any) -> dict[str, Any]:
        made.append(options)
        random.seed(0)
        np.random.seed(1234)
        torch.manual_seed(1234)
        print("| a table |")
        (task,) = options["tasks"]
        if task not in ("mmlu", "wikitext"):
            raise KeyError(f"task {task} not found")
        alpha = model.model
        rows = {
            "mmlu": {"acc,none": 0.8 * (1 - alpha), "acc_stderr,none": 0.1, "alias": "mmlu", "acc_norm,none": 0.5},
            "wikitext": {"word_perplexity,none": 2 / (1 - alpha / 2), "word_perplexity_stderr,none": "N/A"},
        }
        better = {"mmlu": {"acc": True, "acc_norm": True}, "wikitext": {"word_perplexity": False}}
        return {"results": {task: rows[task]}, "higher_is_better": {task: better[task]}}

    library, models, wrappers = (ModuleType(n) for n in ("lm_eval", "lm_eval.models", "lm_eval.models.huggingface"))
    library.simple_evaluate, wrappers.HFLM = simple_evaluate, Wrapper  # type: ignore[attr-defined]
    for name, module in (("lm_eval", library), ("lm_eval.models", models), ("lm_eval.models.huggingface", wrappers)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("uwc.calibration.harness.find_spec", lambda name: object())
    return made


def at(alpha: float) -> Model:
    return Model(alpha, "a tokenizer")


def test_a_task_is_kept(calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    """Accuracy 0.8 (1 - alpha), tau 0.75: alpha is 0.25. Nothing of the library's goes to standard output."""
    task = HarnessTask("mmlu")
    original = task.begin(at(0.0), tau=0.75, early=True)
    found = search(lambda a, whole: task.probe(at(a), a, whole=whole) if a else original, tau=0.75)
    assert 0.25 - 1 / 128 <= found.alpha <= 0.25
    assert calls[0] == {"tasks": ["mmlu"], "limit": None, "bootstrap_iters": 0, "log_samples": False}
    assert len(calls) == len(found.probes) <= 9  # each mixture is evaluated once
    assert task.measured().label == "mmlu:acc"
    assert capsys.readouterr().out == ""


def test_a_task_where_low_is_better(calls: list[dict[str, Any]]) -> None:
    """Perplexity 2 / (1 - alpha / 2): at alpha = 0.5, three quarters are kept."""
    task = HarnessTask("wikitext")
    task.begin(at(0.0), tau=0.75, early=True)
    found = task.probe(at(0.5), 0.5, whole=True)
    assert found.retention == pytest.approx(0.75) and found.feasible
    assert not task.probe(at(0.51), 0.51, whole=True).feasible
    assert task.measured().values[0] == 2.0 and not task.measured().higher


def test_a_metric_of_a_task_by_name(calls: list[dict[str, Any]]) -> None:
    assert HarnessTask("mmlu:acc_norm").score(at(0.5)) == 0.5
    with pytest.raises(ConfigError, match=r"unknown metric of the task 'mmlu' 'f1'.*valid: acc, acc_norm"):
        HarnessTask("mmlu:f1").score(at(0.5))


def test_an_unknown_task_is_named(calls: list[dict[str, Any]]) -> None:
    with pytest.raises(ConfigError, match=r"calibrate\.tasks: nothing"):
        HarnessTask("nothing").score(at(0.0))


def test_global_random_states_are_left_alone(calls: list[dict[str, Any]]) -> None:
    before = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state()  # type: ignore[union-attr]
    HarnessTask("mmlu").score(at(0.0))
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tobytes() == before[1]  # type: ignore[union-attr]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_without_the_library_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uwc.calibration.harness.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'uwc\[harness\]'"):
        uwc.calibrate("nowhere", "nowhere either", forget=people(1), retention=uwc.Retention(sets=(), tasks=("mmlu",)))
