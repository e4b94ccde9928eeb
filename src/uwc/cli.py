"""The command line: parsing, progress and printing; the work is done in `uwc.workflows`."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console

from uwc import progress
from uwc.commands.attack import attack_command
from uwc.commands.robustness import robustness_command
from uwc.errors import UserError, reporting_full_disk
from uwc.registry import unknown_name

app = typer.Typer(
    name="uwc", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich",
    help="Has this language model really forgotten, and which unlearning method is better?",
)  # fmt: skip
study = typer.Typer(no_args_is_help=True, help="Run a whole study from one YAML file.")
app.add_typer(study, name="study")
app.command("attack")(attack_command)
app.command("robustness")(robustness_command)

DIVERGED, INTERRUPTED = 3, 130

Json = Annotated[bool, typer.Option("--json", help="Print only JSON on standard output.")]
Runs = Annotated[Path, typer.Option(help="Folder where results are kept and found again.")]
Set = Annotated[
    list[str], typer.Option("--set", help="Change a key of the file: calibrate.tau=0.9", metavar="KEY=VALUE")
]
StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="A YAML file, or a shipped study's name.")]
DataFile = Annotated[Path, typer.Option(help="Questions: JSONL, CSV or Parquet.")]
Columns = Annotated[list[str], typer.Option("--column", help="Name a column: question=prompt", metavar="FIELD=COLUMN")]
Dtype = Annotated[str, typer.Option(help="Precision of the weights: float32, bfloat16 or float16.")]
Device = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda or mps.")]
Prompt = Annotated[
    str, typer.Option("--prompt", help="Plain prompt with {question}, instead of the tokenizer's chat template.")
]
Trust = Annotated[bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the checkpoint.")]


def main() -> None:
    """Run the command line; a mistake of the user's ends in one line and a non-zero exit status."""
    debug = "--debug" in sys.argv
    sys.argv = [a for a in sys.argv if a != "--debug"]
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    signal.signal(signal.SIGINT, _interrupt)
    try:
        with reporting_full_disk(Path.cwd()):
            app(standalone_mode=True)
    except _Interrupted:
        progress.note("interrupted; everything finished is kept: run the same command again to go on")
        sys.exit(INTERRUPTED)
    except Exception as error:
        if debug:
            raise
        kind = "error" if isinstance(error, UserError) else f"unexpected {type(error).__name__}"
        hint = "" if isinstance(error, UserError) else " (please report it; --debug shows where it happened)"
        progress.note(f"{kind}: {' '.join(str(error).split())}{hint}")
        sys.exit(1)


class _Interrupted(BaseException):
    """Ctrl-C. Not a KeyboardInterrupt, which the command-line library would turn into a bare 'Aborted!'."""


def _interrupt(_signal: int, _frame: object) -> None:
    raise _Interrupted


@study.command("run")
def study_run(source: StudyName, overrides: Set = [], runs: Runs = Path("runs"), as_json: Json = False) -> None:  # noqa: B006
    """Run what is missing of a study, then print its result table and the path of its report."""
    from uwc.reports.tables import print_table, result_table
    from uwc.workflows import run_study

    outcome = run_study(source, overrides=overrides, runs=runs)
    if as_json:
        _print_json(outcome.results)
    else:
        print_table(result_table(outcome.results), _console())
        typer.echo(f"report: {outcome.report}")
    if outcome.diverged:
        progress.note(f"diverged, and left out of the ranking: {', '.join(outcome.diverged)}")
        raise typer.Exit(DIVERGED)


@study.command("plan")
def study_plan(source: StudyName, overrides: Set = [], runs: Runs = Path("runs"), as_json: Json = False) -> None:  # noqa: B006
    """Show the steps of a study and which of them are done."""
    from uwc.workflows import plan_study

    steps = plan_study(source, overrides=overrides, runs=runs)
    _print_rows(f"steps of {source}", steps, as_json)


@study.command("list")
def study_list(as_json: Json = False) -> None:
    """List the studies that come with the package."""
    from uwc.studies.config import load_config, shipped_configs

    rows = [{"name": name, "title": load_config(name).title} for name in shipped_configs()]
    _print_rows("shipped studies", rows, as_json)


@app.command("list")
def list_registry(
    kind: Annotated[str, typer.Argument(help="methods, terms, metrics, attacks, tricks or benchmarks")],
    as_json: Json = False,
) -> None:
    """List what there is, with its source."""
    from uwc.catalogue import catalogue

    _print_rows(kind, catalogue(kind), as_json)


@app.command("score")
def score_command(
    model: Annotated[str, typer.Argument(help="A folder or hub name.")],
    data: DataFile,
    reference: Annotated[str | None, typer.Option(help="The original model, to score the divergence from it.")] = None,
    metric: Annotated[list[str], typer.Option(help="Which metrics; may be given several times.")] = [],  # noqa: B006
    column: Columns = [],  # noqa: B006
    max_new_tokens: Annotated[int, typer.Option(help="The most tokens of a generated answer.")] = 64,
    dtype: Dtype = "float32",
    device: Device = "auto",
    trust: Trust = False,
    prompt: Prompt = "",
    as_json: Json = False,
) -> None:
    """Score a model on questions: how much of their answers does it remember?"""
    from uwc.data.local_files import read_examples
    from uwc.workflows import score

    examples = read_examples(data, columns=_pairs(column))
    names = metric or ["extraction_strength", "exact_memorization", "probability", "perplexity", "rouge_l"]
    if reference and not metric:
        names.append("kl_to_original")
    loading = _loading(dtype, device, trust, prompt)
    result = score(model, examples, metrics=names, reference=reference, max_new_tokens=max_new_tokens, **loading)
    rows = [{"asked as": w, "metric": m, **a} for w, by_metric in result.items() for m, a in by_metric.items()]
    _print_rows(f"{model} on {data}", rows, as_json)


