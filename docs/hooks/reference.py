"""Pages of the site that are made from the code: the reference, the files of the root folder, and notebooks.

The pages of metrics, methods, attacks and benchmarks come from the registries (`uwc list`), those of result files from
their JSON Schemas (`uwc schema`), that of commands from `uwc --help`, and that of Python from the docstrings of
`uwc.__all__`.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat
import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.cli import get_docs_for_click
from typer.main import get_command

import uwc
from uwc.catalogue import catalogue, explanation, in_words
from uwc.cli.main import app
from uwc.results import RESULTS, json_schema

ROOT = Path(__file__).parents[2]
FROM_ROOT = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""Page of the root folder -> its place on the site."""

KINDS = {
    "methods": "`uwc unlearn --method NAME` and `unlearn.runs` of a study take a name, or a sum of terms.",
    "terms": "The terms of which a method is a weighted sum. A study's own sum is written under `terms:`.",
    "rules": "Rules that change weights or gradients during training; a method has at most one.",
    "tricks": "Tricks change a forget pass before the terms read it, and change nothing at their neutral value.",
    "attacks": "`uwc attack --attack NAME` and `attack.chains` of a study take a name, or names joined by `+`.",
    "benchmarks": "Benchmarks. `benchmark: {name: NAME, settings: {...}}` of a study takes one.",
    "policies": "Shipped policies of `uwc check --policy NAME`.",
    "published": "Published tables, which a report shows beside its own.",
}
HEADERS = {"name": "Name", "higher_remembers": "High means remembered", "touches_weights": "Changes weights"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for place, text in pages():
        files.append(File.generated(config, place, content=text))
    return files


def pages() -> Iterator[tuple[str, str]]:
    """Place of each generated page, and its Markdown."""
    for name, place in FROM_ROOT.items():
        yield place, _linked((ROOT / name).read_text(encoding="utf-8"))
    for path in sorted((ROOT / "docs").rglob("*.ipynb")):
        yield path.relative_to(ROOT / "docs").with_suffix(".md").as_posix(), _notebook(path)
    yield "reference/metrics.md", _metrics()
    for kind, about in KINDS.items():
        yield f"reference/{kind}.md", _entries(kind, about)
    yield "reference/commands.md", _commands()
    yield "reference/python.md", _python()
    yield "reference/files.md", _schemas()


def _linked(text: str) -> str:
    """Links of a file in the root folder, from the place of the docs."""
    for name, place in FROM_ROOT.items():
        text = text.replace(f"]({name}", f"]({place}")
    text = text.replace("[docs](docs/)", "`docs`").replace("](docs/", "](")
    return re.sub(r"\[([^]]*)\]\((?:src|tests|benchmarks|CITATION)[^)]*\)", r"\1", text)


def _notebook(path: Path) -> str:
    """A notebook as a page: its cells, the text of their outputs, and a link to the file."""
    parts = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        parts += [f"```text\n{output.data['text/plain']}\n```" for output in cell.outputs]
    return "\n\n".join([*parts, f"[This page as a notebook]({path.name})"])


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    text = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _code(value: object) -> str:
    return f"`{value}`".replace("|", "\\|") if value else ""


def _metrics() -> str:
    found = [explanation(row["name"]) for row in catalogue("metrics")]
    lines = [
        "# Metrics of the registry",
        "",
        "`uwc explain NAME` prints the same. How they are averaged and compared: [Metrics](../metrics.md).",
        "",
    ]
    lines += ["| Name | Label | Range | High means remembered | Average | Suites |", "|---|---|---|---|---|---|"]
    for m in found:
        low, high = m["range"]
        direction = {True: "yes", False: "no", None: "neither"}[m["higher_remembers"]]
        suites = ", ".join(s for s in m["suites"] if s != "all")
        lines.append(
            f"| [{m['name']}](#{m['name']}) | {_cell(m['label'])} | {low:g} to {high:g} | {direction} | {m['average']} "
            f"| {suites} |"
        )
    for m in found:
        facts = {
            "Needs": ", ".join(m["needs"]),
            "Settings": in_words({"settings": m["settings"]})["settings"],
            "Source": m["source"],
        }
        lines += ["", f"## {m['name']}", "", _docstring(m["definition"]), ""]
        lines += [f"- {name}: {_cell(value)}" for name, value in facts.items() if value]
    return "\n".join(lines) + "\n"


def _docstring(text: str) -> str:
    """A docstring as Markdown: the names of its sections are bold, and what is below them is not indented."""
    return re.sub(
        r"^(Args|Returns|Raises|Shape|Yields):$", r"\n**\1**\n", re.sub(r"^    ", "", text, flags=re.M), flags=re.M
    )


def _entries(kind: str, about: str) -> str:
    rows = [in_words(row) for row in catalogue(kind)]
    lines = [
        f"# {'Published tables' if kind == 'published' else kind.capitalize()}",
        "",
        about,
        "",
        f"`uwc list {kind}` prints the same.",
        "",
    ]
    names = [name for name in rows[0] if name != "summary"]
    code = {"name", "formula", "settings", "needs", "searched", "neutral"}
    for row in rows:
        lines += [f"## {row['name']}", "", _cell(row["summary"]), ""]
        for name in names:
            value = row.get(name)
            if name == "name" or value in ("", None):
                continue
            shown = _code(value).replace("\\|", "|") if name in code else _cell(value)
            lines.append(f"- {HEADERS.get(name, name.replace('_', ' ').capitalize())}: {shown}")
        lines.append("")
    return "\n".join(lines)


def _commands() -> str:
    command = get_command(app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command, info_name="uwc"), name="uwc", title="Commands")
    return text.replace("All keys: `uwc schema study`.", "All keys: [studies](../studies.md), `uwc schema study`.")


