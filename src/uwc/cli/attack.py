"""`uwc attack`: recovery of forgotten knowledge by attacks."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from uwc.cli.options import (
    ATTACKS,
    MEASURED,
    MODELS,
    OUTPUT,
    QUESTIONS,
    Columns,
    Device,
    Json,
    KeepPaths,
    LogTo,
    Model,
    Original,
    OutputDir,
    Overwrite,
    Plugins,
    Scored,
    Set,
    SkipInvalid,
    TrustRemoteCode,
    loading,
    numbers,
    question_settings,
    sections,
)
from uwc.cli.printing import print_answers_page, print_rows
from uwc.errors import AttackFailed, ConfigError
from uwc.io import require_writable
from uwc.progress import FIRST_PROCESS

if TYPE_CHECKING:
    from uwc.cli.sections import FileSettings
    from uwc.results import AttackResults

_PARTS = {"attacker-data": "attacker.train", "retain": "attacker.retain", "unrelated": "attacker.unrelated"}
"""Option -> the name of its questions in `uwc.attack`."""


def attack_command(
    model: Model,
    data: Scored,
    attack: Annotated[
        list[str],
        typer.Option(
            rich_help_panel=ATTACKS,
            metavar="NAME",
            help="An attack, a precision or a chain: relearn+probe, nf4. May be repeated.",
        ),
    ],
    attacker_data: Annotated[
        Path | None,
        typer.Option(rich_help_panel=QUESTIONS, metavar="FILE", help="The attacker's questions from the forget set."),
    ] = None,
    retain: Annotated[
        Path | None,
        typer.Option(rich_help_panel=QUESTIONS, metavar="FILE", help="The attacker's questions from the retain set."),
    ] = None,
    unrelated: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=QUESTIONS, metavar="FILE", help="The attacker's questions that are unrelated to both sets."
        ),
    ] = None,
    translation_column: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=QUESTIONS,
            metavar="COLUMN",
            help="The column of the scored file that has translated questions.",
        ),
    ] = None,
    question_column: Annotated[
        list[str],
        typer.Option(
            rich_help_panel=QUESTIONS,
            metavar="COLUMN",
            help="A column of the scored file that has its questions in another form (aliases, ...); may be repeated.",
        ),
    ] = [],  # noqa: B006
    column: Columns = [],  # noqa: B006
    skip_invalid: SkipInvalid = False,
    original: Original = None,
    retrained: Annotated[
        str | None,
        typer.Option(
            "--retrained",
            "--control",
            rich_help_panel=MODELS,
            metavar="MODEL",
            help="A model that was never trained on the forget questions, as the control: what an attack elicits from "
            "it is not a leak.",
        ),
    ] = None,
    metric: Annotated[
        list[str],
        typer.Option(
            rich_help_panel=MEASURED,
            metavar="NAME",
            help="A metric by name or label. May be repeated. Default: extraction_strength.",
        ),
    ] = [],  # noqa: B006
    curve: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=ATTACKS,
            metavar="N,N,...",
            help="Efforts to score the attack at: 1,2,4,8. For one attack and one metric.",
        ),
    ] = None,
    over: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=ATTACKS,
            metavar="SETTING",
            help="The setting that --curve varies. Default: the effort of the attack.",
        ),
    ] = None,
    points: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=OUTPUT,
            metavar="FILE",
            help="A JSONL file to which points for `uwc robustness` are appended.",
        ),
    ] = None,
    split: Annotated[
        str,
        typer.Option(rich_help_panel=OUTPUT, metavar="SET", help="The name of the scored set: forget or retain."),
    ] = "forget",
    output_dir: OutputDir = None,
    overwrite: Overwrite = False,
    log_to: LogTo = [],  # noqa: B006
    keep_paths: KeepPaths = False,
    as_json: Json = False,
    setting: Set = [],  # noqa: B006
    plugin: Plugins = [],  # noqa: B006
    trust_remote_code: TrustRemoteCode = False,
    device: Device = None,
) -> None:
    """Score a model before and under attacks, which try to recover forgotten knowledge.

    Sections of --set: attack (settings.relearn.steps=20; texts=all or false), model, score.max_new_tokens,
    score.samples, seed.
    """
    from uwc.api import attack as attack_model
    from uwc.api import attack_curve, require_used
    from uwc.attacks.data import Attacker
    from uwc.cli.sections import AttackSections

    given = sections(
        AttackSections,
        setting,
        question_settings(column, skip_invalid=skip_invalid),
        trust_remote_code=trust_remote_code,
        device=device,
    )
    if points is not None:
        require_writable(points.parent, points.name)
    names = {"forget": split, "data": split, **_PARTS}
    columns = {_of_set(key, names): name for key, name in given.benchmark.settings.columns.items()}
    settings = given.attack.settings
    shared: dict[str, Any] = {
        "attacker": Attacker(
            train=attacker_data or (),
            retain=retain or (),
            unrelated=unrelated or (),
            translations=_in_column(data, given.benchmark.settings, translation_column) if translation_column else {},
            questions={name: _in_column(data, given.benchmark.settings, name) for name in question_column},
        ),
        "control": retrained,
        "original": original,
        "columns": columns,
        "skip_invalid": given.benchmark.settings.skip_invalid,
        "max_new_tokens": given.score.max_new_tokens,
        "own_tokenizer": given.model.own_tokenizer,
        "output_dir": output_dir,
        "overwrite": overwrite,
        "keep_paths": keep_paths,
        "log_to": log_to,
        **loading(given.model),
    }
    metrics = metric or ["extraction_strength"]
    if curve is None:
        found = attack_model(
            model,
            {split: data},
            attack,
            metrics=metrics,
            settings=settings,
            samples=given.score.samples,
            texts=given.attack.texts,
            seed=given.seed,
            **shared,
        )
    elif "samples" in given.score.model_fields_set:
        raise ConfigError("--set score.samples: a curve has no settings of sampled answers; leave them out")
    elif points is not None:
        raise ConfigError("--points and --curve exclude each other; a point is one attack at one effort")
    elif len(attack) != 1 or "+" in attack[0] or len(metrics) != 1:
        raise ConfigError("a curve is of one attack and one metric; give --attack and --metric once, without a chain")
    else:
        require_used(settings, attack)
        shared["settings"] = settings.get(attack[0])
        found = attack_curve(model, data, attack[0], numbers(curve), over=over, metric=metrics[0], **shared)
    if not FIRST_PROCESS:
        return
    if as_json:
        typer.echo(found.to_json(), nl=False)
    else:
        _print(found, f"{', '.join(attack)} on {data}")
        print_answers_page(output_dir)
    if points is not None:
        _append_points(found, points)
    failed = {key: why for attacked in found.attacks.models for key, why in attacked.failed.items()}
    if failed:
        raise AttackFailed("; ".join(f"{name}: {why}" for name, why in failed.items()))


def _append_points(found: "AttackResults", path: Path) -> None:
    from uwc.robustness import points_of

    with path.open("a", encoding="utf-8") as file:
        file.writelines(point.model_dump_json() + "\n" for point in points_of(found.attacks, found.model))


def _print(found: "AttackResults", title: str) -> None:
    if not found.curves:
        print_rows(title, [dict(row) for row in found.table()])
    for curve in found.curves:
        name = curve.model.run or "control"
        table = [
            {curve.over: effort, curve.metric: score} for effort, score in zip(curve.efforts, curve.scores, strict=True)
        ]
        print_rows(f"{curve.attack} on {name}: {curve.metric} {curve.before:.4g} before", table)
        if curve.half_effort is not None:
            typer.echo(f"half of the original's score is reached at {curve.over} = {curve.half_effort:.4g}")


def _of_set(key: str, names: Mapping[str, str]) -> str:
    """``"retain:question"`` with the name that the option's file has in `uwc.attack`."""
    name, colon, field = key.rpartition(":")
    return f"{names.get(name, name)}:{field}" if colon else key


def _in_column(scored: Path, files: "FileSettings", column: str) -> dict[str, str]:
    """Id -> question in a column of the scored file."""
    from uwc.data.question_files import sets_of

    own = {key: name for key, name in files.columns.items() if key.rpartition(":")[0] in ("", "forget", "data")}
    asked = {key.rpartition(":")[2]: name for key, name in own.items()} | {"question": column}
    read = sets_of({"forget": scored}, asked, left_out=[] if files.skip_invalid else None)
    return {e.id: e.question for e in read["forget"]}
