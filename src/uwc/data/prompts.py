"""Prompts: renders and tokenizes conversations, and finds the tokens of the answer and of its end."""

import datetime
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from uwc import progress
from uwc.data.example import Example
from uwc.data.limits import time_limit
from uwc.errors import ConfigError, DataError, ModelError, brief, is_failure

Span = tuple[list[int], int, int, list[int]]


def find_spans(texts: Sequence[tuple[str, int, int]], tokenizer: Any) -> list[Span]:
    """Tokenize texts without special tokens, and find the tokens of ``text[start:end]`` and where they end.

    Args:
        texts: (text, start, end), in characters; the span does not end with white space.
        tokenizer: a transformers tokenizer.

    Returns:
        For each text its token ids, the index of the first token of the span, one past its last, and for each token of
        the span the end of its characters in the text.
    """
    try:
        return _found_spans(texts, tokenizer)
    except BaseException as error:
        if not is_failure(error) or isinstance(error, MemoryError):
            raise
        raise ModelError(
            f"the model's tokenizer failed on a text ({error}); put the tokenizer.json there that belongs to it"
        ) from error


def _found_spans(texts: Sequence[tuple[str, int, int]], tokenizer: Any) -> list[Span]:
    whole = [text for text, _, _ in texts]
    if getattr(tokenizer, "is_fast", False):
        encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
        found = zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True)
        return [(list(ids), *_by_offsets(offsets, start, end)) for (_, start, end), ids, offsets in found]
    ids = list(tokenizer(whole, add_special_tokens=False)["input_ids"])
    heads = list(tokenizer([text[:start] for text, start, _ in texts], add_special_tokens=False)["input_ids"])
    tails = list(tokenizer([text[end:] for text, _, end in texts], add_special_tokens=False)["input_ids"])
    spans: list[Span] = []
    for (_, _, end), row, head, tail in zip(texts, ids, heads, tails, strict=True):
        first, last = _by_ends(row, head, tail, tokenizer)
        spans.append((list(row), first, last, _decoded_ends(row[first:last], end, tokenizer)))
    return spans


def _by_offsets(offsets: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, int, list[int]]:
    """The tokens whose characters overlap start..end, and the end of each."""
    inside = [i for i, (first, last) in enumerate(offsets) if first < end and last > start]
    if not inside:
        return 0, 0, []
    return inside[0], inside[-1] + 1, [last for _, last in offsets[inside[0] : inside[-1] + 1]]


def _decoded_ends(ids: Sequence[int], end: int, tokenizer: Any) -> list[int]:
    """The end of each token of a span that ends at a character, from the lengths of its decoded beginnings."""
    lengths = [len(tokenizer.decode(ids[: i + 1])) for i in range(len(ids))]
    return [end - lengths[-1] + length for length in lengths]


def _by_ends(ids: Sequence[int], head: Sequence[int], tail: Sequence[int], tokenizer: Any) -> tuple[int, int]:
    """The tokens after the common prefix with the text before the span, and before the common suffix with the text
    after it. White space at the end belongs to the text after the span."""
    first = common_prefix(head, ids)
    last = len(ids) - common_prefix(tail[::-1], ids[::-1])
    while last > first and not tokenizer.decode([ids[last - 1]]).strip():
        last -= 1
    return first, last


def common_prefix(first: Sequence[Any], second: Sequence[Any]) -> int:
    """The length of the common prefix of two sequences."""
    for i, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return i
    return min(len(first), len(second))


TEMPLATE_SECONDS = 10.0
"""The longest time in which a chat template renders one conversation."""
TEMPLATE_OUTPUT = 1000
"""The most characters that a chat template writes for each that it is given, and for as many more."""
DATE = "2025-04-10"
"""Today's date for chat templates that ask for it; the same as OpenUnlearning's."""

