"""A grid of relearning: all numbers of steps of a rate are points of one run, against a run of its own for each."""

from collections.abc import Iterator

from benchmarks.comparison import Comparison, measure
from benchmarks.probing import random_model
from uwc.attacks.chain import attacked, make_chain
from uwc.attacks.data import AttackData
from uwc.attacks.strongest import candidates
from uwc.data.benchmarks.fictional import fictional_authors
from uwc.metrics.likelihood import extraction_strength
from uwc.models.model import Model
from uwc.models.scoring import score_tokens

SIZES = {"cpu": (256, 3), "cuda": (2048, 24)}
RATES, STEPS = (1e-5, 1e-4), tuple(range(4, 33, 4))


def comparisons(device: str) -> Iterator[Comparison]:
    """Relearn retained authors at two rates, and score some forgotten ones at eight numbers of steps."""
    hidden, layers = SIZES[device]
    benchmark = fictional_authors(authors=12, holdout=0, phrasings=1, general=False)
    model = random_model(benchmark.training_examples(with_forget=True), hidden, layers, device)
    data = AttackData(benchmark["forget"][:8], retain=benchmark["retain"])
    found: dict[str, list[float]] = {}
    ours = measure(lambda: found.update(ours=shared(model, data)), device=device)
    baseline = measure(lambda: found.update(baseline=separate(model, data)), device=device)
    assert found["ours"] == found["baseline"]
    yield Comparison(
        name=f"relearning at {len(RATES)} rates and {len(STEPS)} numbers of steps", ours_seconds=ours.seconds,
        baseline_seconds=baseline.seconds, ours_peak_bytes=ours.peak_bytes, baseline_peak_bytes=baseline.peak_bytes,
        device=device, extra={"steps": [len(RATES) * max(STEPS), len(RATES) * sum(STEPS)], "scored": len(data.scored)},
    )  # fmt: skip


def shared(model: Model, data: AttackData) -> list[float]:
    grid = candidates(["relearn_retain"], vary={"lr": RATES}, settings={"relearn_retain": {"budgets": STEPS}})
    return [score for candidate in grid for score in scores(model, data, candidate.chain)]


def separate(model: Model, data: AttackData) -> list[float]:
    chains = [
        make_chain("relearn_retain", {"relearn_retain": {"lr": lr, "steps": steps}}) for lr in RATES for steps in STEPS
    ]
    return [score for chain in chains for score in scores(model, data, chain)]


def scores(model: Model, data: AttackData, chain) -> list[float]:
    with attacked(model, data, chain) as variants:
        return [float(extraction_strength(score_tokens(v.model, data.scored)).mean()) for v in variants]
