"""Bad studies and settings: each makes a plan, or is refused in one line that names its key."""

import dataclasses
import os
import random
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from tests.pipeline.conftest import TINY
from tests.torture.fuzz import FORGET, RETAIN, Case, Prepare, chunks, damaged, numbered

from uwc.cli.sections import AttackSections, CalibrateSections, ScoreSections, UnlearnSections
from uwc.studies.config import StudyConfig
from uwc.training.settings import TrainingSettings

FILE = "study.yaml"
STUDY = (
    TINY.replace("name: tiny", "name: tiny\ntitle: A study", 1).replace(
        "{method: npo}]", "{method: npo}, {method: rmu}]"
    )
    + """
attack:
  chains: [relearn+quantization, {chain: prefix, name: first}]
  settings: {relearn: {steps: 2}}
  attacker: {forget_share: 0.5}
"""
)
NESTED = "[" * 3000 + "]" * 3000
VALUES = (
    "-1", "0", "1", "1.5", "1e30", ".nan", "-.inf", "10000000000", "9" * 5000, "true", "null", "abc", "''", "'1'", "[]", "{}",
    "[1, a, null]", "{a: {b: c}}", NESTED, "2020-01-01", "!!binary aGk=", '"\\e]0;evil\\a"', "../../outside", "!!python/object:os.x {}",
    "x" * 20_000, "[&a a, *a]", "&a [*a]",
)  # fmt: skip
SOME = 3
"""How many of the values each key is given."""


def keys_of(kind: Any, before: str = "") -> Iterator[str]:
    """All keys of a section with those below, items of lists by the number 0."""
    arguments = [a for a in typing.get_args(kind) if a not in (type(None), Ellipsis)]
    if isinstance(kind, type) and (issubclass(kind, BaseModel) or dataclasses.is_dataclass(kind)):
        annotations = (
            {name: field.annotation for name, field in kind.model_fields.items()}
            if issubclass(kind, BaseModel)
            else typing.get_type_hints(kind)
        )
        for name, annotation in annotations.items():
            yield f"{before}{name}"
            yield from keys_of(annotation, f"{before}{name}.")
    elif typing.get_origin(kind) is tuple:
        yield f"{before}0"
        yield from keys_of(arguments[0], f"{before}0.")
    else:
        for argument in arguments:
            yield from keys_of(argument, before)


def values_of(key: str) -> list[str]:
    """The values that a key is given."""
    return random.Random(key).sample(VALUES, SOME)


def planning(
    name: str, *options: str, file: str = FILE, prepare: Prepare | None = None, names: tuple[str, ...] = ()
) -> Case:
    """Plans a study."""
    return Case(
        name, ("study", "plan", file, "--json", "-o", "out", *options), prepare or holding(STUDY), names, as_json=True
    )


def holding(text: str | bytes) -> Prepare:
    """Writes the study's file."""

    def write(folder: Path) -> None:
        (folder / FILE).write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))

    return write


KEYS = [
    *keys_of(StudyConfig),
    *keys_of(TrainingSettings, "unlearn.training."),
    *keys_of(TrainingSettings, "unlearn.runs.0.training."),
    *(
        f"benchmark.settings.{key}"
        for key in ("authors", "forget_share", "facts", "phrasings", "holdout", "general", "seed")
    ),
    *("benchmark.settings.nosuch", "unlearn.runs.1.settings.npo.beta", "unlearn.runs.2.settings.rmu.layer"),
    *("unlearn.runs.0.weights.nosuch", "attack.settings.relearn.lr", "attack.chains.1.settings.prefix.tokens"),
    *(
        "unlearn.runs.99.method",
        "name.name",
        "unlearn.runs.-1.method",
        "model.build.layers.0",
        "nosuch.key",
        "plugins.0",
    ),
]


def of_keys() -> Iterator[Case]:
    """Each key of a study with some bad values."""
    for key in dict.fromkeys(KEYS):
        for value in values_of(key):
            names = (*key.split(".")[:: len(key.split(".")) - 1 or 1], "--set", FILE, value[:100].strip("'"))
            yield planning(f"{key}={value[:30]}", "--set", f"{key}={value}", names=names)


