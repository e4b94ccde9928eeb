"""The table of answers: one row for each question, model and condition, with texts and the value of every metric."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uwc.errors import UserError
from uwc.io import not_a_file, write_bytes
from uwc.words import comparable, contains, word_spans

if TYPE_CHECKING:
    import pandas as pd

FILE = "answers.parquet"
COLUMNS = (
    *("set", "id", "cluster", "question", "prompt", "answer", "secret"),
    *("role", "model", "condition", "attack", "variant", "generated", "completed_from"),
)
"""The columns before those of the metrics.

set, id, cluster: the set of the question, its id, and its cluster; "" without one.
question, prompt, answer: the question, the prompt as sent to the model, and the true answer.
secret: the spans that must not come out.
role, model: original, retrained, unlearned or calibrated, and the model's name; of a row of an attack the attacked one.
condition: one of `CONDITIONS`.
attack, variant: the attack and the label of its variant; "" without one.
generated: the generated text; missing where none was generated.
completed_from: the characters of the answer in the shortest prefix from which greedy decoding completes it; 0 is the
    question alone; missing where it is not known.
"""
AS_DELIVERED, CALIBRATED, ATTACK = CONDITIONS = ("as delivered", "calibrated", "attack")
"""The conditions; those of the original and the retrained model are "as delivered" and "attack"."""
MARK = "███"
"""What redaction puts in place of a word."""
_OF = b"uwc"


def metrics_of(table: "pd.DataFrame") -> list[str]:
    """The metrics of a table: its columns besides `COLUMNS`."""
    return [name for name in table.columns if name not in COLUMNS]


def rows(
    *,
    set: str,
    ids: Sequence[str],
    clusters: Sequence[str],
    questions: Sequence[str],
    secrets: Sequence[Sequence[str]],
    answers: Sequence[str],
    values: Mapping[str, Sequence[float] | Any],
    role: str,
    model: str,
    condition: str = AS_DELIVERED,
    attack: str = "",
    variant: str | Sequence[str] = "",
    prompts: Sequence[str | None] | None = None,
    generated: Sequence[str | None] | None = None,
    completed_from: Sequence[float | None] | None = None,
) -> "pd.DataFrame":
    """The rows of one set, model and condition; each sequence has a value for every question."""
    import pandas as pd

    missing = [None] * len(ids)
    columns = {
        "set": set,
        "id": list(ids),
        "cluster": list(clusters),
        "question": list(questions),
        "prompt": list(prompts or missing),
        "answer": list(answers),
        "secret": [list(spans) for spans in secrets],
        "role": role,
        "model": model,
        "condition": condition,
        "attack": attack,
        "variant": variant if isinstance(variant, str) else list(variant),
        "generated": list(generated or missing),
        "completed_from": pd.array(list(missing if completed_from is None else completed_from), dtype="Int64"),
    }
    return pd.DataFrame({**columns, **values}, index=range(len(ids)))


def joined(parts: Iterable["pd.DataFrame"]) -> "pd.DataFrame":
    """The rows of several tables; a metric that one of them lacks is NaN there."""
    import pandas as pd

    found = [part for part in parts if len(part)]
    if not found:
        return pd.DataFrame({name: [] for name in COLUMNS})
    table = pd.concat(found, ignore_index=True)
    return table[[*COLUMNS, *metrics_of(table)]]


def write(table: "pd.DataFrame", folder: Path, *, of: str) -> Path:
    """Write ``answers.parquet`` into a folder, atomically; `of` is the file of the result that it belongs to."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = pa.Table.from_pandas(table, preserve_index=False)
    secret = pa.array([list(spans) for spans in table["secret"]], pa.list_(pa.string()))
    content = content.set_column(content.column_names.index("secret"), "secret", secret)
    buffer = BytesIO()
    pq.write_table(
        content.replace_schema_metadata({**content.schema.metadata, _OF: of.encode()}), buffer, compression="zstd"
    )
    write_bytes(folder / FILE, buffer.getvalue())
    return folder / FILE


