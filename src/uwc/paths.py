"""Names of files and folders in results, in place of paths of the user's machine."""

import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

_WITHIN = re.compile(r"(?<![\w.~/<:-])(?:/[^\s/'\"`<>|,;:()\[\]{}=]+){2,}")
"""An absolute path within a text."""
_SPACE = re.compile(r"\s")
_END = r"(?![\w-]|\.\w)"
_LONGEST = 4096


def path_names(texts: Iterable[str], folder: str | Path | None = None) -> dict[str, str]:
    """Absolute path -> its name: relative to the current folder or to `folder` if within, else its last part.

    Args:
        texts: texts that are or contain paths; one that does not exist, nor its parent, is none. Two paths outside of
            both folders that end alike are named by as many parts as tell them apart.
        folder: the folder of the results.
    """
    texts = list(texts)
    found = sorted({path for text in texts for path in _paths_in(text)})
    taken = {text for text in texts if len(text) < _LONGEST and not os.path.isabs(text) and os.path.lexists(text)}
    bases = [base for base in (Path.cwd(), *([Path(folder)] if folder else [])) if not _holds_home(base)]
    names = {path: name for path in found if (name := _within(path, bases))}
    taken.update(names.values())
    for path in found:
        if path not in names:
            parts = Path(path).parts
            tails = ["/".join(parts[-count:]) for count in range(1, len(parts))]
            names[path] = next((tail for tail in tails if tail not in taken), tails[-1] if tails else path)
            taken.add(names[path])
    return names


def renaming(names: dict[str, str]) -> Callable[[str], str]:
    """A function that writes names for paths in a text, and leaves out the current folder, the home folder and that of
    Python's packages."""
    within = [re.escape(path) for path in sorted(names, key=len, reverse=True)]
    known = re.compile(rf"(?:{'|'.join(within)}){_END}") if within else None
    folders = {f"{Path.cwd()}/": "", f"{os.path.realpath(os.curdir)}/": "", f"{sys.prefix}/": "", str(Path.home()): "~"}
    general = [
        (re.compile(rf"(?<![\w.~-]){re.escape(at)}{'' if at[-1] == '/' else _END}"), name)
        for at, name in folders.items()
        if len(at) > 1
    ]

    def rename(text: str) -> str:
        if "/" not in text and "\\" not in text:
            return text
        text = names.get(text) or (known.sub(lambda at: names[at[0]], text) if known else text)
        for at, name in general:
            text = at.sub(name, text)
        return text

    return rename


def path_tag(path: str) -> str:
    """16 bits of a hash of a path, which tell two paths apart and do not give one away."""
    return hashlib.sha256(os.path.abspath(path).encode(errors="surrogateescape")).hexdigest()[:4]


def texts_of(value: Any) -> Iterator[str]:
    """All texts in plain data and models of pydantic, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from texts_of(getattr(value, name))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from (*texts_of(key), *texts_of(item))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts_of(item)


def renamed(value: Any, rename: Callable[[str], str]) -> Any:
    """The same data with every text renamed."""
    if isinstance(value, str):
        return rename(value)
    if isinstance(value, BaseModel):
        return value.model_copy(update={n: renamed(getattr(value, n), rename) for n in type(value).model_fields})
    if isinstance(value, dict):
        return {renamed(key, rename): renamed(item, rename) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(renamed(item, rename) for item in value)
    return value


def _paths_in(text: str) -> Iterator[str]:
    if len(text) < _LONGEST and os.path.isabs(text) and (os.path.lexists(text) or not _SPACE.search(text)):
        yield from filter(_is_path, [text])
        return
    for found in _WITHIN.finditer(text):
        path = found[0].rstrip(".")
        if _is_path(path):
            yield path


def _is_path(text: str) -> bool:
    parent = os.path.dirname(text)
    return os.path.lexists(text) or (os.path.dirname(parent) != parent and os.path.isdir(parent))


def _holds_home(base: Path) -> bool:
    home = Path.home()
    return home != base and home.is_relative_to(base)


def _within(path: str, bases: Iterable[Path]) -> str:
    """The path from the first base that it lies in; empty if it lies in none."""
    for base in bases:
        for at, start in (
            (os.path.abspath(path), os.path.abspath(base)),
            (os.path.realpath(path), os.path.realpath(base)),
        ):
            if at != start and Path(at).is_relative_to(start):
                return Path(at).relative_to(start).as_posix()
    return ""
