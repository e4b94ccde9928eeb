"""Command lines that are tried in processes of their own, with limits of time and memory, and how they may end."""

import json
import os
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from resource import RLIMIT_DATA, setrlimit

import pytest
from tests.pipeline.conftest import Started
from tests.torture.conftest import WHOLE

SECONDS = 60.0
MEMORY = 4 << 30
PER_TEST = 30
LONGEST = 500
"""The most characters of an error."""

FORGET, RETAIN = "forget.jsonl", "retain.jsonl"
Prepare = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """A command line, tried in a folder with `model`, `forget.jsonl` and `retain.jsonl`.

    Attributes:
        name: for messages.
        arguments: of uwc.
        prepare: writes or damages files in the folder.
        names: words of which an error must have one; none for any error.
        outputs: what a command that fails may leave in the folder.
        as_json: whether standard output of a success must be JSON without NaN and infinities.
    """

    name: str
    arguments: Sequence[str]
    prepare: Prepare = field(default=lambda folder: None, compare=False)
    names: Sequence[str] = ()
    outputs: Sequence[str] = ("out",)
    as_json: bool = False


def chunks(cases: Sequence[Case], *, every: int) -> list[object]:
    """All cases, some in each test; of `make test` every so many-th."""
    chosen = cases if WHOLE else cases[::every]
    return [
        pytest.param(chosen[at : at + PER_TEST], id=f"{at}-{min(at + PER_TEST, len(chosen)) - 1}")
        for at in range(0, len(chosen), PER_TEST)
    ]


def faults(cases: Sequence[Case], inputs: Path, folder: Path) -> list[str]:
    """Try the cases; how those that must not end so have ended."""
    found = []
    for number, case in enumerate(cases):
        here = folder / str(number)
        shutil.copytree(inputs, here)
        case.prepare(here)
        before = set(os.listdir(here))
        limited = partial(setrlimit, RLIMIT_DATA, (MEMORY, MEMORY))
        done = Started(*case.arguments, cwd=here, before=limited).end(within=SECONDS)
        left = set(os.listdir(here)) - before - set(case.outputs)
        if fault := fault_of(case, done, left):
            command = " ".join(shortened(repr(a)) for a in case.arguments)
            found.append(f"{case.name}: {fault}\n  uwc {command}\n  {done.stderr[-1500:]}")
        shutil.rmtree(here, ignore_errors=True)
    return found


def shortened(text: str) -> str:
    """The text with its middle left out."""
    return text if len(text) < 200 else f"{text[:100]}...{text[-50:]}"


_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_NEVER = re.compile(r"Traceback|^unexpected |please report it|RecursionError", re.MULTILINE)


def fault_of(case: Case, done: subprocess.CompletedProcess[str], left: set[str]) -> str:
    """What is wrong with an end; empty if nothing is."""
    status = done.returncode
    if status == -9:
        return f"a hang of {SECONDS:.0f} s, or killed"
    if status not in (0, 1, 2, 3, 4):
        return f"exit status {status}"
    for text in (done.stdout, done.stderr):
        if never := _NEVER.search(text) or _CONTROL.search(text):
            return f"{never[0]!r} is printed"
    if status == 0:
        return _not_json(done.stdout) if case.as_json else ""
    if left:
        return f"left {sorted(left)}"
    if status == 2:
        return "" if "Error" in done.stderr or "Usage: " in done.stdout else "no usage"
    if status > 2:
        return ""
    errors = [line.removeprefix("error: ") for line in done.stderr.splitlines() if line.startswith("error: ")]
    if len(errors) != 1:
        return f"{len(errors)} errors"
    if len(errors[0]) > LONGEST:
        return f"an error of {len(errors[0])} characters"
    if case.names and not any(name in errors[0] for name in case.names):
        return f"names none of {list(case.names)}"
    return ""


def _not_json(text: str) -> str:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} in JSON")

    try:
        json.loads(text, parse_constant=refuse)
    except ValueError as error:
        return str(error)
    return ""


def damaged(data: bytes, seed: int) -> bytes:
    """The bytes with some of them changed, removed, repeated or inserted."""
    rng = random.Random(seed)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at = rng.randrange(len(data) + 1)
        to = min(at + rng.choice((1, 1, 4, 40)), len(data))
        put = rng.choice(
            (
                b"",
                rng.randbytes(1),
                rng.randbytes(4),
                data[at:to] * 2,
                *b"{}[]\":,'&*#!|>%@`\n\t\\0-.",
                b"\xff",
                b"\x00",
            )
        )
        data = data[:at] + (bytes([put]) if isinstance(put, int) else put) + data[to:]
    return data


def numbered(name: str, count: int) -> Iterator[tuple[str, int]]:
    """Names of generated cases with their seeds."""
    return ((f"{name} {seed}", seed) for seed in range(count))
