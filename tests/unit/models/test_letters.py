"""Multiple choice by letters, against a slow implementation: each letter by a pass of its own over a prompt that is
written out by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.conftest import people

from uwc.data.example import Example
from uwc.metrics.scored import ScoredSet, score_set
from uwc.models.letters import letter_scores
from uwc.models.model import Model

CHAT = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


def examples() -> list[Example]:
    """With two and three wrong answers, and with none."""
    first, second, third, *_ = people()
    more = (*second.perturbed_answers, "They sing")
    return [first, replace(second, perturbed_answers=more), replace(third, perturbed_answers=())]


def slowly(model: Model, example: Example, prompt: str) -> list[float]:
    """The mean over rotations of log p(letter | prompt), with ``{listed}`` in the prompt for question and options."""
    options = [example.answer, *example.perturbed_answers]
    m = len(options)
    total = np.zeros(m)
    for shift in range(m):
        listed = example.question
        letters = {}
        for place in range(m):
            j = (place - shift) % m
            letters[j] = "ABCDE"[place]
            listed += f"\n{'ABCDE'[place]}. {options[j]}"
        text = prompt.replace("{listed}", listed)
        for j in range(m):
            before = model.tokenizer(text.rstrip(), add_special_tokens=False)["input_ids"]  # the space is the letter's
            whole = model.tokenizer(text + letters[j], add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logprobs = model.model(input_ids=torch.tensor([whole])).logits[0].double().log_softmax(-1)
            places = range(len(before), len(whole))
            total[j] += sum(float(logprobs[i - 1, whole[i]]) for i in places)
    return (total / m).tolist()


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("Question: {question}\nAnswer:", "Question: {listed}\nAnswer: "),
        ("{question}", "{listed}\nAnswer: "),
    ],
)
def test_letters_are_those_of_a_slow_implementation(untrained: Model, text: str, prompt: str) -> None:
    """A template without a text after the question gets MMLU's last line."""
    model = replace(untrained, template=replace(untrained.template, text=text, chat=False))
    found = letter_scores(model, examples())
    assert found[0] == pytest.approx(slowly(model, examples()[0], prompt), abs=1e-5)
    assert found[1] == pytest.approx(slowly(model, examples()[1], prompt), abs=1e-5)
    assert len(found[2]) == 0


def test_letters_are_asked_with_the_chat_template(untrained: Model) -> None:
    import copy

    tokenizer = copy.deepcopy(untrained.tokenizer)
    tokenizer.chat_template = CHAT
    model = replace(untrained, tokenizer=tokenizer, template=replace(untrained.template, chat=True))
    (found,) = letter_scores(model, examples()[:1])
    assert found == pytest.approx(slowly(model, examples()[0], "[user]{listed}\nAnswer:[assistant]"), abs=1e-5)


def test_a_rewritten_question_is_rewritten_before_its_options_are_listed(untrained: Model) -> None:
    asked = untrained.rewritten(lambda e: replace(e, question=e.paraphrased_question))
    (found,) = letter_scores(asked, examples()[:1])
    (wanted,) = letter_scores(untrained, [replace(examples()[0], question=examples()[0].paraphrased_question)])
    assert found.tolist() == wanted.tolist()


def test_options_that_are_letters_already_and_passages_are_not_scored(untrained: Model) -> None:
    letters = replace(examples()[0], answer="B", perturbed_answers=("A", "C"))
    passage = Example(id="p", question="In Vint", answer=" there are clocks", perturbed_answers=("a", "b"), raw=True)
    assert [len(found) for found in letter_scores(untrained, [letters, passage])] == [0, 0]


def test_a_question_that_is_too_long_with_its_options_is_not_scored(untrained: Model) -> None:
    long = replace(examples()[0], perturbed_answers=("a word " * 60,))
    assert [len(found) for found in letter_scores(untrained, [long, examples()[0]])] == [0, 3]


def test_accuracy_margin_and_chance() -> None:
    """-1 against -2 and -3; -2 against -1; a tie; none. The chance is the mean of 1/3, 1/2 and 1/2."""
    from tests.helpers.scores_by_hand import scores

    letters = (np.array([-1.0, -2, -3]), np.array([-2.0, -1]), np.array([-1.0, -1]), np.zeros(0))
    scored = ScoredSet(scores([[-1.0]] * 4), ("a",) * 4, letters=letters)
    assert scored.values("letter_margin") == pytest.approx([1, -1, 0, np.nan], nan_ok=True)
    assert scored.values("letter_accuracy") == pytest.approx([1, 0, 0.5, np.nan], nan_ok=True)
    assert scored.chance("letter_accuracy") == pytest.approx((1 / 3 + 1 / 2 + 1 / 2) / 3)
    assert scored.chance("letter_margin") is None


def test_they_are_scored_with_the_other_metrics(untrained: Model) -> None:
    scored = score_set(untrained, examples(), needs={"letters", "perturbed"})
    assert np.isnan(scored.values("letter_margin")).tolist() == [False, False, True]
    assert scored.chance("choice_accuracy") == pytest.approx((1 / 3 + 1 / 4) / 2)
