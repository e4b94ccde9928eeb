"""Passes that are interrupted and run again have the bits of one that is not, and never read what another has kept."""

import copy
import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import noisy, people, tiny_model

import uwc
from uwc.models import chunks, generation, patching, scoring, states
from uwc.models import samples as sampling
from uwc.models.chunks import keeping
from uwc.models.load import save_model
from uwc.models.model import Model
from uwc.models.weights import StreamedMixer


class Interrupted(Exception):
    """What a kill is in these tests."""


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every batch is written."""
    monkeypatch.setattr(chunks, "EVERY", 0.0)


def stopped(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> Callable[[int | None], list[int]]:
    """Lets a function stop at its n-th call from now on (never with None), and counts its calls."""
    work = getattr(module, name)

    def after(most: int | None) -> list[int]:
        calls: list[int] = []

        def counted(*given: Any, **settings: Any) -> Any:
            if most is not None and len(calls) >= most:
                raise Interrupted
            calls.append(1)
            return work(*given, **settings)

        monkeypatch.setattr(module, name, counted)
        return calls

    return after


def scored(model: Model) -> dict[str, np.ndarray]:
    found = scoring.score_tokens(model, people(), variants=("answer", "perturbed_answers"), token_budget=60)
    return {"logprob": found.logprob, "kl": found.kl, "greedy": found.greedy, "finite": found.finite}


def broken_off(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Callable[[int | None], list[int]], list[int]]:
    """Score, and again until the third batch, with chunks kept; the counter of batches, and those of a whole run."""
    after = stopped(monkeypatch, scoring, "_score_batch")
    whole = after(None)
    scored(model)
    after(2)
    with pytest.raises(Interrupted), keeping(tmp_path / "chunks", "run"):
        scored(model)
    return after, whole


def answered(model: Model) -> dict[str, np.ndarray]:
    found = generation.generate(model, people(), max_new_tokens=8, token_budget=60)
    return {"tokens": np.array([t for tokens in found.tokens for t in tokens]), "texts": np.array(found.texts)}


def sampled(model: Model) -> dict[str, np.ndarray]:
    found = sampling.sample(model, people(), count=3, max_new_tokens=5, token_budget=90)
    return {"texts": np.array(found.texts), "finite": found.finite}


def gradients(model: Model) -> dict[str, np.ndarray]:
    return {"norms": scoring.gradient_norms(model, people())}


def dropped(model: Model) -> dict[str, np.ndarray]:
    other = replace(model, model=copy.deepcopy(model.model), name="other")
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.mul_(1.01)
    sets = {"forget": people()[:6], "retain": people()[6:]}
    return patching.patched_drops(model, other, sets, token_budget=60, resume=False)


def read_inside(model: Model) -> dict[str, np.ndarray]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(states, "DEFAULT_TOKEN_BUDGET", 60)
        entering, tokens = states.entering_states(model, people())
        means = states.mean_states(model, people(), [1])
    return {"entering": entering.numpy(), "tokens": tokens.numpy(), "means": means[1].numpy()}


PASSES = {
    "scores": (scored, scoring, "_score_batch"),
    "answers": (answered, generation, "continue_greedily"),
    "samples": (sampled, sampling._Sampler, "__call__"),
    "gradients": (gradients, scoring, "_mean_gradient_norm"),
    "depth": (dropped, patching, "_drops"),
    "states": (read_inside, states, "labelled_states"),
}


@pytest.mark.parametrize("name", PASSES)
def test_an_interrupted_pass_continues_with_the_same_bits(
    name: str, knowing: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped twice; every batch is computed once, and nothing is left."""
    work, module, function = PASSES[name]
    after = stopped(monkeypatch, module, function)
    whole = after(None)
    expected = work(knowing)
    assert len(whole) > 3, "several batches"
    calls = []
    for most in (1, 2):
        calls.append(after(most))
        with pytest.raises(Interrupted), keeping(tmp_path / "chunks", "run"):
            work(knowing)
    assert len(list((tmp_path / "chunks").glob("*/*.npz"))) == 3
    calls.append(after(None))
    with keeping(tmp_path / "chunks", "run"):
        found = work(knowing)
    assert sum(map(len, calls)) == len(whole)
    assert all(found[column].tobytes() == values.tobytes() for column, values in expected.items())
    assert not list(tmp_path.iterdir())


