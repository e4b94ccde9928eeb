"""`uwc score`: scores of a model on sets of questions."""

from typing import Annotated

import typer

from uwc.cli.options import (
    MODELS,
    Columns,
    Holdout,
    Json,
    KeepPaths,
    LogTo,
    Metrics,
    Model,
    Original,
    OutputDir,
    Overwrite,
    Plugins,
    Retain,
    Retrained,
    Scored,
    Set,
    SkipInvalid,
    TrustRemoteCode,
    given_files,
    loading,
    question_settings,
    sections,
)
from uwc.cli.printing import print_answers_page, print_scores


def score_command(
    model: Model,
    forget: Scored,
    retain: Retain = None,
    holdout: Holdout = None,
    column: Columns = [],  # noqa: B006
    skip_invalid: SkipInvalid = False,
    original: Original = None,
    retrained: Retrained = None,
    compare: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=MODELS, metavar="MODEL", help="Another model, for paired differences on the same examples."
        ),
    ] = None,
    metric: Metrics = [],  # noqa: B006
    output_dir: OutputDir = None,
    overwrite: Overwrite = False,
    log_to: LogTo = [],  # noqa: B006
    keep_paths: KeepPaths = False,
    as_json: Json = False,
    setting: Set = [],  # noqa: B006
    plugin: Plugins = [],  # noqa: B006
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Score a model on questions: how much of the answers does it remember?

    Sections of --set: model, score (judges.encoder, settings.METRIC.KEY, compat, shots, max_new_tokens), seed, and
    benchmark.settings.further.NAME=FILE for further sets (real_authors, world_facts, verbatim).
    """
    from uwc.api import score
    from uwc.cli.sections import ScoreSections

    given = sections(
        ScoreSections,
        setting,
        question_settings(column, skip_invalid=skip_invalid),
        trust_remote_code=trust_remote_code,
    )
    files = given_files(forget=forget, retain=retain, holdout=holdout) | given.benchmark.settings.further
    scores = score(
        model,
        files,
        metrics=[*metric, *filter(None, [given.score.suite]), *given.score.metrics],
        original=original,
        retrained=retrained,
        compare=compare,
        judges=given.score.judges.given(),
        settings=given.score.settings,
        shots=given.score.shots or (),
        compat=given.score.compat,
        columns=given.benchmark.settings.columns,
        skip_invalid=given.benchmark.settings.skip_invalid,
        max_new_tokens=given.score.max_new_tokens,
        seed=given.seed,
        own_tokenizer=given.model.own_tokenizer,
        output_dir=output_dir,
        overwrite=overwrite,
        keep_paths=keep_paths,
        log_to=log_to,
        **loading(given.model),
    )
    print_scores(scores, f"{model} on {forget}", as_json)
    if not as_json:
        print_answers_page(output_dir)
