"""Reads a study's YAML file, from a path or among the shipped ones, with changes from the command line."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
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


def load_config(source: str | Path | Mapping[str, Any], *, overrides: Sequence[str] = ()) -> StudyConfig:
    """Read a study from a YAML file, a shipped one by its name, or a mapping of the same keys.

    Args:
        source: a path, a name such as ``"quickstart"``, or the study itself.
        overrides: ``"key.key=value"`` strings, the value in YAML; list items by number (``unlearn.runs.0.method=ga``).

    Raises:
        ConfigError: no such file, a syntax error (with its line), an unknown key or name, a wrong type.
    """
    if isinstance(source, Mapping):
        content, where = deepcopy(dict(source)), "study"
    else:
        content, where = _content(str(source))
    for override in overrides:
        _override(content, override)
    return validated(_beside(content, source), where=where)


def _beside(content: dict[str, Any], source: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """The study with plug-ins that lie beside its file by their path from the current folder."""
    plugins = content.get("plugins")
    if isinstance(source, Mapping) or not isinstance(plugins, list):
        return content
    folder = Path(source).parent
    found = [str(folder / p) if isinstance(p, str) and (folder / p).is_file() else p for p in plugins]
    return {**content, "plugins": found}


def _content(source: str) -> tuple[dict[str, Any], str]:
    """The content of a study's file, and what messages call it."""
    text, where = _read(source)
    try:
        content = read_yaml(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{where}{at}: not valid YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: a study is a mapping of keys such as name, benchmark, model, unlearn")
    return content, where


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
