"""`uwc attack`: recovery of forgotten knowledge by attacks."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from uwc.cli.options import (
    ATTACKS,
    MEASURED,
    MODELS,
    NEVER_TRAINED,
    OUTPUT,
    QUESTIONS,
    AttackerData,
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
    QuestionColumns,
    Scored,
    Set,
    SkipInvalid,
    TrustRemoteCode,
    in_column,
    loading,
    numbers,
    question_settings,
    sections,
)
from uwc.cli.printing import print_answers_page, print_rows
from uwc.errors import AttackFailed, ConfigError, printable
from uwc.io import require_writable
from uwc.progress import first_process

if TYPE_CHECKING:
    from uwc.results import AttackResults, StrongestResults

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
            help="An attack, a precision (nf4) or a chain (relearn+probe). May be repeated. Default with --budget: "
            "all.",
        ),
    ] = [],  # noqa: B006
    budget: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=ATTACKS,
            metavar="minutes=N|runs=N",
            help="Search for the strongest attack within a budget. It is reported on other questions than those that "
            "it was chosen on.",
        ),
    ] = None,
    vary: Annotated[
        list[str],
        typer.Option(
            rich_help_panel=ATTACKS,
            metavar="SETTING=V,V,...",
            help="Values of a setting to choose the strongest attack among: lr=1e-5,1e-4 or relearn.lr=1e-5,1e-4. May "
            "be repeated: all combinations. Without --budget all are carried out.",
        ),
    ] = [],  # noqa: B006
    folds: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=ATTACKS,
            metavar="N",
            help="Parts of the subjects for --vary and --budget without --attacker-data; at least 3. Default: 3.",
        ),
    ] = None,
    attacker_data: AttackerData = None,
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
    question_column: QuestionColumns = [],  # noqa: B006
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
            help=f"{NEVER_TRAINED}, as the control: what an attack elicits from it is not a leak.",
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
    select: Annotated[
        list[str],
        typer.Option(
            rich_help_panel=ATTACKS,
            metavar="RULE",
            help="The rule by which the attack chooses its examples, for a curve of its own: random, likelihood or "
            "fisher. May be repeated.",
        ),
    ] = [],  # noqa: B006
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
    from uwc.api import attack_curve, require_used, strongest_attack
    from uwc.attacks.data import Attacker
    from uwc.attacks.strongest import read_vary
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
            translations=in_column(data, given.benchmark.settings, translation_column) if translation_column else {},
            questions={name: in_column(data, given.benchmark.settings, name) for name in question_column},
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
    searched = budget is not None or bool(vary) or folds is not None
    if select and curve is None and not searched:
        raise ConfigError("--select compares rules by their curves; give --curve, or --set attack.settings.NAME.select")
    if searched:
        left_out = {
            "--curve": curve,
            "--points": points,
            "--over": over,
            "--select": select or None,
            "--split": split if split != "forget" else None,
        }
        for name, value in left_out.items():
            if value is not None:
                raise ConfigError(f"{name} does not go together with --budget, --vary and --folds; leave it out")
        if len(metrics) != 1:
            raise ConfigError("the strongest attack is chosen by one metric; give --metric once")
        if folds is not None and attacker_data is not None:
            raise ConfigError("--folds divides the questions where there is no --attacker-data; leave one of them out")
        strongest = strongest_attack(
            model,
            data,
            attack,
            vary=read_vary(vary),
            budget=budget,
            folds=folds or 3,
            metric=metrics[0],
            settings=settings,
            seed=given.seed,
            **shared,
        )
        if first_process():
            _print_strongest(strongest, as_json=as_json)
        return
    if not attack:
        raise ConfigError("name an attack (--attack), or give a budget to try all of them (--budget minutes=10)")
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
        shared |= {"over": over, "select": select, "metric": metrics[0], "seed": given.seed}
        found = attack_curve(model, data, attack[0], numbers(curve), **shared)
    if not first_process():
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


def _print_strongest(found: "StrongestResults", *, as_json: bool) -> None:
    if as_json:
        typer.echo(found.to_json(), nl=False)
        return
    strongest, spent = found.strongest, found.strongest.spent
    typer.echo(f"{found.headline}.")
    print_rows(strongest.metric, found.table())
    if (share := found.share_text()) is not None:
        typer.echo(share)
    if strongest.surface:
        print_rows("every attack, on the scored questions", found.surface_table())
    print_rows("the attacks that were chosen", found.chosen_table())
    typer.echo(found.choice_text())
    left = f"; {strongest.not_tried} attacks were not tried" if strongest.not_tried else ""
    trained = f"{spent.steps:,} training steps, {spent.tokens:,} tokens"
    typer.echo(f"the search: {spent.runs} runs, {trained}, {spent.seconds:,.0f} s{left}")


def _append_points(found: "AttackResults", path: Path) -> None:
    from uwc.robustness import points_of

    with path.open("a", encoding="utf-8") as file:
        file.writelines(point.model_dump_json() + "\n" for point in points_of(found.attacks, found.model))


def _print(found: "AttackResults", title: str) -> None:
    if not found.curves:
        print_rows(title, [dict(row) for row in found.table()])
        for finding in found.attacks.findings():
            typer.echo(printable(finding))
    for curve in found.curves:
        name = curve.model.run or "control"
        table = [
            {curve.over: effort, curve.metric: score} for effort, score in zip(curve.efforts, curve.scores, strict=True)
        ]
        rule = f", select: {curve.select}" if curve.select else ""
        print_rows(f"{curve.attack} on {name}{rule}: {curve.metric} {curve.before:.4g} before", table)
    if half := found.half_table():
        print_rows(f"Half of the recovery of {found.curves[0].metric} by {found.curves[0].attack}", half)


def _of_set(key: str, names: Mapping[str, str]) -> str:
    """``"retain:question"`` with the name that the option's file has in `uwc.attack`."""
    name, colon, field = key.rpartition(":")
    return f"{names.get(name, name)}:{field}" if colon else key
