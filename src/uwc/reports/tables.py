"""Tables of a study: results, ranking, frontier and training."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from pydantic import JsonValue

from uwc.progress import duration, gigabytes
from uwc.published import PublishedTable, published, published_names
from uwc.reports.format import (
    MISSING,
    NOTHING,
    NOTHING_MEANING,
    RETRAINED_KNOWS_MEANING,
    RETRAINED_MEANING,
    Table,
    intervals,
    known,
    listed,
    number,
    over_cell,
    percentage,
    retention_bar,
    setting,
    significant,
    stacked,
    with_error,
    with_interval,
)
from uwc.reports.tables_attacks import shown
from uwc.results import (
    COLLAPSE_BOUND,
    COLLAPSE_RETENTION,
    ES,
    FORGET,
    RETAIN,
    SIGNIFICANT,
    Attacks,
    Collapse,
    ComparedModel,
    CurvePoint,
    Estimate,
    Frontier,
    MeanFrontier,
    MetricInfo,
    ModelKey,
    RunRecord,
    Score,
    SeededPoint,
    StudyResults,
    TrainingRecord,
    UnlearnedModel,
    Verdict,
    find,
)

PARAPHRASED = "forget_paraphrased"
AT_TAU = "at exactly tau, interpolated between the two mixtures on either side"
STATUS = {"ok": "", "diverged": "\n(diverged)", "not_finite": "\n(logits not finite)"}
"""Follows the name of a model without a rank."""
COLLAPSED = "\n(collapsed)"


def split_sizes(results: StudyResults) -> list[str]:
    """The size of each split of the benchmark, ``forget: 100 examples of 10 subjects``."""
    return [
        f"{name}: {split.examples} examples" + (f" of {split.subjects} subjects" if split.subjects else "")
        for name, split in results.benchmark.splits.items()
    ]


def model_label(key: ModelKey) -> str:
    """The name of a model in tables of all scores."""
    return f"{key.run}, as delivered" if key.role == "unlearned" else key.label


def result_table(results: StudyResults) -> Table:
    """The main comparison: the original and the retrained model, then the unlearned ones by rank, those without a rank
    last; as delivered, and at equal retention."""
    metric, label = results.rank_by, results.metric_label(results.rank_by)
    info, compared, attacks = results.metrics.get(metric), results.compared(), results.attacks
    names = [f"{m.model.label}{STATUS[m.status]}{COLLAPSED if m.collapsed else ''}" for m in compared]
    if results.retrained_knows:
        names = [f"{name}\n(knows the answers)" if name == "retrained" else name for name in names]
    delivered = {f"forget {label}": [stacked(m.forget, info) for m in compared]}
    if results.retention is not None:
        delivered["retention"] = [stacked(m.retention) for m in compared]
    else:
        retain = (find(scores, RETAIN, metric) for scores in map(results.delivered_scores, compared))
        delivered[f"retain {label}"] = [stacked(score, info) for score in retain]
    if attacks is not None:
        seen, by = attacks.metric(), results.metrics.get(attacks.metric())
        other = "" if seen == metric else f", {results.metric_label(seen)}"
        delivered[f"worst attack{other}"] = [_attack_cell(m, by) for m in compared]
        if not results.retrained_knows and any(m.over_retrained for m in compared):
            delivered["over the retrained model"] = [over_cell(m.over_retrained, by, "\n") for m in compared]
    equal: dict[str, list[str]] = {}
    if results.retention is not None:
        equal = {
            f"residual forget {label}": [stacked(m.residual, info) for m in compared],
            "alpha": [stacked(m.alpha) for m in compared],
        }
        if len(results.ranking) > 1:
            equal["differs from the best?"] = [_verdict(m.confidence, "\n") for m in compared]
    columns = {"model": names, **delivered, **equal}
    groups = [("", 1), ("as delivered", len(delivered)), ("at equal retention", len(equal))]
    best = ", best first" if len(results.ranking) > 1 else ""
    return Table(
        f"{label[0].upper()}{label[1:]}: as delivered{' and at equal retention' if equal else ''}{best}",
        tuple(columns),
        tuple(zip(*columns.values(), strict=True)),
        "\n".join(_result_remarks(results, compared)),
        tuple(m.model.run for m in compared),
        tuple(group for group in groups if group[1]),
        residual=1 + len(delivered) if equal else None,
    )


def _mean(score: Score | None, metric: MetricInfo | None) -> str:
    return number(score.mean if score else None, metric)


def _attack_cell(model: ComparedModel, metric: MetricInfo | None) -> str:
    value, _, interval = stacked(model.under_attack, metric).partition("\n")
    return "\n".join(filter(None, [f"{value} {shown(model.attack)}".rstrip(), interval]))


def _verdict(confidence: float | None, joint: str = " ") -> str:
    """Whether a difference is significant, with the confidence."""
    return f"{'yes' if confidence >= SIGNIFICANT else 'no'}{joint}({confidence:.1%})" if known(confidence) else MISSING


def _result_remarks(results: StudyResults, compared: Sequence[ComparedModel]) -> Iterable[str]:
    if any(m.collapsed for m in compared):
        yield (
            f"collapsed: as delivered, the retain perplexity is above {COLLAPSE_BOUND:g} times the original's, or the "
            f"retention below {COLLAPSE_RETENTION:g}."
        )
    for run in results.unlearned:
        if run.status != "ok":
            yield f"{run.name} is not ranked: {run.message or 'training diverged'}."
    sizes = [f"{info.label} n = {info.examples}" for info in results.sets.values()]
    yield f"Questions scored: {'; '.join(sizes)}. Lower is better, but for retention. Intervals: 95%, over clusters."
    if results.retention is None:
        yield "Nothing was calibrated."
    else:
        measures = results.retention.measures
        least = ", the least of them" if len(measures) > 1 else ""
        yield (
            f"Retention: ratio to the original's {listed(measures)}{least}. At equal retention: interpolated to "
            f"exactly tau = {results.retention.tau:g}. alpha: weight of the unlearned model in its mixture with the "
            f"original. Intervals at equal retention: {intervals(results)}."
        )
    if len(results.ranking) > 1:
        yield "Differs from the best: with the confidence that the best model's residual score is lower."
    if results.attacks is not None:
        yield from _attack_remarks(results, results.attacks, compared)
    yield from (f"{name} left out: it needs {lacking}." for name, lacking in results.left_out.items())
    yield from _reference_remarks(results)


def _attack_remarks(results: StudyResults, attacks: Attacks, compared: Sequence[ComparedModel]) -> Iterable[str]:
    metric = attacks.metric()
    seen = [shown(attack.name) for attack in attacks.seen_by(metric)]
    over = any(m.over_retrained for m in compared)
    chosen = (
        "that with the largest difference from the retrained model under it" if over else "that with the highest score"
    )
    uncorrected = " The interval is that of the attack chosen, not corrected for the choice." if len(seen) > 1 else ""
    yield (
        f"Worst attack: of {listed(seen)}, {chosen} ({results.set_label(attacks.set)} n = {attacks.sets[attacks.set]}; "
        f"the mean over an attack's variants).{uncorrected}"
    )
    calibrated = [m.model.label for m in compared if m.attacked == "calibrated"]
    if calibrated:
        yield f"Attacked as calibrated mixtures, not as delivered: {listed(calibrated)}."
    metric_info = results.metrics.get(metric)
    if any(m.over_retrained and over_cell(m.over_retrained, metric_info).startswith(NOTHING) for m in compared):
        yield NOTHING_MEANING


def _reference_remarks(results: StudyResults) -> Iterable[str]:
    if results.retrained_knows:
        yield RETRAINED_KNOWS_MEANING
    elif results.reference("retrained"):
        yield f"retrained: {RETRAINED_MEANING}."


def metrics_table(results: StudyResults, metric: str) -> Table:
    """One metric for every model and set: mean ± standard error, with n in the column or, where it differs, the cell.

    Raises:
        KeyError: the results have no such metric.
    """
    info = results.metrics[metric]
    models = [(model_label(key), scores) for key, scores in results.scored()]
    measured = dict.fromkeys(s.set for _, scores in models for s in scores if s.metric == metric)
    sets = sorted(measured, key=lambda name: list(results.sets).index(name) if name in results.sets else len(measured))
    columns, cells = ["model"], []
    for name in sets:
        label, found = results.set_label(name), [find(scores, name, metric) for _, scores in models]
        counts = {score.n for score in found if score and score.n}
        counted = info.average != "set"
        same = counted and len(counts) == 1
        chance = {number(score.chance, info) for score in found if score and known(score.chance)}
        head = [label, f"n = {counts.pop()}" if same else "", f"chance {chance.pop()}" if len(chance) == 1 else ""]
        columns.append("\n".join(filter(None, head)))
        cells.append([_details_cell(score, info, with_count=counted and not same) for score in found])
    rows = tuple((model, *(column[i] for column in cells)) for i, (model, _) in enumerate(models))
    what = {
        "arithmetic": "Mean ± standard error",
        "geometric": "Geometric mean ± standard error",
        "set": "One number for whole sets",
    }[info.average]
    about = tuple(key.run or "" for key, _ in results.scored())
    return Table(info.label, tuple(columns), rows, f"{what}; below it the 95% interval.", about)


def _details_cell(score: Score | None, metric: MetricInfo, *, with_count: bool) -> str:
    if score is None:
        return MISSING
    interval = with_interval(score, metric).partition(" ")[2]
    count = f"n = {score.n}" if with_count else ""
    return "\n".join(filter(None, [with_error(score, metric), interval, count]))


_PUBLISHED = (FORGET, RETAIN, PARAPHRASED, "retain_paraphrased")


def published_table(results: StudyResults) -> Table | None:
    """Scores of each method, here and as published on the same benchmark.

    Of a study with model utility those of TOFU, as delivered; of others ES as delivered and calibrated.

    None where nothing was published on the benchmark that the study has or names, or of none of its methods.
    """
    benchmark = results.study.config.get("published") or results.benchmark.name
    tables = [t for t in map(published, published_names()) if t.benchmark == benchmark and "method" in t.rows[0]]
    of_tofu = [table for table in tables if UTILITY in table.rows[0]]
    if of_tofu and UTILITY in results.metrics:
        return _published_tofu(results, of_tofu[0])
    tables = [table for table in tables if RETAIN in table.rows[0]]
    tables.sort(key=lambda table: not table.name.endswith("before"))
    found = {row["method"] for table in tables for row in table.rows}
    runs = [run for run in results.by_rank() if _published_name(run) in found]
    if not runs:
        return None
    models = list(dict.fromkeys(row["model"] for table in tables for row in table.rows))
    rows: list[tuple[str, ...]] = []
    about: list[str] = []
    for run in runs:
        delivered, calibrated = _published_cells(run.scores), _published_cells(run.calibrated_scores)
        rows.append((run.name, "this study", *delivered[:2], *calibrated))
        about += [run.name, *("" for _ in models)]
        for model in models:
            before, after = (_published_row(table, _published_name(run), model) for table in tables)
            rows.append(("", model, *before[:2], *after))
    tau = results.retention.tau if results.retention else None
    remarks = [f"{table.title}: {table.source}. {table.setting}" for table in tables]
    remarks.append("Calibrated, here: the mixture itself, as measured, which is what was published.")
    remarks.append(f"This study: tau {setting(tau)}, one model of its own.")
    columns = (
        "method",
        "from",
        "forget ES, as delivered",
        "retain ES, as delivered",
        "forget ES, calibrated",
        "retain ES, calibrated",
        "forget ES, paraphrased, calibrated",
        "retain ES, paraphrased, calibrated",
    )
    return Table("Published results", columns, tuple(rows), "\n".join(remarks), tuple(about))


UTILITY = "model_utility"
_TOFU = {"forget_quality": "forget quality", UTILITY: "model utility", "truth_ratio_forget": "forget truth ratio"}
"""Metric -> its column."""


def _published_tofu(results: StudyResults, table: PublishedTable) -> Table | None:
    """Forget quality, model utility and forget truth ratio of each method as delivered, here and as published."""
    runs = [run for run in results.by_rank() if any(row["method"] == _published_name(run) for row in table.rows)]
    if not runs:
        return None
    ours: list[tuple[str, str, Sequence[Score]]] = [(m.role, m.role, m.scores) for m in results.references]
    ours += [(run.name, _published_name(run), run.scores) for run in runs]
    rows: list[tuple[str, ...]] = []
    about: list[str] = []
    for name, method, scores in ours:
        found = {score.metric: score.mean for score in scores if score.metric in _TOFU and score.set.startswith(FORGET)}
        found |= {score.metric: score.mean for score in scores if score.metric == UTILITY}
        there = [row for row in table.rows if row["method"] == method]
        rows.append((name, "this study", *(_significant(found.get(metric)) for metric in _TOFU)))
        rows += [("", row["model"], *(_significant(row[metric]) for metric in _TOFU)) for row in there]
        about += [name, *("" for _ in there)]
    remark = f"{table.title}: {table.source}. {table.setting}"
    return Table("Published results", ("method", "from", *_TOFU.values()), tuple(rows), remark, tuple(about))


def _significant(value: float | None) -> str:
    """Three significant digits, as p-values need."""
    return "—" if value is None or value != value else f"{value:.3g}"


def _published_name(run: UnlearnedModel) -> str:
    """The method of an unlearned model; of a given one, what the user calls it."""
    return (run.method or run.group or run.name).lower()


def _published_cells(scores: Sequence[Score]) -> list[str]:
    return [_mean(find(scores, name, ES), None) for name in _PUBLISHED]


def _published_row(table: PublishedTable, method: str, model: str) -> list[str]:
    row = next(r for r in table.rows if (r["method"], r["model"]) == (method, model))
    return [number(row[name]) for name in _PUBLISHED]


MOST_NAMED = 5
"""The most names in a sentence; tables have all."""


def summary(results: StudyResults) -> list[str]:
    """The conclusion in sentences: which model forgets most at equal retention, with which confidence, against what."""
    sentences = _best(results)
    info = results.metrics.get(results.rank_by)
    notes = {"retrained": f" ({RETRAINED_MEANING})"}
    if collapsed := [model.name for model in results.by_rank() if results.collapsed(model.name)]:
        sentences.insert(1, f"Collapsed as delivered, before calibration: {_few(collapsed)}.")
    compared = [
        f"the {model.role} model{notes.get(model.role, '')} scores {with_interval(score, info)}"
        for model in results.references
        if (score := find(model.scores, FORGET, results.rank_by))
        and not (model.role == "retrained" and results.retrained_knows)
    ]
    if compared:
        sentences.append(f"For comparison: {listed(compared)}.")
    for status, reason in (("diverged", "Training diverged for"), ("not_finite", "Logits are not finite for")):
        if failed := [run.name for run in results.unlearned if run.status == status]:
            sentences.append(f"{reason} {listed(failed)}, which {'is' if len(failed) == 1 else 'are'} not ranked.")
    return [*sentences, *secret_words(results)]


def secret_words(results: StudyResults) -> list[str]:
    """The secrets of the forget set that each model says, in a sentence; none if the questions have no secrets."""
    counts = {count.model: count for count in results.secrets if count.set == FORGET}
    if not counts:
        return []
    said = {key: f"{key.run or key.role} {count.said}" for key, count in counts.items() if key.role != "calibrated"}
    for key in said:
        calibrated = counts.get(ModelKey(role="calibrated", run=key.run)) if key.run else None
        said[key] += f" (calibrated {calibrated.said})" if calibrated else ""
    total = next(iter(counts.values())).secrets
    return [f"Secrets of the forget questions in the answers, of {total}: {_few(list(said.values()))}."]


def verdict_table(results: StudyResults) -> Table | None:
    """Every unlearned model as delivered under every policy, by rank; None for a study without policies."""
    found = _verdicts(results)
    rows = []
    for verdict in found:
        counts = [str(len(verdict.of_status(status))) for status in ("met", "undecided", "left out")]
        violated = ", ".join(r.name for r in verdict.of_status("violated"))
        rows.append((verdict.model.run, verdict.policy, verdict.outcome, *counts, violated or MISSING))
    if not rows:
        return None
    titles = {verdict.policy: verdict.title for verdict in results.verdicts}
    return Table(
        "Checked as delivered",
        ("model", "policy", "verdict", "met", "undecided", "left out", "violated"),
        tuple(rows),
        "\n".join(f"{policy}: {title}." for policy, title in titles.items() if title),
        tuple(verdict.model.run for verdict in found),
    )


def verdict_lines(results: StudyResults) -> list[str]:
    """The verdicts in a line a model and policy, ``npo, standard: fail: 6 met, 2 violated (retained, secrets)``."""
    lines = []
    for verdict in _verdicts(results):
        names = ", ".join(r.name for r in verdict.of_status("violated"))
        counted = verdict.counted.replace(" violated", f" violated ({names})") if names else verdict.counted
        lines.append(f"{verdict.model.run}, {verdict.policy}: {counted}")
    return lines


def _verdicts(results: StudyResults) -> list[Verdict]:
    """The verdicts, ordered by the rank of their models."""
    return [v for run in results.by_rank() for v in results.verdicts if v.model.run == run.name]


def _best(results: StudyResults) -> list[str]:
    if results.retention is None:
        return ["Nothing was calibrated, so the methods are shown as they are, and not ranked."]
    ranked = results.ranked()
    if not ranked:
        return ["No method reached a calibrated score."]
    best, others = ranked[0], ranked[1:]
    score = results.run(best.name).residual(FORGET, results.rank_by)
    count = f", n = {score.n}" if score else ""
    sentences = [
        f"{best.name}{', which collapsed as delivered,' if results.collapsed(best.name) else ''} has "
        f"{'the lowest' if others else 'a'} residual forget {results.metric_label(results.rank_by)} at equal retention "
        f"({retention_bar(results)}){':' if others else ' of'} "
        f"{with_interval(best.forget, results.metrics.get(results.rank_by))}{count}; lower is better."
    ]
    if not others:
        return sentences
    if not all(known(end) for model in ranked for end in (model.forget.low, model.forget.high)):
        doubt = "Not every method has an interval, which takes two clusters or more, so small differences mean little."
        return [*sentences, doubt]
    return [*sentences, _against_others(results, best.name, [model.name for model in others])]


def _against_others(results: StudyResults, best: str, others: Sequence[str]) -> str:
    """The methods that are not significantly worse than the best one, by paired draws of the same questions."""
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
    """The ranking: each model's residual score with its interval, and whether it differs from the next one's; without
    rows where fewer than two models have a residual score."""
    ranked = results.ranked() if len(results.ranking) > 1 else []
    label, info = results.metric_label(results.rank_by), results.metrics.get(results.rank_by)
    rows = tuple(
        (
            str(model.rank),
            model.name,
            with_interval(model.forget, info),
            _mean(results.run(model.name).residual(PARAPHRASED, results.rank_by), info),
            with_interval(model.alpha),
            number(model.retention),
            ", ".join(
                (number(model.mixture_alpha), number(model.mixture_forget, info), number(model.mixture_retention))
            ),
            _verdict(model.confidence),
        )
        for model in ranked
    )
    columns = (
        "rank",
        "model",
        f"residual forget {label}",
        f"residual forget {label}, paraphrased",
        "alpha",
        "retention",
        f"calibrated mixture: alpha, forget {label}, retention",
        "significantly lower than the next?",
    )
    remarks = [
        f"Ranked and compared {AT_TAU}. The calibrated mixture was measured; its retention is at least tau. "
        f"{_order_of_mixtures(results)}".rstrip(),
        f"Intervals: {intervals(results)}.",
        "The last column has the confidence: the share of paired draws of the same questions in which the model's "
        f"score is below the next one's, shrunk towards 50% for few clusters; significant from {SIGNIFICANT:.1%}.",
    ]
    bar = f" at {retention_bar(results)}" if results.retention else ""
    title = f"Ranking: residual forget {label}{bar} (lower is better)"
    return Table(title, columns, rows, "\n".join(remarks), tuple(model.name for model in ranked), residual=2)


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
    """For each two models the confidence that the row's has the lower residual forget score."""
    names = results.ranking
    rows = tuple((a, *(percentage(results.pairs[a].get(b)) for b in names)) for a in names if len(names) > 1)
    caption = (
        "Confidence that the row's model has a lower residual forget score than the column's: the share of paired "
        "draws, shrunk towards 50% for few clusters."
    )
    return Table("Pairs", ("model", *names), rows, caption, names if rows else ())


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


