"""The files of a checkpoint that are read: those that transformers and peft read; ambiguous checkpoints are refused."""

import re
from dataclasses import dataclass
from functools import cache
from os.path import exists, isdir, isfile
from pathlib import Path
from typing import Any, Literal

from transformers import AutoConfig
from transformers.utils import cached_file
from transformers.utils.hub import has_file

from uwc import progress
from uwc.errors import ModelError, brief, shortened
from uwc.io import PARTIAL
from uwc.models import contrast
from uwc.strict import DECODER, what_is_wrong

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
CONFIG, TOKENIZER_CONFIG, GENERATION = "config.json", "tokenizer_config.json", "generation_config.json"
CONTRAST = contrast.FILE

_NAMED = "transformers_weights"
"""The key of config.json with the file of weights, which transformers prefers to any other."""
_DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
_TRAINERS_COPY = re.compile(r"checkpoint-\d+")
_VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
_SETTINGS = (".json", ".jinja", ".model", ".txt", ".tiktoken", ".vocab", ".bpe", ".spm")
"""Suffixes of the files besides the weights that affect results: configurations, tokenizer, template."""
_LOGS = ("training_log.json", "trainer_state.json", "all_results.json", "train_results.json", "eval_results.json")
"""Files with these suffixes that are not read in loading."""
_TEMPLATES = "additional_chat_templates"
SAVE_AS_SAFETENSORS = (
    "weights are read from safetensors only: load it where it was made, and save it with save_pretrained"
)
"""The fix for a checkpoint without such weights."""
KINDS = (CONFIG, ADAPTER, CONTRAST)
"""Files without one of which a folder is no model; they are written last, and removed first (see `written_whole`)."""
MODEL_FILES = (
    ADAPTER,
    CONTRAST,
    "*.safetensors",
    "*.safetensors.index.json",
    CONFIG,
    GENERATION,
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    *_VOCABULARIES,
    "chat_template*",
    _TEMPLATES,
)
"""Patterns of the files that make a folder a model, or would be read with one that is written there."""


Kind = Literal["model", "adapter", "contrast"]


@dataclass(frozen=True)
class Contents:
    """The kind of a checkpoint and its files of weights.

    Attributes:
        kind: whole weights, an adapter on a base, or a contrast of two models in sub-folders.
        weights: names of safetensors files, relative to the checkpoint; none for a contrast.
        index: the file that lists the shards, if there are several.
    """

    kind: Kind
    weights: tuple[str, ...]
    index: str | None = None


def local_file(path: str | Path, file: str) -> Path | None:
    """A checkpoint's file on this machine, fetched if the path is a hub name; None if the checkpoint has no such file.

    Raises:
        ModelError: there is no such checkpoint.
    """
    try:
        found = cached_file(
            str(path),
            file,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        )
    except OSError as error:
        raise _no_model(path) from error
    return None if found is None else Path(found)


def contents(path: str | Path) -> Contents:
    """The files of weights of a checkpoint; used by everything that reads weights.

    As in transformers: the file that config.json names (``transformers_weights``), else model.safetensors, else the
    shards of model.safetensors.index.json; other safetensors are not read. A folder with adapter_config.json is an
    adapter, one with contrast.json a contrast.

    Raises:
        ModelError: there is no model, there are two kinds of model, or the index lists files that are missing or
            outside of the checkpoint.
    """
    where, folder, kind = str(path), Path(path), kind_of(path)
    if kind == "contrast":
        return Contents(kind, ())
    if kind == "adapter":
        _note_nested(where, folder, ADAPTER)
        if not _has(where, ADAPTER_WEIGHTS):
            raise ModelError(f"{where}: the adapter has no {ADAPTER_WEIGHTS}; {SAVE_AS_SAFETENSORS}")
        return Contents(kind, (ADAPTER_WEIGHTS,))
    named, whole = _named_weights(where), _first_of_whole(where)
    if named is not None and whole != named:
        raise ModelError(
            f"{where}: {CONFIG} names {named!r} as its weights ({_NAMED}), which is missing; fetch or save the model "
            "again"
        )
    if whole is None:
        raise _nothing_to_read(where, folder)
    return _whole(where, folder, whole)


def kind_of(path: str | Path) -> Kind:
    """The kind of a checkpoint, without reading weights; "model" by default.

    Raises:
        ModelError: the path is a file, or the folder holds two kinds of model.
    """
    where, folder = str(path), Path(path)
    if exists(where) and not isdir(where):
        raise ModelError(f"{where}: not a folder; give the folder that holds {CONFIG} and the weights")
    if is_incomplete(folder):
        raise ModelError(f"{where}: writing this model was interrupted; run the command that writes it again")
    whole = _first_of_whole(where)
    there = {CONTRAST: isfile(folder / CONTRAST), ADAPTER: _has(where, ADAPTER), whole or SINGLE: whole is not None}
    several = [file for file in there if there[file]]
    if len(several) > 1:
        raise _two_models(where, several)
    return "contrast" if there[CONTRAST] else "adapter" if there[ADAPTER] else "model"


