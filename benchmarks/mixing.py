"""Calibration: weights streamed into one model and probes decided early, against a bisection that reloads both models
and scores everything at each probe.

The original is a random model, and its answers are what it says itself, greedily, so that it knows them by heart as a
fine-tuned model would (extraction strength 1). The unlearned model is the original with noise in every weight: as alpha
grows, answers break off one after another, and retention falls from 1 to about 0.7: slowly, so that many probes lie
near the line, where they cannot be decided early.

Every probe of the baseline is the same work. Two of them are run and timed, those between which bisection ends on a
falling curve; its time is nine times their mean (both ends, and seven halvings to 1/128).
"""

import math
import random
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.comparison import Comparison, Measured, measure
from uwc.data.example import Example
from uwc.data.prompts import PromptTemplate
from uwc.metrics.memorization import extraction_strength
from uwc.models.forward import score_tokens
from uwc.models.generation import generate_tokens
from uwc.models.loading import load_target, save_target
from uwc.models.pairs import open_mixing
from uwc.models.target import Target
from uwc.workflows.calibration import calibrate

SIZES = {
    "cpu": {"name": "93 M", "vocabulary": 32_000, "hidden": 768, "layers": 5, "intermediate": 2688, "questions": 300},
    "cuda": {"name": "1.2 B", "vocabulary": 128_000, "hidden": 2048, "layers": 14, "intermediate": 8192,
             "questions": 400},
}  # fmt: skip
TAU, RESOLUTION, NOISE = 0.95, 1 / 128, 0.004
PLAIN_PROBES = 9
QUESTION, ANSWER = (6, 12), (10, 20)
TEMPLATE = PromptTemplate(text="{question}", separator=" ", chat=False)


def comparisons(device: str) -> Iterator[Comparison]:
    """Mixing alone, and the whole calibration."""
    size = SIZES[device]
    with tempfile.TemporaryDirectory() as folder:
        retain, forget = make_pair(Path(folder), device=device, **{k: v for k, v in size.items() if k != "name"})
        pair = Pair(Path(folder), retain, forget, device)
        ours = measure(pair.calibrate, device=device)
        grid = math.ceil(ours.value["alpha"] / RESOLUTION) * RESOLUTION
        probes = {a: measure(lambda a=a: pair.plain_probe(a), device=device) for a in (grid, grid + RESOLUTION)}
        if probes[grid].value < ours.value["threshold"]:  # the crossing is below the first of the two
            probes[grid - RESOLUTION] = measure(lambda: pair.plain_probe(grid - RESOLUTION), device=device)
        check_same_answer(ours.value, {a: probe.value for a, probe in probes.items()})
        plain_peak = max(p.peak_bytes for p in probes.values())
        plain = sum(p.seconds for p in probes.values()) / len(probes)
        yield from pair.mixing(str(size["name"]))
        yield Comparison(
            f"calibration, {size['name']}", ours.seconds, PLAIN_PROBES * plain, ours.peak_bytes,
            plain_peak, device,
            {
                "questions": len(retain) + len(forget), "alpha": ours.value["alpha"], "passes": ours.value["passes"],
                "probes": len(ours.value["trace"]), "tau": TAU, "plain probes": PLAIN_PROBES,
                "seconds of a plain probe": plain,
            },
        )  # fmt: skip


def check_same_answer(found: dict, retained: dict[float, float]) -> None:
    """Raise RuntimeError unless bisection on the grid of 1/128 ends within a step of the alpha found."""
    feasible = max((a for a, score in retained.items() if score >= found["threshold"]), default=math.nan)
    above = min((a for a, score in retained.items() if score < found["threshold"]), default=math.nan)
    if not above - feasible <= RESOLUTION + 1e-9 or not abs(found["alpha"] - feasible) <= RESOLUTION + 1e-9:
        raise RuntimeError(f"plain bisection ends elsewhere: {found['alpha']} against {retained}")


