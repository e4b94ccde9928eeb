"""The tables of docs/scaling.md: two shipped studies of TOFU with models of 1 B, 8 B and 70 B, errors and speed-ups.

    python -m benchmarks.tofu_cost                # print the tables, and write them to docs/scaling.md

Neither TOFU nor a model is read: questions and answers have TOFU's numbers and mean lengths, and a model is its
configuration alone.
"""

import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.step_times import recorded
from benchmarks.step_times import table as errors_table
from benchmarks.workers import chains
from benchmarks.workers import rows as speed_ups
from uwc.studies.config_file import load_config
from uwc.studies.estimate import MACHINES, Estimate, estimate
from uwc.studies.plan import make_plan

PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"
MACHINE = "h100"

_LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "vocab_size": 128256}
MODELS: dict[str, dict[str, Any]] = {
    "1 B": {
        **_LLAMA,
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 8192,
        "head_dim": 64,
        "tie_word_embeddings": True,
    },
    "8 B": {
        **_LLAMA,
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "tie_word_embeddings": False,
    },
    "70 B": {
        **_LLAMA,
        "hidden_size": 8192,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "intermediate_size": 28672,
        "tie_word_embeddings": False,
    },
}
"""The configurations of Llama 3.2 1B, Llama 3.1 8B and Llama 3.1 70B."""
STUDIES = ("open-unlearning-tofu", "paper-tofu-llama2")


def write_tofu(folder: Path) -> None:
    """Files of TOFU's names, with as many rows as its own and texts of their mean lengths, in characters."""

    def row(number: int, question: int, answer: int, restated: int = 0, wrong: tuple[int, int] = (0, 0)) -> Any:
        found: dict[str, Any] = {
            "question": f"{number:06d} ".ljust(question - 1, "x") + "?",
            "answer": f"{number:06d} ".ljust(answer, "x"),
        }
        if restated:
            found |= {"paraphrased_question": "y" * (question + 17), "paraphrased_answer": "y" * restated}
        if wrong[0]:
            found["perturbed_answer"] = ["z" * wrong[1]] * wrong[0]
        return found

    rows: dict[str, list[Any]] = {
        "retain_perturbed": [row(i, 63, 166, 197, (5, 195)) for i in range(400)],
        "real_authors_perturbed": [row(i, 58, 14, wrong=(3, 13)) for i in range(100)],
        "world_facts_perturbed": [row(i, 56, 10, wrong=(3, 10)) for i in range(117)],
    }
    for share, count in (("05", 200), ("10", 400)):
        first = [row(i, 63, 166) for i in range(400)]
        rows[f"retain{100 - int(share)}"] = [*first, *(row(i, 71, 169) for i in range(400, 4000 - count))]
        rows[f"forget{share}_perturbed"] = [row(i, 77, 180, 206, (5, 202)) for i in range(4000, 4000 + count)]
        rows[f"holdout{share}"] = [row(i, 77, 180) for i in range(5000, 5000 + count)]
    for name, content in rows.items():
        (folder / f"{name}.json").write_text("\n".join(map(json.dumps, content)) + "\n", encoding="utf-8")


def write_model(folder: Path, config: dict[str, Any]) -> None:
    """A folder that can be planned with, but not loaded."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"")


@cache
def estimates() -> dict[tuple[str, str], Estimate]:
    """(study, size) -> its cost."""
    found = {}
    with TemporaryDirectory() as folder:
        root = Path(folder)
        write_tofu(root)
        for size, config in MODELS.items():
            model, retrained = root / f"{size[:-2]}b", root / f"{size[:-2]}b-retrained"
            write_model(model, config)
            write_model(retrained, {**config, "eos_token_id": 0})
            layers = config["num_hidden_layers"]
            probed = [layers // 3, 2 * layers // 3, layers]
            changes: dict[str, list[str]] = {
                "open-unlearning-tofu": [f"retrained={retrained}"],
                "paper-tofu-llama2": [f"attack.chains.{number}.settings.probe.layers={probed}" for number in (1, 5)],
            }
            for study in STUDIES:
                overrides = [f"benchmark.settings.path={root}", f"model.path={model}", *changes[study]]
                plan = make_plan(load_config(study, overrides=overrides))
                found[study, size] = estimate(plan, MACHINES[MACHINE])
    return found


def tables() -> dict[str, list[str]]:
    """Name of a marker in docs/scaling.md -> the rows of its table."""
    costs = [
        "| study | model | steps | 10^15 operations | GPU hours | longest chain, hours | disk, GB | peak, GB | GPUs |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    savings = ["| study | model | leave out first | GPU hours saved | share |", "|---|---|---|---|---|"]
    for (study, size), found in estimates().items():
        whole = found.total
        cells = [
            *(f"`{study}`", size, whole.steps, f"{whole.tflop / 1000:,.0f}", _text(whole.hours)),
            *(_text(found.path_hours), f"{whole.disk_gb:,.0f}", f"{whole.memory_gb:,.0f}", whole.devices),
        ]
        costs.append(_row(cells))
        savings += [
            _row([f"`{study}`", size, f"{s.what} (`{s.how}`)", _text(s.hours), f"{s.share:.0%}"])
            for s in found.leave_out[:3]
        ]
    return {
        "errors": errors_table(recorded()),
        "costs": costs,
        "savings": savings,
        "speed-ups": speed_ups(),
        "chains": chains(),
    }


def _text(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"


def _row(cells: Sequence[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def written(text: str, found: dict[str, list[str]]) -> str:
    """The page with each table between its markers, ``<!-- NAME -->`` and ``<!-- end NAME -->``."""
    for name, rows in found.items():
        begin, end = f"<!-- {name} -->", f"<!-- end {name} -->"
        content = "\n".join([begin, "", *rows, "", end])
        text, count = re.subn(re.escape(begin) + ".*?" + re.escape(end), lambda _, c=content: c, text, flags=re.DOTALL)
        assert count == 1, f"{PAGE} has {count} parts {begin} ... {end}"
    return text


def main() -> None:
    found = tables()
    print("\n\n".join("\n".join(rows) for rows in found.values()))
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")


if __name__ == "__main__":
    main()
