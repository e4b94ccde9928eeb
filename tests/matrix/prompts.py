"""Tokenizers and chat templates in the structure of real ones, made from nothing; none is copied.

A `Prompt` is a tokenizer with the way in which a conversation is written, and the token ids that end a turn. Together
they hold the kinds that real checkpoints have: what the post-processor writes at the beginning, what a template writes
before an answer and after it, and how text is cut into tokens.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, CTRLTokenizer, PreTrainedTokenizerFast

Make = Callable[[Sequence[str]], Any]


@dataclass(frozen=True)
class Prompt:
    """A tokenizer with the way in which a conversation is written.

    Attributes:
        name: what tests call it.
        note: what is special about it, for the table.
        make: texts to train on -> the tokenizer, with its chat template.
        ends: the tokens in the generation config's list of ends, where it is more than the tokenizer's own.
    """

    name: str
    note: str
    make: Make
    ends: tuple[str, ...] = ()


def _fast(tokenizer: Tokenizer, special: Sequence[str], template: str, **named: str) -> PreTrainedTokenizerFast:
    known = set(named.values())
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, additional_special_tokens=[s for s in special if s not in known], **named
    )
    made.chat_template = template or None
    return made


def _begin(tokenizer: Tokenizer, *tokens: str, end: str = "") -> None:
    """Let the post-processor write these tokens before each text, and one after it."""
    names = [*tokens, *([end] if end else [])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=" ".join([*tokens, "$A", *([end] if end else [])]),
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in names],
    )


def byte_level(
    special: Sequence[str],
    template: str = "",
    *,
    begin: Sequence[str] = (),
    newlines: bool = False,
    vocabulary: int = 420,
    **named: str,
) -> Make:
    """Byte-level BPE; with `newlines`, as in Llama 3, line ends join the punctuation before them."""

    def make(texts: Sequence[str]) -> Any:
        tokenizer = Tokenizer(models.BPE())
        cut: list[Any] = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not newlines)]
        if newlines:
            words = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            cut.insert(0, pre_tokenizers.Split(Regex(words), "isolated"))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cut)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(special),
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
        tokenizer.train_from_iterator(texts, trainer)
        if begin:
            _begin(tokenizer, *begin)
        return _fast(tokenizer, special, template, **named)

    return make


def sentencepiece_bpe(
    special: Sequence[str],
    template: str = "",
    *,
    prefix: bool,
    begin: Sequence[str] = (),
    strip_right: bool = False,
    pieces: int = 260,
    **named: str,
) -> Make:
    """BPE over words that begin with "▁", and bytes for what is in no word.

    Args:
        special: special tokens, in the order of their ids.
        template: the chat template.
        prefix: whether a space is put before a text, as in Llama; Gemma has none.
        begin: what the post-processor writes before a text.
        strip_right: whether special tokens swallow the white space after them, as in Phi-3.
        pieces: how many pieces beside special tokens and bytes.
        named: the tokenizer's tokens by name.
    """

    def make(texts: Sequence[str]) -> Any:
        learner = Tokenizer(models.BPE())
        learner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first" if prefix else "never")
        learner.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=pieces, show_progress=False))
        learnt = json.loads(learner.to_str())["model"]
        entries = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *learnt["vocab"]]
        merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in learnt["merges"]]
        vocabulary = {entry: number for number, entry in enumerate(dict.fromkeys(entries))}
        tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
        if prefix:
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        else:
            tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tail = [decoders.Strip(content=" ", left=1)] if prefix else []
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *tail]
        )
        tokenizer.add_special_tokens(
            [AddedToken(s, special=True, normalized=False, rstrip=strip_right) for s in special]
        )
        if begin:
            _begin(tokenizer, *begin)
        return _fast(tokenizer, special, template, **named)

    return make


def unigram(special: Sequence[str], template: str = "", *, pieces: int = 200, **named: str) -> Make:
    """A Unigram model over words that begin with "▁"; each piece of text between special tokens begins a word."""

    def make(texts: Sequence[str]) -> Any:
        words = Counter("▁" + word for text in texts for word in re.findall(r"[^ ]+", text))
        counts = {c: sum(words.values()) for word in words for c in word} | dict(_common_parts(words, pieces))
        scores = [(piece, math.log(count / sum(counts.values()))) for piece, count in counts.items()]
        entries = [*((s, 0.0) for s in special), *scores]
        tokenizer = Tokenizer(models.Unigram(entries, unk_id=list(special).index("<unk>")))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
        tokenizer.add_special_tokens(list(special))
        return _fast(tokenizer, special, template, **named)

    return make


def word_piece(special: Sequence[str], *, pieces: int = 100, **named: str) -> Make:
    """WordPiece of lower-cased words, with a token before and after each text, as in BERT."""

    def make(texts: Sequence[str]) -> Any:
        words = Counter(word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower()))
        characters = sorted({c for word in words for c in word})
        parts = [part for part, _ in _common_parts(words, pieces)]
        known = sorted(word for word, count in words.items() if count > 1)
        entries = [*special, *characters, *(f"##{c}" for c in characters), *known, *parts, *(f"##{p}" for p in parts)]
        vocabulary = {entry: number for number, entry in enumerate(dict.fromkeys(entries))}
        tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        tokenizer.add_special_tokens(list(special))
        _begin(tokenizer, "[CLS]", end="[SEP]")
        return _fast(tokenizer, special, "", **named)

    return make


def _common_parts(words: Counter[str], most: int) -> list[tuple[str, int]]:
    """The most common parts of two to five characters of the words, with their counts; the trainers of the tokenizers
    package do not always learn the same ones."""
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for size in range(2, 6):
            for at in range(len(word) - size + 1):
                counts[word[at : at + size]] += count
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]


def byt5(_texts: Sequence[str]) -> Any:
    """Bytes; a tokenizer in Python that writes an end after each text."""
    return ByT5Tokenizer(extra_ids=0)


def python_bpe(texts: Sequence[str]) -> Any:
    """BPE in Python, as in CTRL: words take the line end after them, and spaces between words are no tokens."""
    found = Counter(word for text in texts for word in re.findall(r"\S+\n?", text))
    words = {(*word[:-1], word[-1] + "</w>"): count for word, count in found.items()}
    pieces = sorted({p for c in "".join(found) for p in (c, c + "</w>")})
    merges: list[tuple[str, str]] = []
    for _ in range(240):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                pairs[pair] += count if "\n" not in pair[1] else 0  # the file of merges has a pair on each line
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = {_merged(word, best): count for word, count in words.items()}
    pieces += map("".join, merges)
    entries = [p.removesuffix("</w>") if p.endswith("</w>") else f"{p}@@" for p in pieces]
    vocabulary = {e: i for i, e in enumerate(dict.fromkeys(["<unk>", "<end>", "<pad>", *entries]))}
    with TemporaryDirectory() as folder:
        names = [str(Path(folder) / name) for name in ("vocab.json", "merges.txt")]
        Path(names[0]).write_text(json.dumps(vocabulary), encoding="utf-8")
        Path(names[1]).write_text("\n".join(["#version: 0.2", *map(" ".join, merges), ""]), encoding="utf-8")
        return CTRLTokenizer(*names, unk_token="<unk>", eos_token="<end>", pad_token="<pad>")


def _merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """The word's pieces, wherever the two stand side by side joined."""
    joined: list[str] = []
    for piece in word:
        if joined and (joined[-1], piece) == pair:
            joined[-1] += piece
        else:
            joined.append(piece)
    return tuple(joined)


