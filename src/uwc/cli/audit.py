"""`uwc audit`: a system is audited by its answers."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from uwc.cli.options import (
    MODELS,
    Columns,
    Device,
    EndpointModel,
    EndpointUrl,
    Forget,
    Json,
    KeepPaths,
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
    sections,
)
from uwc.cli.printing import print_rows, print_warnings
from uwc.errors import UserError, printable
from uwc.progress import FIRST_PROCESS

if TYPE_CHECKING:
    from uwc.results import AuditResults


def audit_command(
    forget: Forget,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="A folder, a hub name or the folder of an adapter; nothing with --outputs or --endpoint.",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=MODELS,
            metavar="MODEL",
            help="A model that was never trained on the forget questions: can an observer of answers distinguish the "
            "two? With --outputs or --endpoint the file of its texts.",
        ),
    ] = None,
    control: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=MODELS,
            metavar="MODEL",
            help="Another one of another seed, likewise: two retrained models differ too.",
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
    """Audit a model by its answers: does an observer distinguish it from a retrained one (--against)?

    Sections of --set: model, score.max_new_tokens, score.samples (count, temperature, top_p: sampled answers in place
    of greedy ones), seed; with --endpoint also endpoint.
    """
    from uwc.api import audit_against
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
    shared: dict[str, Any] = {
        "columns": given.benchmark.settings.columns,
        "skip_invalid": given.benchmark.settings.skip_invalid,
        "max_new_tokens": given.score.max_new_tokens,
        "seed": given.seed,
        "own_tokenizer": given.model.own_tokenizer,
        "output_dir": output_dir,
        "overwrite": overwrite,
        "keep_paths": keep_paths,
        **loading(given.model),
    }

    def other(name: str | None) -> "str | Outputs | None":
        return None if name is None else name if system is None else Outputs(name)

    if against is None:
        raise UserError("give the retrained model with --against MODEL")
    results = audit_against(
        system or model,  # type: ignore[arg-type]
        other(against),  # type: ignore[arg-type]
        forget,
        control=other(control),
        samples=given.score.samples if "samples" in given.score.model_fields_set else None,
        **shared,
    )
    if not FIRST_PROCESS:
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
