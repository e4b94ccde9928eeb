"""Small copies of data sets in the hub's layout, and a hub that holds them."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

REAL = Path(os.environ.get("UWC_REAL_DATA", Path(__file__).parents[3] / "shared/data"))
"""Real data sets, which few machines have; tests that read them are skipped elsewhere."""

Rows = Sequence[Mapping[str, Any]]


def parquet(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)


def json_file(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_copy(folder: Path, splits: Mapping[tuple[str | None, str], Rows]) -> Path:
    """``config/split-00000-of-00001.parquet`` for each; without a configuration in ``data/``."""
    for (config, split), rows in splits.items():
        parquet(folder / (config or "data") / f"{split}-00000-of-00001.parquet", rows)
    return folder


def serve(monkeypatch: pytest.MonkeyPatch, splits: Mapping[tuple[str | None, str], Rows]) -> list[str]:
    """Let the hub have these splits; returns a list of the data sets that are asked for."""
    import datasets

    asked: list[str] = []

    def load(path: str, name: str | None, split: str) -> datasets.Dataset:
        asked.append(path)
        return datasets.Dataset.from_list([dict(row) for row in splits[name, split]])

    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked
