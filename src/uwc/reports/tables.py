"""The numbers of a study as plain tables: for the terminal, for Markdown and for the page."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from uwc.progress import duration
from uwc.reports.held import ES, held_fixed, intervals_in_words, ranked_metric
from uwc.reports.words import listed

Record = Mapping[str, Any]

MISSING = "—"
MOST_NAMED = 5
"""How many names a sentence holds; the tables have them all."""
AT_TAU = (
    "at exactly tau, interpolated between the two mixtures on either side; the mixture that calibration gives keeps at "
    "least that, and is under all scores."
)
GOLD_MEANING = "trained like the original, but without the forget data"


@dataclass(frozen=True)
class Table:
    """A titled grid of strings; the first column names the row. A caption holds one remark a line."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""


# --- Reading the results -----------------------------------------------------------------------------------------


def known(value: Any) -> bool:
    """Whether a stored number is there: neither absent, null nor NaN."""
    return value is not None and not math.isnan(value)


def aggregate_of(scores: Record | None, set_name: str, metric: str = ES) -> Record:
    """The stored aggregate of one metric on one set of questions; empty where there is none."""
    return ((scores or {}).get(set_name) or {}).get(metric) or {}


def calibrated_forget(method: Record, metric: str = ES, name: str = "forget") -> Record:
    """A method's score at tau on a set to be forgotten, with its interval through alpha; that of the mixture, measured,
    where the results have no such."""
    after = aggregate_of(method.get("after"), name, metric)
    if not after or (method.get("calibration") or {}).get("metric") != metric:
        return after
    low, high = (method.get("intervals") or {}).get(name) or (after.get("low"), after.get("high"))
    return {**after, "mean": (method.get("at_tau") or {}).get(name, after.get("mean")), "low": low, "high": high}


def calibrated_retain(method: Record, metric: str = ES) -> Record:
    """A method's score at tau on the retain set, where this is what is held fixed; else that of the mixture."""
    after = aggregate_of(method.get("after"), "retain", metric)
    if not after or (method.get("calibration") or {}).get("set") != "retain":
        return after
    return {**after, "mean": (method.get("at_tau") or {}).get("retain", after.get("mean"))}


def ordered_methods(results: Record) -> list[Record]:
    """The unlearned models as the study ranks them, then those without a rank, then those that diverged."""
    rank = {name: place for place, name in enumerate(results.get("ranking") or [])}
    return sorted(results["unlearned"], key=lambda m: (m["status"] != "ok", rank.get(m["name"], len(rank))))


def reference_scores(results: Record, name: str) -> Record | None:
    """The scores of the model called `name` ("original" or "gold"); None if the study has no such model."""
    return next((model["scores"] for model in results["models"] if model["name"] == name), None)


def tau_of(results: Record) -> float | None:
    """The share of the original's retain score that calibration had to keep; None if nothing was calibrated."""
    searches = (method.get("calibration") or {} for method in results["unlearned"])
    return next((search["tau"] for search in searches if known(search.get("tau"))), None)


def all_scores(results: Record) -> list[tuple[str, Record]]:
    """Every scored model with its scores: the references, then each method before and after calibration."""
    scored = [(model["name"], model["scores"]) for model in results["models"]]
    for method in ordered_methods(results):
        scored += [(f"{method['name']}, {when}", method[when]) for when in ("before", "after") if method.get(when)]
    return scored


# --- Numbers as text ---------------------------------------------------------------------------------------------


def number(value: Any, metric: str = ES) -> str:
    """A score as text: three significant digits for perplexity, else three decimals; a dash if it is not available."""
    if not known(value):
        return MISSING
    if not math.isfinite(value):
        return "∞" if value > 0 else "-∞"
    if metric != "perplexity":
        return f"{value:.3f}"
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if 100 <= rounded < 1e6 else f"{rounded:#.3g}"


def with_interval(aggregate: Record, metric: str = ES) -> str:
    """A mean and its interval, ``0.212 [0.160, 0.270]``; the mean alone if no interval could be computed."""
    mean = number(aggregate.get("mean"), metric)
    if not known(aggregate.get("low")) or not known(aggregate.get("high")):
        return mean
    return f"{mean} [{number(aggregate['low'], metric)}, {number(aggregate['high'], metric)}]"


