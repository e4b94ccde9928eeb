"""Models as users give them: a path, a hub name, or one in memory."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uwc.models.reading import Reading


def reading_of(model: Any, loading: dict[str, Any]) -> "Reading":
    """How a model reads, without its weights where it is a path or a hub name."""
    from uwc.models.reading import Reading, load_reading
    from uwc.models.target import Target

    if isinstance(model, Target):
        return Reading.of(model)
    trust = bool(loading.get("trust_remote_code", False))
    return load_reading(model, template=loading.get("template"), trust_remote_code=trust)


def target_of(model: Any, loading: dict[str, Any], reading: "Reading | None" = None) -> Any:
    """The model as a `Target`, loaded if it is a path or a hub name.

    Args:
        model: the model.
        loading: as `load_target` takes it.
        reading: how the model that it is compared with reads; its own by default.
    """
    from uwc.models.loading import load_target
    from uwc.models.reading import read_as
    from uwc.models.target import Target

    if not isinstance(model, Target):
        return load_target(model, reading=reading, **loading)
    return model if reading is None else read_as(model, reading)


def plain_target_of(model: Any, loading: dict[str, Any], reading: "Reading | None" = None) -> Any:
    """`target_of`, with an adapter merged into its base; a model in memory is left as it is, and a copy is merged.

    Raises:
        ModelError: the adapter cannot be merged.
    """
    from uwc.models.lora import merge_adapter
    from uwc.models.target import Target

    return merge_adapter(target_of(model, loading, reading), keep=isinstance(model, Target))
