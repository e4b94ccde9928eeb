"""Models and questions that a user has in memory, kept as files, so that work on them can be resumed."""

import hashlib
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from uwc.data.example import fingerprint
from uwc.data.question_files import Columns, Questions, examples_of
from uwc.errors import ConfigError


def kept_questions(questions: Questions, name: str, folder: Path, columns: Columns | None = None) -> str:
    """The path of a file of the questions; those in memory are written to the folder.

    Args:
        questions: the questions.
        name: the set; begins the file's name.
        folder: where questions are kept.
        columns: field -> column, for a table in memory.
    """
    if isinstance(questions, str | Path):
        return str(questions)
    examples = examples_of(questions, name=name, columns=columns)
    rows = [{k: v for k, v in asdict(e).items() if k != "split" and v} for e in examples]
    path = folder / "data" / f"{name}-{fingerprint(examples)[:16]}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def kept_model(model: Any, folder: Path, template: Any | None) -> str:
    """A path or hub name as it is; a `Model` in memory is written to the folder, under a hash of its content.

    Args:
        model: a path, a hub name or a `Model`.
        folder: where models are kept.
        template: the prompt template of the comparison.

    Raises:
        ConfigError: the model is asked in another way than the others, or is changed by an attack.
        DiskFull: no space was left.
    """
    if isinstance(model, str | Path):
        return str(model)
    from uwc.models.load import save_model
    from uwc.models.lora import merge_adapter

    if model.rewrites or model.edits:
        raise ConfigError(f"the model {model.name!r} has an attack on its prompts; compare the model itself")
    if template is not None and model.template != template:
        raise ConfigError(f"the model {model.name!r} has another prompt template than the original; give all one")
    path = folder / "models" / _content_hash(model)[:16]
    if not path.exists():
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        save_model(merge_adapter(model, keep=True), beside)
        os.replace(beside, path)
    return str(path)


def precision_of(model: Any) -> str:
    """The precision of a model in memory; float32 for one that is yet to be loaded."""
    return "float32" if isinstance(model, str | Path) else str(model.model.dtype).removeprefix("torch.")


def _content_hash(model: Any) -> str:
    """SHA-256 (hex) over the names and bytes of all tensors, the configuration and the tokenizer."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in model.model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    digest.update(model.model.config.to_json_string().encode())
    digest.update(json.dumps(model.tokenizer.get_vocab(), sort_keys=True).encode())
    digest.update(str(getattr(model.tokenizer, "chat_template", "")).encode())
    return digest.hexdigest()
