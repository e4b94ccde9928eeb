"""The kinds of rows in question files: which columns make up the question, and which one has the answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from uwc.data.cells import filled
from uwc.data.choices import option_columns
from uwc.data.example import Example
from uwc.data.tables import Table
from uwc.errors import DataError, listed
from uwc.registry import unknown_name

FIELDS = tuple(f.name for f in fields(Example) if f.name not in ("split", "prefill"))
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
        refused="the rows are passages, not questions; write the beginning of each into a column question and its "
        "continuation into a column answer, and score them as the set verbatim (benchmark.settings.further.verbatim)",
    ),
)
"""The kinds of rows; a file is of the first kind whose needs it has."""

_PROMPT_PARTS = ("question", "messages", "instruction", "input", "context", "system", "text")
_PROMPT_NAMES = {*UNREAD, *_PROMPT_PARTS, *(alias for part in _PROMPT_PARTS for alias in ALIASES[part])}


@dataclass(frozen=True)
class Columns:
    """How the rows of one file are read.

    Attributes:
        layout: their kind.
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
        DataError: a name is unknown, the rows are of a kind that cannot be read, or the column of question or answer is
            missing or ambiguous.
    """
    there = table.columns
    for part, column in asked.items():
        if part not in NAMED:
            raise DataError(f"{table.source}: columns: {unknown_name('field', part, list(NAMED))}")
        if column not in there:
            close = unknown_name("column", column, there).partition("; valid")[0]
            raise DataError(f"{table.source}: columns: {part}: {close}; valid: {listed(there) or 'none'}")
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
    missing = "answer" if found.keys() & {"question", "instruction"} else "question"
    raise DataError(
        f"{table.source}: there is no column {missing!r}; say which one it is with --column {missing}=<column>, "
        f"in a study with columns: {{{missing}: <column>}}; the file has: {listed(there) or 'none'}"
    )


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
