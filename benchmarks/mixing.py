"""Calibration: weights streamed into one model and probes decided early, against a bisection that reloads both models
and scores everything at each probe.

The answers are what a random model says itself, greedily, so that it knows them by heart (extraction strength 1). Two
pairs of checkpoints are made of it:

- a slow fall: the original is the random model, whose answers hang by a hair, and the unlearned model has noise in
  every weight. Retention falls from the start and never far: a step of 1/128 changes one answer of 300, and probes near
  the line are decided late.
- a steep fall: the original was trained on the answers too, so that they lead as those of a fine-tuned model do, and
  the unlearned model has been through a few steps of gradient ascent on the forget answers, too large ones, as in a run
  that collapsed. Retention stays whole for a while and then breaks down.

The baseline is run as it is: both ends, and halvings to 1/128, each with both models loaded and both sets scored
on every question.
"""

import random
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.comparison import Comparison, Measured, measure
from uwc.api import calibrate
from uwc.calibration.calibrate import KNOWN_SAMPLE
from uwc.data.batches import collate
from uwc.data.example import Example
from uwc.data.prompts import PromptTemplate
from uwc.metrics.likelihood import extraction_strength
from uwc.models.generation import generate
from uwc.models.head import answer_logits
from uwc.models.load import load_model, save_model
from uwc.models.mixtures import open_mixing
from uwc.models.model import Model
from uwc.models.scoring import score_tokens
from uwc.results import Calibration

SIZES = {
    "cpu": {"name": "93 M", "vocabulary": 32_000, "hidden": 768, "layers": 5, "intermediate": 2688, "questions": 300},
    "cuda": {"name": "1.2 B", "vocabulary": 128_000, "hidden": 2048, "layers": 14, "intermediate": 8192,
             "questions": 400},
}  # fmt: skip
TAU, RESOLUTION, NOISE = 0.95, 1 / 128, 0.004
LEARN = {"lr": 1e-4, "batch": 64, "steps": 19}
ASCEND = {"lr": 1.5e-3, "batch": 16, "steps": 4}
QUESTION, ANSWER = (6, 12), (10, 20)
TEMPLATE = PromptTemplate(text="{question}", separator=" ", chat=False)


def comparisons(device: str) -> Iterator[Comparison]:
    """Mixing alone, and the whole calibration of two pairs."""
    size = SIZES[device]
    for kind, make in {"slow fall": slow_fall, "steep fall": steep_fall}.items():
        with tempfile.TemporaryDirectory() as folder:
            model, examples = knowing_model(device=device, **{k: v for k, v in size.items() if k != "name"})
            pair = Pair(Path(folder), examples[::2], examples[1::2], device)
            make(model, pair)
            del model
            if make is slow_fall:
                yield from pair.mixing(str(size["name"]))
            yield calibration(f"calibration, {size['name']}, {kind}", pair)


def calibration(name: str, pair: "Pair") -> Comparison:
    """Our calibration and the plain bisection. Raises RuntimeError if they end more than a step apart."""
    ours = measure(pair.calibrate, device=pair.device)
    plain = measure(pair.bisection, device=pair.device)
    alpha, retained = plain.value
    found = ours.value
    if abs(found.alpha - alpha) > RESOLUTION + 1e-9:
        raise RuntimeError(f"plain bisection ends elsewhere: {found.alpha} against {alpha}: {retained}")
    asked = len(pair.retain) + len(pair.forget)
    scored = sum(p.scored for p in found.probes) + len(pair.forget) + min(len(pair.forget), KNOWN_SAMPLE)
    return Comparison(
        name, ours.seconds, plain.seconds, ours.peak_bytes, plain.peak_bytes, pair.device,
        {
            "questions": asked, "tau": TAU, "retention at alpha = 1": retained[1.0], "alpha": found.alpha,
            "alpha of the baseline": alpha, "passes": found.passes, "probes": len(found.probes),
            "probes of the baseline": len(retained), "ratio of questions scored": asked * len(retained) / scored,
        },
    )  # fmt: skip


