"""The ranking by residual forget score, as tables and in words: which differences are significant."""

from collections.abc import Sequence
from itertools import pairwise

from uwc.reports.format import (
    MISSING,
    RETRAINED_MEANING,
    Table,
    intervals,
    known,
    listed,
    number,
    percentage,
    retention_bar,
    with_interval,
)
from uwc.reports.tables_results import AT_TAU
from uwc.results import FORGET, SIGNIFICANT, Estimate, RankedModel, StudyResults, find

MOST_NAMED = 5
"""How many names a sentence holds; the tables have them all."""


def summary(results: StudyResults) -> list[str]:
    """The conclusion in sentences: which model forgets most at equal retention, with which confidence, against what."""
    sentences = _best(results)
    info = results.metrics.get(results.rank_by)
    notes = {"retrained": f" ({RETRAINED_MEANING})"}
    compared = [
        f"the {model.role} model{notes.get(model.role, '')} scores {with_interval(score, info)}"
        for model in results.references
        if (score := find(model.scores, FORGET, results.rank_by))
    ]
    if compared:
        sentences.append(f"For comparison: {listed(compared)}.")
    for status, reason in (("diverged", "Training diverged for"), ("not_finite", "Logits are not finite for")):
        if failed := [run.name for run in results.unlearned if run.status == status]:
            sentences.append(f"{reason} {listed(failed)}, which {'is' if len(failed) == 1 else 'are'} not ranked.")
    return sentences


def _best(results: StudyResults) -> list[str]:
    if results.retention is None:
        return ["Nothing was calibrated, so the methods are shown as they are, and not ranked."]
    ranked = results.ranked()
    if not ranked:
        return ["No method reached a calibrated score, so there is nothing to rank."]
    best, others = ranked[0], ranked[1:]
    score = results.run(best.name).residual(FORGET, results.rank_by)
    count = f", n = {score.n}" if score else ""
    sentences = [
        f"{best.name} has the lowest residual forget {results.metric_label(results.rank_by)} at equal retention "
        f"({retention_bar(results)}): {with_interval(best.forget, results.metrics.get(results.rank_by))}{count}; "
        "lower is better."
    ]
    if not others:
        return sentences
    if not all(known(end) for model in ranked for end in (model.forget.low, model.forget.high)):
        doubt = "Not every method has an interval (that takes two clusters or more), so do not trust small differences."
        return [*sentences, doubt]
    return [*sentences, _against_others(results, best.name, [model.name for model in others])]


def _against_others(results: StudyResults, best: str, others: Sequence[str]) -> str:
    """From which methods the best one does not differ significantly, by paired draws of the same questions."""
    confidence = results.pairs[best]
    close = [f"{name} (confidence {confidence[name]:.0%})" for name in others if not confidence[name] >= SIGNIFICANT]
    if close:
        return f"It is not significantly better than {_few(close)}."
    return "In paired draws of the same questions it is significantly better than every other method."


def _few(names: Sequence[str]) -> str:
    """The first names of a long list in a sentence, and how many more there are."""
    hidden = len(names) - MOST_NAMED
    return listed([*names[:MOST_NAMED], f"{hidden} more"] if hidden > 1 else names)


def ranking_table(results: StudyResults) -> Table:
    """The ranking: each model's residual score with its interval, and whether it differs from the next one's."""
    label, info = results.metric_label(results.rank_by), results.metrics.get(results.rank_by)
    rows = tuple(
        (
            str(model.rank),
            model.name,
            with_interval(model.forget, info),
            with_interval(model.alpha),
            number(model.retention),
            ", ".join(
                (number(model.mixture_alpha), number(model.mixture_forget, info), number(model.mixture_retention))
            ),
            _against_next(model),
        )
        for model in results.ranked()
    )
    columns = (
        "rank",
        "model",
        f"residual forget {label}",
        "alpha",
        "retention",
        f"calibrated mixture: alpha, forget {label}, retention",
        "significantly less than the next?",
    )
    remarks = [
        f"Ranked and compared {AT_TAU}. The calibrated mixture has been measured, and keeps at least tau. "
        f"{_order_of_mixtures(results)}".rstrip(),
        f"Intervals: {intervals(results)}.",
        "The last column has the confidence: the share of paired draws of the same questions in which the model's "
        f"score is below the next one's, shrunk towards 50% for few clusters; significant from {SIGNIFICANT:.1%}.",
    ]
    bar = f" at {retention_bar(results)}" if results.retention else ""
    return Table(f"Ranking: residual forget {label}{bar} (lower is better)", columns, rows, "\n".join(remarks))


def _order_of_mixtures(results: StudyResults) -> str:
    """Which neighbours of the ranking would change places by the scores of their mixtures, whose retentions differ."""
    info = results.metrics.get(results.rank_by)
    turned = [
        f"{second.name} ({number(second.mixture_forget, info)}) before "
        f"{first.name} ({number(first.mixture_forget, info)})"
        for first, second in pairwise(results.ranked())
        if second.mixture_forget < first.mixture_forget
    ]
    return f"By the mixtures' scores the order would be {listed(turned)}." if turned else ""


def _against_next(model: RankedModel) -> str:
    if model.significant is None:
        return MISSING
    return f"{'yes' if model.significant else 'no'} ({percentage(model.confidence)})"


def indistinct(results: StudyResults) -> str:
    """Which neighbours of the ranking do not differ significantly, as a sentence; empty where nothing was compared."""
    compared = [(model, after) for model, after in pairwise(results.ranked()) if model.significant is not None]
    close: list[list[str]] = []
    for model, after in compared:
        if model.significant:
            continue
        if close and close[-1][-1] == model.name:
            close[-1].append(after.name)
        else:
            close.append([model.name, after.name])
    if not compared:
        return ""
    if not close:
        return "Every model differs significantly from the next one in the ranking."
    return f"Neighbours that do not differ significantly: {'; '.join(map(listed, close))}."


def pairs_table(results: StudyResults) -> Table:
    """For each two models the confidence that the row's leaves less than the column's."""
    names = results.ranking
    rows = tuple((a, *(percentage(results.pairs[a].get(b)) for b in names)) for a in names if len(names) > 1)
    caption = (
        "Confidence that the row's model leaves less of the forget set than the column's: the share of paired draws, "
        "shrunk towards 50% for few clusters."
    )
    return Table("Pairs", ("model", *names), rows, caption)


def groups_table(results: StudyResults) -> Table:
    """Methods with several seeds: the mean, the spread between seeds and over examples, and both together."""
    label, info = results.metric_label(results.rank_by), results.metrics.get(results.rank_by)
    rows = tuple(
        (
            group.name,
            str(len(group.runs)),
            with_interval(group, info),
            number(group.sd_seeds, info),
            number(group.se_examples, info),
            number(group.se, info),
            _minus_next(group.next),
        )
        for group in results.groups
    )
    columns = (
        "method",
        "seeds",
        f"residual forget {label}, mean over seeds",
        "sd between seeds",
        "se over examples",
        "se of the mean, both",
        "minus the next",
    )
    caption = (
        "sd between seeds: of the residual scores. se over examples: bootstrap of the mean over seeds. Both: the "
        "mean's standard error from the two sources together; the intervals are made of it (Student's t)."
    )
    return Table("Methods with several seeds", columns, rows, caption)


def _minus_next(found: Estimate | None) -> str:
    if found is None:
        return MISSING
    significant = found.high < 0 or found.low > 0
    return with_interval(found) if significant else f"{with_interval(found)}, not significant"