def of_commands() -> Iterator[Case]:
    """Each key of the commands for one model, of which some cannot be loaded so that nothing is computed."""
    commands: Mapping[str, tuple[Any, tuple[str, ...]]] = {
        "score": (ScoreSections, ("score", "nosuch", "--data", FORGET)),
        "calibrate": (CalibrateSections, ("calibrate", "nosuch", "nosuch", "--forget", FORGET, "--retain", RETAIN)),
        "attack": (AttackSections, ("attack", "nosuch", "--data", FORGET, "--attack", "prefix")),
        "unlearn": (
            UnlearnSections,
            ("unlearn", "nosuch", "--method", "gd", "--forget", FORGET, "--retain", RETAIN, "-o", "out"),
        ),
    }
    for command, (sections, arguments) in commands.items():
        keys = [*keys_of(sections), *(keys_of(TrainingSettings, "training.") if command == "unlearn" else ())]
        for key in dict.fromkeys(keys):
            for value in values_of(command + key)[:2]:
                names = (*key.split(".")[:: len(key.split(".")) - 1 or 1], "--set", "nosuch", value[:100].strip("'"))
                yield Case(f"{command}: {key}={value[:30]}", (*arguments, "--set", f"{key}={value}"), names=names)


def doubled(times: int, line: str) -> str:
    """Aliases of aliases."""
    return "a0: &a0 {k: v}\n" + "".join(line.format(n=n, m=n - 1) for n in range(1, times))


FILES: Mapping[str, str | bytes] = {
    "nothing": "", "blank": "\n\n", "comment": "# a\n", "null": "null", "5": "5", "text": "quickstart", "list": "[1, 2]",
    "BOM": "\ufeff" + STUDY, "UTF-16": STUDY.encode("utf-16"), "Latin-1": "name: é".encode("latin-1"), "NUL": STUDY.replace("tiny", "ti\0ny"),
    "surrogate": STUDY.replace("tiny", "ti\ud800ny"), "escape": 'name: "\\e[31m"\n' + STUDY, "tabs": "name:\tx\n\tbenchmark: y", "cut": STUDY[:200],
    "two documents": STUDY + "---\n" + STUDY, "repeated key": STUDY + "name: other\n", "unclosed": "name: [1, 2", "no colon": "name\nbenchmark\n",
    "bomb of aliases": doubled(40, "a{n}: &a{n} [*a{m}, *a{m}, *a{m}]\n"), "bomb of merges": doubled(30, "a{n}: &a{n} {{<<: [*a{m}, *a{m}, *a{m}]}}\n"),
    "long bomb": doubled(5000, "a{n}: &a{n} [*a{m}]\n"), "long merges": doubled(3000, "a{n}: &a{n} {{<<: *a{m}}}\n"),
    "cycle": "name: &a [*a]", "cycle of mappings": "name: &a {b: *a}", "merge of itself": "&a\n<<: *a\nname: x", "merge of text": "<<: abc\nname: x",
    "merge of a list": "<<: [1, 2]", "unknown alias": "name: *nosuch", "two anchors": "a: &x 1\nb: &x 2\nname: *x",
    "deep flow": "name: " + "[" * 20_000, "deep and closed": "name: " + "[" * 5000 + "]" * 5000, "deep mappings": "{a: " * 3000 + "1" + "}" * 3000,
    "deep blocks": "".join(" " * n + "a:\n" for n in range(1500)), "python object": "name: !!python/object/apply:os.mkdir [pwned]",
    "python name": "name: !!python/name:os.system", "unknown tag": "name: !nosuch x", "binary": "name: !!binary aGVsbG8=", "bad binary": "name: !!binary '*'",
    "set": "name: !!set {a, b}", "omap": "name: !!omap [a: 1, b: 2]", "pairs": "name: !!pairs [a: 1]", "bad int": "name: !!int abc", "bad float": "a: !!float x",
    "bad bool": "name: !!bool 5", "bad timestamp": "name: !!timestamp abc", "empty int": "seed: !!int ''", "empty float": "seed: !!float ''", "int of a list": "seed: !!int [1]", "float of a sign": "seed: !!float +",
    "bad date": "name: 2020-13-45", "bad time": "name: 2020-01-01 25:61:61", "sexagesimal": "seed: 1:30:00", "octal": "seed: 0777",
    "digits": f"seed: {'9' * 10_000}", "hexadecimal": f"seed: 0x{'f' * 10_000}", "sexagesimals": "seed: " + ":".join(["59"] * 3000),
    "keys of numbers": "1: 2\n3.5: 4", "key of null": "null: 1", "key of a list": "? [a, b]\n: c", "key of a mapping": "? {a: b}\n: c", "key of a date": "2020-01-01: 1",
    "key of bytes": "!!binary aGk=: 1", "key of true": "true: 1\nyes: 2", "long key": f"{'k' * 100_000}: 1", "long keys": f"? {'k' * 100_000}\n: 1",
    "directive": "%YAML 9.9\n---\nname: x", "bad directive": "%TAG\n---\nname: x", "many keys": "".join(f"k{i}: 1\n" for i in range(30_000)),
    "many values": f"name: [{'1, ' * 150_000}]", "long text": f"name: {'x' * 3_000_000}", "folded": "name: >\n" + "  x\n" * 100_000,
    "right to left": "name: \u202eabc", "line separators": "name: a\u2028b\u0085c", "percent": "name: %s %n {0}", "markup": STUDY.replace("A study", "'[red]x[/blue]'"),
    "runs of null": STUDY.split("unlearn:")[0] + "unlearn: {runs: [null]}", "runs of a bomb": STUDY.split("unlearn:")[0] + "unlearn: {runs: &a [*a]}",
    "many runs": STUDY.split("unlearn:")[0] + "unlearn: {runs: [" + "".join(f"{{method: gd, name: r{i}}}, " for i in range(300)) + "]}",
    "many seeds": STUDY.split("unlearn:")[0] + f"unlearn: {{seeds: {list(range(2000))}, runs: [{{method: gd}}]}}",
    "repeated seeds": STUDY.split("unlearn:")[0] + "unlearn: {seeds: [0, 0], runs: [{method: gd}]}",
    "seeds of true": STUDY.split("unlearn:")[0] + "unlearn: {seeds: [true, 2.5], runs: [{method: gd}]}",
}  # fmt: skip


