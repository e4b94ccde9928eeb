"""`uwc push`: uploads to the hub of Hugging Face."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from uwc.cli.options import OUTPUT, Json
from uwc.cli.printing import print_json, print_rows
from uwc.errors import printable

if TYPE_CHECKING:
    from uwc.workflows.pushing import Pushed


def push_command(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A folder that uwc wrote: a model, or the results of a study.")
    ],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="OWNER/NAME on the hub; created if it does not exist.")],
    repo_type: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=OUTPUT,
            metavar="TYPE",
            help="The repository's type: model or dataset. Default: model for a model, dataset for results.",
        ),
    ] = None,
    private: Annotated[
        bool,
        typer.Option(
            "--private/--public",
            rich_help_panel=OUTPUT,
            help="Visibility of a new repository; an existing public one needs --public.",
        ),
    ] = True,
    message: Annotated[
        str | None, typer.Option(rich_help_panel=OUTPUT, metavar="TEXT", help="The message of the commit.")
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(rich_help_panel=OUTPUT, metavar="BRANCH", help="The branch; created if it does not exist."),
    ] = None,
    with_answers: Annotated[
        bool,
        typer.Option(
            "--with-answers",
            rich_help_panel=OUTPUT,
            help="Also upload questions and answers: the texts to be forgotten, and the models' answers.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", rich_help_panel=OUTPUT, help="Only list the files and their sizes.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Upload a model with its card, or results, to the hub of Hugging Face.

    The token is that of `hf auth login`, or of the environment variable HF_TOKEN; it is no option, since the shell
    would keep it in its history. The upload is one commit: it arrives whole, or not at all.
    """
    from uwc.workflows.pushing import push

    def show(planned: "Pushed") -> None:
        if not as_json:
            rows: list[dict[str, Any]] = [{"file": name, "bytes": size} for name, size in planned.files.items()]
            access = "private" if planned.private else "public"
            print_rows("files", rows)
            typer.echo(printable(f"to the {access} {planned.repo_type} {planned.repo}"))

    done = push(
        run,
        repo,
        repo_type=repo_type,  # type: ignore[arg-type]  # checked by the function
        private=private,
        message=message,
        revision=revision,
        with_answers=with_answers,
        dry_run=dry_run,
        shown=show,
    )
    if as_json:
        print_json(asdict(done))
    elif done.url:
        typer.echo(done.url)
