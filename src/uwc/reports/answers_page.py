"""The answers page: every question with what each model says, in the report and as a page of its own."""

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from uwc.answers import metrics_of
from uwc.errors import printable
from uwc.io import remove, write_text
from uwc.results import ES, MetricInfo

if TYPE_CHECKING:
    import pandas as pd

PAGE = "answers.html"
SIBLING = "answers.data.js"
"""The file beside the page that holds the data of a large table."""
LARGEST = 2_000_000
"""Characters of data that are kept in the page itself."""
PART = 10_000_000
"""Characters of one string of the sibling file; a multiple of 4, so that each is decoded by itself."""
SOURCE = ["role", "model", "condition", "attack", "variant"]
"""The columns that say where a text comes from; each combination is stored once."""


@dataclass(frozen=True)
class AnswersPart:
    """What the template needs to show a table of answers.

    Attributes:
        data: the table, see `packed`; empty if it is in the sibling file.
        sibling: the name of that file; empty if the data are in the page.
        title: the title of a page of its own; empty in the report.
    """

    data: str
    sibling: str
    title: str = ""


def environment() -> Environment:
    """The environment of the templates: text is escaped, control characters are shown, a missing name is an error."""
    made = Environment(
        loader=PackageLoader("uwc", "reports/templates"),
        autoescape=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {"asset": asset, "policy": policy}
    return made


def asset(name: str) -> Markup:
    """The content of a script or style of the templates' folder, as it is."""
    return Markup((files("uwc") / "reports" / "templates" / name).read_text(encoding="utf-8"))


def policy(*scripts: str, sibling: str = "") -> str:
    """The Content-Security-Policy of a page: nothing is requested, and only scripts of the templates' folder run.

    Args:
        scripts: the names of these scripts, each the whole content of an element.
        sibling: the name of a script beside the page; empty without one.
    """
    digests = (base64.b64encode(hashlib.sha256(asset(name).encode()).digest()).decode() for name in scripts)
    allowed = [*(f"'sha256-{digest}'" for digest in digests), *(["'self'", "file:"] if sibling else [])]
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src {' '.join(allowed)}; base-uri 'none'"


def answers_part(
    answers: "pd.DataFrame | None", metrics: Mapping[str, MetricInfo], folder: Path, *, first: str = ES
) -> AnswersPart | None:
    """The table of answers for a page in a folder; None without answers. A large table is written to a sibling file.

    Args:
        answers: the answers, see `uwc.answers`.
        metrics: the descriptions of the metrics.
        folder: the folder of the page.
        first: the metric that decides what counts as answered, at first.

    Raises:
        OSError: the sibling file cannot be written.
    """
    remove(folder / SIBLING)
    if answers is None or answers.empty:
        return None
    data, sibling = packed(answers, metrics, first), ""
    if len(data) > LARGEST:
        parts = [data[at : at + PART] for at in range(0, len(data), PART)]
        write_text(folder / SIBLING, f"globalThis.uwcAnswers={json.dumps(parts)};\n")
        data, sibling = "", SIBLING
    return AnswersPart(data, sibling)


def write_answers_page(
    answers: "pd.DataFrame", metrics: Mapping[str, MetricInfo], path: Path, *, title: str, first: str = ES
) -> None:
    """Write a table of answers as a page of its own, which opens without a network; without answers, remove it.

    Args:
        answers, metrics, first: see `answers_part`.
        path: the file to write.
        title: the title.

    Raises:
        OSError: the page cannot be written.
    """
    part = answers_part(answers, metrics, path.parent, first=first)
    if part is None:
        remove(path)
    else:
        write_text(
            path, environment().get_template("answers_page.html.jinja").render(answers=replace(part, title=title))
        )


def packed(answers: "pd.DataFrame", metrics: Mapping[str, MetricInfo], first: str = ES) -> str:
    """The table as JSON, compressed (gzip) and in base64: rows by question, every text once, numbers with 4 digits."""
    import pandas as pd

    table = answers.reset_index(drop=True)
    asked = table.groupby(["set", "id"], sort=False).ngroup().to_numpy()
    sources, source = _sources(table)
    order = np.lexsort((source, asked))
    table, asked, source = table.iloc[order].reset_index(drop=True), asked[order], source[order]
    start = np.flatnonzero(np.diff(asked, prepend=-1))
    heads = table.iloc[start]
    secrets = [list(spans) if spans is not None else [] for spans in heads["secret"]]
    columns = [heads["question"], heads["answer"], table["prompt"], table["generated"]]
    flat = pd.concat([*columns, pd.Series([s for spans in secrets for s in spans], dtype=object)], ignore_index=True)
    codes, texts = pd.factorize(flat)
    question, answer, prompt, generated, spans = np.split(codes, np.cumsum([len(column) for column in columns]))
    by_question = np.split(spans, np.cumsum([len(found) for found in secrets])[:-1])
    known = [name for name in metrics_of(table) if table[name].notna().any()] or metrics_of(table)
    known.sort(key=lambda name: (name != first, list(metrics).index(name) if name in metrics else len(metrics)))
    set_codes, sets = pd.factorize(heads["set"])
    cluster_codes, clusters = pd.factorize(heads["cluster"].fillna("").astype(str))
    content = {
        "metrics": [_metric(name, metrics.get(name)) for name in known],
        "sets": list(sets),
        "clusters": list(clusters),
        "texts": list(texts),
        "sources": sources,
        "questions": {
            "set": set_codes.tolist(),
            "id": heads["id"].astype(str).tolist(),
            "cluster": cluster_codes.tolist(),
            "question": question.tolist(),
            "answer": answer.tolist(),
            "secret": [codes.tolist() for codes in by_question],
            "rows": np.diff(start, append=len(table)).tolist(),
        },
        "rows": {
            "source": source.tolist(),
            "prompt": prompt.tolist(),
            "generated": generated.tolist(),
            "completed": _numbers(table["completed_from"]),
            "values": [_numbers(table[name]) for name in known],
        },
    }
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
    return base64.b64encode(gzip.compress(text, compresslevel=6, mtime=0)).decode()


def _sources(table: "pd.DataFrame") -> tuple[list[list[str]], Any]:
    """The distinct sources, the original first and the retrained model last, and the number of each row's source."""
    numbers = table.groupby(SOURCE, sort=False, dropna=False).ngroup().to_numpy()
    _, firsts = np.unique(numbers, return_index=True)
    found = table.loc[firsts, SOURCE].fillna("").astype(str).to_numpy().tolist()
    models = {model: i for i, model in enumerate(dict.fromkeys(source[1] for source in found))}

    def place(number: int) -> tuple[Any, ...]:
        role, model, _, attack, _ = found[number]
        last = {"original": 0, "retrained": 2}.get(role, 1)
        return last, models[model], role == "calibrated", attack != "", number

    order = sorted(range(len(found)), key=place)
    return [found[number] for number in order], np.argsort(order)[numbers]


def _metric(name: str, info: MetricInfo | None) -> dict[str, Any]:
    if info is None:
        return {"name": name, "label": name, "summary": "", "high": None, "share": False}
    share = tuple(info.range) == (0, 1)
    return {
        "name": name,
        "label": info.label,
        "summary": info.summary,
        "high": info.higher_remembers,
        "share": share,
    }


def _numbers(column: "pd.Series[Any]") -> list[float | int | None]:
    """The numbers with four significant digits; None for what is missing or not finite."""
    values = column.to_numpy(dtype=float, na_value=np.nan)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        scale = 10.0 ** (3 - np.floor(np.log10(np.abs(values))))
        rounded = np.where(values == np.round(values), values, np.round(values * scale) / scale)
    finite = np.isfinite(rounded)
    return [
        None if not ok else int(value) if value.is_integer() and abs(value) < 2**53 else value
        for value, ok in zip(rounded.tolist(), finite.tolist(), strict=True)
    ]
