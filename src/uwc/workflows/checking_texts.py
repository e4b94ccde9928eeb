"""The check of a system that is not a checkpoint against a policy, from its texts."""

import shlex
from collections.abc import Collection, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from uwc import __version__
from uwc.attacks.asked import needs_no_weights
from uwc.attacks.chain import Chain
from uwc.attacks.data import Attacker
from uwc.attacks.evaluate import under_attack
from uwc.attacks.texts import seen
from uwc.data.example import Example
from uwc.data.outputs import Outputs, SystemTexts
from uwc.data.question_files import Columns, Questions
from uwc.errors import ConfigError
from uwc.io import expanded, file_digest
from uwc.metrics.semantics import Judges, require_judges
from uwc.metrics.suites import WEIGHTS, clusters_of, missing_need, set_info
from uwc.models.endpoint import Endpoint
from uwc.reports.check_folder import write_check
from uwc.results import CheckedSet, CheckedSystem, CheckResults
from uwc.studies.config import JudgesConfig
from uwc.studies.config_file import Overrides, set_options
from uwc.studies.policy import Policies, Policy, load_policy
from uwc.studies.sections import ChainConfig, Section, first_problem
from uwc.studies.store import environment
from uwc.studies.verdict import CheckedRole, Lacking, Measured, against_baseline, decide, require_comparable
from uwc.training.settings import LAST_SEED
from uwc.workflows.collecting import Asked, Under, with_attacks
from uwc.workflows.texts import (
    DELIVERED,
    ScoredTexts,
    System,
    Systems,
    measure,
    read_systems,
    text_scores,
    with_text_answers,
)

POLICY = "texts"
"""The policy of texts by default."""


class TextFiles(Section):
    """Files besides those of the options: name -> file of a further set."""

    further: dict[str, Path] = Field(default_factory=dict)


class TextBenchmark(Section):
    """The settings of the benchmark of local files."""

    settings: TextFiles = TextFiles()


class TextScore(Section):
    """The judges of texts."""

    judges: JudgesConfig = JudgesConfig()


class TextKeys(Section):
    """The keys of a study that the check of texts has: the seed of the bootstrap, judges and further sets."""

    seed: int = Field(0, ge=0, le=LAST_SEED)
    score: TextScore = TextScore()
    benchmark: TextBenchmark = TextBenchmark()

    @classmethod
    def of(cls, overrides: Overrides) -> "TextKeys":
        """The keys that are given. Raises ConfigError, naming the valid ones, for another key or a wrong value."""
        try:
            return cls(**set_options(overrides))
        except ValidationError as error:
            raise ConfigError(f"the check of texts: {first_problem(error, cls)}") from None


_OPTIONS = {"original": "--before", "retrained": "--retrained"}


class TextEvidence:
    """The evidence on a system that is not a checkpoint.

    Args:
        found: its texts with their metrics.
    """

    def __init__(self, found: ScoredTexts) -> None:
        self.found = found

    def values(
        self,
        role: CheckedRole,
        name: str,
        metric: str,
        *,
        chain: ChainConfig | None = None,
        variants: Literal["mean", "worst"] = "mean",
    ) -> Measured | Lacking:
        """See `uwc.studies.verdict.Evidence`. An attack is found by its label."""
        found = self.found
        sets = {"model": found.ours, "original": found.before, "retrained": found.retrained}[role]
        if not sets:
            whose = "the original" if role == "original" else "a retrained model"
            return Lacking(f"there are no texts of {whose}; give them with {_OPTIONS[role]}")
        scoring = found.scoring if role == "model" else found.compared(sets)
        given = scoring.given
        lacking = missing_need(metric, name, given)
        if lacking == WEIGHTS or (chain is not None and chain.made().touches_weights):
            return Lacking(f"it needs {WEIGHTS}")
        if lacking or name not in sets:
            return Lacking(f"there is no {lacking or f'text of the set {name!r} of the {role}'}")
        texts = sets[name]
        if chain is None:
            return Measured(texts.ids, texts.subjects, texts.values(metric, **scoring.settings.get(metric, {})))
        under = {"model": found.attacked, "original": {}, "retrained": found.control}[role]
        attacked = under.get(chain.label, {}).get(name)
        if attacked is None:
            whose = "" if role == "model" else f" of the {role}"
            hint = f"; give them with --under {chain.label}=FILE" if role == "model" else ""
            return Lacking(f"there are no texts{whose} under the attack {chain.label!r}{hint}")
        if metric not in seen(name, texts, scoring):
            return Lacking(f"{metric!r} cannot be measured on texts under the attack {chain.label!r}")
        asked = {name: texts.examples}
        values = under_attack(None, attacked, asked, name, metric, worst=variants == "worst")
        return Measured(texts.ids, texts.subjects, values, attack=chain.label)


