"""Texts of a system that is not a checkpoint: read from a file, and matched with their questions."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from uwc import answers, progress
from uwc.data.cells import as_text, filled, is_turns, read_turns, split_turns
from uwc.data.evaluation_logs import Log, LoggedSet, read_log
from uwc.data.example import Example, clustered, plain_text
from uwc.data.question_files import Columns, LeftOut, Questions, columns_by_set, table_of, valid_examples
from uwc.data.rows import ALIASES, NAMED
from uwc.data.tables import Problems, Table
from uwc.errors import ConfigError, DataError, brief, listed
from uwc.io import expanded, file_digest
from uwc.results import FORGET, Warning

OWN: Mapping[str, tuple[str, ...]] = {
    "output": (
        *("generated", "generation", "model_output", "generated_text", "prediction", "model_answer"),
        *("response", "completion"),
    ),
    "set": (),
    "prompt": (),
    "variant": (),
}
"""Further parts of a row of texts -> column names that are read as this part; case is ignored."""
PARTS = (*OWN, *NAMED)
"""The parts of a row of texts for which a user may name a column."""


@dataclass(frozen=True)
class Outputs:
    """Texts of a system that is not a checkpoint, as a user gives them.

    Attributes:
        data: a file of texts or an evaluation log, a pandas data frame, a `datasets.Dataset`, or rows as mappings.
        columns: part of a row -> its column, such as ``{"output": "model_output"}``, see `PARTS`.
    """

    data: Questions
    columns: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What results call it."""
        return str(self.data) if isinstance(self.data, str | Path) else f"texts ({type(self.data).__name__})"


@dataclass(frozen=True)
class VariantTexts:
    """The texts of one variant of an attack on the E questions of a set.

    Attributes:
        label: the variant; ``""`` if there is only one.
        texts: [E] the texts.
        prompts: [E] the prompts as sent; empty if they are not known.
        note: a finding of the attack; not in files.
    """

    label: str
    texts: tuple[str, ...]
    prompts: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class SystemTexts:
    """The texts of a system, matched with their questions.

    Attributes:
        source: the file or address, for results.
        kind: "texts" generated elsewhere, or those of an "endpoint".
        examples: set -> its E questions with their true answers.
        texts: set -> [E] the texts; a set of a log without texts is absent.
        prompts: set -> [E] the prompts as sent, where they are known.
        under: attack -> set -> its variants.
        logged: set -> the values by example of an evaluation log.
        files: name of a file -> its SHA-256.
        warnings: what results say about how the texts were generated.
    """

    source: str
    kind: Literal["texts", "endpoint"]
    examples: Mapping[str, Sequence[Example]]
    texts: Mapping[str, Sequence[str]]
    prompts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    under: Mapping[str, Mapping[str, Sequence[VariantTexts]]] = field(default_factory=dict)
    logged: Mapping[str, LoggedSet] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[Warning, ...] = ()

    @property
    def name(self) -> str:
        """What results call it."""
        return self.source

    def select(self, kept: Mapping[str, Sequence[int]]) -> "SystemTexts":
        """Some of the examples of each set, by their positions; a set without any is left out."""
        sets = {name: list(order) for name, order in kept.items() if len(order) and name in self.examples}

        def part(by_set: Mapping[str, Sequence[Any]]) -> dict[str, tuple[Any, ...]]:
            return {name: tuple(by_set[name][i] for i in order) for name, order in sets.items() if name in by_set}

        return replace(
            self,
            examples=part(self.examples),
            texts=part(self.texts),
            prompts=part(self.prompts),
            under={
                attack: {
                    name: tuple(
                        VariantTexts(
                            v.label,
                            tuple(v.texts[i] for i in sets[name]),
                            tuple(v.prompts[i] for i in sets[name]) if v.prompts else (),
                            v.note,
                        )
                        for v in variants
                    )
                    for name, variants in by_set.items()
                    if name in sets
                }
                for attack, by_set in self.under.items()
            },
            logged={name: self.logged[name].select(order) for name, order in sets.items() if name in self.logged},
        )


@dataclass(frozen=True)
class _Record:
    """A row with a text."""

    number: int
    row: Mapping[str, Any]
    set: str
    id: str
    question: str
    prompt: str
    answer: str
    output: str
    variant: str


@dataclass(frozen=True)
class OpenedOutputs:
    """A file or table of texts, not matched with questions yet.

    Attributes:
        log: its content.
        source: its path, for results.
        files: its name -> SHA-256.
        asked: part -> column, as given by the user.
        name: what the user calls it: outputs, before, an attack.
    """

    log: Log
    source: str
    files: Mapping[str, str]
    asked: Mapping[str, str]
    name: str

    @property
    def where(self) -> str:
        """The file or table, for messages."""
        return self.log.table.source


