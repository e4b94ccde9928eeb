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
RetainFile = Annotated[Path | None, typer.Option(help="Questions to keep.")]
HoldoutFile = Annotated[Path | None, typer.Option(help="Questions of the same kind, never trained on.")]
AuthorsFile = Annotated[Path | None, typer.Option(help="TOFU's real authors.")]
FactsFile = Annotated[Path | None, typer.Option(help="TOFU's world facts.")]
VerbatimFile = Annotated[Path | None, typer.Option(help="Texts: beginning (question), continuation (answer).")]
ShotsFile = Annotated[Path | None, typer.Option(help="Solved questions that go before each question.")]
ReferenceModel = Annotated[str | None, typer.Option(help="The original model, to compare with.")]
RetrainedModel = Annotated[str | None, typer.Option(help="A model that was never trained on the data.")]
ComparedModel = Annotated[str | None, typer.Option(help="Another model: paired differences on the same examples.")]
EncoderModel = Annotated[str | None, typer.Option(help="A sentence encoder, for semantic similarity.")]
EntailmentModel = Annotated[str | None, typer.Option(help="A model of natural-language inference, for entailment.")]
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


@app.command("explain")
def explain_command(metric: Annotated[str, typer.Argument(help="See: uwc list metrics.")]) -> None:
    """Explain a metric: definition, range, direction, what it needs, source."""
    from uwc.catalogue import explain

    typer.echo(explain(metric))


@app.command("score")
def score_command(
    model: Annotated[str, typer.Argument(help="A folder or hub name.")],
    data: DataFile,
    retain: RetainFile = None,
    holdout: HoldoutFile = None,
    real_authors: AuthorsFile = None,
    world_facts: FactsFile = None,
    verbatim: VerbatimFile = None,
    reference: ReferenceModel = None,
    retrained: RetrainedModel = None,
    compare: ComparedModel = None,
    encoder: EncoderModel = None,
    entailment: EntailmentModel = None,
    suite: Annotated[str | None, typer.Option(help="core, tofu, muse, membership or all; core by default.")] = None,
    metric: Annotated[list[str], typer.Option(help="Further metrics; may be given several times.")] = [],  # noqa: B006
    setting: Annotated[
        list[str], typer.Option(help="A metric's setting: mia_min_k.k=0.2", metavar="METRIC.NAME=VALUE")
    ] = [],  # noqa: B006
    compat: Annotated[str | None, typer.Option(help="open-unlearning or uwc-official: their definitions.")] = None,
    shots: ShotsFile = None,
    column: Columns = [],  # noqa: B006
    max_new_tokens: Annotated[int, typer.Option(help="The most tokens of a generated answer.")] = 64,
    out: Annotated[Path | None, typer.Option(help="Folder for the scores, in JSON and Parquet.")] = None,
    dtype: Dtype = "float32",
    device: Device = "auto",
    trust: Trust = False,
    prompt: Prompt = "",
    as_json: Json = False,
) -> None:
    """Score a model on questions: how much of their answers does it remember?"""
    from uwc.data.local_files import read_examples
    from uwc.data.prompts import few_shot
    from uwc.workflows import evaluate

    columns = _pairs(column)
    files = {"retain": retain, "holdout": holdout, "authors": real_authors, "facts": world_facts, "verbatim": verbatim}
    loading = _loading(dtype, device, trust, prompt)
    if shots is not None:
        loading["template"] = few_shot(read_examples(shots, columns=columns), loading.get("template"))
    scores = evaluate(
        model, read_examples(data, columns=columns), suite=suite, metrics=metric,
        sets={name: read_examples(path, columns=columns) for name, path in files.items() if path is not None},
        reference=reference, retrained=retrained, compare=compare, encoder=encoder, entailment=entailment,
        settings=_metric_settings(setting), compat=compat, max_new_tokens=max_new_tokens, out=out, **loading,
    )  # fmt: skip
    rows, differences = scores.rows(), scores.difference_rows()
    if as_json:
        _print_json({"scores": rows, "differences": differences} if differences else rows)
        return
    _print_rows(f"{model} on {data}", [_shown(row) for row in rows], False)
    if differences:
        _print_rows(f"{model} minus {compare}", differences, False)


@app.command("import-logs")
def import_logs_command(
    logs: Annotated[Path, typer.Argument(help="A model's evaluation logs: a JSON file of TOFU or OpenUnlearning.")],
    retrained: Annotated[
        Path | None, typer.Option(help="The logs of a model never trained on the data, for forget quality.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Forget quality and model utility of a model of which only the evaluation logs exist."""
    from uwc.metrics.logs import from_logs

    _print_rows(str(logs), from_logs(logs, retrained=retrained), as_json)


@app.command("unlearn")
def unlearn_command(
    model: Annotated[str, typer.Argument(help="A folder or hub name.")],
    method: Annotated[str, typer.Option(help="See: uwc list methods.")],
    forget: DataFile,
    output: Annotated[Path, typer.Option(help="Folder for the unlearned model.")],
    retain: Annotated[Path | None, typer.Option(help="Questions to keep.")] = None,
    refusals: Annotated[Path | None, typer.Option(help="Refusals, one a line; a built-in list by default.")] = None,
    setting: Annotated[
        list[str], typer.Option("--train", help="A training setting: lr=1e-5, lora.rank=8", metavar="KEY=VALUE")
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
        settings=_nested({key: yaml.safe_load(value) for key, value in _pairs(setting).items()}),
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


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    """``{"lora.rank": 8}`` as ``{"lora": {"rank": 8}}``."""
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, last = path.split(".")
        at = nested
        for key in parents:
            at = at.setdefault(key, {})
        at[last] = value
    return nested


def _pairs(options: list[str]) -> dict[str, str]:
    pairs = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or not key:
            raise UserError(f"{option!r}: write it as NAME=VALUE")
        pairs[key] = value
    return pairs


def _metric_settings(options: list[str]) -> dict[str, dict[str, str]]:
    settings: dict[str, dict[str, str]] = {}
    for key, value in _pairs(options).items():
        metric, dot, name = key.partition(".")
        if not dot:
            raise UserError(f"{key}={value}: write it as METRIC.NAME=VALUE")
        settings.setdefault(metric, {})[name] = value
    return settings


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row of scores for the table: why examples were not scored stands beside how many."""
    why = "; ".join(row["why"])
    missing = f"{row['not_scored']} ({why})" if why else str(row["not_scored"])
    return {**{k: v for k, v in row.items() if k != "why"}, "not_scored": missing}


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
