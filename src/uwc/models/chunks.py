"""Results that are kept in files, so that a run that was killed continues within a pass, a search or a training.

A pass is a computation in batches over questions, as `uwc.models.batching.results_in_batches` runs it. While `keeping`
is open, the results of batches are written about once a minute. A pass of the same content reads them in place of
computing them: their bits do not depend on where a run was interrupted, since the batches are those of an uninterrupted
one. A search keeps the states after its steps in the same way, and a training inside a step its checkpoints in the
folder that `folder_of` names.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from uwc import progress
from uwc.io import remove, write_bytes
from uwc.models.processes import is_first, of_first, several

if TYPE_CHECKING:
    from torch import Tensor, nn

Columns = Mapping[str, NDArray[np.generic]]
"""The result of a batch: name -> array; arrays of one name have the same type in all batches of a pass."""
FOLDER = ".chunks"
"""The folder of chunks in a folder of results."""
EVERY = 60.0
"""Seconds between two chunks."""
_QUICK = 3.0
"""Seconds that writing may take every `EVERY` seconds; for longer writes they are proportionally more."""
_MEMBERS, _SIZES, _FAILED, _FAILED_SIZES = "members", "sizes", "failed", "failed sizes"
_OWN, _LENGTHS = "of ", "lengths of "
_SAMPLED = 64
"""Numbers of a tensor that are in its digest besides its sum."""
_AT_ONCE = 1 << 22


class NoDigest(Exception):
    """The weights of a model cannot be read, so that its results are not kept."""


class Pace:
    """When to write results: `EVERY` seconds after the last time, or 20 times as long as that took, if that is more."""

    def __init__(self) -> None:
        self._last, self._longer = time.monotonic(), 1.0

    def due(self) -> bool:
        """Whether it is time to write."""
        return time.monotonic() - self._last >= EVERY * self._longer

    @contextmanager
    def writing(self) -> Iterator[None]:
        """While open, results are written."""
        began = time.monotonic()
        yield
        self._last = time.monotonic()
        self._longer = max(1.0, (self._last - began) / _QUICK)


@dataclass
class _Open:
    """The chunks of a run.

    Attributes:
        folder: their folder.
        key: what determines the results besides the content of a pass.
        pace: when they are written.
        waiting: the passes with results that are not written.
    """

    folder: Path
    key: str
    pace: Pace = field(default_factory=Pace)
    waiting: list["Chunks"] = field(default_factory=list)

    def write(self) -> None:
        """Write what is not written."""
        with self.pace.writing():
            for chunks in self.waiting:
                chunks.write()
        self.waiting.clear()


_open: ContextVar[_Open | None] = ContextVar("chunks", default=None)


@contextmanager
def keeping(folder: Path | None, key: str) -> Iterator[None]:
    """While open, results of batches are kept in a folder, which is removed at the end if there was no error.

    After an error or a signal that ends the run in order, all results so far are kept; after a kill those up to the
    last time that some were written. Only one process may keep results in a folder at a time.

    Args:
        folder: the folder; nothing is kept if it is None.
        key: a digest of what determines the results, besides weights, tokens and settings of a pass, which are always
            compared.
    """
    if folder is None:
        yield
        return
    interrupted = False
    with suppress(OSError):  # a folder that cannot be used is refused where the results are written
        interrupted = any(folder.glob("*/*"))
    if interrupted:
        progress.note(f"resumes an interrupted run, whose results are in {folder}")
    run = _Open(folder, key)
    token = _open.set(run)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # the error may be that no space is left
            run.write()
        raise
    finally:
        _open.reset(token)
    if is_first():
        remove(folder)


@contextmanager
def within(content: Callable[[], Sequence[object]]) -> Iterator[None]:
    """While open, some content is a part of the key, such as the attack under which a model is scored.

    Args:
        content: gives it; called only if results are kept. While a model in it has weights that cannot be read, nothing
            is kept.
    """
    run = _open.get()
    if run is None:
        yield
        return
    outer = run.key
    try:
        run.key = content_digest([run.key, *content()])
    except NoDigest:
        token = _open.set(None)
        try:
            yield
        finally:
            _open.reset(token)
        return
    try:
        yield
    finally:
        run.key = outer


class Chunks:
    """The results of one pass that are kept.

    Args:
        run: the chunks of the run.
        key: what determines the results.

    Attributes:
        failed: batches for which memory did not suffice, which are tried in parts without a further failure.
    """

    def __init__(self, run: _Open, key: str) -> None:
        self._run, self._folder = run, run.folder / key[:32]
        self.failed: set[tuple[int, ...]] = set()
        self._results: list[tuple[Sequence[int], Columns]] = []

    def read(self) -> Iterator[tuple[list[int], Columns]]:
        """The batches of earlier runs, each with its result. A damaged file is removed."""
        files = sorted(self._folder.glob("*.npz")) if self._folder.is_dir() else []
        for file in files:
            try:
                with np.load(file, allow_pickle=False) as stored:
                    arrays = {name: stored[name] for name in stored.files}
                batches = list(_batches(arrays))
                self.failed |= set(map(tuple, _cut(arrays[_FAILED], arrays[_FAILED_SIZES])))
            except (OSError, ValueError, KeyError, EOFError, BadZipFile):
                progress.warn(f"{file} is damaged; its results are computed again")
                remove(file)
                continue
            yield from batches

    def add(self, batch: Sequence[int], result: Columns) -> None:
        """Keep a result; all that wait are written when it is time, see `Pace`."""
        self._results.append((batch, result))
        if self not in self._run.waiting:
            self._run.waiting.append(self)
        if self._run.pace.due():
            self._run.write()

    def write(self) -> None:
        """Write the results that are not written as one file."""
        results, self._results = self._results, []
        if not results:
            return
        failed = sorted(self.failed)
        arrays: dict[str, NDArray[np.generic]] = {
            _MEMBERS: np.array([i for batch, _ in results for i in batch], dtype=np.int64),
            _SIZES: np.array([len(batch) for batch, _ in results], dtype=np.int64),
            _FAILED: np.array([i for batch in failed for i in batch], dtype=np.int64),
            _FAILED_SIZES: np.array([len(batch) for batch in failed], dtype=np.int64),
        }
        for name in results[0][1]:
            arrays[_OWN + name] = np.concatenate([columns[name] for _, columns in results])
            arrays[_LENGTHS + name] = np.array([len(columns[name]) for _, columns in results], dtype=np.int64)
        buffer = BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        self._folder.mkdir(parents=True, exist_ok=True)
        number = 1 + max((int(file.stem) for file in self._folder.glob("[0-9]*.npz")), default=0)
        write_bytes(self._folder / f"{number:06}.npz", buffer.getvalue())


def _batches(arrays: Columns) -> Iterator[tuple[list[int], Columns]]:
    names = [name.removeprefix(_OWN) for name in arrays if name.startswith(_OWN)]
    pieces = {name: np.split(arrays[_OWN + name], np.cumsum(arrays[_LENGTHS + name])[:-1]) for name in names}
    for i, batch in enumerate(_cut(arrays[_MEMBERS], arrays[_SIZES])):
        yield batch, {name: pieces[name][i] for name in names}


def _cut(values: NDArray[Any], sizes: NDArray[Any]) -> list[list[int]]:
    """The values in lists of given lengths. Raises ValueError if there are not as many."""
    if int(sizes.sum()) != len(values):
        raise ValueError(f"{len(values)} values for lists of {sizes.tolist()}")
    ends = np.cumsum(sizes)
    return [values[end - size : end].tolist() for size, end in zip(sizes.tolist(), ends.tolist(), strict=True)]


def of_lists(lists: Sequence[Sequence[int]]) -> dict[str, NDArray[np.generic]]:
    """Lists of tokens as columns."""
    tokens = np.fromiter((t for tokens in lists for t in tokens), dtype=np.int64)
    return {"tokens": tokens, "counts": np.array([len(tokens) for tokens in lists], dtype=np.int64)}


def to_lists(columns: Columns) -> list[list[int]]:
    """The lists that `of_lists` was given."""
    return _cut(columns["tokens"], columns["counts"])


def chunks_of(content: Callable[[], Sequence[object]]) -> Chunks | None:
    """The chunks of a pass; None where nothing is kept, or a model's weights cannot be read.

    Args:
        content: gives what determines the results: models, arrays and plain data.
    """
    run = _open.get()
    key = None if run is None else _key(run, content)
    return None if run is None or key is None else Chunks(run, key)


def folder_of(content: Callable[[], Sequence[object]]) -> Path | None:
    """The folder for the checkpoints of a training, which is removed with the chunks.

    None where nothing is kept, a model's weights cannot be read, or several processes train together.

    Args:
        content: gives what determines the training: models, arrays and plain data.
    """
    run = _open.get()
    key = None if run is None or several() else _key(run, content)
    return None if run is None or key is None else run.folder / key[:32]


def _key(run: _Open, content: Callable[[], Sequence[object]]) -> str | None:
    import torch

    try:
        return content_digest([run.key, torch.__version__, torch.get_num_threads(), *content()])
    except NoDigest:
        return None


def kept(content: Callable[[], Sequence[object]], make: Callable[[], str]) -> str:
    """A text that takes long to make, such as the result of a task, read where an earlier run kept it.

    Of several processes each makes it.

    Args:
        content: gives what determines it, as `chunks_of` takes it.
        make: makes it.
    """
    chunks = chunks_of(content)
    for _, columns in of_first(iter(()) if chunks is None else chunks.read()):
        return columns["text"].tobytes().decode()
    text = make()
    if chunks is not None and is_first():
        chunks.add([0], {"text": np.frombuffer(text.encode(), dtype=np.uint8)})
    return text


def content_digest(content: Sequence[object]) -> str:
    """SHA-256 (hex) of models, arrays and plain data."""
    from torch import nn

    found = hashlib.sha256()
    for part in content:
        if isinstance(part, nn.Module):
            for line in _weights(part):
                found.update(line)
        elif isinstance(part, np.ndarray):
            found.update(f"{part.dtype} {part.shape}".encode() + np.ascontiguousarray(part).tobytes())
        else:
            found.update(json.dumps(part, sort_keys=True, default=repr).encode())
        found.update(b"\n")
    return found.hexdigest()


def _weights(model: "nn.Module") -> Iterator[bytes]:
    """What distinguishes a model from another: classes, plain attributes such as scales, and sums of its tensors.

    Weights that lie elsewhere than on the device that computes are read, one after the other.
    """
    from torch import Tensor

    from uwc.models.placement import value_of

    try:
        for name, module in model.named_modules():
            plain = {key: value for key, value in sorted(vars(module).items()) if _is_plain(value)}
            yield f"{name} {type(module).__qualname__} {plain}".encode()
            tensors = {key: value for key, value in vars(module).items() if isinstance(value, Tensor)}
            own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False), *tensors.items()]
            for key, given in own:
                tensor = value_of(module, key) if given.is_meta else given
                assert tensor is not None
                yield f"{name}.{key} {tensor.dtype} {tuple(tensor.shape)} {tensor.device.type} ".encode()
                yield repr(_sums(tensor.detach())).encode()
    except (RuntimeError, TypeError, NotImplementedError) as error:  # tensors of other classes, or without data
        raise NoDigest(str(error)) from error


def _is_plain(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(item) for item in value.values())
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _sums(tensor: "Tensor") -> list[int]:
    """The sum of a tensor's bytes read as integers, by parts, and some of these integers."""
    import torch

    if tensor.is_meta:
        raise NoDigest("a tensor without data")
    flat = tensor.contiguous().reshape(-1)
    if flat.is_complex():
        flat = torch.view_as_real(flat).reshape(-1)
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    whole = flat.view(kinds[flat.element_size()])
    sums = [part.sum(dtype=torch.int64) for part in torch.split(whole, _AT_ONCE)]
    some = whole[:: max(1, len(whole) // _SAMPLED)].to(torch.int64)
    return torch.cat([torch.stack(sums), some]).tolist() if sums else []
