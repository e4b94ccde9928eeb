"""Judges of generated texts: sentence encoders, models of natural-language inference, classifiers, language models."""

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from uwc.data.example import Example, Variant, with_variants
from uwc.data.prompts import PromptTemplate
from uwc.errors import ModelError
from uwc.models.checkpoint_files import CONFIG, read_json
from uwc.models.double import in_double
from uwc.models.load import load_model, pick_device
from uwc.models.model import DeviceName, Model
from uwc.models.scoring import score_tokens

BATCH = 64
VERDICT_TOKENS = 8
"""The most tokens of a verdict in words."""
_WORD = re.compile(r"\w+")
LONGEST = 256
AS_IT_IS = PromptTemplate(text="{question}")
"""The prompt template of a language model that judges: its chat template if it has one, otherwise the prompt alone."""


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


@dataclass(frozen=True)
class Inference:
    """A model of natural-language inference.

    Attributes:
        path: its folder or hub name.
        labels: its labels in small letters.
        predict: a function from n premises and n hypotheses to [n] indices of labels.
    """

    path: str
    labels: tuple[str, ...]
    predict: Callable[[Sequence[str], Sequence[str]], NDArray[np.int64]]

    def finds(self, label: str) -> Callable[[Sequence[str], Sequence[str]], NDArray[np.bool_]]:
        """The function from n premises and n hypotheses to [n] whether the model's first choice is a label.

        Raises:
            ModelError: it has no such label.
        """
        if label not in self.labels:
            raise _no_label(self.path, label, self.labels, label)
        index = self.labels.index(label)

        def finds(premises: Sequence[str], hypotheses: Sequence[str]) -> NDArray[np.bool_]:
            return np.asarray(self.predict(premises, hypotheses) == index, dtype=bool)

        return finds


def load_inference(path: str | Path, *, device: DeviceName = "auto") -> Inference:
    """A model of natural-language inference.

    Args:
        path: a folder or hub name, such as ``"sileod/deberta-v3-base-tasksource-nli"``.
        device: where to compute.

    Raises:
        ModelError: there is no such model.
    """
    tokenizer, model = _load(AutoModelForSequenceClassification, path, device)

    @torch.inference_mode()
    def predict(premises: Sequence[str], hypotheses: Sequence[str]) -> NDArray[np.int64]:
        judged = []
        for start in range(0, len(premises), BATCH):
            part = slice(start, start + BATCH)
            inputs = _tokens(tokenizer, model, list(premises[part]), list(hypotheses[part]))
            judged += model(**inputs).logits.argmax(dim=1).tolist()
        return np.array(judged, dtype=np.int64)

    return Inference(str(path), _labels(model), predict)


def load_classifier(
    path: str | Path, *, clean: str, device: DeviceName = "auto"
) -> Callable[[Sequence[str]], NDArray[np.float64]]:
    """A classifier of texts: n texts to [n] probabilities of one label, of the first 256 tokens.

    Args:
        path: a folder or hub name, such as ``"madhurjindal/autonlp-Gibberish-Detector-492513457"``.
        clean: the label; case is ignored.
        device: where to compute.

    Raises:
        ModelError: there is no such model, or it has no such label.
    """
    tokenizer, model = _load(AutoModelForSequenceClassification, path, device)
    labels = _labels(model)
    if clean.lower() not in labels:
        raise _no_label(path, clean, labels, "classifier")
    index = labels.index(clean.lower())

    @torch.inference_mode()
    def classify(texts: Sequence[str]) -> NDArray[np.float64]:
        found: list[float] = []
        for start in range(0, len(texts), BATCH):
            logits = model(**_tokens(tokenizer, model, list(texts[start : start + BATCH]))).logits
            found += in_double(logits).softmax(dim=1)[:, index].tolist()
        return np.array(found, dtype=np.float64)

    return classify


def load_assistant(path: str | Path, *, device: DeviceName = "auto") -> Model:
    """A causal language model that is asked for verdicts or texts, in float32 on the CPU and in bfloat16 otherwise.

    Its prompts are rendered by its chat template; without one they are read as they are.

    Args:
        path: a folder or hub name.
        device: where to compute.

    Raises:
        ModelError: there is no such model.
    """
    where = pick_device(device)
    return load_model(
        path, dtype="float32" if where.type == "cpu" else "bfloat16", device=str(where), template=AS_IT_IS
    )


def load_language_model(
    path: str | Path, *, device: DeviceName = "auto"
) -> Callable[[Sequence[str], Sequence[str]], NDArray[np.float64]]:
    """A causal language model as a judge, see `language_model_of` and `load_assistant`.

    Args:
        path: a folder or hub name.
        device: where to compute.

    Raises:
        ModelError: there is no such model.
    """
    return language_model_of(load_assistant(path, device=device))


