"""Adapters in folders of their own, as peft writes them: loaded onto their base, scaled, and saved scaled."""

import hashlib
import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from uwc import progress
from uwc.errors import ModelError
from uwc.models.lora import merge_adapter
from uwc.models.mixing import require_alpha, require_finite
from uwc.models.target import Target
from uwc.models.weight_files import WeightFiles, local_file, open_safetensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_SAMPLES, _SAMPLE_BYTES = 64, 1 << 16


def adapter_config(path: str | Path) -> dict[str, Any] | None:
    """What the checkpoint's adapter_config.json says; None if it is not an adapter. Raises ModelError if damaged."""
    file = local_file(path, CONFIG)
    if file is None:
        return None
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{file}: damaged ({error}); save the adapter again") from error
    return config


def is_scale_enough(config: dict[str, Any]) -> bool:
    """Whether the weights with the adapter move on a straight line with its scale: plain LoRA, nothing else trained."""
    more = ("modules_to_save", "trainable_token_indices", "target_parameters", "megatron_config", "arrow_config")
    variants = [name for name in config if name.startswith("use_") and name != "use_rslora"]
    plain = config.get("bias", "none") == "none" and not config.get("lora_bias")
    return config.get("peft_type") == "LORA" and plain and not any(config.get(name) for name in (*more, *variants))


def require_base(adapter: str | Path, config: dict[str, Any], original: str | Path) -> None:
    """Raise ModelError if an adapter was made for another base than the original.

    The base is the one that the adapter's configuration names: it is the original if the names are the same, or if
    both are there and hold the same weights, or, where that base is not on this machine, if the last parts of the names
    are the same.
    """
    base = config.get("base_model_name_or_path")
    if not base:
        progress.note(f"{adapter} does not say which base it is for; {original} is taken for it")
    if not base or str(base) == str(original):
        return
    if Path(base).is_dir() and Path(original).is_dir():
        if Path(base).resolve() == Path(original).resolve() or _sampled(base) == _sampled(original):
            return
    elif not Path(base).is_dir() and Path(base).name.lower() == Path(original).name.lower():
        progress.note(f"{adapter} is for {base}, which is not here; {original} is taken for it by its name")
        return
    raise ModelError(
        f"{adapter} is an adapter for {base}, not for {original}; give its base as the original, or, if they are "
        f"the same model, write {original} as base_model_name_or_path into its {CONFIG}"
    )


def require_adapter_weights(path: str | Path) -> None:
    """Raise ModelError if an adapter has no safetensors, or damaged ones."""
    file = local_file(path, WEIGHTS)
    if file is None:
        raise ModelError(f"{path}: the adapter has no {WEIGHTS}; uwc reads weights in this format only")
    open_safetensors(file)


def _sampled(path: str | Path) -> str:
    """A hash of the checkpoint's weights from samples spread over its files; fine-tuning changes every one of them."""
    digest = hashlib.sha256()
    for name in WeightFiles(path).files:
        file = local_file(path, name)
        if file is None:
            continue
        size = file.stat().st_size
        with file.open("rb") as stream:
            for i in range(_SAMPLES):
                stream.seek(size * i // _SAMPLES)
                digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def attach_adapter(base: Target, path: str | Path) -> Target:
    """The base with the adapter on it, as a peft model that shares the base's weights.

    Raises:
        ModelError: peft is not installed, or the adapter does not fit this model.
    """
    try:
        from peft import PeftModel
    except ImportError:
        raise ModelError(f"{path} is an adapter, which needs peft; install it with: pip install peft") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of transformers, about a name that peft uses
            model = PeftModel.from_pretrained(base.model, str(path))
    except Exception as error:  # peft, safetensors and torch raise many kinds
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"the adapter {path} does not fit the model {base.name}: {reason}") from error
    return replace(base, model=model.eval(), name=Path(path).name)


def merged(base: Target, path: str | Path) -> Target:
    """The base's weights with the adapter's update added, in place. Raises ModelError if it cannot be merged."""
    attached = attach_adapter(base, path)
    if not hasattr(attached.model, "merge_and_unload"):
        raise ModelError(f"{path} is an adapter that is no change of weights; only such models can be mixed")
    return merge_adapter(attached)


class AdapterMixer:
    """Mixing an original and its plain LoRA adapter by the adapter's scale: nothing is copied or read again.

    ``(1 - alpha) W + alpha (W + s B A) = W + alpha s B A``.

    Args:
        original: the model before unlearning; the adapter is put into it.
        path: the adapter's folder or hub name; see `is_scale_enough`.

    Raises:
        ModelError: peft is not installed, the adapter does not fit this model, or a weight is not finite.
    """

    def __init__(self, original: Target, path: str | Path) -> None:
        self.path, self.original = path, original
        self.attached = attach_adapter(original, path)
        for name, weight in self.attached.model.named_parameters():
            require_finite(name, weight.detach(), model=str(path) if "lora_" in name else original.name)
        self._layers = [m for m in self.attached.model.modules() if hasattr(m, "set_scale") and hasattr(m, "scaling")]

    def mix(self, alpha: float) -> Target:
        """The original with alpha times the adapter. Raises ValueError if alpha is outside 0..1."""
        require_alpha(alpha)
        for layer in self._layers:
            for adapter in layer.scaling:
                layer.set_scale(adapter, alpha)
        return self.original


def save_scaled(path: str | Path, folder: Path, alpha: float) -> None:
    """Write the adapter with alpha times its scale; its weights are copied as they are.

    Raises:
        ModelError: the adapter's files are not there.
    """
    config, weights = adapter_config(path), local_file(path, WEIGHTS)
    if config is None or weights is None:
        raise ModelError(f"{path}: the adapter needs {CONFIG} and {WEIGHTS}")
    config["lora_alpha"] = alpha * config["lora_alpha"]
    config["alpha_pattern"] = {name: alpha * value for name, value in (config.get("alpha_pattern") or {}).items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(weights, folder / WEIGHTS)