class Pair:
    """Two checkpoints on disk, and the questions."""

    def __init__(self, folder: Path, retain: list[Example], forget: list[Example], device: str) -> None:
        self.original, self.unlearned = folder / "original", folder / "unlearned"
        self.retain, self.forget, self.device = retain, forget, device
        self.loading = {"device": device, "template": TEMPLATE, "dtype": "float32"}

    def calibrate(self) -> dict:
        return calibrate(
            self.original, self.unlearned, forget=self.forget, retain=self.retain, tau=TAU, resolution=RESOLUTION,
            **self.loading,
        )  # fmt: skip

    @torch.no_grad()
    def plain_mixture(self, alpha: float) -> Target:
        """Load both models, and average their weights."""
        first, second = (load_target(path, **self.loading) for path in (self.original, self.unlearned))
        theirs = second.model.state_dict()
        mixed = {n: ((1 - alpha) * t + alpha * theirs[n]) for n, t in first.model.state_dict().items()}
        second.model.load_state_dict(mixed)
        return second

    def plain_probe(self, alpha: float) -> float:
        """Retention at alpha: load, mix, and score both sets on every question."""
        mixed = self.plain_mixture(alpha)
        strengths = [extraction_strength(score_tokens(mixed, examples)) for examples in (self.retain, self.forget)]
        return float(strengths[0].mean())

    def mixing(self, name: str) -> Iterator[Comparison]:
        """A mixture streamed into the loaded model, against loading both; and its share of a probe."""
        mixing = open_mixing(self.original, self.unlearned, **self.loading)
        mixing.mix(0.2)
        ours = measure(lambda: mixing.mix(0.4), device=self.device, repeats=5)
        scoring = self._scoring(mixing.mix(0.4))
        plain = measure(lambda: self.plain_mixture(0.4), device=self.device)
        yield Comparison(
            f"a mixture, {name}", ours.seconds, plain.seconds, ours.peak_bytes, plain.peak_bytes, self.device,
            {
                "share of a whole probe": ours.seconds / (ours.seconds + scoring.seconds),
                "share of a probe decided on a tenth": ours.seconds / (ours.seconds + scoring.seconds / 10),
                "seconds to score the retain set": scoring.seconds,
            },
        )  # fmt: skip

    def _scoring(self, target: Target) -> Measured:
        return measure(lambda: score_tokens(target, self.retain), device=self.device)


def make_pair(
    folder: Path, *, vocabulary: int, hidden: int, layers: int, intermediate: int, questions: int, device: str = "cpu"
) -> tuple[list[Example], list[Example]]:
    """Write an original and an unlearned checkpoint, and give questions to retain and to forget with the original's
    own answers."""
    words = {f"w{i}": i for i in range(vocabulary - 2)} | {"[UNK]": vocabulary - 2, "[EOS]": vocabulary - 1}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="[EOS]", pad_token="[EOS]"
    )
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=hidden // 64, num_key_value_heads=hidden // 64, max_position_embeddings=256,
        tie_word_embeddings=False, initializer_range=hidden**-0.5, bos_token_id=None, eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )  # fmt: skip
    torch.manual_seed(0)
    target = Target(LlamaForCausalLM(config).to(device).eval(), wrapped, TEMPLATE, "original")
    examples = answered(target, questions)
    save_target(replace(target, model=target.model.to("cpu")), folder / "original")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in target.model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(NOISE * parameter.std() * noise if parameter.dim() > 1 else 0.0)
    save_target(target, folder / "unlearned")
    return examples[::2], examples[1::2]


def answered(target: Target, questions: int) -> list[Example]:
    """Twice as many questions of random words, with what the model answers, cut to different lengths."""
    generator = random.Random(0)
    words = len(target.tokenizer) - 2
    asked = [
        Example(
            id=str(i), question=" ".join(f"w{generator.randrange(words)}" for _ in range(generator.randint(*QUESTION))),
            answer="w0",
        )
        for i in range(2 * questions)
    ]  # fmt: skip
    generated = generate_tokens(target, asked, max_new_tokens=ANSWER[1])
    cut = [list(tokens)[: generator.randint(*ANSWER)] for tokens in generated]
    texts = target.tokenizer.batch_decode(cut)
    return [replace(e, answer=text) for e, text in zip(asked, texts, strict=True) if text.strip() and "[" not in text]
