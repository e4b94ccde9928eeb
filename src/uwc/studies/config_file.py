"""Reads a study from its YAML file, a shipped one or a dictionary, with changes from the command line."""

import os
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import ValidationError

from uwc import progress
from uwc.errors import ConfigError, brief, listed, shortened
from uwc.io import expanded, not_a_file
from uwc.strict import read_yaml

if TYPE_CHECKING:
    from uwc.studies.config import StudyConfig

Overrides = Sequence[str] | Mapping[str, Any]
"""Changes to a study: ``["calibrate.tau=0.9"]``, or ``{"calibrate.tau": 0.9}``."""


Kind = Literal["study", "policy"]
_FOLDER = {"study": "configs", "policy": "configs/policies"}
_IS = {
    "study": "a study is a mapping; write keys such as name, benchmark, model, unlearn",
    "policy": "a policy is a mapping; write the keys name, title, confidence and requirements",
}


def shipped_configs(kind: Kind = "study") -> list[str]:
    """Names of the studies, or policies, that come with the package."""
    folder = files("uwc") / _FOLDER[kind]
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def shipped_studies() -> dict[str, str]:
    """Name -> title of the shipped studies, without validation."""
    return {name: str(read_config(name)[0].get("title", "")) for name in shipped_configs()}


def load_config(
    source: str | Path | Mapping[str, Any],
    *,
    overrides: Overrides = (),
    changes: Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
    allow_plugins: bool = False,
) -> "StudyConfig":
    """Read a study from a YAML file, a shipped one by its name, or a dictionary of the same keys.

    Args:
        source: a path, a name such as ``"quickstart"``, or the study itself.
        overrides: ``"key.key=value"`` strings, the value in YAML, or key -> value; list items by number
            (``unlearn.runs.0.method=ga``).
        changes: key -> value, as `overrides` and carried out before them.
        trust_remote_code: run Python code that comes with a checkpoint; a file cannot ask for it by itself.
        allow_plugins: execute plug-ins that a file names outside of the current folder.

    Raises:
        ConfigError: no such file, a syntax error (with its line), an unknown key or name, a wrong type, or code that is
            not allowed to run.
    """
    content, where = (deepcopy(dict(source)), "study") if isinstance(source, Mapping) else read_config(str(source))
    named = _include_path(content)
    for path, value in (changes or {}).items():
        _set(content, path, value, where=path)
    for path, value, told in _parsed(overrides):
        _set(content, path, value, where=told)
    content = _beside(content, source)
    if trust_remote_code:
        _set(content, "model.trust_remote_code", True, where=where)
    if not isinstance(source, Mapping):
        given = _include_path(content) != _beside_folder(Path(source).parent, named)
        asked = {k: v for k, v in content.items() if k != "harness"} if given else content
        require_allowed(asked, where=where, trust_remote_code=trust_remote_code, allow_plugins=allow_plugins)
    return validated(content, where=where)


def require_allowed(content: Mapping[str, Any], *, where: str, trust_remote_code: bool, allow_plugins: bool) -> None:
    """Raise ConfigError if a study from a file asks to run code that the user has not allowed; plug-ins are listed.

    Args:
        content: the study, as in its file.
        where: what messages call it.
        trust_remote_code, allow_plugins: as `load_config` takes them.
    """
    model, plugins = content.get("model"), content.get("plugins")
    if isinstance(model, Mapping) and model.get("trust_remote_code") and not trust_remote_code:
        raise ConfigError(
            f"{where}: model.trust_remote_code asks to run Python code of the checkpoints; if you trust their authors, "
            "add --trust-remote-code (in Python trust_remote_code=True)"
        )
    named = [path for path in plugins if isinstance(path, str)] if isinstance(plugins, list | tuple) else []
    here = Path.cwd()
    outside = [path for path in named if not _is_within(path, here)]
    if outside and not allow_plugins:
        raise ConfigError(
            f"{where}: it names Python files outside of the current folder as plug-ins: {listed(outside)}; if you know "
            "what they do, add --allow-plugins (in Python allow_plugins=True)"
        )
    if named:
        progress.note(f"plug-ins of {where}: {listed(named)}")
    tasks = _include_path(content)
    if isinstance(tasks, str) and not _is_within(tasks, here) and not allow_plugins:
        raise ConfigError(
            f"{where}: harness.include_path names a folder outside of the current one, {brief(tasks, 200)}, and tasks "
            "may run Python code; if you know what they do, add --allow-plugins (in Python allow_plugins=True)"
        )


def _include_path(content: Mapping[str, Any]) -> Any:
    """The folder of further tasks of lm-evaluation-harness that a study names."""
    harness = content.get("harness")
    return harness.get("include_path") if isinstance(harness, Mapping) else None


def _is_within(path: str, folder: Path) -> bool:
    try:
        return expanded(path).resolve().is_relative_to(folder)
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, links in a circle
        return False


