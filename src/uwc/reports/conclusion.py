"""What a study concludes, in sentences."""

from collections.abc import Sequence

from uwc.reports.held import held_fixed, ranked_metric
from uwc.reports.ranking import SURE
from uwc.reports.records import Record, aggregate_of, calibrated_forget, known, reference_scores, tau_of
from uwc.reports.words import RETRAINED_MEANING, listed, setting, with_interval

MOST_NAMED = 5
"""How many names a sentence holds; the tables have them all."""


def summary(results: Record) -> list[str]:
    """The conclusion in two to four sentences: who forgets most at equal retention, how sure that is, against what."""
    sentences = _best_method(results)
    compared = [
        f"the {name} model{note} scores {with_interval(es)}"
        for name, note in (("original", ""), ("retrained", f" ({RETRAINED_MEANING})"))
        if (es := aggregate_of(reference_scores(results, name), "forget", ranked_metric(results)[0]))
    ]
    if compared:
        sentences.append(f"For comparison: {listed(compared)}.")
    for status, reason in (("diverged", "Training diverged for"), ("not_finite", "Logits are not finite for")):
        if unranked := [m["name"] for m in results["unlearned"] if m["status"] == status]:
            sentences.append(f"{reason} {listed(unranked)}, which {'is' if len(unranked) == 1 else 'are'} not ranked.")
    return sentences


def _best_method(results: Record) -> list[str]:
    ranking = results["ranking"]
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
    """Which methods the best one cannot be told from, by paired draws of the same questions."""
    paired = results["pairs"][best]
    close = [f"{name} ({paired[name]:.0%} sure that it leaves less)" for name in others if paired[name] < SURE]
    if close:
        return f"It cannot be told apart from {_few(close)}."
    return "In paired draws of the same questions it leaves less than every other method."