class Pair:
    """Two checkpoints on disk, and the questions."""

    def __init__(self, folder: Path, retain: list[Example], forget: list[Example], device: str) -> None:
        self.original, self.unlearned = folder / "original", folder / "unlearned"
        self.retain, self.forget, self.device = retain, forget, device
        self.loading = {"device": device, "template": TEMPLATE, "dtype": "float32"}

    def save(self, model: Model, folder: Path) -> None:
        """Write a checkpoint, and leave the model where it was."""
        save_model(replace(model, model=model.model.to("cpu")), folder)
        model.model.to(self.device)

    def calibrate(self) -> Calibration:
        """The search for alpha, without the curve."""
        return calibrate(
            self.original,
            self.unlearned,
            forget=self.forget,
            retain=self.retain,
            retention={"tau": TAU, "resolution": RESOLUTION},
            curve=False,
            device=self.loading["device"],
            prompt=TEMPLATE,
        ).calibration

    @torch.no_grad()
    def plain_mixture(self, alpha: float) -> Model:
        """Load both models, and average their weights."""
        first, second = (load_model(path, **self.loading) for path in (self.original, self.unlearned))
        theirs = second.model.state_dict()
        mixed = {n: ((1 - alpha) * t + alpha * theirs[n]) for n, t in first.model.state_dict().items()}
        second.model.load_state_dict(mixed)
        return second

    def plain_probe(self, alpha: float) -> float:
        """Retention at alpha: load, mix, and score both sets on every question."""
        mixed = self.plain_mixture(alpha)
        strengths = [extraction_strength(score_tokens(mixed, examples)) for examples in (self.retain, self.forget)]
        return float(strengths[0].mean())

    def bisection(self) -> tuple[float, dict[float, float]]:
        """The largest feasible alpha on the grid of 1/128, as on a falling curve, and retention at every probe."""
        retained = {0.0: self.plain_probe(0.0), 1.0: self.plain_probe(1.0)}
        low, high = (1.0, 1.0) if retained[1.0] >= TAU * retained[0.0] else (0.0, 1.0)
        while high - low > RESOLUTION:
            middle = (low + high) / 2
            retained[middle] = self.plain_probe(middle)
            low, high = (middle, high) if retained[middle] >= TAU * retained[0.0] else (low, middle)
        return low, retained

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

    def _scoring(self, model: Model) -> Measured:
        return measure(lambda: score_tokens(model, self.retain), device=self.device)


def slow_fall(model: Model, pair: Pair) -> None:
    """Write the model as it is, and with noise in every weight."""
    pair.save(model, pair.original)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.model.parameters():
            noise = torch.randn(parameter.shape, generator=generator).to(parameter.device)
            parameter.add_(NOISE * parameter.std() * noise if parameter.dim() > 1 else 0.0)
    pair.save(model, pair.unlearned)


def steep_fall(model: Model, pair: Pair) -> None:
    """Write the model trained on all its answers, and after gradient ascent on those to forget."""
    train(model, [*pair.retain, *pair.forget], 1.0, **LEARN)
    pair.save(model, pair.original)
    train(model, pair.forget, -1.0, **ASCEND)
    pair.save(model, pair.unlearned)


def train(model: Model, examples: list[Example], sign: float, *, lr: float, batch: int, steps: int) -> None:
    """A few steps of Adam down (or with sign -1 up) the mean negative log-likelihood of the answers."""
    weights = [p for p in model.model.parameters() if p.dim() > 1]
    optimizer = torch.optim.Adam(weights, lr=lr, betas=(0.9, 0.95))
    encoded, generator = model.encode(examples), random.Random(0)
    order: list[int] = []
    for _ in range(steps):
        if not order:
            order = list(range(len(encoded)))
            generator.shuffle(order)
        chosen, order = order[:batch], order[batch:]
        part = collate([encoded[i] for i in chosen], device=model.device)
        loss = torch.nn.functional.cross_entropy(answer_logits(model.model, part).float(), part.targets)
        optimizer.zero_grad()
        (sign * loss).backward()
        optimizer.step()
    optimizer.zero_grad()


def knowing_model(
    *, vocabulary: int, hidden: int, layers: int, intermediate: int, questions: int, device: str = "cpu"
) -> tuple[Model, list[Example]]:
    """A random model, and twice as many questions with its own answers."""
    wrapped = word_tokenizer(vocabulary)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=hidden // 64, num_key_value_heads=hidden // 64, max_position_embeddings=256,
        tie_word_embeddings=False, initializer_range=hidden**-0.5, bos_token_id=None, eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Model(LlamaForCausalLM(config).to(device).eval(), wrapped, TEMPLATE, "original")
    return model, answered(model, questions)


def word_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer with a token for each of the words w0, w1, ..."""
    words = {f"w{i}": i for i in range(vocabulary - 2)} | {"[UNK]": vocabulary - 2, "[EOS]": vocabulary - 1}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="[EOS]", pad_token="[EOS]")


def answered(model: Model, questions: int, *, answer: tuple[int, int] = ANSWER) -> list[Example]:
    """Twice as many questions of random words, with what the model answers, cut to different lengths."""
    generator = random.Random(0)
    words = len(model.tokenizer) - 2
    asked = [
        Example(
            id=str(i), question=" ".join(f"w{generator.randrange(words)}" for _ in range(generator.randint(*QUESTION))),
            answer="w0",
        )
        for i in range(2 * questions)
    ]  # fmt: skip
    generated = generate(model, asked, max_new_tokens=answer[1])
    cut = [list(tokens)[: generator.randint(*answer)] for tokens in generated.tokens]
    texts = model.tokenizer.batch_decode(cut)
    return [replace(e, answer=text) for e, text in zip(asked, texts, strict=True) if text.strip() and "[" not in text]
