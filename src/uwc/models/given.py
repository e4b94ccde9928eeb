"""Models given by users: a path, a hub name, or a model in memory."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from uwc.data.prompts import PromptTemplate
from uwc.models.loading import DeviceName, Dtype, load_target
from uwc.models.lora import merge_adapter
from uwc.models.reading import Reading, load_reading, read_as
from uwc.models.target import Target
from uwc.registry import require_one_of

Model = str | Path | Target
"""A folder, a hub name, or a model in memory."""
Prompt = PromptTemplate | str | None
"""A prompt template, or a text with ``{question}`` that replaces the tokenizer's chat template."""


@dataclass(frozen=True)
class Loading:
    """Options of loading models from a folder or the hub; a model in memory is used unchanged.

    Attributes:
        dtype: the precision of the weights in memory: float32, bfloat16 or float16.
        device: where to compute: auto, cpu, cuda or mps.
        prompt: the prompt template; by default the tokenizer's chat template if there is one.
        trust_remote_code: run Python code of a checkpoint.

    Raises:
        ConfigError: a value is unknown, or the prompt has no ``{question}``.
    """

    dtype: Dtype = "float32"
    device: DeviceName = "auto"
    prompt: Prompt = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        require_one_of("dtype", self.dtype, get_args(Dtype))
        require_one_of("device", self.device, get_args(DeviceName))
        _ = self.template

    @property
    def template(self) -> PromptTemplate | None:
        """The prompt as a template."""
        return PromptTemplate(text=self.prompt, chat=False) if isinstance(self.prompt, str) else self.prompt

    def options(self) -> dict[str, Any]:
        """The options of `load_target`."""
        return {
            "dtype": self.dtype,
            "device": self.device,
            "template": self.template,
            "trust_remote_code": self.trust_remote_code,
        }

    def reading(self, model: Model) -> Reading:
        """The reading of a model; weights of a path or hub name are not loaded."""
        if isinstance(model, Target):
            return Reading.of(model)
        return load_reading(model, template=self.template, trust_remote_code=self.trust_remote_code)

    def target(self, model: Model, reading: Reading | None = None) -> Target:
        """The loaded model, with the given reading or its own."""
        if not isinstance(model, Target):
            return load_target(model, reading=reading, **self.options())
        return model if reading is None else read_as(model, reading)

    def plain(self, model: Model, reading: Reading | None = None) -> Target:
        """`target` with an adapter merged into its base; a model in memory is copied first.

        Raises:
            ModelError: the adapter cannot be merged.
        """
        return merge_adapter(self.target(model, reading), keep=isinstance(model, Target))

    def own(self, model: Model, reading: Reading | None = None) -> Target:
        """`plain` with weights that may be changed; a model in memory is copied."""
        target = self.plain(model, reading)
        if isinstance(model, Target) and target.model is model.model:
            return replace(target, model=copy.deepcopy(target.model))
        return target


def name_of(model: Model) -> str:
    """The model's name in results."""
    return model.name if isinstance(model, Target) else str(model)
