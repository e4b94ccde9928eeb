"""`uwc.unlearn` with the arguments that the command gives."""

from pathlib import Path
from typing import Any

from uwc import api
from uwc.errors import TrainingDiverged


def unlearn(
    model: Any, output: Path, *, method: Any, settings: Any = None, template: Any = None, **options: Any
) -> Path:
    """See `uwc.unlearn`. Raises TrainingDiverged where that says so."""
    done = api.unlearn(model, method, training=settings, output_dir=output, prompt=template, **options)
    if done.status == "diverged":
        raise TrainingDiverged(done.message, step=done.diverged or 0, term=done.term)
    return output