SHOWN = (0.9, 0.8, 0.6, 0.4)
ROUNDING = 1e-12
"""Scores that are nearer than this are equal."""


def frontiers(results: StudyResults, name: str = FORGET) -> list[tuple[UnlearnedModel, Frontier]]:
    """The models with a frontier of the set `name`, by rank."""
    return [
        (run, run.calibration.frontier[name])
        for run in results.by_rank()
        if run.calibration and name in run.calibration.frontier
    ]


def probed_sets(results: StudyResults) -> list[str]:
    """The forget sets with a frontier of every calibrated model: as asked and, where given, paraphrased."""
    count = len(frontiers(results))
    return [name for name in (FORGET, PARAPHRASED) if count and len(frontiers(results, name)) == count]


@dataclass(frozen=True)
class Curve:
    """The tau curve of one method: of its one run, or the mean over its runs with several seeds."""

    name: str
    runs: tuple[tuple[str, Frontier], ...]
    found: Frontier | MeanFrontier

    @property
    def averaged(self) -> bool:
        """Whether it is a mean over several runs."""
        return len(self.runs) > 1

    @property
    def points(self) -> Sequence[CurvePoint | SeededPoint]:
        """Its points, by tau."""
        return self.found.curve

    @property
    def scores(self) -> list[float]:
        """The residual score at each of them."""
        return [p.value if isinstance(p, CurvePoint) else p.mean for p in self.points]

    @property
    def area(self) -> str:
        """Its area as text, with the standard deviation between seeds."""
        return number(self.found.area) + (_spread(self.found.area_sd) if isinstance(self.found, MeanFrontier) else "")

    def at(self, tau: float, metric: MetricInfo | None) -> str:
        """The score at one of the curve's tau as text, with its interval and the deviation between seeds."""
        point = next((point for point in self.points if point.tau == tau), None)
        if point is None:
            return MISSING
        return with_interval(point, metric) + (_spread(point.sd_seeds) if isinstance(point, SeededPoint) else "")