def with_error(aggregate: Record, metric: str = ES) -> str:
    """A mean and its standard error, ``0.212 ± 0.030``, and how many examples the metric did not apply to."""
    text = number(aggregate.get("mean"), metric)
    if known(aggregate.get("se")):
        text += f" ± {number(aggregate['se'], metric)}"
    return f"{text} ({aggregate['not_scored']} not scored)" if aggregate.get("not_scored") else text


def setting(value: Any) -> str:
    """A setting's value as text."""
    return f"{value:g}" if isinstance(value, float) else MISSING if value is None else str(value)


def split_sizes(results: Record) -> list[str]:
    """The size of each split of the benchmark, ``forget: 100 examples of 10 subjects``."""
    return [
        f"{name}: {setting(split.get('examples'))} examples"
        + (f" of {split['subjects']} subjects" if split.get("subjects") else "")
        for name, split in results["benchmark"]["splits"].items()
    ]


# --- What the study concludes ------------------------------------------------------------------------------------


def summary(results: Record) -> list[str]:
    """The conclusion in two to four sentences: who forgets most at equal retention, how sure that is, against what."""
    sentences = _best_method(results)
    compared = [
        f"the {name} model{note} scores {with_interval(es)}"
        for name, note in (("original", ""), ("gold", f" ({GOLD_MEANING})"))
        if (es := aggregate_of(reference_scores(results, name), "forget", ranked_metric(results)[0]))
    ]
    if compared:
        sentences.append(f"For comparison: {listed(compared)}.")
    if diverged := [m["name"] for m in results["unlearned"] if m["status"] != "ok"]:
        verb = "is" if len(diverged) == 1 else "are"
        sentences.append(f"Training diverged for {listed(diverged)}, which {verb} not ranked.")
    return sentences


def _best_method(results: Record) -> list[str]:
    ranking = results.get("ranking") or []
    if not ranking and not any("calibration" in method for method in results["unlearned"]):
        return ["Nothing was calibrated, so the methods are shown as they are, and not ranked."]
    if not ranking:
        return ["No method reached a calibrated score, so there is nothing to rank."]
    metric, label = ranked_metric(results)
    after = {m["name"]: calibrated_forget(m, metric) for m in results["unlearned"]}
    best, others = ranking[0], ranking[1:]
    tau, n = tau_of(results), after[best].get("n")
    held = "" if tau is None else f" at equal retention (at least {tau:g} of the original's {held_fixed(results)})"
    sentences = [
        f"{best} has the lowest forget {label}{held}: {with_interval(after[best])}, n = {setting(n)}; lower is better."
    ]
    if not others:
        return sentences
    if not all(known(after[name].get(end)) for name in ranking for end in ("low", "high")):
        doubt = "Not every method has an interval (that takes two subjects or more), so do not trust small differences."
        return [*sentences, doubt]
    return [*sentences, _told_apart(results, best, others)]


def _few(names: Sequence[str]) -> str:
    """The first names of a long list in a sentence, and how many more there are."""
    hidden = len(names) - MOST_NAMED
    return listed([*names[:MOST_NAMED], f"{hidden} more"] if hidden > 1 else names)


def _told_apart(results: Record, best: str, others: Sequence[str]) -> str:
    """Which methods the best one cannot be told from, by paired draws of the same questions where there are such."""
    paired = (results.get("pairs") or {}).get(best)
    if paired:
        close = [f"{name} ({paired[name]:.0%} sure that it leaves less)" for name in others if paired[name] < SURE]
        if close:
            return f"It cannot be told apart from {_few(close)}."
        return "In paired draws of the same questions it leaves less than every other method."
    metric, _ = ranked_metric(results)
    after = {m["name"]: aggregate_of(m.get("after"), "forget", metric) for m in results["unlearned"]}
    overlapping = [name for name in others if after[name]["low"] <= after[best]["high"]]
    if not overlapping:
        return "Its interval lies below that of every other method."
    whose = "that of" if len(overlapping) == 1 else "those of"
    return f"Its interval overlaps with {whose} {_few(overlapping)}, so this study cannot tell them apart."


# --- Tables ------------------------------------------------------------------------------------------------------

SURE = 0.975  # a share of paired draws beyond which two methods count as told apart


