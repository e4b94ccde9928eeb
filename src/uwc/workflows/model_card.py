"""The model card (README.md) of a calibrated model: its origin, its scores, and the command that made it."""

import json
import re

from uwc import __version__
from uwc.errors import printable
from uwc.reports.format import markdown_code, markdown_text
from uwc.results import Calibration, CalibrationResults, ConditionScore


def model_card(results: CalibrationResults, *, command: str, adapter: bool = False) -> str:
    """The card as Markdown with the front matter of the hub.

    Args:
        results: the calibration and its scores.
        command: the command or call that made it.
        adapter: whether it is an adapter on the original.
    """
    found, original = results.calibration, results.original
    front = {
        "base_model": original,
        "library_name": "peft" if adapter else "transformers",
        "tags": ["unlearning", "uwc"],
    }
    what = (
        "the unlearned adapter with its scale multiplied by alpha"
        if adapter
        else "the weights `(1 - alpha) * original + alpha * unlearned`"
    )
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", command)), default=0))
    lines = [
        "---",
        *(f"{key}: {json.dumps(value)}" for key, value in front.items()),
        "---",
        "",
        "# A calibrated unlearned model",
        "",
        f"A mixture of {markdown_code(original)} (the original) and {markdown_code(results.unlearned)} (unlearned): "
        f"{what}, with the largest "
        f"alpha found at which retention is at least {found.tau:.4g} of the original's (arXiv:2406.09179). Methods are "
        "compared at this retention, by the score on the forget set.",
        "",
        f"- alpha: **{found.alpha:.6g}** (0 = original, 1 = unlearned{_bracket(found)})",
        f"- tau: {found.tau:.6g}",
        *(
            f"- retention constraint: {markdown_text(k.measure)}: {k.value:.4f}, {k.ratio:.1%} of the original's "
            f"{k.original:.4f} (n = {k.n})"
            for k in found.kept
        ),
        "",
        "| set | metric | model | score | 95 % interval | n |",
        "|---|---|---|---|---|---|",
        *map(_row, results.scores),
        "",
        "Intervals are bootstrap intervals over subjects, at the model's alpha; those at tau include the uncertainty "
        "of alpha.",
        "",
        "| data | examples | SHA-256 of their content |",
        "|---|---|---|",
        *(f"| {markdown_text(name)} | {info.examples} | `{info.sha256}` |" for name, info in results.sets.items()),
        "",
        f"{fence}bash" if command.startswith("uwc ") else f"{fence}python",
        printable(command),
        fence,
        "",
        f"uwc {__version__}",
        "",
    ]
    return "\n".join(lines)


def _bracket(found: Calibration) -> str:
    """The least infeasible mixture; empty if the unlearned model itself is feasible."""
    return "" if found.alpha == 1 else f"; the next larger probed mixture, {found.upper:.6g}, has less than tau"


def _row(row: ConditionScore) -> str:
    names = f"{markdown_text(row.set)} | {markdown_text(row.metric)} | {row.condition}"
    return f"| {names} | {row.mean:.4f} | {_interval(row)} | {row.n} |"


def _interval(row: ConditionScore) -> str:
    return f"{row.low:.4f} to {row.high:.4f}" if row.low == row.low else "one subject only"
