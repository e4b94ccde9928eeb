"""Plug-in files: Python files of a user that register metrics, losses, attacks or benchmarks when executed."""

import hashlib
import sys
import traceback
from collections.abc import Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from uwc.errors import ConfigError, shortened
from uwc.io import expanded, not_a_file

_LOADED: dict[Path, str] = {}
"""File -> SHA-256 of the content that was executed."""


def load_plugins(paths: Sequence[str | Path]) -> None:
    """Execute files that register metrics, losses, attacks or benchmarks, each once; an edited file is executed again.

    Args:
        paths: Python files; relative paths are from the current folder.

    Raises:
        ConfigError: a file is missing, or raises; the message names the file and the line.
    """
    for given in paths:
        path = expanded(given)
        if reason := not_a_file(path):
            name = shortened(str(given), 200)
            raise ConfigError(f"the plug-in {name} cannot be read ({reason}); give a Python file")
        path = path.resolve()
        try:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise ConfigError(f"the plug-in {given} cannot be read ({error.strerror}); give a Python file") from None
        if _LOADED.get(path) != content:
            _execute(path, str(given))
            _LOADED[path] = content


def loaded_plugins() -> list[Path]:
    """The files that were executed, in order."""
    return list(_LOADED)


def module_name(path: Path) -> str:
    """A plug-in's name in `sys.modules`: its file's name with a digest of the path."""
    stem = "".join(c if c.isalnum() else "_" for c in path.stem)
    return f"uwc_plugin_{stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


def _execute(path: Path, given: str) -> None:
    name = module_name(path)
    _forget(name)
    _LOADED.pop(path, None)
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"the plug-in {given} is not a Python file; its name must end in .py")
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        # compiled here: the import system would take bytecode of a file that was edited within the same second
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    except Exception as error:
        _forget(name)
        raise ConfigError(
            f"{given}, line {_line(error, path)}: the plug-in cannot be loaded: {type(error).__name__}: {error}"
        ) from error


def _line(error: Exception, path: Path) -> int:
    """The line of the file at which an error arose."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno or 1
    return next(
        (f.lineno or 1 for f in reversed(traceback.extract_tb(error.__traceback__)) if f.filename == str(path)), 1
    )


def _forget(name: str) -> None:
    """Remove a module and its registered functions."""
    from uwc.attacks.registry import attacks
    from uwc.data.benchmarks import benchmarks
    from uwc.metrics.registry import metrics, set_metrics
    from uwc.objectives.registry import terms, tricks

    sys.modules.pop(name, None)
    for registry in (attacks, benchmarks, metrics, set_metrics, terms, tricks):
        registry.drop(name)
