"""`uwc score`, `uwc explain`, `uwc import-logs` and `uwc list`: what a model remembers, and what the numbers mean."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from uwc.commands.options import (
    AuthorsFile,
    Columns,
    Device,
    Dtype,
    EncoderModel,
    EntailmentModel,
    FactsFile,
    Json,
    OutputDir,
    OwnTokenizer,
    Prompt,
    Trust,
    VerbatimFile,
    dotted_settings,
    loading,
    pairs,
)
from uwc.commands.printing import print_json, print_rows

ForgetFile = Annotated[
    Path, typer.Option("--forget", "--data", help="Questions: JSONL, CSV or Parquet; the set called forget.")
]
RetainFile = Annotated[Path | None, typer.Option(help="Questions to keep.")]
HoldoutFile = Annotated[
    Path | None,
    typer.Option("--holdout", help="Questions of the same kind, that no model was trained on."),
]
ShotsFile = Annotated[Path | None, typer.Option(help="Solved questions that go before each question.")]
OriginalModel = Annotated[
    str | None, typer.Option("--original", "--reference", help="The model before unlearning, to compare with.")
]
RetrainedModel = Annotated[str | None, typer.Option("--retrained", help="A model that was never trained on the data.")]
ComparedModel = Annotated[str | None, typer.Option(help="Another model: paired differences on the same examples.")]


def list_registry(
    kind: Annotated[
        str,
        typer.Argument(help="methods, terms, metrics, attacks, tricks, benchmarks, published, or a published table"),
    ],
    as_json: Json = False,
) -> None:
    """List what can be chosen, with its source."""
    from uwc.catalogue import catalogue

    print_rows(kind, catalogue(kind), as_json)


def explain_command(metric: Annotated[str, typer.Argument(help="See: uwc list metrics.")]) -> None:
    """Explain a metric: definition, range, direction, what it needs, source."""
    from uwc.catalogue import explain

    typer.echo(explain(metric))


def score_command(
    model: Annotated[str, typer.Argument(help="A folder or hub name.")],
    forget: ForgetFile,
    retain: RetainFile = None,
    holdout: HoldoutFile = None,
    real_authors: AuthorsFile = None,
    world_facts: FactsFile = None,
    verbatim: VerbatimFile = None,
    original: OriginalModel = None,
    retrained: RetrainedModel = None,
    compare: ComparedModel = None,
    encoder: EncoderModel = None,
    entailment: EntailmentModel = None,
    suite: Annotated[str | None, typer.Option(help="core, tofu, muse, membership or all; core by default.")] = None,
    metric: Annotated[
        list[str], typer.Option(help="Further metrics by name or label; may be given several times.")
    ] = [],  # noqa: B006
    setting: Annotated[
        list[str],
        typer.Option("--set", "--setting", help="A setting of a metric: mia_min_k.k=0.2", metavar="METRIC.NAME=VALUE"),
    ] = [],  # noqa: B006
    compat: Annotated[str | None, typer.Option(help="open-unlearning or uwc-official: their definitions.")] = None,
    shots: ShotsFile = None,
    column: Columns = [],  # noqa: B006
    max_new_tokens: Annotated[int, typer.Option(help="The most tokens of a generated answer.")] = 64,
    output_dir: OutputDir = None,
    dtype: Dtype = "float32",
    device: Device = "auto",
    trust: Trust = False,
    prompt: Prompt = [],  # noqa: B006
    own_tokenizer: OwnTokenizer = False,
    as_json: Json = False,
) -> None:
    """Score a model on questions: how much of their answers does it remember?"""
    from uwc.data.question_files import read_examples
    from uwc.workflows.scoring import score

    columns = pairs(column)
    files = {
        "retain": retain, "holdout": holdout, "real_authors": real_authors, "world_facts": world_facts,
        "verbatim": verbatim,
    }  # fmt: skip
    scores = score(
        model,
        read_examples(forget, columns=columns),
        suite=suite,
        metrics=metric,
        sets={name: read_examples(path, columns=columns) for name, path in files.items() if path is not None},
        original=original,
        retrained=retrained,
        compare=compare,
        judges={"encoder": encoder, "entailment": entailment},
        settings=dotted_settings(setting),
        shots=[] if shots is None else read_examples(shots, columns=columns),
        compat=compat,
        max_new_tokens=max_new_tokens,
        output_dir=output_dir,
        own_tokenizer=own_tokenizer,
        **loading(dtype, device, trust, prompt),
    )
    if as_json:
        print_json(scores.to_dict())
        return
    print_rows(f"{model} on {forget}", [_shown(row) for row in scores.rows()])
    if scores.differences:
        print_rows(f"{model} minus {compare}", [dict(row) for row in scores.difference_rows()])


def import_logs_command(
    logs: Annotated[Path, typer.Argument(help="A model's evaluation logs: a JSON file of TOFU or OpenUnlearning.")],
    retrained: Annotated[
        Path | None,
        typer.Option("--retrained", help="The logs of a model never trained on the data, for forget quality."),
    ] = None,
    average: Annotated[
        str | None,
        typer.Option(
            help="Over the wrong answers in the truth ratio: probabilities (TOFU's paper; the default for its logs) or "
            "losses (the code of TOFU's leaderboard; the default for OpenUnlearning's logs)."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Model utility with its parts, and forget quality, of a model of which only the evaluation logs exist."""
    from uwc.metrics.logs import from_logs

    print_rows(str(logs), from_logs(logs, retrained=retrained, average=average), as_json)


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of scores for the table: why examples were not scored stands beside how many."""
    why = "; ".join(row["why"])
    missing = f"{row['not_scored']} ({why})" if why else str(row["not_scored"])
    return {**{k: v for k, v in row.items() if k != "why"}, "not_scored": missing}