@app.command("unlearn")
def unlearn_command(
    model: Annotated[str, typer.Argument(help="A folder or hub name.")],
    method: Annotated[str, typer.Option(help="See: uwc list methods.")],
    forget: DataFile,
    output: Annotated[Path, typer.Option(help="Folder for the unlearned model.")],
    retain: Annotated[Path | None, typer.Option(help="Questions to keep.")] = None,
    refusals: Annotated[Path | None, typer.Option(help="Refusals, one a line; a built-in list by default.")] = None,
    setting: Annotated[
        list[str], typer.Option("--train", help="A training setting: lr=1e-5", metavar="KEY=VALUE")
    ] = [],  # noqa: B006
    trick: Annotated[list[str], typer.Option(help="A trick: temperature=2", metavar="NAME=VALUE")] = [],  # noqa: B006
    column: Columns = [],  # noqa: B006
    dtype: Dtype = "float32",
    device: Device = "auto",
    trust: Trust = False,
    prompt: Prompt = "",
) -> None:
    """Unlearn questions from a model, and write a checkpoint that plain transformers loads."""
    from uwc.data.local_files import read_examples, read_lines
    from uwc.data.refusals import DEFAULT_REFUSALS
    from uwc.workflows import unlearn

    columns = _pairs(column)
    written = unlearn(
        model,
        output,
        method=method,
        forget=read_examples(forget, columns=columns),
        retain=read_examples(retain, columns=columns) if retain else (),
        refusals=read_lines(refusals) if refusals else DEFAULT_REFUSALS,
        settings={key: yaml.safe_load(value) for key, value in _pairs(setting).items()},
        tricks={name: _number(name, value) for name, value in _pairs(trick).items()},
        **_loading(dtype, device, trust, prompt),
    )
    typer.echo(str(written))


@app.command("calibrate")
def calibrate_command(
    original: Annotated[str, typer.Argument(help="The model before unlearning: a folder or hub name.")],
    unlearned: Annotated[str, typer.Argument(help="The model after unlearning.")],
    forget: DataFile,
    retain: DataFile,
    tau: Annotated[float, typer.Option(help="Share of the original's retention to keep.")] = 0.95,
    metric: Annotated[str, typer.Option(help="The metric to hold fixed.")] = "extraction_strength",
    save: Annotated[Path | None, typer.Option(help="Folder for the calibrated model.")] = None,
    column: Columns = [],  # noqa: B006
    dtype: Dtype = "float32",
    device: Device = "auto",
    trust: Trust = False,
    prompt: Prompt = "",
    as_json: Json = False,
) -> None:
    """Mix an unlearned model with its original until it keeps `tau` of the retention; what is still forgotten then?"""
    from uwc.data.local_files import read_examples
    from uwc.workflows import calibrate

    columns = _pairs(column)
    record = calibrate(
        original,
        unlearned,
        retain=read_examples(retain, columns=columns),
        forget=read_examples(forget, columns=columns),
        tau=tau,
        metric=metric,
        save=save,
        **_loading(dtype, device, trust, prompt),
    )
    if as_json:
        _print_json(record)
    else:
        _print_rows("probes", record["trace"], False)
        typer.echo(
            f"alpha {record['alpha']:.4f} keeps {record['retain_score']:.3f} of at least {record['threshold']:.3f} "
            f"on retain; forget {metric} is then {record['forget_score']:.3f} (lower is better)"
        )


def _loading(dtype: str, device: str, trust: bool, prompt: str) -> dict[str, Any]:
    from uwc.data.prompts import PromptTemplate

    for value, valid in ((dtype, ("float32", "bfloat16", "float16")), (device, ("auto", "cpu", "cuda", "mps"))):
        if value not in valid:
            raise UserError(unknown_name("value", value, list(valid)))
    template = PromptTemplate(prompt.replace("\\n", "\n"), chat=False) if prompt else PromptTemplate()
    return {"dtype": dtype, "device": device, "trust_remote_code": trust, "template": template}


def _pairs(options: list[str]) -> dict[str, str]:
    pairs = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or not key:
            raise UserError(f"{option!r}: write it as NAME=VALUE")
        pairs[key] = value
    return pairs


def _number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise UserError(f"{name}={value}: the value must be a number") from None


def _print_rows(title: str, rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        _print_json(rows)
        return
    from uwc.reports.tables import Table, print_table

    columns = tuple(rows[0]) if rows else ()
    cells = tuple(tuple(f"{row[c]:.4g}" if isinstance(row[c], float) else str(row[c]) for c in columns) for row in rows)
    print_table(Table(title=title, columns=columns, rows=cells), _console())


def _console() -> Console:
    """Standard output; wide enough for the tables where it is not a terminal."""
    return Console(width=None if sys.stdout.isatty() else 140)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))
