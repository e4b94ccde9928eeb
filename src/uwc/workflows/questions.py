"""Description of question files: problems, repetitions, clusters, lengths and scripts."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from uwc import __version__
from uwc.data.example import Example, repeated
from uwc.data.question_files import Columns, Questions, columns_by_set, examples_of, table_of, together, valid_examples
from uwc.data.tables import Problems, Table
from uwc.metrics.stats import cluster_codes
from uwc.metrics.suites import question_warnings
from uwc.results import DataSummary, Distribution, SetSummary, TokenSummary

if TYPE_CHECKING:
    from uwc.models.model import ModelLike, Prompt

SHOWN = 100
"""The most invalid rows of a set in the description."""


def describe_questions(
    data: "Questions | Mapping[str, Questions]",
    *,
    model: "ModelLike | None" = None,
    columns: Columns | None = None,
    prompt: "Prompt" = None,
    trust_remote_code: bool = False,
) -> DataSummary:
    """Describe sets of questions: invalid rows, repetitions, clusters, lengths, scripts and fields.

    Args:
        data: a file, a table or examples; or several by name.
        model: a model whose tokenizer, prompt and context lengths are measured with; its weights are not read.
        columns: field -> column, where files or tables name them otherwise.
        prompt, trust_remote_code: see `uwc.models.model.Loading`.

    Raises:
        UserError: a file cannot be read, has no column for question or answer, or the model has no tokenizer. Invalid
            rows are no error; they are in the result.
    """
    sets = dict(data) if isinstance(data, Mapping) else {"data": data}
    found = {name: table_of(questions, name) for name, questions in sets.items()}
    tables = {name: table for name, table in found.items() if table is not None}
    asked = columns_by_set(tables, columns or {}, given=list(sets))
    read: dict[str, tuple[Sequence[Example], Problems]] = {}
    for name, questions in sets.items():
        if name in tables:
            continue
        examples = examples_of(questions, name=name)
        read[name] = examples, Problems(f"the list {name!r}", "example", len(examples))
    for name, table in together(tables).items():
        valid_rows, problems = valid_examples(table, _prefix(table), asked[name])
        read[name] = list(valid_rows.values()), problems
    valid = {name: examples for name, (examples, _) in read.items() if examples}
    tokens = {} if model is None else _tokens(valid, model, prompt, trust_remote_code)
    return DataSummary(
        uwc_version=__version__,
        model="" if model is None else str(getattr(model, "name", model)),
        sets={name: _summary(*read[name], tokens.get(name)) for name in sets},
        warnings=tuple(question_warnings(valid)),
    )


def _prefix(table: Table) -> str:
    return Path(table.source).stem


def _summary(examples: Sequence[Example], problems: Problems, tokens: TokenSummary | None) -> SetSummary:
    clusters = Counter(cluster_codes([e.subject for e in examples]).tolist())
    return SetSummary(
        valid=len(examples),
        invalid_rows=problems.described(SHOWN),
        repeated_questions=repeated(examples),
        repeated_pairs=repeated(examples, answers=True),
        clusters=len(clusters),
        cluster_sizes=_distribution(list(clusters.values())),
        question_characters=_distribution([len(e.question) for e in examples]),
        answer_characters=_distribution([len(e.answer) for e in examples]),
        tokens=tokens,
        scripts=scripts(text for e in examples for text in (e.question, e.answer)),
        fields={
            field.name: count
            for field in fields(Example)
            if field.name not in ("id", "split") and (count := sum(bool(getattr(e, field.name)) for e in examples))
        },
    )


def _distribution(values: Sequence[int]) -> Distribution | None:
    return Distribution(min=min(values), median=median(values), max=max(values)) if values else None


def scripts(texts: Iterable[str]) -> dict[str, float]:
    """Script -> its share of all letters, the most frequent first; by the first word of a letter's Unicode name."""
    characters: Counter[str] = Counter()
    for text in texts:
        characters.update(text)
    counts: Counter[str] = Counter()
    for character, count in characters.items():
        if character.isalpha():
            counts[_script(character)] += count
    return {script: count / counts.total() for script, count in counts.most_common()}


def _script(letter: str) -> str:
    name = unicodedata.name(unicodedata.normalize("NFKC", letter)[0], "OTHER").split()[0]
    return _NAMED.get(name, name.title())


_NAMED = {"CJK": "Han", "MODIFIER": "Other", "FEMININE": "Latin", "MASCULINE": "Latin"}
"""First word of a letter's name -> its script, where it is not the word itself."""


def _tokens(
    sets: Mapping[str, Sequence[Example]], model: "ModelLike", prompt: "Prompt", trust_remote_code: bool
) -> dict[str, TokenSummary]:
    from uwc.models.load import context_of
    from uwc.models.model import Loading, Model

    loading = Loading("float32", "cpu", prompt, trust_remote_code)
    reading = loading.reading(model)
    context = (
        model.context_length if isinstance(model, Model) else context_of(model, trust_remote_code=trust_remote_code)
    )
    found = {}
    for name, examples in sets.items():
        encoded = reading.template.encode(examples, reading.tokenizer, max_length=ENDLESS, ends=reading.ends)
        totals = [len(e.tokens) for e in encoded]
        found[name] = TokenSummary(
            prompt=_distribution([e.start for e in encoded]),
            answer=_distribution([e.end - e.start for e in encoded]),
            all=_distribution(totals),
            context=context,
            over=sum(total > context for total in totals),
        )
    return found


ENDLESS = 10**12
"""A context that everything fits into."""
