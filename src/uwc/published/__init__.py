"""Published results, shipped with the package for comparison with ours."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from uwc.errors import ConfigError
from uwc.registry import unknown_name


@dataclass(frozen=True)
class PublishedTable:
    """A published table.

    Attributes:
        name: its name in this package.
        title: its title.
        benchmark: the name of the benchmark in a study's results.
        metric: the metric.
        source: the publication.
        setting: the setting of the experiment, as far as published.
        rows: one mapping a row, with the same keys in each.
    """

    name: str
    title: str
    benchmark: str
    metric: str
    source: str
    setting: str
    rows: tuple[Mapping[str, Any], ...]


def published_names() -> list[str]:
    """The names of all tables."""
    return sorted(f.name.removesuffix(".json") for f in files("uwc.published").iterdir() if f.name.endswith(".json"))


def published_benchmarks() -> list[str]:
    """The benchmarks on which scores of methods were published."""
    tables = [published(name) for name in published_names()]
    return list(dict.fromkeys(t.benchmark for t in tables if "method" in t.rows[0]))


def published(name: str) -> PublishedTable:
    """A table by its name.

    Tables: ``robustness-pcc``, rows of metric, attack, retain, forget; ``tofu-forget05-before`` and
    ``tofu-forget05-calibrated``, rows of method, model, retain, forget, retain_paraphrased, forget_paraphrased;
    ``open-unlearning-tofu-forget10`` (forget05, forget01), rows of method, its name there (called), model,
    forget_quality, model_utility, truth_ratio_forget; the methods original and retrained are those models.

    ``meta-evaluation``, rows of metric, faithfulness, relearning, quantization, robustness, overall;
    ``unlearned-models``, rows of model and its scores.

    Raises:
        ConfigError: there is no such table.

    Source: arXiv:2406.09179 and its public review discussion; OpenUnlearning's table of results; arXiv:2605.24614 for
    the last two.
    """
    if name not in published_names():
        raise ConfigError(unknown_name("published table", name, published_names()))
    content = json.loads((files("uwc.published") / f"{name}.json").read_text(encoding="utf-8"))
    rows = tuple(content.pop("rows"))
    return PublishedTable(name=name, rows=rows, **content)
