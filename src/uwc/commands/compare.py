"""`uwc compare`: which of several unlearned models has forgotten most at equal retention, and how sure is that?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uwc.commands.options import (
    AuthorsFile,
    Columns,
    DataFile,
    Device,
    Dtype,
    EncoderModel,
    EntailmentModel,
    FactsFile,
    Json,
    Prompt,
    RetainFiles,
    RetentionTasks,
    Trust,
    VerbatimFile,
    dotted_settings,
    loading,
    named_files,
    pairs,
    utility_files,
)
from uwc.commands.printing import console
from uwc.errors import UserError

if TYPE_CHECKING:
    from uwc.workflows.comparison import Comparison

Unlearned = Annotated[
    list[str],
    typer.Option(
        "--unlearned", metavar="[NAME=]MODEL",
        help="An unlearned model: a folder, a hub name or the folder of an adapter. Several may follow, or repeat it. "
        "npo@0=... and npo@1=... are two seeds of one method.",
    ),
]  # fmt: skip
More = Annotated[list[str] | None, typer.Argument(metavar="[[NAME=]MODEL]...", help="Further unlearned models.")]


def compare_command(
    original: Annotated[str, typer.Option(help="The model before unlearning: a folder or hub name.")],
    forget: DataFile,
    retain: RetainFiles,
    unlearned: Unlearned = [],  # noqa: B006
    more: More = None,
    retrained: Annotated[
        str | None, typer.Option(help="A model that was never trained on the forget questions.")
    ] = None,
    holdout: Annotated[Path | None, typer.Option(help="Questions that no model was trained on.")] = None,
    tau: Annotated[float, typer.Option(help="Share of the original's retention to keep.")] = 0.95,
    suite: Annotated[
        str | None, typer.Option(help="What is reported: core, tofu, muse, membership or all; core by default.")
    ] = None,
    metric: Annotated[
        list[str], typer.Option(help="A further metric to report, by name or label; may be repeated.")
    ] = [],  # noqa: B006
    encoder: EncoderModel = None,
    entailment: EntailmentModel = None,
    retention_metric: Annotated[
        str, typer.Option(help="The metric to keep on the retain data; none: the tasks alone.")
    ] = "extraction_strength",
    retention_task: RetentionTasks = [],  # noqa: B006
    rank_by: Annotated[
        str | None, typer.Option(help="The metric to rank by; the retention metric if it can be, else ES.")
    ] = None,
    real_authors: AuthorsFile = None,
    world_facts: FactsFile = None,
    verbatim: VerbatimFile = None,
    attack: Annotated[
        list[str], typer.Option(help="An attack or a chain: relearn+probe; a quick set by default, 'none' for none.")
    ] = [],  # noqa: B006
    attack_examples: Annotated[int, typer.Option(help="Forget questions that are scored under attack.", min=2)] = 50,
    attack_calibrated: Annotated[
        bool, typer.Option("--attack-calibrated", help="Attack the calibrated models too.")
    ] = False,
    setting: Annotated[
        list[str],
        typer.Option("--set", help="A setting of an attack: relearn.lr=1e-4", metavar="ATTACK.SETTING=VALUE"),
    ] = [],  # noqa: B006
    max_new_tokens: Annotated[int, typer.Option(help="The most tokens of a generated answer; 0 generates none.")] = 64,
    title: Annotated[str, typer.Option(help="Title of the report.")] = "",
    out: Annotated[Path, typer.Option(help="Folder for the report and the results; a later run resumes there.")] = Path(
        "comparison"
    ),
    column: Columns = [],  # noqa: B006
    dtype: Dtype = "float32",
    device: Device = "auto",
    trust: Trust = False,
    prompt: Prompt = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Compare unlearned models at equal retention: what is still remembered, and how sure is that?"""
    from uwc.workflows.comparison import TAKEN, compare, named_by_path

    models = [*unlearned, *(more or [])]
    if not models:
        raise UserError("there is nothing to compare; give unlearned models with --unlearned")
    done = compare(
        original, named_by_path(models), forget=forget, retain=retain[0], retrained=retrained, holdout=holdout,
        further_retain=named_files(retain[1:], taken=TAKEN),
        sets=utility_files(real_authors, world_facts) | ({} if verbatim is None else {"verbatim": verbatim}),
        suite=suite, metrics=metric, judges={"encoder": encoder, "entailment": entailment},
        columns=pairs(column), attacks=_attacks(attack), attack_settings=dotted_settings(setting),
        attack_examples=attack_examples, attack_calibrated=attack_calibrated,
        tau=tau, retention_metric=None if retention_metric == "none" else retention_metric,
        retention=retention_task, rank_by=rank_by,
        max_new_tokens=max_new_tokens, title=title, out=out, **loading(dtype, device, trust, prompt),
    )  # fmt: skip
    if as_json:
        typer.echo(done.results.to_json(), nl=False)
    else:
        _print(done)


def _attacks(named: list[str]) -> list[str] | None:
    """The attacks to make: None for the quick set."""
    return None if not named else [name for name in named if name != "none"]


def _print(done: "Comparison") -> None:
    from uwc.reports.format import print_table
    from uwc.reports.tables_attacks import recovery_tables, recovery_words
    from uwc.reports.tables_frontier import tau_words
    from uwc.reports.tables_ranking import groups_table, indistinct, ranking_table

    results = done.results
    print_table(ranking_table(results), console())
    if results.groups:
        print_table(groups_table(results), console())
    if results.attacks:
        for table in recovery_tables(results):
            print_table(table, console())
    under_attack = recovery_words(results) if results.attacks else []
    for sentence in filter(None, [indistinct(results), *tau_words(results), *under_attack]):
        typer.echo(sentence)
    for warning in results.warnings:
        typer.echo(f"Warning: {warning.text}")
    typer.echo(f"report: {done.outcome.report}")
