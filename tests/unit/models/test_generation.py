"""Greedy generation."""

from dataclasses import replace
from typing import Any

from tests.conftest import copied, people

from uwc.models.generation import continue_greedily, generate
from uwc.models.model import Model


def test_a_model_that_knows_says_the_answer_and_stops(knowing: Model) -> None:
    examples = people(4)
    assert list(generate(knowing, examples, max_new_tokens=40).texts) == [e.answer for e in examples]


def test_left_padding_changes_nothing(knowing: Model) -> None:
    prompts = [list(e.tokens[: e.start]) for e in knowing.encode(people(4))]
    alone = [continue_greedily(knowing, [p], max_new_tokens=10)[0] for p in prompts]
    assert continue_greedily(knowing, prompts, max_new_tokens=10) == alone


def test_an_answer_ends_at_every_token_that_the_generation_configuration_lists(knowing: Model) -> None:
    """A word of the answer is made an end: the text stops before it."""
    example = people(1)[1]
    (encoded,) = knowing.encode([example])
    stop = encoded.tokens[encoded.start + 4]
    before = knowing.tokenizer.decode(list(encoded.tokens[encoded.start : encoded.start + 4])).strip()
    assert generate(replace(knowing, ends=(*knowing.end_ids, stop)), [example], max_new_tokens=40).texts == (before,)


def test_an_answer_ends_before_the_first_stop_text(knowing: Model) -> None:
    """Of "... mends 13 old clocks in a house near ..." the text before "clock", in which its token does not end."""
    examples = people(3)
    told = replace(knowing, template=replace(knowing.template, stop=("house", "clock")))
    whole = generate(knowing, examples, max_new_tokens=40)
    found = generate(told, examples, max_new_tokens=40)
    assert list(found.texts) == [text.partition("clock")[0].strip() for text in whole.texts]
    for short, long in zip(found.tokens, whole.tokens, strict=True):
        assert short == long[: len(short)]
        assert "clock" not in knowing.tokenizer.decode(list(short))
    raw = [replace(e, raw=True) for e in examples]
    assert generate(told, raw, max_new_tokens=9).texts == generate(knowing, raw, max_new_tokens=9).texts


def test_rows_end_at_a_stop_text(knowing: Model) -> None:
    """No further pass is made once every row has said one."""
    passes: list[int] = []
    told = replace(copied(knowing), template=replace(knowing.template, stop=(" in a",)))
    told.model.register_forward_hook(lambda *_: passes.append(1))
    (answer,) = generate(told, people(1)[1:], max_new_tokens=40).texts
    assert answer == people(1)[1].answer.partition(" in a")[0]
    assert len(passes) < len(knowing.tokenizer(people(1)[1].answer)["input_ids"])


def test_generation_settings_of_the_checkpoint_change_nothing(knowing: Model) -> None:
    from transformers import GenerationConfig

    penalised = copied(knowing)
    penalised.model.generation_config = GenerationConfig(
        repetition_penalty=5.0, no_repeat_ngram_size=1, min_new_tokens=39, do_sample=True, temperature=2.0
    )
    answers = generate(knowing, people(4), max_new_tokens=40).texts
    assert generate(penalised, people(4), max_new_tokens=40).texts == answers
    assert penalised.model.generation_config.repetition_penalty == 5.0


def test_logits_that_are_not_finite_are_told(knowing: Model) -> None:
    """From the fourth token of the second answer on the logits are NaN."""
    broken = copied(knowing)
    examples = people(2)[:2]
    encoded = broken.encode(examples)[1]
    place = encoded.start + 3

    def spoil(_module: Any, args: tuple[Any, ...], kwargs: Any, output: Any) -> Any:
        position = kwargs.get("position_ids")
        if position is not None:
            late = (position == place - 1)[..., None] & (output[:, :, :1] == output[:, :, :1])
            return output.masked_fill(late, float("nan"))
        return output

    block = broken.model.model.layers[0]
    block.register_forward_hook(spoil, with_kwargs=True)
    found = generate(broken, examples, max_new_tokens=40)
    assert found.finite.tolist() == [len(found.tokens[0]) + len(broken.encode(examples)[0].before) < place, False]
