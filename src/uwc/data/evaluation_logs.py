"""Logs of other evaluation codes: their texts as rows of a table, and the values by example that they hold.

TOFU's ``eval_log_aggregated.json``, OpenUnlearning's ``*_EVAL.json``, samples of lm-evaluation-harness, and logs of
inspect_ai. Each is recognised by its content.
"""

import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from uwc.data.cells import filled, read_turns, split_turns
from uwc.data.rows import ALIASES, FIELDS
from uwc.data.tables import Table, read_bytes, read_table
from uwc.errors import DataError, brief
from uwc.strict import what_is_wrong

Floats = NDArray[np.float64]

TOFU_FILES = {
    "forget": "eval_log_forget.json",
    "retain": "eval_log.json",
    "real_authors": "eval_real_author_wo_options.json",
    "world_facts": "eval_real_world_wo_options.json",
}
_TOFU_FIELDS = ("avg_gt_loss", "average_perturb_loss", "avg_paraphrased_loss", "rougeL_recall")
_OPEN_PREFIXES = {"forget": "forget", "retain": "retain", "real_authors": "ra", "world_facts": "wf"}
_OPEN_TEXTS = {f"{prefix}_Q_A_ROUGE": name for name, prefix in _OPEN_PREFIXES.items()} | {
    "forget_knowmem_ROUGE": "forget",
    "retain_knowmem_ROUGE": "retain",
    "forget_verbmem_ROUGE": "verbatim",
}
"""Metric of OpenUnlearning with texts -> the set that it is of."""
NORMALISED = ("real_authors", "world_facts")
"""The sets whose probability is normalised over the wrong answers."""
_NONE = np.zeros(0)
LARGEST = 1 << 31
"""The most bytes of an unpacked log."""


@dataclass(frozen=True)
class LoggedSet:
    """The logged values of one set of E examples; an array is empty if the log lacks it.

    Attributes:
        indices: the log's numbers of the examples.
        rouge: [E] ROUGE-L recall.
        probability: [E] of the answer; normalised for real_authors and world_facts.
        true_loss: [E] mean token loss of the paraphrased answer, or of the answer itself if there is none.
        wrong_losses: [E, J] of the wrong answers.
        logged_ratio: [E] truth ratios of the log, if it lacks the losses.
        added: constant that the log's code adds to the true answer's probability in the ratio's denominator.
        definition: the truth ratio that the log's code reports.
        doubt: why `logged_ratio` may be another quantity; empty if it is known.
    """

    indices: tuple[str, ...]
    rouge: Floats
    probability: Floats
    true_loss: Floats
    wrong_losses: Floats
    logged_ratio: Floats
    added: float
    definition: Literal["geometric", "arithmetic"]
    doubt: str = ""

    def select(self, order: Sequence[int]) -> "LoggedSet":
        """Some of the examples, by their positions."""
        names = ("rouge", "probability", "true_loss", "wrong_losses", "logged_ratio")
        arrays = {name: values[list(order)] for name in names if len(values := getattr(self, name))}
        return replace(self, indices=tuple(self.indices[i] for i in order), **arrays)


@dataclass(frozen=True)
class Log:
    """The content of a log.

    Attributes:
        kind: the code that wrote it; "table" for a plain table of rows.
        table: the texts: rows with the columns set, id, question, answer, output, prompt, and fields of examples.
        own_ids: whether the ids of the rows are those of the questions, and not positions in the log.
        values: set -> the values by example, of TOFU and OpenUnlearning.
    """

    kind: Literal["table", "TOFU", "OpenUnlearning", "lm-evaluation-harness", "inspect_ai"]
    table: Table
    own_ids: bool = True
    values: Mapping[str, LoggedSet] = field(default_factory=dict)


def read_log(path: Path) -> Log:
    """Read a log, or a plain table of rows (see `read_table`).

    Raises:
        DataError: the file cannot be read, or a part of the log is missing or malformed; the message names the file.
    """
    data = read_bytes(path)
    if data.startswith(b"PK\x03\x04"):
        return _inspect(path, _unpacked(path, data))
    content = _object(path, data) if data.lstrip()[:1] == b"{" else None
    if content is not None:
        if any(file in content for file in TOFU_FILES.values()):
            sets = {name: _tofu_set(path, content[file], name) for name, file in TOFU_FILES.items() if file in content}
            return Log("TOFU", Table(str(path), "example", list(_tofu_rows(path, content))), False, sets)
        if any(_is_open(key) for key in content):
            logged = {name: s for name in _OPEN_PREFIXES if (s := _open_set(path, content, name))}
            rows = list(_open_rows(path, content))
            if not logged and not rows:
                raise DataError(
                    f"{path}: the log of OpenUnlearning has no values by example; give the *_EVAL.json, and "
                    "not its summary"
                )
            return Log("OpenUnlearning", Table(str(path), "example", rows), False, logged)
        if isinstance(content.get("eval"), dict) and ("samples" in content or "plan" in content):
            return _inspect(path, list(enumerate(_list(path, "samples", content.get("samples") or []), 1)))
    table = read_table(path, damaged=True)
    first = table.rows[0][1]
    if isinstance(first.get("doc"), dict) and ("resps" in first or "filtered_resps" in first):
        return Log("lm-evaluation-harness", _converted(_one_filter(table), _harness_row), own_ids=False)
    return Log("table", table)


