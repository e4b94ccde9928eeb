"""Options that several commands share, and the conversion of their values.

Those of `SHARED` are not repeated in the help of each command: it names them, and `uwc --help` describes them.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from uwc.errors import ConfigError, UserError, printable

if TYPE_CHECKING:
    from uwc.attacks.data import Attacker
    from uwc.cli.sections import EndpointSections, FileSettings
    from uwc.data.outputs import Outputs
    from uwc.data.question_files import LeftOut
    from uwc.models.endpoint import Endpoint
    from uwc.studies.config import LoadingConfig, ScoreConfig
    from uwc.studies.sections import Section

MODELS, QUESTIONS, MEASURED = "Models", "Questions", "Measurement"
TEXTS = "Texts in place of a model"
ATTACKS, OUTPUT, SETTINGS = "Attacks", "Output", "Further settings"
MACHINES = "Several processes and machines"
"""The groups of options in help."""


def _load_plugins(paths: list[Path]) -> list[Path]:
    if paths:
        from uwc.plugins import load_plugins

        load_plugins(paths)
    return paths


A_MODEL = "a folder, a hub name or the folder of an adapter"
TEXTS_INSTEAD = "nothing with --outputs or --endpoint"
Model = Annotated[str, typer.Argument(metavar="MODEL", help=f"A model: {A_MODEL}.")]
ModelOrTexts = Annotated[
    str | None, typer.Argument(metavar="MODEL", help=f"A model: {A_MODEL}; {TEXTS_INSTEAD}.", show_default=False)
]
_FORGET = typer.Option(
    "--forget", rich_help_panel=QUESTIONS, metavar="FILE", help="Questions to forget: JSONL, JSON, CSV or Parquet."
)
Forget = Annotated[Path, _FORGET]
ForgetOrTexts = Annotated[Path | None, _FORGET]
_SCORED: dict[str, Any] = {"rich_help_panel": QUESTIONS, "metavar": "FILE"}
_SCORED_SET = "Questions to be scored as the set forget: JSONL, JSON, CSV or Parquet"
Scored = Annotated[Path, typer.Option("--forget", "--data", help=f"{_SCORED_SET}.", **_SCORED)]
ScoredOrTexts = Annotated[
    Path | None,
    typer.Option("--forget", "--data", help=f"{_SCORED_SET}. Default with --outputs: those of its rows.", **_SCORED),
]
OutputsFile = Annotated[
    Path | None,
    typer.Option(
        "--outputs",
        rich_help_panel=TEXTS,
        metavar="FILE",
        help="Texts that were generated elsewhere: JSONL, JSON, CSV or Parquet with a column output, or a log of TOFU, "
        "OpenUnlearning, lm-evaluation-harness or inspect_ai.",
    ),
]
BeforeFile = Annotated[
    Path | None,
    typer.Option(
        "--before", rich_help_panel=TEXTS, metavar="FILE", help="The texts of the original, for paired differences."
    ),
]
UnderFiles = Annotated[
    list[str],
    typer.Option(
        "--under",
        rich_help_panel=TEXTS,
        metavar="NAME=FILE",
        help="The texts under an attack, to which you give a name. May be repeated.",
    ),
]
EndpointUrl = Annotated[
    str | None,
    typer.Option(
        "--endpoint",
        rich_help_panel=TEXTS,
        metavar="URL",
        help="A server of the OpenAI protocol, such as http://localhost:8000/v1. Its key is read from the environment "
        "variable OPENAI_API_KEY.",
    ),
]
EndpointModel = Annotated[
    str | None,
    typer.Option("--model", rich_help_panel=TEXTS, metavar="NAME", help="The model's name at the server."),
]
AttackerData = Annotated[
    Path | None,
    typer.Option(
        "--attacker-data",
        rich_help_panel=QUESTIONS,
        metavar="FILE",
        help="The attacker's questions from the forget set.",
    ),
]
QuestionColumns = Annotated[
    list[str],
    typer.Option(
        "--question-column",
        rich_help_panel=QUESTIONS,
        metavar="COLUMN",
        help="A column of the scored file that has its questions in another form (aliases, ...), for the attack "
        "rewritten. May be repeated.",
    ),
]
Precisions = Annotated[
    list[str],
    typer.Option(
        "--precision",
        rich_help_panel=ATTACKS,
        metavar="NAME",
        help="A precision in which models may be deployed: nf4, nf4_double, llm_int8, gptq_int4, awq_int4, int8, ... "
        "int2. May be repeated.",
    ),
]
EndpointAttacks = Annotated[
    list[str],
    typer.Option(
        "--attack",
        rich_help_panel=TEXTS,
        metavar="NAME",
        help="With --endpoint: an attack that needs no weights, or a chain: jailbreak, few_shot, paraphrase, sampling, "
        "few_shot+jailbreak. May be repeated.",
    ),
]
Retain = Annotated[Path | None, typer.Option(rich_help_panel=QUESTIONS, metavar="FILE", help="Questions to retain.")]
Retains = Annotated[
    list[Path],
    typer.Option(
        "--retain",
        rich_help_panel=QUESTIONS,
        metavar="FILE",
        help="Questions to retain. Repeat it for several sets; each must satisfy the constraint.",
    ),
]
Holdout = Annotated[
    Path | None, typer.Option(rich_help_panel=QUESTIONS, metavar="FILE", help="Questions that no model was trained on.")
]
Columns = Annotated[
    list[str],
    typer.Option(
        "--column",
        rich_help_panel=QUESTIONS,
        metavar="[FILE:]FIELD=COLUMN",
        help='The column of a field, if it has another name: question="Customer Question" in every file that has this '
        'column, forget:question="Customer Question" in one file. May be repeated.',
    ),
]
_ORIGINAL = typer.Option("--original", rich_help_panel=MODELS, metavar="MODEL", help="The model before unlearning.")
OriginalModel = Annotated[str, _ORIGINAL]
OriginalOrTexts = Annotated[str | None, _ORIGINAL]
Original = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=MODELS, metavar="MODEL", help="The model before unlearning, for metrics that compare with it."
    ),
]
NEVER_TRAINED = "A model that was never trained on the forget questions"
ITS_TEXTS = "With --outputs or --endpoint: the file of its texts"
Retrained = Annotated[str | None, typer.Option(rich_help_panel=MODELS, metavar="MODEL", help=f"{NEVER_TRAINED}.")]
RetrainedOrTexts = Annotated[
    str | None,
    typer.Option(
        "--retrained",
        rich_help_panel=MODELS,
        metavar="MODEL",
        help=f"{NEVER_TRAINED}. {ITS_TEXTS}.",
    ),
]
Metrics = Annotated[
    list[str],
    typer.Option(
        "--metric",
        rich_help_panel=MEASURED,
        metavar="NAME",
        help="A metric by name or label (ES, PPL), or a suite: core (the default), tofu, muse, lume, membership, "
        "open-unlearning, all. May be repeated.",
    ),
]
RetentionTasks = Annotated[
    list[str],
    typer.Option(
        "--retention-task",
        rich_help_panel=MEASURED,
        metavar="TASK[:METRIC]",
        help="A task of lm-evaluation-harness in the retention constraint, such as mmlu or arc_easy:acc_norm. May be "
        "repeated.",
    ),
]
Tasks = Annotated[
    list[str],
    typer.Option(
        "--task",
        rich_help_panel=MEASURED,
        metavar="TASK[:METRIC]",
        help="A task of lm-evaluation-harness to be scored too, such as mmlu or arc_easy:acc_norm. May be repeated.",
    ),
]
IncludePath = Annotated[
    Path | None,
    typer.Option(
        "--harness-include-path",
        rich_help_panel=MEASURED,
        metavar="FOLDER",
        help="A folder with YAML files of further tasks of lm-evaluation-harness; they may run Python code.",
    ),
]
Tau = Annotated[
    float | None,
    typer.Option(
        rich_help_panel=MEASURED,
        metavar="RATIO",
        help="The retention constraint: the least ratio to the original's value. Default: 0.95.",
    ),
]
OutputDir = Annotated[
    Path | None,
    typer.Option("--output-dir", "-o", rich_help_panel=OUTPUT, metavar="FOLDER", help="Folder for the results."),
]
RESUMED = "Folder for the results, in FOLDER/NAME, and their cache; a rerun resumes."
_SET: dict[str, Any] = {"rich_help_panel": SETTINGS, "metavar": "SECTION.KEY=VALUE"}
SetOfFew = Annotated[
    list[str], typer.Option("--set", help="Any other setting of the sections above. May be repeated.", **_SET)
]
Set = Annotated[
    list[str],
    typer.Option(
        "--set",
        help="Any other setting, by its key in a study's file: model.dtype=bfloat16, score.max_new_tokens=0. "
        "May be repeated. All keys: `uwc schema study`.",
        **_SET,
    ),
]
LogTo = Annotated[list[str], typer.Option("--log-to", hidden=True)]
SHARED = {
    "--json": "Print only the result, as JSON.",
    "--plugin": "A Python file (FILE) that registers metrics, losses, tricks or attacks. May be repeated.",
    "--allow-plugins": "Execute plug-ins that a study names outside of the current folder.",
    "--trust-remote-code": "Run Python code that comes with a checkpoint.",
    "--device": "Where to compute (DEVICE): auto, cpu, cuda, cuda:1, mps, or map for a model that no device holds.",
    "--overwrite": "Replace what the output folder has of another model or study.",
    "--skip-invalid": "Leave out the invalid rows of question files, at most half of a file; results name them.",
    "--keep-paths": "Keep absolute paths in the results.",
    "--log-to": "Log to wandb, tensorboard or trackio (TRACKER) as well. May be repeated.",
    "--verify": "Compare all stored models with their hashes, and not only those that are read.",
    "--workers": "The number of processes (N) that compute independent steps of a study at the same time.",
}
"""The options that `uwc --help` describes for all commands that have them."""

Json = Annotated[bool, typer.Option("--json", hidden=True)]
Plugins = Annotated[list[Path], typer.Option("--plugin", hidden=True, callback=_load_plugins)]
AllowPlugins = Annotated[bool, typer.Option("--allow-plugins", hidden=True)]
TrustRemoteCode = Annotated[bool, typer.Option("--trust-remote-code", hidden=True)]
Device = Annotated[str | None, typer.Option("--device", hidden=True)]
Overwrite = Annotated[bool, typer.Option("--overwrite", hidden=True)]
SkipInvalid = Annotated[bool, typer.Option("--skip-invalid", hidden=True)]
KeepPaths = Annotated[bool, typer.Option("--keep-paths", hidden=True)]
Verify = Annotated[bool, typer.Option("--verify", hidden=True)]
Workers = Annotated[int, typer.Option("--workers", hidden=True, min=1)]


class Command(TyperCommand):
    """A command whose help ends in the names of its hidden options, which `uwc --help` describes."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        hidden = {name for param in self.params if getattr(param, "hidden", False) for name in param.opts}
        shared = [name for name in SHARED if name in hidden]
        if shared:
            self.epilog = f"Further options, described by uwc --help: {', '.join(shared)}"


