"""Tables of attacks, and of the robustness of metrics."""

from collections.abc import Iterator, Mapping, Sequence

from uwc.errors import printable
from uwc.reports.format import (
    MISSING,
    NOTHING,
    NOTHING_MEANING,
    RETRAINED_KNOWS_MEANING,
    Table,
    average,
    change,
    difference,
    known,
    listed,
    number,
    over_cell,
    with_interval,
)
from uwc.results import (
    ES,
    FORGET,
    Aggregate,
    AttackedModel,
    AttackOutcome,
    Attacks,
    Cell,
    Difference,
    Estimate,
    MetricInfo,
    Robustness,
    StudyResults,
)

Column = tuple[str, str]
"""An attack, and "mean" or "worst case" where one of its outcomes has several variants, else ""."""
WORST = "worst case"
OWN = "full"
"""The precision in which a model is loaded, in tables."""


def shown(attack: str) -> str:
    """An attack's name, with spaces where a narrow column may break it."""
    return attack.replace("_", " ").replace("+", " + ")


def method_of_runs(results: StudyResults) -> dict[str, str]:
    """Run -> its method. Where runs of one method have different losses, each with its seeds is a method of its own."""
    losses: dict[str, set[str]] = {}
    for run in results.unlearned:
        losses.setdefault(run.method, set()).add(run.formula)
    return {
        run.name: run.method if run.method and len(losses[run.method]) == 1 else run.group or run.name
        for run in results.unlearned
    }


class _Shown:
    """The outcomes of a study's attacks on one set, forget where it was attacked, by one metric."""

    def __init__(self, results: StudyResults, metric: str | None = None) -> None:
        attacks = _attacks(results)
        self.attacks = attacks
        self.metric = metric or attacks.metric()
        self.infos = attacks.seen_by(self.metric)
        self.set = attacks.set
        self.compared = not results.retrained_knows
        self.info: MetricInfo | None = results.metrics.get(self.metric)
        self.label, self.set_label = results.metric_label(self.metric), results.set_label(self.set)
        self.geometric = self.info is not None and self.info.average == "geometric"

    def outcome(self, model: AttackedModel, attack: str) -> AttackOutcome | None:
        return model.outcome(attack, self.set, self.metric)

    def before(self, model: AttackedModel) -> Aggregate | None:
        found = (self.outcome(model, attack.name) for attack in self.infos)
        return next((outcome.before for outcome in found if outcome), None)

    def columns(self) -> list[Column]:
        columns = []
        for attack in self.infos:
            outcomes = [self.outcome(model, attack.name) for model in self.attacks.models]
            several = any(outcome and outcome.worst_case for outcome in outcomes)
            columns += [(attack.name, which) for which in (("mean", WORST) if several else ("",))]
        return columns

    def over(self, outcome: AttackOutcome, which: str) -> Difference | None:
        """The difference from the retrained model under the same attack; None if that means nothing."""
        over = outcome.worst_case_over_control if which == WORST else outcome.over_control
        return over if self.compared else None

    def average(self, values: Sequence[float]) -> str:
        return number(average(values, geometric=self.geometric), self.info)


def _title(column: Column) -> str:
    return ", ".join(filter(None, (shown(column[0]), column[1])))


def _attacks(results: StudyResults) -> Attacks:
    """The attacks, with the unlearned models by rank, then the original and retrained."""
    if results.attacks is None:
        raise ValueError("the results have no attacks")
    place = {run.name: i for i, run in enumerate(results.by_rank())}
    models = sorted(results.attacks.models, key=lambda model: place.get(model.model.run, len(place)))
    return results.attacks.model_copy(update={"models": tuple(models)})


def _by_metric(results: StudyResults) -> list[_Shown]:
    """The outcomes by the metric that tables show, then those of attacks that it cannot see, by another metric."""
    attacks = _attacks(results)
    others = [attacks.metric(attack) for attack in attacks.attacks]
    return [_Shown(results, metric) for metric in dict.fromkeys((attacks.metric(), *others))]