def check_texts(
    texts: System | Endpoint,
    questions: Mapping[str, Questions] | None = None,
    *,
    before: System | None = None,
    retrained: System | None = None,
    under: Under | None = None,
    attacker: Attacker | None = None,
    policy: Policies = POLICY,
    baseline: CheckResults | None = None,
    baseline_name: str = CheckResults.FILE,
    columns: Columns | None = None,
    skip_invalid: bool = False,
    overrides: Overrides = (),
    folder: Path,
    redact: bool = False,
    undecided: Literal["pass", "fail"] | None = None,
    overwrite: bool = False,
    keep_paths: bool = False,
) -> CheckResults:
    """Check a system that is not a checkpoint against a policy, and write the files of a check.

    Args:
        texts: the system.
        questions: set -> questions; by default each row of the texts has its own.
        before: the original.
        retrained: a system that was never trained on the data.
        under: attack -> the texts of the system under it, which requirements name by its label; an endpoint is asked
            under all attacks of the policy that need no weights, and under those of `under`, see `uwc.score`.
        attacker: the attacker's data, for an endpoint.
        policy: the name of a shipped policy, a YAML file, or a mapping of the same keys.
        baseline: an earlier check of the same questions; a significantly worse number fails.
        baseline_name: what results call it.
        columns, skip_invalid: as `uwc.score` takes them.
        overrides: see `TextKeys`.
        folder: the folder of the results.
        redact, undecided, overwrite, keep_paths: as `uwc.check` takes them.

    Raises:
        UserError: a file or the policy is not as it should be, or the baseline is one of other questions.
    """
    asked, keys = load_policy(policy), TextKeys.of(overrides)
    named = dict(questions or {})
    questions = {**named, **keys.benchmark.settings.further}
    _require_own_folder(folder, texts.name, overwrite=overwrite)
    own = under or {}
    if isinstance(texts, Endpoint | Asked):
        under = {**_attacks(asked), **own}
    texts, further = with_attacks(texts, under or {}, attacker=attacker, folder=folder)
    judges = keys.score.judges.given()
    require_judges(judges)
    wanted = [requirement.metric for requirement in asked.requirements]
    load = cache(partial(Judges.load, judges))
    measured = partial(measure, wanted=wanted, judges=judges, load=load, seed=keys.seed)

    def require_ready(empty: Systems) -> None:
        measured(empty)
        if baseline is not None:
            sets = {name: set_info(name, examples).sha256 for name, examples in empty.texts.examples.items()}
            require_comparable(asked.model_dump(mode="json"), sets, baseline, name=baseline_name)

    systems = read_systems(
        texts,
        questions,
        before=before,
        retrained=retrained,
        under=further,
        columns=columns,
        skip_invalid=skip_invalid,
        ready=require_ready,
    )
    found = measured(systems)
    rows = texts.data if isinstance(texts, Outputs) else None
    scores = with_text_answers(text_scores(found), found)
    results = CheckResults(
        uwc_version=__version__,
        model=_checked(systems.texts),
        original=None if systems.before is None else _checked(systems.before),
        retrained=None if systems.retrained is None else _checked(systems.retrained),
        verdict=decide(
            asked, TextEvidence(found), model=DELIVERED.model_copy(update={"run": texts.name}), seed=keys.seed
        ),
        policy=asked.model_dump(mode="json"),
        metrics=scores.metrics,
        sets=checked_sets(systems.texts.examples, {**dict.fromkeys(systems.texts.examples, rows), **questions}),
        attacks=scores.attacks.attacks if scores.attacks else (),
        secrets=scores.secrets,
        judges=scores.judges,
        left_out=scores.left_out,
        invalid_rows=scores.invalid_rows,
        warnings=scores.warnings,
        command=command_line(
            _command(texts, before, retrained, further, policy, own),
            sets=named,
            columns=columns or {},
            overrides=overrides,
        ),
        environment=environment(),
    )
    if baseline is not None:
        results = against_baseline(results, baseline, name=baseline_name, seed=keys.seed)
    return write_check(
        results, folder, answers=scores.answers, redact=redact, undecided=undecided, keep_paths=keep_paths
    )