class Commands(TyperGroup):
    """The commands. In messages on wrong usage, characters that change a terminal are escaped, as not every version of
    the command-line library does."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        """Read the options before the command."""
        with _escaped():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        """Read the options of the command, and run it."""
        with _escaped():
            return super().invoke(ctx)


@contextmanager
def _escaped() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if hasattr(error, "format_message"):  # an error of usage
            error.message = printable(str(getattr(error, "message", "")))  # type: ignore[attr-defined]
        raise


def texts_under(options: Sequence[str]) -> "dict[str, Outputs]":
    """``["jailbreak=FILE"]`` as texts by attack. Raises UserError for an option of another form."""
    from uwc.data.outputs import Outputs

    found: dict[str, Outputs] = {}
    for option in options:
        name, equals, file = option.partition("=")
        if not equals or not name or not file or name in found:
            raise UserError(f"--under {option!r}: write it as NAME=FILE, with a name of its own for each attack")
        found[name] = Outputs(file)
    return found


def one_system(outputs: Path | None, endpoint: "Endpoint | None") -> "Outputs | Endpoint | None":
    """The system that is not a checkpoint. Raises UserError if there are two."""
    from uwc.data.outputs import Outputs

    if outputs is not None and endpoint is not None:
        raise UserError("--outputs and --endpoint exclude each other; give one of them")
    return endpoint if outputs is None else Outputs(outputs)


def require_no_model(model: "LoadingConfig", score: "ScoreConfig", server: "Endpoint | None") -> None:
    """Raise UserError for settings of a model, where there are only texts, or a server."""
    unused = [f"model.{key}" for key in sorted(model.model_fields_set)]
    if server is None and "max_new_tokens" in score.model_fields_set:
        unused.append("score.max_new_tokens")
    if unused:
        raise UserError(f"--set {unused[0]}: there is no model to load or to ask, only its texts; leave it out")


def endpoint_of(
    url: str | None, model: str | None, attacks: Sequence[str], given: "EndpointSections"
) -> "tuple[Endpoint | None, dict[str, Any]]":
    """The endpoint, and its attacks by name; None without ``--endpoint``.

    Args:
        url, model, attacks: the options.
        given: the settings of ``--set``.

    Raises:
        UserError: an option is missing, or a setting is wrong.
    """
    from pydantic import ValidationError

    from uwc.api import require_used
    from uwc.models.endpoint import Endpoint
    from uwc.studies.sections import first_problem

    settings = given.attack.settings
    if url is None:
        if model is not None or attacks or given.endpoint or settings:
            raise UserError("--model, --attack and --set endpoint.KEY are for a server: give it with --endpoint URL")
        return None, {}
    if model is None:
        raise UserError("--endpoint needs --model NAME, the model's name at the server")
    for name in ("url", "model"):
        if name in given.endpoint:
            raise UserError(f"--set endpoint.{name}: give it as an option, --endpoint URL --model NAME")
    chains = {name: name.split("+") for name in attacks}
    require_used(settings, [step for chain in chains.values() for step in chain])
    under = {
        name: {"chain": chain, "settings": {step: settings[step] for step in chain if step in settings}}
        for name, chain in chains.items()
    }
    try:
        return Endpoint(url, model, **{"max_new_tokens": given.score.max_new_tokens, **given.endpoint}), under
    except ValidationError as error:
        raise UserError(f"--set endpoint: {first_problem(error, Endpoint)}") from None


def attacker_of(
    endpoint: "Endpoint | None",
    attacks: Collection[str],
    scored: Path | None,
    owned: Path | None,
    forms: Sequence[str],
    files: "FileSettings",
) -> "Attacker | None":
    """The attacker's data for an endpoint; None if none are given.

    Args:
        endpoint: the endpoint.
        attacks: the attacks on it.
        scored: the file of the questions to forget.
        owned: the file of ``--attacker-data``.
        forms: the columns of ``--question-column``.
        files: the columns of the files.

    Raises:
        UserError: there is no attack that could use them, or a file cannot be read.
    """
    from uwc.attacks.data import Attacker
    from uwc.data.question_files import sets_of

    if owned is None and not forms:
        return None
    if endpoint is None or not attacks:
        raise UserError(
            "--attacker-data and --question-column are for attacks on a server: give --endpoint URL and --attack NAME; "
            "for a model see uwc attack"
        )
    if scored is None:
        raise UserError("--attacker-data and --question-column need the questions to forget; give --forget FILE")
    columns = {key: name for key, name in files.columns.items() if ":" not in key}
    left_out: LeftOut = [] if files.skip_invalid else None
    train = () if owned is None else sets_of({"attacker-data": owned}, columns, left_out=left_out)["attacker-data"]
    return Attacker(train=train, questions={name: in_column(scored, files, name) for name in forms})


def in_column(scored: Path, files: "FileSettings", column: str) -> dict[str, str]:
    """Id -> question in a column of the scored file."""
    from uwc.data.question_files import sets_of

    own = {key: name for key, name in files.columns.items() if key.rpartition(":")[0] in ("", "forget", "data")}
    asked = {key.rpartition(":")[2]: name for key, name in own.items()} | {"question": column}
    read = sets_of({"forget": scored}, asked, left_out=[] if files.skip_invalid else None)
    return {e.id: e.question for e in read["forget"]}


S = TypeVar("S", bound="Section")


def question_settings(columns: Sequence[str], *, skip_invalid: bool) -> dict[str, dict[str, Any]]:
    """The settings of question files that options give, as `sections` takes them."""
    settings = {"columns": file_columns(columns), **({"skip_invalid": True} if skip_invalid else {})}
    return {"benchmark": {"settings": settings}}


def harness_settings(include_path: Path | None) -> dict[str, dict[str, Any]]:
    """The settings of tasks that options give, as `sections` takes them."""
    return {} if include_path is None else {"harness": {"include_path": str(include_path)}}


def file_columns(options: Sequence[str]) -> dict[str, str]:
    """``["question=ask", "forget:answer=says"]`` as column by ``FIELD`` or ``FILE:FIELD``.

    Raises:
        UserError: an option is not of the form [FILE:]FIELD=COLUMN.
    """
    columns = {}
    for option in options:
        place, equals, column = option.partition("=")
        file, colon, field = place.rpartition(":")
        if not equals or not field or not column or (colon and not file):
            raise UserError(f"--column {option!r}: write it as FIELD=COLUMN, or FILE:FIELD=COLUMN for one file")
        columns[place] = column
    return columns


def named_files(files: Sequence[Path], *, taken: Collection[str] = ("forget",)) -> dict[str, Path]:
    """A name for each file: its own without the suffix, with a number if that is repeated or taken."""
    named: dict[str, Path] = {}
    for file in files:
        name, count = file.stem, 1
        while name in named or name in taken:
            count += 1
            name = f"{file.stem} {count}"
        named[name] = file
    return named


def retain_files(files: Sequence[Path]) -> dict[str, Path]:
    """The retain files by the names of their sets: ``retain`` for the first, the files' names for the others."""
    from uwc.workflows.comparison import TAKEN

    return dict(zip(["retain"], files, strict=False)) | named_files(files[1:], taken=TAKEN)


