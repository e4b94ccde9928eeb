"""The ranking by calibrated forget score: how sure it is, and which neighbours cannot be told apart."""

from itertools import pairwise
from typing import Any

from uwc.reports.grid import Table
from uwc.reports.held import held_fixed, held_plainly, intervals_in_words, ranked_metric, share_kept
from uwc.reports.records import Record, aggregate_of, calibrated_forget, known, tau_of
from uwc.reports.tables import AT_TAU
from uwc.reports.words import MISSING, listed, number, with_interval

SURE = 0.975
"""A share of paired draws beyond which two methods count as told apart."""


def ranked(results: Record) -> list[dict[str, Any]]:
    """Best first, for each ranked model what the ranking rests on.

    Returns:
        rank; name; group; forget, the score at tau, with low and high, its 95 % interval through alpha; alpha at tau
        with alpha_low and alpha_high; of the mixture that calibration gives, measured: mixture (its alpha), measured
        (its forget score), retain (its score on the retain set) and share (the least share kept of what is held fixed);
        less_than_next, the share of paired draws in which it leaves less than the next model; told_apart, whether that
        share is sure. The last two are None for the last model.
    """
    metric, _ = ranked_metric(results)
    order = results["ranking"]
    records, following = {m["name"]: m for m in results["unlearned"]}, dict(pairwise(order))
    rows = []
    for rank, name in enumerate(order, start=1):
        record = records[name]
        forget, (alpha_low, alpha_high) = calibrated_forget(record, metric), record["intervals"]["alpha"]
        less = results["pairs"][name].get(following.get(name, ""))
        rows.append(
            {
                "rank": rank, "name": name, "group": record["group"], "forget": forget.get("mean"),
                "low": forget.get("low"), "high": forget.get("high"),
                "alpha": record["at_tau"]["alpha"], "alpha_low": alpha_low,
                "alpha_high": alpha_high, "mixture": record["calibration"]["alpha"],
                "measured": aggregate_of(record["after"], "forget", metric).get("mean"),
                "retain": aggregate_of(record["after"], "retain", metric).get("mean"),
                "share": share_kept(record), "less_than_next": less,
                "told_apart": None if less is None else less >= SURE,
            }
        )  # fmt: skip
    return rows


def ranking_table(results: Record) -> Table:
    """The ranking: each model's calibrated score with its interval, and whether it can be told from the next one."""
    _, label = ranked_metric(results)
    plain = held_plainly(results)
    rows = tuple(
        (
            str(row["rank"]),
            row["name"],
            with_interval({"mean": row["forget"], "low": row["low"], "high": row["high"]}),
            with_interval({"mean": row["alpha"], "low": row["alpha_low"], "high": row["alpha_high"]}),
            ", ".join(number(row[key]) for key in ("mixture", "measured", "retain" if plain else "share")),
            _against_next(row),
        )
        for row in ranked(results)
    )
    measured = f"measured: alpha, forget {label}, {f'retain {label}' if plain else 'least share kept'}"
    columns = ("rank", "model", f"forget {label} left", "alpha", measured, "less left than by the next?")
    tau = tau_of(results)
    held = "" if tau is None else f" at {tau:g} of the original's {held_fixed(results)}"
    remarks = [
        f"Ranked and compared {AT_TAU}. Measured: the mixture that calibration gives, which keeps at "
        f"least that. {_measured_otherwise(results)}".rstrip(),
        f"Intervals: {intervals_in_words(results)}.",
        f"The last column is the share of paired draws of the same questions, taken nearer to 50% for few subjects; "
        f"from {SURE:.1%} on, two are told apart.",
    ]
    return Table(f"Ranking: forget {label} left{held} (lower is better)", columns, rows, "\n".join(remarks))


def _measured_otherwise(results: Record) -> str:
    """Which neighbours of the ranking would change places by the scores of their mixtures, which keep unlike shares."""
    turned = [
        f"{second['name']} ({number(second['measured'])}) before {first['name']} ({number(first['measured'])})"
        for first, second in pairwise(ranked(results))
        if known(first["measured"]) and known(second["measured"]) and second["measured"] < first["measured"]
    ]
    return f"By these scores alone the order would be {listed(turned)}." if turned else ""


def _against_next(row: Record) -> str:
    if not known(row["less_than_next"]):
        return MISSING if row["less_than_next"] is None else ""
    return f"{'yes' if row['told_apart'] else 'not told apart'} ({row['less_than_next']:.1%})"


def indistinct(results: Record) -> str:
    """Which neighbours of the ranking cannot be told apart, as a sentence; empty where nothing was compared."""
    rows = [r for r in ranked(results) if r["told_apart"] is not None]
    if not rows:
        return ""
    runs: list[list[str]] = []
    following = dict(pairwise(results["ranking"]))
    for row in rows:
        if row["told_apart"]:
            continue
        if runs and runs[-1][-1] == row["name"]:
            runs[-1].append(following[row["name"]])
        else:
            runs.append([row["name"], following[row["name"]]])
    if not runs:
        return "Every model can be told apart from the next one in the ranking."
    return f"Neighbours that cannot be told apart: {'; '.join(listed(names) for names in runs)}."


def pairs_table(results: Record) -> Table:
    """For each two models the share of paired draws in which the row's leaves less than the column's."""
    names = results["ranking"]
    cells = [
        (a, *(MISSING if a == b else f"{results['pairs'][a][b]:.1%}" for b in names)) for a in names if len(names) > 1
    ]
    return Table(
        "Pairs", ("model", *names), tuple(cells),
        "The share of paired draws in which the row's model leaves less of the forget set than the column's, taken "
        "nearer to 50% for few subjects.",
    )  # fmt: skip


def groups_table(results: Record) -> Table:
    """Methods with several seeds: the mean, the spread between seeds and over examples, and both together."""
    _, label = ranked_metric(results)
    rows = []
    for group in results["groups"]:
        both = with_interval(group)
        rows.append(
            (
                group["name"],
                str(len(group["runs"])),
                both,
                number(group["sd_seeds"]),
                number(group["se_examples"]),
                number(group["se"]),
                _difference(group.get("next")),
            )
        )
    columns = (
        "method", "seeds", f"forget {label} left, mean over seeds", "sd between seeds", "se over examples",
        "se of the mean, both", "minus the next",
    )  # fmt: skip
    caption = (
        "sd between seeds: of the calibrated scores. se over examples: bootstrap of the mean over seeds. Both: the "
        "mean's standard error from the two sources together; the intervals are made of it (Student's t)."
    )
    return Table("Methods with several seeds", columns, tuple(rows), caption)


def _difference(found: Record | None) -> str:
    if not found:
        return MISSING
    apart = known(found["high"]) and (found["high"] < 0 or found["low"] > 0)
    text = with_interval({"mean": found["difference"], "low": found["low"], "high": found["high"]})
    return text if apart else f"{text}, not told apart"