def curves(results: StudyResults, name: str = FORGET, *, single: bool = False) -> list[Curve]:
    """The curves of the set `name`, best first: one for a method with several seeds, or one a run if `single`."""
    probed = {run.name: frontier for run, frontier in frontiers(results, name)}
    groups = [] if single else [group for group in results.groups if name in group.frontier]
    if not groups:
        return [Curve(run, ((run, frontier),), frontier) for run, frontier in probed.items()]
    return [Curve(g.name, tuple((run, probed[run]) for run in g.runs), g.frontier[name]) for g in groups]


def _spread(sd: float) -> str:
    """The standard deviation between seeds, as it follows a mean over them."""
    return f"\nsd {number(sd)}" if known(sd) else ""


def tau_table(results: StudyResults, *, single: bool = False) -> Table:
    """The residual forget score at some tau with its interval, and the area of the whole curve: one row a method, or a
    run if `single`."""
    label, info = results.metric_label(results.rank_by), results.metrics.get(results.rank_by)
    paraphrased = {curve.name: curve.area for curve in curves(results, PARAPHRASED, single=single)}
    drawn, rows = curves(results, single=single), []
    for curve in drawn:
        scores = [curve.at(tau, info) for tau in SHOWN]
        rows.append((curve.name, *scores, curve.area, paraphrased.get(curve.name, MISSING)))
    remarks = [
        f"Scores between two probed mixtures are interpolated. Intervals: {intervals(results)}.",
        f"area: the mean of the residual forget {label} over tau from 0 to 1; it needs no tau (lower is better).",
    ]
    if any(curve.averaged for curve in drawn):
        remarks.append(
            "Of a method with several seeds: the mean over them, its interval from both sources (Student's t), and sd, "
            "the standard deviation between seeds."
        )
    title = f"Residual forget {label} over tau" + (", every run" if single else "")
    columns = ("run" if single else "method", *(f"at tau {setting(t)}" for t in SHOWN), "area", "area, paraphrased")
    return Table(title, columns, tuple(rows), "\n".join(remarks), tuple(curve.runs[0][0] for curve in drawn))