def result_table(results: Record) -> Table:
    """The main comparison: a row for each reference model, then one a method by rank, the diverged ones last."""
    trained = [method for method in results["unlearned"] if method["status"] == "ok"]
    if trained and not any(method.get("calibration") for method in trained):
        return _uncalibrated_table(results)
    metric, label = ranked_metric(results)
    rows = []
    for model in results["models"]:
        forget = aggregate_of(model["scores"], "forget", metric)
        rows.append((model["name"], "", "", "", *_cells(model["scores"], forget, metric)))
    for method in ordered_methods(results):
        name, before = method["name"], method.get("before")
        rows.append(
            (
                name if method["status"] == "ok" else f"{name} (diverged)",
                number(aggregate_of(before, "forget", metric).get("mean")),
                number(aggregate_of(before, "retain", metric).get("mean")),
                number((method.get("at_tau") or method.get("calibration") or {}).get("alpha")),
                with_interval(calibrated_forget(method, metric)),
                number(calibrated_forget(method, metric, "forget_paraphrased").get("mean")),
                number(calibrated_retain(method, metric).get("mean")),
            )
        )
    what = "model" if results["study"].get("kind") == "comparison" else "method"
    columns = (
        what, f"forget {label} before", f"retain {label} before", "alpha", f"forget {label} after [95% interval]",
        f"forget {label} after, paraphrased", f"retain {label} after",
    )  # fmt: skip
    title = f"Forget {label} before and after calibration, best first (lower is better)"
    return Table(title, columns, tuple(rows), "\n".join(_result_remarks(results)))


def _uncalibrated_table(results: Record) -> Table:
    """The scores of every model as it is, where nothing was calibrated."""
    columns = ("model", "forget ES [95% interval]", "forget ES, paraphrased", "retain ES")
    rows = [
        (name.removesuffix(", before"), *_cells(scores, aggregate_of(scores, "forget"), ES))
        for name, scores in all_scores(results)
    ]
    rows += [
        (f"{m['name']} (diverged)", MISSING, MISSING, MISSING) for m in results["unlearned"] if m["status"] != "ok"
    ]
    caption = f"Nothing was calibrated. Intervals: 95%, bootstrap over whole subjects. gold: {GOLD_MEANING}."
    return Table("ES of every model", columns, tuple(rows), caption)


def _cells(scores: Record | None, forget: Record, metric: str) -> tuple[str, str, str]:
    return (
        with_interval(forget),
        number(aggregate_of(scores, "forget_paraphrased", metric).get("mean")),
        number(aggregate_of(scores, "retain", metric).get("mean")),
    )


def _result_remarks(results: Record) -> Iterable[str]:
    sizes = [f"{facts['label']} n = {facts['examples']}" for facts in results["sets"].values()]
    yield f"Questions scored: {'; '.join(sizes)}. Every score has its n and interval in the details."
    yield (
        "Before, after: of calibration. alpha: how much of the unlearned model is mixed into the original "
        f"(0 = original, 1 = unlearned). After: {AT_TAU} Intervals after calibration: {intervals_in_words(results)}."
    )
    if reference_scores(results, "gold"):
        yield f"gold: {GOLD_MEANING}."
    if not any(aggregate_of(scores, "forget_paraphrased") for _, scores in all_scores(results)):
        given = "forget_paraphrased" in results["sets"]
        reason = "were not scored" if given else "are not part of this benchmark"
        yield f"{MISSING} under paraphrased: paraphrased forget questions {reason}."
    for method in results["unlearned"]:
        if method["status"] != "ok":
            yield f"{method['name']}: {method.get('message') or 'training diverged'}."


def metrics_table(results: Record, metric: str) -> Table:
    """One metric for every model and every set of questions: mean ± standard error, with n in the column or the cell.

    Raises:
        KeyError: the results have no such metric.
    """
    facts = results["metrics"][metric]
    models = all_scores(results)
    sets = [name for name in results["sets"] if any(aggregate_of(scores, name, metric) for _, scores in models)]
    columns, cells = ["model"], []
    for name in sets:
        label, aggregates = results["sets"][name]["label"], [aggregate_of(scores, name, metric) for _, scores in models]
        counts = {aggregate["n"] for aggregate in aggregates if known(aggregate.get("mean"))}
        same = len(counts) == 1
        columns.append(f"{label}\nn = {counts.pop()}" if same else label)
        cells.append([_details_cell(aggregate, metric, with_count=not same) for aggregate in aggregates])
    rows = tuple((model, *(column[i] for column in cells)) for i, (model, _) in enumerate(models))
    return Table(facts["label"], tuple(columns), rows, "Mean ± standard error; below it the 95% interval.")


