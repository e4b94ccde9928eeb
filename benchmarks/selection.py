"""Selection by Fisher information: updated products, against the inverse and the trace of every candidate."""

from collections.abc import Iterator

import numpy as np

from benchmarks.comparison import Comparison, measure
from benchmarks.probing import random_model
from uwc.data.benchmarks.fictional import fictional_authors
from uwc.models.selection import DRAWS, fisher_embeddings, most_informative

SIZES = {"cpu": (256, 6), "cuda": (2048, 24)}
CHOSEN, POOL = 50, 5_000
COMPARED, SMALL = 5, 100
"""Chosen examples and pool of the comparison, which the baseline can do."""


def comparisons(device: str) -> Iterator[Comparison]:
    """Choose 50 of 5,000 examples, embeddings included; and 5 of 100 of the same embeddings by both ways."""
    hidden, layers = SIZES[device]
    benchmark = fictional_authors(authors=POOL // 4, holdout=0, phrasings=1, general=False)
    examples = benchmark.training_examples(with_forget=True)[:POOL]
    model = random_model(list(examples), hidden, layers, device)
    model.sharing()
    read = measure(lambda: fisher_embeddings(model, examples), device=device)
    whole = measure(lambda: most_informative(read.value, CHOSEN), device="cpu")
    few = read.value[:SMALL]
    fast = measure(lambda: most_informative(few, COMPARED), device="cpu", repeats=3)
    slow = measure(lambda: one_by_one(few, COMPARED), device="cpu")
    if fast.value != slow.value:
        raise RuntimeError(f"the chosen examples differ: {fast.value} and {slow.value}")
    yield Comparison(
        f"Fisher selection of {COMPARED} out of {SMALL}", fast.seconds, slow.seconds, fast.peak_bytes,
        slow.peak_bytes, device,
        {f"{CHOSEN} out of {len(examples)}, s": read.seconds + whole.seconds, "of which embeddings, s": read.seconds,
         "peak MB": max(read.peak_bytes, whole.peak_bytes) / 1e6, "draws": DRAWS, "dimensions": few.shape[2]},
    )  # fmt: skip


def one_by_one(embeddings: np.ndarray, count: int) -> list[int]:
    """The greedy choice with an inverse and a trace for each candidate of each step."""
    information = [v.T @ v for v in embeddings.astype(np.float64)]
    of_pool = sum(information) / len(information)
    ridge = np.trace(of_pool) / len(of_pool) * np.eye(len(of_pool))

    def trace(total: np.ndarray) -> float:
        return float(np.trace(np.linalg.inv(total) @ of_pool))

    chosen: list[int] = []
    for _ in range(2 * count):
        total = sum((information[i] for i in chosen), ridge)
        left = [i for i in range(len(information)) if i not in chosen]
        chosen.append(min(left, key=lambda i: trace(total + information[i])))
    chosen.sort()
    for _ in range(count):
        total = sum((information[i] for i in chosen), ridge)
        chosen.remove(min(chosen, key=lambda i: trace(total - information[i])))
    return chosen
