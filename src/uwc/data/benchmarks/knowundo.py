"""KnowUnDo: what must be forgotten about people and books, and what must not."""

from collections.abc import Mapping
from typing import Any, Literal

from uwc.data.benchmark import DEFAULT_REFUSALS, FORGET, RETAIN, RETAIN_EVAL, Benchmark
from uwc.data.example import Example
from uwc.data.hub import HubData
from uwc.data.question_files import to_examples
from uwc.data.tables import Table
from uwc.errors import DataError

HUB = "zjunlp/KnowUnDo"
FORGET_EVAL = "forget_eval"

_PARTS = {
    FORGET: ("unlearn", "train"),
    FORGET_EVAL: ("unlearn", "val"),
    RETAIN: ("retention", "train"),
    RETAIN_EVAL: ("retention", "val"),
}


def knowundo(*, domain: Literal["privacy", "copyright"] = "privacy", path: str = HUB) -> Benchmark:
    """Load KnowUnDo from the Hugging Face hub or from a local copy.

    Its questions have no subjects: each counts as independent, although several are about one person.

    Args:
        domain: "privacy", about invented people, or "copyright", about books.
        path: the data set on the hub, or a folder with its files (``privacy/unlearn.json``, ...) or with those of its
            repository (``unlearn_train.json``, ``unlearn_val.json``, ``retention_train.json``, ...).

    Returns:
        The benchmark ``knowundo-<domain>``, with the splits forget and retain (the train folds), forget_eval and
        retain_eval (the val folds, which unlearning does not use); the original model is trained on all.

    Raises:
        DataError: the data set cannot be reached, or a file or column is missing.

    Source: Tian et al. 2024, arXiv:2407.01920. The layout of the repository was read from its files (privacy); that of
    the hub, one row with a list in each of the columns ``train`` and ``val``, from its page and from users' code.
    """
    data = HubData("KnowUnDo", HUB, path)
    splits = {split: tuple(_read(data, domain, split)) for split in _PARTS}
    return Benchmark(
        name=f"knowundo-{domain}",
        splits=splits,
        trained=tuple(splits),
        refusals=DEFAULT_REFUSALS,
        files=tuple(dict.fromkeys(data.read)),
        metrics=("core", "knowledge_forgotten"),
    )


def _read(data: HubData, domain: str, split: str) -> list[Example]:
    part, fold = _PARTS[split]
    table = data.table(
        domain,
        split=part,
        files=[f"{part}_{fold}.json", f"{domain}/{part}.json", f"{domain}/{part}-*.parquet"],
    )
    if fold in table.columns:
        table = Table(f"{table.source} ({fold})", "item", list(enumerate(_fold(table, fold), 1)))
    columns = {"question": "text", "answer": "labels"}
    return to_examples(table, prefix=f"{part}-{fold}", columns=columns, split=split)


def _fold(table: Table, fold: str) -> list[Mapping[str, Any]]:
    """The questions of a fold: the list in its column, of all rows."""
    found = [item for _, row in table.rows for item in (row.get(fold) or [])]
    if not found or not all(isinstance(item, Mapping) for item in found):
        raise DataError(
            f"{table.source}: the column {fold!r} is not a list of questions with text and labels; get the file again"
        )
    return found
