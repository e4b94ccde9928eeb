"""``uwc attack``: how much of what a model seems to have forgotten comes back."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from uwc.commands.options import (
    Columns,
    Device,
    Dtype,
    Json,
    OutputDir,
    OwnTokenizer,
    Prompt,
    Trust,
    dotted_settings,
    loading,
    numbers,
    pairs,
)
from uwc.commands.printing import print_rows
from uwc.errors import AttackFailed, ConfigError

if TYPE_CHECKING:
    from uwc.attacks.data import AttackData
    from uwc.results import AttackResults

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
    split: Annotated[str, typer.Option(help="The set that --data is: forget or retain.")] = "forget",
    max_new_tokens: Annotated[int, typer.Option(help="The most tokens of a generated answer.")] = 64,
    output_dir: OutputDir = None,
    column: Columns = [],  # noqa: B006
    dtype: Dtype = "float32",
    device: Device = "auto",
    trust: Trust = False,
    prompt: Prompt = [],  # noqa: B006
    own_tokenizer: OwnTokenizer = False,
    as_json: Json = False,
) -> None:
    """Attack a model and score it before and after: how much forgotten knowledge comes back?"""
    from uwc.workflows.attacking import attack as attack_model
    from uwc.workflows.attacking import attack_curve

    files = {"train": attacker_data, "retain": retain, "unrelated": unrelated}
    owned = _attack_data(data, files, pairs(column), translation_column)
    metrics = metric or ["extraction_strength"]
    shared: dict[str, Any] = {
        "control": control,
        "original": original,
        "settings": dotted_settings(setting),
        "max_new_tokens": max_new_tokens,
        "own_tokenizer": own_tokenizer,
        "output_dir": output_dir,
        **loading(dtype, device, trust, prompt),
    }
    if curve is None:
        found = attack_model(model, owned, attack, metrics=metrics, of_set=split, **shared)
    elif points is not None:
        raise ConfigError("--points and --curve exclude each other; a point is one attack at one effort")
    elif len(attack) != 1 or "+" in attack[0] or len(metrics) != 1:
        raise ConfigError("a curve is of one attack and one metric; give --attack and --metric once, without a chain")
    else:
        found = attack_curve(model, owned, attack[0], numbers(curve), over=over, metric=metrics[0], **shared)
    if points is not None:
        _append_points(found, model, points)
    if as_json:
        typer.echo(found.to_json())
    else:
        _print(found, f"{', '.join(attack)} on {data}")
    failed = {key: why for attacked in found.attacks.models for key, why in attacked.failed.items()}
    if failed:
        raise AttackFailed("; ".join(f"{name}: {why}" for name, why in failed.items()))


def _append_points(found: "AttackResults", model: str, path: Path) -> None:
    from uwc.workflows.attacking import points

    with path.open("a", encoding="utf-8") as file:
        file.writelines(point.model_dump_json() + "\n" for point in points(found.attacks, model))


def _print(found: "AttackResults", title: str) -> None:
    rows = [dict(row) for row in found.rows()]
    if rows:
        print_rows(title, rows)
    for curve in found.curves:
        name = curve.model.run or "control"
        table = [
            {curve.over: effort, curve.metric: score} for effort, score in zip(curve.efforts, curve.scores, strict=True)
        ]
        print_rows(f"{curve.attack} on {name}: {curve.metric} {curve.before:.4g} before", table)
        if curve.half_effort is not None:
            typer.echo(f"half of the original's score is reached at {curve.over} = {curve.half_effort:.4g}")


def _attack_data(
    scored: Path, files: dict[str, Path | None], columns: dict[str, str], translation_column: str | None
) -> "AttackData":
    from uwc.attacks.data import AttackData
    from uwc.data.question_files import read_examples

    examples = read_examples(scored, columns=columns, id_prefix="scored")
    translations = {}
    if translation_column is not None:
        translated = read_examples(scored, columns={**columns, "question": translation_column}, id_prefix="scored")
        translations = {e.id: e.question for e in translated}
    owned = {
        part: read_examples(path, columns=columns, id_prefix=part) for part, path in files.items() if path is not None
    }
    return AttackData(examples, translations=translations, **owned)