def test_a_chunk_of_another_run_is_never_read(knowing: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another key, of other weights (one number of one), of another scale, another attack or another budget."""
    after, whole = broken_off(knowing, tmp_path, monkeypatch)
    changed = replace(knowing, model=copy.deepcopy(knowing.model))
    with torch.no_grad():
        next(changed.model.parameters()).view(-1)[7777] += 1e-3
    scaled = replace(knowing, model=copy.deepcopy(knowing.model))
    scaled.model.scaling = {"default": 0.5}
    for other, key, attack in (
        (changed, "run", []),
        (scaled, "run", []),
        (knowing, "other", []),
        (knowing, "run", ["jailbreak"]),
    ):
        calls = after(len(whole) - 1)
        under = chunks.within(lambda attack=attack: attack) if attack else nullcontext()
        with pytest.raises(Interrupted), keeping(tmp_path / "chunks", key), under:
            scored(other)
        assert len(calls) == len(whole) - 1, (key, attack)
    calls = after(None)
    with keeping(tmp_path / "chunks", "run"):
        scored(knowing)
    assert len(calls) == len(whole) - 2, "those of the first run are still there"


def test_a_damaged_chunk_is_computed_again(
    knowing: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    after = stopped(monkeypatch, scoring, "_score_batch")
    whole = after(None)
    expected = scored(knowing)
    after(2)
    with pytest.raises(Interrupted), keeping(tmp_path / "chunks", "run"):
        scored(knowing)
    first = min((tmp_path / "chunks").glob("*/*.npz"))
    first.write_bytes(first.read_bytes()[:-40])
    calls = after(None)
    with keeping(tmp_path / "chunks", "run"):
        found = scored(knowing)
    assert len(calls) == len(whole) - 1
    assert all(found[column].tobytes() == values.tobytes() for column, values in expected.items())
    assert "damaged" in capsys.readouterr().err


def test_batches_after_a_lack_of_memory_are_the_same_when_resumed(
    knowing: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second batch fails once, as where another program takes the memory, and the rest is done in smaller ones."""
    work, batches = scoring._score_batch, []

    def run(most: int | None, failing: int | None) -> Any:
        calls: list[int] = []

        def counted(model: Model, batch: Any, *rest: Any) -> Any:
            calls.append(batch.size)
            if len(calls) == failing:
                raise torch.OutOfMemoryError
            if most is not None and len(calls) > most:
                raise Interrupted
            batches.append(tuple(batch.input_ids.shape))
            return work(model, batch, *rest)

        monkeypatch.setattr(scoring, "_score_batch", counted)
        return scoring.score_tokens(knowing, people(), token_budget=120)

    expected = run(None, failing=2)
    whole = sorted(batches)
    batches.clear()
    with pytest.raises(Interrupted), keeping(tmp_path / "chunks", "run"):
        run(4, failing=2)
    with keeping(tmp_path / "chunks", "run"):
        found = run(None, failing=None)
    assert sorted(batches) == whole and found.equals(expected)


def test_the_score_command_continues_and_leaves_no_chunk(
    knowing: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = stopped(monkeypatch, generation, "continue_greedily")
    data, metrics = people(), ["extraction_strength", "rouge_l"]
    whole = after(None)
    expected = uwc.score(knowing, data, metrics=metrics, output_dir=tmp_path / "whole", max_new_tokens=8)
    after(len(whole) - 1)
    with pytest.raises(Interrupted):
        uwc.score(knowing, data, metrics=metrics, output_dir=tmp_path / "out", max_new_tokens=8)
    assert list((tmp_path / "out" / ".chunks").glob("*/*.npz")), "the scores, at least"
    scores = stopped(monkeypatch, scoring, "_score_batch")(None)
    after(None)
    found = uwc.score(knowing, data, metrics=metrics, output_dir=tmp_path / "out", max_new_tokens=8)
    assert not scores, "all scores were kept"
    assert json.loads(found.to_json())["scores"] == json.loads(expected.to_json())["scores"]
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {path.name for path in (tmp_path / "whole").iterdir()}
    assert (tmp_path / "out" / "forget.parquet").read_bytes() == (tmp_path / "whole" / "forget.parquet").read_bytes()


@pytest.fixture(scope="module")
def pair(knowing: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows the answers, and the same with noise in its weights."""
    folder = tmp_path_factory.mktemp("pair")
    save_model(knowing, folder / "original")
    save_model(noisy(knowing), folder / "unlearned")
    return folder


def calibrated(pair: Path, output: Path, **settings: Any) -> uwc.CalibrationResults:
    given: dict[str, Any] = {"forget": people()[6:], "retain": people()[:6], "max_new_tokens": 8, **settings}
    return uwc.calibrate(pair / "original", pair / "unlearned", output_dir=output, **given)


@pytest.mark.parametrize("placed", [False, True], ids=["in memory", "in files"])
def test_a_calibration_continues_and_scores_no_mixture_again(
    placed: bool, pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at two thirds of the batches; also where forward passes mix the weights as they read them."""
    where: dict[str, Any] = {"device": "map", "max_memory": {"cpu": 0}} if placed else {"device": "cpu"}
    batches: list[float] = []
    work, mix = scoring._score_batch, StreamedMixer.mix
    most, at = [10**9], [0.0]

    def mixed(mixer: StreamedMixer, alpha: float) -> Model:
        at[0] = alpha
        return mix(mixer, alpha)

    def counted(*given: Any) -> Any:
        if len(batches) >= most[0]:
            raise Interrupted
        batches.append(at[0])
        return work(*given)

    monkeypatch.setattr(StreamedMixer, "mix", mixed)
    monkeypatch.setattr(scoring, "_score_batch", counted)
    expected = calibrated(pair, tmp_path / "whole", **where)
    whole = batches.copy()
    batches.clear()
    most[0] = 2 * len(whole) // 3
    with pytest.raises(Interrupted):
        calibrated(pair, tmp_path / "out", **where)
    first, most[0] = batches.copy(), 10**9
    batches.clear()
    found = calibrated(pair, tmp_path / "out", **where)
    assert first + batches == whole, "every batch of every mixture once"
    assert len(set(first)) > 3 and len(set(batches) - set(first)) > 1
    assert found.to_json() == expected.to_json()
    files = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == files


def test_what_waits_is_written_when_a_run_ends_with_an_error(
    knowing: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "EVERY", 60.0)
    after, whole = broken_off(knowing, tmp_path, monkeypatch)
    calls = after(None)
    with keeping(tmp_path / "chunks", "run"):
        scored(knowing)
    assert len(calls) == len(whole) - 2


def test_a_text_is_made_once(knowing: Model, tmp_path: Path) -> None:
    """Again for another content, such as another model."""
    made: list[str] = []

    def make() -> str:
        made.append("")
        return f"ä {len(made)}"

    def interrupted() -> None:
        assert chunks.kept(lambda: ["task", knowing.model], make) == "ä 1"
        raise Interrupted

    with pytest.raises(Interrupted), keeping(tmp_path / "chunks", "run"):
        interrupted()
    with keeping(tmp_path / "chunks", "run"):
        assert chunks.kept(lambda: ["task", knowing.model], make) == "ä 1"
        assert chunks.kept(lambda: ["task", tiny_model().model], make) == "ä 2"
    assert chunks.kept(lambda: ["task", knowing.model], make) == "ä 3", "nothing is kept"


def test_an_attack_command_continues_with_the_same_bits(
    knowing: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = stopped(monkeypatch, scoring, "_score_batch")
    whole = after(None)
    expected = uwc.attack(knowing, people(), "jailbreak", output_dir=tmp_path / "whole", texts=False)
    after(len(whole) - 1)
    with pytest.raises(Interrupted):
        uwc.attack(knowing, people(), "jailbreak", output_dir=tmp_path / "out", texts=False)
    calls = after(None)
    found = uwc.attack(knowing, people(), "jailbreak", output_dir=tmp_path / "out", texts=False)
    assert len(calls) == 1
    assert found.to_json() == expected.to_json()
    assert (tmp_path / "out" / "answers.parquet").read_bytes() == (tmp_path / "whole" / "answers.parquet").read_bytes()
    assert not (tmp_path / "out" / ".chunks").exists()
