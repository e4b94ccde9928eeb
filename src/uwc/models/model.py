"""A model with its tokenizer and prompt template, and the options of loading one."""

import copy
import re
import sys
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import AfterValidator

from uwc.data.batches import group_by_length
from uwc.data.example import Example
from uwc.data.prompts import EncodedExample, PromptTemplate, added_tokens, end_ids
from uwc.errors import AttackFailed, ConfigError
from uwc.io import IF_GIVEN
from uwc.registry import require_one_of, unknown_name

if TYPE_CHECKING:
    import torch

    from uwc.models.endpoint import Draw
    from uwc.models.reading import Reading

FALLBACK_CONTEXT = 2048

MAP = "map"
"""The device that lets accelerate place a model over all devices."""
_DEVICES = ("auto", "cpu", "cuda", "mps", MAP)
_SIZE = re.compile(r"\d+(\.\d+)?\s*[KMG]i?B", re.IGNORECASE)


def device_name(given: str) -> str:
    """The given name of a device. Raises ValueError if there is no such name; whether there is such a device is checked
    when it is used."""
    if given not in _DEVICES and cuda_index(given) is None:
        raise ValueError(unknown_name("device", given, [*_DEVICES, "cuda:1"]))
    return given


def cuda_index(name: str) -> int | None:
    """The number in ``cuda:1``; None for another name."""
    number = re.fullmatch(r"cuda:(\d{1,4})", name, re.ASCII)
    return int(number[1]) if number else None


def require_max_memory(given: "MaxMemory", device: str) -> None:
    """Raise ConfigError if the most memory by device is malformed, or has no effect with this device."""
    if given and device != MAP:
        raise ConfigError(f"max_memory has no effect with device = {device}; set device to {MAP}, or leave it out")
    for name, size in given.items():
        if name not in ("cpu", "mps") and cuda_index(name) is None:
            raise ConfigError(f"max_memory: unknown device {name!r}; give cpu, mps, or cuda:0, cuda:1, ...")
        if not (_SIZE.fullmatch(size) if isinstance(size, str) else size >= 0):
            raise ConfigError(f"max_memory: {name} has {size!r}; give bytes, or a size such as 20GB or 800MB")


DeviceName = Annotated[str, AfterValidator(device_name)]
"""Where to compute: auto (CUDA, else MPS, else the CPU), cpu, cuda, cuda:1, mps, or map (over all devices)."""
MaxMemory = Mapping[str, str | int]
"""Device -> the most memory that weights take: bytes, or a size such as 20GB."""

Rewrite = Callable[[Example], Example]
Edit = Callable[[EncodedExample], EncodedExample]


Dtype = Literal["float32", "bfloat16", "float16", "auto"]
"""The precision of weights in memory; "auto" is the checkpoint's own."""
Sharing = Literal["padded", "equal", "alone"]


@dataclass(frozen=True)
class Batching:
    """Which sequences may share a forward pass.

    Attributes:
        scored: in scoring, with padding on the right: "padded" is any, "equal" those of one length, "alone" none.
        continued: the same in generation, with padding on the left.
        switch: the length in tokens beyond which the model uses other position factors (longrope) for a whole batch;
            sequences on both sides of it never share a forward pass.
    """

    scored: Sharing = "padded"
    continued: Sharing = "padded"
    switch: int | None = None

    def kinds(self, lengths: Sequence[int]) -> list[Hashable]:
        """A label for each scored sequence; sequences with equal labels may share a forward pass."""
        return [(self._side(n), _label(self.scored, i, n)) for i, n in enumerate(lengths)]

    def prompt_kinds(self, lengths: Sequence[int], *, new: int) -> list[Hashable]:
        """The same for prompts that are continued by up to `new` tokens."""
        crossing = [self._side(n) != self._side(n + new) for n in lengths]
        return [
            (self._side(n), _label("alone" if crossing[i] else self.continued, i, n)) for i, n in enumerate(lengths)
        ]

    def share(self, lengths: Sequence[int]) -> bool:
        """Whether these sequences may all be scored in one forward pass."""
        return len(set(self.kinds(lengths))) <= 1

    def lengthened(self, by: int) -> "Batching":
        """The same for sequences to which the model itself adds `by` tokens."""
        return self if self.switch is None else replace(self, switch=self.switch - by)

    def _side(self, length: int) -> bool:
        return self.switch is not None and length > self.switch


def _label(sharing: Sharing, index: int, length: int) -> Hashable:
    labels: dict[Sharing, Hashable] = {"padded": (), "equal": (length,), "alone": (length, index)}
    return labels[sharing]


