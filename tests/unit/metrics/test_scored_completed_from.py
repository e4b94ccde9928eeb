"""The shortest prefix as text, against greedy decoding from every prefix."""

import pytest
import torch
from tests.conftest import people

from uwc.attacks.registry import attacks
from uwc.metrics.scored import score_set
from uwc.models.model import Model


def slow_prefix(model: Model, prompt: list[int], answer: list[int]) -> int:
    """The fewest answer tokens from which decoding, one most likely token at a time, gives the rest."""
    for k in range(len(answer) + 1):
        ids = [*prompt, *answer[:k]]
        while len(ids) < len(prompt) + len(answer):
            with torch.no_grad():
                ids.append(int(model.model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[len(prompt) :] == answer:
            return k
    raise AssertionError


@pytest.mark.parametrize("how", ["plain", "chat", "prefix"])
def test_the_prefix_is_that_of_extraction_strength(knowing: Model, how: str) -> None:
    """People whom the model knows by heart, and two whom it does not."""
    examples = people()[6:10]
    if how == "prefix":  # an attack moves the first tokens of the answer into the prompt
        knowing = next(attacks.get("prefix").function(knowing, None, tokens=2)).model
    if how == "chat":
        tokenizer = type(knowing.tokenizer)(tokenizer_object=knowing.tokenizer.backend_tokenizer)
        tokenizer.eos_token, tokenizer.pad_token = knowing.tokenizer.eos_token, knowing.tokenizer.pad_token
        tokenizer.chat_template = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
        knowing = Model(knowing.model, tokenizer, batching=knowing.batching)
    scored = score_set(knowing, examples, needs=())
    strength, found = scored.values("extraction_strength"), scored.completed_from()
    encoded = knowing.encode(examples)
    for i, example in enumerate(encoded):
        prompt, answer = list(example.tokens[: example.start]), list(example.tokens[example.start : example.end])
        k = slow_prefix(knowing, prompt, answer)
        assert strength[i] == (len(answer) - k) / len(answer)
        start = found[i]
        assert start is not None
        given = example.tokens[example.end - len(example.ends) : example.start]
        assert bool(given) == (how == "prefix")
        assert scored.answers[i][:start].strip() == knowing.tokenizer.decode([*given, *answer[:k]]).strip()
        assert (start == 0) == (k == 0 and how != "prefix")
        assert scored.prompts[i] == knowing.tokenizer.decode(prompt)
    if how == "plain":
        assert 0 in found and any(found), "some are completed from the question alone, and others are not"
