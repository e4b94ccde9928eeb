"""Errors that a user can cause and fix; each message is one line."""

import errno
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST = 500
"""The most characters of a message for users."""


class UserError(Exception):
    """Something the user can fix: the message names the bad value, the valid ones and the remedy.

    Of a message with more than `LONGEST` characters the middle is left out, which is where a long value stands.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(message if len(message) <= LONGEST else f"{message[:297]} ... {message[-198:]}")


class DataError(UserError):
    """A question file or benchmark is malformed; the message names the file and the line."""


class ModelError(UserError):
    """A checkpoint cannot be used as asked: wrong format, architecture, vocabulary or context length."""


class EndpointError(UserError):
    """A server does not answer, or refuses a request; the message names the server."""


class ConfigError(UserError):
    """A study's YAML file or a command-line option is wrong."""


class AttackFailed(UserError):
    """An attack did not change a model as it declares, or its prompts do not fit the model, so that there is no score
    under it."""


class TrainingDiverged(UserError):
    """A loss or gradient became NaN or infinite.

    Args:
        step: the optimizer step, counted from 1.
        term: the loss term that was not finite, or ``"gradient"``.
    """

    def __init__(self, message: str, *, step: int, term: str) -> None:
        super().__init__(message)
        self.step = step
        self.term = term


class DiskFull(UserError):
    """No space was left on the device; files that were complete before are kept."""


def is_failure(error: BaseException) -> bool:
    """Whether an exception is a library's failure, and not an interruption; panics of Rust are no `Exception`."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


@contextmanager
def reporting_full_disk(path: Path) -> Iterator[None]:
    """Raise DiskFull in place of a library's own error for a full disk, a quota or a limit of file sizes."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        numbers = set(_system_errors(error))
        if numbers & {errno.ENOSPC, errno.EDQUOT}:
            why, remedy = "no space left on the device", "free some space"
        elif errno.EFBIG in numbers:
            why, remedy = "a file was too large for the file system or the limit of the shell", "raise it (ulimit -f)"
        else:
            raise
        raise DiskFull(
            f"{why} while writing {path}; {remedy} and run the same command again: everything finished before is kept"
        ) from error


def _system_errors(error: BaseException | None) -> Iterator[int]:
    """The numbers of the system's errors that led to an error.

    Of safetensors they are in the message; torch.save raises another error while it handles them.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            yield error.errno
        yield from map(int, re.findall(r"os error (\d+)", str(error)))
        error = error.__cause__ or error.__context__


_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that change a terminal or the direction of text, and halves of characters."""


def printable(text: str) -> str:
    """The text for a terminal: characters that could change it are written as escapes."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def shortened(text: str, width: int) -> str:
    """The text, truncated to `width`."""
    return text if len(text) <= width else f"{text[: width - 3]}..."


def brief(text: str, width: int = 60) -> str:
    """The text in quotes for messages, truncated to `width`."""
    return repr(shortened(text, width))


def listed(names: Iterable[str], width: int = 240) -> str:
    """The names, separated by commas, for messages; truncated to `width`."""
    text = ", ".join(names)
    return text if len(text) <= width else f"{text[:width].rpartition(', ')[0] or text[:width]}, ..."
