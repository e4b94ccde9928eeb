"""The context of a running study: the store, and a cache of models that several steps read."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from uwc.metrics.semantics import Judges
from uwc.models.adapters import attach_adapter
from uwc.models.chunks import FOLDER, keeping
from uwc.models.load import load_model
from uwc.models.mixing import Mixing
from uwc.models.mixtures import open_mixing
from uwc.models.model import Loading, Model
from uwc.models.reading import differences, load_both, load_reading
from uwc.objectives.objective import Objective
from uwc.studies.steps import MODEL, Checkpoint, Step
from uwc.studies.store import Store
from uwc.tracking import Trackers
from uwc.training.forward import frozen_copy, needs_frozen_copy
from uwc.training.settings import TrainingSettings

Key = tuple[str, ...]


class ModelCache:
    """A cache of models that steps only read."""

    def __init__(self) -> None:
        self._kept: dict[Key, Any] = {}

    def get(self, key: Key, make: Callable[[], Any]) -> Any:
        """The value of the key, computed if missing."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def keep(self, *keys: Key) -> None:
        """Drop all other keys, which frees their memory."""
        self._kept = {key: self._kept[key] for key in keys if key in self._kept}


@dataclass(frozen=True)
class Context:
    """The shared resources that a step may use besides its own fields.

    Attributes:
        trackers: get the logs of trainings; no result depends on them.
    """

    store: Store
    trackers: Trackers = field(default_factory=Trackers)
    cache: ModelCache = field(default_factory=ModelCache)

    def keeping(self, step: Step) -> AbstractContextManager[None]:
        """While open, results of batches are kept, so that the step continues where a killed run ended."""
        return keeping(self.store.checkpoints(step) / FOLDER, step.key)

    def model(self, step: Step, loading: Loading, *, original: Step | None = None) -> Model:
        """Load the model that a step made or names.

        An adapter is attached to the study's original, as a peft model. A given model gets the original's tokenizer and
        prompt.
        """
        path, name = self._path(step), model_name(step)
        if isinstance(step, Checkpoint) and step.base is not None:
            return replace(attach_adapter(self.model(step.base, loading), path), name=name)
        reading = None
        if isinstance(step, Checkpoint) and original is not None and step.key != original.key:
            reading = load_reading(
                self._path(original), template=loading.template, trust_remote_code=_trusted(original)
            )
        return load_model(path, name=name, reading=reading, **_options(step, loading))

    def read_otherwise(self, step: Step, original: Step) -> tuple[str, ...]:
        """The differences of a given model's own tokenizer and prompt from the original's, which are used."""
        if not isinstance(step, Checkpoint) or step.key == original.key:
            return ()
        ours, theirs = load_both(self._path(original), self._path(step), trust_remote_code=_trusted(original))
        if theirs is None:
            return () if step.base is not None else ("no tokenizer of its own that can be read",)
        return tuple(differences(theirs, ours))

    def original(self, step: Step, loading: Loading) -> Model:
        """The original model, cached; its weights must not be changed."""

        def load() -> Model:
            model = self.model(step, loading)
            model.model.requires_grad_(False)
            return model

        model: Model = self.cache.get(("original", step.key), load)
        return model

    def judges(self, paths: Mapping[str, str], loading: Loading) -> Judges:
        """The judges of generated answers, cached."""
        judges: Judges = self.cache.get(("judges", *paths.values()), lambda: Judges.load(paths, device=loading.device))
        return judges

    def mixing(self, original: Step, unlearned: Step, loading: Loading) -> Mixing:
        """The mixer of the original and an unlearned model, see `open_mixing`."""
        return open_mixing(
            self._path(original),
            self._path(unlearned),
            shared=lambda: self.original(original, loading),
            name=model_name(unlearned),
            **_options(original, loading),
        )

    def frozen(self, original: Step, loading: Loading, objective: Objective, settings: TrainingSettings) -> Any:
        """The frozen copy of the original that a run needs at every step, cached; None if it needs none.

        In the weights' own precision it is also the model that scores are compared with.
        """
        if not needs_frozen_copy(objective, settings):
            self.cache.keep()
            return None
        if settings.precision == "no":
            self.cache.keep(("original", original.key))
            return self.original(original, loading).model
        key = ("frozen", original.key, settings.precision)
        self.cache.keep(key)
        return self.cache.get(key, lambda: frozen_copy(self.model(original, loading).model, settings))

    def _path(self, step: Step) -> str:
        return step.path if isinstance(step, Checkpoint) else str(self.store.folder(step) / MODEL)


def model_name(step: Step) -> str:
    """The name of a step's model in messages."""
    return step.of[-1]


def _trusted(step: Step) -> bool:
    return isinstance(step, Checkpoint) and step.trust


def _options(step: Step, loading: Loading) -> dict[str, Any]:
    return replace(loading, trust_remote_code=_trusted(step)).options()