def _beside(content: dict[str, Any], source: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """The study with plug-ins, and the file of a benchmark, that lie beside its file by their path from the current
    folder."""
    if isinstance(source, Mapping):
        return content
    folder, found = Path(source).parent, dict(content)
    if isinstance(plugins := content.get("plugins"), list):
        found["plugins"] = [_beside_it(folder, path) for path in plugins]
    benchmark = content.get("benchmark")
    if isinstance(benchmark, Mapping) and str(benchmark.get("name")).lower().endswith((".yaml", ".yml")):
        found["benchmark"] = {**benchmark, "name": _beside_it(folder, benchmark["name"])}
    if (tasks := _include_path(content)) is not None:
        found["harness"] = {**content["harness"], "include_path": _beside_folder(folder, tasks)}
    return found


def _beside_folder(folder: Path, path: Any) -> Any:
    """A path from the current folder, of a folder that lies in a folder; any other value is returned unchanged."""
    return str(folder / path) if isinstance(path, str) and os.path.isdir(folder / path) else path


def _beside_it(folder: Path, path: Any) -> Any:
    """A path from the current folder, of a file that lies in a folder; any other value is returned unchanged."""
    return str(folder / path) if isinstance(path, str) and not not_a_file(folder / path) else path


def validated(content: Mapping[str, Any], *, where: str) -> "StudyConfig":
    """A study from plain data. Raises ConfigError, naming `where`, the key and the valid ones."""
    from uwc.studies.config import StudyConfig  # heavy: not needed to list studies
    from uwc.studies.sections import first_problem

    try:
        return StudyConfig(**content)
    except ValidationError as error:
        raise ConfigError(f"{where}: {first_problem(error, StudyConfig)}") from None
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except TypeError as error:
        raise ConfigError(f"{where}: keys must be words ({error})") from None


def read_config(source: str, kind: Kind = "study") -> tuple[dict[str, Any], str]:
    """The content of a file of a study or policy, or of a shipped one, and what messages call it.

    Raises:
        ConfigError: no such file, a syntax error (with its line), or no mapping.
    """
    text, where = _read_text(source, kind)
    try:
        content = read_yaml(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{where}{at}: not valid YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: {_IS[kind]}")
    return content, where


def _read_text(source: str, kind: Kind) -> tuple[str, str]:
    path, names = Path(source), shipped_configs(kind)
    if path.suffix not in (".yaml", ".yml") and source in names:
        return (files("uwc") / _FOLDER[kind] / f"{source}.yaml").read_text(encoding="utf-8"), f"{source} (shipped)"
    reason = not_a_file(path)
    try:
        if not reason:
            return path.read_text(encoding="utf-8"), str(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = str(error)
    shipped = ", ".join(names)
    raise ConfigError(f"cannot read the {kind} {brief(source, 200)} ({reason}); give a YAML file or one of: {shipped}")


def set_options(options: Overrides) -> dict[str, Any]:
    """``["model.dtype=bfloat16", "model.device=cpu"]``, the values in YAML, or key -> value as nested sections.

    Raises:
        ConfigError: an option is not of the form KEY.KEY=VALUE, or sets a key below a value.
    """
    content: dict[str, Any] = {}
    for path, value, told in _parsed(options):
        _set(content, path, value, where=told)
    return content


def _parsed(overrides: Overrides) -> Iterator[tuple[str, Any, str]]:
    """Key, value and what messages call it, of each override."""
    if isinstance(overrides, Mapping):
        yield from ((path, value, shortened(f"{path}={value!r}", 120)) for path, value in overrides.items())
        return
    for override in overrides:
        path, equals, text = override.partition("=")
        told = f"--set {brief(override, 120)}"
        if not equals or not all(path.split(".")):
            raise ConfigError(f"{told}: write it as key.key=value, for example calibrate.tau=0.9")
        try:
            yield path, read_yaml(text), told
        except yaml.YAMLError as error:
            problem = getattr(error, "problem", error)
            raise ConfigError(f"{told}: the value is not valid YAML ({problem})") from None


def _no_entry(where: str, at: Any, key: str) -> str:
    there = f"the list has {len(at)} items: give a number" if isinstance(at, list) else "what stands there has no keys"
    return f"{where}: there is no entry {brief(key)}; {there}"


def _numbers(items: Sequence[Any]) -> list[str]:
    """The keys of a list's entries."""
    return [str(number) for number in range(len(items))]


def _set(content: dict[str, Any], path: str, value: Any, *, where: str) -> None:
    """Set a key; missing mappings on its path are created."""
    *parents, last = path.split(".")
    at: Any = content
    for key in parents:
        if isinstance(at, list) and key in _numbers(at):
            at = at[int(key)]
        elif isinstance(at, dict):
            if at.get(key) is None:
                at[key] = {}
            at = at[key]
        else:
            raise ConfigError(_no_entry(where, at, key))
    if isinstance(at, list) and last in _numbers(at):
        at[int(last)] = value
    elif isinstance(at, dict):
        at[last] = value
    else:
        raise ConfigError(_no_entry(where, at, last))
