"""Reads a study's YAML file, from a path or among the shipped ones, with changes from the command line."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from uwc.data.strict_yaml import read_yaml
from uwc.errors import ConfigError
from uwc.studies.config import StudyConfig
from uwc.studies.problems import first_problem


def shipped_configs() -> list[str]:
    """Names of the studies that come with the package."""
    folder = files("uwc") / "configs"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def load_config(source: str | Path, *, overrides: Sequence[str] = ()) -> StudyConfig:
    """Read a study from a YAML file, or a shipped one by its name.

    Args:
        source: a path, or a name such as ``"quickstart"``.
        overrides: ``"key.key=value"`` strings, the value in YAML; list items by number (``unlearn.runs.0.method=ga``).

    Raises:
        ConfigError: no such file, a syntax error (with its line), an unknown key or name, a wrong type.
    """
    text, where = _read(str(source))
    try:
        content = read_yaml(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{where}{at}: not valid YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: a study is a mapping of keys such as name, benchmark, model, unlearn")
    for override in overrides:
        _override(content, override)
    return validated(content, where=where)


def validated(content: Mapping[str, Any], *, where: str) -> StudyConfig:
    """A study from plain data. Raises ConfigError, naming `where`, the key and the valid ones."""
    try:
        return StudyConfig(**content)
    except ValidationError as error:
        raise ConfigError(f"{where}: {first_problem(error, StudyConfig)}") from None
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except TypeError as error:
        raise ConfigError(f"{where}: keys must be words ({error})") from None


def _read(source: str) -> tuple[str, str]:
    path = Path(source)
    if path.suffix not in (".yaml", ".yml") and source in shipped_configs():
        return (files("uwc") / "configs" / f"{source}.yaml").read_text(encoding="utf-8"), f"{source} (shipped)"
    try:
        return path.read_text(encoding="utf-8"), str(path)
    except (OSError, UnicodeDecodeError) as error:
        shipped = ", ".join(shipped_configs())
        raise ConfigError(
            f"cannot read the study {source!r} ({error}); give a YAML file or one of: {shipped}"
        ) from None


def _override(content: dict[str, Any], override: str) -> None:
    path, equals, value = override.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {override!r}: write it as key.key=value, for example calibrate.tau=0.9")
    at: Any = content
    for key in keys[:-1]:
        if isinstance(at, list) and key.isdigit() and int(key) < len(at):
            at = at[int(key)]
        elif isinstance(at, dict):
            at = at.setdefault(key, {})
        else:
            raise ConfigError(f"--set {override!r}: there is nothing at {key!r}")
    try:
        parsed = read_yaml(value)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"--set {override!r}: the value is not valid YAML ({getattr(error, 'problem', error)})"
        ) from None
    if isinstance(at, list) and keys[-1].isdigit() and int(keys[-1]) < len(at):
        at[int(keys[-1])] = parsed
    elif isinstance(at, dict):
        at[keys[-1]] = parsed
    else:
        raise ConfigError(f"--set {override!r}: there is nothing at {keys[-1]!r} to set")