def recovery_tables(results: StudyResults) -> list[Table]:
    """For each method (averaged over its runs), the original and retrained: the score before and under each attack.

    A table by extraction strength; attacks that it cannot see have one by another metric.

    Raises:
        ValueError: the results have no attacks.
    """
    return [_recovery_table(results, found) for found in _by_metric(results)]


def _recovery_table(results: StudyResults, found: _Shown) -> Table:
    columns = found.columns()
    rows = []
    for name, models in _grouped(results, found.attacks).items():
        before = found.average([b.mean for b in map(found.before, models) if b])
        rows.append((name, before, *(_recovery_cell(found, models, column) for column in columns)))
    title = f"{found.label} on the {found.set_label} set under attack"
    if any("\n(" in cell for row in rows for cell in row[2:]):
        title += " (below, in brackets: over retrained)"
    titles = map(_title, columns)
    remarks = list(_recovery_remarks(found))
    if any(f"({NOTHING})" in cell for row in rows for cell in row):
        remarks.append(NOTHING_MEANING)
    return Table(title, ("model", "before", *titles), tuple(rows), "\n".join(remarks))


def recovery_words(results: StudyResults) -> list[str]:
    """Which attack recovers most from which unlearned model, beyond its recovery from the retrained model."""
    found = _Shown(results)
    over = [
        (gap.excess(found.info), gap, model.model.label, attack.name)
        for model in found.attacks.models
        if model.model.role == "unlearned"
        for attack in found.infos
        if (outcome := found.outcome(model, attack.name)) and (gap := found.over(outcome, ""))
    ]
    over = [row for row in over if known(row[0].value)]
    if not over:
        return []
    excess, most, name, attack = max(over, key=lambda row: row[0].value)
    against = f"{found.label} {difference(most)} against retrained under the same attack"
    if excess.value <= 0:
        return [f"Attacks recover nothing beyond the retrained model; the most is {attack} from {name}: {against}."]
    doubt = ", which is not significant" if excess.low <= 0 else ""
    return [f"The largest recovery beyond the retrained model's is that of {attack} from {name}: {against}{doubt}."]


def runs_table(results: StudyResults) -> Table:
    """Every attacked model by itself: the score before and under each attack, the recovery, the excess over retrained,
    with intervals."""
    rows = [
        _run_row(found, model, column)
        for model in _attacks(results).models
        for found in _by_metric(results)
        for column in found.columns()
    ]
    columns = ("model", "attack", "metric", "before", "after", "recovery", "over retrained", "n")
    remarks = ["recovery: after against before, paired. 95% intervals, bootstrap over clusters."]
    remarks += [f"{printable(finding)}." for finding in _attacks(results).findings()]
    if any(row[6].startswith(NOTHING) for row in rows):
        remarks.append(NOTHING_MEANING)
    return Table("Every model under every attack", columns, tuple(rows), "\n".join(remarks))


def _run_row(found: _Shown, model: AttackedModel, column: Column) -> tuple[str, ...]:
    attack, which = column
    outcome = found.outcome(model, attack)
    first = model.model.label, _title(column), found.label
    if outcome is None:
        return (*first, MISSING, model.failed.get(attack, MISSING), MISSING, MISSING, MISSING)
    after = _after(outcome, which)
    return (
        *first,
        with_interval(outcome.before, found.info),
        with_interval(after, found.info),
        MISSING if which == WORST else difference(outcome.recovery),
        over_cell(found.over(outcome, which), found.info),
        str(after.n),
    )


