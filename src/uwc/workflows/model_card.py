"""The README.md of a calibrated model: what it is, what was measured, and how to make it again."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from uwc import __version__


def model_card(
    record: Mapping[str, Any],
    scores: Sequence[Mapping[str, Any]],
    *,
    original: str,
    unlearned: str,
    data: Mapping[str, tuple[int, str]],
    command: str,
    adapter: bool = False,
) -> str:
    """The card as Markdown with the front matter of the hub.

    Args:
        record: the calibration.
        scores: rows of set, metric, model, mean, n, low, high.
        original: the model before unlearning.
        unlearned: the model after it.
        data: set -> number of examples and SHA-256 of their content.
        command: what made it.
        adapter: whether it is an adapter on the original.
    """
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
    alpha, tau = record["alpha"], record["tau"]
    lines = [
        "---", *(f"{key}: {json.dumps(value)}" for key, value in front.items()), "---", "",
        "# A calibrated unlearned model", "",
        f"Made of `{original}` (the original) and `{unlearned}` (unlearned): {what}, with the largest alpha found that "
        f"keeps {tau:.4g} of the original's retention (arXiv:2406.09179). Methods are compared at this line, on what "
        "is left of the forget set.", "",
        f"- alpha: **{alpha:.6g}** (0 = original, 1 = unlearned{_bracket(record)})",
        f"- tau: {tau:.6g}",
        *(
            f"- held fixed: {row['measure']}: {row['score']:.4f}, {row['share']:.1%} of the original's "
            f"{row['original']:.4f} (n = {row['n']})"
            for row in record["kept"]
        ), "",
        "| set | metric | model | score | 95 % interval | n |", "|---|---|---|---|---|---|",
        *(
            f"| {r['set']} | {r['metric']} | {r['model']} | {r['mean']:.4f} | {_interval(r)} | {r['n']} |"
            for r in scores
        ), "",
        "Intervals are bootstrap intervals over subjects, at this alpha.", "",
        "| data | examples | SHA-256 of their content |", "|---|---|---|",
        *(f"| {name} | {count} | `{digest}` |" for name, (count, digest) in data.items()), "",
        "```bash" if command.startswith("uwc ") else "```python", command, "```", "",
        f"uwc {__version__}", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _bracket(record: Mapping[str, Any]) -> str:
    """From which mixture on too much is lost; nothing where the unlearned model itself keeps enough."""
    return "" if record["alpha"] == 1 else f"; the next mixture that was found to lose too much: {record['upper']:.6g}"


def _interval(row: Mapping[str, Any]) -> str:
    return f"{row['low']:.4f} to {row['high']:.4f}" if row["low"] == row["low"] else "one subject only"
