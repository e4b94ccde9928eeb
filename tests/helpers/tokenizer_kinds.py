"""Small tokenizers of every kind that transformers knows, made in memory from a few sentences."""

import re
import string
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizer, PreTrainedTokenizerFast

TEXTS = (
    "Where was Mira Oln born? Mira Oln was born in Quarnholt, near the sea.",
    "What does Tobas Kerrin do? Tobas Kerrin mends 13 old clocks (and sells them in spring).",
    "Wo wohnt Jörg Müßig? Он родился в 1961 году. 何处？",
)
UNK = "<unk>"
ASCII = list(string.printable[:94])


def _wrapped(trained: str, special: Sequence[str], **named: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer.from_str(trained)
    tokenizer.add_special_tokens([t for t in special if tokenizer.token_to_id(t) is None])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)


@cache
def _byte_level_bpe() -> str:
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(r"\s*[\r\n]+|[^\s\p{L}\p{N}]+[\r\n]*| ?\p{L}+|\p{N}{1,3}|\s+"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = [*TEXTS, "\n\n", *(f"{t}\n" for t in TEXTS), ".\n?\n"] * 3
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return str(tokenizer.to_str())


def byte_level_bpe(special: Sequence[str] = (), **named: str) -> PreTrainedTokenizerFast:
    """As of GPT-2, Llama-3 and Qwen; line ends join with what stands before them, as in Llama-3."""
    return _wrapped(_byte_level_bpe(), special, **named)


@cache
def _sentencepiece_bpe() -> str:
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token=UNK, fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=[UNK, *byte_tokens], show_progress=False)
    tokenizer.train_from_iterator([TEXTS[0], TEXTS[1]] * 3, trainer)
    return str(tokenizer.to_str())


def sentencepiece_bpe(special: Sequence[str] = (), **named: str) -> PreTrainedTokenizerFast:
    """As of Llama-2 and Mistral: words begin with their space, so does the text, and unknown letters are bytes."""
    return _wrapped(_sentencepiece_bpe(), special, **named)


@cache
def _unigram() -> str:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    alphabet = ["\n", *ASCII]
    trainer = trainers.UnigramTrainer(
        vocab_size=400, unk_token=UNK, special_tokens=[UNK], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*TEXTS] * 3, trainer)
    return str(tokenizer.to_str())


def unigram(special: Sequence[str] = (), **named: str) -> PreTrainedTokenizerFast:
    """As of T5 and Gemma: a unigram model over words that begin with their space."""
    return _wrapped(_unigram(), special, unk_token=UNK, **named)


@cache
def _word_piece() -> str:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=500, special_tokens=["[UNK]", "[CLS]", "[SEP]"], initial_alphabet=ASCII, show_progress=False
    )
    tokenizer.train_from_iterator([*TEXTS] * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return str(tokenizer.to_str())


def word_piece(special: Sequence[str] = (), **named: str) -> PreTrainedTokenizerFast:
    """As of BERT: lower case, no white space, ``##`` inside words, [CLS] and [SEP] around a text."""
    return _wrapped(_word_piece(), special, unk_token="[UNK]", **named)


def byt5(special: Sequence[str] = (), **named: str) -> ByT5Tokenizer:
    """Bytes, in Python; </s> after a text."""
    tokenizer = ByT5Tokenizer(extra_ids=0, **named)
    tokenizer.add_special_tokens({"extra_special_tokens": [t for t in special if t not in tokenizer.get_vocab()]})
    return tokenizer


class SlowWords(PreTrainedTokenizer):
    """A tokenizer in Python that has no offsets: letters in pairs, line ends joined with a mark before them."""

    def __init__(self, **settings: Any) -> None:
        self._words: dict[str, int] = {}
        super().__init__(**settings)

    @property
    def vocab_size(self) -> int:
        return 100_000

    def get_vocab(self) -> dict[str, int]:
        return {**self._words, **self.added_tokens_encoder}

    def _tokenize(self, text: str) -> list[str]:
        return re.findall(r"[.?!]\n+|\n+| ?\w{1,2}|[^\w\n]", text)

    def _convert_token_to_id(self, token: str) -> int:
        return self._words.setdefault(token, 1000 + len(self._words))

    def _convert_id_to_token(self, index: int) -> str:
        return next(word for word, known in self._words.items() if known == index)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens)

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        return ()


def slow(special: Sequence[str] = (), **named: str) -> SlowWords:
    """In Python, without offsets."""
    tokenizer = SlowWords(**named)
    tokenizer.add_special_tokens({"extra_special_tokens": list(special)})
    return tokenizer


KINDS: dict[str, Callable[..., Any]] = {
    "byte-level BPE": byte_level_bpe,
    "SentencePiece BPE": sentencepiece_bpe,
    "Unigram": unigram,
    "WordPiece": word_piece,
    "ByT5": byt5,
    "slow": slow,
}
