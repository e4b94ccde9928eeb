"""Raw texts: how they are cut, and which of their tokens are learnt and scored."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from uwc.data.example import Example, after_shots, asked_in_both, clustered, fingerprint, learnt
from uwc.data.passages import passage, passages, pieces
from uwc.data.prompts import PromptTemplate
from uwc.data.tables import Table
from uwc.errors import DataError
from uwc.metrics.compat import COMPAT
from uwc.metrics.scored import score_set
from uwc.models.model import Model
from uwc.objectives.methods import get_method
from uwc.objectives.objective import Objective
from uwc.training.data import Loader, TrainingData
from uwc.training.settings import TrainingSettings

TEXT = "Mira Oln was born in Quarnholt.\n\nShe mends thirteen old clocks there."
LAMP = Example(id="q", question="Who lit it?", answer="Paris")


def table(*texts: object) -> Table:
    return Table("a file", "row", [(i, {"text": text}) for i, text in enumerate(texts, 1)])


@pytest.mark.parametrize("length", [20, 33, 500])
def test_pieces_are_short_enough_and_together_the_text(length: int) -> None:
    found = pieces(f"  {TEXT}\n", length)
    assert all(len(piece) <= length and piece == piece.strip() for piece in found)
    assert " ".join(found).split() == TEXT.split()


def test_a_text_without_spaces_is_cut_at_the_length() -> None:
    assert pieces("夜" * 45, 20) == ["夜" * 15] * 3, "of like length"


@pytest.mark.parametrize("text", [TEXT, "one two", "word", "夜" * 60])
def test_beginning_and_continuation_are_the_text(text: str) -> None:
    example = passage(text, identity="p")
    assert example.question + example.answer == text
    assert learnt(example).answer == text and learnt(example).question == ""
    if " " in text:
        assert example.answer[0].isspace() and example.question.strip()


def test_the_passages_of_a_text_are_one_cluster() -> None:
    found = passages(table(TEXT, "  ", "Another text."), prefix="news", length=40)
    assert [e.id for e in found] == ["news-00001/1", "news-00001/2", "news-00003/1"]
    assert [e.subject for e in found] == ["news-00001", "news-00001", "news-00003"]


def test_what_holds_no_text_is_refused() -> None:
    with pytest.raises(DataError, match=r"no column 'body' .* the file has: text"):
        passages(table("a b"), prefix="p", length=40, column="body")
    with pytest.raises(DataError, match="no text in the column"):
        passages(table("", None), prefix="p", length=40)
    with pytest.raises(DataError, match=r"row 1.* is a dict"):
        passages(table({"a": 1}), prefix="p", length=40)


def test_only_a_passage_may_lack_a_question_and_has_no_earlier_turns() -> None:
    with pytest.raises(DataError, match="the question is empty"):
        Example(id="a", question="", answer="b")
    with pytest.raises(DataError, match="is a passage"):
        Example(id="a", question="", answer="b", raw=True, history=(("user", "x"), ("assistant", "y")))
    begun = passage(TEXT, identity="p")
    assert after_shots([LAMP])(begun) == begun


def test_passages_are_equal_by_their_text_and_questions_keep_their_fingerprint() -> None:
    first, second = passage("one two three", identity="a"), passage("One  two four", identity="b")
    assert len({e.subject for e in clustered([first, second])}) == 1, "neither has a subject"
    assert not asked_in_both([first], [second])
    assert asked_in_both([first], [replace(first, id="c", question="one two", answer=" three")])
    assert fingerprint([first]) != fingerprint([replace(first, raw=False)])
    known = "87a2b1e94b21ee1f7b832481f37f170bb7d316187dd19df2baebdd6e277a7cd7"
    assert fingerprint([LAMP]) == known


def test_a_passage_is_read_as_it_is_and_scored_from_its_continuation(untrained: Model) -> None:
    example = passage(TEXT, identity="p")
    (encoded,) = untrained.encode([example])
    decode = untrained.tokenizer.decode
    assert decode(list(encoded.tokens[: encoded.start]), skip_special_tokens=True) == example.question
    assert decode(list(encoded.tokens[encoded.start : encoded.end])) == example.answer
    assert encoded.end == len(encoded.tokens), "a passage has no end of turn"
    assert encoded.ends[-1] == len(example.answer)


def test_a_chat_model_reads_a_passage_without_its_template(untrained: Model) -> None:
    """Also without a token at the beginning, the first token is not scored."""
    template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    tokenizer = copy.deepcopy(untrained.tokenizer)
    tokenizer.chat_template = template
    (chat,) = PromptTemplate().encode([passage(TEXT, identity="p")], tokenizer, max_length=99)
    assert chat == untrained.encode([passage(TEXT, identity="p")])[0]
    (whole,) = PromptTemplate().encode([learnt(passage(TEXT, identity="p"))], tokenizer, max_length=99)
    assert whole.tokens == chat.tokens and whole.start == max(1, len(chat.tokens) - len(tokenizer(TEXT)["input_ids"]))
    with pytest.raises(DataError, match="more than the model's context of 5"):
        PromptTemplate().encode([passage(TEXT, identity="p")], tokenizer, max_length=5)


def test_other_codes_have_no_prompt_for_passages(untrained: Model) -> None:
    with pytest.raises(DataError, match=r"'p' is a passage, which has no prompt.* leave passages out"):
        COMPAT["open-unlearning"].adapt(untrained).encode([passage(TEXT, identity="p")])


def test_every_metric_of_answers_works_on_passages(untrained: Model) -> None:
    examples = [passage(f"{TEXT} Number {i}.", identity=f"p{i}") for i in range(3)]
    needs = ("scores", "texts", "text_tokens", "reference")
    found = score_set(untrained, examples, needs=needs, reference=untrained, max_new_tokens=4)
    for name in ("extraction_strength", "exact_memorization", "perplexity", "kl_to_original", "rouge_l", "mia_min_k"):
        assert not np.isnan(found.values(name)).any()
    assert found.answers == tuple(e.answer for e in examples)
    assert all(prompt.endswith(e.question) for prompt, e in zip(found.prompts, examples, strict=True))


def test_training_learns_every_token_of_a_passage_that_has_one_before_it(untrained: Model) -> None:
    data = TrainingData(forget=[passage(TEXT, identity="p")], retain=[LAMP])
    loader = Loader(untrained, Objective(get_method("gd"), untrained.model), data, TrainingSettings(batch_size=1))
    (encoded,) = loader.encoded["forget"].values()
    text = untrained.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    assert list(encoded.tokens[-len(text) :]) == text
    assert encoded.start == max(1, len(encoded.tokens) - len(text))
    (question,) = loader.encoded["retain"].values()
    assert question == untrained.encode([LAMP])[0]


def test_refusals_are_not_taught_to_passages(untrained: Model) -> None:
    data = TrainingData(forget=[passage(TEXT, identity="p")], retain=[LAMP], refusals=["No."])
    with pytest.raises(DataError, match=r"'po' trains on other answers .* 'p' is a passage"):
        Loader(untrained, Objective(get_method("po"), untrained.model), data, TrainingSettings(batch_size=1))
