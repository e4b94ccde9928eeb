"""Scoring: all metrics from one pass, against an evaluator that works as the usual codes do."""

from collections.abc import Iterator

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks import slow_evaluator
from benchmarks.comparison import Comparison, Measured, matmul_peak, measure
from uwc.data.example import Example
from uwc.data.prompts import PromptTemplate
from uwc.metrics.scored import ScoredSet
from uwc.models.model import Model
from uwc.models.scoring import score_tokens

TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 0.15}
SIZES = {
    "cpu": {
        "40 M, 32,000 tokens": (100, 32_000, 512, 8, 1376),
        "90 M, 128,000 tokens": (50, 128_000, 512, 8, 1376),
    },
    "cuda": {"1.2 B, 128,256 tokens": (400, 128_256, 2048, 16, 8192)},
}


def comparisons(device: str) -> Iterator[Comparison]:
    """Five metrics at once for each size, and extraction strength by generation for the first."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    peak = matmul_peak(device, dtype)
    for place, (size, (count, vocabulary, hidden, layers, intermediate)) in enumerate(SIZES[device].items()):
        model = random_model(vocabulary, hidden, layers, intermediate, device=device, dtype=dtype)
        examples = make_examples(model, count)
        items = [(list(e.tokens[: e.start]), list(e.tokens[e.start : e.end])) for e in model.encode(examples)]
        work = Work(model, examples, items, device, size, peak)
        work.warm_up()
        yield work.five_metrics()
        if place == 0:
            yield work.by_search()
            yield work.by_words()
        del model, work


class Work:
    """One model and its examples."""

    def __init__(self, model: Model, examples: list[Example], items: list, device: str, size: str, peak: float) -> None:
        self.model, self.examples, self.items = model, examples, items
        self.device, self.size, self.peak = device, size, peak
        self.dtype = next(model.model.parameters()).dtype
        self.end = model.tokenizer.eos_token_id

    def warm_up(self) -> None:
        score_tokens(self.model, self.examples[:4])
        slow_evaluator.probability(self.model.model, self.items[:4], self.end, self.device)

    def ours(self) -> Measured:
        return measure(lambda: score_all(self.model, self.examples), device=self.device, repeats=3)

    def five_metrics(self) -> Comparison:
        ours = self.ours()
        slow = measure(self._slow_metrics, device=self.device)
        gaps = {name: max_gap(ours.value[name], slow.value[name]) for name in slow.value}
        for name, gap in gaps.items():
            bound = TOLERANCE[self.dtype] * (1.0 if "min_k" not in name else 4.0)
            if self.dtype == torch.float32 and gap > bound:
                raise RuntimeError(f"{name}: ours and the slow evaluator's differ by {gap}")
        rate = self.flops() / ours.seconds
        return Comparison(
            f"5 metrics, {self.size}", ours.seconds, slow.seconds, ours.peak_bytes, slow.peak_bytes, self.device,
            {
                "examples": len(self.examples), "tokens": self.tokens(), "precision": str(self.dtype)[6:],
                "GFLOP/s": rate / 1e9, "matrix-product peak, GFLOP/s": self.peak / 1e9, "share": rate / self.peak,
                "largest difference": {name: float(f"{gap:.2g}") for name, gap in gaps.items()},
            },
        )  # fmt: skip

    def by_search(self, examples: int = 32) -> Comparison:
        """One batch of examples, for both."""
        ours = measure(lambda: score_all(self.model, self.examples[:examples]), device=self.device, repeats=3)
        items = self.items[:examples]
        slow = measure(
            lambda: slow_evaluator.extraction_strength_by_search(self.model.model, items, self.device),
            device=self.device,
        )
        return Comparison(
            f"ES by batched generation and binary search, {self.size}", ours.seconds, slow.seconds, ours.peak_bytes,
            slow.peak_bytes, self.device,
            {"examples": len(items), "equal": share_equal(ours.value["extraction_strength"], slow.value)},
        )  # fmt: skip

    def by_words(self, examples: int = 2) -> Comparison:
        """A few examples of middling length are scanned, and the time scaled to all."""
        ours = self.ours()
        lengths = [len(answer) for _, answer in self.items]
        middle = np.argsort(lengths)[len(lengths) // 2 - examples // 2 :][:examples].tolist()
        slow = measure(
            lambda: slow_evaluator.extraction_strength_by_words(
                self.model.model, [self.items[i] for i in middle], self.device, word_starts
            ),
            device=self.device,
        )
        return Comparison(
            f"ES by word scan, {self.size}", ours.seconds, slow.seconds * len(self.items) / examples, ours.peak_bytes,
            slow.peak_bytes, self.device,
            {"scaled from": f"{examples} examples of median length to {len(self.items)}",
             "seconds an example": slow.seconds / examples},
        )  # fmt: skip

    def tokens(self) -> int:
        return sum(len(p) + len(a) + 1 for p, a in self.items)

    def flops(self) -> float:
        return flops_of(self.model, tokens=self.tokens(), labelled=sum(len(a) + 1 for _, a in self.items))

    def _slow_metrics(self) -> dict[str, list[float]]:
        return {
            name: metric(self.model.model, self.items, self.end, self.device)
            for name, metric in slow_evaluator.METRICS.items()
        }


def flops_of(model: Model, *, tokens: int, labelled: int) -> float:
    """Matrix products of one pass: the body for every token, the output embedding for labelled tokens."""
    head = model.model.get_output_embeddings().weight.numel()
    named = model.model.named_parameters()
    body = sum(p.numel() for name, p in named if "embed" not in name and "lm_head" not in name)
    return 2.0 * (body * tokens + head * labelled)


def score_all(model: Model, examples: list[Example]) -> dict[str, np.ndarray]:
    """All five metrics from one pass."""
    scored = ScoredSet(score_tokens(model, examples), tuple(e.answer for e in examples))
    return {name: scored.values(name) for name in slow_evaluator.METRICS}


def random_model(
    vocabulary: int, hidden: int, layers: int, intermediate: int, *, device: str, dtype: torch.dtype
) -> Model:
    """A Llama with random weights, and a tokenizer that knows one word for each token."""
    words = {"<pad>": 0, "<end>": 1} | {f"w{i}": i for i in range(2, vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, num_hidden_layers=layers, intermediate_size=intermediate,
        num_attention_heads=hidden // 64, num_key_value_heads=max(1, hidden // 256), max_position_embeddings=512,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        model = LlamaForCausalLM(config).to(dtype).eval()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>")
    return Model(model, fast, PromptTemplate(text="{question}", separator=" "), "random")


def make_examples(model: Model, count: int) -> list[Example]:
    """Questions and answers as long as TOFU's (67 tokens in all, long-tailed), each answer's end what the model says.

    How many of the last tokens the model says by itself is drawn from 0..15, so that extraction strength takes many
    values.
    """
    random = np.random.default_rng(0)
    vocabulary = model.model.config.vocab_size
    prompts = [random.integers(2, vocabulary, n).tolist() for n in lengths(random, count, mean=20, spread=0.3)]
    answers = lengths(random, count, mean=46, spread=0.5)
    own = [min(int(random.integers(0, 16)), n - 1) for n in answers]
    begun = [p + random.integers(2, vocabulary, n - k).tolist() for p, n, k in zip(prompts, answers, own, strict=True)]
    device = str(model.model.device.type)
    ends = []
    with torch.no_grad():
        for first in range(0, count, 50):
            part = slice(first, first + 50)
            ends += slow_evaluator.continue_from(model.model, begun[part], max(max(own[part]), 1), device)
    examples = []
    for i, (prompt, text, end, k) in enumerate(zip(prompts, begun, ends, own, strict=True)):
        answer = text[len(prompt) :] + end[:k]
        examples.append(Example(id=str(i), question=as_text(prompt), answer=as_text(answer)))
    return examples


def lengths(random: np.random.Generator, count: int, *, mean: float, spread: float) -> list[int]:
    """Log-normal lengths with a given mean, at least 5 and at most 200."""
    drawn = random.lognormal(np.log(mean) - spread**2 / 2, spread, count)
    return np.clip(np.rint(drawn), 5, 200).astype(int).tolist()


def as_text(tokens: list[int]) -> str:
    return " ".join(f"w{t}" for t in tokens)


def word_starts(answer: list[int]) -> list[int]:
    """Where words begin, at TOFU's four tokens to three words."""
    return [i for i in range(len(answer)) if i % 4 != 1]


def max_gap(ours: np.ndarray, slow: list[float]) -> float:
    return float(np.abs(np.asarray(ours) - np.asarray(slow)).max())


def share_equal(ours: np.ndarray, slow: list[float]) -> float:
    return float(np.isclose(ours, slow, atol=1e-6).mean())
