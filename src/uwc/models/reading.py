"""Readings: the tokenizer, prompt template and end tokens that all models of a comparison share with the original."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from uwc import progress
from uwc.data.prompts import PromptTemplate, end_ids
from uwc.errors import ModelError, brief, is_failure
from uwc.models.adapters import adapter_config, named_base
from uwc.models.checkpoint_files import (
    CONFIG,
    GENERATION,
    kind_of,
    loading_failed,
    model_config,
    read_json,
    require_token_ids,
    require_tokenizer_config,
)
from uwc.models.model import Model

_PROBES = (
    "Question: Where was Mira Oln born?\nAnswer: In Quarnholt (1961-07-13), e.g. near 12,345.67 km²!\n\n",
    "  naïve café, Jörg Müßig's \t tabs;  двор Ελλάδα 北京市の天気 สวัสดี हिन्दी العربية 🙂👍🏽 ﬁ Ⅷ \uff21\uff22\uff11",
    "def f(x):\n    return [i for i in range(0x10)]  # don't\r\nHTTP://ÉCOLE.example/?q=a%20b#c",
)
"""Texts for comparing two tokenizers."""
_PLAIN = "Where is it? In the north."
"""A text that every tokenizer must encode and decode."""


@dataclass(frozen=True)
class Reading:
    """A tokenizer with its prompt template and the tokens that end a model's turn.

    Attributes:
        tokenizer: a transformers tokenizer.
        template: the prompt template.
        ends: the tokens that end the model's turn, independent of the template.
        name: the model's name, for messages.
    """

    tokenizer: Any
    template: PromptTemplate
    ends: tuple[int, ...]
    name: str

    @classmethod
    def of(cls, model: Model) -> "Reading":
        """The reading of a model."""
        return cls(model.tokenizer, model.template, model.end_ids, model.name)


def load_reading(
    path: str | Path, *, template: PromptTemplate | None = None, trust_remote_code: bool = False
) -> Reading:
    """The reading of a checkpoint, from its tokenizer and configurations alone.

    Raises:
        ModelError: there is no such checkpoint, or it has no tokenizer that can be read.
        ConfigError: its prompts do not use the date or an argument of the template.
    """
    where, kind = str(path), kind_of(path)
    whole = named_base(where, adapter_config(where) or {}) if kind == "adapter" else where
    tokenizer, template = load_tokenizer(where, whole, trust_remote_code), template or PromptTemplate()
    template.require_used(tokenizer)
    generation = _generation_config(str(Path(where) / "base") if kind == "contrast" else whole, trust_remote_code)
    return Reading(tokenizer, template, end_ids(tokenizer, generation), where)


def load_both(
    original: str | Path, other: str | Path, *, trust_remote_code: bool = False
) -> tuple[Reading, Reading | None]:
    """The readings of two checkpoints; None for the second if it has no readable tokenizer.

    An adapter has the ends of the first.
    """
    ours = load_reading(original, trust_remote_code=trust_remote_code)
    try:
        theirs = load_reading(other, trust_remote_code=trust_remote_code)
    except ModelError:
        return ours, None
    return ours, replace(theirs, ends=ours.ends) if kind_of(other) == "adapter" else theirs


def load_tokenizer(where: str, other: str | None, trust_remote_code: bool, *, needed: bool = True) -> Any:
    """A checkpoint's tokenizer or, if it has none, that of `other`; None if it is not `needed`.

    Raises:
        ModelError: there is no readable tokenizer.
    """
    require_tokenizer_config(where)
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=trust_remote_code)
        tokenizer.decode(tokenizer(_PLAIN)["input_ids"])
        return tokenizer
    except BaseException as error:  # a folder without a tokenizer: transformers raises many kinds
        if not is_failure(error):
            raise
        if read_json(where, CONFIG):
            model_config(where, trust_remote_code=trust_remote_code)  # if that is the reason, it is named
        if other is not None and other != where:
            return load_tokenizer(other, None, trust_remote_code)
        if needed:
            raise ModelError(loading_failed(where, error, what="tokenizer of the model")) from error
        return None


def _generation_config(where: str, trust_remote_code: bool) -> Any:
    """The generation configuration that transformers would use: from its file, or else from config.json."""
    require_token_ids(where)
    try:
        return GenerationConfig.from_pretrained(where)
    except OSError:
        try:
            config = AutoConfig.from_pretrained(where, trust_remote_code=trust_remote_code)
        except Exception:  # an unreadable configuration is reported when weights are loaded
            return None
        return GenerationConfig.from_model_config(config)
    except Exception as error:  # transformers raises many kinds
        reason = brief(str(error), 200)
        raise ModelError(f"{where}: {GENERATION} cannot be read ({reason}); correct or remove it") from error


def read_as(model: Model, reading: Reading, *, path: str = "") -> Model:
    """The model with the reading of another one; a warning names the differences to its own.

    Args:
        model: the model; without a tokenizer nothing is compared.
        reading: the other model's reading.
        path: the model's name in messages; its own name by default.

    Raises:
        ModelError: a token has another id in the model's own tokenizer, or the model has no embedding for a token.
    """
    if model.tokenizer is None:
        progress.note(f"{path or model.name} has no tokenizer of its own that can be read; {reading.name}'s is used")
    elif model.tokenizer is not reading.tokenizer:
        compare_readings(Reading(model.tokenizer, model.template, model.end_ids, path or model.name), reading)
    _require_embeddings(model, reading)
    return model.reading(reading.tokenizer, reading.template, reading.ends)


def compare_readings(own: Reading, other: Reading) -> None:
    """Warn of the differences between a model's own reading and the one that is used.

    Raises:
        ModelError: a token has different ids in the two.
    """
    require_same_ids(own.tokenizer.get_vocab(), other.tokenizer.get_vocab(), names=(other.name, own.name))
    if different := differences(own, other):
        progress.warn(
            f"{own.name} has {'; '.join(different)}; it is read with the tokenizer and the prompt of {other.name}"
        )


def require_same_ids(theirs: Mapping[str, int], ours: Mapping[str, int], *, names: tuple[str, str]) -> None:
    """Raise ModelError if a token has different ids in two vocabularies, or each lacks tokens of the other."""
    moved = next((t for t, i in sorted(ours.items(), key=lambda p: p[1]) if theirs.get(t, i) != i), None)
    if moved is not None:
        raise ModelError(
            f"{names[0]} and {names[1]} have different tokenizers: {moved!r} is token {ours[moved]} in one and "
            f"{theirs[moved]} in the other; compare checkpoints of one model"
        )
    shared = len(ours.keys() & theirs.keys())
    if shared < min(len(ours), len(theirs)):
        foreign = min(ours.keys() - theirs.keys())
        raise ModelError(
            f"{names[0]} and {names[1]} have different tokenizers: {len(ours) - shared} tokens of the one are not in "
            f"the other, such as {foreign!r}; compare checkpoints of one model"
        )


def differences(own: Reading, other: Reading) -> list[str]:
    """The differences of a reading from another one, in words; token ids are assumed to be equal."""
    ours, theirs = own.tokenizer, other.tokenizer
    found = [] if own.template == other.template else ["another prompt"]
    if own.template.uses_chat(ours) or other.template.uses_chat(theirs):
        templates = [_chat_template(t) for t in (ours, theirs)]
        if templates[0] != templates[1]:
            found.append("no chat template" if not templates[0] else "another chat template")
    added, lacking = (
        ours.get_vocab().keys() - theirs.get_vocab().keys(),
        theirs.get_vocab().keys() - ours.get_vocab().keys(),
    )
    if added:
        found.append(f"{len(added)} tokens more (such as {min(added)!r})")
    if lacking:
        found.append(f"{len(lacking)} tokens fewer (without {min(lacking)!r})")
    for kind, name in (("eos_token", "end-of-sequence token"), ("bos_token", "beginning-of-sequence token")):
        if getattr(ours, kind) != getattr(theirs, kind):
            found.append(f"{getattr(ours, kind)!r} as {name} instead of {getattr(theirs, kind)!r}")
    if set(own.ends) != set(other.ends) and ours.eos_token == theirs.eos_token:
        named = [theirs.convert_ids_to_tokens(sorted(ends)) for ends in (own.ends, other.ends)]
        found.append(f"the ends {named[0]} instead of {named[1]}")
    if _merges(ours) != _merges(theirs):
        found.append("other merges")
    elif any(ours(text)["input_ids"] != theirs(text)["input_ids"] for text in _PROBES):
        kinds = " instead of ".join(type(t).__name__ for t in (ours, theirs))
        same = type(ours) is type(theirs)
        found.append(f"a tokenizer that splits texts differently{'' if same else f' ({kinds})'}")
    return found


def _chat_template(tokenizer: Any) -> str:
    template = getattr(tokenizer, "chat_template", None) or ""
    return json.dumps(template, sort_keys=True) if template else ""


def _merges(tokenizer: Any) -> Any:
    """The merges of a byte-pair tokenizer; None for others."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return None if backend is None else json.loads(backend.to_str())["model"].get("merges")


def _require_embeddings(model: Model, reading: Reading) -> None:
    """Raise ModelError if the tokenizer has tokens without an embedding in the model."""
    rows = int(model.model.get_input_embeddings().weight.shape[0])
    largest, token = max((index, token) for token, index in reading.tokenizer.get_vocab().items())
    if largest >= rows:
        raise ModelError(
            f"{model.name} has embeddings for {rows} tokens, and the tokenizer of {reading.name} has {largest + 1} "
            f"({token!r} is token {largest}); give the tokenizer that the model was trained with"
        )