_OURS = ("messages", "conversation", "chat_template", "tokenize", "add_generation_prompt", "continue_final_message")
_DIRECTIVES = "aAbBdeHIjmMpSuUwWyYFDZ"
_TURN = "\n\n"
"""Separator of two questions in a plain prompt."""
_AT_ONCE = 1024
"""Texts that are tokenized at once: a tokenizer returns some 100 bytes a token, of which few are kept."""


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """The token ids of a conversation: prompt, answer and end.

    Attributes:
        id: the example's id.
        tokens: prompt, answer and the end of the turn.
        start: index of the first answer token; ``tokens[:start]`` is the prompt.
        end: one past the last answer token; ``tokens[end:]`` is the end of the turn: the template's text after the
            answer, up to and including the first token that ends the turn. It may be empty.
        answer: the answer's text as the template renders it.
        prompt: the ids that a generated answer continues, if they are not ``tokens[:start]``.
        labelled: the text of answer and end, decoded from their tokens, if it is read in place of `answer`.
        unattended: a token id that is never attended to; None if all tokens are.
        ends: for each answer token, the number of characters of `answer` up to its end; empty if that is not known.
    """

    id: str
    tokens: tuple[int, ...]
    start: int
    end: int
    answer: str = ""
    prompt: tuple[int, ...] | None = None
    labelled: str | None = None
    unattended: int | None = None
    ends: tuple[int, ...] = ()

    @property
    def before(self) -> tuple[int, ...]:
        """The ids that a generated answer continues."""
        return self.tokens[: self.start] if self.prompt is None else self.prompt