def precision_table(results: StudyResults) -> Table | None:
    """Every attacked model in each precision in which it may be deployed: score, difference from its own precision and
    from retrained in the same one; None if no attack is a precision."""
    if results.attacks is None or not any(attack.precision for attack in results.attacks.attacks):
        return None
    found, rows = _Shown(results), list[tuple[str, ...]]()
    for model in found.attacks.models:
        rounded = [attack for attack in found.infos if attack.precision]
        outcomes = {attack.precision: found.outcome(model, attack.name) for attack in rounded}
        before = next((outcome.before for outcome in outcomes.values() if outcome), None)
        if before is not None:
            rows.append((model.model.label, OWN, with_interval(before, found.info), MISSING, MISSING, str(before.n)))
        for attack in rounded:
            outcome = outcomes[attack.precision]
            first = model.model.label, attack.precision or ""
            if outcome is None:
                rows.append((*first, model.failed.get(attack.name, MISSING), MISSING, MISSING, MISSING))
                continue
            over = over_cell(found.over(outcome, ""), found.info)
            score = with_interval(outcome.after, found.info)
            rows.append((*first, score, difference(outcome.recovery), over, str(outcome.after.n)))
    title = f"{found.label} on the {found.set_label} set as deployed"
    remarks = [
        f"{OWN}: as loaded. difference: from that, paired by question. 95% intervals, bootstrap over clusters. over "
        "retrained: from the retrained model in the same precision."
    ]
    if any(row[4].startswith(NOTHING) for row in rows):
        remarks.append(NOTHING_MEANING)
    columns = ("model", "precision", found.label, "difference", "over retrained", "n")
    return Table(title, columns, tuple(rows), "\n".join(remarks))


def budget_table(results: StudyResults) -> Table | None:
    """The score at each budget of the attacks that were scored at several; None where there is none."""
    found = _Shown(results)
    rows: list[tuple[str, str, float, Mapping[float, list[float]]]] = []
    for model in found.attacks.models:
        for attack in found.infos:
            outcome = found.outcome(model, attack.name)
            if outcome is None or not any(settings.get("budgets") for settings in attack.settings.values()):
                continue
            by_effort: dict[float, list[float]] = {}
            for variant in outcome.variants:
                if variant.effort is not None:
                    by_effort.setdefault(variant.effort, []).append(variant.mean)
            rows.append((model.model.label, attack.name, outcome.before.mean, by_effort))
    efforts = sorted({effort for *_, at in rows for effort in at})
    if not efforts:
        return None
    cells = tuple(
        (name, attack, number(before, found.info), *(found.average(at.get(effort, [])) for effort in efforts))
        for name, attack, before, at in rows
    )
    columns = ("model", "attack", "0", *(f"{effort:g}" for effort in efforts))
    return Table(f"{found.label} on the {found.set_label} set over the attacker's effort (steps)", columns, cells)


def _grouped(results: StudyResults, attacks: Attacks) -> dict[str, list[AttackedModel]]:
    """Name of a row -> the models that it averages: the runs of one method, either as delivered or calibrated."""
    methods = method_of_runs(results)
    groups: dict[tuple[str, str], list[AttackedModel]] = {}
    for model in attacks.models:
        if model.outcomes:
            key = model.model.role, methods.get(model.model.run, model.model.run)
            groups.setdefault(key, []).append(model)
    return {_row_name(method, models): models for (_, method), models in groups.items()}


def _row_name(method: str, models: Sequence[AttackedModel]) -> str:
    first = models[0].model
    if len(models) == 1:
        return first.label
    return f"{method}{', calibrated' if first.role == 'calibrated' else ''} ({len(models)} runs)"


def _after(outcome: AttackOutcome, which: str) -> Aggregate:
    return outcome.worst_case if which == WORST and outcome.worst_case else outcome.after


def _recovery_cell(found: _Shown, models: Sequence[AttackedModel], column: Column) -> str:
    attack, which = column
    outcomes = [outcome for model in models if (outcome := found.outcome(model, attack))]
    if not outcomes:
        return MISSING
    after = found.average([_after(outcome, which).mean for outcome in outcomes])
    over = [o for outcome in outcomes if (o := found.over(outcome, which)) and known(o.mean)]
    if not over or models[0].model.role == "retrained":
        return after
    kind = over[0].kind
    mean = average([o.mean for o in over], geometric=kind == "ratio")
    nothing = over[0].model_copy(update={"mean": mean}).excess(found.info).value <= 0
    return f"{after}\n({NOTHING if nothing else change(mean, kind)})"


