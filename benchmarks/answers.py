"""Several answers to a question: TOFU's suite and multiple choice, with the prompt computed once for all answers.

Against an evaluator with a pass for each metric, and one that scores each option with its own prompt. On the model in
the folder UWC_REAL_MODEL if that is set, otherwise on one with random weights.
"""

import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from benchmarks import slow_evaluator
from benchmarks.comparison import Comparison, matmul_peak, measure
from benchmarks.scoring import flops_of, random_model
from benchmarks.slow_evaluator import Item
from uwc.data.batches import labelled
from uwc.data.example import VARIANTS, Example, Variant, with_variants
from uwc.data.prompts import EncodedExample
from uwc.metrics.scored import ScoredSet
from uwc.models.batching import SCORING_BUDGET, shared_trees, token_budget_of
from uwc.models.load import load_model
from uwc.models.model import Model
from uwc.models.scoring import score_tokens

QUESTIONS = {"cpu": 16, "cuda": 400}
RANDOM = {"cpu": (49_152, 512, 30, 1536), "cuda": (128_256, 2048, 16, 8192)}
OF_ANSWERS = (
    "probability", "exact_memorization", "extraction_strength", "mia_min_k", "mia_min_k_plus_plus", "perplexity",
    "mia_loss", "mia_zlib",
)  # fmt: skip
OF_LOSSES = (
    "paraphrase_probability", "probability_normalised", "truth_probability", "truth_ratio_forget",
    "truth_ratio_utility",
)  # fmt: skip
OF_CHOICES = ("choice_accuracy", "choice_margin")
OF_DIFFERENCES = (*OF_LOSSES, "choice_margin")
OURS, PLAIN = 1e-6, 1e-3
"""The largest differences from the values of each answer by itself, and from those of the plain evaluator, in float32,
relative to the largest of a value, 1 and, for metrics of differences of losses, the mean loss: float32 rounds a loss of
11 nats to about 1e-6, and these metrics have its absolute error."""
Values = Mapping[str, Sequence[float]]


