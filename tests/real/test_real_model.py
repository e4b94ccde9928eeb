"""Every metric of a real pretrained model on 60 questions of TOFU, against plain transformers, one sequence at a time.

    UWC_REAL_MODEL=FOLDER UWC_TOFU=FOLDER python -m pytest tests/real

The first folder holds the model, the second TOFU's files (forget10_perturbed.json, retain_perturbed.json,
real_authors_perturbed.json, world_facts_perturbed.json); a quarter of an hour on one core. What the model is compared
with, as its original and as a retrained model, are copies with noise on their weights. Similar continuations, one
generation for each token of an answer, are looked for in the 20 questions with short answers.
"""

import math
import os
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import harmonic_mean
from typing import Any

import numpy as np
import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer
from scipy import stats
from tests.matrix.plain import Asked, Plain, Reading
from torch import Tensor

import uwc
from uwc.metrics.registry import metrics, set_metrics
from uwc.results import Scores

MODEL, TOFU = (os.environ.get(name, "") for name in ("UWC_REAL_MODEL", "UWC_TOFU"))
FILES = {
    "forget": ("forget10_perturbed", range(0, 400, 20)),
    "holdout": ("forget10_perturbed", range(5, 400, 40)),
    "retain": ("retain_perturbed", range(0, 400, 40)),
    "real_authors": ("real_authors_perturbed", range(0, 100, 10)),
    "world_facts": ("world_facts_perturbed", range(0, 100, 10)),
}
NEW_TOKENS, CONTINUED = 48, 128
VERBATIM = 4

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (MODEL and TOFU), reason="UWC_REAL_MODEL and UWC_TOFU name no model and no questions"),
]


def encoder(texts: Sequence[str]) -> Any:
    """[E, 64] counts of letters, by their code: a stand-in for a sentence encoder."""
    return np.array([np.bincount([ord(c) % 64 for c in text], minlength=64) for text in texts], dtype=np.float64)


def entails(first: Sequence[str], second: Sequence[str]) -> Any:
    """Whether the first has more letters: a stand-in for a judge."""
    return np.array([len(a) > len(b) for a, b in zip(first, second, strict=True)])


