"""A benchmark that a YAML file describes: its files, columns, splits and metrics."""

from collections.abc import Mapping
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import yaml

from uwc.data.benchmark import Benchmark
from uwc.data.benchmarks.local_files import local_files
from uwc.data.tables import decode, read_bytes
from uwc.errors import ConfigError, DataError
from uwc.io import expanded
from uwc.registry import unknown_name
from uwc.strict import read_yaml

_SETTINGS = ("name", "columns", "refusals", "subject_every", "retain_eval_share", "skip_invalid")
_KEYS = ("splits", "metrics", *_SETTINGS)


def described(*, path: str) -> Benchmark:
    """A benchmark that a YAML file describes.

    Keys of the file::

        name: contracts                 # its name in reports; the file's name by default
        splits:                         # split: its file, beside this one, as for `local_files`
          forget: forget.jsonl
          retain: {path: retain.csv, limit: 500}
          retain_eval: kept.csv         # also holdout, general, and sets of any other name
          novels: {path: novels.jsonl, passages: 2000}
        columns: {question: ask}        # and refusals, subject_every, retain_eval_share, skip_invalid
        metrics: [core, rouge_1]        # of a study that names none

    Args:
        path: the file.

    Raises:
        ConfigError: the file is no such mapping, or a key or setting is wrong.
        DataError: the file or one of the files that it names is missing or malformed, or two splits overlap.
    """
    content = _read(path)
    for key in content:
        if key not in _KEYS:
            raise ConfigError(f"{path}: {unknown_name('key', str(key), list(_KEYS))}")
    splits = content.get("splits")
    if not isinstance(splits, Mapping) or not {"forget", "retain"} <= set(splits):
        raise ConfigError(f"{path}: splits: name a file for forget and one for retain, as in {{forget: forget.jsonl}}")
    folder = Path(path).parent
    files = {str(split): _beside(folder, file) for split, file in splits.items() if file is not None}
    settings: dict[str, Any] = {key: content[key] for key in _SETTINGS if key in content}
    settings.setdefault("name", Path(path).stem)
    if isinstance(settings.get("refusals"), str):
        settings["refusals"] = _beside(folder, settings["refusals"])
    own = {split: file for split, file in files.items() if split in signature(local_files).parameters}
    settings |= {**own, "further": {split: file for split, file in files.items() if split not in own}}
    benchmark = local_files(**_checked(path, settings))
    return replace(benchmark, files=(path, *benchmark.files), metrics=_metrics(path, content.get("metrics")))


def is_benchmark_file(name: Any) -> bool:
    """Whether the name of a benchmark is the path of such a file."""
    return isinstance(name, str) and name.lower().endswith((".yaml", ".yml"))


def _read(path: str) -> Mapping[str, Any]:
    file = expanded(path)
    try:
        content = read_yaml(decode(file, read_bytes(file)))
    except yaml.YAMLError as error:
        raise DataError(f"{path}: this is not valid YAML ({' '.join(str(error).split())[:200]}); correct it") from None
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path}: a benchmark's file is a mapping; write the keys {', '.join(_KEYS)}")
    return content


def _beside(folder: Path, file: Any) -> Any:
    """A file by its path from the current folder."""
    if isinstance(file, Mapping) and isinstance(file.get("path"), str):
        return {**file, "path": _beside(folder, file["path"])}
    return str(folder / expanded(file)) if isinstance(file, str) else file


def _checked(path: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, each of its type."""
    from uwc.data.benchmarks import benchmarks  # which has this one too

    try:
        return benchmarks.check("local-files", settings)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _metrics(path: str, value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ConfigError(f"{path}: metrics: give a list of metrics and suites, as in [core, rouge_1]")
    return tuple(value)
