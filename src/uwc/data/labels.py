"""Generated answers with labels by people, from one file."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uwc.data.cells import as_text
from uwc.data.example import Example
from uwc.data.outputs import OWN
from uwc.data.question_files import valid_examples
from uwc.data.tables import read_table
from uwc.errors import DataError, brief, listed
from uwc.io import expanded, file_digest
from uwc.registry import unknown_name

OUTPUT, LABEL = "output", "label"
_YES, _NO = frozenset({"1", "1.0", "true", "yes"}), frozenset({"0", "0.0", "false", "no"})
_ALIASES: Mapping[str, tuple[str, ...]] = {OUTPUT: OWN[OUTPUT], LABEL: ()}
_FIELDS = ("question", "answer", "subject", OUTPUT, LABEL)


@dataclass(frozen=True)
class LabelledTexts:
    """Generated answers with labels.

    Attributes:
        source: the file's name.
        sha256: the hash of its content.
        examples: [E] the questions with their true answers.
        texts: [E] the generated answers.
        labels: [E] 1 for yes and 0 for no.
    """

    source: str
    sha256: str
    examples: tuple[Example, ...]
    texts: tuple[str, ...]
    labels: NDArray[np.float64]


def read_labels(path: str | Path, columns: Mapping[str, str] | None = None) -> LabelledTexts:
    """Read generated answers with labels: JSONL, JSON, CSV, TSV or Parquet with one answer a row.

    Args:
        path: a file with the columns ``question``, ``answer`` (the true one), ``output`` (the generated one) and
            ``label`` (1, yes or true; 0, no or false), and where it is known ``subject``. Without one the answers to
            one question are a cluster. Ids are not read, so that answers of several models can be in one file.
        columns: field -> column, where they have other names.

    Raises:
        DataError: a column is missing, a row cannot be used, or a label is neither yes nor no.
    """
    given = dict(columns or {})
    for field in given:
        if field not in _FIELDS:
            raise DataError(unknown_name("field of a labelled file", field, list(_FIELDS)))
    table = read_table(expanded(path))
    spelt = {column.strip().casefold(): column for column in reversed(table.columns)}

    def column(field: str) -> str:
        names = (field, *_ALIASES[field])
        found = given.get(field) or next((spelt[name] for name in names if name in spelt), None)
        if found not in table.columns:
            says = {OUTPUT: "the generated answers", LABEL: "labels by people (yes or no, 1 or 0)"}[field]
            raise DataError(
                f"{table.source}: there is no column {given.get(field, field)!r} with {says}; add it, or name it with "
                f"--column {field}=<column>; the file has: {listed(table.columns, 160)}"
            )
        return found

    output, label = column(OUTPUT), column(LABEL)
    unread = {output, label, spelt.get("id")}
    rows = [(n, {c: cell for c, cell in row.items() if c not in unread}) for n, row in table.rows]
    asked = {field: name for field, name in given.items() if field not in _ALIASES}
    examples, problems = valid_examples(replace(table, rows=rows), Path(table.source).stem, asked)
    cells = dict(table.rows)
    texts, labels = [], []
    for number in examples:
        try:
            said = cells[number].get(output)
            texts.append(as_text("" if said is None else said, f"{table.at(number)}: the column {output!r}"))
            labels.append(_label(cells[number].get(label), f"{table.at(number)}: the label (column {label!r})"))
        except DataError as error:
            problems.add(number, error)
    problems.require_none()
    clustered = tuple(replace(e, subject=e.subject or e.question) for e in examples.values())
    return LabelledTexts(Path(path).name, file_digest(expanded(path)), clustered, tuple(texts), np.array(labels))


def _label(cell: Any, where: str) -> float:
    """1 for yes, 0 for no. Raises DataError for anything else."""
    text = str(cell).strip().casefold() if cell is not None else ""
    if text not in _YES | _NO:
        raise DataError(f"{where} is {brief(text) if text else 'empty'}; write yes or no, true or false, or 1 or 0")
    return float(text in _YES)
