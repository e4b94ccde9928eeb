"""The command-line application: its commands, one file each, and errors as one-line messages."""

import errno
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from uwc import __version__, progress
from uwc.cli.answers import answers_command
from uwc.cli.attack import attack_command
from uwc.cli.audit import audit_command
from uwc.cli.calibrate import calibrate_command
from uwc.cli.check import check_command
from uwc.cli.compare import compare_command
from uwc.cli.data import data_command
from uwc.cli.doctor import doctor_command
from uwc.cli.export import export_command
from uwc.cli.judge import judge_command
from uwc.cli.list import explain_command, list_command, schema_command
from uwc.cli.options import SHARED, Command, Commands
from uwc.cli.push import push_command
from uwc.cli.replay import replay_command
from uwc.cli.robustness import robustness_command
from uwc.cli.score import score_command
from uwc.cli.study import study
from uwc.cli.unlearn import unlearn_command
from uwc.errors import UserError, is_failure, reporting_full_disk, shortened

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Signals that end a command in one line, with the exit status of shells: 128 and the signal's number."""

app = typer.Typer(
    name="uwc",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    epilog="\n\n".join(["Options of several commands:", *(f"- {name}: {says}" for name, says in SHARED.items())]),
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
COMMANDS: dict[str, Callable[..., None]] = {
    "list": list_command,
    "explain": explain_command,
    "data": data_command,
    "score": score_command,
    "judge": judge_command,
    "answers": answers_command,
    "unlearn": unlearn_command,
    "compare": compare_command,
    "check": check_command,
    "calibrate": calibrate_command,
    "attack": attack_command,
    "audit": audit_command,
    "robustness": robustness_command,
    "export": export_command,
    "replay": replay_command,
    "push": push_command,
    "schema": schema_command,
    "doctor": doctor_command,
}
for name, command in COMMANDS.items():
    app.command(name, cls=Command)(command)


def main() -> None:
    """Run the command line; an error is printed in one line, and the exit status is not zero."""
    debug = "--debug" in sys.argv
    sys.argv = [a for a in sys.argv if a != "--debug"]
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    progress.silence()
    try:
        _handle_signals(_interrupt)
        with reporting_full_disk(Path.cwd()), progress.watched(f"uwc {_command()}"):
            app(standalone_mode=True)
    except _Interrupted as interrupted:
        _handle_signals(signal.SIG_IGN)
        _say_interrupted(interrupted.number)
        sys.exit(128 + interrupted.number)
    except BaseException as error:
        if debug or not is_failure(error):
            raise
        progress.note(_in_one_line(error))
        sys.exit(1)
    finally:
        _handle_signals(signal.SIG_DFL)  # nothing is left to be removed


_RESUMES = "finished steps are cached: run the same command again to resume"
_CONTINUES = "what was scored is in the output folder: run the same command again to continue"
_NOTHING_KEPT = "nothing is cached: the same command starts from the beginning"
_KEPT = {
    "study": _RESUMES,
    "compare": _RESUMES,
    "check": _RESUMES,
    "replay": _RESUMES,
    "unlearn": "the same command resumes from the last checkpoint, if --set training.checkpoint_every=STEPS wrote one",
}


class _Interrupted(BaseException):
    """A signal. Not a KeyboardInterrupt, for which the command-line library prints only 'Aborted!'."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _handle_signals(handler: Callable[[int, object], None] | signal.Handlers) -> None:
    for number in SIGNALS:
        if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:  # as nohup sets SIGHUP
            signal.signal(number, handler)


def _interrupt(number: int, _frame: object) -> None:
    """End the command; a second signal does not wait until what is half written is removed."""
    _handle_signals(_leave)
    raise _Interrupted(number)


def _leave(number: int, _frame: object) -> None:
    _handle_signals(signal.SIG_IGN)
    _say_interrupted(number)
    os._exit(128 + number)


def _say_interrupted(number: int) -> None:
    with suppress(OSError):  # the terminal may be gone
        progress.note(f"interrupted by {signal.Signals(number).name}; {_kept()}")


def _kept() -> str:
    """What remains of an interrupted command."""
    if any(argument.partition("=")[0] == "--endpoint" for argument in sys.argv):
        return (
            "the answers that came are in the output folder, if one is given: the same command asks only for the rest"
        )
    given = {argument.partition("=")[0] for argument in sys.argv}
    in_folder = "--output-dir" in given or any(argument.startswith("-o") for argument in given)
    if in_folder and "--outputs" not in given and _command() in ("score", "attack", "audit", "calibrate"):
        return _CONTINUES
    return _KEPT.get(_command(), _NOTHING_KEPT)


def _command() -> str:
    return next((argument for argument in sys.argv[1:] if not argument.startswith("-")), "")


_NO_MEMORY = (
    "DefaultCPUAllocator",
    "out of memory",
    "std::bad_alloc",
    "Cannot allocate memory",
    "can't start new thread",
    "Resource temporarily unavailable",
)
"""Words of libraries for a lack of memory, or of threads, which are refused for the same reason."""


def _in_one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    lacks = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    if lacks or any(words in text for words in _NO_MEMORY):
        return f"error: out of memory or threads; {_kept()} ({shortened(text, 200)})"
    if isinstance(error, UserError):
        return f"error: {text}"
    return f"unexpected {type(error).__name__}: {text} (please report it; --debug prints the traceback)"
