"""The command line: its commands, one file each, are put together here, and errors are told."""

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
from uwc.cli.import_logs import import_logs_command
from uwc.cli.list import explain_command, list_command, schema_command
from uwc.cli.replay import replay_command
from uwc.cli.robustness import robustness_command
from uwc.cli.score import score_command
from uwc.cli.study import study
from uwc.cli.unlearn import unlearn_command
from uwc.errors import UserError, reporting_full_disk

LOGGED = {"bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit"}
"""Logger -> how the line begins: bitsandbytes has no kernel of its own for a CPU, and then takes a slower way."""
WARNED = (
    "`is_gradient_checkpointing` is deprecated",  # transformers, of a property that libraries read
    "Setting `save_embedding_layers` to `True`",  # peft, on saving an adapter of the embeddings, which is what we want
)
"""How the message begins."""


def silence() -> None:
    """Leave out these lines."""
    for logger, words in LOGGED.items():
        logging.getLogger(logger).addFilter(_Without(words))
    for words in WARNED:
        warnings.filterwarnings("ignore", message=words)


class _Without(logging.Filter):
    """Lets all pass but what begins with these words."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = words

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self.words)


INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""

app = typer.Typer(
    name="uwc",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
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
    _debug: Annotated[bool, typer.Option("--debug", help="Show where an error happened.")] = False,
) -> None:
    """Has this language model really forgotten, and which unlearning method is better?"""


app.add_typer(study, name="study")
app.command("list")(list_command)
app.command("explain")(explain_command)
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
    """Run the command line; a mistake of the user's ends in one line and a non-zero exit status."""
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
        hint = "" if isinstance(error, UserError) else " (please report it; --debug shows where it happened)"
        progress.note(f"{kind}: {' '.join(str(error).split())}{hint}")
        sys.exit(1)


_RESUMES = "every finished step is kept: run the same command again to resume"
_NOTHING_KEPT = "nothing is kept: the same command starts from the beginning"
_KEPT = {
    "study": _RESUMES,
    "compare": _RESUMES,
    "replay": _RESUMES,
    "unlearn": "the same command resumes from the last checkpoint, if --set training.checkpoint_every=STEPS wrote one",
}


class _Interrupted(BaseException):
    """Ctrl-C. Not a KeyboardInterrupt, which the command-line library would turn into a bare 'Aborted!'."""


def _interrupt(_signal: int, _frame: object) -> None:
    raise _Interrupted
