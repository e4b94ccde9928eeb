"""Questions from the user's own files: JSON Lines, JSON, CSV, TSV and Parquet."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, NonNegativeInt, PositiveInt, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from uwc.data.benchmark import FORGET, GENERAL, HELDOUT, RETAIN, RETAIN_EVAL, Benchmark
from uwc.data.example import Example
from uwc.data.refusals import DEFAULT_REFUSALS
from uwc.data.tables import Table, decode, read_bytes, read_table
from uwc.errors import ConfigError, DataError
from uwc.registry import unknown_name

FIELDS = tuple(f.name for f in fields(Example) if f.name != "split")
"""What a file may say of an example; which split it belongs to is said by the benchmark."""

ALIASES: Mapping[str, tuple[str, ...]] = {
    "question": ("prompt", "input"),
    "answer": ("response", "completion", "output", "target"),
    "perturbed_answers": ("perturbed_answer",),
    "subject": ("author", "entity"),
}
"""Column names that stand for a field where no column bears the field's own name."""

PARTS = (FORGET, "forget_paraphrased", RETAIN, "retain_paraphrased", RETAIN_EVAL, HELDOUT, GENERAL)
"""The sets that have a part of their own; further ones have other names."""
_NEEDED = ("id", "question", "answer")  # may not be empty; without an `id` column, ids are made up


def read_examples(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    split: str = "",
    limit: int | None = None,
    skip: int = 0,
    subject_every: int | None = None,
    id_prefix: str = "",
) -> list[Example]:
    """Read questions and answers from a .jsonl, .ndjson, .json, .csv, .tsv or .parquet file.

    The whole file is checked, whichever part of it is taken. A .json file holds a list of objects, or one object a
    line. In CSV a list is written as JSON text, such as ``["one", "two"]``. Numbers are read as text.

    Args:
        path: the file; its ending says the format.
        columns: the column that holds a field, such as ``{"question": "prompt"}``; for other fields the column of
            the same name, or else one of `ALIASES`.
        split: the split the examples belong to.
        limit: how many rows to take at most.
        skip: how many rows to leave out at the beginning.
        subject_every: how many consecutive rows of the file share a subject, if there is no column for it.
        id_prefix: begins the ids where there is no column for them; by default the file's name without its ending.

    Returns:
        The examples in the file's order. Ids that are made up are made of the row's number in the file, from 1.

    Raises:
        DataError: the file cannot be read or a row is wrong; the message names the file and the line (for Parquet the
            row, for a JSON list the item).
    """
    path = Path(path).expanduser()
    return to_examples(
        read_table(path),
        prefix=id_prefix or path.stem,
        columns=columns,
        split=split,
        limit=limit,
        skip=skip,
        subject_every=subject_every,
    )


def to_examples(
    table: Table,
    *,
    prefix: str,
    columns: Mapping[str, str] | None = None,
    split: str = "",
    limit: int | None = None,
    skip: int = 0,
    subject_every: int | None = None,
) -> list[Example]:
    """Turn rows into examples; `prefix` begins the ids and subjects that are made up, for the rest see `read_examples`.

    Raises:
        DataError: a row is wrong, or none is left.
    """
    if subject_every is not None and subject_every < 1:
        raise DataError(f"{table.source}: subject_every is {subject_every}; set it to 1 or more")
    used = _columns_used(table, columns or {})
    examples: list[Example] = []
    numbers: dict[str, int] = {}
    for index, (number, row) in enumerate(table.rows):
        values: dict[str, Any] = {field: _value(field, column, row, table, number) for field, column in used.items()}
        values.setdefault("id", f"{prefix}-{index + 1:05d}")
        if subject_every:
            values.setdefault("subject", f"{prefix}-subject-{index // subject_every + 1:03d}")
        example = Example(**values, split=split)
        if example.id in numbers:
            raise DataError(
                f"{table.at(number)}: the id {example.id!r} was used before, in {table.unit} {numbers[example.id]}; "
                "ids must be unique"
            )
        numbers[example.id] = number
        examples.append(example)
    return _part(examples, limit, skip, table.source)


def read_lines(path: str | Path) -> tuple[str, ...]:
    """Read a plain text file with one text a line, such as refusals; blank lines are skipped.

    Raises:
        DataError: the file is missing, cannot be read, or has no text in it.
    """
    path = Path(path).expanduser()
    text = decode(path, read_bytes(path))
    return tuple(line.strip() for line in text.split("\n") if line.strip())


# ---------------------------------------------------------------------------------------------- from rows to examples


def _columns_used(table: Table, asked: Mapping[str, str]) -> dict[str, str]:
    """The column for each field that has one."""
    there = table.columns
    for field, column in asked.items():
        if field not in FIELDS:
            raise DataError(f"{table.source}: columns: {unknown_name('field', field, list(FIELDS))}")
        if column not in there:
            raise DataError(f"{table.source}: columns: {field}: {unknown_name('column', column, there)}")
    used = dict(asked)
    for field in FIELDS:
        aliases = [name for name in ALIASES.get(field, ()) if name not in asked.values()]
        found = [name for name in (field, *aliases) if name in there]
        if found:
            used.setdefault(field, found[0])
    for field in ("question", "answer"):
        if field not in used:
            raise DataError(
                f"{table.source}: there is no column {field!r}; say which one it is with --column {field}=<column>, "
                f"in a study with columns: {{{field}: <column>}}; the file has: {', '.join(there) or 'none'}"
            )
    return used


