"""Prompts as other evaluation codes write them, for numbers that can be compared with theirs."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from uwc.data.example import Example
from uwc.data.prompts import EncodedExample, PromptTemplate, Renderer
from uwc.errors import DataError


@dataclass(frozen=True)
class OpenUnlearningTemplate(PromptTemplate):
    """The prompt of OpenUnlearning: its plain form ends in a space, and the answer begins where its tokens end.

    Where the tokenizer joins that space to the answer's first word, the first token of the answer lies inside the
    prompt's length, and is neither scored nor counted. Everything that a chat template writes after the answer counts
    as answer, but for the last token: the end of sequence, which is added where the template does not end with it.
    """

    text: str = "Question: {question}\nAnswer: "
    separator: str = ""

    def encode(
        self, examples: Sequence[Example], tokenizer: Any, *, max_length: int, ends: Collection[int] = ()
    ) -> list[EncodedExample]:
        """As `PromptTemplate.encode`, with the answer's start at the length of the prompt's own tokens, from which
        answers are generated too."""
        renderer = Renderer(self, tokenizer, frozenset(ends))
        encoded = []
        for example in examples:
            if renderer.chat:
                turns = renderer.turns(example, example.answer)
                texts = [renderer.apply(turns), renderer.apply(turns[:-1], add_generation_prompt=True)]
            else:
                texts = [renderer.plain(example) + example.answer, renderer.plain(example)]
            whole, prompt = tokenizer(texts, add_special_tokens=not renderer.chat)["input_ids"]
            eos = (
                []
                if tokenizer.eos_token_id is None or whole[-1] == tokenizer.eos_token_id
                else [tokenizer.eos_token_id]
            )
            tokens = (*whole, *eos)
            if len(tokens) > max_length:
                raise DataError(
                    f"example {example.id!r} has {len(tokens)} tokens, more than the model's context of {max_length}; "
                    "shorten or remove it"
                )
            start = min(len(prompt), len(tokens) - 1)
            encoded.append(EncodedExample(example.id, tokens, start, len(tokens) - 1, example.answer, tuple(prompt)))
        return encoded


@dataclass(frozen=True)
class OfficialTemplate(PromptTemplate):
    """The prompt of the paper's official evaluation: ``### Question: {question}\\n ### Answer: {answer}``.

    What it calls the answer begins after as many tokens as the bare question has, so inside the question, and has no
    end-of-sequence token.
    """

    text: str = "### Question: {question}\n ### Answer:"
    chat: bool = False

    def encode(
        self, examples: Sequence[Example], tokenizer: Any, *, max_length: int, ends: Collection[int] = ()
    ) -> list[EncodedExample]:
        """As `PromptTemplate.encode`, with the start at the token count of the bare question, and no end token.

        Raises:
            DataError: the question has no token, or so many that nothing of the answer is left.
        """
        result = []
        beginning = Renderer(self, tokenizer, frozenset(ends)).beginning
        encoded = super().encode(examples, tokenizer, max_length=max_length, ends=ends)
        for example, ours in zip(examples, encoded, strict=True):
            question = tokenizer(example.question, add_special_tokens=False)["input_ids"]
            start = len(beginning) + len(question)
            if not 0 < start < ours.end:
                raise DataError(f"example {example.id!r}: the question has no token to begin from")
            result.append(replace(ours, tokens=ours.tokens[: ours.end], start=start))
        return result