@dataclass
class Slow:
    """What plain transformers says of one question: each metric as its formula has it, in float64.

    Attributes:
        plain: the model.
        reference: the original.
        example: the question.
    """

    plain: Plain
    reference: Plain
    example: uwc.Example

    def reading(self, answer: str) -> Reading:
        return self.plain.read(Asked(self.example.id, self.example.question, answer))

    @cached_property
    def own(self) -> Reading:
        return self.reading(self.example.answer)

    @torch.no_grad()
    def logits(self, plain: Plain, reading: Reading) -> Tensor:
        """[N, V] log-probabilities of the positions that predict answer and end."""
        logits = plain.model(input_ids=torch.tensor([reading.ids]), use_cache=False).logits[0, reading.start - 1 : -1]
        return logits.double().log_softmax(dim=-1)

    def loss(self, plain: Plain, reading: Reading) -> float:
        logprobs, wanted = self.logits(plain, reading), torch.tensor(reading.ids[reading.start :])
        return -float(logprobs.gather(1, wanted[:, None]).mean())

    @cached_property
    def greedy(self) -> tuple[list[int], str]:
        ids = self.continued(self.own.ids[: self.own.start], self.plain.ends(self.own), NEW_TOKENS)
        return ids, self.plain.tokenizer.decode(ids, skip_special_tokens=True).strip()

    @torch.no_grad()
    def continued(self, prompt: Sequence[int], ends: Sequence[int], new: int) -> list[int]:
        """The greedy continuation, without what ends it, by the model's own forward with its cache."""
        given, cache, found = torch.tensor([list(prompt)]), None, []
        while len(found) < new:
            output = self.plain.model(input_ids=given, past_key_values=cache, use_cache=True)
            token, cache = int(output.logits[0, -1].argmax()), output.past_key_values
            if token in ends:
                break
            found.append(token)
            given = torch.tensor([[token]])
        return found

    def values(self) -> dict[str, float]:
        """Metric -> value."""
        found = self._likelihoods() | self._texts()
        if self.example.perturbed_answers:
            found |= self._ratios(found["probability"])
        return found

    def _likelihoods(self) -> dict[str, float]:
        reading, n = self.own, self.own.end - self.own.start
        logprobs, wanted = self.logits(self.plain, reading), torch.tensor(reading.ids[reading.start :])
        chosen, right = logprobs.gather(1, wanted[:, None])[:, 0], (logprobs.argmax(dim=1) == wanted).tolist()
        mean = (logprobs.exp() * logprobs).sum(dim=1)
        spread = (logprobs.exp() * (logprobs - mean[:, None]) ** 2).sum(dim=1).clamp_min(1e-6).sqrt()
        lowest = max(1, math.floor(0.4 * n + 1e-9))
        loss, theirs = -float(chosen.mean()), self.logits(self.reference, reading)
        best = logprobs.topk(40, dim=1)
        within = (best.indices == wanted[:, None]).any(dim=1)[:n]
        drawn = (chosen - best.values.logsumexp(dim=1))[:n].sum().exp() if bool(within.all()) else torch.tensor(0.0)
        return {
            "extraction_strength": 1 - next(k for k in range(n + 1) if all(right[k:n])) / n,
            "exact_memorization": sum(right[:n]) / n,
            "probability": math.exp(-loss),
            "perplexity": math.exp(loss),
            "kl_to_original": float((theirs.exp() * (theirs - logprobs)).sum(dim=1).mean()),
            "mia_loss": loss,
            "mia_zlib": loss / len(zlib.compress(self.example.answer.encode())),
            "mia_reference": loss - self.loss(self.reference, reading),
            "mia_min_k": -float(chosen[:n].sort().values[:lowest].mean()),
            "mia_min_k_plus_plus": -float(((chosen - mean) / spread)[:n].sort().values[:lowest].mean()),
            "mia_gradient_norm": self._gradient(),
            "probabilistic_extraction": 1 - (1 - float(drawn)) ** 100,
        }

    def _gradient(self) -> float:
        model, n = self.plain.model.requires_grad_(True), self.own.end - self.own.start
        ids = torch.tensor([self.own.ids[: self.own.end]])
        logits = model(input_ids=ids, use_cache=False).logits[0, self.own.start - 1 : -1]
        loss = torch.nn.functional.cross_entropy(logits.float(), ids[0, self.own.start :], reduction="sum") / n
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        return float(np.mean([float(g.norm()) for g in gradients]))

    def _total(self, answer: str) -> float:
        """The log-probability of an answer's text, without the end of the turn."""
        reading = self.reading(answer)
        logprobs, wanted = self.logits(self.plain, reading), torch.tensor(reading.ids[reading.start : reading.end])
        return float(logprobs[: len(wanted)].gather(1, wanted[:, None]).sum())

    def _ratios(self, probability: float) -> dict[str, float]:
        right = self.loss(self.plain, self.reading(self.example.paraphrased_answer or self.example.answer))
        wrong = [self.loss(self.plain, self.reading(a)) for a in self.example.perturbed_answers]
        geometric = math.exp(right - float(np.mean(wrong)))
        arithmetic = float(np.mean(np.exp(-np.array(wrong)))) / math.exp(-right)
        margin = self._total(self.example.answer) - max(map(self._total, self.example.perturbed_answers))
        return {
            "probability_normalised": probability / (probability + sum(math.exp(-w) for w in wrong)),
            "choice_accuracy": float(margin > 0),
            "choice_margin": margin,
            "truth_ratio_geometric": geometric,
            "truth_ratio_inverse": 1 / geometric,
            "truth_ratio_arithmetic": arithmetic,
            "truth_ratio_forget": min(arithmetic, 1 / arithmetic),
            "truth_ratio_utility": max(0.0, 1 - arithmetic),
            "truth_probability": 1 / (1 + geometric),
        }

    def _texts(self) -> dict[str, float]:
        (tokens, text), answer = self.greedy, self.example.answer
        stemmed = RougeScorer(["rougeL", "rouge1"], use_stemmer=True).score(answer, text)
        bare = RougeScorer(["rougeL"], use_stemmer=False)
        first = text.split("\n\n")[0].split("Question:")[0].split("\nQuestion")[0]
        shares = np.array(list(Counter(tokens).values())) / max(len(tokens), 1)
        a, b = encoder([answer])[0], encoder([text])[0]
        overlap = stemmed["rougeL"].recall
        return {
            "rouge_l": overlap,
            "rouge_l_ascii": overlap,
            "rouge_l_f1": stemmed["rougeL"].fmeasure,
            "rouge_1": stemmed["rouge1"].recall,
            "rouge_1_f1": stemmed["rouge1"].fmeasure,
            "knowledge_memorization": bare.score(answer, first)["rougeL"].fmeasure,
            "token_diversity": float(-(shares * np.log2(shares)).sum() / np.log2(len(tokens))) if len(tokens) > 1
            else 0.0,
            "semantic_similarity": float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) if text else 0.0,
            "secret_said": float(any(secret.lower() in text.lower() for secret in self.example.secret)),
            "entailment": float(bool(text) and len(text) > len(answer) and overlap >= 0.1),
        }  # fmt: skip

    def similar(self) -> float:
        """Extraction strength where half of the rest in common, in order, is enough."""
        reading, n = self.own, self.own.end - self.own.start
        answer, ends = list(reading.ids[reading.start : reading.end]), self.plain.ends(reading)
        for k in range(n):
            found = self.continued(reading.ids[: reading.start + k], ends, n - k)
            if found == answer[k:] or (found and 2 * _in_common(found, answer[k:]) >= n - k):
                return 1 - k / n
        return 0.0


