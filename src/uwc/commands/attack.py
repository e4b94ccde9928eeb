"""``uwc attack``: how much of what a model seems to have forgotten comes back."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from uwc.commands.options import Columns, Device, Dtype, Json, Trust, dotted_settings, numbers, pairs
from uwc.commands.printing import print_json, print_rows
from uwc.errors import ConfigError
from uwc.studies.provenance import finite

if TYPE_CHECKING:
    from uwc.attacks.data import AttackData

Attack = Annotated[
    list[str], typer.Option(help="An attack, or a chain of them: relearn+probe. Several are made one by one.")
]
Questions = Annotated[Path, typer.Option(help="The questions that are scored: JSONL, CSV or Parquet.")]
Settings = Annotated[
    list[str], typer.Option("--set", help="A setting of an attack: relearn.steps=20", metavar="ATTACK.SETTING=VALUE")
]
Metric = Annotated[list[str], typer.Option(help="Which metrics; extraction_strength by default.")]


def attack_command(
    model: Annotated[str, typer.Argument(help="A folder or hub name.")],
    data: Questions,
    attack: Attack,
    attacker_data: Annotated[Path | None, typer.Option(help="The attacker's part of the forgotten data.")] = None,
    retain: Annotated[Path | None, typer.Option(help="Retained data that the attacker has.")] = None,
    unrelated: Annotated[Path | None, typer.Option(help="Data that has nothing to do with either.")] = None,
    translation_column: Annotated[str | None, typer.Option(help="The column of --data with the translation.")] = None,
    control: Annotated[
        str | None, typer.Option(help="A model never trained on the data: what the attack elicits there is no leak.")
    ] = None,
    original: Annotated[
        str | None, typer.Option(help="The model before unlearning: for kl_to_original, and half its score on a curve.")
    ] = None,
    setting: Settings = [],  # noqa: B006
    metric: Metric = [],  # noqa: B006
    curve: Annotated[str | None, typer.Option(help="Efforts to try: 1,2,4,8 (one attack only).")] = None,
    over: Annotated[str | None, typer.Option(help="The setting that --curve varies; its effort by default.")] = None,
    points: Annotated[Path | None, typer.Option(help="Append points for uwc robustness to this JSONL file.")] = None,
    split: Annotated[str, typer.Option(help="What --data is, in the points: forget or retain.")] = "forget",
    max_new_tokens: Annotated[int, typer.Option(help="The most tokens of a generated answer.")] = 64,
    column: Columns = [],  # noqa: B006
    dtype: Dtype = "float32",
    device: Device = "auto",
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Attack a model and score it before and after: how much forgotten knowledge comes back?"""
    files = {"train": attacker_data, "retain": retain, "unrelated": unrelated}
    owned = _attack_data(data, files, pairs(column), translation_column)
    models = {"model": model, "control": control, "original": original}
    named = {kind: path for kind, path in models.items() if path is not None}
    loading = {"dtype": dtype, "device": device, "trust_remote_code": trust}
    names = metric or ["extraction_strength"]
    if points is not None and curve is not None:
        raise ConfigError("--points and --curve exclude each other; a point is one attack at one effort")
    if curve is not None:
        rows = _curves(
            named, owned, attack, dotted_settings(setting), names, numbers(curve), over, max_new_tokens, loading
        )
    else:
        rows = _outcomes(named, owned, attack, dotted_settings(setting), names, max_new_tokens, loading)
    if points is not None:
        _append_points(points, rows, model, split)
    if as_json:
        print_json(rows)
    else:
        _print_table(f"{', '.join(attack)} on {data}", rows)


def _attack_data(
    scored: Path, files: dict[str, Path | None], columns: dict[str, str], translation_column: str | None
) -> "AttackData":
    from uwc.attacks.data import AttackData
    from uwc.data.local_files import read_examples

    examples = read_examples(scored, columns=columns, id_prefix="scored")
    translations = {}
    if translation_column is not None:
        translated = read_examples(scored, columns={**columns, "question": translation_column}, id_prefix="scored")
        translations = {e.id: e.question for e in translated}
    owned = {
        part: read_examples(path, columns=columns, id_prefix=part) for part, path in files.items() if path is not None
    }
    return AttackData(examples, translations=translations, **owned)


