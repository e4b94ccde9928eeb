"""Adapters that peft wrote, as unlearned models: the base's weights with the adapter's update added."""

from dataclasses import replace
from pathlib import Path

from uwc.errors import ModelError
from uwc.models.lora import merge_adapter
from uwc.models.target import Target

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


def is_adapter(path: str | Path) -> bool:
    """Whether a folder or a hub name holds an adapter instead of a whole model."""
    folder = Path(path)
    if folder.exists():
        return (folder / CONFIG).is_file()
    from huggingface_hub import HfApi, try_to_load_from_cache

    try:
        if isinstance(try_to_load_from_cache(str(path), CONFIG), str):
            return True
        return bool(HfApi().file_exists(str(path), CONFIG))
    except Exception:  # offline, gated, unknown: loading it says which
        return False


def merged_adapter(path: str | Path, base: Target, *, name: str = "") -> Target:
    """The base with the adapter's update in its weights; the base's own weights are overwritten.

    Args:
        path: a folder that peft wrote, or a hub name.
        base: the model the adapter was trained on.
        name: what messages call the result.

    Raises:
        ModelError: peft is not installed, or the adapter does not fit the base.
    """
    try:
        from peft import PeftModel
    except ImportError:
        raise ModelError("an adapter needs peft; install it with: pip install peft") from None
    try:
        model = PeftModel.from_pretrained(base.model, str(path)).eval()
    except Exception as error:  # peft, safetensors and torch raise many kinds
        raise ModelError(
            f"the adapter {str(path)!r} does not fit the model {base.name!r}: {' '.join(str(error).split())[:200]}; "
            "give the model that it was trained on as the original"
        ) from error
    return merge_adapter(replace(base, model=model, name=name or Path(path).name))