def is_incomplete(folder: Path) -> bool:
    """Whether a folder has no model but what an interrupted `uwc.io.written_whole` left of one."""
    return exists(folder / PARTIAL) and not any(exists(folder / name) for name in KINDS)


def _first_of_whole(where: str) -> str | None:
    """The file that whole weights are read from: the one that config.json names, the single one, or the index."""
    return next((f for f in (_named_weights(where), SINGLE, INDEX) if f is not None and _has(where, f)), None)


def _whole(where: str, folder: Path, file: str) -> Contents:
    """The files of whole weights, given the first of them; raises ModelError if there are further weights."""
    for other in sorted(f.name for f in folder.glob("*.safetensors") if _DISTRIBUTED.fullmatch(f.name)):
        raise ModelError(
            f"{where}: transformers reads {other}, a part of a distributed checkpoint, before {file}; remove one of "
            "the two, or save the model again with save_pretrained"
        )
    _note_nested(where, folder, file)
    for other in (SINGLE, INDEX):
        if other != file and isdir(where) and _has(where, other) and _is_complete(where, other):
            progress.warn(
                f"{where} holds two sets of weights: {file}, which is read, as transformers reads it, and {other}, "
                "which is not; remove the one that is out of date"
            )
    if file.endswith(".index.json"):
        return Contents("model", _shards(where, file), file)
    return Contents("model", (file,))


def _named_weights(where: str) -> str | None:
    """The file of weights that config.json names, if any; it must be inside the checkpoint."""
    named = read_json(where, CONFIG).get(_NAMED)
    if named is None:
        return None
    if not str(named).endswith((".safetensors", ".safetensors.index.json")) or _leaves(str(named)):
        raise ModelError(
            f"{where}: {CONFIG} names {named!r} as its weights ({_NAMED}); give a safetensors file inside the folder"
        )
    return str(named)


def _shards(where: str, index: str) -> tuple[str, ...]:
    """The files that an index names. Raises ModelError if one lies outside the checkpoint, or is missing."""
    content = read_json(where, index)
    places = content.get("weight_map")
    if not isinstance(places, dict) or not places or "metadata" not in content:
        raise ModelError(f"{where}: {index} is not an index of shards (weight_map and metadata); save the model again")
    files = sorted(set(map(str, places.values())))
    for file in files:
        if _leaves(file):
            raise ModelError(f"{where}: {index} names {file!r}, which lies outside the checkpoint; save it as a whole")
        if not _has(where, file):
            raise ModelError(f"{where}: the shard {file} is missing; fetch or save the model again")
    return tuple(files)


def _is_complete(where: str, file: str) -> bool:
    """Whether a file of weights that is not read is complete: for an index, whether all its shards exist."""
    try:
        return file != INDEX or bool(_shards(where, file))
    except ModelError:
        return False


def _leaves(file: str) -> bool:
    """Whether a relative name is outside of its folder."""
    return Path(file).is_absolute() or ".." in Path(file).parts or "\\" in file


def _has(where: str, file: str) -> bool:
    """Whether a checkpoint has a file, without fetching it. Raises ModelError if there is no such checkpoint."""
    return isfile(Path(where) / file) if isdir(where) else _on_the_hub(where, file)


@cache
def _on_the_hub(name: str, file: str) -> bool:
    """Whether a model on the hub has a file; cached."""
    try:
        return bool(has_file(name, file))
    except Exception as error:  # of the hub: each a class of its own
        raise _no_model(name) from error


