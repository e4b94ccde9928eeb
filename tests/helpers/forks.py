"""Processes forked from one that has imported what takes seconds to import."""

import multiprocessing

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "tests.pipeline.conftest", "uwc.cli.main", "uwc.attacks.evaluate", "uwc.models.load", "uwc.reports.page",
        "uwc.studies.gather", "uwc.training.unlearn", "uwc.workflows.studies", "matplotlib.figure", "peft",
        "rouge_score.rouge_scorer", "transformers.models.llama.modeling_llama", "tests.helpers.frozen",
    ]
)  # fmt: skip
