"""The benchmark of the user's own files, one for each split."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, NonNegativeInt, PositiveInt, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from uwc.data.benchmark import DEFAULT_REFUSALS, FORGET, GENERAL, HOLDOUT, RETAIN, RETAIN_EVAL, Benchmark
from uwc.data.example import Example
from uwc.data.passages import PassageLength, passages
from uwc.data.question_files import Columns, LeftOut, columns_by_set, read_lines, to_examples, together
from uwc.data.tables import Table, read_table
from uwc.errors import ConfigError, DataError
from uwc.io import expanded
from uwc.registry import unknown_name
from uwc.strict_numbers import StrictNumbers, first_message

PARTS = (FORGET, "forget_paraphrased", RETAIN, "retain_paraphrased", RETAIN_EVAL, HOLDOUT, GENERAL)
"""The sets with a role in a study; further sets have other names."""


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class FileSpec(StrictNumbers):
    """A file, or a part of it.

    Attributes:
        path: the file.
        limit: the most rows to read.
        skip: the number of rows to skip at the beginning.
        passages: the most characters of a passage, if the rows are texts (a column ``text``) rather than questions; see
            `uwc.data.passages`.
    """

    path: str
    limit: PositiveInt | None = None
    skip: NonNegativeInt = 0
    passages: PassageLength | None = None


def _to_file_spec(value: Any) -> FileSpec:
    """A file spec from a path or a mapping. Raises ValueError with a message of one line."""
    if isinstance(value, FileSpec):
        return value
    if isinstance(value, str | Path):
        return FileSpec(path=str(value))
    valid = [f.name for f in fields(FileSpec)]
    if not isinstance(value, Mapping):
        raise ValueError(f"give a path, or a mapping with the keys {', '.join(valid)}")
    for key in value:
        if key not in valid:
            raise ValueError(unknown_name("key", str(key), valid))
    if "path" not in value:
        raise ValueError(f"the key 'path' must be given; valid: {', '.join(valid)}")
    try:
        return FileSpec(**value)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{first['loc'][0]} = {first['input']!r}: {first_message(error)}") from None


File = Annotated[FileSpec | str, BeforeValidator(_to_file_spec)]
"""A file in a setting: its path, or a mapping with the keys path, limit, skip and passages."""


def local_files(
    *,
    forget: File,
    retain: File,
    retain_eval: File | None = None,
    holdout: File | None = None,
    general: File | None = None,
    further: Mapping[str, File] | None = None,
    refusals: str | None = None,
    columns: Columns | None = None,
    subject_every: int | None = None,
    retain_eval_share: float = 0.0,
    skip_invalid: bool = False,
    name: str = "local-files",
) -> Benchmark:
    """A benchmark of the user's own files.

    Generated ids begin with the file's name and, if two files have the same name, with the split.

    Args:
        forget: questions to be forgotten.
        retain: questions to be kept, used in unlearning.
        retain_eval: questions to be kept, never used in unlearning.
        holdout: questions that no model was trained on.
        general: further questions that are scored.
        further: name -> further sets that are scored, such as other questions to be kept.
        refusals: a text file with one refusal a line; a list shipped with this package by default.
        columns: ``field`` -> column, for every file that has it, or ``split:field`` -> column, see `columns_by_set`.
        subject_every: the number of consecutive rows of one subject, if no column has it, as in `read_examples`.
        retain_eval_share: in [0, 1), the share of the retain subjects (examples without one count as their own), at
            least one, that becomes `retain_eval` if no file is given for it: the last ones.
        skip_invalid: leave out invalid rows, at most half of a file; results name them. `limit` and `skip` count valid
            rows.
        name: the benchmark's name in reports.

    Returns:
        The benchmark; the original model is trained on forget, retain and retain_eval.

    Raises:
        ConfigError: an argument is outside its range, or no file has a column of `columns`.
        DataError: a file is malformed, or two splits overlap.
    """
    if not 0 <= retain_eval_share < 1:
        raise ConfigError(f"{name}: retain_eval_share is {retain_eval_share!r}; set it from 0 to less than 1")
    if retain_eval is not None and retain_eval_share:
        raise ConfigError(f"{name}: set either retain_eval or retain_eval_share, not both")
    given = {FORGET: forget, RETAIN: retain, RETAIN_EVAL: retain_eval, HOLDOUT: holdout, GENERAL: general}
    files = {split: _checked(split, spec, name) for split, spec in _with(given, further or {}, name).items()}
    prefixes = _prefixes(files)
    paths = dict.fromkeys(expanded(spec.path) for spec in files.values())
    read = {path: read_table(path, damaged=True) for path in paths}
    tables = together({split: read[expanded(spec.path)] for split, spec in files.items()})
    left_out: LeftOut = [] if skip_invalid else None
    asked = columns_by_set({s: t for s, t in tables.items() if not files[s].passages}, columns or {}, given=list(files))
    splits = {
        split: _passages(tables[split], spec, split, prefixes[split])
        if spec.passages
        else to_examples(
            tables[split],
            columns=asked[split],
            split=split,
            limit=spec.limit,
            skip=spec.skip,
            subject_every=subject_every,
            prefix=prefixes[split],
            left_out=left_out,
        )
        for split, spec in files.items()
    }
    _require_own_ids(splits, files)
    if retain_eval_share:
        splits[RETAIN], splits[RETAIN_EVAL] = _hold_back(splits[RETAIN], retain_eval_share, files[RETAIN].path)
    return Benchmark(
        name=name,
        splits={split: tuple(examples) for split, examples in splits.items()},
        trained=tuple(split for split in (FORGET, RETAIN, RETAIN_EVAL) if split in splits),
        refusals=read_lines(refusals) if refusals else DEFAULT_REFUSALS,
        left_out=tuple(dict.fromkeys(left_out or ())),
        files=tuple(dict.fromkeys([spec.path for spec in files.values()] + ([refusals] if refusals else []))),
    )


def _passages(table: Table, spec: FileSpec, split: str, prefix: str) -> list[Example]:
    table.problems().require_none()
    part = replace(table, rows=table.rows[spec.skip :])
    return passages(part, prefix=prefix, length=spec.passages or 0, split=split, limit=spec.limit)


def require_further(names: Iterable[str]) -> None:
    """Raise ConfigError if a further set has the name of a split."""
    for split in names:
        if split in PARTS:
            raise ConfigError(f"further: {split!r} is the name of a split; choose another name")


def _with(given: Mapping[str, Any], further: Mapping[str, Any], name: str) -> dict[str, Any]:
    """All files that are given. Raises ConfigError if a further set has the name of a split."""
    try:
        require_further(further)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    return {split: spec for split, spec in {**given, **further}.items() if spec is not None}


def _checked(split: str, value: Any, name: str) -> FileSpec:
    try:
        return _to_file_spec(value)
    except ValueError as error:
        raise ConfigError(f"{name}: {split}: {error}") from None


def _location(spec: FileSpec) -> Path:
    """The resolved path, equal for two specs exactly if they read the same file."""
    return expanded(spec.path).resolve()


def _prefixes(files: Mapping[str, FileSpec]) -> dict[str, str]:
    """The prefix of each split's ids, equal exactly if the file is the same."""
    owners: dict[Path, str] = {}
    for split, spec in files.items():
        owners.setdefault(_location(spec), split)
    stems = [path.stem for path in owners]
    paths = {split: _location(spec) for split, spec in files.items()}
    return {
        split: path.stem if stems.count(path.stem) == 1 else f"{owners[path]}-{path.stem}"
        for split, path in paths.items()
    }


