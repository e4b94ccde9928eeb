"""`uwc answers`: the answers of a run, in the terminal."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from uwc.cli.options import OUTPUT, Json
from uwc.cli.printing import print_json, print_rows
from uwc.errors import ConfigError, shortened
from uwc.io import write_text
from uwc.registry import unknown_name

if TYPE_CHECKING:
    import pandas as pd

ROWS = "Rows"
FROM = "‖"
"""Stands in the true answer before the part that the model completes by itself."""
LONGEST = 300
"""The most characters of a text in a cell."""


def answers_command(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="The folder of a study, score, ... with answers.parquet, or that file."),
    ],
    sort: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=ROWS,
            metavar="METRIC|attack|id",
            help="Order: by a metric or under the worst attack (attack), the most remembered first, or by id. "
            "Default: attack, if there are attacks.",
        ),
    ] = None,
    model: Annotated[
        list[str],
        typer.Option(
            rich_help_panel=ROWS, metavar="NAME", help="A model. May be repeated. Default: the unlearned models."
        ),
    ] = [],  # noqa: B006
    of_set: Annotated[
        list[str],
        typer.Option(
            "--set", rich_help_panel=ROWS, metavar="NAME", help="A set of questions. May be repeated. Default: forget."
        ),
    ] = [],  # noqa: B006
    condition: Annotated[
        str,
        typer.Option(
            rich_help_panel=ROWS, metavar="NAME", help="'as delivered', calibrated, or attack (a row for each attack)."
        ),
    ] = "as delivered",
    cluster: Annotated[
        list[str], typer.Option(rich_help_panel=ROWS, metavar="NAME", help="A cluster. May be repeated.")
    ] = [],  # noqa: B006
    search: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=ROWS,
            metavar="TEXT",
            help="Only rows whose question, answer or generated text contains this text.",
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=0, rich_help_panel=ROWS, metavar="N", help="The largest number of rows; 0 for all.")
    ] = 20,
    redact: Annotated[
        bool,
        typer.Option(
            rich_help_panel=OUTPUT,
            help="Replace true answers by hashes, and their words and secrets in generated texts by marks.",
        ),
    ] = False,
    csv: Annotated[
        Path | None, typer.Option(rich_help_panel=OUTPUT, metavar="FILE", help="Also write the rows to a CSV file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show questions with the true answer, the model's answer, and its answer under the worst attack.

    After ‖ in a true answer the model completes it by itself.
    """
    from uwc import answers

    table = answers.read(run)
    whole = {"forget"} & {*table["set"]} if not of_set else {*of_set}
    for name, values in {"set": of_set, "model": model, "cluster": cluster, "condition": [condition]}.items():
        _require_known(run, table, name, values)
    for name, chosen in {"set": whole, "model": model, "cluster": cluster}.items():
        table = table[table[name].isin(chosen)] if chosen else table
    unlearned = table["role"].isin(["unlearned", "calibrated"])
    table = table[unlearned] if not model and unlearned.any() else table
    metric = _metric(run, table, sort)
    higher = _higher(metric)
    found = answers.overview(table, metric, condition=condition, higher=higher)
    if search is not None:
        texts = [name for name in ("id", "question", "answer", "generated", "worst_generated") if name in found]
        found = found[_containing(found[texts], search)]
    total, by = len(found), _order(sort, found, metric)
    if by is not None:
        found = found.sort_values(by, ascending=by == "id" or not higher, kind="stable", na_position="last")
    found = found.head(limit) if limit else found
    if redact:
        hidden = answers.redacted(table[table["id"].isin(found["id"])])
        found = answers.overview(hidden, metric, condition=condition, higher=higher).loc[found.index]
    if csv is not None:
        write_text(csv, found.map(_no_formula).to_csv(index=False))
    rows: list[dict[Any, Any]] = found.to_dict("records")
    if as_json:
        print_json([{name: _plain(cell) for name, cell in row.items()} for row in rows])
        return
    print_rows(f"answers of {run}", [_shown(row, metric, redacted=redact) for row in rows])
    typer.echo(f"{len(found)} of {total} rows" + ("; --limit 0 shows all" if len(found) < total else ""))


