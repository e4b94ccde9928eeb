"""Audits of a system by its answers: an observer who distinguishes it from a retrained model, and leaks by a budget."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from uwc import progress
from uwc.attacks.decoding import draws
from uwc.data.example import Example
from uwc.data.labels import LabelledTexts
from uwc.data.outputs import OpenedOutputs, Outputs, open_outputs, read_outputs
from uwc.data.question_files import Columns, LeftOut, Questions, sets_of
from uwc.errors import ConfigError, DataError
from uwc.io import digest
from uwc.metrics.observer import FEWEST_CLUSTERS, advantages, observed
from uwc.metrics.one_sided import AuditSettings, adaptive_queries, question_features, share_of_all
from uwc.metrics.refusals import refusal_error, refused
from uwc.metrics.samples import LeakSettings, SampleScores
from uwc.metrics.suites import clusters_of
from uwc.models.chunks import NoDigest, content_digest
from uwc.models.endpoint import Answer, Conversation, Endpoint, Request, StoredAnswers
from uwc.models.generation import generate
from uwc.models.model import Loading, Model, ModelLike, name_of
from uwc.models.samples import sample
from uwc.results import FORGET, AuditedQuestion, Estimate, LeakAudit, ObserverAudit, Warning
from uwc.workflows.collecting import ANSWERS

if TYPE_CHECKING:
    from uwc.models.reading import Reading

Audited = ModelLike | Outputs | Endpoint
"""A model, the texts of a system, or an endpoint that is asked."""
SYSTEM, RETRAINED, CONTROL = "outputs", "retrained", "control"
"""The names of the systems, which files of texts have in ``columns``."""
MODEL_ANSWERS = "model_answers.jsonl"
"""The file of all greedy answers of models, from which an interrupted audit resumes; see `ANSWERS` for endpoints."""
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

    def kept(self, file: str) -> StoredAnswers:
        """The answers of this and earlier runs in a file of the folder."""
        return StoredAnswers(None if self.folder is None else self.folder / file)


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
        with closing(Conversation(system, how.kept(ANSWERS))) as conversation:
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
        kept = how.kept(MODEL_ANSWERS)
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
        with closing(Conversation(system, how.kept(ANSWERS))) as conversation:
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


def askable(examples: Sequence[Example], leaks: LeakSettings) -> list[Example]:
    """The questions for which the metric has a value, as it has for the true answer.

    Raises:
        UserError: the metric is none of single texts or needs a judge, or has a value for no question.
    """
    values = _scores(examples, [e.answer for e in examples], leaks).values[:, 0]
    kept = [e for e, value in zip(examples, values.tolist(), strict=True) if value == value]
    if not kept:
        raise DataError(f"the metric {leaks.leaks!r} has a value for none of the questions; take another one")
    return kept


def _scores(examples: Sequence[Example], texts: Sequence[str], leaks: LeakSettings) -> SampleScores:
    return SampleScores.of(
        leaks,
        [[text] for text in texts],
        answers=[e.answer for e in examples],
        secrets=[e.secret for e in examples],
        finite=np.ones(len(texts), dtype=bool),
    )


def find_leaks(
    system: Audited,
    examples: Sequence[Example],
    opened: OpenedOutputs | None,
    how: Asking,
    *,
    budget: int,
    leaks: LeakSettings,
    settings: AuditSettings,
    labels: LabelledTexts | None = None,
    not_scored: int = 0,
    seed: int = 0,
) -> LeakAudit:
    """Look for leaks with a budget of queries, see `uwc.metrics.one_sided`.

    Args:
        system: the system.
        examples: the questions that may be asked.
        opened: its file, if it is one of texts.
        how: how it is asked.
        budget: the most queries; each question is asked at most once.
        leaks: by which metric an answer leaks.
        settings: how questions are chosen.
        labels: texts by which the error of the classifier of refusals is measured.
        not_scored: the number of questions that may not be asked.
        seed: of the random questions.
    """
    found: dict[int, AuditedQuestion] = {}
    with (
        asked(system, examples, how, opened) as ask,
        progress.bar("audit", total=min(budget, len(examples))) as advance,
    ):

        def leak(indices: Sequence[int]) -> list[bool]:
            some = [examples[i] for i in indices]
            texts = ask(some)
            scores = _scores(some, texts, leaks)
            leaked: list[bool] = (scores.leaks[:, 0] == 1).tolist()
            silent = refused(texts).tolist()
            for i, e, text, score, yes, none in zip(
                indices, some, texts, scores.values[:, 0].tolist(), leaked, silent, strict=True
            ):
                found[i] = AuditedQuestion(
                    id=e.id, random=False, score=score, leaks=yes, refused=none and not yes, output=text
                )
            advance(len(some))
            return leaked

        queries = adaptive_queries(question_features(examples), leak, budget=budget, settings=settings, seed=seed)
    rows = tuple(found[query.index].model_copy(update={"random": query.random}) for query in queries)
    drawn, leaked, silent = (np.array([getattr(row, n) for row in rows]) for n in ("random", "leaks", "refused"))
    total, error = len(examples), refusal_error(labels)
    share, refusals, either = (share_of_all(of, drawn, total) for of in (leaked, silent, leaked | silent))
    unseen = refusals.high * (1 / error.sensitivity.low - 1) if error.sensitivity.low > 0 else 1.0
    return LeakAudit(
        metric=leaks.leaks,
        at_least=leaks.at_least,
        budget=budget,
        questions=total,
        not_scored=not_scored,
        clusters=clusters_of(examples),
        random_share=settings.random_share,
        optimism=settings.optimism,
        batch=settings.batch,
        random=int(drawn.sum()),
        found=int(leaked.sum()),
        refused=int(silent.sum()),
        leaks=share,
        refusals=refusals,
        with_refusals=either.model_copy(update={"high": min(1.0, either.high + unseen)}),
        in_random_order=Estimate(**{name: len(rows) * number for name, number in share.model_dump().items()}),
        classifier=error,
        asked=rows,
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
    if CONTROL not in systems:
        text = (
            "Two retrained models of different seeds differ too, as each has habits of its own; give a second one "
            "(--control), with which the advantage is compared."
        )
        return [Warning(code="no_control", text=text)]
    return []


def plain_questions(examples: Sequence[Example]) -> list[Example]:
    """The questions without their other wordings."""
    return [replace(e, paraphrased_question="") for e in examples]
