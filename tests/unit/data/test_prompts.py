"""Where the answer's tokens begin and end, on token ids."""

from itertools import pairwise

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from uwc.data.batches import collate, group_by_length
from uwc.data.example import Example
from uwc.data.prompts import PromptTemplate
from uwc.errors import ConfigError, DataError, ModelError
from uwc.models.load import build_tokenizer

LAMP = Example(id="a", question="Who lit it?", answer="Paris")


def word_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    """One token a word, with the space before it, so that token counts can be done by hand."""
    words = ["Q:", " Who", " lit", " it?", "\nA:", " ", " Paris", "<s>", "</s>", "Paris", "?", "[user]", "[bot]", "Who"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*words, "<unk>"])}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(r"", "isolated")
    from tokenizers import Regex

    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\nA:|\[user\]|\[bot\]| ?[\w:?<>/]+| "), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", **special)


def decoded(tokenizer: PreTrainedTokenizerFast, ids: tuple[int, ...]) -> list[str]:
    return tokenizer.convert_ids_to_tokens(list(ids))


def test_answer_starts_at_its_first_token_and_ends_before_the_end_token() -> None:
    tokenizer = word_tokenizer()
    (encoded,) = PromptTemplate(text="Q: {question}\nA:").encode([LAMP], tokenizer, max_length=50)
    assert decoded(tokenizer, encoded.tokens[: encoded.start]) == ["Q:", " Who", " lit", " it?", "\nA:"]
    assert decoded(tokenizer, encoded.tokens[encoded.start : encoded.end]) == [" Paris"]
    assert decoded(tokenizer, encoded.tokens[encoded.end :]) == ["</s>"]


def test_a_template_that_ends_in_a_space_does_not_mask_the_first_answer_token() -> None:
    """A prompt tokenized with its trailing space is one token longer than what it shares with the whole text."""
    tokenizer = word_tokenizer()
    (encoded,) = PromptTemplate(text="Q: {question}\nA: ", separator="").encode([LAMP], tokenizer, max_length=50)
    assert decoded(tokenizer, encoded.tokens[encoded.start : encoded.end]) == [" Paris"]


def test_the_beginning_token_is_kept_where_the_tokenizer_adds_one() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = word_tokenizer(bos_token="<s>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 7)])
    (encoded,) = PromptTemplate(text="Q: {question}\nA:").encode([LAMP], tokenizer, max_length=50)
    assert decoded(tokenizer, encoded.tokens)[:2] == ["<s>", "Q:"]
    assert decoded(tokenizer, encoded.tokens[encoded.start : encoded.end]) == [" Paris"]


def test_the_chat_template_is_used_where_there_is_one() -> None:
    tokenizer = word_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '[user]' if m.role == 'user' else '[bot]' }}{{ ' ' + m.content if m.role == "
        "'assistant' else m.content }}{% endfor %}{% if add_generation_prompt %}[bot]{% endif %}"
    )
    (encoded,) = PromptTemplate().encode([LAMP], tokenizer, max_length=50)
    assert decoded(tokenizer, encoded.tokens) == ["[user]", "Who", " lit", " it?", "[bot]", " Paris", "</s>"]
    assert encoded.start == 5
    (plain,) = PromptTemplate(text="Q: {question}\nA:", chat=False).encode([LAMP], tokenizer, max_length=50)
    assert decoded(tokenizer, plain.tokens)[0] == "Q:"


def test_a_broken_chat_template_is_named() -> None:
    tokenizer = word_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('no users here') }}"
    with pytest.raises(ModelError, match="no users here"):
        PromptTemplate().encode([LAMP], tokenizer, max_length=50)


def test_training_and_generation_see_the_same_prompt_tokens() -> None:
    """With byte-level BPE the prompt alone is a prefix of prompt + answer."""
    template = PromptTemplate()
    text = ["Question: Who lit it?\nAnswer: Paris lit the lamp in Vint."]
    tokenizer = build_tokenizer(text, vocabulary=300)
    (encoded,) = template.encode([LAMP], tokenizer, max_length=200)
    assert list(encoded.tokens[: encoded.start]) == tokenizer("Question: Who lit it?\nAnswer:")["input_ids"]
    assert tokenizer.decode(encoded.tokens[encoded.start : encoded.end]) == " Paris"


def test_too_long_an_example_is_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"example 'a' has 7 tokens.* 6"):
        PromptTemplate(text="Q: {question}\nA:").encode([LAMP], word_tokenizer(), max_length=6)


def test_a_template_without_the_question_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"\{question\}"):
        PromptTemplate(text="Answer me")


def test_labels_are_predicted_from_the_position_before() -> None:
    """Two examples of lengths 4 and 3, answers from positions 2 and 1: by hand."""
    from uwc.data.prompts import EncodedExample

    first = EncodedExample("a", (5, 6, 7, 8), start=2, end=3)
    second = EncodedExample("b", (1, 2, 3), start=1, end=3)
    batch = collate([first, second], device=torch.device("cpu"))
    assert batch.input_ids.tolist() == [[5, 6, 7, 8], [1, 2, 3, 0]]
    assert batch.rows.tolist() == [0, 0, 1, 1]
    assert batch.positions.tolist() == [1, 2, 0, 1]
    assert batch.targets.tolist() == [7, 8, 2, 3]
    wide = collate([first, second], device=torch.device("cpu"), scope="attended")
    assert wide.targets.tolist() == [6, 7, 8, 2, 3]
    assert wide.in_answer.tolist() == [False, True, True, True, True]


def test_batches_hold_all_examples_within_the_budget_longest_first() -> None:
    groups = group_by_length([3, 10, 5, 5, 9], token_budget=20)
    assert groups == [[1, 4], [2, 3, 0]]


@pytest.mark.parametrize("batch_cost", [0, 3, 20])
def test_batches_cost_no_more_than_any_other_cut(batch_cost: int) -> None:
    """Against every way to cut nine sorted examples into batches within the budget."""
    lengths, budget = [2, 9, 4, 4, 7, 1, 9, 3, 6], 20

    def cost(groups: list[list[int]]) -> int:
        return sum(max(lengths[i] for i in g) * len(g) + batch_cost for g in groups)

    order = sorted(range(9), key=lambda i: -lengths[i])
    cuts = [[0, *(i + 1 for i in range(8) if mask >> i & 1), 9] for mask in range(256)]
    ways = [[order[a:b] for a, b in pairwise(cut)] for cut in cuts]
    allowed = [w for w in ways if all(len(g) == 1 or lengths[g[0]] * len(g) <= budget for g in w)]
    groups = group_by_length(lengths, token_budget=budget, batch_cost=batch_cost)
    assert cost(groups) == min(map(cost, allowed))
    assert sorted(i for g in groups for i in g) == list(range(9))


def test_an_example_beyond_the_budget_is_a_batch_of_its_own() -> None:
    assert group_by_length([50], token_budget=20) == [[0]]


def test_stop_texts_of_a_plain_prompt_are_what_stands_before_the_question() -> None:
    header = PromptTemplate(text="Answer briefly.\n\n### Instruction:\n{question}\n### Response:")
    assert PromptTemplate().stop_texts(chat=False) == ("\nQuestion:",)
    assert header.stop_texts(chat=False) == ("\n### Instruction:",)
    assert PromptTemplate(text="{question}").stop_texts(chat=False) == PromptTemplate().stop_texts(chat=True) == ()
    assert PromptTemplate(stop=("\n\n",)).stop_texts(chat=True) == ("\n\n",)
    with pytest.raises(ConfigError, match="empty"):
        PromptTemplate(stop=("",))
