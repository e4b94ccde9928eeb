"""The numbers of a study as plain tables."""

from collections.abc import Iterable, Mapping

from uwc.progress import duration
from uwc.reports.grid import Table
from uwc.reports.held import intervals_in_words, ranked_metric
from uwc.reports.records import (
    ES,
    Record,
    aggregate_of,
    all_scores,
    calibrated_forget,
    calibrated_retain,
    known,
    ordered_methods,
    reference_scores,
    unranked,
)
from uwc.reports.words import MISSING, RETRAINED_MEANING, number, setting, with_error, with_interval

AT_TAU = "at exactly tau, interpolated between the two mixtures on either side"


def split_sizes(results: Record) -> list[str]:
    """The size of each split of the benchmark, ``forget: 100 examples of 10 subjects``."""
    return [
        f"{name}: {setting(split.get('examples'))} examples"
        + (f" of {split['subjects']} subjects" if split.get("subjects") else "")
        for name, split in results["benchmark"]["splits"].items()
    ]


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
                f"{name}{unranked(method)}",
                number(aggregate_of(before, "forget", metric).get("mean")),
                number(aggregate_of(before, "retain", metric).get("mean")),
                number((method.get("at_tau") or {}).get("alpha")),
                with_interval(calibrated_forget(method, metric)),
                number(calibrated_forget(method, metric, "forget_paraphrased").get("mean")),
                number(calibrated_retain(method, metric).get("mean")),
            )
        )
    what = "model" if results["study"]["kind"] == "comparison" else "method"
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
        (f"{m['name']}{unranked(m)}", MISSING, MISSING, MISSING) for m in results["unlearned"] if m["status"] != "ok"
    ]
    caption = f"Nothing was calibrated. Intervals: 95%, bootstrap over whole subjects. retrained: {RETRAINED_MEANING}."
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
        f"(0 = original, 1 = unlearned). After: {AT_TAU}; the mixture that calibration gives keeps at least that, and "
        f"is under all scores. Intervals after calibration: {intervals_in_words(results)}."
    )
    if reference_scores(results, "retrained"):
        yield f"retrained: {RETRAINED_MEANING}."
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
