"""Steps of a study: typed fields, a key that is a hash of them, and an outcome."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import quote

from pydantic import BaseModel

from uwc.code_digest import NoSource, code_digest, comes_from_package
from uwc.data.example import Example, fingerprint
from uwc.io import digest
from uwc.registry import Entry
from uwc.results import Collapse, Part

if TYPE_CHECKING:
    from uwc.studies.context import Context

STORE_VERSION = 9
"""Version of the steps' computations and files; incremented when a change of this package's code affects a number."""

NOT_IN_KEY: Mapping[str, bool] = {"key": False}
"""Metadata of a field that `run` uses only in messages, or to locate a file whose content is in the key."""


class Outcome(Part):
    """The outcome of a step, besides its files."""

    status: Literal["done", "diverged", "failed"] = "done"
    message: str = ""
    """Why it diverged or failed."""
    parameters: int | None = None
    """Number of parameters of the scored or built model."""
    vocabulary: int | None = None
    read_otherwise: tuple[str, ...] = ()
    """The differences of a given model's own tokenizer and prompt from the original's, which are used."""
    alpha: float | None = None
    """The calibrated mixture."""
    diverged: int | None = None
    """The step of the training whose loss or gradient was not finite."""
    stopped: int | None = None
    """The step after which early stopping ended the training."""
    collapse: Collapse | None = None


@dataclass(frozen=True)
class Step:
    """A step of a study; subclasses are frozen dataclasses of everything that their `run` reads.

    The key is a hash of the kind, all fields except those marked `NOT_IN_KEY`, the keys of the inputs, the store's
    version, and the code from outside this package that the step uses.

    Attributes:
        of: the identity of the step within its kind (role, run, attack).
        name: its name in messages.
    """

    kind: ClassVar[str]

    of: tuple[str, ...] = field(metadata=NOT_IN_KEY)
    name: str = field(metadata=NOT_IN_KEY)

    @property
    def id(self) -> str:
        """The step's identity in a study's results, such as ``attack/unlearned/npo/jailbreak``."""
        return "/".join([self.kind, *(quote(part, safe=" ,+@()") for part in self.of)])

    @property
    def inputs(self) -> dict[str, "Step"]:
        """Field -> the input step."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Step)}

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All fields in the key except inputs, as plain data."""
        kept = [f for f in fields(self) if f.metadata.get("key", True)]
        values = {f.name: getattr(self, f.name) for f in kept}
        return {name: identity(value) for name, value in values.items() if not isinstance(value, Step)}

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Field or set -> fingerprint of the examples that it reads."""
        found: dict[str, str] = {}
        for f in fields(self):
            _find_examples(f.name, getattr(self, f.name), found)
        return found

    @cached_property
    def code(self) -> dict[str, str]:
        """Name -> digest of the code from outside this package that it uses. Raises NoSource."""
        outside = [entry for entry in self.uses() if not comes_from_package(entry.function)]
        return {entry.name: code_digest(entry.function) for entry in outside}

    @cached_property
    def not_cached(self) -> str:
        """Why the result must not be cached: code without a digest; empty if it may be."""
        lacking = [step.not_cached for step in self.inputs.values() if step.not_cached]
        try:
            _ = self.code
        except NoSource as error:
            return str(error)
        return lacking[0] if lacking else ""

    @cached_property
    def key(self) -> str:
        """SHA-256 (hex) over everything that determines the result."""
        content: dict[str, Any] = {
            "store_version": STORE_VERSION,
            "kind": self.kind,
            "settings": self.settings,
            "inputs": {name: step.key for name, step in self.inputs.items()},
        }
        if not self.not_cached and self.code:
            content["code"] = self.code
        return digest(content)

    def uses(self) -> Iterable[Entry[Any]]:
        """The registered functions whose code affects the result."""
        return ()

    def run(self, context: "Context", out: Path) -> Outcome:
        """Do the work, and write its files into the folder `out`."""
        raise NotImplementedError


def identity(value: Any) -> Any:
    """A value as plain data for a key: examples by their fingerprint, everything else by its content.

    Raises:
        TypeError: a type without a rule.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Step):
        return value.key
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): identity(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        if value and all(isinstance(item, Example) for item in value):
            return fingerprint(value)
        return [identity(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: identity(getattr(value, f.name)) for f in fields(value) if f.metadata.get("key", True)}
    raise TypeError(f"a step cannot be keyed by a {type(value).__qualname__}")


def _find_examples(name: str, value: Any, found: dict[str, str]) -> None:
    if isinstance(value, Sequence) and not isinstance(value, str) and value and isinstance(value[0], Example):
        found[name] = fingerprint(value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _find_examples(str(key), item, found)
    elif is_dataclass(value) and not isinstance(value, type | Step):
        for f in fields(value):
            if f.metadata.get("key", True):
                _find_examples(f.name, getattr(value, f.name), found)