def _outcomes(
    models: dict[str, str], data: "AttackData", attack: list[str], settings: dict[str, dict[str, Any]],
    metrics: list[str], max_new_tokens: int, loading: dict[str, Any],
) -> list[dict[str, Any]]:  # fmt: skip
    from uwc.attacks.chain import make_chain
    from uwc.attacks.measuring import check_metrics, measure, metric_values
    from uwc.metrics.scoring import needs_of

    chains = [make_chain(name, settings) for name in attack]
    _require_used(settings, [s.entry.name for c in chains for s in c.steps])
    check_metrics(metrics, chains, examples=data.scored, reference="original" in models)
    for chain in chains:
        chain.check_data(data)
    _check_depths(models, chains, loading)
    original = _load(models["original"], loading) if "reference" in needs_of(metrics) else None
    scoring: dict[str, Any] = {"max_new_tokens": max_new_tokens, "reference": original}
    rows = []
    for kind, path in models.items():
        if kind == "original":
            continue
        target = _load(path, loading)
        before = metric_values(target, data.scored, metrics, **scoring)
        for chain in chains:
            for outcome in measure(target, data, chain, metrics, before=before, **scoring):
                rows.append({"model": kind, **asdict(outcome)})
    return rows


def _curves(
    models: dict[str, str], data: "AttackData", attack: list[str], settings: dict[str, dict[str, Any]],
    metrics: list[str], efforts: list[float], over: str | None, max_new_tokens: int, loading: dict[str, Any],
) -> list[dict[str, Any]]:  # fmt: skip
    from uwc.attacks.curves import budget_curve, curve_chains
    from uwc.attacks.measuring import check_metrics, mean_value
    from uwc.metrics.scoring import needs_of

    if len(attack) != 1 or "+" in attack[0] or len(metrics) != 1:
        raise ConfigError("a curve is of one attack and one metric; give --attack and --metric once, without a chain")
    (name,), (metric,) = attack, metrics
    _require_used(settings, [name])
    _, chains = curve_chains(name, efforts, settings=settings.get(name), over=over)
    check_metrics([metric], chains, examples=data.scored, reference="original" in models)
    for chain in chains:
        chain.check_data(data)
    _check_depths(models, chains, loading)
    scoring: dict[str, Any] = {"max_new_tokens": max_new_tokens}
    half_of = None
    if "original" in models:
        original = _load(models["original"], loading)
        half_of = mean_value(original, data.scored, metric, reference=original, **scoring)
        scoring["reference"] = original if "reference" in needs_of([metric]) else None
        del original
    rows = []
    for kind in [k for k in models if k != "original"]:
        found = budget_curve(
            _load(models[kind], loading), data, name, efforts, settings=settings.get(name), over=over, metric=metric,
            original_score=half_of, **scoring,
        )  # fmt: skip
        shared = {"model": kind, "attack": name, "metric": metric, "before": found.before, "over": found.over}
        for effort, score in zip(found.efforts, found.scores, strict=True):
            rows.append({**shared, "effort": effort, "after": score, "half_effort": found.half_effort})
    return rows


def _append_points(path: Path, rows: list[dict[str, Any]], model: str, split: str) -> None:
    """One point for each attack and metric of the model itself; of several variants, their mean."""
    from uwc.attacks.chain import make_chain
    from uwc.attacks.measuring import MEAN

    chosen: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        key = (row["attack"], row["metric"])
        if row["model"] == "model" and (key not in chosen or row["variant"] == MEAN):
            chosen[key] = row
    with path.open("a", encoding="utf-8") as file:
        for row in chosen.values():
            touches = make_chain(row["attack"]).touches_weights
            point = {"checkpoint": model, "split": split, "touches_weights": touches}
            point |= {name: row[name] for name in ("metric", "attack", "before", "after")}
            file.write(json.dumps(finite(point)) + "\n")


def _require_used(settings: dict[str, dict[str, Any]], names: list[str]) -> None:
    for name in settings:
        if name not in names:
            raise ConfigError(f"--set {name}.…: {name!r} is not among the attacks made: {', '.join(names)}")


def _check_depths(models: dict[str, str], chains: list[Any], loading: dict[str, Any]) -> None:
    """Refuse layers that a model does not have, from its configuration alone."""
    from uwc.models.loading import depth_of

    if any(chain.names_layers for chain in chains):
        for path in models.values():
            depth = depth_of(path, trust_remote_code=loading["trust_remote_code"])
            for chain in chains:
                chain.check_depth(depth)


def _load(path: str, loading: dict[str, Any]) -> Any:
    from uwc.models.loading import load_target

    return load_target(path, **loading)


def _print_table(title: str, rows: list[dict[str, Any]]) -> None:
    print_rows(title, rows)
