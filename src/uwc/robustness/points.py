"""Points of a robustness study, from attacks or from files."""

from pathlib import Path
from typing import Any

from uwc.data.tables import Table, read_table
from uwc.errors import DataError
from uwc.results import Attacks, Point

_NEEDED = ("checkpoint", "metric", "attack", "split", "before", "after")
_TRUE, _FALSE = {"true", "1", "yes"}, {"false", "0", "no", ""}


def points_of(attacks: Attacks, checkpoint: str) -> list[Point]:
    """One point for each attack, set and metric of the unlearned models.

    Args:
        attacks: the outcomes.
        checkpoint: the model's name, where it has none.
    """
    touching = {info.name: info.touches_weights for info in attacks.attacks}
    return [
        Point(
            checkpoint=model.model.run or checkpoint,
            metric=outcome.metric,
            attack=info.name,
            split=outcome.set,
            before=outcome.before.mean,
            after=outcome.after.mean,
            touches_weights=touching[info.name],
        )
        for info in attacks.attacks
        for model in attacks.models
        if model.model.role == "unlearned"
        for outcome in model.outcomes
        if outcome.attack == info.name
    ]


def read_points(path: Path) -> list[Point]:
    """Read points from a JSONL, JSON, CSV, TSV or Parquet file with the columns of `Point`.

    Raises:
        DataError: a column is missing, or a value is not a number; the message names the row.
    """
    table = read_table(path)
    for name in _NEEDED:
        if name not in table.columns:
            raise DataError(f"{path}: there is no column {name!r}; {', '.join(_NEEDED)} are needed")
    return [
        Point(
            checkpoint=str(row.get("checkpoint", "")),
            metric=str(row.get("metric", "")),
            attack=str(row.get("attack", "")),
            split=str(row.get("split", "")),
            before=_number(row, "before", table.at(number)),
            after=_number(row, "after", table.at(number)),
            touches_weights=_flag(row.get("touches_weights", False), "touches_weights", table.at(number)),
        )
        for number, row in table.rows
    ]


def read_known(path: Path) -> dict[tuple[str, str], tuple[list[float], list[float]]]:
    """Read a metric's values for models that know and models that do not.

    The columns are metric, split, value and knows (true or false).

    Returns:
        (metric, split) -> the values of models that know, and of those that do not.

    Raises:
        DataError: as `read_points`.
    """
    table: Table = read_table(path)
    for name in ("metric", "split", "value", "knows"):
        if name not in table.columns:
            raise DataError(f"{path}: there is no column {name!r}; metric, split, value and knows are needed")
    values: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
    for number, row in table.rows:
        sides = values.setdefault((str(row["metric"]), str(row["split"])), ([], []))
        side = sides[0] if _flag(row["knows"], "knows", table.at(number)) else sides[1]
        side.append(_number(row, "value", table.at(number)))
    return values


def _number(row: Any, name: str, where: str) -> float:
    value = row.get(name)
    if value is None or value == "":
        return float("nan")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise DataError(f"{where}: {name} is {value!r}; it must be a number") from None


def _flag(value: Any, name: str, where: str) -> bool:
    text = str(value if value is not None else "").lower()
    if text not in _TRUE | _FALSE:
        raise DataError(f"{where}: {name} is {value!r}; it must be true or false")
    return text in _TRUE