def read_json(path: str | Path, file: str) -> dict[str, Any]:
    """The content of a checkpoint's JSON file; empty if there is none. Raises ModelError if it is damaged."""
    found = local_file(path, file)
    if found is None:
        return {}
    try:
        content = DECODER.decode(found.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{found}: damaged ({what_is_wrong(error)}); fetch or save it again") from error
    if not isinstance(content, dict):
        raise ModelError(f"{found}: damaged (not a JSON object); fetch or save it again")
    return content


def model_config(path: str | Path, *, trust_remote_code: bool = False) -> Any:
    """The configuration of a model. Raises ModelError, naming config.json, if transformers cannot read it."""
    known = read_json(path, CONFIG)
    try:
        return AutoConfig.from_pretrained(str(path), trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers and the hub raise many kinds
        if not known or "trust_remote_code" in str(error):
            raise ModelError(loading_failed(str(path), error)) from error
        reason = shortened(" ".join(str(error).split()) or type(error).__name__, 200)
        raise ModelError(f"{Path(path) / CONFIG}: damaged ({reason}); fetch or save it again") from error


def loading_failed(where: str, error: BaseException, *, what: str = "model") -> str:
    """The message for a model that cannot be loaded."""
    reason = str(error).strip().split("\n")[0][:200]
    if isinstance(error, KeyError):
        reason = f"its {CONFIG} names {reason}, which transformers does not know"
    if "trust_remote_code" in str(error):
        reason = (
            "it needs Python code of its own; if you trust its author, add --trust-remote-code (in Python "
            "trust_remote_code=True)"
        )
    elif isdir(where) and not list(Path(where).glob("*.safetensors")):
        reason = f"the folder holds no .safetensors file; {SAVE_AS_SAFETENSORS}"
    elif not exists(where):
        reason = f"there is no such folder, and no available model of that name on the hub ({reason})"
    elif what != "model":
        reason = f"put tokenizer.json and tokenizer_config.json into the folder ({reason.rstrip(':')})"
    return f"cannot load the {what} {where!r}: {reason}"


def require_token_ids(path: str | Path) -> None:
    """Raise ModelError unless the token ids in a checkpoint's configurations are whole numbers; of ends a list, too."""
    for file in (CONFIG, GENERATION):
        content = read_json(path, file)
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            value = content.get(key)
            ids = value if isinstance(value, list) and key == "eos_token_id" else [] if value is None else [value]
            if not all(type(i) is int and (i >= 0 or key == "pad_token_id") for i in ids):  # -1 stands for no padding
                raise ModelError(f"{path}: {file} has {key} = {brief(str(value))}; write the number of a token")


def require_tokenizer_config(path: str | Path) -> None:
    """Raise ModelError if a checkpoint has a vocabulary, but no tokenizer_config.json."""
    if _has(str(path), TOKENIZER_CONFIG):
        return
    for file in _VOCABULARIES:
        if _has(str(path), file):
            raise ModelError(
                f"{path}: it has {file}, but no {TOKENIZER_CONFIG}, without which its end token and chat template are "
                "lost; put the file there that belongs to it"
            )


def files_read(path: str | Path) -> list[str]:
    """The names of all files of a checkpoint that affect results, relative to its folder.

    Weights and index as `contents` finds them, configurations, tokenizer, chat templates and Python code; of a contrast
    those of both models.

    Raises:
        ModelError: as `contents`.
    """
    folder, found = Path(path), contents(path)
    if found.kind == "contrast":
        parts = [f"{part}/{file}" for part in contrast.PARTS for file in files_read(folder / part)]
    else:
        parts = [*found.weights, *([found.index] if found.index else [])]
    settings = [f.name for f in folder.iterdir() if f.suffix in _SETTINGS and f.name not in _LOGS]
    parts += [name for name in settings if not name.endswith(".safetensors.index.json")]
    parts += [f"{_TEMPLATES}/{f.name}" for f in (folder / _TEMPLATES).glob("*.jinja")]
    code = [f.relative_to(folder) for f in folder.rglob("*.py")]
    parts += [f.as_posix() for f in code if not any(part.startswith(".") for part in f.parts)]
    return sorted(set(parts))


def _no_model(path: str | Path) -> ModelError:
    return ModelError(
        f"{path}: there is no such folder, and no available model of that name on the hub; correct the name, or "
        "download the model"
    )


def _two_models(where: str, files: list[str]) -> ModelError:
    remedy = {
        CONTRAST: f"remove {CONTRAST}, or give an empty folder to what writes there",
        ADAPTER: f"if the adapter was merged into them, remove {ADAPTER} and {ADAPTER_WEIGHTS}; if it is meant, remove "
        f"{files[-1]}",
    }[files[0]]
    return ModelError(f"{where} holds two models, {' and '.join(files)}; {remedy}")


def _nested(folder: Path, *files: str) -> list[str]:
    """The sub-folders with one of the files; hidden ones, such as that of an interrupted write, are none."""
    names = {found.parent.name for file in files for found in folder.glob(f"*/{file}")}
    return sorted(name for name in names if not name.startswith("."))


def _note_nested(where: str, folder: Path, read: str) -> None:
    """Warn of adapters in sub-folders, which are not read, except for a trainer's checkpoints."""
    others = [name for name in _nested(folder, ADAPTER) if not _TRAINERS_COPY.fullmatch(name)]
    if others:
        progress.warn(f"{where}: {read} is read, and not the adapters in its folders {', '.join(others)}")


def _nothing_to_read(where: str, folder: Path) -> ModelError:
    if not isdir(where) and not _has(where, CONFIG):
        return _no_model(where)
    if adapters := _nested(folder, ADAPTER):
        return ModelError(
            f"{where} is not a model; it has adapters in its folders: {', '.join(adapters)}; give one "
            f"of them, such as {folder / adapters[0]}"
        )
    if models := _nested(folder, SINGLE, INDEX):
        return ModelError(
            f"{where} is not a model; its folders {', '.join(models)} are; give one of them, such as "
            f"{folder / models[0]}"
        )
    if _has(where, ADAPTER_WEIGHTS):
        return ModelError(
            f"{where}: it has {ADAPTER_WEIGHTS}, but no {ADAPTER} that says what kind of adapter it is; fetch or "
            "save it again"
        )
    if isdir(where) and not _has(where, CONFIG):
        return ModelError(f"{where}: there is no model in this folder: no {CONFIG} and no {SINGLE}; correct the path")
    return ModelError(f"{where}: no {SINGLE} and no {INDEX}; {SAVE_AS_SAFETENSORS}")
