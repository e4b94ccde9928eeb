"""Time and memory of `uwc score` by the number of questions, on a model as small as the quick start's.

    python benchmarks/questions.py 10000 100000

scores each number of questions in a process of its own, bootstrap included, and prints the seconds, the peak of
resident memory, and its growth a question from one number to the next. ``--new-tokens`` is the most tokens of a
generated answer, which metrics of ``core`` read; these are scored without ``--metric``. The weights are random;
questions and answers are the built-in benchmark's, each question with a number of its own, so that every question is a
cluster.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from uwc.data.benchmarks.fictional import fictional_authors

WIDE = {"vocabulary": 1536, "hidden_size": 128, "layers": 4, "heads": 4, "context": 128}
"""The quick start's model."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and memory of uwc score by the number of questions.")
    parser.add_argument("questions", type=int, nargs="*", default=[2000, 10000], help="numbers of questions")
    parser.add_argument("--metric", action="append", default=[], help="metrics; core by default")
    parser.add_argument("--new-tokens", type=int, default=40, help="the most tokens of a generated answer")
    parser.add_argument("--one", nargs=3, metavar=("MODEL", "FILE", "OUTPUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(_scored(*options.one, options.metric or ["core"], options.new_tokens)))
        return
    before = None
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        save_random(model)
        for number in options.questions:
            asked = Path(folder) / f"{number}.jsonl"
            write_questions(asked, number)
            further = list(itertools.chain.from_iterable(("--metric", name) for name in options.metric))
            further += ["--new-tokens", str(options.new_tokens)]
            command = [sys.executable, "-P", __file__, *further, "--one", str(model), str(asked), f"{folder}/{number}"]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            grown = ""
            if before is not None:
                grown = f", {(found['peak'] - before[1]) / (number - before[0]) / 1e3:.2f} kB a question more"
            peak = f"{found['peak'] / 1e9:.2f} GB at most ({found['start'] / 1e9:.2f} GB before scoring)"
            print(f"{number} questions: {found['seconds']:.0f} s, {peak}{grown}", flush=True)
            before = number, found["peak"]


def save_random(folder: Path) -> None:
    """Write a model with random weights, and a tokenizer of the benchmark's texts."""
    from uwc.models.load import build_model, save_model

    texts = [e for examples in fictional_authors(authors=100, facts=4, phrasings=3).splits.values() for e in examples]
    save_model(build_model(texts, seed=0, **WIDE), folder)


def write_questions(path: Path, number: int) -> None:
    """Write questions of the built-in benchmark as JSONL, again with other numbers where it has no more."""
    examples = fictional_authors(authors=1000, facts=4, phrasings=1, general=False).splits["retain"]
    with path.open("w", encoding="utf-8") as file:
        for i in range(number):
            example = examples[i % len(examples)]
            row = {"id": str(i), "question": f"{i}: {example.question}", "answer": example.answer}
            file.write(json.dumps(row) + "\n")


def _scored(model: str, file: str, output: str, metrics: list[str], new_tokens: int) -> dict[str, float]:
    """Score in this process."""
    import uwc
    from uwc.memory import peak_bytes, start_of_peak

    loaded = uwc.load_model(model, device="cpu")
    start, began = start_of_peak("cpu"), time.perf_counter()
    uwc.score(loaded, file, metrics=metrics, max_new_tokens=new_tokens, output_dir=output)
    return {"seconds": time.perf_counter() - began, "start": start or 0, "peak": peak_bytes("cpu") or 0}


if __name__ == "__main__":
    main()
