"""Wrong command lines: each ends in a result, the usage, or one line that names the mistake."""

import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
from tests.pipeline.conftest import TINY
from tests.torture.fuzz import FORGET, RETAIN, Case, chunks

from uwc import answers
from uwc.cli.main import app

QUICK = ("--set", "score.max_new_tokens=0")
LINES: Mapping[str, tuple[str, ...]] = {
    "list": ("list", "metrics"),
    "explain": ("explain", "ES"),
    "schema": ("schema", "score"),
    "doctor": ("doctor", "--no-self-test"),
    "data": ("data", FORGET, RETAIN),
    "score": ("score", "model", "--data", FORGET, "--metric", "ES", *QUICK),
    "calibrate": ("calibrate", "model", "model", "--forget", FORGET, "--retain", RETAIN, "--search-only", *QUICK),
    "attack": ("attack", "model", "--data", FORGET, "--attack", "pruning", *QUICK),
    "audit": ("audit", "model", "--against", "model", "--forget", FORGET, "--set", "score.max_new_tokens=1"),
    "unlearn": ("unlearn", "model", "--method", "gd", "--forget", FORGET, "--retain", RETAIN, "--set", "training.epochs=1", "-o", "out"),
    "compare": ("compare", "nosuch", "--original", "model", "--forget", FORGET, "--retain", RETAIN, "-o", "out"),
    "check": ("check", "nosuch", "--original", "model", "--forget", FORGET, "--retain", RETAIN, "-o", "out"),
    "robustness": ("robustness", "points.jsonl"),
    "judge": ("judge", "--labels", "labels.jsonl", "--metric", "exact_match"),
    "texts": ("score", "--outputs", "logs.json"),
    "leaks": ("audit", "model", "--budget", "2", "--forget", FORGET, "--set", "score.max_new_tokens=1"),
    "replay": ("replay", "results.json"),
    "answers": ("answers", "answers.parquet"),
    "export": ("export", "results.json", "-o", "out"),
    "push": ("push", "model", "me/x", "--dry-run"),
    "study plan": ("study", "plan", "study.yaml", "-o", "out"),
    "study run": ("study", "run", "study.yaml", "--set", "model.build=null", "--set", "model.path=nosuch", "-o", "out"),
    "study step": ("study", "step", "study.yaml", "nosuch", "-o", "out"),
    "study list": ("study", "list"),
}  # fmt: skip
"""A line of each command that ends in seconds."""
VALUES = (
    "", " ", "-1", "0", "nan", "inf", "1e400", "9" * 400, "nosuch", "\x1b]0;evil\x07", "\u202eabc", "\ud800", "[red]x[/red]", "{", "%s", "*", "--", "-",
    "a=b=c", "=", "x" * 5000, "model", FORGET, ".", "/", "/dev/null", "nosuch/nosuch", "~nobody-of-that-name/x", "../outside", "1,,2", "a+b", "ES", "forget",
)  # fmt: skip
EACH = 2
"""How many of the values each option and argument is given."""
POINT = '{"checkpoint": "a", "metric": "es", "attack": "relearn", "split": "forget", "before": 0.5, "after": 0.25}\n'
LABELLED = '{"question": "q", "answer": "a", "output": "a", "label": true}\n'


def prepare(folder: Path) -> None:
    """Files that the lines name."""
    (folder / "study.yaml").write_text(TINY, encoding="utf-8")
    (folder / "points.jsonl").write_text(POINT * 3, encoding="utf-8")
    (folder / "labels.jsonl").write_text(LABELLED * 3, encoding="utf-8")
    (folder / "results.json").write_text("{}", encoding="utf-8")
    (folder / "logs.json").write_text("{}", encoding="utf-8")
    asked = {"questions": ["q"], "secrets": [()], "answers": ["a"], "generated": ["a"]}
    of_model = {"set": "forget", "ids": ["0"], "clusters": [""], "role": "unlearned", "model": "npo"}
    table = answers.rows(**asked, **of_model, values={"extraction_strength": [0.5]})  # type: ignore[arg-type]
    answers.write(table, folder, of="score.json")


def commands() -> Iterator[tuple[str, Any]]:
    """All commands, those of groups by both words."""
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", {})
        yield from ((f"{name} {second}", of_group) for second, of_group in inner.items())
        if not inner:
            yield name, command


