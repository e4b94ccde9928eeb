"""Judges of generated texts: sentence encoders, and models of natural-language inference."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from uwc.errors import ModelError
from uwc.models.load import pick_device
from uwc.models.model import DeviceName

BATCH = 64
LONGEST = 256


def load_encoder(path: str | Path, *, device: DeviceName = "auto") -> Callable[[Sequence[str]], NDArray[np.float64]]:
    """A sentence encoder: n texts to [n, d] embeddings, the mean of the last layer's states over a text's tokens.

    Args:
        path: a folder or hub name, such as ``"sentence-transformers/all-MiniLM-L6-v2"``.
        device: where to compute.

    Raises:
        ModelError: there is no such model.
    """
    tokenizer, model = _load(AutoModel, path, device)

    @torch.inference_mode()
    def encode(texts: Sequence[str]) -> NDArray[np.float64]:
        parts = []
        for start in range(0, len(texts), BATCH):
            inputs = _tokens(tokenizer, model, list(texts[start : start + BATCH]))
            states, mask = model(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
            mean = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp_min(1)
            parts.append(mean.float().cpu().numpy().astype(np.float64))
        return np.concatenate(parts) if parts else np.zeros((0, 0))

    return encode


def load_entailment(
    path: str | Path, *, device: DeviceName = "auto"
) -> Callable[[Sequence[str], Sequence[str]], NDArray[np.bool_]]:
    """A model of natural-language inference: n premises and n hypotheses to [n] whether the first entails the second.

    Args:
        path: a folder or hub name, such as ``"sileod/deberta-v3-base-tasksource-nli"``.
        device: where to compute.

    Raises:
        ModelError: there is no such model, or none of its labels is called entailment.
    """
    tokenizer, model = _load(AutoModelForSequenceClassification, path, device)
    labels = {str(name).lower(): int(index) for index, name in model.config.id2label.items()}
    if "entailment" not in labels:
        raise ModelError(f"{path}: a model of entailment needs a label 'entailment'; it has {', '.join(labels)}")

    @torch.inference_mode()
    def entails(premises: Sequence[str], hypotheses: Sequence[str]) -> NDArray[np.bool_]:
        judged = []
        for start in range(0, len(premises), BATCH):
            part = slice(start, start + BATCH)
            inputs = _tokens(tokenizer, model, list(premises[part]), list(hypotheses[part]))
            judged += (model(**inputs).logits.argmax(dim=1) == labels["entailment"]).tolist()
        return np.array(judged, dtype=bool)

    return entails


def _load(kind: Any, path: str | Path, device: DeviceName) -> tuple[Any, Any]:
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path))
        model = kind.from_pretrained(str(path), use_safetensors=True)
    except Exception as error:  # transformers, the hub and safetensors raise many kinds
        reason = str(error).strip().split("\n")[0][:200]
        raise ModelError(f"cannot load {str(path)!r} to judge texts with: {reason}") from error
    return tokenizer, model.to(pick_device(device)).eval()


def _tokens(tokenizer: Any, model: Any, *texts: list[str]) -> Any:
    return tokenizer(*texts, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt").to(model.device)