def of_files() -> Iterator[Case]:
    """Whole files, good ones with damage, and what is no file."""
    for name, text in FILES.items():
        yield planning(name, prepare=holding(text), names=(FILE,))
    for name, seed in numbered("damaged study", 90):
        yield planning(name, prepare=holding(damaged(STUDY.encode(), seed)), names=(FILE,))
    things: Mapping[str, Prepare] = {
        "a folder": lambda f: (f / FILE).mkdir(),
        "a pipe": lambda f: os.mkfifo(f / FILE),
        "a dangling link": lambda f: (f / FILE).symlink_to("nowhere"),
        "a link to itself": lambda f: (f / FILE).symlink_to(FILE),
        "a link to a device": lambda f: (f / FILE).symlink_to("/dev/zero"),
        "missing": lambda f: None,
    }
    for name, prepare in things.items():
        yield planning(name, prepare=prepare, names=(FILE,))
    for path in (
        "",
        "/dev/zero",
        "nosuch",
        "x" * 5000,
        "a/" * 3000,
        "\x1b]0;evil\x07",
        "~nobody-of-that-name/x.yaml",
        ".",
    ):
        yield planning(f"the path {path[:20]!r}", file=path)


def of_forms() -> Iterator[Case]:
    """Options that are no KEY=VALUE, and several at once."""
    for option in (
        "", "=", "a", "a=", "=a", ".=1", "a..b=1", ".a=1", "a.=1", "name", "name==", "name=[", "name={", "name=*a", "name=&a", "name='", "name=\t",
        "x" * 5000 + "=1", ".".join("a" * 3000) + "=1", "\x1b[31m=1", "a=\x1b[31m", "unlearn.runs.99999999999999999999=1", "unlearn.runs.²=1",
        "unlearn.runs.0.0=1", "unlearn.runs.00.method=ga", "1=2", "null=1", "name=!!python/name:os.system", "name=<<", "<<={a: b}",
        "name=%", "name=@", "name=`", "name=---", "name=...", "name=a: b: c", "name={a: 1, a: 2}", "--set", "name=\ud800",
    ):  # fmt: skip
        yield planning(f"--set {option[:30]!r}", "--set", option)
    for first, second in (
        ("calibrate=null", "calibrate.tau=0.5"),
        ("calibrate=1", "calibrate.tau=0.5"),
        ("unlearn.runs=[]", "unlearn.runs.0=1"),
    ):
        yield planning(f"{first} and {second}", "--set", first, "--set", second)
    yield planning("a key deep in new ones", *(f"--set={'a.' * depth}a=1" for depth in (1, 10, 100, 990)))


CASES = [*of_keys(), *of_commands(), *of_files(), *of_forms()]


@pytest.mark.parametrize("cases", chunks(CASES, every=100))
def test_settings(cases: list[Case], try_all: Callable[..., None]) -> None:
    try_all("bad study or --set", cases)