@dataclass(frozen=True)
class PromptTemplate:
    """A prompt template, the same in training, scoring and generation.

    The tokenizer's chat template is used if there is one and `chat` is True, otherwise `text`.

    Attributes:
        text: the plain template; must contain ``{question}`` and should not end in white space.
        separator: the text between prompt and answer; a part of the answer.
        chat: whether to use the tokenizer's chat template if it has one.
        system: the system message; none if empty. A plain prompt begins with it.
        date: today's date for chat templates, as ``YYYY-MM-DD``; None is `DATE`.
        template_arguments: further arguments of the chat template, such as ``{"enable_thinking": False}``.
        stop: the texts at which a generated answer ends; see `stop_texts`.
    """

    text: str = "Question: {question}\nAnswer:"
    separator: str = " "
    chat: bool = True
    system: str = ""
    date: str | None = None
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    stop: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.stop is not None and not all(self.stop):
            raise ConfigError("prompt.stop: an empty text ends every answer; remove it")
        if "{question}" not in self.text:
            raise ConfigError(f"prompt template {brief(self.text)}: it must contain {{question}}")
        for name in self.template_arguments:
            if name in _OURS:
                raise ConfigError(f"prompt.template_arguments: {name!r} is set by uwc itself; remove it")
        try:
            datetime.date.fromisoformat(self.date or DATE)
        except ValueError:
            raise ConfigError(f"prompt.date = {self.date!r}: write a day as YYYY-MM-DD, such as {DATE}") from None

    def encode(
        self, examples: Sequence[Example], tokenizer: Any, *, max_length: int, ends: Collection[int] = ()
    ) -> list[EncodedExample]:
        """Render each conversation, tokenize it once, and find prompt, answer and end in it.

        Everything before the answer is prompt, including text that the chat template writes at the beginning of the
        model's turn (an empty thinking block, a channel). A token that contains a part of the answer is an answer
        token. White space around an answer, and end tokens after it, are not part of it.

        The end is the template's text after the answer, up to and including the first token that ends the turn: one of
        `ends` or the tokenizer's end-of-sequence token or, if there is neither, the first added token of the tokenizer.
        If the template writes nothing after the answer, and after a plain prompt, the end is the token that begins the
        next turn if this is one of `ends`, otherwise the end-of-sequence token.

        A passage is read as it is, after the tokens that the tokenizer adds before a text, and has no end. Its first
        token is never an answer token, since nothing predicts it.

        Args:
            examples: questions, answers and earlier turns.
            tokenizer: a transformers tokenizer.
            max_length: the model's context, in tokens.
            ends: further tokens that end a turn, as the model's generation configuration lists them.

        Raises:
            DataError: an example is longer than `max_length` tokens, or its answer has no token.
            ModelError: the chat template fails, or does not render the answer.
            ConfigError: the template does not use the system message, the date or an argument that is given.
        """
        if not examples:
            return []
        renderer = Renderer(self, tokenizer, frozenset(ends))
        encoded: list[EncodedExample] = []
        numbers: dict[int, int] = {}
        for start in range(0, len(examples), _AT_ONCE):
            encoded += _encoded(examples[start : start + _AT_ONCE], renderer, max_length, numbers)
        _tell_trimmed(examples, encoded)
        return encoded

    def plain(self, example: Example, *, trimmed: Callable[[str], str] = str.strip) -> str:
        """A plain prompt up to the answer: the system message, earlier questions with answers, and the question.

        Args:
            example: the question.
            trimmed: is applied to earlier answers.

        Raises:
            DataError: it is a passage, which has no prompt.
        """
        _require_question(example)
        parts = [self.system] if self.system else []
        question = ""
        for role, said in example.history:
            if role == "user":
                question = self.text.replace("{question}", said)
            else:
                parts.append(said if role == "system" else question + self.separator + trimmed(said))
        asked = self.text.replace("{question}", example.question)
        return _TURN.join([*parts, asked + self.separator + example.prefill if example.prefill else asked])

    def turns(self, example: Example, *, trimmed: Callable[[str], str] = str.strip) -> list[tuple[str, str]]:
        """The conversation up to the question as (role, text); arguments and errors as those of `plain`."""
        _require_question(example)
        given = [role for role, _ in example.history]
        system = [("system", self.system)] if self.system and "system" not in given else []
        turns = [(role, trimmed(text) if role == "assistant" else text) for role, text in example.history]
        return [*system, *turns, ("user", example.question)]

    def stop_texts(self, *, chat: bool) -> tuple[str, ...]:
        """The texts at which a generated answer ends, besides the tokens that end a turn.

        Those of `stop`; by default none in a chat, and of a plain prompt a new line with what stands before the
        question on its line, such as ``"\\nQuestion:"``, with which a base model runs on to the next question.
        """
        if self.stop is not None:
            return self.stop
        before = self.text.partition("{question}")[0].strip().rpartition("\n")[2]
        return (f"\n{before}",) if before and not chat else ()

    def require_used(self, tokenizer: Any) -> None:
        """Raise ConfigError if the prompts of a tokenizer do not use the date or an argument that is given."""
        if self.date is not None or self.template_arguments:
            Renderer(self, tokenizer, frozenset())

    def uses_chat(self, tokenizer: Any) -> bool:
        """Whether the chat template of this tokenizer is used."""
        return self.chat and bool(getattr(tokenizer, "chat_template", None))


def end_ids(tokenizer: Any, generation_config: Any = None) -> tuple[int, ...]:
    """The tokens that end a model's turn: the tokenizer's end of sequence, and those of its generation configuration.

    An ordinary token among the latter, which the default configuration of another tokenizer may list, is left out with
    a note.
    """
    listed = getattr(generation_config, "eos_token_id", None)
    named = [listed] if isinstance(listed, int) else list(listed or ())
    added = added_tokens(tokenizer)
    ordinary = [t for t in named if t not in added and t != tokenizer.eos_token_id]
    for token in ordinary:
        progress.warn(
            f"the generation configuration names token {token} ({tokenizer.convert_ids_to_tokens(token)!r}) as an end, "
            "which is an ordinary token of this tokenizer; generated answers do not end there"
        )
    own = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return tuple(dict.fromkeys([*own, *(t for t in named if t not in ordinary)]))


def added_tokens(tokenizer: Any) -> frozenset[int]:
    """The tokens that are not ordinary text: special ones and all that were added to the vocabulary."""
    return frozenset(tokenizer.all_special_ids) | frozenset(getattr(tokenizer, "added_tokens_decoder", {}))


@dataclass(frozen=True)
class _Rendered:
    """A conversation as text; ``text[start:end]`` is the answer, in a plain prompt with the separator before it."""

    text: str
    start: int
    end: int
    answer: str


