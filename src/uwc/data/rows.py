"""Rows of question files: their kinds, the columns of question and answer, and their conversion to examples."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any

from uwc.data.cells import (
    Options,
    Prefer,
    as_text,
    as_texts,
    filled,
    is_turns,
    named_option,
    option_columns,
    read_history,
    read_options,
    read_own_columns,
    read_turns,
    split_turns,
)
from uwc.data.example import Example, Turns
from uwc.data.tables import Table
from uwc.errors import DataError, listed
from uwc.registry import unknown_name
from uwc.strict import DECODER

FIELDS = tuple(f.name for f in fields(Example) if f.name not in ("split", "prefill", "raw"))
"""The fields of an example that a file may have; the split is set by the benchmark."""

ALIASES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(FIELDS, ()),
    "question": ("prompt", "query", "input", "inputs", "problem", "question_stem"),
    "answer": (
        *("response", "completion", "output", "target", "targets", "solution", "ground_truth", "gt"),
        *("answers", "short_answers", "correct_answer", "best_answer"),
    ),
    "perturbed_answers": ("perturbed_answer", "incorrect_answers", "distractors"),
    "refusal": ("idk",),
    "subject": ("author", "entity"),
    "messages": ("conversations", "conversation"),
    "instruction": ("instructions",),
    "input": (),
    "context": ("passage",),
    "system": ("system_prompt", "system_message"),
    "choices": ("options",),
    "answer_key": ("answerKey", "answer_idx", "answer_index", "label", "cop"),
    "text": (),
    "labels": (),
    "user": (),
    "assistant": (),
    "rejected": (),
}
"""Part of a row -> column names that are read as this part if no column has its own name; case is ignored."""

NAMED = tuple(ALIASES)[: tuple(ALIASES).index("text")]
"""The parts for which a user may name a column."""

UNREAD = (
    *("hint", "hints", "evidence", "evidences", "background", "premise", "hypothesis", "support", "story", "article"),
    *("document", "paragraph", "definition", "facts", "knowledge", "demonstrations", "few_shot", "table"),
    *("image", "images", "audio", "video", "videos", "tools", "functions", "dialog", "dialogs", "dialogue", "turns"),
)
"""Columns that look like a part of the prompt whose place in it is unknown."""


@dataclass(frozen=True)
class Layout:
    """A kind of row.

    Attributes:
        name: the name of such rows in messages.
        needs: the parts that identify the kind; the first one is the question itself.
        prompt: the parts whose texts, joined by empty lines, are the question.
        answer: the part with the answer.
        refused: why such rows cannot be read, and what to do; empty if they can.
    """

    name: str
    needs: tuple[str, ...]
    prompt: tuple[str, ...]
    answer: str = "answer"
    refused: str = ""


LAYOUTS: tuple[Layout, ...] = (
    Layout("conversations", needs=("messages",), prompt=("messages",)),
    Layout("instructions", needs=("instruction", "answer"), prompt=("instruction", "input", "context")),
    Layout("questions", needs=("question", "answer"), prompt=("context", "question")),
    Layout("questions", needs=("text", "labels"), prompt=("text",), answer="labels"),
    Layout("questions", needs=("user", "assistant"), prompt=("user",), answer="assistant"),
    Layout(
        "preferences",
        needs=("rejected",),
        prompt=(),
        refused="the rows are pairs of a preferred and a rejected answer; name the answer with --column answer=chosen, "
        "or whole conversations with --column messages=chosen",
    ),
    Layout(
        "passages",
        needs=("text",),
        prompt=(),
        refused="the rows are passages, not questions; in a study, name the most characters of a passage beside the "
        "file, as in benchmark.settings.forget={path: texts.jsonl, passages: 2000}, or write the beginning of each "
        "into a column question and its continuation into a column answer, and score them as the set verbatim "
        "(benchmark.settings.further.verbatim)",
    ),
)
"""The kinds of rows; a file is of the first kind whose needs it has."""

_PROMPT_PARTS = ("question", "messages", "instruction", "input", "context", "system", "text")
_PROMPT_NAMES = {*UNREAD, *_PROMPT_PARTS, *(alias for part in _PROMPT_PARTS for alias in ALIASES[part])}


@dataclass(frozen=True)
class Columns:
    """The columns of one file from which the parts of a row are read.

    Attributes:
        layout: the kind of the rows.
        used: part -> its column.
        prompt: the parts of the question that have a column.
        asked: the parts whose columns the user named.
        options: the columns with one option each, or none.
        left: columns that look like a part of the prompt and are not read.
    """

    layout: Layout
    used: Mapping[str, str]
    prompt: tuple[str, ...]
    asked: frozenset[str] = frozenset()
    options: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


def columns_of(table: Table, asked: Mapping[str, str]) -> Columns:
    """The kind of rows in a file, and the column of each part.

    Args:
        table: the file.
        asked: part -> column, as given by the user. If ``question`` (``instruction``, ``messages``) is given, that
            column is the whole question.

    Raises:
        DataError: a name is unknown, one column is named for two parts, the rows are of a kind that cannot be read, or
            the column of question or answer is missing or ambiguous.
    """
    there = table.columns
    for part, column in asked.items():
        if part not in NAMED:
            raise DataError(f"{table.source}: columns: {unknown_name('field', part, list(NAMED))}")
        if column not in there:
            close = unknown_name("column", column, there).partition("; valid")[0]
            raise DataError(f"{table.source}: columns: {part}: {close}; valid: {listed(there) or 'none'}")
        other = next(other for other, named in asked.items() if named == column)
        if other != part and "subject" not in (other, part):
            raise DataError(f"{table.source}: columns: {column!r} is named for both {other} and {part}; name another")
    full = [name for name in there if name == "id" or any(filled(row.get(name)) for _, row in table.rows)]
    eligible = [layout for layout in LAYOUTS if layout.needs[0] in asked][-1:] or LAYOUTS
    for columns in (full, there):  # a column that is empty in every row counts only where no other one does
        found = _found(columns, asked)
        options = () if "choices" in found else option_columns([c for c in columns if c not in asked.values()])
        parts = {*found, "answer"} if "answer_key" in found and (options or "choices" in found) else set(found)
        for layout in eligible:
            if parts.issuperset(layout.needs) and not (layout.refused and "answer" in parts):
                if layout.refused:
                    raise DataError(f"{table.source}: {layout.refused}")
                return _columns(table, layout, found, options, full, asked)
    missing = [part for part in ("question", "answer") if not found.keys() & {part, *_INSTEAD.get(part, ())}]
    raise _no_column(table, missing or ["question"], [name for name in full if name not in asked.values()])


_INSTEAD = {"question": ("instruction",)}
_ALIKE: Mapping[str, tuple[str, ...]] = {
    "question": ("question", *ALIASES["question"], "ask", "asked", "q"),
    "answer": ("answer", *ALIASES["answer"], "reply", "gold", "a"),
}
"""Part -> words in the names of columns that may hold it, the best first."""
_NEVER = {"id", "ids", "idx", "index", "type", "category", "source", "url", "date"}
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\w")


def _no_column(table: Table, missing: Sequence[str], columns: Sequence[str]) -> DataError:
    """The error for parts without a column, with the options to name the columns that look like them."""
    free = [column for column in columns if _may_be_text(table, column)]
    chosen: dict[str, str] = {}
    for part in missing:
        if alike := _alike(part, free):
            chosen[part] = alike
            free.remove(alike)
    options = " ".join(_option(part, chosen.get(part), table) for part in missing)
    keys = ", ".join(f"{part}: {_in_yaml(chosen.get(part))}" for part in missing)
    return DataError(
        f"{table.source}: there is no column {' or '.join(map(repr, missing))}; say which it is with "
        f"{options}, in a study with columns: {{{keys}}}; the file has: {listed(table.columns, 160) or 'none'}"
    )


def _may_be_text(table: Table, column: str) -> bool:
    value = next((row[column] for _, row in table.rows if filled(row.get(column))), None)
    return isinstance(value, str | list) and not _NEVER & {word.casefold() for word in _WORDS.findall(column)}


def _alike(part: str, columns: Sequence[str]) -> str | None:
    """The column whose name has a word for a part, or one that is spelt like it."""
    words = {column: [word.casefold() for word in _WORDS.findall(column)] for column in columns}
    for name in _ALIKE[part]:
        for column in columns:
            if name in words[column] or f"{name}s" in words[column]:
                return column
    return next((column for column in columns if get_close_matches(part, words[column], 1, 0.8)), None)


def _option(part: str, column: str | None, table: Table) -> str:
    """The option that names a column; with the set's name if another set has the column, but reads one of its own."""
    place = f"{table.name}:{part}" if any(column in c and part in _found(c, {}) for c in table.others) else part
    return f"--column {shlex.quote(place)}={'<column>' if column is None else shlex.quote(column)}"


