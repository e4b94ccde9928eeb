"""Models as users give them: a path, a hub name, or one in memory."""

from typing import Any


def target_of(model: Any, loading: dict[str, Any]) -> Any:
    """The model as a `Target`, loaded if it is a path or a hub name; `loading` as `load_target` takes it."""
    from uwc.models.loading import load_target
    from uwc.models.target import Target

    return model if isinstance(model, Target) else load_target(model, **loading)


def plain_target_of(model: Any, loading: dict[str, Any]) -> Any:
    """`target_of`, with an adapter merged into its base; a model in memory is left as it is, and a copy is merged.

    Raises:
        ModelError: the adapter cannot be merged.
    """
    from uwc.models.lora import merge_adapter
    from uwc.models.target import Target

    return merge_adapter(target_of(model, loading), keep=isinstance(model, Target))