def case(name: str, *arguments: str) -> Case:
    """A line, of which every value is a place where it may write."""
    return Case(name, arguments, prepare, outputs=("out", *(a.split("/")[0] for a in arguments)))


def of_options() -> Iterator[Case]:
    """Each option of each command with wrong values, twice, and without one."""
    for name, command in commands():
        line = LINES[name]
        for parameter in command.params:
            if parameter.param_type_name != "option":
                continue
            option = parameter.opts[0]
            if parameter.is_flag:
                yield case(f"{name} {option}=x", *line, f"{option}=x")
                yield case(f"{name} {option} {option}", *line, option, option)
                continue
            yield case(f"{name} {option} without a value", *line, option)
            for value in random.Random(name + option).sample(VALUES, EACH):
                yield case(f"{name} {option} {value[:20]!r}", *line, option, value)
            yield case(f"{name} {option} twice", *line, f"{option}={FORGET}", option, RETAIN)


def of_arguments() -> Iterator[Case]:
    """Each word of each line left out, given twice, or replaced."""
    for name, line in LINES.items():
        first = len(name.split())
        for place in range(first, len(line)):
            yield case(f"{name} without {line[place]!r}", *line[:place], *line[place + 1 :])
            value = random.Random(f"{name} {place}").choice(VALUES)
            yield case(f"{name} with {value[:20]!r} for {line[place]!r}", *line[:place], value, *line[place + 1 :])
        yield case(f"{name} with a word more", *line, "more")
        yield case(f"{name} with an unknown option", *line, "--nosuch\x1b[31m")
        yield case(f"{name} with many words", *line, *(["x"] * 3000))
        yield case(f"{name} alone", *line[:first])
        yield case(f"{name} --help", *line[:first], "--help")


