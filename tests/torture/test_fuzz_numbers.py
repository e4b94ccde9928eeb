"""Numbers at the ends: a result of valid JSON, or one line that names the reason."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.torture.fuzz import FORGET, RETAIN, Case, Prepare, chunks

BAD = "bad"


def filled_with(value: float, part: str = "", count: int | None = None) -> Prepare:
    """A model with this value in its weights, or the first of them."""

    def write(folder: Path) -> None:
        (folder / BAD).mkdir()
        for file in (folder / "model").iterdir():
            (folder / BAD / file.name).write_bytes(file.read_bytes())
        tensors = load_file(folder / "model" / "model.safetensors")
        for name, tensor in tensors.items():
            if part in name:
                tensor.reshape(-1)[:count] = value
        save_file(
            {n: np.ascontiguousarray(t) for n, t in tensors.items()},
            folder / BAD / "model.safetensors",
            {"format": "pt"},
        )

    return write


def rows(file: str, *given: Mapping[str, Any]) -> Prepare:
    """Questions."""
    return lambda folder: (folder / file).write_text("".join(json.dumps(row) + "\n" for row in given), encoding="utf-8")


def lines(file: str, *given: str) -> Prepare:
    """A file of lines."""
    return lambda folder: (folder / file).write_text("\n".join(given) + "\n", encoding="utf-8")


def question(number: int, answer: str = "In Vint", subject: str | None = None, **more: Any) -> dict[str, Any]:
    """A row."""
    return {"question": f"Where is number {number}?", "answer": answer, "subject": subject or f"s{number}", **more}


SHORT = ("--set", "score.max_new_tokens=2", "--json")
SCORE = ("score", BAD, "--data", FORGET, "--metric", "all", "--original", "model", "--retrained", BAD, *SHORT)
CALIBRATE = (
    "calibrate",
    "model",
    BAD,
    "--forget",
    FORGET,
    "--retain",
    RETAIN,
    "--set",
    "calibrate.scan=3",
    "--set",
    "calibrate.resolution=0.2",
    "--json",
)
ATTACK = (
    *("attack", BAD, "--data", FORGET, "--attack", "quantization", "--attack", "pruning", "--attack", "relearn", "--attack", "logit_lens", "--original"),
    *("model", "--attacker-data", RETAIN, "--set", "attack.settings.relearn.steps=1", "--json"),
)  # fmt: skip
UNLEARN = (
    "unlearn",
    BAD,
    "--method",
    "npo",
    "--forget",
    FORGET,
    "--retain",
    RETAIN,
    "-o",
    "out",
    "--set",
    "training.epochs=1",
    "--json",
)
SAMPLE = ("attack", BAD, "--data", FORGET, "--attack", "sampling", "--attack", "beam_search", *SHORT)
SAME = filled_with(0, "no tensor has this name")
WEIGHTS: Mapping[str, Prepare] = {
    "NaN": filled_with(np.nan), "one NaN": filled_with(np.nan, "lm_head", 1), "NaN in a block": filled_with(np.nan, "layers.1.mlp"), "infinity": filled_with(np.inf),
    "one infinity": filled_with(-np.inf, "embed", 1), "zero": filled_with(0.0), "1e38": filled_with(1e38), "1e-45": filled_with(1e-45), "zero norms": filled_with(0.0, "norm"), "the same": SAME,
}  # fmt: skip


def of_weights() -> Iterator[Case]:
    """Models with odd weights."""
    for name, prepare in WEIGHTS.items():
        for arguments in (SCORE, CALIBRATE, ATTACK, UNLEARN, SAMPLE):
            yield Case(f"{arguments[0]}: weights of {name}", arguments, prepare, as_json=True)


QUESTIONS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "one": [question(1)], "two of one subject": [question(1, subject="a"), question(2, subject="a")], "the same answer": [question(n) for n in range(4)],
    "answers of a letter": [question(n, "a") for n in range(3)], "repeated": [question(1, id="a"), question(1, id="b")], "numbers": [question(1, 5), question(2, 1e300)],  # type: ignore[arg-type]
    "wrong answers that are right": [question(1, perturbed_answers=["In Vint"])], "one wrong answer": [question(1, perturbed_answers=["x"]), question(2)],
    "punctuation": [question(n, "...") for n in range(3)], "emoji": [question(1, "🙂"), question(2, "👍🏽")], "a long one": [question(1), question(2, "In " + "Vint " * 20)],
}  # fmt: skip


def of_questions() -> Iterator[Case]:
    """Questions of which statistics are degenerate."""
    for name, given in QUESTIONS.items():
        for arguments, file in ((SCORE, FORGET), (CALIBRATE, FORGET), (CALIBRATE, RETAIN)):

            def prepare(folder: Path, file: str = file, given: Sequence[Mapping[str, Any]] = given) -> None:
                SAME(folder)
                rows(file, *given)(folder)

            yield Case(f"{arguments[0]}: {file} with {name}", arguments, prepare, as_json=True)


def of_settings() -> Iterator[Case]:
    """Settings at the ends of their ranges."""
    for tau in ("1", "1e-300", "0.999999999999"):
        yield Case(f"tau of {tau}", (*CALIBRATE, "--tau", tau), SAME, as_json=True)
    for setting in (
        "calibrate.resolution=1e-6",
        "calibrate.resolution=0.999",
        "calibrate.scan=1",
        "calibrate.rank_by=PPL",
        "calibrate.metric=PPL",
        "seed=4294967295",
        "seed=99999999999999999999",
    ):
        yield Case(setting, (*CALIBRATE, "--set", setting), filled_with(0.0, "layers.1"), as_json=True)
    for setting in (
        "model.dtype=float16",
        "model.dtype=bfloat16",
        "seed=99999999999999999999",
        "score.max_new_tokens=1000000000",
        "score.settings.nosuch.x=1",
    ):
        yield Case(f"score {setting}", (*SCORE, "--set", setting), filled_with(1e38), as_json=True)
    for setting in (
        "training.lr=1e300",
        "training.lr=1e-300",
        "training.weight_decay=1e300",
        "training.clip=1e-300",
        "training.batch_size=1000000000",
        "training.epochs=1e-9",
        "training.warmup_ratio=0.999999",
        "training.lora={rank: 65536}",
        "training.lora={alpha: 1e300}",
        "training.seed=4294967295",
        "settings.npo.beta=0",
        "settings.npo.beta=1e300",
        "weights.npo=0",
        "weights.npo=1e300",
        "weights.npo=-1",
        "tricks.temperature=1e-300",
        "tricks.temperature=1e300",
        "training.optimizer_settings={betas: [1, 1]}",
        "training.optimizer_settings={eps: 0}",
        "stop={at_most: -5}",
        "stop={at_most: 1e300}",
        "training.precision=bf16",
        "training.samples={temperature: 1e-300}",
    ):
        yield Case(f"unlearn {setting}", (*UNLEARN, "--set", setting), SAME, as_json=True)
    for setting in (
        "relearn.lr=1e300",
        "relearn.steps=0",
        "relearn.batch_size=1000000000",
        "pruning.share=1",
        "pruning.share=0",
        "quantization.bits=1",
        "quantization.bits=99",
        "quantization.group_size=1",
        "relearn.budgets=[0]",
        "relearn.examples=0",
    ):
        yield Case(f"attack {setting}", (*ATTACK, "--set", f"attack.settings.{setting}"), SAME, as_json=True)
    for setting in (
        "sampling.samples=0",
        "sampling.temperature=1e-300",
        "sampling.temperature=1e300",
        "sampling.top_p=1e-300",
        "sampling.top_p=0",
        "beam_search.beams=1000000",
        "sampling.seed=-1",
    ):
        yield Case(f"attack {setting}", (*SAMPLE, "--set", f"attack.settings.{setting}"), SAME, as_json=True)


def of_points() -> Iterator[Case]:
    """Points of robustness, and logs of other codes."""
    point = {"checkpoint": "a", "metric": "es", "attack": "relearn", "split": "forget", "before": 0.5, "after": 0.25}
    for name, changes in {
        "one": [{}], "equal": [{"checkpoint": str(n)} for n in range(5)], "NaN": [{"before": float("nan")}] * 3, "infinity": [{"checkpoint": str(n), "after": float("inf")} for n in range(3)], "negative": [{"checkpoint": str(n), "before": -n} for n in range(4)],
        "zero": [{"checkpoint": str(n), "before": 0, "after": 0} for n in range(4)], "huge": [{"checkpoint": str(n), "before": n * 1e300, "after": 1e308} for n in range(4)], "tiny": [{"checkpoint": str(n), "before": n * 1e-320} for n in range(4)],
        "text": [{"before": "a"}], "null": [{"before": None}], "true": [{"checkpoint": str(n), "before": n == 1} for n in range(3)], "a log of zero": [{"checkpoint": str(n), "metric": "perplexity", "before": 0} for n in range(4)], "repeated": [{}, {}],
        "lists": [{"before": [1]}], "huge integers": [{"checkpoint": str(n), "before": 10**400 + n} for n in range(4)],
    }.items():  # fmt: skip
        yield Case(
            f"points of {name}",
            ("robustness", "points.jsonl", "--json"),
            rows("points.jsonl", *({**point, **c} for c in changes)),
            as_json=True,
        )
    known = {"metric": "es", "split": "forget", "value": 0.5, "knows": True}
    points = [{**point, "checkpoint": str(n), "before": n / 5} for n in range(5)]
    for name, changes in {
        "one": [{}],
        "equal": [{}, {"knows": False}],
        "NaN": [{"value": float("nan")}, {"knows": False}],
        "text": [{"value": "x", "knows": "maybe"}],
        "numbers": [{"knows": 5}],
        "infinity": [{"value": float("inf")}, {"knows": False}],
    }.items():

        def prepare(folder: Path, changes: Sequence[Mapping[str, Any]] = changes) -> None:
            rows("points.jsonl", *points)(folder)
            rows("known.jsonl", *({**known, **c} for c in changes))(folder)

        yield Case(
            f"known values of {name}",
            ("robustness", "points.jsonl", "--faithfulness", "known.jsonl", "--json"),
            prepare,
            as_json=True,
        )
    for name, log in {
        "nothing": {}, "null": {"eval_log_forget.json": None}, "numbers": {"eval_log_forget.json": 5}, "empty parts": {"eval_log_forget.json": {}}, "empty lists": {"eval_log_forget.json": {"avg_gt_loss": {}, "truth_ratio": {}}},
        "NaN": {"eval_log_forget.json": {"avg_gt_loss": {"0": float("nan")}, "gt_loss": {"0": float("inf")}, "num_token_gt": {"0": 0}}}, "text": {"eval_log_forget.json": {"avg_gt_loss": {"0": "x"}}},
        "OpenUnlearning's": {"forget_Q_A_Prob": {"agg_value": float("nan"), "value_by_index": {"0": {"prob": float("nan"), "avg_loss": float("inf")}}}}, "OpenUnlearning's text": {"forget_Q_A_Prob": {"value_by_index": {"0": "x"}}}, "OpenUnlearning's null": {"forget_Q_A_Prob": None},
    }.items():  # fmt: skip
        yield Case(
            f"logs of {name}",
            ("score", "--outputs", "logs.json", "--json"),
            lines("logs.json", json.dumps(log)),
            as_json=True,
        )


CASES = [*of_weights(), *of_questions(), *of_settings(), *of_points()]


@pytest.mark.parametrize("cases", chunks(CASES, every=40))
def test_numbers(cases: list[Case], try_all: Callable[..., None]) -> None:
    try_all("number at the end of its range", cases)