def _value(field: str, column: str, row: Mapping[str, Any], table: Table, number: int) -> str | tuple[str, ...]:
    """A row's value for a field, checked."""
    label = field if field == column else f"{field} (column {column!r})"
    where = f"{table.at(number)}: the {label}"
    if field in _NEEDED and column not in row:
        raise DataError(f"{where} is missing; add it or remove this {table.unit}")
    if field == "perturbed_answers":
        return _texts(row.get(column), where, table.json_cells)
    text = _text(row.get(column), where)
    if field in _NEEDED and not text.strip():
        raise DataError(f"{where} is empty; fill it in or remove this {table.unit}")
    return text


def _text(value: Any, where: str) -> str:
    if value is None or value != value:  # NaN, which pandas writes for a missing value, differs from itself
        return ""
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise DataError(f"{where} is a {type(value).__name__}; write it as one text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where} holds half a character, {value[error.start]!r}; write it whole") from None
    return value


def _texts(value: Any, where: str, json_cells: bool) -> tuple[str, ...]:
    if json_cells and isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise DataError(f'{where} is not a JSON list ({error.msg}); write it like ["one", "two"]') from None
    if not isinstance(value, list):
        text = _text(value, where)
        return (text,) if text.strip() else ()
    texts = tuple(_text(item, where) for item in value)
    if not all(text.strip() for text in texts):
        raise DataError(f"{where} hold an empty text; fill it in or remove it")
    return texts


def _part(examples: list[Example], limit: int | None, skip: int, source: str) -> list[Example]:
    part = examples[skip:][:limit] if skip >= 0 and (limit is None or limit >= 1) else []
    if not part:
        raise DataError(
            f"{source}: skip {skip} and limit {limit} leave none of its {len(examples)} rows; "
            f"set skip from 0 to {len(examples) - 1} and limit to 1 or more"
        )
    return part


# -------------------------------------------------------------------------------------------------- from files to rows


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class FileSpec:
    """A file, or a part of it.

    Attributes:
        path: the file.
        limit: how many rows to take at most.
        skip: how many rows to leave out at the beginning.
    """

    path: str
    limit: PositiveInt | None = None
    skip: NonNegativeInt = 0


def _to_file_spec(value: Any) -> FileSpec:
    """A file spec from a path or a mapping. Raises ValueError with one line that says what is wrong."""
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
        raise ValueError(f"{first['loc'][0]} = {first['input']!r}: {first['msg']}") from None


File = Annotated[FileSpec | str, BeforeValidator(_to_file_spec)]
"""How a setting names a file: its path, or a mapping with the keys path, limit and skip."""


def local_files(
    *,
    forget: File,
    retain: File,
    retain_eval: File | None = None,
    heldout: File | None = None,
    general: File | None = None,
    further: Mapping[str, File] | None = None,
    refusals: str | None = None,
    columns: Mapping[str, str] | None = None,
    subject_every: int | None = None,
    retain_eval_share: float = 0.0,
    name: str = "local-files",
) -> Benchmark:
    """Make a benchmark of the user's own files.

    Ids that are made up begin with the file's name; where two files bear the same name, with the split as well.

    Args:
        forget: what is to be removed.
        retain: what is to be kept and shown to the unlearner.
        retain_eval: what is to be kept but never shown to the unlearner.
        heldout: what no model was trained on.
        general: what is scored besides.
        further: name -> what is scored besides, too, such as other questions to keep.
        refusals: a text file with a declining answer on each line; by default a list that comes with this package.
        columns: the column that holds a field, for all files, as for `read_examples`.
        subject_every: how many consecutive rows share a subject, where no column says it, as for `read_examples`.
        retain_eval_share: in [0, 1), the share of the retain subjects (of the examples that have none), at least one,
            that becomes `retain_eval` where no file is given for it: the last ones.
        name: what the benchmark is called in reports.

    Returns:
        The benchmark; the original model is trained on forget, retain and retain_eval.

    Raises:
        ConfigError: an argument is outside its range.
        DataError: a file is wrong, or two splits overlap.
    """
    if not 0 <= retain_eval_share < 1:
        raise ConfigError(f"{name}: retain_eval_share is {retain_eval_share!r}; set it from 0 to less than 1")
    if retain_eval is not None and retain_eval_share:
        raise ConfigError(f"{name}: set either retain_eval or retain_eval_share, not both")
    given = {FORGET: forget, RETAIN: retain, RETAIN_EVAL: retain_eval, HELDOUT: heldout, GENERAL: general}
    files = {split: _checked(split, spec, name) for split, spec in _with(given, further or {}, name).items()}
    prefixes = _prefixes(files)
    splits = {
        split: read_examples(
            spec.path,
            columns=columns,
            split=split,
            limit=spec.limit,
            skip=spec.skip,
            subject_every=subject_every,
            id_prefix=prefixes[split],
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
        files=tuple(dict.fromkeys([spec.path for spec in files.values()] + ([refusals] if refusals else []))),
    )


def _with(given: Mapping[str, Any], further: Mapping[str, Any], name: str) -> dict[str, Any]:
    """All files that are given. Raises ConfigError if a further one takes the name of a part."""
    for split in further:
        if split in PARTS:
            raise ConfigError(f"{name}: further: {split!r} is a set with a part of its own; give it another name")
    return {split: spec for split, spec in {**given, **further}.items() if spec is not None}


def _checked(split: str, value: Any, name: str) -> FileSpec:
    try:
        return _to_file_spec(value)
    except ValueError as error:
        raise ConfigError(f"{name}: {split}: {error}") from None


def _location(spec: FileSpec) -> Path:
    """Equal for two specs exactly if they read the same file."""
    return Path(spec.path).expanduser().resolve()


def _prefixes(files: Mapping[str, FileSpec]) -> dict[str, str]:
    """What begins each split's ids: equal exactly where the file is the same."""
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
    """Raise DataError if an id occurs in two splits, saying which rows or files clash."""
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
    """What stays in retain, and what becomes retain_eval; a subject is never divided."""
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
