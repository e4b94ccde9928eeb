"""The command-line application: its commands, one file each, and errors as one-line messages."""

import logging
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from uwc import __version__, progress
from uwc.cli.attack import attack_command
from uwc.cli.calibrate import calibrate_command
from uwc.cli.compare import compare_command
from uwc.cli.data import data_command
from uwc.cli.import_logs import import_logs_command
from uwc.cli.list import explain_command, list_command, schema_command
from uwc.cli.replay import replay_command
from uwc.cli.robustness import robustness_command
from uwc.cli.score import score_command
from uwc.cli.study import study
from uwc.cli.unlearn import unlearn_command
from uwc.errors import UserError, reporting_full_disk

LOGGED = {"bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit"}
"""Logger -> beginning of a line that is suppressed: bitsandbytes reports that it has no kernel for this CPU."""
WARNED = (
    "`is_gradient_checkpointing` is deprecated",  # transformers, of a property that libraries read
    "Setting `save_embedding_layers` to `True`",  # peft, on saving an adapter of the embeddings, which is what we want
)
"""Beginnings of warnings that are suppressed."""


def silence() -> None:
    """Suppress these lines and warnings of libraries."""
    for logger, words in LOGGED.items():
        logging.getLogger(logger).addFilter(_Without(words))
    for words in WARNED:
        warnings.filterwarnings("ignore", message=words)


class _Without(logging.Filter):
    """A filter that removes records that begin with given words."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = words

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self.words)


INTERRUPTED = 130
"""Exit status after Ctrl-C, as in shells."""

app = typer.Typer(
    name="uwc",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _everywhere(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    _debug: Annotated[bool, typer.Option("--debug", help="Print the traceback of an error.")] = False,
) -> None:
    """Evaluate and compare unlearned language models, at equal retention and under attack."""


app.add_typer(study, name="study")
app.command("list")(list_command)
app.command("explain")(explain_command)
app.command("data")(data_command)
app.command("score")(score_command)
app.command("import-logs")(import_logs_command)
app.command("unlearn")(unlearn_command)
app.command("compare")(compare_command)
app.command("calibrate")(calibrate_command)
app.command("attack")(attack_command)
app.command("robustness")(robustness_command)
app.command("replay")(replay_command)
app.command("schema")(schema_command)


def main() -> None:
    """Run the command line; an error is printed in one line, and the exit status is not zero."""
    debug = "--debug" in sys.argv
    sys.argv = [a for a in sys.argv if a != "--debug"]
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    silence()
    signal.signal(signal.SIGINT, _interrupt)
    command = next((argument for argument in sys.argv[1:] if not argument.startswith("-")), "")
    try:
        with reporting_full_disk(Path.cwd()), progress.watched(f"uwc {command}"):
            app(standalone_mode=True)
    except _Interrupted:
        progress.note(f"interrupted; {_KEPT.get(command, _NOTHING_KEPT)}")
        sys.exit(INTERRUPTED)
    except Exception as error:
        if debug:
            raise
        kind = "error" if isinstance(error, UserError) else f"unexpected {type(error).__name__}"
        hint = "" if isinstance(error, UserError) else " (please report it; --debug prints the traceback)"
        progress.note(f"{kind}: {' '.join(str(error).split())}{hint}")
        sys.exit(1)


_RESUMES = "finished steps are cached: run the same command again to resume"
_NOTHING_KEPT = "nothing is cached: the same command starts from the beginning"
_KEPT = {
    "study": _RESUMES,
    "compare": _RESUMES,
    "replay": _RESUMES,
    "unlearn": "the same command resumes from the last checkpoint, if --set training.checkpoint_every=STEPS wrote one",
}


class _Interrupted(BaseException):
    """Ctrl-C. Not a KeyboardInterrupt, for which the command-line library prints only 'Aborted!'."""


def _interrupt(_signal: int, _frame: object) -> None:
    raise _Interrupted
