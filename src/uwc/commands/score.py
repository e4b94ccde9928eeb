"""`uwc score`, `uwc explain`, `uwc import-logs` and `uwc list`: what a model remembers, and what the numbers mean."""

from pathlib import Path
from typing import Annotated, Any

import typer

from uwc.commands.options import (
    AuthorsFile,
    Columns,
    DataFile,
    Device,
    Dtype,
    FactsFile,
    Json,
    OwnTokenizer,
    Prompt,
    Trust,
    dotted_settings,
    loading,
    pairs,
)
from uwc.commands.printing import print_json, print_rows

RetainFile = Annotated[Path | None, typer.Option(help="Questions to keep.")]
HoldoutFile = Annotated[
    Path | None,
    typer.Option("--holdout", help="Questions of the same kind, that no model was trained on."),
]
VerbatimFile = Annotated[Path | None, typer.Option(help="Texts: beginning (question), continuation (answer).")]
ShotsFile = Annotated[Path | None, typer.Option(help="Solved questions that go before each question.")]
ReferenceModel = Annotated[
    str | None, typer.Option("--original", "--reference", help="The model before unlearning, to compare with.")
]
RetrainedModel = Annotated[str | None, typer.Option("--retrained", help="A model that was never trained on the data.")]
ComparedModel = Annotated[str | None, typer.Option(help="Another model: paired differences on the same examples.")]
EncoderModel = Annotated[str | None, typer.Option(help="A sentence encoder, for semantic similarity.")]
EntailmentModel = Annotated[str | None, typer.Option(help="A model of natural-language inference, for entailment.")]


def list_registry(
    kind: Annotated[
        str,
        typer.Argument(help="methods, terms, metrics, attacks, tricks, benchmarks, published, or a published table"),
    ],
    as_json: Json = False,
) -> None:
    """List what there is, with its source."""
    from uwc.catalogue import catalogue

    print_rows(kind, catalogue(kind), as_json)


def explain_command(metric: Annotated[str, typer.Argument(help="See: uwc list metrics.")]) -> None:
    """Explain a metric: definition, range, direction, what it needs, source."""
    from uwc.catalogue import explain

    typer.echo(explain(metric))


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
        list[str],
        typer.Option("--set", "--setting", help="A setting of a metric: mia_min_k.k=0.2", metavar="METRIC.NAME=VALUE"),
    ] = [],  # noqa: B006
    compat: Annotated[str | None, typer.Option(help="open-unlearning or uwc-official: their definitions.")] = None,
    shots: ShotsFile = None,
    column: Columns = [],  # noqa: B006
    max_new_tokens: Annotated[int, typer.Option(help="The most tokens of a generated answer.")] = 64,
    out: Annotated[Path | None, typer.Option(help="Folder for the scores, in JSON and Parquet.")] = None,
    dtype: Dtype = "float32",
    device: Device = "auto",
    trust: Trust = False,
    prompt: Prompt = [],  # noqa: B006
    own_tokenizer: OwnTokenizer = False,
    as_json: Json = False,
) -> None:
    """Score a model on questions: how much of their answers does it remember?"""
    from uwc.data.question_files import read_examples
    from uwc.workflows.scoring import evaluate

    columns = pairs(column)
    files = {"retain": retain, "holdout": holdout, "authors": real_authors, "facts": world_facts, "verbatim": verbatim}
    how = loading(dtype, device, trust, prompt)
    scores = evaluate(
        model, read_examples(data, columns=columns), suite=suite, metrics=metric,
        sets={name: read_examples(path, columns=columns) for name, path in files.items() if path is not None},
        reference=reference, retrained=retrained, compare=compare, encoder=encoder, entailment=entailment,
        settings=dotted_settings(setting), shots=[] if shots is None else read_examples(shots, columns=columns),
        compat=compat, max_new_tokens=max_new_tokens, out=out, own_tokenizer=own_tokenizer, **how,
    )  # fmt: skip
    rows, differences = scores.rows(), scores.difference_rows()
    if as_json:
        print_json({"scores": rows, "differences": differences} if differences else rows)
        return
    print_rows(f"{model} on {data}", [_shown(row) for row in rows])
    if differences:
        print_rows(f"{model} minus {compare}", differences)


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


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row of scores for the table: why examples were not scored stands beside how many."""
    why = "; ".join(row["why"])
    missing = f"{row['not_scored']} ({why})" if why else str(row["not_scored"])
    return {**{k: v for k, v in row.items() if k != "why"}, "not_scored": missing}