def open_outputs(
    outputs: Mapping[str, Outputs], columns: Columns | None = None, *, questions: Mapping[str, Questions] | None = None
) -> tuple[dict[str, OpenedOutputs], dict[str, str]]:
    """Read the files of texts, and find the columns of each.

    Args:
        outputs: name (outputs, before, retrained, an attack) -> the texts.
        columns: column by ``"PART"``, for every file that has it, or by ``"NAME:PART"``.
        questions: the sets of questions that are given as well; columns may be theirs.

    Returns:
        The opened texts, and those of `columns` that are for the questions.

    Raises:
        DataError: a file cannot be read.
        ConfigError: an unknown part or name, or a column that no file has.
    """
    logs = {name: _log(given.data, name) for name, given in outputs.items()}
    tables = {name: log.table for name, log in logs.items()}
    asked = {
        name: columns_by_set({name: tables[name]}, given.columns, fields=PARTS)[name] for name, given in outputs.items()
    }
    theirs, ours = _split(columns, tables, questions or {}) if columns else ({}, {})
    for name, found in columns_by_set(tables, ours, given=[*tables, *(questions or {})], fields=PARTS).items():
        asked[name] = {**found, **asked[name]}
    opened = {}
    for name, given in outputs.items():
        path = expanded(given.data) if isinstance(given.data, str | Path) else None
        files = {} if path is None else {path.name: file_digest(path)}
        opened[name] = OpenedOutputs(logs[name], given.name, files, asked[name], name)
    return opened, theirs


def _split(
    columns: Columns, tables: Mapping[str, Table], questions: Mapping[str, Questions]
) -> tuple[dict[str, str], dict[str, str]]:
    """The columns for the questions, and those for the texts; one that both have is for both."""
    sets = {name: table for name, data in questions.items() if (table := table_of(data, name)) is not None}
    theirs, ours = {}, {}
    for key, column in columns.items():
        of, _, part = key.rpartition(":")
        if of in questions or (not of and part in NAMED and any(column in t.columns for t in sets.values())):
            theirs[key] = column
        if of not in questions and (key not in theirs or any(column in t.columns for t in tables.values())):
            ours[key] = column
    return theirs, ours


def _log(data: Questions, name: str) -> Log:
    if isinstance(data, str | Path):
        log = read_log(expanded(data))
    else:
        table = table_of(data, name)
        if table is None:
            raise ConfigError(f"{name}: examples have no texts; give a file, a table, or rows with a key 'output'")
        log = Log("table", table)
    if log.kind == "table" and set(answers.COLUMNS) <= set(log.table.columns):
        return replace(log, table=_answers_table(log.table))
    return log


def _answers_table(table: Table) -> Table:
    """The rows of a table of answers that are those of a model as delivered."""
    rows = [(number, row) for number, row in table.rows if row["condition"] == answers.AS_DELIVERED]
    models = dict.fromkeys(str(row["model"]) for _, row in rows)
    if len(models) != 1:
        raise DataError(
            f"{table.source}: the table has the answers of {len(models)} models "
            f"({listed(models)}); keep the rows of one"
        )
    if len(rows) < len(table.rows):
        progress.note(f"{table.source}: {len(table.rows) - len(rows)} rows of attacks are not read")
    renamed = {"set": "set", "id": "id", "cluster": "subject", "question": "question", "prompt": "prompt"}
    renamed |= {"answer": "answer", "secret": "secret", "generated": "output"}
    return replace(table, rows=[(n, {to: row[of] for of, to in renamed.items()}) for n, row in rows])


def read_outputs(
    opened: OpenedOutputs,
    questions: Mapping[str, Sequence[Example]] | None = None,
    *,
    optional: Collection[str] = (),
    like: OpenedOutputs | None = None,
    left_out: LeftOut = None,
) -> SystemTexts:
    """The texts with their questions.

    Args:
        opened: the texts.
        questions: set -> its questions, with which the texts are matched: by id, or else by the question's text. A set
            that is not among them, or every one if there are none, has the questions of its rows.
        optional: sets of `questions` of which there may be no text.
        like: the texts whose rows are the questions; a log of the same code numbers them in the same way.
        left_out: a list that takes invalid rows, and leaves questions without a text out; None raises an error.

    Raises:
        DataError: a row is malformed, of no question, or the second one of a question, or there are questions without a
            text; the message names file and line.
    """
    found = _found(opened, questions or {}, optional, like, left_out)
    for name, variants in found.variants.items():
        if len(variants) > 1:
            raise DataError(
                f"{opened.where}: there are {len(variants)} variants of the texts of {name!r} "
                f"({listed(v.label for v in variants)}), which only texts under an attack may have; keep one"
            )
    first = {name: variants[0] for name, variants in found.variants.items()}
    return SystemTexts(
        opened.source,
        "texts",
        found.examples,
        {name: variant.texts for name, variant in first.items()},
        {name: variant.prompts for name, variant in first.items() if variant.prompts},
        logged=found.logged,
        files=opened.files,
    )


