"""Answers of a server that holds a model: where they may differ from the checkpoint's."""

import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import people
from tests.helpers.openai_server import MODEL, Fault, serving

from uwc.errors import EndpointError
from uwc.models.endpoint import Endpoint, Served
from uwc.models.generation import continue_greedily, generate
from uwc.models.model import Model
from uwc.models.served import ServedAnswers, logit_gap

NEW = 10


@contextmanager
def asking(
    answer: Callable[[Mapping[str, Any]], Any], folder: Path, *, margin: float = 0.25, faults: tuple[Fault, ...] = ()
) -> Iterator[ServedAnswers]:
    with serving(answer, chat=False) as server:
        server.faults.extend(faults)
        endpoint = Endpoint(server.url, MODEL, chat=False, seed=None, retries=0)
        answers = ServedAnswers(Served(MODEL, {}, 2, margin, endpoint, "generation.endpoint"), folder)
        try:
            yield answers
        finally:
            answers.close()


def answering(model: Model, change: Callable[[list[int]], list[int]] = list) -> Callable[[Mapping[str, Any]], str]:
    def answer(body: Mapping[str, Any]) -> str:
        ((tokens, _),) = continue_greedily(model, [body["prompt"]], max_new_tokens=body["max_tokens"])
        return str(model.tokenizer.decode(change(tokens), skip_special_tokens=True))

    return answer


def test_tokens_and_texts_are_those_of_generation_here(knowing: Model, tmp_path: Path) -> None:
    ours = generate(knowing, people(4), max_new_tokens=NEW)
    with asking(answering(knowing), tmp_path) as asked:
        theirs = asked(knowing, people(4), max_new_tokens=NEW)
    assert theirs.texts == ours.texts and any(ours.texts)
    assert theirs.tokens == ours.tokens and theirs.finite.all()


def slow_gap(model: Model, before: list[int], tokens: list[int], said: str, ends: list[int]) -> float:
    """The least gap over all places and the whole vocabulary, a token a pass; infinite without one."""

    def text(ids: list[int]) -> str:
        return str(model.tokenizer.decode(ids, skip_special_tokens=True)).rstrip("\ufffd")

    def begins(part: str) -> bool:
        return said.startswith(part.lstrip()) or said == part.strip()

    found = [float("inf")]
    for k in range(len(tokens) + 1):
        before_it = text(tokens[:k])
        if not begins(before_it):
            break
        with torch.inference_mode():
            z = model.model(torch.tensor([before + tokens[:k]])).logits[0, -1]
        for v in set(range(len(z))) - {tokens[k] if k < len(tokens) else int(z.argmax())}:
            whole = text([*tokens[:k], v])
            ended = v in ends and before_it.strip() == said
            longer = len(whole) > len(before_it) and begins(whole) and (bool(whole.strip()) or not said)
            if ended or (v not in ends and longer):
                found.append(float(z.max() - z[v]))
    return min(found)


def test_the_gap_is_the_least_over_all_tokens_that_go_on_with_the_text(knowing: Model) -> None:
    example = people(1)[0]
    tokens = list(generate(knowing, [example], max_new_tokens=NEW).tokens[0])
    (encoded,) = knowing.encode([example])
    own = knowing.tokenizer.decode(tokens).strip()
    known = 0
    for said in (own[:5], own[: len(own) // 2], own[:-1], f"{own} and", f"{own[:9]} was a", "The", "I do not know", ""):
        gap = logit_gap(knowing, example, tokens, said.strip())
        slow = slow_gap(knowing, list(encoded.before), tokens, said.strip(), knowing.stops([encoded]))
        assert gap is None or gap == pytest.approx(slow, abs=1e-4)
        known += gap is not None
    assert known >= 4


def test_a_near_tie_is_let_pass_and_told_and_a_larger_difference_is_refused(knowing: Model, tmp_path: Path) -> None:
    """The second token of the answer is replaced by the one that is second in likelihood."""
    example = people(1)[0]
    tokens = list(generate(knowing, [example], max_new_tokens=NEW).tokens[0])
    before = list(knowing.encode([example])[0].before)
    with torch.inference_mode():
        z = knowing.model(torch.tensor([before + tokens[:1]])).logits[0, -1]
    second = int(z.topk(2).indices[1])
    distance = float(z.max() - z[second])
    other = answering(knowing, lambda found: [found[0], second, *found[2:]] if found == tokens else found)
    with asking(other, tmp_path, margin=distance + 1e-3) as asked:
        passed = asked.require_same_model(knowing, [example], max_new_tokens=NEW)
    assert passed.equal == 0 and passed.gaps == (pytest.approx(distance, abs=1e-4),)
    with (
        asking(other, tmp_path, margin=distance * 0.99) as asked,
        pytest.raises(EndpointError, match="does not hold the model"),
    ):
        asked.require_same_model(knowing, [example], max_new_tokens=NEW)


def test_a_server_without_stop_tokens_or_with_a_filter(knowing: Model, tmp_path: Path) -> None:
    refused = Fault(400, {"error": {"message": "unknown field stop_token_ids"}})
    with asking(answering(knowing), tmp_path / "a", faults=(refused,)) as asked:
        assert asked(knowing, people(2), max_new_tokens=NEW).texts
    filtered = {"choices": [{"text": "", "finish_reason": "content_filter"}]}
    with (
        asking(lambda _: filtered, tmp_path / "b") as asked,
        pytest.raises(EndpointError, match="a filter of the server's stopped the answer"),
    ):
        asked(knowing, people(2), max_new_tokens=NEW)
    text = Fault(400, {"error": {"message": "prompt: a text is needed"}})
    with (
        asking(answering(knowing), tmp_path / "c", faults=(text,)) as asked,
        pytest.raises(EndpointError, match="completions of prompts that are token ids, as vLLM") as told,
    ):
        asked(knowing, people(1), max_new_tokens=NEW)
    sent = pickle.loads(pickle.dumps(told.value))  # as a worker of a study does
    assert type(sent) is EndpointError and str(sent) == str(told.value)