def _python() -> str:
    lines = ["# Python API", "", "The public names of `uwc`. How they are used: [From Python](../python.md).", ""]
    public = {name: getattr(uwc, name) for name in uwc.__all__ if name != "__version__"}
    for name, found in sorted(public.items(), key=lambda item: isinstance(item[1], type)):  # functions first
        lines += [f"::: {found.__module__}.{found.__qualname__}", "    options:", f"      heading: uwc.{name}", ""]
    return "\n".join(lines)


def _schemas() -> str:
    lines = [
        "# Result files",
        "",
        "The fields of every JSON file that a command writes; `uwc schema NAME` prints its JSON Schema.",
        "",
    ]
    parts: dict[str, Mapping[str, Any]] = {}
    for name in RESULTS:
        schema = json_schema(name)
        parts |= schema.get("$defs", {})
        lines += [f"## {name}", "", *_fields(schema)]
    for name in sorted(parts):
        lines += [f"## {name}", "", *_fields(parts[name])]
    return "\n".join(lines)


def _fields(schema: Mapping[str, Any]) -> Iterator[str]:
    if about := schema.get("description"):
        yield from (_docstring(about), "")
    if "properties" not in schema:
        yield from (f"Values: {_type(schema)}", "")
        return
    required = set(schema.get("required", ()))
    yield from ("| Field | Type | Meaning |", "|---|---|---|")
    for name, of in schema["properties"].items():
        optional = "" if name in required else " (optional)"
        yield f"| `{name}` | {_type(of)}{optional} | {_cell(of.get('description', ''))} |"
    yield ""


def _type(of: Mapping[str, Any]) -> str:
    """The type of a field, with a link to its own fields."""
    if "$ref" in of:
        name = of["$ref"].split("/")[-1]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in of:
        return " or ".join(_type(one) for one in of["anyOf"])
    if "const" in of:
        return f"`{of['const']}`"
    if "enum" in of:
        return ", ".join(f"`{one}`" for one in of["enum"])
    if of.get("type") == "array":
        return f"list of {_type(of.get('items', {}))}"
    if of.get("type") == "object" and isinstance(of.get("additionalProperties"), Mapping):
        return f"object of {_type(of['additionalProperties'])}"
    return str(of.get("type", "any"))
