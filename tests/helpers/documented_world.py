"""The folder in which the commands of the documentation are run: every model and file that they name, all tiny."""

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
from tests.conftest import noisy, people
from tests.helpers.harness_tasks import write_tasks
from tests.helpers.judge_models import classifier
from tests.pipeline.test_compare import with_adapter
from tests.unit.data.benchmarks.test_tofu import configurations
from tests.unit.data.benchmarks.test_tofu import write as write_tofu

from uwc.data.example import Example
from uwc.models.load import build_model, save_model
from uwc.models.model import Model
from uwc.objectives.methods import FINE_TUNING
from uwc.objectives.objective import Objective
from uwc.training.data import TrainingData
from uwc.training.loop import train
from uwc.training.settings import TrainingSettings

CHAT = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:"
    "{% if enable_thinking %} <think>{% endif %} {{ date_string }}{% endif %}"
)
PLAIN = {
    "original": ("original", "models/original", "my-org/my-model"),
    "unlearned": ("unlearned", "out/checkpoint", "out/newer", "my-org/their-model"),
    "retrained": ("retrained", "models/retrained"),
    "retrained-seed-1": ("retrained-seed-1",),
    "adapter": ("adapter", "lora-adapter"),
}
CHATTING = {
    "original": ("chat/original", "path/to/original", "path/to/judge", "models/writer"),
    "unlearned": ("chat/unlearned", "my-model"),
    "retrained": ("chat/retrained", "path/to/retrained"),
}
"""Model -> the folders that are copies of it, and of it with a chat template."""
OUTPUTS = ("outputs.jsonl", "out.jsonl", "original.jsonl", "retrained.jsonl", "jail.jsonl", "texts.jsonl")
"""Files of generated texts; those of metrics.md's texts.jsonl are questions, in which a column more does not matter."""


def strangers(count: int, first: int = 0) -> list[Example]:
    """A question about each of some further people."""
    return [
        Example(
            id=f"s{i}", question=f"Where does stranger {i} live?", answer=f"In house {3 * i} by the river",
            subject=f"stranger {i}", perturbed_answers=("In a tent", "Nowhere"), secret=(f"house {3 * i}",),
        )
        for i in range(first, first + count)
    ]  # fmt: skip


FORGET, RETAIN = people()[1:10:2], [*people()[10:], *strangers(3, 60)]
"""A question about each of five people; two about one other, and one about each of three."""


def write_world(folder: Path) -> Path:
    """Everything that the documentation takes for given."""
    for name, model in _models().items():
        for place in PLAIN[name]:
            save_model(model, folder / place)
        chatting = replace(model, tokenizer=copy.deepcopy(model.tokenizer))
        chatting.tokenizer.chat_template = CHAT
        for place in CHATTING.get(name, ()):
            save_model(chatting, folder / place)
    classifier(folder / "inference", ("contradiction", "neutral", "entailment"), (1.0, 0.0, 0.0))
    forget, retain = [_row(e) for e in FORGET], [_row(e) for e in RETAIN]
    forget = [{**row, "aliases": f"Tell me: {row['question']}"} for row in forget]
    questions = {
        "forget": forget, "retain": retain, "a": retain[:2], "b": retain[2:], "qa": forget, "scored": forget,
        "questions": forget, "other": _rows(strangers(4)), "unseen": _rows(strangers(6, 40)),
        "known_to_attacker": _rows(strangers(34)), "solved": _rows(strangers(2, 50)),
        "authors": retain[:2], "facts": retain[2:4],
    }  # fmt: skip
    for name, rows in questions.items():
        _write(folder / f"{name}.jsonl", rows)
    for name, rows in (("forget", forget), ("retain", retain)):
        for place in (folder, folder / "data"):
            place.mkdir(exist_ok=True)
            pd.DataFrame([{k: v for k, v in row.items() if isinstance(v, str)} for row in rows]).to_csv(
                place / f"{name}.csv", index=False
            )
    said = [{**row, "output": row["answer"] if i % 2 else "I do not know"} for i, row in enumerate(forget + retain)]
    for row in said[len(forget) :]:
        row["set"] = "retain"
    for name in OUTPUTS:
        of_forget = name not in ("outputs.jsonl", "original.jsonl")
        _write(folder / name, said[: len(forget)] if of_forget else said)
    pd.DataFrame([{"question": r["question"], "model_output": r["output"]} for r in said]).to_csv(
        folder / "answers.csv"
    )
    labelled = [{**row, "label": "yes" if i % 3 else "no"} for i, row in enumerate(said)]
    pd.DataFrame(labelled)[["question", "answer", "output", "label", "subject"]].to_csv(folder / "labels.csv")
    points = pd.DataFrame(
        [(f"m{i}", i / 20, (i % 7) / 8) for i in range(12)], columns=["checkpoint", "before", "after"]
    )
    points.assign(metric="probability", attack="relearn", split="forget").to_csv(folder / "scores.csv", index=False)
    pools = points.rename(columns={"before": "value"}).assign(
        metric="probability", split="forget", knows=points.index % 2
    )
    pools[["metric", "split", "value", "knows"]].to_csv(folder / "pools.csv", index=False)
    policy = "name: mine\nrequirements: [{name: forgotten, metric: ES, at_most: 0.9}]\n"
    (folder / "policy.yaml").write_text(policy, encoding="utf-8")
    _write_tasks(folder / "tasks")
    (folder / "tofu").mkdir()
    for name, tofu in configurations().items():
        write_tofu(folder / "tofu", name, tofu)
        if name.endswith("_perturbed"):
            write_tofu(folder, name, tofu[:4])
    return folder


def _models() -> Mapping[str, Model]:
    model = build_model([*FORGET, *RETAIN], vocabulary=400, hidden_size=48, layers=2, heads=2, context=512, seed=0)
    retrained = replace(noisy(model), name="retrained")
    settings = TrainingSettings(epochs=50, batch_size=12, lr=8e-3, schedule="cosine")
    for trained, examples in ((model, [*FORGET, *RETAIN]), (retrained, RETAIN)):
        train(trained, Objective(FINE_TUNING, trained.model), TrainingData(retain=examples), settings)
    return {
        "original": model, "unlearned": noisy(model), "retrained": retrained, "retrained-seed-1": noisy(retrained),
        "adapter": with_adapter(model),
    }  # fmt: skip


def _rows(examples: Iterable[Example]) -> list[dict[str, Any]]:
    return [_row(e) for e in examples]


def _row(example: Example) -> dict[str, Any]:
    names = ("id", "question", "answer", "subject", "paraphrased_question", "perturbed_answers")
    row = {name: value for name, value in asdict(example).items() if name in names and value}
    return {**row, "secret": [example.answer.split()[-1]]}


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _write_tasks(folder: Path) -> None:
    """Tasks of the names in the documentation, with the questions of this folder."""
    write_tasks(folder, FORGET)
    choice = (folder / "local_choice.yaml").read_text(encoding="utf-8")
    for other in folder.glob("*.yaml"):
        other.unlink()
    norm = choice.replace("{metric: mcc, aggregation: matthews_corrcoef,", "{metric: acc_norm, aggregation: mean,")
    for name in ("mmlu", "mine"):
        (folder / f"{name}.yaml").write_text(norm.replace("local_choice", name), encoding="utf-8")
