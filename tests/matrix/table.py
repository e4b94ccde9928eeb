"""The table of `docs/models.md`, from the results of a run of the matrix."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

from tests.matrix.architectures import ARCHITECTURES, CELLS
from tests.matrix.prompts import PROMPTS

BEGIN, END = "<!-- matrix: begin -->", "<!-- matrix: end -->"


@dataclass(frozen=True)
class Found:
    """The result of a cell.

    Attributes:
        outcome: "exact", "refused" as it must be, or "fails".
        deviation: the largest difference from plain transformers.
        reason: why it is refused.
    """

    outcome: Literal["exact", "refused", "fails"]
    deviation: float = 0.0
    reason: str = ""


def with_table(text: str, found: Mapping[tuple[str, str], Found]) -> str:
    """The page with this run's table between its markers."""
    before, _, rest = text.partition(BEGIN)
    _, marker, after = rest.partition(END)
    if not marker:
        raise ValueError(f"the page has no {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n{_table(found)}\n{END}{after}"


def _table(found: Mapping[tuple[str, str], Found]) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "tokenizers"))
    lines = [f"With {versions}, in float32 on a CPU.", "", _row("architecture", "prompt", *CELLS), _rule(len(CELLS))]
    for name, architecture in ARCHITECTURES.items():
        lines.append(_row(name, architecture.prompt, *(_cell(found[name, cell]) for cell in CELLS)))
    lines += ["", "### Properties", ""]
    lines += [f"- {a.name}: {a.note}" for a in ARCHITECTURES.values() if a.note]
    refused = dict.fromkeys((n, f.reason) for (n, _), f in found.items() if f.outcome == "refused")
    if refused:
        lines += ["", "### Refused", "", *(f"- {name}: {reason}" for name, reason in refused)]
    lines += ["", "### Prompts", "", "The last two columns have the largest difference over the architectures.", ""]
    lines += [_row("prompt", "property", "used by", "score", "text"), _rule(3)]
    for prompt in PROMPTS.values():
        users = [a.name for a in ARCHITECTURES.values() if a.prompt == prompt.name and "all" not in a.refused]
        worst = [_worst([found[n, cell] for n in users]) for cell in ("score", "text")]
        lines.append(_row(prompt.name, prompt.note, ", ".join(users), *worst))
    return "\n".join(lines)


def _cell(found: Found) -> str:
    if found.outcome == "exact":
        return "0" if found.deviation < 1e-12 else f"<1e{math.floor(math.log10(found.deviation)) + 1}"
    return found.outcome if found.outcome == "refused" else "**fails**"


def _worst(found: list[Found]) -> str:
    used = [f for f in found if f.outcome != "refused"]
    fails = [f for f in used if f.outcome == "fails"]
    return _cell(fails[0] if fails else max(used, key=lambda f: f.deviation)) if used else "refused"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(numbers: int) -> str:
    return "|---|---|" + "---|" * numbers