def runs_tau_table(results: StudyResults) -> Table | None:
    """The same for every run, where methods have several; None where the other table has all."""
    return tau_table(results, single=True) if any(curve.averaged for curve in curves(results)) else None


def tau_words(results: StudyResults) -> list[str]:
    """The tau curve in words: the methods with the lowest scores, and the areas; for each set that was probed."""
    sentences = []
    for name in probed_sets(results):
        label, drawn = results.set_label(name), curves(results, name)
        if where := winners(results, name):
            sentences.append(f"{label[0].upper()}{label[1:]}: {where[0].lower()}{where[1:]}")
        by_area = sorted(drawn, key=lambda curve: (curve.found.area, curve.name))
        areas = [f"{curve.name} {curve.area.replace(chr(10), ', ')}" for curve in by_area]
        joined = ("; " if any(curve.averaged for curve in drawn) else ", ").join(areas)
        sentences.append(f"Area under the curve of {label}, over all tau from 0 to 1: {joined}.")
    return sentences


def winners(results: StudyResults, name: str = FORGET) -> str:
    """The method with the lowest score in each range of tau, as a sentence; empty if there is only one."""
    drawn = curves(results, name)
    if len(drawn) < 2:
        return ""
    scores = {curve.name: curve.scores for curve in drawn}
    taus = [point.tau for point in drawn[0].points]
    best = [(tau, _least({method: values[i] for method, values in scores.items()})) for i, tau in enumerate(taus)]
    ranges = []
    for methods, group in groupby(best, key=lambda pair: pair[1]):
        inside = [tau for tau, _ in group]
        where = f"for tau from {inside[0]:g} to {inside[-1]:g}" if len(inside) > 1 else f"at tau {inside[0]:g}"
        ranges.append(f"{listed(methods)} {where}")
    return f"The lowest residual score is that of {', '.join(ranges)}."


