"""What attacks bring back from each model, as plain tables and words."""

from collections.abc import Iterator, Sequence
from statistics import fmean

from uwc.reports.grid import Table
from uwc.reports.records import ES, Record, known, label_of, method_of_runs
from uwc.reports.robustness_tables import FORGET, shown
from uwc.reports.words import MISSING, listed, number, with_interval

Pair = tuple[str, str]


def headline_metric(results: Record) -> str:
    """The metric that the recovery tables show: extraction strength, where it was measured."""
    names = dict.fromkeys(m for chain in results["attacks"]["chains"] for m in chain["metrics"])
    return ES if ES in names else next(iter(names))


def recovery_table(results: Record) -> Table:
    """For each method (averaged over its runs), the original and retrained: the score before and under each attack."""
    metric, columns = headline_metric(results), _attack_columns(results)
    rows = []
    for name, models in _grouped(results).items():
        before = fmean(m["before"][_set(results)][metric]["mean"] for m in models)
        cells = [_recovery_cell(models, chain, which, metric, _set(results)) for chain, which in columns]
        rows.append((name, number(before, metric), *cells))
    titles = [shown(chain) if not which else f"{shown(chain)}, {which}" for chain, which in columns]
    label = label_of(results, metric)
    title = f"{label} on the {_set(results)} set under attack (below, in brackets: over retrained)"
    return Table(title, ("model", "before", *titles), tuple(rows), "\n".join(_recovery_remarks(results)))


def recovery_words(results: Record) -> list[str]:
    """Which attack gets most out of which unlearned model, beyond what it gets from the retrained model."""
    metric, of_set = headline_metric(results), _set(results)
    found = [
        (over["mean"], over, name, chain)
        for name, models in _grouped(results).items()
        if len(models) == 1 and models[0]["kind"] == "unlearned"
        for chain, which in _attack_columns(results)
        if which != "strongest" and (over := _over(_of(models[0], chain, of_set).get(metric) or {}, which))
        and known(over["mean"])
    ]  # fmt: skip
    if not found:
        return []
    _, over, name, chain = max(found, key=lambda f: f[0])
    return [f"Most is left in {name}: under {chain} it scores {with_interval(over, metric)} above retrained."]


def runs_table(results: Record) -> Table:
    """Every attacked model by itself: the score under each attack with its interval, and its excess over retrained."""
    metric, of_set = headline_metric(results), _set(results)
    rows = []
    for model in results["attacks"]["models"]:
        for chain, which in _attack_columns(results):
            outcome = ((model["outcomes"].get(chain) or {}).get(of_set) or {}).get(metric)
            if outcome is None:
                rows.append((model["name"], chain, MISSING, model["failed"].get(chain, MISSING), MISSING, MISSING))
                continue
            after, over = _after(outcome, which), _over(outcome, which)
            before = model["before"][of_set][metric]
            name = shown(chain) if not which else f"{shown(chain)}, {which}"
            rows.append(
                (
                    model["name"], name, with_interval(before, metric), with_interval(after, metric),
                    with_interval(over, metric) if over else MISSING, str(after["n"]),
                )
            )  # fmt: skip
    columns = ("model", "attack", "before", "after", "over retrained", "n")
    return Table("Every model under every attack", columns, tuple(rows), "95% intervals, bootstrap over subjects.")


def budget_table(results: Record) -> Table | None:
    """The score at each budget of the attacks that were scored at several; None where there is none."""
    metric, of_set = headline_metric(results), _set(results)
    rows, efforts = [], set()
    for model in results["attacks"]["models"]:
        for chain in results["attacks"]["chains"]:
            outcome = ((model["outcomes"].get(chain["name"]) or {}).get(of_set) or {}).get(metric)
            if outcome is None or not any(s.get("budgets") for s in chain["settings"].values()):
                continue
            by_effort: dict[float, list[float]] = {}
            for variant in outcome["variants"]:
                by_effort.setdefault(variant["effort"], []).append(variant["mean"])
            efforts |= set(by_effort)
            before = model["before"][of_set][metric]["mean"]
            rows.append((model["name"], chain["name"], before, by_effort))
    if not rows:
        return None
    ordered = sorted(efforts)
    cells = tuple(
        (name, chain, number(before, metric), *(number(fmean(at[e]) if e in at else None, metric) for e in ordered))
        for name, chain, before, at in rows
    )
    columns = ("model", "attack", "0", *(f"{e:g}" for e in ordered))
    return Table(f"{label_of(results, metric)} on the {of_set} set over the attacker's effort (steps)", columns, cells)