@dataclass(frozen=True)
class Model:
    """A causal language model with its tokenizer and prompt template.

    Attributes:
        model: a transformers causal language model.
        tokenizer: its tokenizer.
        template: the prompt template.
        name: its name in messages and reports.
        rewrites: functions that are applied to each example before it is encoded, in order.
        edits: functions that are applied to each encoded example, in order; they keep its id.
        ends: the tokens that end the model's turn; by default those of its tokenizer and generation configuration.
        batching: which sequences may share a forward pass; tested on first use by default.
    """

    model: Any
    tokenizer: Any
    template: PromptTemplate = field(default_factory=PromptTemplate)
    name: str = "model"
    rewrites: tuple[Rewrite, ...] = ()
    edits: tuple[Edit, ...] = ()
    ends: tuple[int, ...] | None = None
    batching: Batching | None = None

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The tokens that end the model's turn, independent of the template."""
        if self.ends is not None:
            return self.ends
        return end_ids(self.tokenizer, getattr(self.model, "generation_config", None))

    @property
    def device(self) -> "torch.device":
        """The device of the weights."""
        from uwc.models.placement import device_of

        return device_of(self.model)

    @property
    def context_length(self) -> int:
        """The longest sequence, in tokens; 2048 if the configuration has no such value."""
        return context_length(self.model.config)

    def sharing(self) -> Batching:
        """Which sequences may share a forward pass of the model.

        Raises:
            ModelError: it is not a causal language model.
        """
        from uwc.models.batching import examined

        if self.batching is None:
            object.__setattr__(self, "batching", examined(self.model, self.name))
        return self.batching or Batching()

    def reading(self, tokenizer: Any, template: PromptTemplate, ends: tuple[int, ...]) -> "Model":
        """The same model with another tokenizer, prompt template and tokens that end its turn."""
        return replace(self, tokenizer=tokenizer, template=template, ends=ends)

    def rewritten(self, rewrite: Rewrite) -> "Model":
        """The same model with `rewrite` added after its rewrites."""
        return replace(self, rewrites=(*self.rewrites, rewrite))

    def edited(self, edit: Edit) -> "Model":
        """The same model with `edit` added after its edits."""
        return replace(self, edits=(*self.edits, edit))

    def rewrite(self, examples: Sequence[Example]) -> list[Example]:
        """The examples after all rewrites."""
        for rewrite in self.rewrites:
            examples = [rewrite(e) for e in examples]
        return list(examples)

    def encode(self, examples: Sequence[Example]) -> list[EncodedExample]:
        """Encode examples for this model. Raises DataError if one does not fit into its context, or AttackFailed if it
        does not as an attack puts it."""
        examples, attacked = self.rewrite(examples), bool(self.rewrites or self.edits)
        most = sys.maxsize if attacked else self.context_length
        encoded = self.template.encode(examples, self.tokenizer, max_length=most, ends=self.end_ids)
        for edit in self.edits:
            encoded = [edit(e) for e in encoded]
        for example in encoded if attacked else ():
            if len(example.tokens) > self.context_length:
                raise AttackFailed(
                    f"example {example.id!r}, as the attack puts it, has {len(example.tokens)} tokens, more than the "
                    f"model's context of {self.context_length}; weaken the attack (fewer shots), or leave it out"
                )
        return encoded

    def inputs(self, examples: Sequence[Example]) -> Sequence[object]:
        """All that the model gets for the examples, to be compared under an attack."""
        return self.encode(examples)

    def answers(
        self, examples: Sequence[Example], *, max_new_tokens: int, draw: "Draw | None" = None
    ) -> tuple[str, ...]:
        """The answers that an attack reads: greedy ones, see `generate`, or one sample each, see `sample`.

        Args:
            examples: the questions.
            max_new_tokens: the most tokens of an answer.
            draw: how the answers are sampled; greedy ones if None.
        """
        if draw is None:
            from uwc.models.generation import generate

            return generate(self, examples, max_new_tokens=max_new_tokens).texts
        from uwc.models.samples import sample

        drawn = sample(
            self,
            examples,
            count=1,
            max_new_tokens=max_new_tokens,
            temperature=draw.temperature,
            top_p=draw.top_p,
            seed=draw.seed,
        )
        return tuple(text for (text,) in drawn.texts)

    def prompts(self, encoded: Sequence[EncodedExample]) -> tuple[str, ...]:
        """The texts that generated answers continue, with special tokens, as the model reads them."""
        return tuple(self.tokenizer.decode(list(e.before), clean_up_tokenization_spaces=False) for e in encoded)

    def groups(self, encoded: Sequence[EncodedExample], *, token_budget: int, batch_cost: int = 64) -> list[list[int]]:
        """Indices of encoded examples in batches that may share a forward pass; see `group_by_length`."""
        lengths = [len(e.tokens) for e in encoded]
        kinds = self.sharing().kinds(lengths)
        return group_by_length(lengths, token_budget=token_budget, batch_cost=batch_cost, kinds=kinds)

    def stops(self, encoded: Iterable[EncodedExample]) -> list[int]:
        """The tokens that end a generated answer: `end_ids`, and those that end the turns of encoded examples."""
        written = {e.tokens[-1] for e in encoded if e.end < len(e.tokens)}
        return sorted({*self.end_ids, *(written & added_tokens(self.tokenizer))})


