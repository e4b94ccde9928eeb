"""A small randomly initialised Llama and a byte-level BPE tokenizer, for studies on a laptop."""

from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from uwc.data.example import Example
from uwc.data.prompts import PromptTemplate
from uwc.errors import ConfigError
from uwc.models.target import Target

END, PAD = "<|end|>", "<|pad|>"


def build_tokenizer(texts: Iterable[str], *, vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer, which encodes any text without loss.

    Args:
        texts: the training texts.
        vocabulary: the most entries, at least 258 (all bytes, the end and the padding token).

    Raises:
        ConfigError: the vocabulary is smaller than that.
    """
    if vocabulary < 258:
        raise ConfigError(
            f"model.build.vocabulary = {vocabulary} is too small; 258 is the least (all bytes, 2 markers)"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD)


def build_target(
    examples: Iterable[Example],
    *,
    vocabulary: int = 1024,
    hidden_size: int = 128,
    layers: int = 4,
    heads: int = 4,
    context: int = 256,
    initializer_range: float = 0.02,
    template: PromptTemplate | None = None,
    seed: int = 0,
) -> Target:
    """A randomly initialised Llama with a tokenizer trained on the examples' questions and answers.

    Args:
        examples: the training texts of the tokenizer.
        vocabulary: the most tokens in the vocabulary.
        hidden_size: width of the model; that of the feed-forward layers is three times as large.
        layers: number of blocks.
        heads: attention heads; must divide `hidden_size`.
        context: the longest sequence, in tokens.
        initializer_range: standard deviation of the initial weights; with 1 / sqrt(hidden_size) long answers are
            memorised several times faster than with the usual 0.02, and generalise less to other phrasings.
        template: the prompt template of the model.
        seed: of the initial weights.

    Raises:
        ConfigError: inconsistent sizes.
    """
    if hidden_size % (2 * heads):
        raise ConfigError(f"model.build: hidden_size = {hidden_size} must be a multiple of 2 x heads = {2 * heads}")
    template = template or PromptTemplate()
    texts = [template.text.replace("{question}", e.question) + template.separator + e.answer for e in examples]
    tokenizer = build_tokenizer(texts, vocabulary=vocabulary)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=context,
        initializer_range=initializer_range,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    return Target(model.eval(), tokenizer, template, "built")
