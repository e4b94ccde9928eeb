"""Attacks on one model: what they recover, from it and from a control, and for how much effort."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from uwc import __version__, progress
from uwc.attacks.chain import Chain, make_chain
from uwc.attacks.curves import budget_curve, curve_chains
from uwc.attacks.data import AttackData
from uwc.attacks.evaluate import (
    VariantValues,
    attacked_values,
    check_metrics,
    describe,
    metric_values,
    outcomes,
)
from uwc.errors import AttackFailed, ConfigError, TrainingDiverged
from uwc.metrics.registry import metrics as metric_registry
from uwc.metrics.scoring import needs_of
from uwc.metrics.stats import aggregate
from uwc.models.loading import depth_of
from uwc.models.target import Target
from uwc.results import AttackedModel, AttackOutcome, AttackResults, Attacks, BudgetCurve, ModelKey, Point
from uwc.workflows.targets import plain_target_of, reading_of, target_of

Model = str | Path | Target
Settings = Mapping[str, Mapping[str, Any]]

CONTROL = ModelKey(role="retrained")


def attack(
    model: Model,
    data: AttackData,
    attacks: Sequence[str],
    *,
    control: Model | None = None,
    original: Model | None = None,
    settings: Settings | None = None,
    metrics: Sequence[str] = ("extraction_strength",),
    of_set: str = "forget",
    max_new_tokens: int = 64,
    seed: int = 0,
    own_tokenizer: bool = False,
    output_dir: str | Path | None = None,
    **loading: Any,
) -> AttackResults:
    """Score a model before and under attacks, each carried out by itself; the model is left as it was.

    Args:
        model: a folder, a hub name, or a `Target` in memory.
        data: what is scored, and what the attacker has.
        attacks: attacks and chains of them, such as ``"relearn+probe"``.
        control: a model that was never trained on the data; what is elicited from it is no leak.
        original: the model before unlearning, for the metrics that compare with it.
        settings: attack -> setting -> value, where it differs from the default.
        metrics: what is measured.
        of_set: what results call the scored questions.
        max_new_tokens: the most tokens of a generated answer.
        seed: of the bootstrap.
        own_tokenizer: read every model with its own tokenizer, chat template and ends; by default all are read as the
            original is, or else the model.
        output_dir: a folder for attack.json.
        loading: dtype, device, template and trust_remote_code, as `load_target` takes them.

    Returns:
        The outcomes of the model and of the control; an attack that failed or diverged is told in ``failed``.

    Raises:
        UserError: a model, an attack, a metric or the data are not as they should be; found before a model is loaded
            where that can be.
    """
    chains = {name: make_chain(name, settings) for name in dict.fromkeys(attacks)}
    _require_used(settings or {}, [s.entry.name for c in chains.values() for s in c.steps])
    _check(list(chains.values()), metrics, data, (model, control, original), original, loading)
    reading = None if own_tokenizer else reading_of(model if original is None else original, loading)
    reference = target_of(original, loading) if original is not None and "reference" in needs_of(metrics) else None
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "reference": reference}

    def scored(path: Model, key: ModelKey, theirs: Mapping[str, Sequence[VariantValues]]) -> _Scored:
        target = plain_target_of(path, loading, reading)
        before = metric_values(target, data.scored, metrics, **options)
        variants: dict[str, list[VariantValues]] = {}
        found: list[AttackOutcome] = []
        failed: dict[str, str] = {}
        for name, chain in chains.items():
            progress.note(f"attack {key.label} with {name}")
            try:
                variants[name] = list(attacked_values(target, data, chain, metrics, **options))
            except (AttackFailed, TrainingDiverged) as error:
                failed[name] = str(error)
                progress.warn(f"{key.label}: {error}")
                continue
            found += outcomes(
                name, chain, {of_set: data.scored}, before, variants[name], control=theirs.get(name, ()), seed=seed
            )
        return _Scored(AttackedModel(model=key, outcomes=tuple(found), failed=failed), variants)

    models: list[AttackedModel] = []
    theirs: Mapping[str, Sequence[VariantValues]] = {}
    if control is not None:
        of_control = scored(control, CONTROL, {})
        models, theirs = [of_control.model], of_control.variants
    models.insert(0, scored(model, ModelKey(role="unlearned", run=_name(model)), theirs).model)
    results = _results(
        model,
        control,
        Attacks(
            attacks=tuple(describe(name, chain, metrics) for name, chain in chains.items()),
            sets={of_set: len(data.scored)},
            attacker=data.owned,
            models=tuple(models),
        ),
    )
    if output_dir is not None:
        results.save(output_dir)
    return results


class _Scored:
    """A model under every attack, and the values by example."""

    def __init__(self, model: AttackedModel, variants: Mapping[str, Sequence[VariantValues]]) -> None:
        self.model, self.variants = model, variants


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
    output_dir: str | Path | None = None,
    **loading: Any,
) -> AttackResults:
    """Score a model under one attack at several efforts.

    Args:
        model, data, control, settings, max_new_tokens, own_tokenizer, output_dir, loading: as `attack` takes them.
        attack: one attack, no chain.
        efforts: the values of its effort.
        over: another setting to vary; the attack's effort by default.
        original: the model before unlearning; the curve then says which effort reaches half of its score.
        metric: what is measured.

    Returns:
        One curve for the model and one for the control.

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
        values = metric_values(known, data.scored, [metric], max_new_tokens=max_new_tokens, reference=known)[metric]
        average = metric_registry.get(metric).facts["average"]
        half_of = aggregate(values, [e.subject for e in data.scored], average=average).mean
        reference = known if "reference" in needs_of([metric]) else None
        del known
    keys = {ModelKey(role="unlearned", run=_name(model)): model, CONTROL: control}
    curves = [
        budget_curve(
            plain_target_of(path, loading, reading),
            data,
            attack,
            efforts,
            model=key,
            settings=of_attack,
            over=over,
            metric=metric,
            original_score=half_of,
            max_new_tokens=max_new_tokens,
            reference=reference,
        )
        for key, path in keys.items()
        if path is not None
    ]
    attacks = Attacks(
        attacks=(describe(attack, chains[-1], [metric]),),
        sets={"forget": len(data.scored)},
        attacker=data.owned,
        models=(),
    )
    results = _results(model, control, attacks, curves)
    if output_dir is not None:
        results.save(output_dir)
    return results