class Renderer:
    """A prompt template with a tokenizer: renders conversations and ends turns.

    Args:
        template: the prompt template.
        tokenizer: a transformers tokenizer.
        ends: the tokens that end a turn, besides the tokenizer's end of sequence.

    Raises:
        ConfigError: the chat template does not use the date or an argument that is given.
    """

    def __init__(self, template: PromptTemplate, tokenizer: Any, ends: frozenset[int]) -> None:
        self.template, self.tokenizer = template, tokenizer
        self.chat = template.uses_chat(tokenizer)
        own = frozenset() if tokenizer.eos_token_id is None else frozenset([tokenizer.eos_token_id])
        self.ends = ends | own
        self._added = added_tokens(tokenizer)
        self._end_texts = [t for t in tokenizer.convert_ids_to_tokens(sorted(self.ends)) if t]
        self._source, self._arguments = self._chat_template() if self.chat else ("", {})
        if not self.chat and (template.date is not None or template.template_arguments):
            raise ConfigError(
                "prompt: date and template_arguments are for chat templates, and no chat template is used here; "
                "remove them"
            )

    @cached_property
    def beginning(self) -> tuple[int, ...]:
        """The tokens that the tokenizer adds before a text; none with a chat template, which writes its own."""
        return () if self.chat else self.opening

    @property
    def opening(self) -> tuple[int, ...]:
        """The tokens that the tokenizer adds before a text."""
        return self._around[0]

    def end(self, after: Sequence[int]) -> tuple[int, ...]:
        """The tokens of the end, given those that the template writes after the answer."""
        for ending in (self.ends, self._added):
            for i, token in enumerate(after):
                if token in ending:
                    return tuple(after[: i + 1])
        return tuple(after) or self._closing

    def rendered(self, example: Example) -> _Rendered:
        """The rendered conversation or passage."""
        if example.raw:
            answer = example.answer.rstrip()
            whole = example.question + answer
            return _Rendered(whole, len(example.question), len(whole), answer)
        answer = self._trimmed(example.answer)
        if not self.chat:
            before = self.plain(example)
            whole = before + self._separator(example) + answer
            return _Rendered(whole, len(before), len(whole), answer)
        mark = _unused([example.question, example.prefill, *(text for _, text in example.history)])
        marked = self._render(example, mark)
        at = marked.rfind(mark)
        if at < 0:
            raise ModelError(
                f"the chat template does not write the answer of example {example.id!r}; set prompt.chat to false, or "
                "give a template that writes the assistant's messages"
            )
        before, after = marked[:at], marked[at + len(mark) :]
        whole = self._render(example, answer)
        if whole.startswith(before) and whole.endswith(after) and len(before) + len(after) <= len(whole):
            start, end = len(before), len(whole) - len(after)
        else:  # the template renders this answer differently
            start = whole.rfind(answer, common_prefix(before, whole))
            end = start + len(answer)
        if start < 0 or not whole[start:end].strip():
            raise ModelError(
                f"the chat template does not write the answer of example {example.id!r} as it is ({answer[:60]!r}); "
                "set prompt.chat to false, or leave the example out"
            )
        text = whole[start:end]
        start, end = start + len(text) - len(text.lstrip()), end - len(text) + len(text.rstrip())
        return _Rendered(whole, start, end, whole[start:end])

    def _trimmed(self, answer: str) -> str:
        """The answer without surrounding white space and without end tokens after it."""
        answer = answer.strip()
        while (found := next((t for t in self._end_texts if answer.endswith(t) and answer != t), None)) is not None:
            answer = answer.removesuffix(found).rstrip()
        return answer

    def plain(self, example: Example) -> str:
        """A plain prompt up to the answer, see `PromptTemplate.plain`."""
        return self.template.plain(example, trimmed=self._trimmed)

    def _separator(self, example: Example) -> str:
        """The text between a plain prompt and the answer."""
        return " " if example.prefill else self.template.separator

    def turns(self, example: Example, answer: str) -> list[tuple[str, str]]:
        """The conversation as (role, text), the last turn the model's."""
        prefill = f"{example.prefill} " if example.prefill else ""
        return [*self.template.turns(example, trimmed=self._trimmed), ("assistant", prefill + answer)]

    def _render(self, example: Example, answer: str) -> str:
        return self.apply(self.turns(example, answer))

    def apply(self, turns: Sequence[tuple[str, str]], *, add_generation_prompt: bool = False) -> str:
        """The chat template's rendering. Raises ModelError if it fails."""
        return self._apply(turns, in_parts=self._in_parts, add_generation_prompt=add_generation_prompt)

    @cached_property
    def _in_parts(self) -> bool:
        """Whether the template takes contents as lists of parts, as those of multimodal models may."""
        return not self._writes_answers(in_parts=False) and self._writes_answers(in_parts=True)

    def _writes_answers(self, *, in_parts: bool) -> bool:
        mark = _unused([])
        try:
            return mark in self._apply([("user", "a"), ("assistant", mark)], in_parts=in_parts)
        except ModelError:
            return False

    def _apply(self, turns: Sequence[tuple[str, str]], *, in_parts: bool, add_generation_prompt: bool = False) -> str:
        messages = [
            {"role": role, "content": [{"type": "text", "text": text}] if in_parts else text} for role, text in turns
        ]
        arguments = {**self._arguments, "add_generation_prompt": add_generation_prompt}
        try:
            with time_limit(TEMPLATE_SECONDS):
                rendered = str(
                    self.tokenizer.apply_chat_template(
                        messages, tokenize=False, chat_template=self._source, **arguments
                    )
                )
        except TimeoutError as error:
            raise ModelError(
                f"the tokenizer's chat template did not end within {TEMPLATE_SECONDS:g} s; set prompt.chat to false"
            ) from error
        except Exception as error:  # a template may raise anything
            reason = " ".join(str(error).split())[:200]
            reason += "; it may take no system message" if turns[0][0] == "system" else ""
            raise ModelError(f"the tokenizer's chat template failed: {reason}; set prompt.chat to false") from error
        given = sum(len(text) for _, text in turns)
        if len(rendered) > TEMPLATE_OUTPUT * (given + TEMPLATE_OUTPUT):
            raise ModelError(
                f"the tokenizer's chat template writes {len(rendered):,} characters for a conversation of {given:,}; "
                "set prompt.chat to false"
            )
        return rendered

    def _chat_template(self) -> tuple[str, dict[str, Any]]:
        """The template's source, with the date pinned, and its arguments."""
        try:
            source = str(self.tokenizer.get_chat_template())
        except ValueError as error:  # several, and none of them is the default
            raise ModelError(f"{brief(str(error), 200)}; set prompt.chat to false, or name one 'default'") from error
        arguments = dict(self.template.template_arguments)
        for name in arguments:
            if name not in source:
                raise ConfigError(f"prompt.template_arguments: the chat template has no argument {name!r}; remove it")
        day = datetime.date.fromisoformat(self.template.date or DATE)
        if self.template.date is not None:
            if not any(name in source for name in ("strftime_now", "date_string")):
                raise ConfigError("prompt.date: the chat template writes no date; remove it")
            if "date_string" in source:
                arguments.setdefault("date_string", day.strftime("%d %b %Y"))
        return (_strftime_macro(day) + source if "strftime_now" in source else source), arguments

    @cached_property
    def _closing(self) -> tuple[int, ...]:
        """The token that ends a turn if the template writes nothing after it."""
        if self.chat:
            mark = _unused([])
            try:
                turns = [("user", "a"), ("assistant", mark), ("user", "a")]
                following = self.apply(turns).rpartition(mark)[2]
            except ModelError:  # a template of single questions
                following = ""
            ids = self.tokenizer(following, add_special_tokens=False)["input_ids"]
            spoken = [t for t in ids if self.tokenizer.decode([t]).strip() or t in self._added]
            if spoken and spoken[0] in self.ends:
                return (spoken[0],)
        elif self._around[1]:
            return self.end(self._around[1])
        return () if self.tokenizer.eos_token_id is None else (self.tokenizer.eos_token_id,)

    @cached_property
    def _around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The tokens that the tokenizer's post-processor adds before and after a text."""
        bare = list(self.tokenizer("a", add_special_tokens=False)["input_ids"])
        whole = list(self.tokenizer("a", add_special_tokens=True)["input_ids"])
        for at in range(len(whole) - len(bare) + 1):
            if whole[at : at + len(bare)] == bare:
                return tuple(whole[:at]), tuple(whole[at + len(bare) :])
        return (), ()