def context_length(config: Any) -> int:
    """The longest sequence of a model, in tokens; 2048 if its configuration has no such value."""
    length = int(getattr(config.get_text_config(), "max_position_embeddings", None) or 0)
    return length if length > 0 else FALLBACK_CONTEXT


ModelLike = str | Path | Model
"""A folder, a hub name, or a model in memory."""
Prompt = PromptTemplate | str | None
"""A prompt template, or a text with ``{question}`` that replaces the tokenizer's chat template."""


@dataclass(frozen=True)
class Loading:
    """Options of loading models from a folder or the hub; a model in memory is used unchanged.

    Attributes:
        dtype: the precision of the weights in memory: float32, bfloat16, float16, or auto for the checkpoint's own.
        device: where to compute: auto (CUDA, else MPS, else the CPU), cpu, cuda, cuda:1, mps, or map: accelerate places
            the model over all devices, then main memory, then its files.
        prompt: the prompt template; by default the tokenizer's chat template if there is one.
        trust_remote_code: run Python code of a checkpoint.
        max_memory: with the device map, device (cuda:0, cpu) -> the most memory of weights there (20GB, or bytes);
            other devices get none. By default what is free.
        dequantize: give checkpoints that are stored quantised (bitsandbytes, compressed-tensors, GPTQ, AWQ) plain
            weights in `dtype`, so that they can be attacked on their weights, mixed and trained.

    Raises:
        ConfigError: a value is unknown, or the prompt has no ``{question}``.
    """

    dtype: Dtype = "float32"
    device: DeviceName = "auto"
    prompt: Prompt = None
    trust_remote_code: bool = False
    max_memory: MaxMemory | None = field(default=None, metadata=IF_GIVEN)
    dequantize: bool = field(default=False, metadata=IF_GIVEN)

    def __post_init__(self) -> None:
        require_one_of("dtype", self.dtype, get_args(Dtype))
        try:
            device_name(self.device)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        require_max_memory(self.max_memory or {}, self.device)
        _ = self.template

    @property
    def template(self) -> PromptTemplate | None:
        """The prompt as a template."""
        return PromptTemplate(text=self.prompt, chat=False) if isinstance(self.prompt, str) else self.prompt

    def options(self) -> dict[str, Any]:
        """The options of `load_model`."""
        return {
            "dtype": self.dtype,
            "device": self.device,
            "template": self.template,
            "trust_remote_code": self.trust_remote_code,
            "max_memory": self.max_memory,
            "dequantize": self.dequantize,
        }

    def used_by(self, *models: ModelLike | None) -> "Loading":
        """The same options. Raises ConfigError if `dequantize` has no effect on these models."""
        paths = [str(model) for model in models if isinstance(model, str | Path)]
        if self.dequantize:
            from uwc.models.load import is_stored_quantised

            if not any(map(is_stored_quantised, paths)):
                raise ConfigError(
                    f"dequantize has no effect: none of the checkpoints ({', '.join(paths) or 'none is given'}) is "
                    "stored quantised; leave it out"
                )
        return self

    def reading(self, model: ModelLike) -> "Reading":
        """The reading of a model; weights of a path or hub name are not loaded."""
        from uwc.models.reading import Reading, load_reading

        if isinstance(model, Model):
            return Reading.of(model)
        return load_reading(model, template=self.template, trust_remote_code=self.trust_remote_code)

    def load(self, model: ModelLike, reading: "Reading | None" = None, *, base: ModelLike | None = None) -> Model:
        """The loaded model, with the given reading or its own; an adapter that names no base is attached to `base`, if
        that is a folder or hub name."""
        from uwc.models.load import load_model
        from uwc.models.reading import read_as

        if not isinstance(model, Model):
            named = None if isinstance(base, Model) else base
            return load_model(model, reading=reading, base=named, **self.options())
        return model if reading is None else read_as(model, reading)

    def plain(self, model: ModelLike, reading: "Reading | None" = None, *, base: ModelLike | None = None) -> Model:
        """`load` with an adapter merged into its base; a model in memory is copied first.

        Raises:
            ModelError: the adapter cannot be merged.
        """
        from uwc.models.adapters import merge_adapter

        return merge_adapter(self.load(model, reading, base=base), keep=isinstance(model, Model))

    def own(self, model: ModelLike, reading: "Reading | None" = None) -> Model:
        """`plain` with weights that may be changed; a model in memory is copied."""
        plain = self.plain(model, reading)
        if isinstance(model, Model) and plain.model is model.model:
            return replace(plain, model=copy.deepcopy(plain.model))
        return plain


def name_of(model: ModelLike) -> str:
    """The model's name in results."""
    return model.name if isinstance(model, Model) else str(model)
