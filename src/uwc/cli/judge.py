"""`uwc judge`: the agreement of a judge of generated answers with labels by people."""

from pathlib import Path
from typing import Annotated

import typer

from uwc.cli.options import (
    MEASURED,
    QUESTIONS,
    Columns,
    Json,
    KeepPaths,
    OutputDir,
    Overwrite,
    Plugins,
    SetOfFew,
    file_columns,
    sections,
)
from uwc.cli.printing import print_rows, print_warnings


def judge_command(
    labels: Annotated[
        Path,
        typer.Option(
            rich_help_panel=QUESTIONS,
            metavar="FILE",
            help="Generated answers with labels: question, answer (the true one), output, label (yes or no), subject.",
        ),
    ],
    metric: Annotated[
        str,
        typer.Option(
            rich_help_panel=MEASURED, metavar="NAME", help="The metric whose values, 0 or 1, are the judge's verdicts."
        ),
    ] = "judge_says",
    column: Columns = [],  # noqa: B006
    output_dir: OutputDir = None,
    overwrite: Overwrite = False,
    keep_paths: KeepPaths = False,
    as_json: Json = False,
    setting: SetOfFew = [],  # noqa: B006
    plugin: Plugins = [],  # noqa: B006
) -> None:
    """Check a judge against labels by people: Cohen's kappa, with an interval, and the numbers of verdicts.

    Sections of --set: score (judges.language_model, settings.METRIC.KEY), model (device), seed.
    """
    from uwc.cli.sections import JudgeSections
    from uwc.errors import ConfigError
    from uwc.metrics.suites import metric_name
    from uwc.workflows.judging import check_judge

    given = sections(JudgeSections, setting)
    by_name = {metric_name(name): settings for name, settings in given.score.settings.items()}
    name = metric_name(metric)
    if other := [asked for asked in by_name if asked != name]:
        raise ConfigError(f"score.settings.{other[0]}: only {name} is measured here; leave it out, or give --metric")
    results = check_judge(
        labels,
        name,
        judges=given.score.judges.given(),
        settings=by_name.get(name, {}),
        columns=file_columns(column),
        seed=given.seed,
        output_dir=output_dir,
        overwrite=overwrite,
        keep_paths=keep_paths,
        device=given.model.device,
    )
    if as_json:
        typer.echo(results.to_json(), nl=False)
        return
    print_rows(results.headline, results.table())
    print_warnings(results.warnings)
