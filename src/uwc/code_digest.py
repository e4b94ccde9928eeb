"""Digests of the code of functions from outside this package: of a notebook or a plug-in."""

import functools
import hashlib
import inspect
import json
import textwrap
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

PACKAGE = __name__.partition(".")[0]


class NoSource(Exception):
    """The source of a function is not available, or it uses a value whose content cannot be hashed."""


def comes_from_package(function: Callable[..., Any]) -> bool:
    """Whether a function is part of this package, whose version is part of every key."""
    while isinstance(function, functools.partial):
        function = function.func
    module = getattr(function, "__module__", None) or ""
    return module == PACKAGE or module.startswith(f"{PACKAGE}.")


def code_digest(function: Callable[..., Any]) -> str:
    """SHA-256 (hex) of a function's source, its defaults, its closure and the names of its module that it uses.

    Functions and classes that it names are hashed in the same way, values by their content; modules by name and
    version; what comes from an installed package or the standard library by module and name.

    Raises:
        NoSource: a source or value is not available, so that a change of it would not be noticed.
    """
    return hashlib.sha256(json.dumps(_described(function, set()), sort_keys=True).encode()).hexdigest()


def _described(value: Any, seen: set[int]) -> Any:
    """A value as JSON: code by its source, data by its content."""
    if value is None or isinstance(value, bool | int | float | str):
        return [type(value).__name__, repr(value)]
    if id(value) in seen:
        return "recursion"
    if isinstance(value, functools.partial):
        return ["partial", *(_described(part, seen) for part in (value.func, value.args, value.keywords))]
    if isinstance(value, ModuleType):
        return ["module", value.__name__, str(getattr(value, "__version__", ""))]
    if isinstance(value, tuple | list):
        return [type(value).__name__, *(_described(item, seen) for item in value)]
    if isinstance(value, set | frozenset):
        return ["set", *sorted(json.dumps(_described(item, seen)) for item in value)]
    if isinstance(value, dict):
        return ["dict", *([_described(key, seen), _described(item, seen)] for key, item in value.items())]
    if isinstance(value, FunctionType):
        return _function(value, seen | {id(value)})
    if isinstance(value, type):
        return _class(value, seen | {id(value)})
    if callable(value) and _installed(value):
        return ["name", str(getattr(value, "__module__", "")), str(getattr(value, "__qualname__", value))]
    return _data(value)


def _function(function: FunctionType, seen: set[int]) -> Any:
    if _installed(function):
        return ["name", function.__module__, function.__qualname__]
    parts = [_source(function), _described(function.__defaults__, seen), _described(function.__kwdefaults__, seen)]
    cells = function.__closure__ or ()
    for name, cell in zip(function.__code__.co_freevars, cells, strict=True):
        try:
            parts.append([name, _described(cell.cell_contents, seen)])
        except ValueError:  # a cell that is still empty
            parts.append([name, "empty"])
    for name in dict.fromkeys(_global_names(function.__code__)):
        if name in function.__globals__:
            parts.append([name, _described(function.__globals__[name], seen)])
    return ["function", *parts]


def _class(kind: type, seen: set[int]) -> Any:
    if _installed(kind):
        return ["name", kind.__module__, kind.__qualname__]
    members = [m for m in vars(kind).values() if isinstance(m, FunctionType)]
    return ["class", _source(kind), *(_described(base, seen) for base in kind.__bases__),
            *(_function(m, seen | {id(m)}) for m in members)]  # fmt: skip


def _global_names(code: CodeType) -> Iterator[str]:
    """The names of its module that code may read, including those in nested functions."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _global_names(constant)


def _source(thing: Any) -> str:
    try:
        return textwrap.dedent(inspect.getsource(thing))
    except (OSError, TypeError):
        raise NoSource(f"the source of {getattr(thing, '__qualname__', thing)!r} is not available") from None


def _installed(thing: Any) -> bool:
    """Whether it is part of an installed package or of the standard library, whose versions are recorded."""
    module = str(getattr(thing, "__module__", None) or "")
    if module == "builtins" or module == PACKAGE or module.startswith(f"{PACKAGE}."):
        return True
    if module in ("__main__", ""):
        return False
    try:
        file = inspect.getfile(thing)
    except (OSError, TypeError):
        return not isinstance(thing, FunctionType)
    return "site-packages" in file or "dist-packages" in file or file.startswith(_STANDARD_LIBRARY)


_STANDARD_LIBRARY = str(inspect.getfile(json)).rpartition("/json/")[0]


def _data(value: Any) -> Any:
    """Arrays and tensors by their bytes."""
    to_numpy = getattr(value, "detach", None)
    array = value.detach().cpu() if to_numpy is not None else value
    if hasattr(array, "numpy"):
        array = array.numpy()
    if hasattr(array, "tobytes") and hasattr(array, "dtype"):
        content = hashlib.sha256(array.tobytes()).hexdigest()
        return ["array", str(array.dtype), list(getattr(array, "shape", ())), content]
    raise NoSource(f"a value of the type {type(value).__qualname__} that it uses cannot be hashed")
