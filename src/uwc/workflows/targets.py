"""Models as users give them: a path, a hub name, or one in memory."""

from typing import Any


def target_of(model: Any, loading: dict[str, Any]) -> Any:
    """The model as a `Target`, loaded if it is a path or a hub name; `loading` as `load_target` takes it."""
    from uwc.models.loading import load_target
    from uwc.models.target import Target

    return model if isinstance(model, Target) else load_target(model, **loading)
