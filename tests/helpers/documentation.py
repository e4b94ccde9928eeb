"""What the documentation tells its readers to run: the commands and the Python of its fenced blocks."""

import re
import shlex
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
SHELLS = ("bash", "sh", "shell", "console")
LAUNCHERS = ("accelerate", "torchrun", "python", "do", "then", "time")
"""Words before `uwc` in a command that runs it."""
WRITTEN = ("-o", "--output-dir", "--save", "--points")
RESULTS = {"study run ": "runs", "check ": "checks"}
"""Command -> the folder in which each study, or each model, has one of its own."""
_FENCE = re.compile(r"(?ms)^[ \t]*(?:[-*+] +)?(```+|~~~+)[ \t]*\{?[ \t]*\.?([\w-]*)[^\n]*\n(.*?)^[ \t]*\1[ \t]*$")
_ASSIGNED = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, the line of its first line, its language, and its text without indentation."""

    page: str
    line: int
    language: str
    text: str


@dataclass(frozen=True)
class Documented:
    """A command: its page, its line, and the arguments of `uwc`."""

    page: str
    line: int
    arguments: tuple[str, ...]

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def text(self) -> str:
        """The arguments in one line."""
        return " ".join(self.arguments)

    @property
    def sense(self) -> str:
        """The arguments in one line, with the long form of an option that has two."""
        return re.sub(r"(?<= )-o(?= )", "--output-dir", self.text)

    @property
    def makes(self) -> list[str]:
        """The files and folders that it writes."""
        given = dict(zip(self.arguments, self.arguments[1:], strict=False))
        made = [given[option].rstrip("/") for option in WRITTEN if option in given]
        for command, folder in RESULTS.items():
            if self.text.startswith(command):
                named = self.text.removeprefix(command).split()[0].partition("=")[0]
                made.append(f"{made[0] if made else folder}/{Path(named).stem}")
        return made

    @property
    def reads(self) -> list[str]:
        """The files and folders that it may read."""
        words = re.split(r"[ =,\[\]']", self.text)
        return [word.rstrip("/") for word in words if word.rstrip("/") not in self.makes]


def pages() -> list[Path]:
    """README, CONTRIBUTING and everything in docs."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def documented_blocks() -> list[Block]:
    """The fenced blocks of all pages but the tutorials, which tests/docs runs."""
    found = []
    for page in pages():
        if page.parent.name == "tutorials":
            continue
        found += blocks(page.relative_to(ROOT).as_posix(), page.read_text(encoding="utf-8"))
    return found


def blocks(page: str, text: str) -> Iterator[Block]:
    """The fenced blocks of a page, also indented ones."""
    for fence in _FENCE.finditer(text):
        yield Block(page, text.count("\n", 0, fence.start(3)) + 1, fence[2], textwrap.dedent(fence[3]))


def commands(block: Block) -> Iterator[Documented]:
    """The commands of a block of a shell, and those that a pipeline of CI runs in a block of YAML."""
    if block.language in SHELLS:
        yield from _of_script(block.page, block.line, block.text, prompted=block.language == "console")
    elif block.language in ("yaml", "yml"):
        for text in _texts(yaml.safe_load(block.text)):
            line = block.line + block.text[: block.text.find(text.split("--")[0].strip())].count("\n")
            yield from _of_script(block.page, line, text, prompted=False)


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict | list):
        for value in content.values() if isinstance(content, dict) else content:
            yield from _texts(value)


def _of_script(page: str, line: int, text: str, *, prompted: bool) -> Iterator[Documented]:
    whole, first = "", line
    for number, written in enumerate(text.splitlines(), start=line):
        here = written.strip()
        if here.startswith("$ "):
            here = here[2:]
        elif prompted and not whole:
            continue  # what the command prints
        first = first if whole else number
        whole += here.removesuffix("\\")
        if not here.endswith("\\"):
            for words in _simple_commands(whole):
                if arguments := _arguments(words):
                    yield Documented(page, first, arguments)
            whole = ""


def _simple_commands(line: str) -> Iterator[list[str]]:
    """The words of each command of a line, without comments and redirections."""
    if "uwc" not in line:
        return
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>")
    lexer.whitespace_split, lexer.commenters = True, "#"
    words: list[str] = []
    tokens = iter(lexer)
    for token in tokens:
        if token[0] in "<>":
            next(tokens, None)
        elif set(token) <= set(";&|"):
            yield words
            words = []
        else:
            words.append(token)
    yield words


def _arguments(words: Sequence[str]) -> tuple[str, ...]:
    """What follows `uwc`; nothing for another command."""
    words = list(words)
    while words and _ASSIGNED.fullmatch(words[0]):
        del words[0]
    at = next((i for i, word in enumerate(words) if word == "uwc" or word.endswith("/uwc")), None)
    if at is None or (at and words[0] not in LAUNCHERS):
        return ()
    return tuple(words[at + 1 :])
