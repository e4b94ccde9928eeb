"""`uwc attack`: how much of what a model seems to have forgotten can be recovered."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from uwc.cli.options import (
    ATTACKS,
    MODELS,
    OUTPUT,
    QUESTIONS,
    Columns,
    Json,
    Metrics,
    Model,
    Original,
    OutputDir,
    Plugins,
    Retain,
    Scored,
    Set,
    file_columns,
    given_files,
    loading,
    numbers,
    sections,
)
from uwc.cli.printing import print_rows
from uwc.errors import AttackFailed, ConfigError

if TYPE_CHECKING:
    from uwc.attacks.data import AttackData
    from uwc.data.columns import FileColumns
    from uwc.results import AttackResults

_PREFIXES = {
    "forget": "scored",
    "translated": "scored",
    "attacker_data": "train",
    "retain": "retain",
    "unrelated": "unrelated",
}
"""File -> what begins the ids that are made up."""


def attack_command(
    model: Model,
    data: Scored,
    attack: Annotated[
        list[str],
        typer.Option(
            rich_help_panel=ATTACKS, metavar="NAME", help="An attack or a chain: relearn+probe. May be repeated."
        ),
    ],
    attacker_data: Annotated[
        Path | None,
        typer.Option(rich_help_panel=QUESTIONS, metavar="FILE", help="The attacker's part of the forget questions."),
    ] = None,
    retain: Retain = None,
    unrelated: Annotated[
        Path | None,
        typer.Option(rich_help_panel=QUESTIONS, metavar="FILE", help="Questions that have nothing to do with either."),
    ] = None,
    translation_column: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=QUESTIONS, metavar="COLUMN", help="The column of the scored file with the translation."
        ),
    ] = None,
    column: Columns = [],  # noqa: B006
    original: Original = None,
    retrained: Annotated[
        str | None,
        typer.Option(
            "--retrained",
            "--control",
            rich_help_panel=MODELS,
            metavar="MODEL",
            help="A model never trained on the data: what the attack elicits from it is no leak.",
        ),
    ] = None,
    metric: Metrics = [],  # noqa: B006
    curve: Annotated[
        str | None,
        typer.Option(rich_help_panel=ATTACKS, metavar="N,N,...", help="Efforts to try: 1,2,4,8 (one attack only)."),
    ] = None,
    over: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=ATTACKS, metavar="SETTING", help="The setting that --curve varies; its effort by default."
        ),
    ] = None,
    points: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=OUTPUT, metavar="FILE", help="Append points for uwc robustness to this JSONL file."
        ),
    ] = None,
    split: Annotated[
        str,
        typer.Option(rich_help_panel=OUTPUT, metavar="SET", help="What points call the scored set: forget or retain."),
    ] = "forget",
    output_dir: OutputDir = None,
    as_json: Json = False,
    setting: Set = [],  # noqa: B006
    plugin: Plugins = [],  # noqa: B006
) -> None:
    """Attack a model and score it before and after: how much forgotten knowledge can be recovered?

    Sections for --set: attack.settings.ATTACK.KEY (attack.settings.relearn.steps=20), model, score.max_new_tokens,
    seed.
    """
    from uwc.cli.sections import AttackSections
    from uwc.workflows.attacking import attack as attack_model
    from uwc.workflows.attacking import attack_curve

    given = sections(AttackSections, setting, {"benchmark": {"settings": {"columns": file_columns(column)}}})
    files = given_files(forget=data, attacker_data=attacker_data, retain=retain, unrelated=unrelated)
    owned = _attack_data(files, given.benchmark.settings.columns, translation_column)
    metrics = _metrics(metric)
    shared: dict[str, Any] = {
        "control": retrained,
        "original": original,
        "settings": given.attack.settings,
        "max_new_tokens": given.score.max_new_tokens,
        "own_tokenizer": given.model.own_tokenizer,
        "output_dir": output_dir,
        **loading(given.model),
    }
    if curve is None:
        found = attack_model(model, owned, attack, metrics=metrics, of_set=split, seed=given.seed, **shared)
    elif points is not None:
        raise ConfigError("--points and --curve exclude each other; a point is one attack at one effort")
    elif len(attack) != 1 or "+" in attack[0] or len(metrics) != 1:
        raise ConfigError("a curve is of one attack and one metric; give --attack and --metric once, without a chain")
    else:
        found = attack_curve(model, owned, attack[0], numbers(curve), over=over, metric=metrics[0], **shared)
    if points is not None:
        _append_points(found, model, points)
    if as_json:
        typer.echo(found.to_json(), nl=False)
    else:
        _print(found, f"{', '.join(attack)} on {data}")
    failed = {key: why for attacked in found.attacks.models for key, why in attacked.failed.items()}
    if failed:
        raise AttackFailed("; ".join(f"{name}: {why}" for name, why in failed.items()))


def _metrics(named: list[str]) -> list[str]:
    """The metrics by name; extraction strength where none is named."""
    from uwc.metrics.suites import entry_of

    return [entry_of(name).name for name in named] or ["extraction_strength"]


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


def _attack_data(files: dict[str, Path], columns: "FileColumns", translation_column: str | None) -> "AttackData":
    from uwc.attacks.data import AttackData
    from uwc.data.columns import read_files

    if translation_column is not None:
        own = columns.get("forget", {})
        files = {**files, "translated": files["forget"]}
        asked = {**(own if isinstance(own, Mapping) else {}), "question": translation_column}
        columns = {**columns, "translated": asked}
    read = read_files(files, columns, prefixes=_PREFIXES)
    return AttackData(
        read["forget"],
        train=read.get("attacker_data", ()),
        retain=read.get("retain", ()),
        unrelated=read.get("unrelated", ()),
        translations={e.id: e.question for e in read.get("translated", ())},
    )