def written_of(folder: Path) -> str | None:
    """The file of the result that a folder's ``answers.parquet`` belongs to; "" if unknown, None without the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not (folder / FILE).exists():
        return None
    try:
        metadata = pq.read_schema(folder / FILE).metadata or {}
    except (OSError, pa.ArrowException):
        metadata = {}
    return str(metadata.get(_OF, b"").decode())


def read(path: Path, *, of: str | None = None) -> "pd.DataFrame":
    """Read a table of answers.

    Args:
        path: the file, or a folder with ``answers.parquet``.
        of: the file of the result that the table must belong to; any by default.

    Raises:
        UserError: it is missing, damaged, no table of answers, or that of another result.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = path / FILE if path.is_dir() else path
    if reason := not_a_file(file):
        raise UserError(
            f"{file}: {reason}; it is written by uwc study run, compare, and score, calibrate or attack -o FOLDER"
        )
    try:
        content = pq.read_table(file)
        table: pd.DataFrame = content.to_pandas()
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:150]
        raise UserError(f"{file}: not a table of answers ({reason}); run the command again that wrote it") from None
    if lacking := [name for name in COLUMNS if name not in table.columns]:
        raise UserError(f"{file}: not a table of answers: there is no column {lacking[0]!r}; give an {FILE}")
    owner = (content.schema.metadata or {}).get(_OF, b"").decode()
    if of is not None and owner != of:
        raise UserError(f"{file}: the answers of another result ({owner or 'unknown'}), not of {of}; run it again")
    table["secret"] = [[] if spans is None else list(spans) for spans in table["secret"]]
    table["completed_from"] = table["completed_from"].astype("Int64")
    return table


def redacted(table: "pd.DataFrame") -> "pd.DataFrame":
    """The table without true answers and secrets.

    A true answer is replaced by 12 digits of its SHA-256 hash, and each secret by a mark. In generated texts each word
    of the true answer or a secret is a mark, and so is a word that contains one of a secret; in prompts those that are
    not in the question. A text in which a secret can still be read is one mark as a whole. A hash does not hide an
    answer that can be guessed.
    """
    found = table.copy()
    both = list(zip(table["answer"], table["secret"], table["question"], strict=True))
    hidden = {
        (answer, *spans): {word for text in (answer, *spans) for _, _, word in word_spans(text)}
        for answer, spans, _ in both
    }
    asked = {question: {word for _, _, word in word_spans(question)} for _, _, question in both}
    keys = [(answer, *spans) for answer, spans, _ in both]
    found["generated"] = [
        _without(text, hidden[key], key[1:]) for text, key in zip(table["generated"], keys, strict=True)
    ]
    found["prompt"] = [
        _without(text, hidden[key] - asked[question], key[1:])
        for text, key, question in zip(table["prompt"], keys, table["question"], strict=True)
    ]
    found["question"] = [
        _without(question, set(), key[1:]) for question, key in zip(table["question"], keys, strict=True)
    ]
    found["answer"] = [hashed(answer) for answer in table["answer"]]
    found["secret"] = [[MARK] * len(spans) for spans in table["secret"]]
    return found


def hashed(answer: str) -> str:
    """A short SHA-256 hash of a true answer."""
    return f"sha256:{hashlib.sha256(answer.encode()).hexdigest()[:12]}"


def _without(text: Any, words: set[str], secrets: Sequence[str]) -> Any:
    if not isinstance(text, str):
        return text
    parts = {word for span in secrets for _, _, word in word_spans(span) if len(word) > 2}
    pieces, at = [], 0
    for start, end, word in word_spans(text):
        if word in words or any(part in word for part in parts):
            pieces += [text[at:start], MARK]
            at = end
    left = "".join([*pieces, text[at:]])
    return MARK if any(contains(comparable(left), comparable(span)) for span in secrets) else left


def worst(
    table: "pd.DataFrame", metric: str, *, higher: bool = True, conditions: Sequence[str] = (ATTACK,)
) -> "pd.DataFrame":
    """The row with which each question of each model is remembered most, by default under attack; ties: the first.

    Args:
        table: the table of answers.
        metric: the metric that says so; rows without a value of it are left out.
        higher: whether a high value means 'remembers'.
        conditions: the conditions of the rows.
    """
    attacked = table[table["condition"].isin(conditions) & table[metric].notna()]
    values = attacked[metric] if higher else -attacked[metric]
    return table.loc[values.groupby([attacked[name] for name in _QUESTION], sort=False).idxmax()]


_QUESTION = ["set", "id", "role", "model"]


def overview(
    table: "pd.DataFrame", metric: str, *, condition: str = AS_DELIVERED, higher: bool = True
) -> "pd.DataFrame":
    """The rows of a condition, each with the worst attack on it: ``worst_attack``, ``worst_variant``,
    ``worst_generated`` and ``worst_value``; arguments as `worst` takes them."""
    import pandas as pd

    columns = {"attack": "worst_attack", "variant": "worst_variant", "generated": "worst_generated"}
    attacked = worst(table, metric, higher=higher).rename(columns={**columns, metric: "worst_value"})
    rows = table[table["condition"] == condition].reset_index(names="row")
    if condition == ATTACK:
        return rows.set_index("row")
    further = attacked[[*_QUESTION, *columns.values(), "worst_value"]]
    found: pd.DataFrame = rows.merge(further, how="left", on=_QUESTION).set_index("row")
    return found
