"""`uwc.score` with the arguments that the command gives."""

from collections.abc import Mapping, Sequence
from typing import Any

from uwc import api
from uwc.data.example import Example
from uwc.results import Scores


def score(
    model: Any,
    data: Sequence[Example] = (),
    *,
    suite: str | None = None,
    metrics: Sequence[str] = (),
    sets: Mapping[str, Sequence[Example]] | None = None,
    template: Any = None,
    **options: Any,
) -> Scores:
    """See `uwc.score`."""
    named = [*([] if suite is None else [suite]), *metrics]
    return api.score(model, {"forget": data, **(sets or {})}, metrics=named, prompt=template, **options)