def _in_yaml(column: str | None) -> str:
    return "<column>" if column is None else column if column.isidentifier() else json.dumps(column, ensure_ascii=False)


def _found(columns: Sequence[str], asked: Mapping[str, str]) -> dict[str, list[str]]:
    """Part -> its candidate columns, the best first."""
    spelt: dict[str, list[str]] = {}
    for column in columns:
        spelt.setdefault(column.strip().casefold(), []).append(column)
    found = {part: [column] for part, column in asked.items()}
    for part, aliases in ALIASES.items():
        others = [column for alias in aliases for column in spelt.get(alias.casefold(), ())]
        names = [*spelt.get(part, ()), *(column for column in others if column not in asked.values())]
        if names and part not in found:
            found[part] = names
    return found


def _columns(
    table: Table,
    layout: Layout,
    found: Mapping[str, Sequence[str]],
    options: tuple[str, ...],
    full: Sequence[str],
    asked: Mapping[str, str],
) -> Columns:
    whole = any(part in asked for part in layout.needs if part in layout.prompt)
    prompt = tuple(part for part in layout.prompt if part in (asked if whole else found))
    used = {part: columns[0] for part, columns in found.items() if part not in _PROMPT_PARTS or part in prompt}
    if "system" in found:
        used["system"] = found["system"][0]
    if layout.answer != "answer" and "answer" not in asked:
        used["answer"] = used[layout.answer]
    elif len(answers := found.get("answer", ())) > 1 and answers[0].strip().casefold() != "answer":
        if "messages" not in prompt:
            raise DataError(
                f"{table.source}: the columns {listed(map(repr, answers))} may each be the answer; say which one it is "
                "with --column answer=<column>, in a study with columns: {answer: <column>}"
            )
        del used["answer"]  # a conversation has its own
    chosen = ("choices", "answer_key") if options or "choices" in used else ()
    for part in asked:
        if part not in (*FIELDS, *prompt, "system", *chosen):
            raise DataError(
                f"{table.source}: columns: {part}: the rows are {layout.name}, and nothing there reads it; leave it out"
            )
    read = {*used.values(), *options}
    left = [c for c in full if c not in read and c.strip().casefold() in _PROMPT_NAMES]
    return Columns(layout, used, prompt, frozenset(asked), options, () if whole else tuple(left))