def comparisons(device: str) -> Iterator[Comparison]:
    """Questions of 20 tokens with seven answers of 28, and questions of 40 with four options of 1 to 8."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    if folder := os.environ.get("UWC_REAL_MODEL"):
        model = load_model(folder, device=device, dtype=str(dtype)[6:])
        words = plain_words(model)
    else:
        model = random_model(*RANDOM[device], device=device, dtype=dtype)
        words = [f"w{i}" for i in range(2, RANDOM[device][0])]
    peak = matmul_peak(device, dtype)
    random = np.random.default_rng(0)
    suite, choices = [], []
    for i in range(QUESTIONS[device]):
        answers = [said(random, words, 28) for _ in range(7)]
        suite.append(Example(f"{i}", said(random, words, 20), answers[0], "", answers[1], tuple(answers[2:])))
        options = [said(random, words, int(random.integers(1, 9))) for _ in range(4)]
        choices.append(Example(f"{i}", said(random, words, 40), options[0], "", "", tuple(options[1:])))
    yield Answers("TOFU's suite, 13 metrics", model, suite, VARIANTS, peak).compared((*OF_ANSWERS, *OF_LOSSES))
    given: tuple[Variant, ...] = ("answer", "perturbed_answers")
    yield Answers("multiple choice, 4 options", model, choices, given, peak).compared(OF_CHOICES)


class Answers:
    """Questions with several answers each, and a model."""

    def __init__(
        self, name: str, model: Model, examples: list[Example], variants: tuple[Variant, ...], peak: float
    ) -> None:
        self.name, self.model, self.examples, self.variants, self.peak = name, model, examples, variants, peak
        self.device = str(model.device.type)
        self.rows, self.kinds = with_variants(examples, variants)
        self.encoded = model.encode(self.rows)
        self.end = self.encoded[0].tokens[-1]

    def compared(self, metrics: Sequence[str]) -> Comparison:
        """The metrics from one pass, against the plain evaluator; fails where values differ."""
        self.ours(self.examples[:2])
        slow_evaluator.probability(self.model.model, self.items("answer")[:2], self.end, self.device)
        ours = measure(lambda: self.values(self.ours(self.examples), metrics), device=self.device, repeats=3)
        apart = measure(lambda: self.values(self.by_itself(), metrics), device=self.device)
        plain = measure(lambda: self.of_choices() if metrics == OF_CHOICES else self.of_suite(), device=self.device)
        others = {"each by itself": (apart.value, OURS), "plain": (plain.value, PLAIN)}
        gaps = {what: largest(ours.value, values) for what, (values, _) in others.items()}
        if self.model.model.dtype == torch.float32:
            loss = float(self.losses("answer").mean())
            for what, (values, bound) in others.items():
                for name in metrics:
                    gap = largest(
                        {name: ours.value[name]}, values, least=max(1.0, loss) if name in OF_DIFFERENCES else 1.0
                    )
                    if gap > bound:
                        raise RuntimeError(f"{self.name}: {name} differs by {gap} from {what}")
        tokens, whole = self.tree_tokens(), sum(len(e.tokens) for e in self.encoded)
        rate = flops_of(self.model, tokens=tokens, labelled=sum(len(labelled(e)) for e in self.encoded)) / ours.seconds
        return Comparison(
            self.name, ours.seconds, plain.seconds, ours.peak_bytes, plain.peak_bytes, self.device,
            {
                "model": os.path.basename(self.model.name), "questions": len(self.examples), "answers": len(self.rows),
                "tokens": f"{whole:,} as {tokens:,}", "each answer by itself, s": apart.seconds,
                "GFLOP/s": rate / 1e9, "matrix-product peak, GFLOP/s": self.peak / 1e9, "share": rate / self.peak,
                "largest difference": {what: float(f"{gap:.2g}") for what, gap in gaps.items()},
            },
        )  # fmt: skip

    def ours(self, examples: list[Example]) -> ScoredSet:
        tokens = score_tokens(self.model, examples, variants=self.variants)
        return ScoredSet(tokens, tuple(e.answer for e in examples))

    def by_itself(self) -> ScoredSet:
        """The same with every answer a question of its own, so that none shares a prompt."""
        single = score_tokens(self.model, [replace(row, id=f"{i}") for i, row in enumerate(self.rows)])
        tokens = replace(single, ids=tuple(row.id for row in self.rows), variants=tuple(self.kinds))
        return ScoredSet(tokens, tuple(e.answer for e in self.examples))

    def values(self, scored: ScoredSet, metrics: Sequence[str]) -> dict[str, Sequence[float]]:
        """Metric -> values; of perplexity their logarithms, and of choices by means over tokens."""
        by_means = {"length": "mean"}
        found = {name: scored.values(name, **(by_means if name in OF_CHOICES else {})) for name in metrics}
        return {n: (np.log(values) if n == "perplexity" else values).tolist() for n, values in found.items()}

    def tree_tokens(self) -> int:
        """The tokens that our pass reads, without those of the trial."""
        budget = token_budget_of(self.model, elsewhere=SCORING_BUDGET)
        return sum(len(tree.tokens) for tree in shared_trees((self.model,), self.encoded, token_budget=budget))

    def items(self, variant: Variant) -> list[Item]:
        return [as_item(e) for e, kind in zip(self.encoded, self.kinds, strict=True) if kind == variant]

    def of_suite(self) -> Values:
        """A pass for each of the eight metrics of answers, and one each over the paraphrases and the wrong answers, as
        OpenUnlearning does it; metrics of losses read those of earlier passes."""
        answers = self.items("answer")
        found = {n: m(self.model.model, answers, self.end, self.device) for n, m in slow_evaluator.METRICS.items()}
        found["perplexity"] = self.losses("answer").tolist()
        found["mia_loss"] = self.losses("answer").tolist()
        sizes = np.array([len(zlib.compress(e.answer.encode())) for e in self.examples])
        found["mia_zlib"] = (self.losses("answer") / sizes).tolist()
        true = np.array(found["probability"])
        restated, wrong = self.losses("paraphrased_answer"), self.losses("perturbed_answers").reshape(len(true), -1)
        ratio = np.exp(-wrong).mean(axis=1) / np.exp(-restated)
        found["paraphrase_probability"] = np.exp(-restated).tolist()
        found["probability_normalised"] = (true / (true + np.exp(-wrong).sum(axis=1))).tolist()
        found["truth_probability"] = (1 / (1 + np.exp(restated - wrong.mean(axis=1)))).tolist()
        found["truth_ratio_forget"] = np.minimum(ratio, 1 / ratio).tolist()
        found["truth_ratio_utility"] = np.maximum(0.0, 1 - ratio).tolist()
        return found

    def of_choices(self) -> Values:
        """Each option scored after its own prompt, in one pass."""
        losses = self.losses(*self.variants, with_end=False)
        true, wrong = losses[: len(self.examples)], losses[len(self.examples) :].reshape(len(self.examples), -1)
        margin = wrong.min(axis=1) - true
        return {"choice_accuracy": np.heaviside(margin, 0.5).tolist(), "choice_margin": margin.tolist()}

    @torch.no_grad()
    def losses(self, *variants: Variant, with_end: bool = True) -> np.ndarray:
        """The mean loss of each answer, with or without its end, from one pass."""
        items = [item for variant in variants for item in self.items(variant)]
        passed = slow_evaluator.log_softmax_of_batches(self.model.model, items, self.end, self.device)
        taken = [-logprobs.gather(1, targets[:, None])[:, 0] for logprobs, targets in passed]
        return np.array([float((losses if with_end else losses[:-1]).mean()) for losses in taken])


def as_item(encoded: EncodedExample) -> Item:
    return list(encoded.tokens[: encoded.start]), list(encoded.tokens[encoded.start : encoded.end])


def plain_words(model: Model) -> list[str]:
    """Words in lower case that are one token each after a space."""
    marked = sorted(token for token in model.tokenizer.get_vocab() if token[:1] in ("\u0120", "\u2581"))
    return [t[1:] for t in marked if len(t) > 3 and t[1:].isascii() and t[1:].isalpha() and t[1:].islower()]


def said(random: np.random.Generator, words: list[str], count: int) -> str:
    return " ".join(random.choice(words, count))


def largest(ours: Values, others: Values, *, least: float = 1.0) -> float:
    """The largest difference of two values, relative to the larger of the second and `least`."""
    gaps = [np.abs(np.subtract(ours[n], others[n])) / np.maximum(least, np.abs(others[n])) for n in ours]
    return float(np.max(gaps))