def _least(scores: Mapping[str, float]) -> list[str]:
    """The methods with the least score; several where they are equal."""
    least = min(scores.values())
    return [name for name, score in scores.items() if score - least <= ROUNDING]


def methods_table(results: StudyResults) -> Table:
    """The method of each unlearned model: summary, loss and source; for given models the path."""
    unlearned = results.by_rank()
    models = tuple(run.name for run in unlearned)
    if all(run.checkpoint for run in unlearned):
        given = tuple((run.name, str(run.checkpoint)) for run in unlearned)
        return Table("Given models", ("model", "checkpoint"), given, models=models)
    rows = tuple((run.name, run.summary or MISSING, run.formula or MISSING, run.source or MISSING) for run in unlearned)
    return Table("Methods", ("method", "summary", "loss", "source"), rows, models=models)


def settings_table(results: StudyResults) -> Table:
    """The settings that differ between the methods, a column each; the caption has those that are the same."""
    given = {
        run.name: {**run.settings, **_prefixed("rule", run.rule), **_prefixed("trick", run.tricks)}
        for run in results.by_rank()
    }
    keys = dict.fromkeys(key for settings in given.values() for key in settings)
    values = {key: [setting(settings.get(key)) for settings in given.values()] for key in keys}
    varying = [key for key in keys if len(set(values[key])) > 1]
    rows = tuple((name, *(values[key][i] for key in varying)) for i, name in enumerate(given))
    first = next(iter(given.values()), {})
    plain = [k for k in keys if k not in varying and first.get(k) is not None and not isinstance(first[k], Mapping)]
    same = ", ".join(f"{key} = {values[key][0]}" for key in plain)
    caption = f"The same for all methods: {same}; the configuration below has the rest." if same else ""
    if not varying:
        return Table("Training settings", ("method",), (), caption)
    return Table("Training settings", ("method", *varying), rows, caption, tuple(given))


