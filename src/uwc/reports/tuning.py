"""Tables, figures and sentences of searches for hyper-parameters."""

from collections.abc import Iterator

from matplotlib.ticker import MaxNLocator

from uwc.reports.drawing import FAINT, INK, SMALL, Drawing, cut, plain, styled, titled
from uwc.reports.figures import model_styles
from uwc.reports.format import MISSING, Table, known, listed, number, percentage, setting, stacked, with_interval
from uwc.results import FORGET, SIGNIFICANT, MetricInfo, StudyResults, Trial, Tuning, UnlearnedModel

ASCENT, PREFERENCE = ("ga", "gd", "kl"), "npo"
"""The methods that the paper compares after tuning, by name."""


def tuning_table(results: StudyResults) -> Table | None:
    """Each search: its first and its best trial, the spread of its scores, and the reported score; None without any."""
    if not results.tuning:
        return None
    rows = []
    for found in results.tuning:
        info = results.metrics.get(found.metric)
        group = next((g for g in results.groups if g.name == found.run), None)
        models = _models(results, found)
        reported = group or (models[0].residual(FORGET, found.metric) if models else None)
        pruned = len(found.trials) - len(found.finished)
        rows.append(
            (
                found.run,
                str(len(found.trials)) + (f"\n({pruned} pruned)" if pruned else ""),
                number(found.trials[0].score, info),
                number(found.best_trial.score, info),
                number(found.spread, info),
                stacked(reported, info),
                number(group.sd_seeds, info) if group else MISSING,
                _most_important(found),
                _values(found.best_trial, "\n"),
            )
        )
    label = results.metric_label(results.tuning[0].metric)
    columns = (
        "run",
        "trials",
        "first trial",
        "best trial",
        "sd over trials",
        f"residual forget {label}, other subjects",
        "sd between seeds",
        "matters most",
        "best values",
    )
    first = results.tuning[0]
    caption = (
        f"Trials are scored by residual forget {label} on {first.questions} questions about {first.subjects} subjects "
        "that are not reported. The first trial has the run's own settings. The reported score is on the other "
        "subjects, with its 95% interval over examples: only that one is free of the choice among trials.\n"
        "matters most: the hyper-parameter with the largest share of what distinguishes the best quarter of the trials "
        "(PED-ANOVA, arXiv:2304.10255), where enough trials were finished."
    )
    about = tuple(models[0].name if (models := _models(results, found)) else "" for found in results.tuning)
    shown = [i for i in range(len(columns)) if any(row[i] != MISSING for row in rows)]
    kept = tuple(tuple(row[i] for i in shown) for row in rows)
    return Table("Hyper-parameters", tuple(columns[i] for i in shown), kept, caption, about)


def trials_tables(results: StudyResults) -> list[Table]:
    """All trials of each search."""
    return [_trials_table(found, results.metrics.get(found.metric)) for found in results.tuning]


def _trials_table(found: Tuning, info: MetricInfo | None) -> Table:
    keys = list(found.space)
    rows = [
        (
            f"{trial.number + 1}{' (best)' if trial.number == found.best else ''}",
            *(_value(trial.values.get(key)) for key in keys),
            number(trial.early, info),
            "pruned" if trial.score is None else number(trial.score, info),
            number(trial.alpha),
        )
        for trial in found.trials
    ]
    space = "; ".join(f"{key}: {values}" for key, values in found.space.items())
    shares = "; ".join(f"{key} {percentage(share)}" for key, share in found.importance.items())
    caption = f"Searched: {space}." + (f"\nImportance: {shares}." if shares else "")
    columns = ("trial", *keys, "early score", "score", "alpha")
    return Table(f"Trials of {found.run}", columns, tuple(rows), caption)


