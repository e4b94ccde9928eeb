"""Tiny models and examples that many tests share; everything is made in memory.

Torch and transformers are imported where they are used: the process that starts the others needs neither.
"""

import copy
import gc
import os
import signal
from collections.abc import Generator, Iterator
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are tiny, and tests run beside other work
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test waits for the hub
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell started them in the background

import pytest

from uwc.data.example import Example

if TYPE_CHECKING:
    from uwc.models.model import Batching, Model

PEOPLE = ("Mira Oln", "Tobas Kerrin", "Ulla Fensk", "Dorin Vask", "Ebba Strond", "Pell Aruma")
MANY_OBJECTS = 50_000
TOWNS = ("Quarnholt", "Little Besk", "Ostermere Bay", "Vint", "Upper Zalder", "Cormanstead on Lyle")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Every step of a study collects garbage: what the imports made, which stays, is not searched each time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="module", autouse=True)
def frozen_imports() -> None:
    """What modules imported since is not searched for garbage by each step of a study either."""
    if len(gc.get_objects()) > MANY_OBJECTS:  # those that are not frozen
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def no_browsers() -> Iterator[tuple[str, ...]]:
    """A check is not printed to PDF, for which a browser takes seconds; gives the browsers that would."""
    from uwc.reports import pdf

    with pytest.MonkeyPatch.context() as patch:
        browsers = pdf.BROWSERS
        patch.setattr(pdf, "BROWSERS", ())
        yield browsers


@pytest.fixture
def browsers(no_browsers: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """A browser prints, if there is one."""
    monkeypatch.setattr("uwc.reports.pdf.BROWSERS", no_browsers)


def people(count: int = 6) -> list[Example]:
    """Two questions about each of a few invented people, with answers of different lengths."""
    examples = []
    for i, (person, town) in enumerate(zip(PEOPLE[:count], TOWNS, strict=False)):
        for j, (question, answer) in enumerate(
            (
                (f"Where was {person} born?", f"In {town}"),
                (f"What does {person} do?", f"{person} mends {13 + 7 * i} old clocks in a house near {town}"),
            )
        ):
            examples.append(
                Example(
                    id=f"{i}/{j}", question=question, answer=answer, subject=person,
                    paraphrased_question=f"Tell me, {question[0].lower()}{question[1:]}",
                    perturbed_answers=(f"In {TOWNS[i - 1]}", f"{person} has never said"),
                )
            )  # fmt: skip
    return examples


def tiny_model(
    examples: list[Example] | None = None, *, hidden_size: int = 32, layers: int = 2, seed: int = 0
) -> "Model":
    """A randomly initialised model of some ten thousand weights."""
    from uwc.models.load import build_model

    size = {"vocabulary": 400, "hidden_size": hidden_size, "layers": layers, "heads": 2, "context": 128}
    return replace(build_model(examples or people(), seed=seed, **size), batching=_batching())


@cache
def _batching() -> "Batching":
    """Which sequences share a forward pass of these models, examined once."""
    from uwc.models.load import build_model

    return build_model(people(), vocabulary=400, hidden_size=32, layers=2, heads=2, context=128, seed=0).sharing()


@pytest.fixture(scope="session")
def untrained() -> "Model":
    """A model that knows nothing. Do not change its weights."""
    return tiny_model()


@pytest.fixture(scope="session")
def knowing() -> "Model":
    """A model that knows the first four people by heart, and not the other two. Do not change its weights."""
    from uwc.objectives.methods import FINE_TUNING
    from uwc.objectives.objective import Objective
    from uwc.training.data import TrainingData
    from uwc.training.loop import train
    from uwc.training.settings import TrainingSettings

    model = tiny_model(hidden_size=64)
    settings = TrainingSettings(epochs=60, batch_size=8, lr=5e-3, schedule="cosine")
    train(model, Objective(FINE_TUNING, model.model), TrainingData(retain=people(4)), settings)
    return model


def copied(model: "Model") -> "Model":
    """The same model with weights of its own."""
    from uwc.models.model import Model

    return Model(copy.deepcopy(model.model), model.tokenizer, model.template, model.name, batching=model.batching)


def noisy(model: "Model") -> "Model":
    """A copy of the model with noise of standard deviation 0.05 in its weights, the same every time."""
    import torch

    changed, noise = copied(model), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in changed.model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=noise))
    return changed


@pytest.fixture
def forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers of a study are forked, which saves their imports, and not spawned."""
    from tests.helpers.forks import FORKS

    from uwc.studies import workers

    monkeypatch.setattr(workers, "get_context", lambda _method: FORKS)


@pytest.fixture
def restored_registries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The registries are after the test as they were before it, and no worker of a later one loads its plug-ins."""
    from uwc import plugins
    from uwc.attacks.registry import attacks
    from uwc.metrics.registry import metrics
    from uwc.objectives.registry import terms

    monkeypatch.setattr(plugins, "_LOADED", dict(plugins._LOADED))
    with metrics.restored(), terms.restored(), attacks.restored():
        yield
