"""`uwc audit`: a system is audited by its answers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from uwc.cli.options import (
    ITS_TEXTS,
    MEASURED,
    MODELS,
    NEVER_TRAINED,
    QUESTIONS,
    Columns,
    Device,
    EndpointModel,
    EndpointUrl,
    Forget,
    Json,
    KeepPaths,
    ModelOrTexts,
    OutputDir,
    OutputsFile,
    Overwrite,
    Plugins,
    Set,
    SkipInvalid,
    TrustRemoteCode,
    endpoint_of,
    loading,
    one_system,
    question_settings,
    require_no_model,
    sections,
)
from uwc.cli.printing import print_rows, print_warnings
from uwc.errors import UserError, printable
from uwc.progress import first_process

if TYPE_CHECKING:
    from uwc.results import AuditResults


DEFAULT_METRIC, DEFAULT_LEAST = "rouge_l", 0.8


def audit_command(
    forget: Forget,
    model: ModelOrTexts = None,
    against: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=MODELS,
            metavar="MODEL",
            help=f"{NEVER_TRAINED}: can an observer of answers distinguish the two? {ITS_TEXTS}.",
        ),
    ] = None,
    control: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=MODELS,
            metavar="MODEL",
            help="With --against: a second retrained model, of another seed, as the control.",
        ),
    ] = None,
    budget: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=MEASURED,
            metavar="N",
            help="Search for leaks with at most N queries, in place of --against.",
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=MEASURED,
            metavar="NAME",
            help=f"With --budget: the metric by which an answer leaks. Default: {DEFAULT_METRIC}.",
        ),
    ] = None,
    at_least: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=MEASURED,
            metavar="VALUE",
            help=f"With --budget: the least value of the metric in an answer that leaks. Default: {DEFAULT_LEAST}.",
        ),
    ] = None,
    refusal_labels: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=QUESTIONS,
            metavar="FILE",
            help="With --budget: answers with labels (question, answer, output, label: yes for a refusal), by which "
            "the classifier of refusals is measured.",
        ),
    ] = None,
    column: Columns = [],  # noqa: B006
    skip_invalid: SkipInvalid = False,
    outputs: OutputsFile = None,
    endpoint: EndpointUrl = None,
    endpoint_model: EndpointModel = None,
    output_dir: OutputDir = None,
    overwrite: Overwrite = False,
    keep_paths: KeepPaths = False,
    as_json: Json = False,
    setting: Set = [],  # noqa: B006
    plugin: Plugins = [],  # noqa: B006
    trust_remote_code: TrustRemoteCode = False,
    device: Device = None,
) -> None:
    """Audit a model by its answers: does an observer distinguish it from a retrained one (--against), and how many
    questions leak, by a budget of queries (--budget)?

    Sections of --set: model, score.max_new_tokens, seed; with --endpoint also endpoint; with --against score.samples
    (count, temperature, top_p: sampled answers in place of greedy ones); with --budget audit (random_share, optimism,
    batch).
    """
    from uwc.api import audit_against, audit_leaks
    from uwc.cli.sections import AuditSections
    from uwc.data.outputs import Outputs

    given = sections(
        AuditSections,
        setting,
        question_settings(column, skip_invalid=skip_invalid),
        trust_remote_code=trust_remote_code,
        device=device,
    )
    server, _ = endpoint_of(endpoint, endpoint_model, (), given)
    system = one_system(outputs, server)
    if (model is None) == (system is None):
        raise UserError("give a MODEL, or texts with --outputs FILE, or a server with --endpoint URL: one of them")
    if system is not None:
        require_no_model(given.model, given.score, server)
    shared: dict[str, Any] = {
        "columns": given.benchmark.settings.columns,
        "skip_invalid": given.benchmark.settings.skip_invalid,
        "max_new_tokens": given.score.max_new_tokens,
        "seed": given.seed,
        "output_dir": output_dir,
        "overwrite": overwrite,
        "keep_paths": keep_paths,
        **loading(given.model),
    }

    def other(name: str | None) -> "str | Outputs | None":
        return None if name is None else name if system is None else Outputs(name)

    sampled = given.score.samples if "samples" in given.score.model_fields_set else None
    of_budget = {"--metric": metric, "--at-least": at_least, "--refusal-labels": refusal_labels}
    unused = [option for option, value in of_budget.items() if value is not None]
    if (against is None) == (budget is None):
        raise UserError(
            "give one of them: the retrained model with --against MODEL, or the most queries with --budget N"
        )
    if against is not None:
        unused += ["--set audit"] if "audit" in given.model_fields_set else []
        if unused:
            raise UserError(f"{unused[0]} is for --budget, and has no effect with --against; leave it out")
        results = audit_against(
            system or model,  # type: ignore[arg-type]
            other(against),  # type: ignore[arg-type]
            forget,
            control=other(control),
            samples=sampled,
            own_tokenizer=given.model.own_tokenizer,
            **shared,
        )
    else:
        if control is not None or sampled is not None or given.model.own_tokenizer:
            raise UserError(
                "--control, --set score.samples and --set model.own_tokenizer are for --against, and have no effect "
                "with --budget; leave them out"
            )
        assert budget is not None
        results = audit_leaks(
            system or model,  # type: ignore[arg-type]
            forget,
            budget=budget,
            settings=given.audit,
            refusal_labels=refusal_labels,
            metric=DEFAULT_METRIC if metric is None else metric,
            at_least=DEFAULT_LEAST if at_least is None else at_least,
            **shared,
        )
    if not first_process():
        return
    if as_json:
        typer.echo(results.to_json(), nl=False)
    else:
        _print(results)


def _print(results: "AuditResults") -> None:
    print_rows(f"audit of {results.model}", [dict(row) for row in results.table()])
    for sentence in results.sentences:
        typer.echo(printable(sentence))
    print_warnings(results.warnings)