def _details_cell(aggregate: Record, metric: str, *, with_count: bool) -> str:
    text = with_error(aggregate, metric)
    if known(aggregate.get("low")) and known(aggregate.get("high")):
        text += f"\n[{number(aggregate['low'], metric)}, {number(aggregate['high'], metric)}]"
    return f"{text}\nn = {aggregate['n']}" if with_count and aggregate else text


def methods_table(results: Record) -> Table:
    """What each unlearned model was made by: the method in words, its loss and where it is from."""
    if all(m.get("checkpoint") for m in results["unlearned"]):
        given = tuple((m["name"], str(m["checkpoint"])) for m in results["unlearned"])
        return Table("The given models", ("model", "checkpoint"), given)
    columns = ("method", "what it does", "loss", "source")
    rows = tuple(
        (m["name"], *(m.get(fact) or MISSING for fact in ("summary", "formula", "source")))
        for m in results["unlearned"]
    )
    return Table("Methods", columns, rows)


def settings_table(results: Record) -> Table:
    """The training settings that differ between the methods, a column each; the caption has those that are the same."""
    given = {
        m["name"]: {**(m.get("settings") or {}), **{f"trick: {k}": v for k, v in (m.get("tricks") or {}).items()}}
        for m in results["unlearned"]
    }
    keys = dict.fromkeys(key for settings in given.values() for key in settings)
    values = {key: [setting(settings.get(key)) for settings in given.values()] for key in keys}
    varying = [key for key in keys if len(set(values[key])) > 1]
    rows = tuple((name, *(values[key][i] for key in varying)) for i, name in enumerate(given))
    first = next(iter(given.values()), {})
    plain = [k for k in keys if k not in varying and first.get(k) is not None and not isinstance(first[k], Mapping)]
    same = ", ".join(f"{key} = {values[key][0]}" for key in plain)
    caption = f"The same for all methods: {same}; the configuration below has the rest." if same else ""
    return Table("Training settings", ("method", *varying), rows if varying else (), caption)


def steps_table(run: Record) -> Table:
    """What the run did, how long each step took when it was computed, and which were taken from an earlier run."""
    rows = tuple(
        (
            step["name"],
            duration(step["seconds"]) if known(step.get("seconds")) else MISSING,
            "reused" if step.get("reused") else "computed",
            str(step.get("key", MISSING)),
        )
        for step in run.get("steps") or []
    )
    spent = sum(s["seconds"] for s in run.get("steps") or [] if not s.get("reused") and known(s.get("seconds")))
    caption = f"Computed in this run: {duration(spent)}. A reused step was taken from an earlier run with the same key."
    return Table("Steps", ("step", "time", "this run", "key"), rows, caption)


# --- Renderers ---------------------------------------------------------------------------------------------------


def is_numeric(table: Table, column: int) -> bool:
    """Whether a column holds numbers, which line up on the right."""
    cells = [row[column] for row in table.rows]
    return all(cell[:1].isdigit() or cell[:1] in ("", "-", MISSING, "∞") for cell in cells)


def to_markdown(table: Table) -> str:
    """The table in GitHub's Markdown, with its title as a heading and its caption as a list below."""
    lines = [f"### {_markdown_cell(table.title)}", ""]
    alignment = ["---:" if is_numeric(table, i) else "---" for i in range(len(table.columns))]
    for row in (table.columns, alignment, *table.rows):
        lines.append(f"| {' | '.join(_markdown_cell(cell) for cell in row)} |")
    remarks = [f"- {remark}" for remark in table.caption.splitlines()]
    return "\n".join([*lines, "", *remarks]).rstrip() + "\n"


def _markdown_cell(cell: str) -> str:
    return cell.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", "<br>")


def print_table(table: Table, console: Console) -> None:
    """Prints the table to a rich console, its caption below it."""
    grid = RichTable(title=escape(table.title), title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for i, column in enumerate(table.columns):
        widest = max((len(line) for row in table.rows for line in row[i].splitlines()), default=0)
        header = "\n".join(wrap(column, max(widest, 9), break_long_words=False))
        grid.add_column(escape(header), justify="right" if is_numeric(table, i) else "left", overflow="fold")
    for row in table.rows:
        grid.add_row(*(escape(cell) for cell in row))
    console.print(grid)
    for remark in table.caption.splitlines():
        console.print(remark, style="dim", markup=False, highlight=False)
