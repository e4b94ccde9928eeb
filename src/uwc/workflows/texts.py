"""Scores of a system that is not a checkpoint, from its texts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from uwc import __version__, answers, progress
from uwc.attacks.texts import Attacked, attack_results, attack_rows, attacked_texts
from uwc.data.example import Example
from uwc.data.outputs import OpenedOutputs, Outputs, SystemTexts, open_outputs, read_attack, read_outputs
from uwc.data.question_files import Columns, LeftOut, Questions, sets_of
from uwc.errors import ConfigError, DataError
from uwc.metrics import evaluate
from uwc.metrics.evaluate import Scoring
from uwc.metrics.registry import JUDGES
from uwc.metrics.secrets import secret_counts
from uwc.metrics.semantics import Judges
from uwc.metrics.suites import (
    FORGET,
    Given,
    OnlyTexts,
    chosen_metrics,
    in_all_wordings,
    metric_info,
    metric_name,
    question_warnings,
    set_info,
    what_is_missing,
)
from uwc.metrics.texts import TextSet, only_texts, text_sets
from uwc.names import require_names
from uwc.results import ModelKey, Scores, Warning
from uwc.studies.judging import judge_infos, unchecked
from uwc.workflows.collecting import Asked

System = Outputs | SystemTexts | Asked
"""A system that is not a checkpoint, by its texts, or by the endpoint that is asked for them."""
Settings = Mapping[str, Mapping[str, Any]]
BEFORE, RETRAINED = "before", "retrained"
_NAMES = ("outputs", BEFORE, RETRAINED)
DELIVERED = ModelKey(role="unlearned")
"""What results call the system."""


def system_of(name: str, given: Any) -> System | None:
    """The texts of another system, or None. Raises ConfigError for a model."""
    if given is None or isinstance(given, System):
        return given
    raise ConfigError(
        f"{name} is a model, and the system is given by texts; give the model's texts as uwc.Outputs(...)"
    )


@dataclass(frozen=True)
class Systems:
    """A system and those that it is compared with, on the same questions.

    Attributes:
        texts: the texts of the system, also under attacks.
        before: those of the original; None if they are not given.
        retrained: those of a system that was never trained on the data; likewise.
        invalid: the rows that were left out.
    """

    texts: SystemTexts
    before: SystemTexts | None = None
    retrained: SystemTexts | None = None
    invalid: LeftOut = None

    @property
    def others(self) -> list[SystemTexts]:
        """Those that it is compared with."""
        return [texts for texts in (self.before, self.retrained) if texts is not None]

    @property
    def files(self) -> dict[str, str]:
        """Name -> SHA-256 of the files of all."""
        found: dict[str, str] = {}
        for texts in (self.texts, *self.others):
            for name, sha256 in texts.files.items():
                found[name if found.get(name, sha256) == sha256 else f"{name} ({texts.source})"] = sha256
        return found


def read_systems(
    texts: System,
    questions: Mapping[str, Questions] | None = None,
    *,
    before: System | None = None,
    retrained: System | None = None,
    under: Mapping[str, Outputs] | None = None,
    columns: Columns | None = None,
    skip_invalid: bool = False,
    ready: Callable[[Systems], object] | None = None,
) -> Systems:
    """Read the texts of a system and of others, and match them with their questions.

    Args:
        texts: the system.
        questions: set -> questions; by default each row of the texts has its own.
        before: the original.
        retrained: a system that was never trained on the data.
        under: attack -> the texts of the system under it.
        columns: column by ``"PART"`` or ``"NAME:PART"``, for the files of questions and of texts.
        skip_invalid: leave out invalid rows, at most half of a file, and the questions that have then no text.
        ready: is called with empty texts before an endpoint is asked, and raises an error if anything is wrong.

    Raises:
        EndpointError: an endpoint refuses a request, or does not answer.
        UserError: a file cannot be read, or texts and questions do not match.
    """
    require_names("attack", under or {})
    for name in under or {}:
        if name in (*_NAMES, *(questions or {})):
            raise ConfigError(f"{name!r} cannot be the name of an attack, as a file has it; choose another")
    given = {"outputs": texts, BEFORE: before, RETRAINED: retrained, **(under or {})}
    files = {name: system for name, system in given.items() if isinstance(system, Outputs)}
    opened, theirs = open_outputs(files, columns, questions=questions)
    invalid: LeftOut = [] if skip_invalid else None
    sets = sets_of(questions, theirs, left_out=invalid) if questions else {}
    ours = _ours(texts, opened, sets, invalid)
    like = None if sets else opened.get("outputs")
    other = {
        name: _other(system, name, opened, ours, like, invalid)
        for name, system in ((BEFORE, before), (RETRAINED, retrained))
        if system is not None
    }
    attacks = {name: _under(opened[name], ours, like, invalid) for name in under or {}}
    if skip_invalid:
        kept = _common(ours, [*other.values(), *attacks.values()])
        ours = ours.select(_positions(ours, kept))
        other, attacks = (
            {name: texts.select(_positions(texts, kept)) for name, texts in found.items()} for found in (other, attacks)
        )
    found = Systems(_with_attacks(ours, attacks), other.get(BEFORE), other.get(RETRAINED), invalid)
    if isinstance(texts, Asked):
        if ready is not None:
            ready(found)
        found = replace(found, texts=_with_attacks(texts.collect(ours.examples), attacks))
    return found


def _with_attacks(ours: SystemTexts, attacks: Mapping[str, SystemTexts]) -> SystemTexts:
    """The texts with those under further attacks."""
    merged = dict(ours.under)
    for attacked in attacks.values():
        merged |= attacked.under
    sources = {name: sha256 for attacked in attacks.values() for name, sha256 in attacked.files.items()}
    return replace(ours, under=merged, files={**sources, **ours.files})


def _ours(
    texts: System, opened: Mapping[str, OpenedOutputs], sets: Mapping[str, Sequence[Example]], invalid: LeftOut
) -> SystemTexts:
    if isinstance(texts, SystemTexts):
        return texts
    asked = in_all_wordings(sets)
    if isinstance(texts, Asked):
        if not asked:
            raise ConfigError("an endpoint is asked questions; give them, such as with --forget FILE")
        return texts.empty(asked)
    return read_outputs(opened["outputs"], asked, optional=[n for n in asked if n not in sets], left_out=invalid)


def _other(
    system: System,
    name: str,
    opened: Mapping[str, OpenedOutputs],
    ours: SystemTexts,
    like: OpenedOutputs | None,
    invalid: LeftOut,
) -> SystemTexts:
    """The texts of another system, of the sets that ours has."""
    if isinstance(system, Asked):
        raise ConfigError(
            f"{name}: an endpoint is asked for the scored system only; give the file of texts that it wrote"
        )
    found = system
    if isinstance(system, Outputs):
        found = read_outputs(opened[name], ours.examples, optional=ours.examples, like=like, left_out=invalid)
    assert not isinstance(found, Outputs)
    common = {s: range(len(examples)) for s, examples in found.examples.items() if s in ours.examples}
    if not common:
        raise DataError(
            f"{found.source}: there is no text of the sets {', '.join(ours.examples)}; give the texts of "
            "the same questions"
        )
    return found.select(common)


def _under(opened: OpenedOutputs, ours: SystemTexts, like: OpenedOutputs | None, invalid: LeftOut) -> SystemTexts:
    examples, variants = read_attack(opened, ours.examples, like=like, left_out=invalid)
    kept = {name: range(len(of_set)) for name, of_set in examples.items() if name in ours.examples and name in variants}
    found = SystemTexts(opened.source, "texts", examples, {}, under={opened.name: variants}, files=opened.files)
    return found.select(kept)


def _common(ours: SystemTexts, others: Sequence[SystemTexts]) -> dict[str, set[str]]:
    """Set -> the ids of the questions that all have."""
    common = {name: {e.id for e in examples} for name, examples in ours.examples.items()}
    for other in others:
        for name, examples in other.examples.items():
            common[name] &= {e.id for e in examples}
    return common


def _positions(texts: SystemTexts, kept: Mapping[str, set[str]]) -> dict[str, list[int]]:
    return {
        name: [i for i, example in enumerate(examples) if example.id in kept.get(name, ())]
        for name, examples in texts.examples.items()
    }


@dataclass(frozen=True)
class ScoredTexts:
    """The texts of a system with their metrics.

    Attributes:
        systems: the texts.
        scoring: the metrics.
        left_out: metric of a suite -> its missing need.
        ours: set -> the texts of the system.
        before: set -> those of the original; empty without one.
        retrained: set -> those of a system that was never trained on the data; likewise.
        attacked: attack -> set -> its variants.
        control: the same of the retrained system.
        judges: the judges of texts.
    """

    systems: Systems
    scoring: Scoring
    left_out: Mapping[str, str]
    ours: Mapping[str, TextSet]
    before: Mapping[str, TextSet]
    retrained: Mapping[str, TextSet]
    attacked: Attacked
    control: Attacked
    judges: Judges

    def compared(self, other: Mapping[str, TextSet]) -> Scoring:
        """The metrics that ours and another system both have."""
        ours, theirs = only_texts(self.ours), only_texts(other)
        both = OnlyTexts(
            {name: ours.logged.get(name, frozenset()) & theirs.logged.get(name, frozenset()) for name in other},
            ours.silent | theirs.silent,
        )
        return replace(self.scoring, given=replace(self.scoring.given, only_texts=both))


def measure(
    systems: Systems,
    metrics: Sequence[Any] = (),
    *,
    wanted: Sequence[str] = (),
    settings: Settings | None = None,
    judges: Mapping[str, Any] | None = None,
    load: Callable[[], Judges] = Judges,
    seed: int = 0,
) -> ScoredTexts:
    """Measure the texts of a system, and of those that it is compared with.

    Args:
        systems: the texts.
        metrics: names, labels, suites or functions.
        wanted: further metrics, where they can be computed.
        settings: metric -> its settings that differ from the defaults.
        judges: name of a judge -> a path or a function, as `Judges.load` takes them.
        load: loads them, once the metrics are checked.
        seed: of the bootstrap.

    Raises:
        UserError: a metric is unknown or needs what texts do not have, or two logs do not go together.
    """
    by_name = {metric_name(name): of_metric for name, of_metric in (settings or {}).items()}
    ours = text_sets(systems.texts, by_name)
    before, retrained = (
        {} if texts is None else text_sets(texts, by_name) for texts in (systems.before, systems.retrained)
    )
    of_judges = [name for name in JUDGES if (judges or {}).get(name) is not None]
    available = frozenset([*of_judges, *([RETRAINED] if systems.retrained is not None else [])])
    given = Given(systems.texts.examples, available, only_texts=only_texts(ours))
    names, left_out = chosen_metrics(None, metrics, given)
    names += [name for name in dict.fromkeys(wanted) if name not in names and not what_is_missing(name, given)]
    if "forget_quality" in names and (lacking := _lacks_quality(systems, ours, retrained)):
        names.remove("forget_quality")
        left_out["forget_quality"] = lacking
    scoring = Scoring(given, names, by_name, seed=seed)
    asked = load()
    ours, before, retrained = (
        {name: found.judged_by(asked, scoring.judged(name), by_name) for name, found in sets.items()}
        for sets in (ours, before, retrained)
    )
    attacked, control = (
        {} if texts is None else attacked_texts(texts, sets, scoring, judges=asked)
        for texts, sets in ((systems.texts, ours), (systems.retrained, retrained))
    )
    return ScoredTexts(systems, scoring, left_out, ours, before, retrained, attacked, control, asked)


def _lacks_quality(systems: Systems, ours: Mapping[str, TextSet], retrained: Mapping[str, TextSet]) -> str:
    """What forget quality lacks, since two logs are of different forms; empty if nothing.

    Raises:
        DataError: the log of the retrained model lacks the truth ratios, or has other examples.
    """
    assert systems.retrained is not None
    where = systems.retrained.source
    if FORGET not in retrained or "truth_ratio_geometric" not in retrained[FORGET].logged:
        raise DataError(f"{where}: the truth ratios of the forget set are missing; forget quality needs them")
    if ours[FORGET].ids != retrained[FORGET].ids:
        raise DataError(
            f"{systems.texts.source} has {len(ours[FORGET].ids)} forget examples and {where} "
            f"{len(retrained[FORGET].ids)}, or others; forget quality needs logs of the same examples"
        )
    doubts = [texts.logged[FORGET].doubt for texts in (systems.texts, systems.retrained)]
    return f"two logs of one form: {doubts[0] or doubts[1]}" if bool(doubts[0]) != bool(doubts[1]) else ""


def text_scores(found: ScoredTexts) -> Scores:
    """The results of a system by its texts: averages, differences from the original, recovery, and answers."""
    systems, scoring, source = found.systems, found.scoring, found.systems.texts.source
    key = ModelKey(role="unlearned", run=source)
    judges = judge_infos(found.judges.given, scoring)
    warnings = [*_warnings(systems), *unchecked(judges)]
    for warning in warnings:
        progress.warn(warning.text)
    return Scores(
        uwc_version=__version__,
        model=source,
        kind=systems.texts.kind,
        sets={name: set_info(name, examples) for name, examples in systems.texts.examples.items()},
        metrics={name: metric_info(name) for name in scoring.metrics},
        scores=evaluate.evaluate(found.ours, scoring, retrained=found.retrained),
        compared_with="" if systems.before is None else systems.before.source,
        differences=evaluate.paired_differences(found.before, found.ours, found.compared(found.before)),
        secrets=tuple(secret_counts(found.ours, key)),
        judges=judges,
        attacks=attack_results(systems.texts, found.ours, found.attacked, scoring, key=key, control=found.control),
        files=systems.files,
        left_out=dict(found.left_out),
        invalid_rows=tuple(systems.invalid or ()),
        warnings=tuple(warnings),
    )


def with_text_answers(scores: Scores, found: ScoredTexts) -> Scores:
    """The results with the table of answers: of the system, those that it is compared with, and under attacks."""
    parts = [evaluate.answer_rows(found.ours, found.scoring, key=DELIVERED, name=scores.model)]
    names = {scores.model}
    for role, texts, sets in (
        ("original", found.systems.before, found.before),
        ("retrained", found.systems.retrained, found.retrained),
    ):
        if texts is not None:
            name = scores.compared_with if role == "original" else role
            name = f"{name} ({role})" if name in names else name
            names.add(name)
            parts.append(
                evaluate.answer_rows(sets, found.compared(sets), key=ModelKey.model_validate({"role": role}), name=name)
            )
    parts.append(attack_rows(found.systems.texts, found.attacked, key=DELIVERED, name=scores.model))
    return scores.with_answers(answers.joined(parts))


def _warnings(systems: Systems) -> Iterator[Warning]:
    doubts = dict.fromkeys(log.doubt for log in systems.texts.logged.values() if log.doubt)
    for doubt in doubts:
        yield Warning(code="truth_ratio_doubtful", text=f"{systems.texts.source}: {doubt}")
    own = {name: examples for name, examples in systems.texts.examples.items() if not name.endswith("_paraphrased")}
    yield from question_warnings(own)
    yield from (of_file.warning for of_file in systems.invalid or ())
    yield from systems.texts.warnings