def _attacks(policy: Policy) -> dict[str, Chain]:
    """The attacks of a policy that can be carried out on an endpoint."""
    chains = {r.chain.label: r.chain.made() for r in policy.requirements if r.chain is not None}
    return {label: chain for label, chain in chains.items() if needs_no_weights(chain)}


def _require_own_folder(folder: Path, name: str, *, overwrite: bool) -> None:
    """Make the folder. Raises UserError if it has the check of another system."""
    CheckResults.prepare(folder, overwrite=True)
    file = folder / CheckResults.FILE
    if overwrite or not file.exists():
        return
    earlier = CheckResults.load(file)
    if not earlier.names_path(earlier.model.source, name):
        raise ConfigError(
            f"{file} is the check of another system, {earlier.model.source!r}; give another folder, or replace it with "
            "--overwrite (in Python overwrite=True)"
        )


def _checked(texts: SystemTexts) -> CheckedSystem:
    return CheckedSystem(source=texts.source, files=dict(texts.files), kind=texts.kind)


def checked_sets(sets: Mapping[str, Sequence[Example]], files: Mapping[str, Any]) -> dict[str, CheckedSet]:
    """The sets of questions with the files that they come from.

    Args:
        sets: set -> its questions.
        files: set -> its file; anything else is in memory. Paraphrased questions are in the file of their set.
    """
    found = {}
    for name, examples in sets.items():
        file = files.get(name.partition("_paraphrased")[0])
        path = str(file) if isinstance(file, str | Path) else ""
        found[name] = CheckedSet(
            **set_info(name, examples).model_dump(),
            clusters=clusters_of(examples) if any(example.subject for example in examples) else 0,
            file=path,
            file_sha256=file_digest(expanded(path)) if path else "",
        )
    return found


def command_line(words: Sequence[Any], *, sets: Mapping[str, Any], columns: Columns, overrides: Overrides) -> str:
    """The command ``uwc check`` that repeats a check; empty for models or questions in memory, which it cannot name.

    Args:
        words: the checked system, and options.
        sets: set -> its file.
        columns: column by field.
        overrides: changes to other keys.
    """
    words = ["uwc", "check", *words]
    for name, file in sets.items():
        further = f"benchmark.settings.further.{name}={file}" if isinstance(file, str | Path) else file
        words += [f"--{name}", file] if name in ("forget", "retain", "holdout") else ["--set", further]
    for field, column in columns.items():
        words += ["--column", f"{field}={column}"]
    settings = [f"{k}={v}" for k, v in overrides.items()] if isinstance(overrides, Mapping) else overrides
    words += [word for setting in settings for word in ("--set", setting)]
    return shlex.join(map(str, words)) if all(isinstance(word, str | Path) for word in words) else ""


def _command(
    texts: Outputs | SystemTexts | Asked,
    before: System | None,
    retrained: System | None,
    under: Mapping[str, Outputs],
    policy: Policies,
    attacks: Collection[str],
) -> list[Any]:
    """The words of the command that repeats a check, besides questions and settings."""
    given: dict[str, Any] = {"outputs": texts, "before": before, "retrained": retrained}
    files = {option: system.data for option, system in given.items() if isinstance(system, Outputs)}
    words: list[Any] = texts.options(attacks) if isinstance(texts, Asked) else []
    words += [None] if isinstance(texts, SystemTexts) or (isinstance(texts, Asked) and texts.owns_data) else []
    for option, file in files.items():
        words += [f"--{option}", file]
    for name, attacked in under.items():
        data = attacked.data
        words += ["--under", f"{name}={data}" if isinstance(data, str | Path) else data]
    return [*words, "--policy", policy]
