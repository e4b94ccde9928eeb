"""`uwc score`: scores of a model on sets of questions, or of texts that were generated elsewhere."""

from typing import Annotated, Any

import typer

from uwc.cli.options import (
    MODELS,
    AttackerData,
    BeforeFile,
    Columns,
    Device,
    EndpointAttacks,
    EndpointModel,
    EndpointUrl,
    Holdout,
    IncludePath,
    Json,
    KeepPaths,
    LogTo,
    Metrics,
    ModelOrTexts,
    Original,
    OutputDir,
    OutputsFile,
    Overwrite,
    Plugins,
    QuestionColumns,
    Retain,
    RetrainedOrTexts,
    ScoredOrTexts,
    Set,
    SkipInvalid,
    Tasks,
    TrustRemoteCode,
    UnderFiles,
    attacker_of,
    endpoint_of,
    given_files,
    harness_settings,
    loading,
    one_system,
    question_settings,
    require_no_model,
    sections,
    texts_under,
)
from uwc.cli.printing import print_answers_page, print_scores
from uwc.errors import UserError, listed
from uwc.progress import first_process


def score_command(
    model: ModelOrTexts = None,
    forget: ScoredOrTexts = None,
    retain: Retain = None,
    holdout: Holdout = None,
    attacker_data: AttackerData = None,
    question_column: QuestionColumns = [],  # noqa: B006
    column: Columns = [],  # noqa: B006
    skip_invalid: SkipInvalid = False,
    original: Original = None,
    retrained: RetrainedOrTexts = None,
    compare: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=MODELS, metavar="MODEL", help="Another model, for paired differences on the same examples."
        ),
    ] = None,
    outputs: OutputsFile = None,
    before: BeforeFile = None,
    under: UnderFiles = [],  # noqa: B006
    endpoint: EndpointUrl = None,
    endpoint_model: EndpointModel = None,
    attack: EndpointAttacks = [],  # noqa: B006
    metric: Metrics = [],  # noqa: B006
    task: Tasks = [],  # noqa: B006
    harness_include_path: IncludePath = None,
    output_dir: OutputDir = None,
    overwrite: Overwrite = False,
    log_to: LogTo = [],  # noqa: B006
    keep_paths: KeepPaths = False,
    as_json: Json = False,
    setting: Set = [],  # noqa: B006
    plugin: Plugins = [],  # noqa: B006
    trust_remote_code: TrustRemoteCode = False,
    device: Device = None,
) -> None:
    """Score a model on questions, or texts generated elsewhere: how much of the answers does it remember?

    With --task also on tasks of lm-evaluation-harness, each a set of its own; a MODEL may be scored on these alone.

    Sections of --set: model, score (judges.encoder, settings.METRIC.KEY, samples.count, compat, shots, max_new_tokens),
    harness (limit, num_fewshot, chat), seed, and benchmark.settings.further.NAME=FILE for further sets (real_authors,
    world_facts, verbatim); with --endpoint also endpoint and attack.
    """
    from uwc.api import score
    from uwc.cli.sections import ScoreSections
    from uwc.data.outputs import Outputs

    given = sections(
        ScoreSections,
        setting,
        {**question_settings(column, skip_invalid=skip_invalid), **harness_settings(harness_include_path)},
        trust_remote_code=trust_remote_code,
        device=device,
    )
    files = given_files(forget=forget, retain=retain, holdout=holdout) | given.benchmark.settings.further
    shared: dict[str, Any] = {
        "tasks": [*task, *given.score.tasks],
        "harness": given.harness,
        "metrics": [*metric, *filter(None, [given.score.suite]), *given.score.metrics],
        "compare": compare,
        "judges": given.score.judges.given(),
        "settings": given.score.settings,
        "samples": given.score.samples if "samples" in given.score.model_fields_set else None,
        "shots": given.score.shots or (),
        "compat": given.score.compat,
        "columns": given.benchmark.settings.columns,
        "skip_invalid": given.benchmark.settings.skip_invalid,
        "max_new_tokens": given.score.max_new_tokens,
        "seed": given.seed,
        "own_tokenizer": given.model.own_tokenizer,
        "output_dir": output_dir,
        "overwrite": overwrite,
        "keep_paths": keep_paths,
        "log_to": log_to,
        **loading(given.model),
    }
    server, attacks = endpoint_of(endpoint, endpoint_model, attack, given)
    attacker = attacker_of(server, attacks, forget, attacker_data, question_column, given.benchmark.settings)
    system = one_system(outputs, server)
    if system is not None:
        if model is not None or original is not None:
            raise UserError(
                "--outputs and --endpoint take the place of a model; leave MODEL out, and give the original's texts "
                "with --before"
            )
        require_no_model(given.model, given.score, server)
        scores = score(
            system,
            files or None,
            original=None if before is None else Outputs(before),
            retrained=None if retrained is None else Outputs(retrained),
            under={**attacks, **texts_under(under)},
            attacker=attacker,
            **shared,
        )
    elif model is None or (forget is None and (files or not shared["tasks"])):
        raise UserError(
            "give a MODEL and its questions with --forget FILE, or a task with --task NAME; or texts with --outputs "
            "FILE, or a server with --endpoint URL"
        )
    elif before is not None or under:
        raise UserError("--before and --under are for texts (--outputs); for a model use --compare, and uwc attack")
    else:
        scores = score(model, files or None, original=original, retrained=retrained, **shared)
    if not first_process():
        return
    on = forget or listed(shared["tasks"])
    print_scores(scores, f"{model} on {on}" if system is None else system.name, as_json)
    if not as_json:
        print_answers_page(output_dir)
