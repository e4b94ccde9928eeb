"""Cards (README.md) for the hub: of a calibrated or an unlearned model, and of the results of a study."""

import os
import re
from collections.abc import Mapping
from math import isfinite
from typing import Any

from uwc import __version__
from uwc.errors import printable
from uwc.reports.format import markdown_code, markdown_text
from uwc.results import Calibration, CalibrationResults, ConditionScore, Result, UnlearnResult

TAGS = ["unlearning", "uwc"]


def model_card(results: CalibrationResults, *, command: str, adapter: bool = False) -> str:
    """The card as Markdown with the front matter of the hub.

    Args:
        results: the calibration and its scores.
        command: the command or call that made it.
        adapter: whether it is an adapter on the original.
    """
    found, original = results.calibration, results.original
    what = (
        "the unlearned adapter with its scale multiplied by alpha"
        if adapter
        else "the weights `(1 - alpha) * original + alpha * unlearned`"
    )
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", command)), default=0))
    lines = [
        _front(
            **_model_front(results, original, adapter=adapter),
            uwc={"version": __version__, "alpha": found.alpha, "tau": found.tau},
            model_name=f"{results.unlearned}, calibrated",
            eval_results=_eval_results(results) or None,
        ),
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


def unlearned_card(result: UnlearnResult) -> str:
    """The card of an unlearned model, from the log of its training.

    Args:
        result: the training.
    """
    lora = result.settings.get("lora")
    adapter = isinstance(lora, dict) and lora.get("save") == "adapter"
    troubles = [result.message] if result.status == "diverged" else []
    if result.collapse is not None and result.collapse.collapsed:
        troubles.append(f"the model collapsed: its perplexity on the retain set is {result.collapse.after:.3g}")
    lines = [
        _front(
            **_model_front(result, result.model, adapter=adapter),
            uwc={"version": __version__, "method": result.method},
        ),
        "# An unlearned model",
        "",
        f"{markdown_code(result.model)} after unlearning by {markdown_code(result.method)}, "
        f"{markdown_code(result.formula)}, in {result.steps} steps. It is not calibrated: `uwc calibrate` makes it "
        "comparable with others.",
        "",
        *(f"- {markdown_text(text)}" for text in troubles),
        "",
        "| setting | value |",
        "|---|---|",
        *(f"| {markdown_text(name)} | {markdown_text(str(value))} |" for name, value in result.settings.items()),
        "",
        f"uwc {__version__}",
        "",
    ]
    return "\n".join(lines)


def results_card(result: Result, text: str, *, answers: bool) -> str:
    """The card of a data set of results.

    Args:
        result: the results.
        text: the results in Markdown.
        answers: whether ``answers.parquet`` is among the files, which the hub then shows.
    """
    files: dict[str, Any] = {"configs": [{"config_name": "answers", "data_files": "answers.parquet"}]}
    front = _front(tags=TAGS, **(files if answers else {"viewer": False}))
    return "\n".join([front, text, "", f"Written by uwc {result.uwc_version}.", ""])


def _front(**content: Any) -> str:
    """The front matter, as the hub reads it."""
    from huggingface_hub import ModelCardData

    return f"---\n{ModelCardData(**content).to_yaml()}\n---\n"


def _model_front(result: Result, original: str, *, adapter: bool) -> Mapping[str, Any]:
    """The front matter that all models have. The hub refuses a base model that is no name on it."""
    local = original in result.paths or os.path.lexists(original)
    on_hub = not local and re.fullmatch(r"[\w.-]+/[\w.-]+", original)
    base = {"base_model": original} if on_hub else {}
    return {**base, "library_name": "peft" if adapter else "transformers", "tags": TAGS}


def _eval_results(results: CalibrationResults) -> list[Any]:
    """The scores of the calibrated model and at tau, as the hub shows them."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=row.set,
            dataset_name=row.set,
            metric_type=row.metric,
            metric_name=f"{row.metric} ({row.condition})",
            metric_value=row.mean,
            metric_args={k: v for k, v in {"low": row.low, "high": row.high, "n": row.n}.items() if isfinite(v)},
        )
        for row in results.scores
        if row.condition in ("calibrated", "at tau") and isfinite(row.mean)
    ]


def _bracket(found: Calibration) -> str:
    """The least infeasible mixture; empty if the unlearned model itself is feasible."""
    return "" if found.alpha == 1 else f"; the next larger probed mixture, {found.upper:.6g}, has less than tau"


def _row(row: ConditionScore) -> str:
    names = f"{markdown_text(row.set)} | {markdown_text(row.metric)} | {row.condition}"
    return f"| {names} | {row.mean:.4f} | {_interval(row)} | {row.n} |"


def _interval(row: ConditionScore) -> str:
    return f"{row.low:.4f} to {row.high:.4f}" if row.low == row.low else "one subject only"