def _recovery_remarks(found: _Shown) -> Iterator[str]:
    attacks = found.attacks
    names = {"train": "other forget"}
    has = [f"{count} {names.get(part, part)}" for part, count in attacks.attacker.items() if count]
    if found.metric == attacks.metric():
        yield (
            f"Scored: {attacks.sets[found.set]} questions about subjects that the attacker does not have. "
            f"The attacker has {listed(has) or 'no'} examples."
        )
    if any(which for _, which in found.columns()):
        yield (
            f"mean, {WORST}: over an attack's variants (templates, depths). The {WORST} takes the worst variant for "
            "each question, which no attacker can know: an upper bound."
        )
    taught = [attack.name for attack in found.infos if attack.trains_on_scored]
    if taught and found.compared:
        yield f"{listed(taught)}: the attacker also trains on scored answers; only the excess over retrained is a leak."
    if not found.compared:
        yield RETRAINED_KNOWS_MEANING
    elif not any(model.model.role == "retrained" for model in attacks.models):
        yield "No retrained model was attacked, so it is unknown what an attack elicits from a model that never knew."


WEIGHTS = {False: "Attacks that do not change the weights", True: "Attacks that change the weights"}


def ranking_tables(results: StudyResults) -> list[Table]:
    """The metrics by mean PCC: under attacks that do not change the weights, and under those that do."""
    found, tables = _robustness(results), []
    for touches, title in WEIGHTS.items():
        raw = {rank.metric: rank.pcc for rank in found.without_logarithms if rank.touches_weights == touches}
        rows = tuple(
            (
                str(rank.place),
                results.metric_label(rank.metric),
                number(rank.pcc),
                number(rank.worst),
                number(rank.distance_from_one),
                number(raw.get(rank.metric)),
                f"{rank.cells - rank.missing} of {rank.cells}",
            )
            for rank in found.ranking
            if rank.touches_weights == touches
        )
        columns = (
            "place",
            "metric",
            "mean PCC",
            "lowest PCC",
            "mean |slope - 1|",
            "mean PCC without logarithms",
            "PCC exists in",
        )
        tables += [Table(title, columns, rows)] if rows else []
    return tables


def pcc_table(results: StudyResults) -> Table:
    """PCC of each metric under each attack, retain / forget, with the published ones below where there are any."""
    found = _robustness(results).cells
    cells = {(cell.metric, cell.attack, cell.split): cell for cell in found}
    metrics = list(dict.fromkeys(cell.metric for cell in found))
    attacks = _attack_names(results)
    splits = [name for name in ("retain", FORGET) if any(cell.split == name for cell in found)]
    rows = []
    for metric in metrics:
        at = [[cells.get((metric, attack, split)) for split in splits] for attack in attacks]
        rows.append((results.metric_label(metric), *map(_pcc_cell, at)))
    title = f"PCC before against after, {' / '.join(splits)}; published in brackets"
    caption = "Published: arXiv:2406.09179, review discussion, on TOFU with Phi-1.5 and Llama-2-7B."
    return Table(title, ("metric", *map(shown, attacks)), tuple(rows), caption)


def _robustness(results: StudyResults) -> Robustness:
    if results.robustness is None:
        raise ValueError("the results have no robustness of metrics")
    return results.robustness


def _attack_names(results: StudyResults) -> list[str]:
    """The attacks in their order in the study, compared or not."""
    compared = [cell.attack for cell in _robustness(results).cells]
    carried_out = [attack.name for attack in results.attacks.attacks] if results.attacks else []
    return list(dict.fromkeys([*carried_out, *compared]))


def _pcc_cell(cells: Sequence[Cell | None]) -> str:
    ours = " / ".join(_two_decimals(cell.agreement.pcc.value if cell else None) for cell in cells)
    published = [cell.published if cell else None for cell in cells]
    return f"{ours}\n({' / '.join(map(_two_decimals, published))})" if any(map(known, published)) else ours


def _two_decimals(value: float | None) -> str:
    return f"{value:.2f}" if known(value) else MISSING