def read_attack(
    opened: OpenedOutputs,
    questions: Mapping[str, Sequence[Example]],
    *,
    like: OpenedOutputs | None = None,
    left_out: LeftOut = None,
) -> tuple[dict[str, Sequence[Example]], dict[str, tuple[VariantTexts, ...]]]:
    """The questions that were asked under an attack, and its texts for each set; as `read_outputs`."""
    found = _found(opened, questions, questions, like, left_out)
    return found.examples, found.variants


@dataclass
class _Found:
    """The questions with texts, set by set.

    Attributes:
        examples: set -> its questions.
        variants: set -> their texts.
        logged: set -> the values of a log for them.
    """

    examples: dict[str, Sequence[Example]] = field(default_factory=dict)
    variants: dict[str, tuple[VariantTexts, ...]] = field(default_factory=dict)
    logged: dict[str, LoggedSet] = field(default_factory=dict)


def _found(
    opened: OpenedOutputs,
    questions: Mapping[str, Sequence[Example]],
    optional: Collection[str],
    like: OpenedOutputs | None,
    left_out: LeftOut,
) -> _Found:
    log, problems = opened.log, opened.log.table.problems()
    records = _records(opened, problems)
    ids = log.own_ids or (like is not None and like.log.kind == log.kind)
    found = _Found()
    if questions:
        matched = [record for record in records if not record.set or record.set in questions]
        taken = _matched(opened, matched, _Matcher(questions, optional, ids=ids), problems)
        _in_order(opened, taken, questions, optional, found, problems, partly=left_out is not None)
    _own(opened, [r for r in records if not questions or (r.set and r.set not in questions)], found, problems)
    for name, values in log.values.items():
        if name in found.examples:
            continue
        if name in questions and like is None:
            raise DataError(
                f"{opened.where}: the log has no texts of the set {name!r}, so that its questions cannot be matched; "
                "give no questions for it"
            )
        found.examples[name], found.logged[name] = _numbered(values), values
    if left_out is None:
        problems.require_none()
    elif problems.found:
        left_out.append(problems.left_out())
    if not found.examples:
        raise DataError(f"{opened.where}: no row matches any of the questions; give the texts of these questions")
    return found


def _numbered(values: LoggedSet) -> list[Example]:
    """Examples for the questions of a log without texts."""
    return [
        Example(id=index, question=f"question {index} of the log", answer="(not in the log)")
        for index in values.indices
    ]


def _column(opened: OpenedOutputs, part: str, there: Sequence[str]) -> str | None:
    """The column of a part that is not one of an example."""
    if part in opened.asked:
        return opened.asked[part]
    spelt = {column.strip().casefold(): column for column in reversed(there)}
    return next((spelt[name] for name in (part, *OWN[part]) if name in spelt), None)


@dataclass(frozen=True)
class _Parts:
    """The columns of texts, and the table with those of the questions."""

    output: str
    set: str | None
    prompt: str | None
    variant: str | None
    questions: Table


def _parts(opened: OpenedOutputs) -> _Parts:
    table = opened.log.table
    there = table.columns
    output = _column(opened, "output", there)
    if output is None:
        raise DataError(
            f"{table.source}: there is no column 'output' with the generated texts; say which it is with --column "
            f"output=<column>; the file has: {listed(there, 160) or 'none'}"
        )
    own = {part: _column(opened, part, there) for part in ("set", "prompt", "variant")}
    dropped = {output, *filter(None, own.values())}
    asked = "question" in opened.asked or "messages" in opened.asked
    if not asked and not {"question", "messages"} & {column.strip().casefold() for column in there}:
        dropped.discard(own["prompt"] or "")  # it is the question
    rows = [(n, {c: cell for c, cell in row.items() if c not in dropped}) for n, row in table.rows]
    return _Parts(output, own["set"], own["prompt"], own["variant"], replace(table, rows=rows))


