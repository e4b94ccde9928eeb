"""A made-up study's results for the tests of the reports: six methods, of which one diverged."""

from typing import Any

METRICS: dict[str, dict[str, Any]] = {
    "extraction_strength": {
        "label": "ES",
        "summary": "The share of the answer that the model completes greedily from the shortest prefix that suffices.",
        "higher_remembers": True,
        "range": [0, 1],
        "source": "arXiv:2012.07805, arXiv:2406.09179",
    },
    "perplexity": {
        "label": "PPL",
        "summary": "How surprised the model is by each token of the answer.",
        "higher_remembers": False,
        "range": [1, None],
        "source": "",
    },
    "kl_to_original": {
        "label": "KL to original",
        "summary": "How far the model's predictions are from the original model's.",
        "higher_remembers": False,
        "range": [0, None],
        "source": "arXiv:2406.09179",
    },
}
SETS = {
    "forget": "forget",
    "forget_paraphrased": "forget, paraphrased",
    "retain": "retain",
    "retain_paraphrased": "retain, paraphrased",
    "holdout": "holdout",
}
SETTINGS: dict[str, dict[str, Any]] = {
    name: {"lr": lr, "epochs": 5, "batch_size": 16}
    for name, lr in {"ga": 1e-4, "gd": 5e-4, "kl": 5e-4, "po": 5e-4, "npo": 5e-4, "rmu": 2e-3}.items()
}
# name: forget and retain ES before calibration, alpha, forget and retain ES after it
SCORES = {
    "ga": (0.02, 0.862, 0.871, 0.412, 0.935),
    "gd": (0.0, 0.81, 0.762, 0.131, 0.934),
    "kl": (0.0, 0.39, 0.41, 0.187, 0.932),
    "po": (0.21, 0.95, 1.0, 0.21, 0.95),
    "npo": (0.04, 0.975, 1.0, 0.04, 0.975),
}


RANKING = ("npo", "gd", "kl", "po", "ga")


def pairs(**less: float) -> dict[str, dict[str, float]]:
    """The shares of paired draws, all sure but those in `less`: method -> in which it leaves less than the next."""
    shares = {a: {b: 1.0 if i < j else 0.0 for j, b in enumerate(RANKING) if a != b} for i, a in enumerate(RANKING)}
    for name, share in less.items():
        following = RANKING[RANKING.index(name) + 1]
        shares[name][following], shares[following][name] = share, 1 - share
    return shares


