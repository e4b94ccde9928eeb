"""Greedy answers of a model that a server holds, and the check that it is the model of a checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from uwc import progress
from uwc.data.example import Example
from uwc.errors import EndpointError, ModelError, brief
from uwc.models.endpoint import Answer, Conversation, Endpoint, Prompt, Request, Served, StoredAnswers
from uwc.models.generation import Generated, answer_cut, before_any, generate
from uwc.models.model import Model

ANSWERS = "endpoint_answers.jsonl"
"""The file of answers that came, in the folder of what a step keeps to be resumed."""
_LIKELY = 64
"""The most likely tokens among which that of the server is looked for, at each place."""


class Checked(NamedTuple):
    """The outcome of `require_same_model`.

    Attributes:
        equal: the number of questions with equal answers.
        gaps: for each other one by how much the server's first other token is below the greatest logit, in nats.
    """

    equal: int
    gaps: tuple[float, ...]


class ServedAnswers:
    """Generates answers as `generate` does, by a server; used in its place.

    Prompts are sent as the token ids that `generate` continues, so that no template and no tokenizer of the server's
    is applied, with the same ends. Answers are kept in a file as they come. `Generated.tokens` are those of the text,
    which a tokenizer may write in another way than the model did, and `Generated.finite` is True.

    Args:
        served: the server.
        folder: the folder of the file; created if missing.

    Raises:
        UserError: the package openai is not installed.
    """

    def __init__(self, served: Served, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._served = served
        self._answers = StoredAnswers(folder / ANSWERS)
        self._conversation = Conversation(served.endpoint, self._answers, options=served.options)

    def __call__(
        self, model: Model, examples: Sequence[Example], *, max_new_tokens: int, token_budget: int | None = None
    ) -> Generated:
        """The answers, see `generate`; nothing is computed here, so that `token_budget` is not read.

        Raises:
            DataError: a question with its answer does not fit into the context.
            EndpointError: the server refuses a request, or it fails after all retries; what was answered is kept.
        """
        return _asked(self._conversation, model, examples, max_new_tokens)

    def require_same_model(self, model: Model, examples: Sequence[Example], *, max_new_tokens: int) -> Checked:
        """Ask `Served.check` of the questions, evenly spaced, and compare the answers with those of the model.

        An answer may differ from the first token on at which the server took another one whose logit here is at most
        `Served.margin` below the greatest. What follows is not compared. Nothing of these answers is kept.

        Raises:
            EndpointError: an answer differs by more, or the server does not answer.
            ModelError: the model's own logits are not finite.
        """
        served = self._served
        places = np.linspace(0, len(examples) - 1, min(served.check, len(examples))).round().astype(int)
        chosen = [examples[place] for place in places]
        ours = generate(model, chosen, max_new_tokens=max_new_tokens)
        if not ours.finite.all():
            raise ModelError(
                f"{model.name}: its logits are not finite, so that the model of {served.endpoint.name} cannot be "
                f"compared with it; leave it out of the section generation"
            )
        conversation = Conversation(served.endpoint, StoredAnswers(), options=served.options)
        try:
            theirs = _asked(conversation, model, chosen, max_new_tokens)
        finally:
            conversation.close()
        gaps = []
        for example, tokens, text, said in zip(chosen, ours.tokens, ours.texts, theirs.texts, strict=True):
            if text == said:
                continue
            gap = logit_gap(model, example, tokens, said)
            if gap is None or gap > served.margin:
                far = f"not among the {_LIKELY} most likely ones" if gap is None else f"{gap:.3g} nats less likely"
                raise EndpointError(
                    f"{served.endpoint.name} does not hold the model {model.name!r}, or applies another prompt or "
                    f"other settings of generation: to question {example.id!r} it answers {brief(said, 120)}, and the "
                    f"checkpoint {brief(text, 120)}; its first other token is {far}, and {served.margin:g} is allowed "
                    "(generation.margin)"
                )
            gaps.append(gap)
        return Checked(len(chosen) - len(gaps), tuple(gaps))

    def close(self) -> None:
        """Close all connections, and tell how many answers were those of an earlier run."""
        self._conversation.close()
        if self._conversation.resumed:
            progress.note(f"{self._conversation.resumed} answers are those of an earlier run, in {self._answers.path}")


def _asked(conversation: Conversation, model: Model, examples: Sequence[Example], max_new_tokens: int) -> Generated:
    """The server's answers, cut as those of `generate`."""
    encoded = model.encode(examples)
    ends = tuple(model.stops(encoded))
    texts = model.template.stop_texts(chat=model.template.uses_chat(model.tokenizer))
    stops = [() if example.raw else texts for example in examples]
    requests = [
        Request(
            example,
            prompt=Prompt(e.before, ends, stop, max(1, min(max_new_tokens, model.context_length - len(e.before)))),
        )
        for example, e, stop in zip(examples, encoded, stops, strict=True)
    ]
    answers = conversation.ask(requests, f"ask {conversation.endpoint.model}")
    _require_unfiltered(conversation.endpoint, examples, answers)
    cut = [
        answer_cut(model.tokenizer, _tokens_of(model, answer.text), stop)
        for answer, stop in zip(answers, stops, strict=True)
    ]
    said = [before_any(answer.text, stop) for answer, stop in zip(answers, stops, strict=True)]
    return Generated(
        tuple(tuple(tokens) for tokens, _ in cut),
        tuple(text.strip() for text in said),
        np.ones(len(examples), dtype=bool),
    )


