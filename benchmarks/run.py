"""Run all benchmarks: one table on standard output, and benchmarks/results.json."""

import argparse
import importlib
import json
import pkgutil
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", help="run only the module of this name")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; use --device cpu")
    found = []
    for module in sorted(m.name for m in pkgutil.iter_modules([str(FOLDER)])):
        loaded = importlib.import_module(f"benchmarks.{module}") if module != "run" else None
        if hasattr(loaded, "comparisons") and options.only in (None, module):
            for comparison in loaded.comparisons(options.device):
                found.append(comparison)
                print(f"{comparison.name}: {comparison.ratio:.1f} x", file=sys.stderr)
                rows = [{**asdict(c), "ratio": c.ratio} for c in found]
                (FOLDER / "results.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    Console(width=200).print(table_of(found))
    for comparison in found:
        notes = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in comparison.extra.items())
        print(f"{comparison.name}: {notes}")


def table_of(found: list) -> Table:
    table = Table()
    for column in ("comparison", "ours, s", "baseline, s", "ratio", "ours, peak MB", "baseline, peak MB", "device"):
        table.add_column(column, justify="left" if column in ("comparison", "device") else "right")
    for c in found:
        table.add_row(
            c.name, f"{c.ours_seconds:.2f}", f"{c.baseline_seconds:.2f}", f"{c.ratio:.1f}",
            f"{c.ours_peak_bytes / 1e6:.0f}", f"{c.baseline_peak_bytes / 1e6:.0f}", c.device,
        )  # fmt: skip
    return table


if __name__ == "__main__":
    main()
