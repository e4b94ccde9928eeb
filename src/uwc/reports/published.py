"""Our scores beside the published ones of the same methods."""

from uwc.published.tables import PublishedTable, published, published_names
from uwc.reports.grid import Table
from uwc.reports.records import Record, aggregate_of, ordered_methods, tau_of
from uwc.reports.words import MISSING, number, setting

_COLUMNS = ("forget", "retain", "forget_paraphrased", "retain_paraphrased")


def published_table(results: Record) -> Table | None:
    """ES of each method before and after calibration, here and as published on the same benchmark.

    None where nothing was published on the benchmark that the study has or names, or of none of its methods.
    """
    benchmark = (results["study"].get("config") or {}).get("published") or results["benchmark"]["name"]
    tables = [t for t in map(published, published_names()) if t.benchmark == benchmark and "method" in t.rows[0]]
    if not tables:
        return None
    known = {row["method"] for table in tables for row in table.rows}
    methods = [m for m in ordered_methods(results) if _method(m) in known]
    if not methods:
        return None
    models = list(dict.fromkeys(row["model"] for table in tables for row in table.rows))
    rows: list[tuple[str, ...]] = []
    for method in methods:
        ours = [_scores(method.get(when)) for when in ("before", "after")]
        rows.append((method["name"], "this study", *ours[0][:2], *ours[1]))
        for model in models:
            theirs = [_row(table, _method(method), model) for table in _before_and_after(tables)]
            rows.append(("", model, *theirs[0][:2], *theirs[1]))
    tau = tau_of(results)
    remarks = [f"{table.title}: {table.source}. {table.setting}" for table in _before_and_after(tables)]
    remarks.append("Calibrated, here: the mixture itself, measured, as it was in what is published.")
    remarks.append(f"This study: tau {MISSING if tau is None else setting(tau)}, one model of its own.")
    columns = (
        "method", "where", "forget ES before", "retain ES before", "forget ES calibrated", "retain ES calibrated",
        "forget ES calibrated, paraphrased", "retain ES calibrated, paraphrased",
    )  # fmt: skip
    return Table("Beside published figures", columns, tuple(rows), "\n".join(remarks))


def _method(record: Record) -> str:
    """The method of an unlearned model; of a given one, what the user calls it."""
    return str(record["method"] or record["group"] or record["name"]).lower()


def _before_and_after(tables: list[PublishedTable]) -> list[PublishedTable]:
    return sorted(tables, key=lambda table: not table.name.endswith("before"))


def _scores(scores: Record | None) -> list[str]:
    return [number(aggregate_of(scores, name).get("mean")) for name in _COLUMNS]


def _row(table: PublishedTable, method: str, model: str) -> list[str]:
    row = next(r for r in table.rows if (r["method"], r["model"]) == (method, model))
    return [number(row[name]) for name in _COLUMNS]
