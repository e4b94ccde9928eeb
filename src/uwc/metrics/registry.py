"""The registry of metrics, and what every metric declares about itself."""

from typing import Any

from uwc.registry import Registry

metrics: Registry[Any] = Registry(
    "metric", modules=tuple(f"uwc.metrics.{m}" for m in ("memorization", "likelihood", "overlap", "divergence"))
)
"""Functions from the scores of a set of examples to one float64 value an example, NaN where it does not apply.

Each declares:
    needs: "scores" (TokenScores), "kl" (TokenScores with a reference model) or "texts" (generated answers).
    range: (least, greatest) possible value.
    higher_remembers: whether a high value means that the answer is remembered.
    average: "arithmetic", or "geometric" for values that span magnitudes.
"""