def _tokens_of(model: Model, text: str) -> list[int]:
    return [int(token) for token in model.tokenizer(text, add_special_tokens=False)["input_ids"]]


def _require_unfiltered(endpoint: Endpoint, examples: Sequence[Example], answers: Sequence[Answer]) -> None:
    for example, answer in zip(examples, answers, strict=True):
        if answer.finish == "content_filter":
            raise EndpointError(
                f"{endpoint.name}: a filter of the server's stopped the answer to question {example.id!r}, and the "
                "model's own answers are asked for; switch it off"
            )


@torch.inference_mode()
def logit_gap(model: Model, example: Example, tokens: Sequence[int], said: str) -> float | None:
    """By how much the first token in which a text differs from a greedy answer is below the greatest logit, in nats.

    The tokens of the text are not known, and a tokenizer may split it in another way. So at each place k up to which
    the answer's text is a beginning of the other one, those of the most likely tokens are tried that go on with it:
    ``min_k min_v (max z_k - z_kv)`` over tokens v other than the answer's own after which the text is still a
    beginning, or that end it where it is whole.

    Args:
        model: the model.
        example: the question.
        tokens: the greedy answer.
        said: the other text, without surrounding white space.

    Returns:
        The gap; None if no likely token goes on with the text.
    """
    encoded = model.encode([example])
    before, ends = list(encoded[0].before), frozenset(model.stops(encoded))
    ids = torch.tensor([before + list(tokens)], device=model.device)
    logits = model.model(input_ids=ids, use_cache=False).logits[0, len(before) - 1 :].float()
    found: list[float] = []
    for k, row in enumerate(logits):
        so_far = _decoded(model, tokens[:k])
        if not _begins(said, so_far.lstrip()):
            break
        best = torch.topk(row, min(_LIKELY, len(row)))
        own = tokens[k] if k < len(tokens) else int(best.indices[0])
        for value, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            if token == own:
                continue
            if token in ends:
                fits = so_far.strip() == said
            else:
                fits = _goes_on(said, so_far, _decoded(model, [*tokens[:k], token]))
            if fits:
                found.append(float(best.values[0]) - value)
                break
    return min(found, default=None)


def _decoded(model: Model, tokens: Sequence[int]) -> str:
    """The text of the first tokens of an answer, without an unfinished character at its end."""
    return str(model.tokenizer.decode(list(tokens), skip_special_tokens=True)).rstrip("\ufffd")


def _goes_on(whole: str, so_far: str, text: str) -> bool:
    """Whether a text with one more token is a beginning of another text; one that is unchanged by the token only where
    that can be the first part of a character, and white space before the text only where there is no more."""
    if text == so_far:
        return whole[len(text.lstrip()) :][:1] > "\x7f"
    if text.lstrip() == so_far.lstrip():
        return whole == text.strip()
    return _begins(whole, text.lstrip())


def _begins(whole: str, text: str) -> bool:
    """Whether a text is a beginning of another one, which has no white space at its end."""
    return whole.startswith(text) or text.rstrip() == whole
