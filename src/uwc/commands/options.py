"""What the commands' options share: their types, and how their values are read."""

from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from uwc.data.strict_yaml import read_yaml
from uwc.errors import UserError
from uwc.registry import unknown_name

Json = Annotated[bool, typer.Option("--json", help="Print only JSON on standard output.")]
Dtype = Annotated[str, typer.Option(help="Precision of the weights: float32, bfloat16 or float16.")]
Device = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda or mps.")]
DataFile = Annotated[Path, typer.Option(help="Questions: JSONL, CSV or Parquet.")]
Prompt = Annotated[
    list[str],
    typer.Option(
        "--prompt",
        help="A plain prompt with {question}, instead of the tokenizer's chat template; or a setting of the prompt: "
        "system=TEXT, date=2025-04-10, chat=false, template_arguments.enable_thinking=false. May be repeated.",
        metavar="TEXT|KEY=VALUE",
    ),
]
OwnTokenizer = Annotated[
    bool,
    typer.Option(
        "--own-tokenizer", help="Read every model with its own tokenizer and chat template, not with the original's."
    ),
]
OutputDir = Annotated[Path | None, typer.Option("--output-dir", "-o", help="Folder for the results.")]
Trust = Annotated[bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the checkpoint.")]
RetainFiles = Annotated[
    list[Path], typer.Option(help="Questions to keep; several times for several sets, each of which must be kept.")
]
RetentionTasks = Annotated[
    list[str], typer.Option(help="Also hold a task of lm-evaluation-harness: mmlu, arc_easy:acc_norm", metavar="TASK")
]
AuthorsFile = Annotated[Path | None, typer.Option(help="TOFU's real authors, for model_utility.")]
FactsFile = Annotated[Path | None, typer.Option(help="TOFU's world facts, for model_utility.")]
EncoderModel = Annotated[str | None, typer.Option(help="A sentence encoder, for semantic similarity.")]
EntailmentModel = Annotated[str | None, typer.Option(help="A model of natural-language inference, for entailment.")]
VerbatimFile = Annotated[Path | None, typer.Option(help="Texts: beginning (question), continuation (answer).")]
Columns = Annotated[list[str], typer.Option("--column", help="Name a column: question=prompt", metavar="FIELD=COLUMN")]


def pairs(options: list[str]) -> dict[str, str]:
    """``["a=b"]`` as a dict. Raises UserError for what is not of this form."""
    read = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or not key:
            raise UserError(f"{option!r}: write it as NAME=VALUE")
        read[key] = value
    return read


def utility_files(real_authors: Path | None, world_facts: Path | None) -> dict[str, Path]:
    """The files given for ``model_utility``, by the names of the sets."""
    files = {"real_authors": real_authors, "world_facts": world_facts}
    return {name: path for name, path in files.items() if path is not None}


def named_files(files: list[Path], *, taken: Collection[str] = ("forget",)) -> dict[str, Path]:
    """A name for each retain file: its own without the ending, numbered where that is repeated or taken."""
    named: dict[str, Path] = {}
    for file in files:
        name, count = file.stem, 1
        while name in named or name in taken:
            count += 1
            name = f"{file.stem} {count}"
        named[name] = file
    return named


def dotted_settings(options: list[str]) -> dict[str, dict[str, Any]]:
    """``["relearn.steps=5"]`` as name -> setting -> value, the value in YAML; a comma makes a list.

    Raises:
        UserError: an option is not of the form NAME.SETTING=VALUE.
    """
    settings: dict[str, dict[str, Any]] = {}
    for key, text in pairs(options).items():
        name, dot, setting = key.partition(".")
        if not dot or not setting:
            raise UserError(f"{key}={text}: write it as NAME.SETTING=VALUE")
        value = yaml_value(key, f"[{text}]" if "," in text and not text.startswith("[") else text)
        settings.setdefault(name, {})[setting] = value
    return settings


def yaml_value(name: str, text: str) -> Any:
    """The value of an option, written in YAML. Raises UserError, naming the option, if it is none."""
    try:
        return read_yaml(text)
    except yaml.YAMLError:
        raise UserError(f"{name}={text}: the value is not YAML") from None


def numbers(text: str) -> list[float]:
    """``"1,2,4"`` as numbers, whole ones as integers. Raises UserError for anything else."""
    try:
        read = [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{text!r}: write numbers with commas between them, such as 1,2,4") from None
    return [int(n) if n.is_integer() else n for n in read]


def loading(dtype: str, device: str, trust: bool, prompt: list[str]) -> dict[str, Any]:
    """The options about how a model is loaded, as `load_target` takes them. Raises UserError for an unknown value."""
    for value, valid in ((dtype, ("float32", "bfloat16", "float16")), (device, ("auto", "cpu", "cuda", "mps"))):
        if value not in valid:
            raise UserError(unknown_name("value", value, list(valid)))
    return {"dtype": dtype, "device": device, "trust_remote_code": trust, "template": prompt_template(prompt)}


def prompt_template(options: list[str]) -> Any:
    """The prompt that the options describe: texts with ``{question}``, and settings as KEY=VALUE.

    Raises:
        UserError: an option is neither, or a setting or its value is unknown.
    """
    from uwc.data.prompts import PromptTemplate

    keys = [f.name for f in fields(PromptTemplate)]
    given: dict[str, Any] = {}
    for option in options:
        key, _, text = option.partition("=")
        if key.partition(".")[0] not in keys:
            if "{question}" not in option:
                raise UserError(
                    f"--prompt {option!r}: give a text that contains {{question}}, or a setting: {', '.join(keys)}"
                )
            given |= {"text": option.replace("\\n", "\n"), "chat": False}
        elif key in ("text", "separator", "system", "date"):
            given[key] = text.replace("\\n", "\n")
        else:
            given[key] = yaml_value(f"--prompt {key}", text)
    settings = nested(given)
    for key, kind in (("chat", bool), ("template_arguments", dict)):
        if not isinstance(settings.get(key, kind()), kind):
            raise UserError(f"--prompt {key}={settings[key]!r}: {_PROMPT_VALUES[key]}")
    return PromptTemplate(**settings)


_PROMPT_VALUES = {
    "chat": "write true or false",
    "template_arguments": "name the argument, as in template_arguments.enable_thinking=false",
}


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """``{"lora.rank": 8}`` as ``{"lora": {"rank": 8}}``. Raises UserError if a key has a value and keys below it."""
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, last = path.split(".")
        at = nested
        for key in parents:
            at = at.setdefault(key, {})
            if not isinstance(at, dict):
                raise UserError(f"{path}: {key!r} has a value already, {at!r}; give the one or the other")
        at[last] = value
    return nested


def number(name: str, value: str) -> float:
    """The value as a number. Raises UserError, naming the option, if it is none."""
    try:
        return float(value)
    except ValueError:
        raise UserError(f"{name}={value}: the value must be a number") from None