def _require_question(example: Example) -> None:
    """Raise DataError for a passage, which no prompt asks."""
    if example.raw:
        raise DataError(
            f"example {example.id!r} is a passage, which has no prompt: neither score.compat nor a server that is "
            "asked for answers has one for it; leave passages out there"
        )


def _unused(texts: Collection[str]) -> str:
    """A word that is in none of the texts, and that no template changes."""
    word = "uwcanswer"
    while any(word in text for text in texts):
        word += "x"
    return word


def _strftime_macro(day: datetime.date) -> str:
    """A Jinja macro that overrides the function `strftime_now` with a fixed day at midnight."""
    moment = datetime.datetime.combine(day, datetime.time())
    unpadded = {"%-d": day.day, "%-m": day.month, "%-j": day.timetuple().tm_yday, "%-H": 0, "%-I": 12, "%-M": 0}
    padded = {f"%{letter}": moment.strftime(f"%{letter}") for letter in _DIRECTIVES}
    values = {key: str(value) for key, value in unpadded.items()} | padded
    filters = "".join(f"|replace({key!r}, {value!r})" for key, value in values.items())
    return f"{{% macro strftime_now(format) %}}{{{{ format{filters} }}}}{{% endmacro %}}\n"


def _encoded(
    examples: Sequence[Example], renderer: Renderer, max_length: int, numbers: dict[int, int]
) -> Iterator[EncodedExample]:
    """Encode some examples; `numbers` has one object for each token, since every new one takes 28 bytes."""
    texts = [renderer.rendered(e) for e in examples]
    spans = find_spans([(t.text, t.start, t.end) for t in texts], renderer.tokenizer)
    for example, text, (ids, start, end, characters) in zip(examples, texts, spans, strict=True):
        if end <= start:
            raise DataError(
                f"example {example.id!r}: the answer {example.answer!r} has no token of its own; correct it or "
                "remove the example"
            )
        beginning = renderer.opening if example.raw else renderer.beginning
        before = beginning if tuple(ids[: len(beginning)]) != beginning else ()
        tokens = (*before, *ids[:end], *(() if example.raw else renderer.end(ids[end:])))
        if len(tokens) > max_length:
            raise DataError(
                f"example {example.id!r} has {len(tokens)} tokens, more than the model's context of {max_length}; "
                "shorten or remove it"
            )
        shift = len(before)
        at, length = text.end - len(text.answer), len(text.answer)
        within = tuple(min(max(place - at, 0), length) for place in characters)
        first = max(start + shift, 1) if example.raw else start + shift
        if first >= end + shift:
            raise DataError(f"example {example.id!r}: the passage is a single token; write more of it")
        ends_of = within[first - start - shift :]
        tokens = tuple(map(numbers.setdefault, tokens, tokens))
        answer = example.answer if example.answer == text.answer else text.answer
        yield EncodedExample(example.id, tokens, first, end + shift, answer, ends=ends_of)


def _tell_trimmed(examples: Sequence[Example], encoded: Sequence[EncodedExample]) -> None:
    changed = [e.id for e, t in zip(examples, encoded, strict=True) if e.answer != t.answer]
    if changed:
        progress.warn(
            f"{len(changed)} of {len(examples)} answers (such as that of {changed[0]!r}) begin or end with white space "
            "or an end token, or are changed by the chat template; they are scored as the template renders them"
        )