def language_model_of(model: Model) -> Callable[[Sequence[str], Sequence[str]], NDArray[np.float64]]:
    """A causal language model: n prompts and n continuations to [n, 2], log-probability and number of tokens of each.

    ``sum_t log p(y_t | prompt, y_<t)`` over the tokens of the continuation, without the end of the turn, in nats. The
    prompt is rendered by the model's chat template; without one the continuation follows it after a space.
    Continuations of one prompt are scored together; if one of them is longer with the prompt than the model's context,
    all are NaN.

    Args:
        model: the model; its template is to be `AS_IT_IS`.
    """
    variants: tuple[Variant, ...] = ("answer", "perturbed_answers")

    def score(prompts: Sequence[str], continuations: Sequence[str]) -> NDArray[np.float64]:
        asked: dict[str, dict[str, None]] = {}
        for prompt, continuation in zip(prompts, continuations, strict=True):
            asked.setdefault(prompt, {})[continuation] = None
        examples = [
            Example(id=str(i), question=prompt, answer=first, perturbed_answers=tuple(others))
            for i, (prompt, (first, *others)) in enumerate(asked.items())
        ]
        fitting = _fitting(model, examples, variants)
        tokens = score_tokens(model, fitting, variants=variants)
        totals = np.column_stack([tokens.total(tokens.logprob, with_end=False), tokens.answer_lengths()])
        of_example: dict[str, list[NDArray[np.float64]]] = {}
        for identity, row in zip(tokens.ids, totals, strict=True):  # the first continuation, then the others in order
            of_example.setdefault(identity, []).append(row)
        found = {
            (e.question, said): row
            for e in fitting
            for said, row in zip((e.answer, *e.perturbed_answers), of_example[e.id], strict=True)
        }
        lacking = np.full(2, np.nan)
        rows = [found.get(pair, lacking) for pair in zip(prompts, continuations, strict=True)]
        return np.array(rows, dtype=np.float64).reshape(-1, 2)

    return score


def language_model_of_texts(
    says: Callable[[Sequence[Example], int], Sequence[str]],
) -> Callable[[Sequence[str], Sequence[str]], NDArray[np.float64]]:
    """A model of which only texts are known, in the form of `language_model_of`.

    The log-probability is 0 for a continuation that is the first word of its greedy answer in small letters, and minus
    infinity for any other, so that an answer other than yes and no is no verdict.

    Args:
        says: questions and the most tokens of an answer -> the greedy answers.
    """

    def score(prompts: Sequence[str], continuations: Sequence[str]) -> NDArray[np.float64]:
        asked = {prompt: Example(id=str(i), question=prompt, answer="yes") for i, prompt in enumerate(prompts)}
        answers = zip(asked, says(list(asked.values()), VERDICT_TOKENS), strict=True)
        words = {prompt: next(iter(_WORD.findall(text.lower())), "") for prompt, text in answers}
        same = [words[prompt] == said for prompt, said in zip(prompts, continuations, strict=True)]
        return np.array([[0.0 if equal else -np.inf, 1.0] for equal in same]).reshape(-1, 2)

    return score


def _fitting(model: Model, examples: Sequence[Example], variants: Sequence[Variant]) -> list[Example]:
    """The examples that fit into the model's context with each of their answers."""
    rows, _ = with_variants(examples, variants)
    encoded = model.template.encode(rows, model.tokenizer, max_length=sys.maxsize, ends=model.end_ids)
    longer = {e.id for e in encoded if len(e.tokens) > model.context_length}
    return [e for e in examples if e.id not in longer]


def require_label(path: str, label: str, *, of: str) -> None:
    """Raise ModelError if the configuration of a judge names labels, and not this one; reads no weights."""
    named = read_json(path, CONFIG).get("id2label")
    labels = [str(name).lower() for name in named.values()] if isinstance(named, dict) else []
    if labels and label.lower() not in labels:
        raise _no_label(path, label, labels, of)


def _no_label(path: str | Path, label: str, labels: Sequence[str], of: str) -> ModelError:
    there = ", ".join(labels)
    if of == "classifier":
        return ModelError(
            f"{path}: the classifier has no label {label!r}; name the one that means that a text is clean with "
            f"score.judges.clean, one of {there}"
        )
    return ModelError(
        f"{path}: a model of {of} needs a label {label!r}, and it has {there}; give another one (score.judges.{of})"
    )


def _labels(model: Any) -> tuple[str, ...]:
    """The labels of a classifier in small letters, in the order of its outputs."""
    names = {int(index): str(name).lower() for index, name in model.config.id2label.items()}
    return tuple(names[index] for index in sorted(names))


def _load(kind: Any, path: str | Path, device: DeviceName) -> tuple[Any, Any]:
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path))
        model = kind.from_pretrained(str(path), use_safetensors=True)
    except Exception as error:  # transformers, the hub and safetensors raise many kinds
        reason = str(error).strip().split("\n")[0][:200]
        raise ModelError(
            f"score.judges: cannot load {str(path)!r} to judge texts with: {reason}; give the folder or hub name of a "
            "model with weights in safetensors"
        ) from error
    return tokenizer, model.to(pick_device(device)).eval()


def _tokens(tokenizer: Any, model: Any, *texts: list[str]) -> Any:
    return tokenizer(*texts, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt").to(model.device)