def _require_own_ids(splits: Mapping[str, Sequence[Example]], files: Mapping[str, FileSpec]) -> None:
    """Raise DataError, naming the files, if an id occurs in two splits."""
    seen: dict[str, str] = {}
    for split, examples in splits.items():
        for example in examples:
            other = seen.setdefault(example.id, split)
            if other == split:
                continue
            if _location(files[other]) == _location(files[split]):
                raise DataError(
                    f"the {other} and {split} sets overlap: example {example.id!r} of {files[split].path} is in both; "
                    "change their skip or limit"
                )
            raise DataError(
                f"{files[other].path} and {files[split].path} both have the id {example.id!r}; "
                "make their ids differ, or name another column with columns: {id: <column>}"
            )


def _hold_back(retain: list[Example], share: float, path: str) -> tuple[list[Example], list[Example]]:
    """The examples of retain and of retain_eval; a subject is never divided."""
    subjects = list(dict.fromkeys(e.subject or e.id for e in retain))
    if len(subjects) < 2:
        raise DataError(
            f"{path}: all {len(retain)} retain examples share one subject, so none can be held back; "
            "set retain_eval_share to 0 or name a retain_eval file"
        )
    count = min(max(1, round(len(subjects) * share)), len(subjects) - 1)
    held_back = set(subjects[-count:])
    return (
        [e for e in retain if (e.subject or e.id) not in held_back],
        [replace(e, split=RETAIN_EVAL) for e in retain if (e.subject or e.id) in held_back],
    )