def agreement_table(results: StudyResults) -> Table:
    """Every statistic with its interval over checkpoints, and its warnings."""
    found, rows = _robustness(results), []
    for cell in found.cells:
        agreement = cell.agreement
        values = (
            agreement.pcc,
            agreement.spearman,
            agreement.slope,
            agreement.intercept,
            agreement.distance,
        )
        first = results.metric_label(cell.metric), cell.attack, cell.split, str(agreement.n)
        rows.append((*first, *map(with_interval, values), "; ".join(agreement.warnings)))
    columns = ("metric", "attack", "set", "n", "PCC", "Spearman", "slope", "intercept", "distance", "warning")
    caption = "95% intervals, bootstrap over checkpoints. distance: mean distance from the line after = before."
    if found.log_metrics:
        names = listed([results.metric_label(name) for name in found.log_metrics])
        caption += f"\nOn logarithms, as they span magnitudes: {names}."
    return Table("Before against after, over checkpoints", columns, tuple(rows), caption)


def faithfulness_table(results: StudyResults) -> Table | None:
    """The separation by each metric of models that know from models that do not, or of the original from the retrained
    model; None if there are neither pools of models nor a retrained one."""
    found = _robustness(results).faithfulness
    if not found or (results.retrained_knows and found[0].over == "subjects"):
        return None
    sets = list(dict.fromkeys(row.set for row in found))
    auc = {(row.metric, row.set): Estimate(value=row.auc, low=row.low, high=row.high) for row in found}
    metrics = dict.fromkeys(row.metric for row in found)
    rows = tuple((results.metric_label(m), *(with_interval(auc.get((m, s))) for s in sets)) for m in metrics)
    count = f"{found[0].knowing} models fine-tuned with the forget set and {found[0].ignorant} without it"
    if found[0].over == "models":
        caption = f"AUC over {count}: how often one of the first has a score that shows more knowledge than one of the "
        caption += "others; 0.5 is chance, 1 is always. The 95% interval is that for so many models."
    else:
        caption = (
            f"AUC over {found[0].knowing} subjects of each model: how often one that the original was trained on has a "
            "score that shows more knowledge than one that retrained never saw; 0.5 is chance, 1 is always."
        )
    return Table("Faithfulness", ("metric", *map(results.set_label, sets)), rows, caption)


def robustness_words(results: StudyResults) -> list[str]:
    """Whether extraction strength is the most robust metric, as in the paper, and the number of pairs in its order."""
    found = _robustness(results)
    sentences = []
    for touches, where in ((False, "that do not change the weights"), (True, "that change the weights")):
        ranks = [rank for rank in found.ranking if rank.touches_weights == touches]
        es = next((rank for rank in ranks if rank.metric == ES), None)
        if es is None or len(ranks) < 2:
            continue
        best, agrees = ranks[0], es.place == 1
        place = "is the most robust metric" if agrees else f"is number {es.place} of {len(ranks)} metrics"
        lead = "" if agrees else f"; {results.metric_label(best.metric)} leads with {number(best.pcc)}"
        verdict = "agrees with" if agrees else "differs from"
        sentences.append(
            f"Under attacks {where}, ES {place}, with a mean PCC of {number(es.pcc)}{lead}. "
            f"This {verdict} the paper, in which ES is the most robust."
        )
    if found.orders:
        same = sum(order.same for order in found.orders)
        sentences.append(
            f"Of {len(found.orders)} pairs of metrics whose published PCC under one of these attacks differ, {same} "
            "have the published order here."
        )
    if found.log_metrics:
        names = listed([results.metric_label(name) for name in found.log_metrics])
        sentences.append(
            f"{names} span magnitudes and are compared on logarithms; as they are, a few models far from the others "
            "determine the correlation, which is in the tables too."
        )
    warned = sum(bool(cell.agreement.warnings) for cell in found.cells)
    if warned:
        sentences.append(
            f"{warned} of {len(found.cells)} comparisons carry a warning (too few models, or little spread between "
            "them); their correlations mean little."
        )
    return sentences