def _object(path: Path, data: bytes) -> dict[str, Any] | None:
    """The one JSON object of a file; None if it is none, as where there is one on each line."""
    try:
        content = json.loads(data.decode("utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _converted(table: Table, convert: Callable[[Table, int, Mapping[str, Any]], Mapping[str, Any]]) -> Table:
    """The table with rows of our columns; those that cannot be converted are damaged."""
    rows: list[tuple[int, Mapping[str, Any]]] = []
    damaged = dict(table.damaged)
    for number, row in table.rows:
        try:
            rows.append((number, convert(table, number, row)))
        except DataError as error:
            damaged[number] = str(error)
    if not rows:
        replace(table, rows=rows, damaged=damaged).problems().require_none()
    return replace(table, rows=rows, damaged=damaged)


def _tofu_set(path: Path, log: Any, name: str) -> LoggedSet:
    log = _mapping(path, TOFU_FILES[name], log)
    for part in _TOFU_FIELDS:
        if part not in log:
            raise DataError(f"{path}: {TOFU_FILES[name]} lacks the field {part!r}; evaluate the model again")
        _mapping(path, part, log[part])
    indices = tuple(sorted(log["avg_gt_loss"], key=_order))
    columns = {}
    for part in _TOFU_FIELDS:
        if set(log[part]) != set(indices):
            raise DataError(
                f"{path}: {TOFU_FILES[name]}: {part!r} covers other examples than 'avg_gt_loss'; evaluate the model "
                "again"
            )
        lists = part == "average_perturb_loss"
        columns[part] = _numbers(path, part, [log[part][i] for i in indices], lists=lists)
    loss, wrong, true, rouge = (columns[part] for part in _TOFU_FIELDS)
    probability = np.exp(-loss)
    if name in NORMALISED:
        probability = probability / (probability + np.exp(-wrong).sum(axis=1))
    return LoggedSet(indices, rouge, probability, true, wrong, _NONE, added=0.0, definition="arithmetic")


def _tofu_rows(path: Path, content: Mapping[str, Any]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The texts of TOFU's logs: (input, generated, true) by index, or in the order of the indices."""
    number = 0
    for name, file in TOFU_FILES.items():
        texts = content.get(file, {}).get("generated_text") or {}
        if isinstance(texts, list):
            indices = sorted(content[file]["avg_gt_loss"], key=_order)
            if len(texts) != len(indices):
                raise DataError(
                    f"{path}: {file}: 'generated_text' has {len(texts)} texts for {len(indices)} examples; "
                    "evaluate the model again"
                )
            texts = dict(zip(indices, texts, strict=True))
        for index, found in sorted(_mapping(path, "generated_text", texts).items(), key=lambda item: _order(item[0])):
            if not (isinstance(found, list) and len(found) == 3):
                raise DataError(
                    f"{path}: {file}: 'generated_text' of {index!r} is not [input, generated, true answer]; "
                    "evaluate the model again"
                )
            number += 1
            yield number, _row(name, index, found[0], output=found[1], answer=found[2])


def _is_open(key: Any) -> bool:
    return str(key) in _OPEN_TEXTS or str(key).endswith(("_Truth_Ratio", "_truth_ratio", "_Q_A_Prob", "_Q_A_ROUGE"))


def _open_rows(path: Path, content: Mapping[str, Any]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The texts of OpenUnlearning's logs."""
    number = 0
    for metric, name in _OPEN_TEXTS.items():
        values = _mapping(path, metric, content.get(metric) or {}).get("value_by_index") or {}
        for index, found in sorted(_mapping(path, metric, values).items(), key=lambda item: _order(item[0])):
            found = _mapping(path, metric, found)
            if "generation" in found:
                number += 1
                texts = {"output": found["generation"], "answer": found.get("ground_truth")}
                yield number, _row(name, index, found.get("input"), **texts)


def _row(name: str, index: str, prompt: Any, **texts: Any) -> Mapping[str, Any]:
    return {"set": name, "id": str(index), "question": prompt, "prompt": prompt, **texts}


def _open_set(path: Path, log: Mapping[str, Any], name: str) -> LoggedSet | None:
    prefix, normalised = _OPEN_PREFIXES[name], "_normalised" if name in NORMALISED else ""
    indices: tuple[str, ...] = ()

    def column(choices: tuple[str, ...], read: Callable[[Any], Any], *, lists: bool = False) -> Floats:
        nonlocal indices
        for metric in choices:
            values = _mapping(path, metric, log.get(metric, {})).get("value_by_index")
            if values:
                known = tuple(sorted(_mapping(path, metric, values), key=_order))
                if indices and known != indices:
                    raise DataError(
                        f"{path}: {metric!r} covers other examples than the metrics of {prefix!r} before it; evaluate "
                        "the model again"
                    )
                indices = known
                try:
                    return _numbers(path, metric, [read(values[i]) for i in known], lists=lists)
                except (KeyError, TypeError, ValueError):
                    raise DataError(
                        f"{path}: {metric!r} lacks a field of OpenUnlearning's logs; evaluate the model again"
                    ) from None
        return _NONE

    restated = f"{prefix}_Q_A_PARA_Prob" if name not in NORMALISED else f"{prefix}_Q_A_Prob"
    true = column((restated,), lambda v: v["avg_loss"])
    wrong = column((f"{prefix}_Q_A_PERT_Prob",), lambda v: np.atleast_1d(v["avg_loss"]), lists=True)
    ratio = column((f"{prefix}_Truth_Ratio", f"{prefix}_truth_ratio"), lambda v: v["score"])
    probability = column((f"{prefix}_Q_A_Prob{normalised}",), lambda v: v["prob"])
    rouge = column((f"{prefix}_Q_A_ROUGE",), lambda v: v["rougeL_recall"])
    if not indices:
        return None
    if not len(true) or not len(wrong):
        true = wrong = _NONE
    doubtful = name == "forget" and not len(wrong) and len(ratio) and ratio.max() <= 1.0
    doubt = (
        "the log lacks the losses, and does not say whether its truth ratios are wrong / true or, as since "
        "December 2025, true / (true + wrong)"
        if doubtful
        else ""
    )
    return LoggedSet(indices, rouge, probability, true, wrong, ratio, added=1e-10, definition="geometric", doubt=doubt)


def _one_filter(table: Table) -> Table:
    """The samples without those that repeat a question with another filter of its response."""
    rows: list[tuple[int, Mapping[str, Any]]] = []
    filters: dict[str, Any] = {}
    for number, row in table.rows:
        first = filters.setdefault(str(row.get("doc_id")), row.get("filter"))
        if row.get("filter") == first:
            rows.append((number, row))
    return replace(table, rows=rows)


def _harness_row(table: Table, number: int, row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A sample of lm-evaluation-harness: the model's response before any filter."""
    where = table.at(number)
    doc = row.get("doc")
    said: Any = row.get("resps") if row.get("resps") is not None else row.get("filtered_resps")
    while isinstance(said, list) and len(said) == 1:
        said = said[0]
    if not isinstance(doc, Mapping):
        raise DataError(
            f"{where}: there is no 'doc', which a sample of lm-evaluation-harness has; run it again with --log_samples"
        )
    if isinstance(said, list) and said and all(isinstance(text, str) for text in said) and not _likelihoods(said):
        raise DataError(f"{where}: the sample has {len(said)} responses; only one response to a question can be read")
    if not isinstance(said, str):
        raise DataError(
            f"{where}: the response is a log-likelihood, and not a text; give the samples of a task that generates "
            "(output_type: generate_until)"
        )
    prompt = _harness_prompt(row.get("arguments"))
    asked = next((doc[c] for c in ("question", *ALIASES["question"]) if isinstance(doc.get(c), str)), None)
    return {
        **{name: doc[name] for name in FIELDS if name in doc and name not in ("id", "answer", "question", "history")},
        "id": doc["id"] if filled(doc.get("id")) else row.get("doc_id"),
        "question": prompt if asked is None else asked,
        "prompt": prompt,
        "answer": row.get("target"),
        "output": said,
    }


def _likelihoods(said: Sequence[str]) -> bool:
    """Whether a response is that of a task without generation: (log-likelihood, whether it is the most likely)."""
    return len(said) == 2 and said[1] in ("True", "False")


def _harness_prompt(arguments: Any) -> Any:
    """The prompt of a sample: of ``{"gen_args_0": {"arg_0": ...}}``, or the first of lists."""
    while isinstance(arguments, Mapping) and arguments:
        arguments = arguments.get("gen_args_0", arguments.get("arg_0"))
    while isinstance(arguments, list) and arguments:
        arguments = arguments[0]
    return arguments if isinstance(arguments, str) else None


def _unpacked(path: Path, data: bytes) -> list[tuple[int, Any]]:
    """The samples of inspect_ai's ``.eval``, a zip archive with a file for each."""
    found: list[tuple[int, Any]] = []
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = sorted(
                (info for info in archive.infolist() if info.filename.startswith("samples/")),
                key=lambda info: _order(info.filename.removeprefix("samples/").partition("_epoch_")[0]),
            )
            if sum(info.file_size for info in parts) > LARGEST:
                raise DataError(f"{path}: the unpacked log has more than {LARGEST >> 30} GiB; split it")
            names = archive.namelist()
            if not parts or not {"header.json", "_journal/start.json"} & set(names):
                raise DataError(
                    f"{path}: this archive is not a log of inspect_ai with samples; give the .eval file of a "
                    "run with log_samples"
                )
            for info in parts:
                with archive.open(info) as file:
                    content = file.read(info.file_size + 1)
                found.append((len(found) + 1, json.loads(content)))
    except NotImplementedError:
        raise DataError(
            f"{path}: the archive is compressed in a way that cannot be read here; convert it with "
            "inspect log convert --to json"
        ) from None
    except (zipfile.BadZipFile, zipfile.LargeZipFile, OSError, EOFError, RuntimeError, RecursionError, ValueError) as e:
        reason = what_is_wrong(e) if isinstance(e, json.JSONDecodeError | UnicodeDecodeError) else str(e)
        raise DataError(f"{path}: the log of inspect_ai cannot be read ({reason}); write it again") from None
    return found


def _inspect(path: Path, samples: Sequence[tuple[int, Any]]) -> Log:
    if not samples:
        raise DataError(f"{path}: the log of inspect_ai has no samples; run it with log_samples")
    return Log("inspect_ai", _converted(Table(str(path), "sample", samples), _inspect_row))


def _inspect_row(table: Table, number: int, sample: Mapping[str, Any]) -> Mapping[str, Any]:
    """A sample of inspect_ai: its input, its target, and the model's output."""
    where = table.at(number)
    sample = _mapping(Path(where), "sample", sample)
    output, metadata = sample.get("output"), sample.get("metadata")
    output = output if isinstance(output, Mapping) else {}
    choices = _list(Path(where), "choices", output.get("choices") or [])
    if len(choices) > 1:
        raise DataError(f"{where}: the sample has {len(choices)} outputs; only one output of a question can be read")
    said: Any = output.get("completion")
    if choices and isinstance(choices[0], Mapping):
        message = choices[0].get("message")
        said = message.get("content") if isinstance(message, Mapping) else None
    if isinstance(said, list):
        parts = [part for part in said if isinstance(part, Mapping) and part.get("type") == "text"]
        said = "".join(str(part.get("text", "")) for part in parts)
    if said is None:
        error = sample.get("error")
        why = f" ({brief(str(error.get('message')))})" if isinstance(error, Mapping) else ""
        raise DataError(f"{where}: there is no output{why}; remove the sample, or leave it out with --skip-invalid")
    attached = sample.get("attachments")
    attached = attached if isinstance(attached, Mapping) else {}
    asked = _attached(sample.get("input"), attached)
    target = sample.get("target")
    row = {name: metadata[name] for name in FIELDS if name in metadata} if isinstance(metadata, Mapping) else {}
    for name in ("id", "answer", "question", "history"):
        row.pop(name, None)
    if isinstance(asked, list):
        turns = [
            {"role": turn.get("role"), "content": _attached(turn.get("content"), attached)}
            for turn in asked
            if isinstance(turn, Mapping)
        ]
        history, asked, _ = split_turns(read_turns(turns, f"{where}: the input"), f"{where}: the input")
        row["history"] = [list(turn) for turn in history]
    return {
        **row,
        "id": sample.get("id"),
        "question": asked,
        "answer": target,
        "output": _attached(said, attached),
    }


def _attached(value: Any, attached: Mapping[str, Any]) -> Any:
    """A text, or the one that it refers to."""
    if isinstance(value, str) and value.startswith("attachment://"):
        return attached.get(value.removeprefix("attachment://"), value)
    return value


def _list(path: Path, part: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise DataError(f"{path}: {part!r} is a {type(value).__name__}, and not a list; write the log again")
    return value


def _mapping(path: Path, part: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{path}: {part!r} is a {type(value).__name__}, and not an object; write the log again")
    return value


def _numbers(path: Path, part: str, values: list[Any], *, lists: bool = False) -> Floats:
    """[E] numbers, or with `lists` [E, J]."""
    try:
        column = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        column = np.array([np.nan])
    if not column.size or column.ndim != 1 + lists or not np.isfinite(column).all():
        raise DataError(
            f"{path}: {part!r} holds a value that is not a finite number, or lists of unequal lengths; evaluate "
            "the model again"
        )
    return column


def _order(index: str) -> tuple[int, str]:
    return (int(index), "") if str(index).isdecimal() else (1 << 60, str(index))