def aggregate(mean: float | None, n: int = 100, half: float = 0.05) -> dict[str, Any]:
    """A mean with the interval ``mean ± half``, cut at 0."""
    if mean is None:
        return {"mean": None, "n": 0, "not_scored": n, "clusters": 0, "se": None, "low": None, "high": None}
    spread = {"se": half / 2, "low": max(0.0, mean - half), "high": mean + half}
    return {"mean": mean, "n": n, "not_scored": 0, "clusters": n // 10, **spread}


def scores(forget: float, retain: float) -> dict[str, dict[str, Any]]:
    """The scores of a model on every set by every metric, made from its forget and retain ES."""
    es = {
        "forget": forget,
        "forget_paraphrased": 0.8 * forget,
        "retain": retain,
        "retain_paraphrased": 0.8 * retain,
        "holdout": 0.05,
    }
    return {
        name: {
            "extraction_strength": aggregate(value),
            "perplexity": aggregate(1 + 2000 * (1 - value) ** 3, half=0.3),
            "kl_to_original": aggregate(4 * (1 - value) ** 2),
        }
        for name, value in es.items()
    }


def calibration(name: str) -> dict[str, Any]:
    """The search for a method's alpha, its probes in the order they were made."""
    forget, retain, alpha, forget_after, retain_after = SCORES[name]
    trace = [
        {"alpha": 0.0, "retain": 0.98, "forget": 0.97, "phase": "end"},
        {"alpha": 1.0, "retain": retain, "forget": forget, "phase": "end"},
        {"alpha": 0.5 * alpha, "retain": 0.96, "forget": 0.5 * (0.97 + forget_after), "phase": "refine"},
        {"alpha": alpha, "retain": retain_after, "forget": forget_after, "phase": "refine"},
    ]
    return {
        "alpha": alpha,
        "tau": 0.95,
        "metric": "extraction_strength",
        "set": "retain",
        "original": 0.98,
        "threshold": 0.931,
        "monotone": True,
        "trace": trace,
    }


def unlearned(name: str) -> dict[str, Any]:
    """What is stored of one unlearned model; `rmu` is the one that diverged."""
    facts = {
        "name": name,
        "group": "",
        "method": name,
        "summary": f"the {name} method in words",
        "formula": f"L_{name}",
        "source": "arXiv:2404.05868",
        "settings": SETTINGS[name],
        "tricks": {},
    }
    if name not in SCORES:
        message = "training diverged: the gradient was not finite at step 7"
        return {**facts, "status": "diverged", "message": message, "before": None, "calibration": None, "after": None}
    forget, retain, alpha, forget_after, retain_after = SCORES[name]
    after = scores(forget_after, retain_after)
    forgotten = {split: after[split]["extraction_strength"] for split in ("forget", "forget_paraphrased")}
    return {
        **facts,
        "status": "ok",
        "message": "",
        "before": scores(forget, retain),
        "calibration": calibration(name),
        "after": after,
        "at_tau": {"alpha": alpha, "retain": retain_after, **{split: es["mean"] for split, es in forgotten.items()}},
        "intervals": {"alpha": [alpha, alpha], **{split: [es["low"], es["high"]] for split, es in forgotten.items()}},
    }


def example_results() -> dict[str, Any]:
    """The content of a results.json; npo is best, then gd, kl, po and ga; rmu diverged."""
    sizes = {"forget": (100, 10), "retain": (300, 30), "retain_eval": (100, 10), "holdout": (100, 10)}
    return {
        "schema": 1,
        "study": {
            "name": "example",
            "title": "Six methods on fictional authors",
            "config": {"seed": 0, "tau": 0.95},
            "uwc_version": "0.1.0",
            "kind": "study",
        },
        "benchmark": {
            "name": "fictional-authors",
            "fingerprint": "3f1c0de5",
            "splits": {name: {"examples": n, "subjects": s} for name, (n, s) in sizes.items()},
        },
        "model": {"source": "built from nothing", "parameters": 984192, "vocabulary": 1024, "dtype": "float32"},
        "metrics": METRICS,
        "sets": {name: {"label": label, "examples": 100} for name, label in SETS.items()},
        "models": [
            {"name": "original", "scores": scores(0.97, 0.98)},
            {"name": "retrained", "scores": scores(0.11, 0.979)},
        ],
        "unlearned": [unlearned(name) for name in SETTINGS],
        "retention": {
            "held": ["retain ES"],
            "share": False,
            "plain": True,
            "without_spread": [],
            "ranked_by": "extraction_strength",
            "label": "ES",
        },
        "ranking": list(RANKING),
        "pairs": pairs(),
        "groups": [],
        "notes": ["the holdout set is small"],
    }


def renamed(results: dict[str, Any], old: str, new: str) -> None:
    """Give a ranked model another name, wherever the results have it."""
    method = next(m for m in results["unlearned"] if m["name"] == old)
    method["name"] = new
    results["ranking"] = [new if name == old else name for name in results["ranking"]]
    results["pairs"] = {
        new if a == old else a: {new if b == old else b: share for b, share in row.items()}
        for a, row in results["pairs"].items()
    }


def example_run() -> dict[str, Any]:
    """The content of a run.json: three steps, one of them reused."""
    return {
        "environment": {"uwc": "0.1.0", "python": "3.11.9", "torch": "2.9.0", "platform": "Linux", "device": "cpu"},
        "steps": [
            {"name": "fine-tune original", "key": "abc123", "seconds": 31.24, "reused": False},
            {"name": "unlearn npo", "key": "def456", "seconds": 125.0, "reused": False},
            {"name": "score original", "key": "789abc", "seconds": 4.0, "reused": True},
        ],
    }