def _no_formula(cell: Any) -> Any:
    """A text that a spreadsheet does not read as a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def _require_known(run: Path, table: "pd.DataFrame", name: str, given: list[str]) -> None:
    known = list(dict.fromkeys(table[name]))
    for value in given:
        if value not in known:
            raise ConfigError(f"{run}: {unknown_name(name, value, known)}")


def _metric(run: Path, table: "pd.DataFrame", sort: str | None) -> str:
    """The metric that is shown: the one to sort by, or the first, of those under attack if there are any."""
    from uwc.answers import ATTACK, metrics_of

    names = metrics_of(table)
    if sort not in (None, "attack", "id"):
        labelled = {sort, *(name for name in names if _label(name).lower() == str(sort).lower())}
        if not (found := [name for name in names if name in labelled]):
            raise ConfigError(f"{run}: {unknown_name('metric, attack or id to sort by', str(sort), names)}")
        return found[0]
    attacked = table[table["condition"] == ATTACK]
    if sort == "attack" and attacked.empty:
        raise ConfigError(f"{run}: it has no attack to sort by; give a metric: {', '.join(names)}")
    if not names:
        raise ConfigError(f"{run}: it has no metric; score the model again with one (--metric)")
    return next((name for name in names if attacked[name].notna().any()), names[0])


def _order(sort: str | None, found: "pd.DataFrame", metric: str) -> str | None:
    """The column to sort by."""
    if sort == "id":
        return "id"
    attacked = "worst_value" in found and found["worst_value"].notna().any()
    return "worst_value" if attacked and sort in (None, "attack") else metric


def _entry(metric: str) -> Any:
    from uwc.metrics.registry import metrics

    return metrics.get(metric) if metric in metrics.names() else None


def _label(metric: str) -> str:
    entry = _entry(metric)
    return metric if entry is None else str(entry.facts["label"])


def _higher(metric: str) -> bool:
    """Whether a high value means 'remembers'; also of a metric of a plug-in that is not given here."""
    entry = _entry(metric)
    return True if entry is None else bool(entry.facts["higher_remembers"])


def _containing(texts: "pd.DataFrame", search: str) -> list[bool]:
    from uwc.words import comparable

    wanted = comparable(search)
    rows = texts.itertuples(index=False)
    return [any(isinstance(text, str) and wanted in comparable(text) for text in row) for row in rows]


def _shown(row: dict[Any, Any], metric: str, *, redacted: bool) -> dict[str, Any]:
    """A row of the table in the terminal."""
    start, answer = row["completed_from"], row["answer"]
    if not redacted and start == start and start is not None:
        answer = f"{answer[: int(start)]}{FROM}{answer[int(start) :]}"
    attack = row.get("worst_attack")
    attacked = isinstance(attack, str)
    return {
        "id": row["id"],
        "model": row["model"] if row["role"] != "calibrated" else f"{row['model']}, calibrated",
        "attack": _named(row["attack"], row["variant"]),
        "question": _cell(row["question"]),
        "true answer": _cell(answer),
        "says": _cell(row["generated"]),
        _label(metric): _value(row[metric]),
        "worst attack": _named(attack, row["worst_variant"]) if attacked else "",
        f"{_label(metric)} under it": _value(row.get("worst_value")),
        "says under it": _cell(row.get("worst_generated")),
    }


def _named(attack: Any, variant: Any) -> str:
    return f"{attack} ({variant})" if variant else str(attack)


def _cell(text: Any) -> str:
    return shortened(" ".join(text.split()), LONGEST) if isinstance(text, str) else ""


def _value(value: Any) -> float | None:
    return None if value is None or value != value else float(value)


def _plain(cell: Any) -> Any:
    """A cell as JSON has it: None for a missing value."""
    if isinstance(cell, list | str):
        return cell
    return None if cell is None or cell != cell or str(cell) == "<NA>" else cell