@styled(10)
def _figure(results: StudyResults, found: Tuning, colour: str) -> Drawing:
    """The score of each trial, and the best so far."""
    drawing = Drawing.blank(SMALL, 200, f"Scores of the trials of {found.run}, and the best so far")
    axes = drawing.axes
    best: list[tuple[int, float]] = []
    for trial in found.trials:
        value = trial.early if trial.score is None else trial.score
        if not known(value):
            continue
        pruned = trial.score is None
        (marker,) = axes.plot(
            [trial.number + 1],
            [value],
            "x" if pruned else "o",
            color=FAINT if pruned else colour,
            markersize=6 if pruned else 5,
        )
        drawing.tip(marker, [f"trial {trial.number + 1}: {value:.3f}{', pruned' if pruned else ''}; {_values(trial)}"])
        if not pruned:
            sooner = best[-1][1] if best else value
            best.append((trial.number + 1, (min if found.higher_remembers else max)(sooner, value)))
    axes.step(*zip(*best, strict=True), where="post", color=INK, linewidth=1.4)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(cut(found.run))
    titled(axes, "x", "trial")
    titled(axes, "y", plain(f"residual forget {results.metric_label(found.metric)}"))
    return drawing


def tuning_figures(results: StudyResults) -> dict[str, Drawing]:
    """For each search the scores of its trials."""
    styles = model_styles(results)
    return {
        found.run: _figure(
            results, found, styles[models[0].name].colour if (models := _models(results, found)) else INK
        )
        for found in results.tuning
    }


def tuning_words(results: StudyResults) -> list[str]:
    """What the searches found, a sentence for each, and whether tuned ascent beats preference optimization, as in the
    paper."""
    found = []
    for each in results.tuning:
        info, first, best = results.metrics.get(each.metric), each.trials[0], each.best_trial
        gained = "its first trial" if best is first else f"from {number(first.score, info)} in the first trial"
        found.append(
            f"{each.run}: best of {len(each.trials)} trials, chosen on {each.subjects} other subjects: "
            f"{number(best.score, info)}, {gained}."
        )
    return [*found, *_against_preferences(results)]


def _against_preferences(results: StudyResults) -> Iterator[str]:
    """The paper's finding on tuned methods, compared with the ranked ones of the study; of several seeds by means."""
    tuned = {found.run: models[0] for found in results.tuning if (models := _models(results, found))}
    order = [group.name for group in results.groups] or results.ranking
    ranked = [(name, tuned[name]) for name in order if name in tuned and not tuned[name].tricks]
    ascent = [name for name, model in ranked if model.method in ASCENT]
    preferences = [name for name, model in ranked if model.method == PREFERENCE]
    if not ascent or not preferences:
        return
    best, other = ascent[0], preferences[0]
    better, how = _lower(results, best, other)
    said = {
        True: f"does so here, too ({how})",
        False: f"does not here: {other} is better ({how})",
        None: f"is not distinguishable from {other} here ({how})",
    }[better]
    names = listed(ascent)
    chosen = f"The best of {names} (a choice that no confidence here includes), {best}," if ascent[1:] else best
    yield (f"In the paper (arXiv:2406.09179), tuned methods of gradient ascent (GD, KL) beat NPO. {chosen} {said}.")


def _lower(results: StudyResults, first: str, second: str) -> tuple[bool | None, str]:
    """Whether the first method has the lower residual forget score, None if that is not significant, and by what."""
    for group in results.groups:
        if group.name == first:
            found = group.minus[second]
            better = True if found.high < 0 else False if found.low > 0 else None
            return better, f"difference {with_interval(found)} over seeds and examples"
    confidence = results.pairs.get(first, {}).get(second, float("nan"))
    if confidence >= SIGNIFICANT:
        return True, f"confidence {percentage(confidence)}"
    if confidence <= 1 - SIGNIFICANT:
        return False, f"confidence {percentage(1 - confidence)}"
    return None, f"confidence that it is better {percentage(confidence)}"


def _models(results: StudyResults, found: Tuning) -> list[UnlearnedModel]:
    """The unlearned models that have the best values of a search."""
    return [model for model in results.unlearned if found.run in (model.name, model.group)]


def _most_important(found: Tuning) -> str:
    if not found.importance:
        return MISSING
    key = max(found.importance, key=lambda name: found.importance[name])
    return f"{key}\n({percentage(found.importance[key])})"


def _values(trial: Trial, joint: str = ", ") -> str:
    return joint.join(f"{key} {_value(value)}" for key, value in trial.values.items())


def _value(value: float | int | str | bool | None) -> str:
    return f"{value:.3g}" if isinstance(value, float) else setting(value)
