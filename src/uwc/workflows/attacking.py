"""Attacks on one model: what comes back, from it and from a control, and for how much effort."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from uwc.attacks.chain import Chain, make_chain
from uwc.attacks.curves import budget_curve, curve_chains
from uwc.attacks.data import AttackData
from uwc.attacks.measuring import MEAN, check_metrics, mean_value, measure, metric_values
from uwc.errors import ConfigError
from uwc.metrics.scoring import needs_of
from uwc.models.loading import depth_of
from uwc.models.target import Target
from uwc.workflows.targets import plain_target_of, reading_of, target_of

Model = str | Path | Target
Settings = Mapping[str, Mapping[str, Any]]
Row = dict[str, Any]


def attack(
    model: Model,
    data: AttackData,
    attacks: Sequence[str],
    *,
    control: Model | None = None,
    original: Model | None = None,
    settings: Settings | None = None,
    metrics: Sequence[str] = ("extraction_strength",),
    max_new_tokens: int = 64,
    own_tokenizer: bool = False,
    **loading: Any,
) -> list[Row]:
    """Score a model before and under attacks, each carried out by itself; the model is left as it was.

    Args:
        model: a folder, a hub name, or a `Target` in memory.
        data: what is scored, and what the attacker has.
        attacks: attacks and chains of them, such as ``"relearn+probe"``.
        control: a model that was never trained on the data; what is elicited from it is no leak.
        original: the model before unlearning, for the metrics that compare with it.
        settings: attack -> setting -> value, where it differs from the default.
        metrics: what is measured.
        max_new_tokens: the most tokens of a generated answer.
        own_tokenizer: read every model with its own tokenizer, chat template and ends; by default all are read as the
            original is, or else the model.
        loading: dtype, device, template and trust_remote_code, as `load_target` takes them.

    Returns:
        One row for each model ("model" or "control"), attack, metric and variant: model, and the fields of
        `uwc.attacks.measuring.Outcome`.

    Raises:
        UserError: a model, an attack, a metric or the data are not as they should be; found before a model is loaded
            where that can be.
    """
    chains = [make_chain(name, settings) for name in attacks]
    _require_used(settings or {}, [s.entry.name for c in chains for s in c.steps])
    _check(chains, metrics, data, (model, control, original), original, loading)
    reading = None if own_tokenizer else reading_of(model if original is None else original, loading)
    reference = target_of(original, loading) if original is not None and "reference" in needs_of(metrics) else None

    def outcomes(target: Target) -> Iterable[Row]:
        before = metric_values(target, data.scored, metrics, max_new_tokens=max_new_tokens, reference=reference)
        for chain in chains:
            found = measure(
                target, data, chain, metrics, before=before, max_new_tokens=max_new_tokens, reference=reference
            )
            yield from map(asdict, found)

    attacked = {"model": model} | ({} if control is None else {"control": control})
    return [
        {"model": kind, **row}
        for kind, path in attacked.items()
        for row in outcomes(plain_target_of(path, loading, reading))
    ]


def attack_curve(
    model: Model,
    data: AttackData,
    attack: str,
    efforts: Sequence[float],
    *,
    over: str | None = None,
    control: Model | None = None,
    original: Model | None = None,
    settings: Settings | None = None,
    metric: str = "extraction_strength",
    max_new_tokens: int = 64,
    own_tokenizer: bool = False,
    **loading: Any,
) -> list[Row]:
    """Score a model under one attack at several efforts.

    Args:
        model, data, control, settings, max_new_tokens, own_tokenizer, loading: as `attack` takes them.
        attack: one attack, no chain.
        efforts: the values of its effort.
        over: another setting to vary; the attack's effort by default.
        original: the model before unlearning; the curve then says which effort brings back half of what it scores.
        metric: what is measured.

    Returns:
        One row for each model ("model" or "control") and effort: model, attack, metric, before, over, effort, after,
        half_effort.

    Raises:
        UserError: as `attack`; also for an attack without an effort.
    """
    of_attack = (settings or {}).get(attack)
    _require_used(settings or {}, [attack])
    _, chains = curve_chains(attack, efforts, settings=of_attack, over=over)
    _check(chains, [metric], data, (model, control, original), original, loading)
    reading = None if own_tokenizer else reading_of(model if original is None else original, loading)
    reference, half_of = None, None
    if original is not None:
        known = target_of(original, loading)
        half_of = mean_value(known, data.scored, metric, max_new_tokens=max_new_tokens, reference=known)
        reference = known if "reference" in needs_of([metric]) else None
        del known
    rows = []
    for kind, path in (("model", model), ("control", control)):
        if path is None:
            continue
        found = budget_curve(
            plain_target_of(path, loading, reading), data, attack, efforts, settings=of_attack, over=over,
            metric=metric,
            original_score=half_of, max_new_tokens=max_new_tokens, reference=reference,
        )  # fmt: skip
        shared = {"model": kind, "attack": attack, "metric": metric, "before": found.before, "over": found.over}
        for effort, score in zip(found.efforts, found.scores, strict=True):
            rows.append({**shared, "effort": effort, "after": score, "half_effort": found.half_effort})
    return rows


def points(rows: Iterable[Row], checkpoint: str, split: str) -> list[Row]:
    """What `uwc.robustness` reads: one point for each attack and metric of the model itself; of variants, the mean.

    Args:
        rows: what `attack` returned.
        checkpoint: the model's name.
        split: what was scored, "forget" or "retain".
    """
    chosen: dict[tuple[str, str], Row] = {}
    for row in rows:
        key = (row["attack"], row["metric"])
        if row["model"] == "model" and (key not in chosen or row["variant"] == MEAN):
            chosen[key] = row
    return [
        {"checkpoint": checkpoint, "split": split, "touches_weights": make_chain(row["attack"]).touches_weights}
        | {name: row[name] for name in ("metric", "attack", "before", "after")}
        for row in chosen.values()
    ]


def _require_used(settings: Settings, names: Sequence[str]) -> None:
    for name in settings:
        if name not in names:
            raise ConfigError(f"settings are given for {name!r}, which is not among the attacks: {', '.join(names)}")


def _check(
    chains: Sequence[Chain], metrics: Sequence[str], data: AttackData, models: Iterable[Model | None],
    original: Model | None, loading: Mapping[str, Any],
) -> None:  # fmt: skip
    """Refuse what cannot be carried out, without loading weights: of a model on disk its configuration is read."""
    check_metrics(metrics, chains, examples=data.scored, reference=original is not None)
    for chain in chains:
        chain.check_data(data)
    if any(chain.names_layers for chain in chains):
        for path in models:
            if isinstance(path, str | Path):
                depth = depth_of(path, trust_remote_code=bool(loading.get("trust_remote_code", False)))
                for chain in chains:
                    chain.check_depth(depth)