def _results(
    model: Model, control: Model | None, attacks: Attacks, curves: Sequence[BudgetCurve] = ()
) -> AttackResults:
    return AttackResults(
        uwc_version=__version__,
        model=_name(model),
        control="" if control is None else _name(control),
        attacks=attacks,
        curves=tuple(curves),
    )


def _name(model: Model) -> str:
    return model.name if isinstance(model, Target) else str(model)


def points(attacks: Attacks, checkpoint: str) -> list[Point]:
    """What `uwc.robustness` reads: one point for each attack, set and metric of the unlearned models.

    Args:
        attacks: what `attack` returned.
        checkpoint: the model's name, where it has none.
    """
    touching = {info.name: info.touches_weights for info in attacks.attacks}
    return [
        Point(
            checkpoint=model.model.run or checkpoint,
            metric=outcome.metric,
            attack=info.name,
            split=outcome.set,
            before=outcome.before.mean,
            after=outcome.after.mean,
            touches_weights=touching[info.name],
        )
        for info in attacks.attacks
        for model in attacks.models
        if model.model.role == "unlearned"
        for outcome in model.outcomes
        if outcome.attack == info.name
    ]


def _require_used(settings: Settings, names: Sequence[str]) -> None:
    for name in settings:
        if name not in names:
            raise ConfigError(f"settings are given for {name!r}, which is not among the attacks: {', '.join(names)}")


def _check(
    chains: Sequence[Chain],
    metrics: Sequence[str],
    data: AttackData,
    models: Iterable[Model | None],
    original: Model | None,
    loading: Mapping[str, Any],
) -> None:
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