def _prefixed(kind: str, settings: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    return {f"{kind}: {name}": value for name, value in settings.items()}


def trained(results: StudyResults) -> list[tuple[str, TrainingRecord]]:
    """Name and record of the models whose training left a log, by rank; those that diverged come last."""
    return [(run.name, run.training) for run in results.by_rank() if run.training and run.training.log.step]


def training_table(results: StudyResults) -> Table:
    """Steps, loss, largest gradient, retain perplexity and end of each training."""
    rows = []
    for name, training in trained(results):
        log, collapse, reason = training.log, training.collapse, results.collapsed(name)
        norms = [value for value in log.gradient_norm if known(value)]
        rows.append(
            (
                name,
                str(training.steps),
                _short(log.loss[0] if log.loss else None),
                _short(log.loss[-1] if log.loss else None),
                _short(max(norms, default=None)),
                *_perplexities(collapse),
                _ending(training, reason),
            )
        )
    caption = "PPL: perplexity per answer token on the retain set, of the original and as delivered."
    columns = (
        "method",
        "steps",
        "loss, first step",
        "loss, last step",
        "largest gradient norm",
        "retain PPL before",
        "retain PPL after",
        "end",
    )
    return Table("Training", columns, tuple(rows), caption, tuple(name for name, _ in trained(results)))


def _perplexities(collapse: Collapse | None) -> tuple[str, str]:
    if collapse is None:
        return MISSING, MISSING
    before, after = (significant(v) if known(v) else "∞" for v in (collapse.before, collapse.after))
    return before, after


def _ending(training: TrainingRecord, collapsed: str) -> str:
    endings = []
    if training.stopped is not None:
        score = training.scores.score[-1] if training.scores and training.scores.score else None
        endings.append(f"stopped early after step {training.stopped}, at a score of {number(score)}")
    if training.diverged is not None:
        endings.append(f"diverged at step {training.diverged}")
    if collapsed:
        endings.append(f"collapsed: {collapsed}")
    return "; ".join(endings) or "complete"


def _short(value: float | None) -> str:
    return f"{value:.3g}" if known(value) else MISSING


def steps_table(run: RunRecord) -> Table:
    """The steps of the run: time and memory of each when it was computed, and whether it was taken from the cache."""
    rows = tuple(
        (
            step.name,
            duration(step.seconds) if known(step.seconds) else MISSING,
            MISSING if step.peak_bytes is None else gigabytes(step.peak_bytes),
            "reused" if step.reused else "computed",
            step.key[:16],
        )
        for step in run.steps
    )
    spent = sum(step.seconds for step in run.steps if not step.reused and known(step.seconds))
    caption = (
        f"Computed in this run: {duration(spent)}. Memory: the most in use at once, of the process with all that it "
        "holds, or of the CUDA device. A reused step was taken from the cache, by its key, of which 16 digits are "
        "shown."
    )
    return Table("Steps", ("step", "time", "memory", "this run", "key"), rows, caption)
