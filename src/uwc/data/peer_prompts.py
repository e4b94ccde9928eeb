"""The prompts of other evaluation codes, for numbers comparable with theirs."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from uwc.data.example import Example
from uwc.data.prompts import EncodedExample, PromptTemplate, Renderer
from uwc.errors import DataError, ModelError

OPEN_UNLEARNING_LENGTH = 512
"""Length in tokens at which OpenUnlearning truncates a plain prompt with its answer."""


@dataclass(frozen=True)
class OpenUnlearningTemplate(PromptTemplate):
    """The prompt of OpenUnlearning: its plain form ends in a space, and the answer begins where its tokens end.

    Where the tokenizer joins that space to the answer's first word, the first token of the answer lies inside the
    prompt's length, and is neither scored nor counted. Everything that a chat template writes after the answer counts
    as answer, but for the last token: the end of sequence, which is added where the template does not end with it.

    The padding token (the end of sequence if the tokenizer has none) is not attended to at any position.
    """

    text: str = "Question: {question}\nAnswer: "
    separator: str = ""

    def encode(
        self, examples: Sequence[Example], tokenizer: Any, *, max_length: int, ends: Collection[int] = ()
    ) -> list[EncodedExample]:
        """As `PromptTemplate.encode`, with the answer's start at the length of the prompt's own tokens, from which
        answers are generated too.

        If that length is the whole conversation's, the answer has no token.

        Raises:
            ModelError: the tokenizer has no end of sequence.
        """
        renderer = Renderer(self, tokenizer, frozenset(ends))
        return [self._encoded(example, renderer, max_length) for example in examples]

    def _encoded(self, example: Example, renderer: Renderer, max_length: int) -> EncodedExample:
        tokenizer, eos = renderer.tokenizer, renderer.tokenizer.eos_token_id
        if eos is None:
            raise ModelError(
                "the tokenizer has no end-of-sequence token, and OpenUnlearning would add one to its vocabulary; set "
                "eos_token in the checkpoint's tokenizer_config.json"
            )
        if renderer.chat:
            turns = renderer.turns(example, example.answer)
            texts = [renderer.apply(turns), renderer.apply(turns[:-1], add_generation_prompt=True)]
            whole, prompt = tokenizer(texts, add_special_tokens=False)["input_ids"]
        else:
            before = renderer.plain(example)
            texts = [before + example.answer, before]
            whole, prompt = tokenizer(texts, truncation=True, max_length=OPEN_UNLEARNING_LENGTH)["input_ids"]
        tokens = (*whole, *([] if whole[-1:] == [eos] else [eos]))
        if len(tokens) > max_length:
            raise _too_long(example, len(tokens), max_length)
        start = min(len(prompt), len(tokens))
        return EncodedExample(
            example.id,
            tokens,
            start,
            end=max(start, len(tokens) - 1),
            answer=cleaned(tokens, tokenizer).replace(cleaned(prompt, tokenizer), "").strip(),
            prompt=tuple(prompt),
            labelled=_decoded(tokens[start:], tokenizer),
            unattended=padding_of(tokenizer),
        )


def padding_of(tokenizer: Any) -> int:
    """The padding token of OpenUnlearning: the tokenizer's own, or its end of sequence if it has none."""
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


def cleaned(tokens: Sequence[int], tokenizer: Any) -> str:
    """The text of tokens as OpenUnlearning reads it for ROUGE: no special tokens, no space before punctuation."""
    text = tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return str(tokenizer.clean_up_tokenization(text))


def _decoded(tokens: Sequence[int], tokenizer: Any) -> str:
    """The text of tokens without special ones, cleaned up if the tokenizer's configuration says so."""
    if tokenizer.clean_up_tokenization_spaces:
        return cleaned(tokens, tokenizer)
    return str(tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))


@dataclass(frozen=True)
class OfficialTemplate(PromptTemplate):
    """The prompt of the paper's official evaluation: ``### Question: {question}\\n ### Answer: {answer}``.

    The scored part begins after as many tokens as the bare question has, hence inside the question, and has no
    end-of-sequence token.
    """

    text: str = "### Question: {question}\n ### Answer:"
    chat: bool = False

    def encode(
        self, examples: Sequence[Example], tokenizer: Any, *, max_length: int, ends: Collection[int] = ()
    ) -> list[EncodedExample]:
        """As `PromptTemplate.encode`, with the start at the token count of the bare question, and no end token.

        Raises:
            DataError: the question has no token, or more tokens than question and answer in the prompt.
        """
        renderer = Renderer(self, tokenizer, frozenset(ends))
        encoded = []
        for example in examples:
            before = renderer.plain(example)
            whole, prompt, question = tokenizer([before + self.separator + example.answer, before, example.question])[
                "input_ids"
            ]
            if len(whole) > max_length:
                raise _too_long(example, len(whole), max_length)
            if not 0 < len(question) < len(whole):
                raise DataError(
                    f"example {example.id!r}: the question has no token to begin from; fill it in or remove the example"
                )
            encoded.append(
                EncodedExample(
                    example.id, tuple(whole), len(question), len(whole), example.answer, prompt=tuple(prompt)
                )
            )
        return encoded


def _too_long(example: Example, length: int, most: int) -> DataError:
    return DataError(
        f"example {example.id!r} has {length} tokens, more than the model's context of {most}; shorten or remove it"
    )


def with_settings(peer: PromptTemplate, given: PromptTemplate) -> PromptTemplate:
    """A peer's prompt with those settings of a user's prompt that differ from the defaults."""
    default = PromptTemplate()
    changed = {f.name: getattr(given, f.name) for f in fields(PromptTemplate)}
    return replace(peer, **{name: value for name, value in changed.items() if value != getattr(default, name)})