def given_files(**files: Path | None) -> dict[str, Path]:
    """The files that were given."""
    return {name: path for name, path in files.items() if path is not None}


def sections(
    kind: type[S],
    options: Sequence[str],
    defaults: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    trust_remote_code: bool = False,
    device: str | None = None,
) -> S:
    """The validated settings of ``--set``.

    Args:
        kind: the sections and their keys.
        options: ``"section.key=value"``, the value in YAML.
        defaults: section -> key -> value, for keys that other options give.
        trust_remote_code: the option of this name, which no other can give.
        device: the option of this name.

    Raises:
        ConfigError: an unknown key, a wrong value, or an option that is not of this form.
    """
    from pydantic import ValidationError

    from uwc.studies.config_file import set_options
    from uwc.studies.sections import first_problem

    given = set_options(options)
    if isinstance(model := given.get("model", {}), dict) and "trust_remote_code" in model:
        raise ConfigError("--set model.trust_remote_code: use the option --trust-remote-code")
    if trust_remote_code:
        defaults = {**(defaults or {}), "model": {"trust_remote_code": True}}
    if device is not None:
        defaults = {**(defaults or {}), "model": {**(defaults or {}).get("model", {}), "device": device}}
    for section, values in (defaults or {}).items():
        if isinstance(given.setdefault(section, {}), dict):
            given[section] = {**values, **given[section]}
    try:
        return kind(**given)
    except ValidationError as error:
        raise ConfigError(f"--set: {first_problem(error, kind)}") from None
    except ConfigError as error:
        raise ConfigError(f"--set: {error}") from None


def loading(model: "LoadingConfig") -> dict[str, Any]:
    """The options of loading models, as arguments of the functions of `uwc.api`."""
    options = model.loading()
    return {f.name: getattr(options, f.name) for f in fields(options)}


def numbers(text: str) -> list[float]:
    """``"1,2,4"`` as numbers, whole ones as integers. Raises UserError for anything else."""
    try:
        read = [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{text!r}: write numbers with commas between them, such as 1,2,4") from None
    return [int(n) if n.is_integer() else n for n in read]