def _chat(user: str, assistant: str, *, opening: str, before: str = "") -> str:
    """A chat template: how a user's turn and an assistant's are written, and what asks for an answer."""
    return (
        f"{before}{{% for m in messages %}}{{% if m.role == 'assistant' %}}{assistant}"
        f"{{% else %}}{user}{{% endif %}}{{% endfor %}}{{% if add_generation_prompt %}}{opening}{{% endif %}}"
    )


_ROLE, _TEXT, _TRIMMED = "{{ m.role }}", "{{ m.content }}", "{{ m.content | trim }}"

PROMPTS: dict[str, Prompt] = {
    prompt.name: prompt
    for prompt in (
        Prompt(
            "plain",
            "no template, byte-level BPE",
            byte_level(["<|end|>", "<|pad|>"], eos_token="<|end|>", pad_token="<|pad|>"),
        ),
        Prompt(
            "plain-bos",
            "no template, the post-processor writes a beginning",
            byte_level(["<pad>", "<s>", "</s>"], begin=["<s>"], bos_token="<s>", eos_token="</s>", pad_token="<pad>"),
        ),
        Prompt(
            "plain-two",
            "no template, the post-processor writes two tokens, none of them bos",
            byte_level(
                ["<|end|>", "<|pad|>", "[mask]", "<sop>"],
                begin=["[mask]", "<sop>"],
                eos_token="<|end|>",
                pad_token="<|pad|>",
            ),
        ),
        Prompt(
            "chatml",
            "turns end in a tag and a line end; the tag is the end token",
            byte_level(
                ["<|pad|>", "<|turn|>", "<|close|>"],
                _chat(
                    f"<|turn|>{_ROLE}\n{_TEXT}<|close|>\n",
                    f"<|turn|>{_ROLE}\n{_TEXT}<|close|>\n",
                    opening="<|turn|>assistant\n",
                ),
                eos_token="<|close|>",
                pad_token="<|pad|>",
            ),
        ),
        Prompt(
            "chatml-other-end",
            "as ChatML, with another end token than the tag",
            byte_level(
                ["<|pad|>", "<|turn|>", "<|close|>", "<|text|>"],
                _chat(
                    f"<|turn|>{_ROLE}\n{_TEXT}<|close|>\n",
                    f"<|turn|>{_ROLE}\n{_TEXT}<|close|>\n",
                    opening="<|turn|>assistant\n",
                ),
                eos_token="<|text|>",
                pad_token="<|pad|>",
            ),
            ends=("<|text|>", "<|close|>"),
        ),
        Prompt(
            "thinking",
            "the rendering has an empty thinking block, the generation prompt has none",
            byte_level(
                ["<|pad|>", "<|turn|>", "<|close|>", "<think>", "</think>"],
                _chat(
                    f"<|turn|>{_ROLE}\n{_TEXT}<|close|>\n",
                    f"<|turn|>{_ROLE}\n<think>\n\n</think>\n\n{_TEXT}<|close|>\n",
                    opening="<|turn|>assistant\n",
                ),
                eos_token="<|close|>",
                pad_token="<|pad|>",
            ),
        ),
        Prompt(
            "opened-think",
            "the generation prompt opens a thinking block, the rendering has none",
            byte_level(
                ["<|pad|>", "<|begin|>", "<|user|>", "<|answer|>", "<|stop|>"],
                _chat(
                    f"<|user|>{_TEXT}", f"<|answer|>{_TEXT}<|stop|>", opening="<|answer|><think>\n", before="<|begin|>"
                ),
                begin=["<|begin|>"],
                bos_token="<|begin|>",
                eos_token="<|stop|>",
                pad_token="<|pad|>",
            ),
        ),
        Prompt(
            "inst",
            "SentencePiece with prefix space; a space and the end token follow the answer",
            sentencepiece_bpe(
                ["<unk>", "<s>", "</s>"],
                _chat(f"<s>[Q] {_TRIMMED} [/Q]", f" {_TRIMMED} </s>", opening=""),
                prefix=True,
                begin=["<s>"],
                bos_token="<s>",
                eos_token="</s>",
                unk_token="<unk>",
                pad_token="</s>",
            ),
        ),
        Prompt(
            "inst-tight",
            "byte-level BPE; the answer follows the closing tag without a space",
            byte_level(
                ["<unk>", "<s>", "</s>", "[Q]", "[/Q]", "<pad>"],
                _chat(f"[Q]{_TEXT}[/Q]", f"{_TEXT}</s>", opening="", before="<s>"),
                begin=["<s>"],
                bos_token="<s>",
                eos_token="</s>",
                unk_token="<unk>",
                pad_token="<pad>",
            ),
        ),
        Prompt(
            "turns",
            "SentencePiece without prefix space; a turn ends in a marker that is not the end token",
            sentencepiece_bpe(
                ["<pad>", "<eos>", "<bos>", "<unk>", "<turn>", "<end>"],
                _chat(
                    f"<turn>user\n{_TRIMMED}<end>\n",
                    f"<turn>model\n{_TRIMMED}<end>\n",
                    opening="<turn>model\n",
                    before="<bos>",
                ),
                prefix=False,
                begin=["<bos>"],
                bos_token="<bos>",
                eos_token="<eos>",
                unk_token="<unk>",
                pad_token="<pad>",
            ),
            ends=("<eos>", "<end>"),
        ),
        Prompt(
            "headers",
            "header tags, and line ends that join the punctuation before them",
            byte_level(
                ["<|begin|>", "<|text|>", "<|head|>", "<|/head|>", "<|eot|>", "<|pad|>"],
                _chat(
                    f"<|head|>{_ROLE}<|/head|>\n\n{_TRIMMED}<|eot|>",
                    f"<|head|>{_ROLE}<|/head|>\n\n{_TRIMMED}<|eot|>",
                    opening="<|head|>assistant<|/head|>\n\n",
                    before="<|begin|>",
                ),
                begin=["<|begin|>"],
                newlines=True,
                bos_token="<|begin|>",
                eos_token="<|eot|>",
                pad_token="<|pad|>",
            ),
            ends=("<|text|>", "<|eot|>"),
        ),
        Prompt(
            "swallowing",
            "SentencePiece whose tags swallow white space; tag, line end and end of text follow",
            sentencepiece_bpe(
                ["<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|end|>", "<|text|>"],
                _chat(f"<|user|>\n{_TEXT}<|end|>\n", f"<|assistant|>\n{_TEXT}<|end|>\n", opening="<|assistant|>\n")
                + "{% if not add_generation_prompt %}<|text|>{% endif %}",
                prefix=True,
                strip_right=True,
                bos_token="<s>",
                eos_token="<|text|>",
                unk_token="<unk>",
                pad_token="<|text|>",
            ),
            ends=("<|text|>", "<|end|>"),
        ),
        Prompt(
            "channel",
            "the rendering names a channel, the generation prompt does not",
            byte_level(
                ["<|pad|>", "<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>"],
                _chat(
                    f"<|start|>{_ROLE}<|message|>{_TEXT}<|end|>",
                    f"<|start|>assistant<|channel|>final<|message|>{_TEXT}<|return|>",
                    opening="<|start|>assistant",
                ),
                eos_token="<|return|>",
                pad_token="<|pad|>",
            ),
        ),
        Prompt(
            "system",
            "a system message by default, roles between tags",
            byte_level(
                ["<|text|>", "<|pad|>", "<|role|>", "<|/role|>"],
                _chat(
                    f"<|role|>{_ROLE}<|/role|>{_TEXT}<|text|>\n",
                    f"<|role|>{_ROLE}<|/role|>{_TEXT}<|text|>\n",
                    opening="<|role|>assistant<|/role|>",
                    before="<|role|>system<|/role|>Answer briefly.<|text|>\n",
                ),
                eos_token="<|text|>",
                pad_token="<|pad|>",
            ),
        ),
        Prompt(
            "next-turn",
            "the template writes nothing after an answer; the next turn's tag ends it",
            byte_level(
                ["<|text|>", "<|pad|>", "[mask]", "<sop>", "<|user|>", "<|assistant|>"],
                _chat(
                    f"<|user|>\n{_TEXT}", f"<|assistant|>\n{_TRIMMED}", opening="<|assistant|>\n", before="[mask]<sop>"
                ),
                begin=["[mask]", "<sop>"],
                eos_token="<|text|>",
                pad_token="<|pad|>",
            ),
            ends=("<|text|>", "<|user|>"),
        ),
        Prompt(
            "unigram",
            "Unigram; the role stands on a line of its own",
            unigram(
                ["<unk>", "<s>", "</s>", "<pad>"],
                _chat(f"<user>\n{_TEXT}</s>\n", f"<assistant>\n{_TEXT}</s>\n", opening="<assistant>\n"),
                bos_token="<s>",
                eos_token="</s>",
                unk_token="<unk>",
                pad_token="<pad>",
            ),
        ),
        Prompt(
            "wordpiece",
            "WordPiece, no template, a token before and after each text",
            word_piece(
                ["[PAD]", "[UNK]", "[CLS]", "[SEP]"],
                pad_token="[PAD]",
                unk_token="[UNK]",
                cls_token="[CLS]",
                sep_token="[SEP]",
                eos_token="[SEP]",
            ),
        ),
        Prompt("byt5", "bytes, a tokenizer in Python, no template", byt5),
        Prompt("python-bpe", "BPE in Python, no template; words take the line end after them", python_bpe),
    )
}
