"""Prompts as other evaluation codes write them, for numbers that can be compared with theirs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from uwc.data.example import Example
from uwc.data.prompts import EncodedExample, PromptTemplate
from uwc.errors import DataError


@dataclass(frozen=True)
class OpenUnlearningTemplate(PromptTemplate):
    """The prompt of OpenUnlearning: its plain form ends in a space, and the answer begins where its tokens end.

    Where the tokenizer joins that space to the answer's first word, the first token of the answer lies inside the
    prompt's length, and is neither scored nor counted.
    """

    text: str = "Question: {question}\nAnswer: "
    separator: str = ""

    def encode(self, examples: Sequence[Example], tokenizer: Any, *, max_length: int) -> list[EncodedExample]:
        """As `PromptTemplate.encode`, with the answer's start at the length of the prompt's own tokens."""
        encoded = super().encode(examples, tokenizer, max_length=max_length)
        result = []
        for example, ours in zip(examples, encoded, strict=True):
            prompt = tokenizer(self._prompt(example, tokenizer), add_special_tokens=False)["input_ids"]
            start = min(max(ours.start, len(self._prefix(tokenizer)) + len(prompt)), len(ours.tokens) - 1)
            result.append(EncodedExample(ours.id, ours.tokens, start, max(ours.end, start)))
        return result


@dataclass(frozen=True)
class OfficialTemplate(PromptTemplate):
    """The prompt of the paper's official evaluation: ``### Question: {question}\\n ### Answer: {answer}``.

    What it calls the answer begins after as many tokens as the bare question has, so inside the question, and has no
    end-of-sequence token.
    """

    text: str = "### Question: {question}\n ### Answer:"
    chat: bool = False

    def encode(self, examples: Sequence[Example], tokenizer: Any, *, max_length: int) -> list[EncodedExample]:
        """As `PromptTemplate.encode`, with the start at the token count of the bare question, and no end token.

        Raises:
            DataError: the question has no token, or so many that nothing of the answer is left.
        """
        result = []
        for example, ours in zip(examples, super().encode(examples, tokenizer, max_length=max_length), strict=True):
            question = tokenizer(example.question, add_special_tokens=False)["input_ids"]
            start = len(self._prefix(tokenizer)) + len(question)
            if not 0 < start < ours.end:
                raise DataError(f"example {example.id!r}: the question has no token to begin from")
            result.append(EncodedExample(ours.id, ours.tokens[: ours.end], start, ours.end))
        return result