def _in_common(first: Sequence[int], second: Sequence[int]) -> int:
    """The length of the longest common subsequence."""
    lengths = np.zeros((len(first) + 1, len(second) + 1), dtype=int)
    for i, a in enumerate(first, 1):
        for j, b in enumerate(second, 1):
            lengths[i, j] = lengths[i - 1, j - 1] + 1 if a == b else max(lengths[i - 1, j], lengths[i, j - 1])
    return int(lengths[-1, -1])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The model, and two copies with noise."""
    folder = tmp_path_factory.mktemp("real")
    made = {"model": Path(MODEL)}
    for seed, name in enumerate(("reference", "retrained")):
        shutil.copytree(MODEL, folder / name, ignore=shutil.ignore_patterns("*.safetensors*"))
        plain = Plain.load(Path(MODEL))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in plain.model.parameters():
                parameter.mul_(1 + 0.03 * torch.randn(parameter.shape, generator=generator))
        plain.model.save_pretrained(folder / name)
        made[name] = folder / name
    return made


@pytest.fixture(scope="module")
def sets() -> dict[str, list[uwc.Example]]:
    found = {}
    for name, (file, chosen) in FILES.items():
        examples = list(uwc.load_questions(Path(TOFU) / f"{file}.json"))
        found[name] = [replace(examples[i], paraphrased_question="", secret=_names(examples[i].answer)) for i in chosen]
    return found


def _names(answer: str) -> tuple[str, ...]:
    """The words of an answer that begin with a capital letter, as its secrets; the whole answer if there are none."""
    words = (word.strip(".,;:!?\"'()") for word in answer.split())
    return tuple(dict.fromkeys(word for word in words if word[:1].isupper())) or (answer,)


@pytest.fixture(scope="module")
def verbatim(sets: dict[str, list[uwc.Example]]) -> list[uwc.Example]:
    """The first half of an answer, and the rest as its continuation."""
    made = []
    for example in sets["retain"][:VERBATIM]:
        words = example.answer.split(" ")
        at = len(words) // 2
        made.append(uwc.Example(example.id, " ".join(words[:at]), " " + " ".join(words[at:])))
    return made


SIMILAR = "extraction_strength_similar"
ROUNDING = {"mia_gradient_norm": 1e-4}  # plain transformers in float32 is 2e-5 away from itself in float64


@pytest.fixture(scope="module")
def ours(models: dict[str, Path], sets: dict[str, list[uwc.Example]], verbatim: list[uwc.Example]) -> Scores:
    names = [name for name in (*metrics.names(), *set_metrics.names()) if name != SIMILAR]
    return uwc.score(
        models["model"], {**sets, "verbatim": verbatim}, metrics=names, original=models["reference"],
        retrained=models["retrained"], judges={"encoder": encoder, "entailment": entails},
        max_new_tokens=NEW_TOKENS, device="cpu",
    )  # fmt: skip


@pytest.fixture(scope="module")
def slow(models: dict[str, Path], sets: dict[str, list[uwc.Example]]) -> Callable[..., list[dict[str, float]]]:
    """The values of each question of a set, of the model or of the retrained one."""
    plains = {name: Plain.load(folder) for name, folder in models.items()}
    known: dict[tuple[str, str], list[dict[str, float]]] = {}

    def values(name: str, of: str = "model") -> list[dict[str, float]]:
        if (name, of) not in known:
            known[name, of] = [Slow(plains[of], plains["reference"], e).values() for e in sets[name]]
        return known[name, of]

    return values


@pytest.mark.parametrize("name", FILES)
def test_every_metric_of_every_question(name: str, ours: Scores, slow: Any, sets: Any) -> None:
    theirs = slow(name)
    assert set(theirs[0]) | {SIMILAR, "verbatim_memorization"} == set(metrics.names())
    table = ours.answers.query("set == @name")
    assert list(table["id"]) == [e.id for e in sets[name]]
    for metric in theirs[0]:
        expected = [row[metric] for row in theirs]
        tolerance = ROUNDING.get(metric, 1e-5)
        np.testing.assert_allclose(table[metric], expected, rtol=tolerance, atol=tolerance, err_msg=metric)
        print(f"{name} {metric}: off by {np.abs(table[metric] - np.array(expected)).max():.1e}")


@pytest.mark.parametrize("name", ["real_authors", "world_facts"])
def test_similar_continuations(name: str, models: dict[str, Path], sets: Any) -> None:
    plain = Plain.load(models["model"])
    expected = [Slow(plain, plain, e).similar() for e in sets[name]]
    found = uwc.score(models["model"], sets[name], metrics=[SIMILAR], device="cpu").answers
    np.testing.assert_allclose(found[SIMILAR], expected, atol=1e-9)


def test_continued_texts(ours: Scores, models: dict[str, Path], verbatim: list[uwc.Example]) -> None:
    plain = Plain.load(models["model"])
    expected = []
    for example in verbatim:
        ids = plain.tokenizer(example.question)["input_ids"]
        tokens = Slow(plain, plain, example).continued(ids, sorted(plain.listed_ends), CONTINUED)
        text = plain.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        expected.append(RougeScorer(["rougeL"], use_stemmer=False).score(example.answer, text)["rougeL"].fmeasure)
    found = ours.answers.query("set == 'verbatim'")["verbatim_memorization"]
    np.testing.assert_allclose(found, expected, atol=1e-9)


def _column(rows: Sequence[dict[str, float]], metric: str) -> list[float]:
    return [row[metric] for row in rows]


def _auc(members: Sequence[float], others: Sequence[float]) -> float:
    return float(np.mean([(b > a) + (b == a) / 2 for a in members for b in others]))


def test_numbers_of_whole_sets(ours: Scores, slow: Any) -> None:
    expected = {}
    for attack in ("loss", "zlib", "reference", "min_k", "min_k_plus_plus", "gradient_norm"):
        data, holdout = (_column(slow(name), f"mia_{attack}") for name in ("forget", "holdout"))
        expected[f"auc_{attack}"] = _auc(data, holdout)
    retrained = _auc(*(_column(slow(name, "retrained"), "mia_min_k") for name in ("forget", "holdout")))
    expected["privleak"] = 100 * (retrained - expected["auc_min_k"]) / (1 - retrained)
    ratios = [_column(slow("forget", of), "truth_ratio_geometric") for of in ("model", "retrained")]
    expected["forget_quality"] = float(stats.ks_2samp(*ratios).pvalue)
    expected["model_utility"] = harmonic_mean(
        float(np.mean(_column(slow(name), metric)))
        for name in ("retain", "real_authors", "world_facts")
        for metric in (
            "rouge_l_ascii", "probability" if name == "retain" else "probability_normalised", "truth_ratio_utility"
        )
    )  # fmt: skip
    found = {score.metric: score.mean for score in ours.scores if score.metric in set_metrics.names()}
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)