def _records(opened: OpenedOutputs, problems: Problems) -> list[_Record]:
    """The rows with a text."""
    table = opened.log.table
    if not table.rows:
        return []
    parts = _parts(opened)
    there = parts.questions.columns
    spelt = {column.strip().casefold(): column for column in reversed(there)}

    def column(part: str, *aliases: str) -> str | None:
        named = opened.asked.get(part)
        return named or next((spelt[name] for name in (part, *aliases) if name in spelt), None)

    ids, answer = column("id"), column("answer")
    asked = column("question") or column("messages", *ALIASES["messages"]) or column("question", *ALIASES["question"])
    found = []
    for number, row in table.rows:
        try:
            found.append(_record(table, number, row, parts, ids, asked, answer))
        except DataError as error:
            problems.add(number, error)
    return found


def _record(
    table: Table,
    number: int,
    row: Mapping[str, Any],
    parts: _Parts,
    ids: str | None,
    asked: str | None,
    answer: str | None,
) -> _Record:
    where = table.at(number)

    def text(column: str | None) -> str:
        return as_text(row.get(column), f"{where}: the column {column!r}") if column is not None else ""

    said = row.get(parts.output)
    if said is None or said != said:
        raise DataError(
            f"{where}: the output (column {parts.output!r}) is missing; add it, or remove this {table.unit}"
        )
    if is_turns(said):
        turns = read_turns(said, f"{where}: the output")
        said = turns[-1][1]
    output = as_text(said, f"{where}: the output (column {parts.output!r})")
    question: Any = row.get(asked) if asked is not None else None
    if is_turns(question):
        question = split_turns(read_turns(question, f"{where}: the column {asked!r}"), where)[1]
    return _Record(
        number,
        row,
        text(parts.set),
        text(ids).strip() if filled(row.get(ids or "")) else "",
        question if isinstance(question, str) else as_text(question, f"{where}: the question"),
        text(parts.prompt),
        str(row.get(answer) or "") if answer is not None else "",
        output,
        text(parts.variant),
    )


def _own(opened: OpenedOutputs, records: Sequence[_Record], found: _Found, problems: Problems) -> None:
    """Add the texts of the questions in their own rows."""
    if not records:
        return
    table = _parts(opened).questions
    rows = dict(table.rows)
    sets: dict[str, list[_Record]] = {}
    for record in records:
        sets.setdefault(record.set or FORGET, []).append(record)
    stem = Path(opened.source).stem if opened.files else opened.name
    asked = {part: column for part, column in opened.asked.items() if part not in OWN}
    for name, of_set in sets.items():
        part = replace(table, rows=[(r.number, rows[r.number]) for r in of_set], damaged={})
        try:
            read, wrong = valid_examples(part, stem, asked)
        except DataError as error:
            hint = "; or give the questions in files of their own, with --forget" if "answer" in str(error) else ""
            raise DataError(f"{error}{hint}") from None
        for number, message in wrong.found.items():
            again = "; keep one text of each question" if "was used before" in message else ""
            problems.found[number] = message + again
        kept = [record for record in of_set if record.number in read]
        if kept:
            found.examples[name] = clustered([read[record.number] for record in kept])
            found.variants[name] = (_variant("", kept),)
        if kept and name in opened.log.values:
            found.logged[name] = _logged(opened, name, kept)


def _variant(label: str, records: Sequence[_Record]) -> VariantTexts:
    prompts = tuple(record.prompt for record in records)
    return VariantTexts(label, tuple(record.output for record in records), prompts if any(prompts) else ())


def _logged(opened: OpenedOutputs, name: str, records: Sequence[_Record]) -> LoggedSet:
    """The values of a log for the examples with texts. Raises DataError if one has none."""
    values = opened.log.values[name]
    places = {index: i for i, index in enumerate(values.indices)}
    if lacking := [record.id for record in records if record.id not in places]:
        raise DataError(
            f"{opened.where}: the example {lacking[0]!r} of {name!r} has a text, and no other values; evaluate it "
            "again, or remove its text"
        )
    return values.select([places[record.id] for record in records])


