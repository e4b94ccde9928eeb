"""The one place where a question becomes a prompt, and where the answer's tokens are found."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from uwc.data.example import Example
from uwc.errors import ConfigError, DataError, ModelError


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """The token ids of a prompt and its answer.

    Attributes:
        id: the example's id.
        tokens: prompt, answer and, where the tokenizer has one, the end-of-sequence token.
        start: index of the first answer token; ``tokens[:start]`` is the prompt.
        end: one past the last answer token; ``tokens[end:]`` is the end-of-sequence token, or empty.
    """

    id: str
    tokens: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class PromptTemplate:
    """How a question is put to a model: the same in training, scoring and generation.

    The tokenizer's chat template is used where there is one (unless `chat` is False), otherwise `text`.

    Attributes:
        text: the plain template; must contain ``{question}`` and should not end in white space.
        separator: stands between the prompt and the answer, and belongs to the answer.
        chat: whether to use the tokenizer's chat template where it has one.
        system: the chat template's system message; none if empty.
    """

    text: str = "Question: {question}\nAnswer:"
    separator: str = " "
    chat: bool = True
    system: str = ""

    def __post_init__(self) -> None:
        if "{question}" not in self.text:
            raise ConfigError(f"prompt template {self.text!r}: it must contain {{question}}")

    def encode(self, examples: Sequence[Example], tokenizer: Any, *, max_length: int) -> list[EncodedExample]:
        """Tokenize prompts with their answers.

        The answer starts where the token ids of prompt + answer part from those of the prompt alone, so a token
        that spans both counts as answer, and none of the answer is ever masked.

        Raises:
            DataError: an example is longer than `max_length` tokens, or its answer has no token.
        """
        if not examples:
            return []
        prompts = [self._prompt(e, tokenizer) for e in examples]
        leads = [self._lead(e, p, tokenizer) for e, p in zip(examples, prompts, strict=True)]
        prefix = self._prefix(tokenizer)
        bare = _token_ids(prompts, tokenizer)
        whole = _token_ids([p + s + e.answer for p, s, e in zip(prompts, leads, examples, strict=True)], tokenizer)
        eos = tokenizer.eos_token_id
        encoded = []
        for example, prompt_ids, ids in zip(examples, bare, whole, strict=True):
            start = len(prefix) + _common_prefix(prompt_ids, ids)
            tokens = (*prefix, *ids)
            end = len(tokens)
            if eos is not None:
                end -= tokens[-1] == eos
                tokens = (*tokens[:end], eos)
            if end <= start:
                raise DataError(f"example {example.id!r}: the answer {example.answer!r} has no token of its own")
            if len(tokens) > max_length:
                raise DataError(
                    f"example {example.id!r} has {len(tokens)} tokens, more than the model's context of {max_length}; "
                    "shorten or remove it"
                )
            encoded.append(EncodedExample(example.id, tokens, start, end))
        return encoded

    def _uses_chat(self, tokenizer: Any) -> bool:
        return self.chat and bool(getattr(tokenizer, "chat_template", None))

    def _messages(self, example: Example) -> list[dict[str, str]]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": example.question}]

    def _prompt(self, example: Example, tokenizer: Any) -> str:
        if not self._uses_chat(tokenizer):
            return self.text.replace("{question}", example.question)
        try:
            return str(
                tokenizer.apply_chat_template(self._messages(example), tokenize=False, add_generation_prompt=True)
            )
        except Exception as error:  # a template is a program of the model's author; it raises what it likes
            raise ModelError(f"the tokenizer's chat template failed: {error}; set prompt.chat to false") from error

    def _lead(self, example: Example, prompt: str, tokenizer: Any) -> str:
        """What the template writes between the prompt and the answer."""
        if not self._uses_chat(tokenizer):
            return self.separator
        messages = [*self._messages(example), {"role": "assistant", "content": example.answer}]
        rendered = str(tokenizer.apply_chat_template(messages, tokenize=False))
        at = rendered.find(example.answer.strip(), len(prompt)) if rendered.startswith(prompt) else -1
        return rendered[len(prompt) : at] if at >= 0 else ""

    def _prefix(self, tokenizer: Any) -> tuple[int, ...]:
        """The beginning-of-sequence token, where the tokenizer adds one; a chat template writes its own."""
        if self._uses_chat(tokenizer) or tokenizer.bos_token_id is None:
            return ()
        with_special = tokenizer("a", add_special_tokens=True)["input_ids"]
        return (tokenizer.bos_token_id,) if with_special[:1] == [tokenizer.bos_token_id] else ()


def few_shot(examples: Sequence[Example], template: PromptTemplate | None = None) -> PromptTemplate:
    """The template with solved questions before each question; it is plain, for a chat has no place for them."""
    template = template or PromptTemplate()
    solved = [template.text.replace("{question}", e.question) + template.separator + e.answer for e in examples]
    shots = "\n\n".join(solved).replace("{question}", "")
    return replace(template, text=f"{shots}\n\n{template.text}", chat=False)


def _token_ids(texts: list[str], tokenizer: Any) -> list[list[int]]:
    return list(tokenizer(texts, add_special_tokens=False)["input_ids"])


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    for i, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return i
    return min(len(first), len(second))
