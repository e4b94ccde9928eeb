"""Audits of a system by its answers: an observer who distinguishes it from a retrained model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uwc.attacks.decoding import draws
from uwc.data.example import Example
from uwc.data.outputs import OpenedOutputs, Outputs, open_outputs, read_outputs
from uwc.data.question_files import Columns, LeftOut, Questions, sets_of
from uwc.errors import ConfigError, DataError
from uwc.io import digest
from uwc.metrics.observer import FEWEST_CLUSTERS, advantages, observed
from uwc.metrics.samples import LeakSettings
from uwc.metrics.suites import clusters_of
from uwc.models.chunks import NoDigest, content_digest
from uwc.models.endpoint import Answer, Conversation, Endpoint, Request, StoredAnswers
from uwc.models.generation import generate
from uwc.models.model import Loading, Model, ModelLike, name_of
from uwc.models.samples import sample
from uwc.results import FORGET, ObserverAudit, Warning
from uwc.workflows.collecting import ANSWERS

if TYPE_CHECKING:
    from uwc.models.reading import Reading

Audited = ModelLike | Outputs | Endpoint
"""A model, the texts of a system, or an endpoint that is asked."""
SYSTEM, RETRAINED, CONTROL = "outputs", "retrained", "control"
"""The names of the systems, which files of texts have in ``columns``."""
Ask = Callable[[Sequence[Example]], list[str]]


def kind_of(system: Audited) -> str:
    """What results call the kind of a system."""
    return "texts" if isinstance(system, Outputs) else "endpoint" if isinstance(system, Endpoint) else "checkpoint"


def audited_name(system: Audited) -> str:
    """What results call a system."""
    return system.name if isinstance(system, Outputs | Endpoint) else name_of(system)


@dataclass(frozen=True)
class Asking:
    """How systems are asked.

    Attributes:
        loading: the options of loading models.
        reading: how models are read; None for each in its own way.
        max_new_tokens: the most tokens of an answer of a model.
        folder: keeps each answer, so that an interrupted audit resumes; None keeps nothing.
        samples: how answers are sampled; None for greedy ones, and an endpoint's own settings.
    """

    loading: Loading
    reading: "Reading | None"
    max_new_tokens: int
    folder: Path | None = None
    samples: LeakSettings | None = None

    def kept(self) -> StoredAnswers:
        """The answers of this and earlier runs."""
        return StoredAnswers(None if self.folder is None else self.folder / ANSWERS)


def read_audited(
    systems: Mapping[str, Audited], forget: Questions, columns: Columns | None, invalid: LeftOut
) -> tuple[list[Example], dict[str, OpenedOutputs]]:
    """The questions, and the files of texts.

    Args:
        systems: name -> system.
        forget: the questions.
        columns: column by ``"PART"`` or ``"NAME:PART"``, for the files of questions and of texts.
        invalid: a list that takes invalid rows; None raises an error for them.
    """
    files = {name: system for name, system in systems.items() if isinstance(system, Outputs)}
    opened: dict[str, OpenedOutputs] = {}
    theirs = dict(columns or {})
    if files:
        opened, theirs = open_outputs(files, columns, questions={FORGET: forget})
    return sets_of({FORGET: forget}, theirs, left_out=invalid)[FORGET], opened


@contextmanager
def asked(system: Audited, examples: Sequence[Example], how: Asking, opened: OpenedOutputs | None) -> Iterator[Ask]:
    """A function that asks a system some of the questions, and never the same one twice.

    Args:
        system: the system.
        examples: all questions.
        how: how it is asked.
        opened: its file, if it is one of texts.

    Raises:
        DataError: a question has no text.
        EndpointError: a server refuses a request, or does not answer.
    """
    if isinstance(system, Outputs):
        assert opened is not None
        texts = read_outputs(opened, {FORGET: examples}).texts.get(FORGET, ())
        if not texts:
            raise DataError(f"{opened.where}: the log has no texts; give a file with generated answers")
        said = {example.id: text for example, text in zip(examples, texts, strict=True)}
        yield lambda some: [said[example.id] for example in some]
    elif isinstance(system, Endpoint):
        with closing(Conversation(system, how.kept())) as conversation:
            yield lambda some: [
                answer.text for answer in conversation.ask([Request(e) for e in some], f"ask {system.model}")
            ]
    else:
        model = how.loading.load(system, how.reading)
        yield _kept_answers(model, how)


def _kept_answers(model: Model, how: Asking) -> Ask:
    """Greedy answers of a model, each looked up by its weights and prompt."""
    try:
        of_model = content_digest([how.max_new_tokens, repr(model.template), model.model])
        kept = how.kept()
    except NoDigest:  # weights that cannot be read: nothing is kept
        of_model, kept = "", StoredAnswers()

    def ask(examples: Sequence[Example]) -> list[str]:
        keys = [digest({"model": of_model, "prompt": list(e.before)}) for e in model.encode(examples)]
        missing = {key: example for key, example in zip(keys, examples, strict=True) if key not in kept}
        if missing:
            texts = generate(model, list(missing.values()), max_new_tokens=how.max_new_tokens).texts
            for key, text in zip(missing, texts, strict=True):
                kept.add(key, Answer(text, "", False))
        return [kept[key].text for key in keys]

    return ask


def all_answers(
    system: Audited, examples: Sequence[Example], how: Asking, opened: OpenedOutputs | None
) -> list[tuple[str, ...]]:
    """[E][k] the answers of a system: one to each question, or as many as are sampled."""
    if how.samples is None:
        with asked(system, examples, how, opened) as ask:
            return [(text,) for text in ask(examples)]
    asking = how.samples
    drawn: dict[str, Any] = {"temperature": asking.temperature, "top_p": asking.top_p, "seed": asking.seed}
    if isinstance(system, Endpoint):
        requests = [Request(e, draw) for e in examples for draw in draws(samples=asking.count, **drawn)]
        with closing(Conversation(system, how.kept())) as conversation:
            said = iter(conversation.ask(requests, f"sample {system.model}"))
            return [tuple(next(said).text for _ in range(asking.count)) for _ in examples]
    assert not isinstance(system, Outputs)
    model = how.loading.load(system, how.reading)
    return list(sample(model, examples, count=asking.count, max_new_tokens=how.max_new_tokens, **drawn).texts)


def observe(
    systems: Mapping[str, Audited],
    examples: Sequence[Example],
    opened: Mapping[str, OpenedOutputs],
    how: Asking,
    *,
    seed: int = 0,
) -> ObserverAudit:
    """How well an observer of answers distinguishes a system from a retrained one, see `uwc.metrics.observer`.

    Args:
        systems: `SYSTEM`, `RETRAINED` and perhaps `CONTROL` -> the system.
        examples: the questions.
        opened: the files of those that are texts.
        how: how they are asked.
        seed: of the divisions into halves and of the bootstrap.
    """
    texts, counts = {}, 1 if how.samples is None else how.samples.count
    for name, system in systems.items():
        found = all_answers(system, examples, how, opened.get(name))
        texts[name] = [text for of_question in found for text in of_question]
    subjects = [e.subject or f"\0{e.id}" for e in examples for _ in range(counts)]
    halves = {
        name: observed(texts[name], texts[RETRAINED], subjects, seed=seed)
        for name in (SYSTEM, CONTROL)
        if name in texts
    }
    control = systems.get(CONTROL)
    return ObserverAudit(
        against=audited_name(systems[RETRAINED]),
        control="" if control is None else audited_name(control),
        questions=len(examples),
        clusters=clusters_of(examples),
        samples=0 if how.samples is None else counts,
        temperature=0.0 if how.samples is None else how.samples.temperature,
        equal=sum(a == b for a, b in zip(texts[SYSTEM], texts[RETRAINED], strict=True)) / len(subjects),
        points=tuple(advantages(halves[SYSTEM], control=halves.get(CONTROL), seed=seed)),
    )


def check_observed(
    systems: Mapping[str, Audited], examples: Sequence[Example], samples: LeakSettings | None
) -> list[Warning]:
    """The warnings on systems and questions that an observer is given. Raises UserError for those that it cannot be."""
    if samples is not None:
        for name, system in systems.items():
            if isinstance(system, Outputs):
                raise ConfigError(f"{name}: {system.name} has one text of each question; leave score.samples out")
        plain = LeakSettings()
        if (samples.leaks, samples.at_least) != (plain.leaks, plain.at_least):
            raise ConfigError("score.samples: leaks and at_least have no effect on an observer; leave them out")
    if (clusters := clusters_of(examples)) < FEWEST_CLUSTERS:
        raise DataError(
            f"the questions are about {clusters} subjects, and an observer learns from some and is tested on others; "
            f"give questions about at least {FEWEST_CLUSTERS}"
        )
    if samples is None and CONTROL not in systems:
        sampled = ", or sample answers (--set score.samples.count=8)"
        text = (
            "Greedy answers of two retrained models of different seeds differ too, as each has habits of its own. Give "
            "a second one (--control), to which the advantage is compared"
            f"{'' if any(isinstance(s, Outputs) for s in systems.values()) else sampled}."
        )
        return [Warning(code="greedy_without_control", text=text)]
    return []


def plain_questions(examples: Sequence[Example]) -> list[Example]:
    """The questions without their other wordings."""
    return [replace(e, paraphrased_question="") for e in examples]
