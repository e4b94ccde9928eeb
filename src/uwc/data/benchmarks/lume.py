"""LUME (SemEval-2025 task 4): creative stories, personal data of invented people, and biographies."""

import re
from collections.abc import Sequence
from pathlib import Path

from uwc.data.benchmark import DEFAULT_REFUSALS, FORGET, HOLDOUT, RETAIN, RETAIN_EVAL, Benchmark
from uwc.data.cells import as_text
from uwc.data.example import Example, learnt
from uwc.data.hub import HubData
from uwc.data.passages import PassageLength, passages
from uwc.data.tables import Table
from uwc.errors import DataError, listed
from uwc.io import expanded

HUB = "llmunlearningsemeval2025organization/semeval25-unlearning-dataset-public"
TASKS = ("Task1", "Task2", "Task3")
COMPLETION, QUESTION = "sc", "qa"
MEMBERS = "members"

_ID = re.compile(r"(.+?)((?:sc|qa)\d+)", flags=re.DOTALL)
_COLUMNS = ("id", "input", "output", "task")


def lume(
    *,
    path: str = HUB,
    mia: str | None = None,
    passage_length: PassageLength = 2000,
) -> Benchmark:
    """Load LUME from the Hugging Face hub or from a local copy.

    A sentence completion is a passage, which is given without a prompt template, as its organisers do; a question is
    given with one, where they give it bare. Subjects are stories and people. An example's id is
    ``TASK/SUBJECT/sc1`` or ``TASK/SUBJECT/qa0``, by which `lume_tasks` groups them.

    Args:
        path: the data set on the hub (access must be asked for), or a folder with its files
            (``data/forget_train-*.parquet``, ...) or with those of its repository (``forget.jsonl``, ``retain.jsonl``).
        mia: a folder with the documents of the official score's membership inference (``member.jsonl`` and
            ``nonmember.jsonl``, a column ``document``): the sets members and holdout. By default that in a local copy
            (``mia_data``), if it is there.
        passage_length: the most characters of a passage of these documents.

    Returns:
        The benchmark ``lume``, with the splits forget and retain; from the hub also retain_eval and forget_validation,
        the validation folds, which unlearning does not use. The original model is trained on all of these.

    Raises:
        DataError: the data set cannot be reached, a file or column is missing, or an id is of another form.

    Source: Ramakrishna et al. 2025, arXiv:2502.15097. The layout of the repository was read from its files; that of the
    hub is as its organisers' instructions describe it.
    """
    data = HubData("LUME", HUB, path)
    splits = {split: _read(data, split, f"{split}_train", files=[f"{split}.jsonl"]) for split in (FORGET, RETAIN)}
    if not any(file.endswith(f"{FORGET}.jsonl") for file in data.read):
        splits[RETAIN_EVAL] = _read(data, RETAIN_EVAL, "retain_validation")
        splits["forget_validation"] = _read(data, "forget_validation", "forget_validation")
    trained = tuple(splits)
    folder = mia if mia is not None else str(Path(path) / "mia_data")
    if mia is not None or expanded(folder).is_dir():
        documents = HubData("LUME MIA", HUB, folder)
        for split, file in ((MEMBERS, "member"), (HOLDOUT, "nonmember")):
            table = documents.table(None, split=file, files=[f"{file}.jsonl"])
            found = passages(table, prefix=file, length=passage_length, split=split, column="document")
            splits[split] = [learnt(e) for e in found]  # whole documents are scored
        data.read.extend(documents.read)
    return Benchmark(
        name="lume",
        splits={split: tuple(examples) for split, examples in splits.items()},
        trained=trained,
        refusals=DEFAULT_REFUSALS,
        files=tuple(data.read),
        metrics=("core", "lume"),
    )


def _read(data: HubData, split: str, fold: str, files: Sequence[str] = ()) -> list[Example]:
    table = data.table(None, split=fold, files=[*files, f"data/{fold}-*.parquet", f"data/{fold}.jsonl"])
    for column in _COLUMNS:
        if column not in table.columns:
            raise DataError(
                f"{table.source}: LUME's column {column!r} is missing; get the file again; it has: "
                f"{listed(table.columns)}"
            )
    return [_example(table, number, split) for number in range(len(table.rows))]


def _example(table: Table, index: int, split: str) -> Example:
    number, row = table.rows[index]
    texts = {column: as_text(row.get(column), f"{table.at(number)}: the {column}") for column in _COLUMNS}
    found = _ID.fullmatch(texts["id"].replace('"', ""))
    if found is None or texts["task"] not in TASKS:
        raise DataError(
            f"{table.at(number)}: the id {texts['id']!r} of task {texts['task']!r} is not one of LUME's, which end in "
            f"sc or qa and a number, of the tasks {', '.join(TASKS)}; get the file again"
        )
    subject, item = found.groups()
    completion = item.startswith(COMPLETION)
    return Example(
        id=f"{texts['task']}/{subject}/{item}",
        question=texts["input"].rstrip() if completion else texts["input"],
        answer=f" {texts['output'].strip()}" if completion else texts["output"],
        subject=f"{texts['task']}/{subject}",
        split=split,
        raw=completion,
    )
