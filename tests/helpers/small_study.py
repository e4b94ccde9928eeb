"""A study of a few seconds, and its results without a report."""

from uwc.results import StepTime, StudyResults
from uwc.studies.config import StudyConfig
from uwc.studies.gather import gather
from uwc.studies.plan import Plan
from uwc.studies.run import LOCAL, Runner, run_steps
from uwc.studies.store import Store
from uwc.tracking import Trackers

STUDY = StudyConfig(
    name="shared",
    benchmark={
        "name": "fictional-authors",
        "settings": {"authors": 10, "forget_share": 0.2, "facts": 1, "phrasings": 1, "holdout": 2, "general": False},
    },
    model={"build": {"vocabulary": 500, "hidden_size": 32, "layers": 2, "heads": 2, "context": 128}},
    finetune={"epochs": 60, "batch_size": 16, "lr": 1e-2, "schedule": "cosine"},
    unlearn={
        "training": {"epochs": 1, "batch_size": 2, "lr": 1e-3, "warmup_ratio": 0.0},
        "runs": [{"method": "kl"}, {"method": "rmu"}, {"method": "gd"}, {"method": "npo-kl"}],
    },
    score={"metrics": ["extraction_strength", "kl_to_original"], "max_new_tokens": 0},
    calibrate={"scan": 2, "resolution": 0.2},
)


def run_plan(
    plan: Plan, store: Store, trackers: Trackers | None = None, runner: Runner = LOCAL
) -> tuple[StudyResults, dict[str, StepTime]]:
    """The results of a plan, and the times of its steps by their names."""
    record = run_steps(plan, store, on_step=lambda _done, **_note: None, trackers=trackers, runner=runner)
    return gather(plan, store), {step.name: step for step in record.steps}