def _set(results: Record) -> str:
    sets = results["attacks"]["sets"]
    return FORGET if FORGET in sets else str(next(iter(sets)))


def _attack_columns(results: Record) -> list[Pair]:
    """(chain, "mean" or "strongest" where it has several variants, otherwise "")."""
    metric, columns = headline_metric(results), []
    for chain in results["attacks"]["chains"]:
        outcomes = [m["outcomes"].get(chain["name"]) for m in results["attacks"]["models"]]
        found = [o[_set(results)][metric] for o in outcomes if o and metric in o[_set(results)]]
        several = any("strongest" in outcome for outcome in found)
        columns += [(chain["name"], which) for which in (("mean", "strongest") if several else ("",))]
    return columns


def _grouped(results: Record) -> dict[str, list[Record]]:
    methods = method_of_runs(results)
    groups: dict[str, list[Record]] = {}
    runs = list(methods.values())
    for model in results["attacks"]["models"]:
        if not model["outcomes"]:
            continue
        method = methods.get(model["run"])
        name = model["name"]
        if method is not None and runs.count(method) > 1:
            name = method + (", calibrated" if model["kind"] == "calibrated" else "")
            name += f" ({runs.count(method)} runs)"
        groups.setdefault(name, []).append(model)
    return groups


def _after(outcome: Record, which: str) -> Record:
    found: Record = outcome["strongest"] if which == "strongest" and "strongest" in outcome else outcome["after"]
    return found


def _over(outcome: Record, which: str) -> Record | None:
    found: Record | None = outcome.get("strongest_over_control" if which == "strongest" else "over_control")
    return found


def _recovery_cell(models: Sequence[Record], chain: str, which: str, metric: str, of_set: str) -> str:
    outcomes = [m["outcomes"][chain][of_set][metric] for m in models if metric in _of(m, chain, of_set)]
    if not outcomes:
        return MISSING
    after = fmean(_after(o, which)["mean"] for o in outcomes)
    above = [o["mean"] for o in (_over(outcome, which) for outcome in outcomes) if o and known(o["mean"])]
    if not above or models[0]["kind"] == "retrained":
        return number(after, metric)
    return f"{number(after, metric)}\n({fmean(above):+.3f})"


def _of(model: Record, chain: str, of_set: str) -> Record:
    found: Record = (model["outcomes"].get(chain) or {}).get(of_set) or {}
    return found


def _recovery_remarks(results: Record) -> Iterator[str]:
    attacks = results["attacks"]
    yield (
        f"Scored: {attacks['sets'][_set(results)]} questions about subjects that the attacker does not have. "
        f"The attacker has {attacks['attacker']['train']} other forgotten examples and "
        f"{attacks['attacker']['retain']} retained ones."
    )
    if any(which for _, which in _attack_columns(results)):
        yield (
            "mean, strongest: of an attack's variants (templates, depths). The strongest is taken for each question "
            "afresh, which no attacker can know: an upper bound."
        )
    taught = [chain["name"] for chain in attacks["chains"] if chain["trains_on_scored"]]
    if taught:
        yield f"{listed(taught)}: the attacker trains on the scored answers too; only what exceeds retrained is a leak."
    if not any(model["kind"] == "retrained" for model in attacks["models"]):
        yield "No retrained model was attacked, so what an attack gets from a model that never knew is unknown."