class _Matcher:
    """The questions by id and by text.

    Args:
        questions: set -> its questions.
        later: the sets that are taken only if no other one has the question.
        ids: whether ids are compared.
    """

    def __init__(self, questions: Mapping[str, Sequence[Example]], later: Collection[str], *, ids: bool) -> None:
        self.sets = list(questions)
        self._examples = questions
        self._ids: dict[str, list[tuple[str, int]]] = {}
        self._texts: dict[str, list[tuple[str, int]]] = {}
        for name in sorted(questions, key=lambda of_set: of_set in later):
            for i, example in enumerate(questions[name]):
                self._ids.setdefault(example.id, []).append((name, i))
                self._texts.setdefault(plain_text(example.question), []).append((name, i))
        self._by_id = ids
        texts = [text for text in self._texts if text]
        self._least = min(map(len, texts), default=0)
        self._beginnings: dict[str, list[str]] = {}
        for text in texts:
            self._beginnings.setdefault(text[: self._least], []).append(text)

    def use_ids(self, records: Iterable[_Record]) -> None:
        """Compare ids only if one of the records has one of them."""
        self._by_id = self._by_id and any(record.id in self._ids for record in records)

    def candidates(self, record: _Record) -> list[tuple[str, int]]:
        """The questions of a record, the likeliest first."""
        asked = plain_text(record.question)
        if self._by_id and record.id:
            found = self._ids.get(record.id, [])
            found = [place for place in found if not record.set or place[0] == record.set]
            same = [place for place in found if asked and plain_text(self._example(place).question) == asked]
            return same or found[:1]
        found = self._texts.get(asked, []) or self._within(asked)
        found = [place for place in found if not record.set or place[0] == record.set]
        answer = plain_text(record.answer)
        return sorted(found, key=lambda place: plain_text(self._example(place).answer) != answer)

    def described(self, record: _Record) -> str:
        """What a record is asked for, for messages."""
        return f"the id {brief(record.id)}" if self._by_id and record.id else f"the text {brief(record.question)}"

    def _example(self, place: tuple[str, int]) -> Example:
        return self._examples[place[0]][place[1]]

    def _within(self, prompt: str) -> list[tuple[str, int]]:
        """The questions that stand in a prompt, the longest of them."""
        found = ""
        for at in range(len(prompt) - self._least + 1):
            for text in self._beginnings.get(prompt[at : at + self._least], ()):
                if len(text) > len(found) and prompt.startswith(text, at):
                    found = text
        return self._texts[found] if found else []


_Taken = Mapping[tuple[str, str, int], _Record]
"""(variant, set, position of the question) -> the row with its text."""


def _matched(opened: OpenedOutputs, records: Sequence[_Record], matcher: _Matcher, problems: Problems) -> _Taken:
    """The rows with the texts of given questions."""
    table = opened.log.table
    matcher.use_ids(records)
    taken: dict[tuple[str, str, int], _Record] = {}
    for record in records:
        places = matcher.candidates(record)
        free = [place for place in places if (record.variant, *place) not in taken]
        where, asked = table.at(record.number), matcher.described(record)
        if free:
            taken[(record.variant, *free[0])] = record
            continue
        if places:
            first = taken[(record.variant, *places[0])].number
            wrong = f"has a text in {table.unit} {first}; keep one of the two"
            problems.add(record.number, DataError(f"{where}: the question with {asked} {wrong}"))
        else:
            sets = listed(map(repr, [record.set] if record.set else matcher.sets))
            wrong = f"no question of {sets} has {asked}; remove this {table.unit}, or give the question"
            problems.add(record.number, DataError(f"{where}: {wrong}"))
    return taken


def _in_order(
    opened: OpenedOutputs,
    taken: _Taken,
    questions: Mapping[str, Sequence[Example]],
    optional: Collection[str],
    found: _Found,
    problems: Problems,
    *,
    partly: bool,
) -> None:
    """Add the texts in the order of the given questions."""
    for name, asked in questions.items():
        labels = list(dict.fromkeys(variant for variant, of_set, _ in taken if of_set == name))
        if not labels and (name in optional or name in opened.log.values):
            continue
        full = [i for i in range(len(asked)) if labels and all((label, name, i) in taken for label in labels)]
        if len(full) < len(asked) and not (partly and 2 * len(full) >= len(asked)):
            problems.require_none()
            first = next(i for i in range(len(asked)) if i not in set(full))
            under = f" under each of the variants {listed(labels)}" if len(labels) > 1 else ""
            raise DataError(
                f"{opened.where}: there is no text for {len(asked) - len(full)} of the {len(asked)} questions of "
                f"{name!r}{under}; the first is {asked[first].id!r}: {brief(asked[first].question)}"
            )
        found.examples[name] = [asked[i] for i in full]
        found.variants[name] = tuple(_variant(label, [taken[(label, name, i)] for i in full]) for label in labels)
        if name in opened.log.values:
            found.logged[name] = _logged(opened, name, [taken[(labels[0], name, i)] for i in full])
