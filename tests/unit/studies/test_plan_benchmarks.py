"""Studies on benchmarks: the metrics that they name, and a benchmark that is one function."""

from pathlib import Path
from typing import Any

import pytest
from tests.helpers.hub_copies import REAL

from uwc.data.benchmarks import benchmarks
from uwc.plugins import load_plugins
from uwc.studies.config_file import load_config
from uwc.studies.plan import Plan, make_plan


def planned(name: str, settings: dict[str, Any]) -> Plan:
    study = {
        "name": "mine",
        "benchmark": {"name": name, "settings": settings},
        "model": {"build": {"vocabulary": 300, "hidden_size": 8, "layers": 1, "heads": 1, "context": 2048}},
        "finetune": {},
        "unlearn": {"runs": [{"method": "npo"}]},
    }
    return make_plan(load_config(study))


@pytest.mark.parametrize(("name", "metric"), [("lume", "lume_tasks"), ("knowundo", "knowledge_forgotten")])
def test_a_benchmark_has_its_own_score_without_being_asked(name: str, metric: str) -> None:
    if not (REAL / name).is_dir():
        pytest.skip(f"the files of {name} are not there")
    plan = planned(name, {"path": str(REAL / name)})
    assert {metric, "extraction_strength"} <= set(plan.scoring.metrics)
    assert plan.benchmark.metrics[0] == "core"


FUNCTION = '''
from uwc.data.benchmark import Benchmark
from uwc.data.benchmarks import benchmarks
from uwc.data.example import Example

@benchmarks.register("of mine", source="me")
def mine(*, count: int = 3) -> Benchmark:
    """A benchmark that is one function."""
    def some(split: str) -> tuple[Example, ...]:
        return tuple(Example(id=f"{split}{i}", question=f"{split} {i}?", answer="x", split=split) for i in range(count))
    return Benchmark(name="mine", splits={"forget": some("forget"), "retain": some("retain")}, metrics=("rouge_1",))
'''


def test_a_function_of_a_plug_in_is_a_benchmark(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FUNCTION, encoding="utf-8")
    with benchmarks.restored():
        load_plugins([str(file)])
        plan = planned("of mine", {"count": 2})
    assert {split: len(examples) for split, examples in plan.benchmark.splits.items()} == {"forget": 2, "retain": 2}
    assert plan.scoring.metrics == ["rouge_1", "extraction_strength"]