def of_lines() -> Iterator[Case]:
    """Lines of their own."""
    for arguments in (
        (), ("",), ("--help",), ("--version",), ("--version", "nosuch"), ("nosuch",), ("\x1b[31m",), ("study",), ("study", "nosuch"), ("scoer", "model"), ("--nosuch",), ("--debug",), ("list", "nosuch"),
        ("list", "tofu-forget05-before"), ("explain", "\x1b]0;x\x07"), ("explain", "x" * 3000), ("schema", "../x"), ("schema", ""), ("score", "--data", FORGET), ("score", "model"), ("score", "", "--data", FORGET),
        ("score", "model", "model", "--data", FORGET), ("score", "-o", "out", "--data", FORGET), ("score", "org/nosuch", "--data", FORGET), ("score", "a b", "--data", FORGET), ("score", "a/b/c", "--data", FORGET),
        ("score", FORGET, "--data", FORGET), ("score", "model", "--data", "model"), ("score", ".", "--data", FORGET), ("score", "model", "--data", FORGET, "--retain", FORGET, *QUICK),
        ("score", "model", "--data", FORGET, "--metric", "all", *QUICK), ("score", "model", "--data", FORGET, "--metric", "core", "--metric", "tofu", *QUICK), ("score", "model", "--data", FORGET, "-o", FORGET, *QUICK),
        ("score", "model", "--data", FORGET, "-o", f"{FORGET}/x", *QUICK), ("score", "model", "--data", FORGET, "-o", "/proc/x", *QUICK), ("score", "model", "--data", FORGET, "--compare", "model", "--original", "model", *QUICK),
        ("calibrate", "model", "model", "--forget", FORGET, "--retain", RETAIN, "--tau", "0"), ("calibrate", "model", "model", "--forget", FORGET, "--retain", RETAIN, "--tau", "1.5"), ("calibrate", "model", "model", "--forget", FORGET),
        ("calibrate", "model", "model", "--forget", FORGET, "--retain", RETAIN, "--tau", "nan"), ("calibrate", "model", "nosuch", "--forget", FORGET, "--retain", RETAIN), ("calibrate", "model", "model", "--forget", FORGET, "--retain", RETAIN, "--retain", RETAIN, *QUICK),
        ("calibrate", "model", "model", "--forget", FORGET, "--retain", RETAIN, "--save", "model", *QUICK), ("attack", "model", "--data", FORGET), ("attack", "model", "--data", FORGET, "--attack", ""), ("attack", "model", "--data", FORGET, "--attack", "+"),
        ("attack", "model", "--data", FORGET, "--attack", "pruning", "--select", "fisher"), ("attack", "model", "--data", FORGET, "--attack", "relearn", "--attacker-data", RETAIN, "--curve", "1,100000", "--over", "examples", "--select", "fisher", *QUICK),
        ("attack", "model", "--data", FORGET, "--attack", "relearn"), ("attack", "model", "--data", FORGET, "--attack", "relearn+relearn+relearn", "--attacker-data", RETAIN, "--set", "attack.settings.relearn.steps=1", *QUICK),
        ("attack", "model", "--data", FORGET, "--attack", "quantization", "--set", "attack.settings.quantization.bits=0", *QUICK), ("attack", "model", "--data", FORGET, "--attack", "quantization", "--set", "attack.settings.quantization.group_size=-1", *QUICK),
        ("attack", "model", "--data", FORGET, "--attack", "pruning", "--curve", "0.1,0.5", *QUICK), ("attack", "model", "--data", FORGET, "--attack", "pruning", "--curve", "0.1,nan", "--over", "share", *QUICK), ("attack", "model", "--data", FORGET, "--attack", "pruning", "--curve", "", *QUICK),
        ("attack", "model", "--data", FORGET, "--attack", "pruning", "--curve", "5,-1", "--over", "nosuch", *QUICK), ("attack", "model", "--data", FORGET, "--attack", "prefix", "--curve", "1e30", *QUICK), ("attack", "model", "--data", FORGET, "--attack", "pruning", "--points", "p", "--curve", "1", *QUICK),
        ("attack", "model", "--data", FORGET, "--attack", "pruning", "--points", ".", *QUICK), ("attack", "model", "--data", FORGET, "--attack", "pruning", "--points", "nosuch/x.jsonl", *QUICK), ("attack", "model", "--data", FORGET, "--attack", "pruning", "--split", "../x", *QUICK),
        ("attack", "model", "--data", FORGET, "--attack", "sampling", "--set", "attack.settings.sampling.temperature=0"), ("attack", "model", "--data", FORGET, "--attack", "beam_search", "--set", "attack.settings.beam_search.beams=0"), ("attack", "model", "--data", FORGET, "--attack", "prefix", "--set", "attack.settings.prefix.tokens=-1"),
        ("attack", "model", "--data", FORGET, "--attack", "token_noise", "--set", "attack.settings.token_noise.rate=7", *QUICK), ("attack", "model", "--data", FORGET, "--attack", "logit_lens", "--set", "attack.settings.logit_lens.layers=[99]", *QUICK), ("attack", "model", "--data", FORGET, "--attack", "logit_lens", "--set", "attack.settings.logit_lens.layers=x", *QUICK),
        ("attack", "model", "--data", FORGET, "--attack", "gcg_per_question", "--set", "attack.settings.gcg_per_question.steps=0", *QUICK), ("attack", "model", "--data", FORGET, "--attack", "gcg_per_question", "--set", "attack.settings.gcg_per_question.start=''", *QUICK), ("attack", "model", "--data", FORGET, "--attack", "jailbreak", "--set", "attack.settings.jailbreak.kinds=[x]", *QUICK),
        ("attack", "model", "--data", FORGET, "--attack", "translation", "--translation-column", "subject", *QUICK), ("attack", "model", "--data", FORGET, "--attack", "rewritten", "--question-column", "subject", *QUICK), ("attack", "model", "--data", FORGET, "--attack", "rewritten"), ("attack", "model", "--data", FORGET, "--attack", "planning", "--retain", RETAIN, "--set", "attack.settings.planning.stride=99"), ("attack", "model", "--data", FORGET, "--attack", "translation", "--translation-column", "nosuch", *QUICK), ("attack", "model", "--data", FORGET, "--attack", "paraphrase", *QUICK),
        ("attack", "model", "--data", FORGET, "--attack", "evolution", "--attacker-data", RETAIN, "--set", "attack.settings.evolution.attacker=nosuch"), ("attack", "model", "--data", FORGET, "--attack", "evolution", "--attacker-data", RETAIN, "--set", "attack.settings.evolution.judge=http://localhost"), ("attack", "model", "--data", FORGET, "--attack", "evolution", "--attacker-data", RETAIN, "--set", "attack.settings.evolution.population=1"), ("score", "model", "--data", FORGET, "--attacker-data", RETAIN), ("score", "--endpoint", "http://localhost:9/v1", "--model", "m", "--data", FORGET, "--attack", "rewritten", "--question-column", "nosuch"),
        ("unlearn", "model", "--method", "nosuch", "--forget", FORGET, "-o", "out"), ("unlearn", "model", "--method", "gd", "--forget", FORGET, "-o", "out"), ("unlearn", "model", "--method", "ga", "--forget", FORGET, "-o", "model"), ("unlearn", "model", "--method", "ga", "--forget", FORGET, "-o", FORGET),
        ("unlearn", "model", "--method", "ga", "--forget", FORGET, "-o", "out", "--set", "training.lr=1e30", "--set", "training.clip=null", "--set", "training.epochs=3"), ("unlearn", "model", "--method", "rmu", "--forget", FORGET, "--retain", RETAIN, "-o", "out", "--set", "settings.rmu.layer=99"), ("unlearn", "model", "--method", "ga", "--forget", FORGET, "-o", "out", "--set", "training.optimizer=nosuch"),
        ("unlearn", "model", "--method", "ga", "--forget", FORGET, "-o", "out", "--set", "training.optimizer_settings={momentum: x}"), ("unlearn", "model", "--method", "ga", "--forget", FORGET, "-o", "out", "--set", "training.lora={targets: nosuch}"), ("unlearn", "model", "--method", "gd", "--forget", FORGET, "--retain", RETAIN, "-o", "out", "--set", "training.retain={select: fisher}"), ("unlearn", "model", "--method", "gd", "--forget", FORGET, "--retain", RETAIN, "-o", "out", "--set", "training.retain.examples=100000"), ("unlearn", "model", "--method", "ga", "--forget", FORGET, "-o", "out", "--set", "training.optimizer=LBFGS"),
        ("unlearn", "model", "--method", "ga", "--forget", FORGET, "-o", "out", "--set", "training.optimizer_settings={lr: 5, params: 3}"), ("unlearn", "model", "--method", "ga", "--forget", FORGET, "-o", "out", "--set", "training.precision=fp16"), ("unlearn", "model", "--method", "ga", "--forget", FORGET, "-o", "out", "--set", "benchmark.settings.refusals=nosuch"),
        ("compare", "--original", "model", "--forget", FORGET, "--retain", RETAIN, "-o", "out"), ("compare", "model", "--original", "model", "--forget", FORGET, "--retain", FORGET, "-o", "out"), ("compare", "=model", "--original", "model", "--forget", FORGET, "--retain", RETAIN, "-o", "out"), ("compare", "a=", "--original", "model", "--forget", FORGET, "--retain", RETAIN, "-o", "out"),
        ("compare", "a=nosuch", "a=nosuch", "--original", "model", "--forget", FORGET, "--retain", RETAIN, "-o", "out"), ("compare", "original=nosuch", "--original", "model", "--forget", FORGET, "--retain", RETAIN, "-o", "out"), ("compare", "nosuch", "--original", "model", "--forget", FORGET, "--retain", RETAIN, "-o", FORGET),
        ("study", "plan", "quickstart", "--set"), ("study", "plan", "quickstart", "-o", FORGET), ("study", "run", "nosuch"), ("study", "run", FORGET), ("replay", "model"), ("replay", FORGET), ("replay", "model/config.json"), ("replay", "results.json", "--rtol", "nan"), ("replay", "results.json", "--rtol", "-1"),
        ("robustness", FORGET), ("robustness", "points.jsonl", "--seed", "-1"), ("robustness", "points.jsonl", "--seed", "9" * 30), ("robustness", "points.jsonl", "--log-metric", "es"), ("robustness", "points.jsonl", "--faithfulness", "points.jsonl"), ("score", "--outputs", "model/config.json"), ("score", "--outputs", FORGET, "--under", "nosuch"),
    ):  # fmt: skip
        yield case(" ".join(a[:30] for a in arguments), *arguments)


CASES = [*of_options(), *of_arguments(), *of_lines()]


@pytest.mark.parametrize("cases", chunks(CASES, every=80))
def test_command_lines(cases: list[Case], try_all: Callable[..., None]) -> None:
    try_all("wrong command line", cases)