Row = Mapping[str, Any]
_READ_HERE = ("question", "answer", "perturbed_answers", "history", "secret")


@dataclass(frozen=True)
class Prompt:
    """The prompt of one row.

    Attributes:
        history: the turns before the question.
        parts: the texts that are joined to the question.
        main: the index of the question itself among them.
        answer: the answer if it is the last turn of a conversation, else ``""``.
        turns: whether the question is given as a list of turns.
    """

    history: Turns
    parts: tuple[str, ...]
    main: int = 0
    answer: str = ""
    turns: bool = False

    def question(self, words: str = "") -> str:
        """The parts, joined by empty lines; with `words` in place of the question itself, if given."""
        return "\n\n".join([*self.parts[: self.main], words or self.parts[self.main], *self.parts[self.main + 1 :]])


@dataclass
class RowReader:
    """A reader of the rows of one file, which are all of one kind.

    Args:
        table: the file.
        asked: part of a row -> the column given by the user.

    Raises:
        DataError: the rows are of a kind that cannot be read, or a column is missing or ambiguous.
    """

    table: Table
    asked: Mapping[str, str]
    columns: Columns = field(init=False)
    _first: tuple[int, bool] | None = None

    def __post_init__(self) -> None:
        self.columns = columns_of(self.table, self.asked)

    def read(self, number: int, row: Row) -> dict[str, Any]:
        """The fields of an example that the row has, checked.

        Raises:
            DataError: a cell is malformed or empty, the row is of another kind than the rows before it, or a column
                that looks like a part of the prompt is not read.
        """
        prompt = self._prompt(number, row)
        if self._first is None:
            self._first = number, prompt.turns
        elif self._first[1] != prompt.turns:
            kinds = ("a text", "a list of turns")
            raise DataError(
                f"{self._cell(number, self.columns.layout.needs[0])} is {kinds[prompt.turns]}, but "
                f"{kinds[not prompt.turns]} in {self.table.unit} {self._first[0]}; write one kind of rows in each file"
            )
        answer, others = self._answer(number, row, prompt)
        self._require_all_read(number, row, prompt, answer)
        values = {part: self._text(number, row, part) for part in FIELDS if part not in _READ_HERE and self._has(part)}
        given = self.columns.used.get("perturbed_answers")
        if given is not None:
            where = self._cell(number, "perturbed_answers")
            others = as_texts(row.get(given), where, json_cells=self.table.json_cells) or others
        secret: tuple[str, ...] = ()
        if self._has("secret"):
            where = self._cell(number, "secret")
            secret = as_texts(self._value(row, "secret"), where, json_cells=self.table.json_cells)
        if reworded := values.get("paraphrased_question", ""):
            values["paraphrased_question"] = prompt.question(reworded)
        asked = {"question": prompt.question(), "history": prompt.history}
        return {**values, **asked, "answer": answer, "perturbed_answers": others, "secret": secret}

    def _has(self, part: str) -> bool:
        return part in self.columns.used

    def _cell(self, number: int, part: str) -> str:
        """The place of a part of a row, for messages."""
        column = self.columns.used[part]
        if part not in FIELDS:
            return f"{self.table.at(number)}: the column {column!r}"
        return f"{self.table.at(number)}: the {part}{'' if part == column else f' (column {column!r})'}"

    def _value(self, row: Row, part: str) -> Any:
        return row.get(self.columns.used[part]) if self._has(part) else None

    def _required(self, number: int, row: Row, part: str) -> Any:
        """A cell that must not be missing or empty."""
        value = self._value(row, part)
        if not filled(value):
            lacking = "is empty; fill it in" if self.columns.used[part] in row else "is missing; add it"
            kind = self.columns.layout.name
            hint = "" if kind == "questions" else f" (the file holds {kind}; write one kind of rows in each file)"
            raise DataError(f"{self._cell(number, part)} {lacking} or remove this {self.table.unit}{hint}")
        return value

    def _text(self, number: int, row: Row, part: str) -> str:
        """A cell as text; "" for a blank one."""
        value = self._required(number, row, part) if part == "id" else self._value(row, part)
        text = as_text(value, self._cell(number, part))
        return text if text.strip() else ""

    def _prompt(self, number: int, row: Row) -> Prompt:
        main = self.columns.layout.needs[0]
        value, where = self._required(number, row, main), self._cell(number, main)
        history: Turns = ()
        if self._has("history"):
            history = read_history(self._value(row, "history"), self._cell(number, "history"))
        if main != "messages" and not is_turns(value):
            texts = {part: self._text(number, row, part) for part in self.columns.prompt}
            given = [part for part, text in texts.items() if text]
            parts = tuple(texts[part] for part in given)
            return Prompt(self._with_system(number, row, history), parts, main=given.index(main))
        before, question, answer = split_turns(read_turns(value, where), where)
        if history:
            raise DataError(f"{where} is a conversation, and there is a history too; put all turns into one column")
        return Prompt(self._with_system(number, row, before), (question,), answer=answer, turns=True)

    def _with_system(self, number: int, row: Row, history: Turns) -> Turns:
        """The history, preceded by the system message if it has its own column."""
        system = self._text(number, row, "system") if self._has("system") else ""
        if not system:
            return history
        if history and history[0][0] == "system":
            if history[0][1].strip() == system.strip():
                return history
            raise DataError(f"{self._cell(number, 'system')} and the first turn are two system messages; remove one")
        return ("system", system), *history

    def _answer(self, number: int, row: Row, prompt: Prompt) -> tuple[str, tuple[str, ...]]:
        """The true answer, and the wrong choices."""
        if prompt.answer:
            said = self._value(row, "answer") if "messages" not in self.asked or "answer" in self.asked else None
            if filled(said) and as_text(said, self._cell(number, "answer")).strip() != prompt.answer.strip():
                raise DataError(
                    f"{self._cell(number, 'answer')} is not what the conversation ends with; remove one of the two, or "
                    "name the columns of question and answer with --column"
                )
            return prompt.answer, ()
        options = self._options(number, row)
        if not self._has("answer") and not (options and self._has("answer_key")):
            raise DataError(
                f"{self._cell(number, self.columns.layout.needs[0])} ends with the user's turn; add the answer, remove "
                f"that turn or this {self.table.unit}, or name the answer's column with --column answer=<column>"
            )
        if options is not None:
            return self._choice(number, row, options)
        value, where = self._required(number, row, "answer"), self._cell(number, "answer")
        if self.columns.layout.answer == "labels" and not isinstance(value, str):
            raise DataError(f"{where} is the number of a class, and not a text; write the answer as a text")
        return _one_text(value, where, self.table.json_cells), ()

    def _options(self, number: int, row: Row) -> Options | None:
        if self.columns.options:
            return read_own_columns(row, self.columns.options, f"{self.table.at(number)}: the choices")
        if not self._has("choices"):
            return None
        return read_options(self._required(number, row, "choices"), self._cell(number, "choices"))

    def _choice(self, number: int, row: Row, options: Options) -> tuple[str, tuple[str, ...]]:
        """The option that the row's key and answer name, and the others."""
        named = [part for part in ("answer_key", "answer") if filled(self._value(row, part))]
        if len(named) == 2 and self.columns.used["answer_key"] == self.columns.used["answer"]:
            named = ["answer_key"]
        if not named:
            self._required(number, row, "answer" if self._has("answer") else "answer_key")
        found: dict[str, int] = {}
        for part in named:
            prefer: Prefer = "name" if part == "answer_key" else "text" if part in self.asked else ""
            value, where = self._value(row, part), self._cell(number, part)
            chosen = named_option(value, options, where, prefer=prefer)
            if chosen is None:
                return as_text(value, where), ()
            found[part] = chosen
        if len(set(found.values())) > 1:
            key = self.columns.used["answer_key"]
            raise DataError(f"{self._cell(number, 'answer')} and {key!r} name different choices; correct one of them")
        right = next(iter(found.values()))
        others = tuple(text for i, text in enumerate(options.texts) if i != right)
        if options.texts[right] in others:
            raise DataError(f"{self.table.at(number)}: the right choice is there twice; remove one, or this row")
        return options.texts[right], others

    def _require_all_read(self, number: int, row: Row, prompt: Prompt, answer: str) -> None:
        """Raise DataError if a column that looks like a part of the prompt says something that is not read.

        It does not if it repeats a text that is read, or holds the whole row as one text.
        """
        parts = [text.strip() for text in (*prompt.parts, answer)]
        read = {*parts, *(text.strip() for _, text in prompt.history)}
        for column in self.columns.left:
            value = row.get(column)
            if not filled(value):
                continue
            if isinstance(value, str) and (value.strip() in read or all(part in value for part in parts)):
                continue
            main = self.columns.layout.needs[0]
            joins = "context" in self.columns.layout.prompt
            put = f"join it to the question with --column context={column}" if joins else "put it into a turn"
            raise DataError(
                f"{self.table.at(number)}: the column {column!r} looks like a part of the prompt, and would be left "
                f"out; {put}, or leave it out with --column {main}={self.columns.used[main]}, which makes that column "
                "the whole question"
            )


def _one_text(value: Any, where: str, json_cells: bool) -> str:
    """The single answer in a cell: a text, a list of one, SQuAD's ``{"text": [...]}``, or one assistant turn."""
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        value = value["text"]
    if json_cells and isinstance(value, str):
        value = _list_of_texts(value) or value
    if is_turns(value):
        turns = read_turns(value, where)
        if len(turns) != 1 or turns[0][0] != "assistant":
            raise DataError(f"{where} is a list of turns other than one of the assistant's; write its text")
        return turns[0][1]
    if not isinstance(value, list):
        return as_text(value, where)
    texts = list(dict.fromkeys(as_texts(value, where, json_cells=False)))
    if len(texts) != 1:
        raise DataError(f"{where} is a list of {len(texts)} texts; write the one to be scored")
    return texts[0]


def _list_of_texts(cell: str) -> list[str] | None:
    """The texts of a JSON list; None for any other text, such as one in brackets."""
    try:
        value = DECODER.decode(cell.strip()) if cell.lstrip().startswith("[") else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, list) and all(isinstance(text, str) for text in value) else None
