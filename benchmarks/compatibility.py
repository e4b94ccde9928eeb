"""How far the modes of --compat are from our definitions: the figures in docs/compatibility.md.

    python -m benchmarks.compatibility FOLDER

FOLDER holds TOFU's files (retain_perturbed.json, real_authors_perturbed.json, world_facts_perturbed.json). For each
kind of tokenizer and template a small Llama is made, trained on the questions for some epochs as OpenUnlearning trains
(its prompt, labels and mask), and scored by our definitions and by the mode's. For uwc-official a plain one is trained
with our prompt. Half an hour on one core.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from uwc.data.example import Example
from uwc.data.prompts import PromptTemplate
from uwc.data.question_files import read_examples
from uwc.metrics.compat import COMPAT, Compat
from uwc.metrics.evaluate import Scoring, score_sets
from uwc.metrics.likelihood import extraction_strength
from uwc.metrics.scored import ScoredSet
from uwc.metrics.set_metrics import model_utility
from uwc.metrics.suites import Given
from uwc.models.load import build_tokenizer
from uwc.models.model import Model
from uwc.models.scoring import score_tokens
from uwc.objectives.methods import FINE_TUNING
from uwc.objectives.objective import Objective
from uwc.training.data import TrainingData
from uwc.training.loop import train
from uwc.training.settings import TrainingSettings

QUESTIONS = 60
NEW_TOKENS = 200
SIZES = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "num_attention_heads": 4}
LEVELS = {"A": 0, "B": 16, "C": 48}
"""Name -> epochs of training."""

METRICS = (
    "extraction_strength", "exact_memorization", "probability", "rouge_l_ascii", "mia_min_k", "mia_min_k_plus_plus",
    "mia_zlib", "truth_ratio_forget", "truth_ratio_utility",
)  # fmt: skip
PARTS = ("probability_normalised",)
FACTS = ("extraction_strength", "probability", "rouge_l_ascii")

_CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_HEADERS = (
    "{% for m in messages %}{{ '<|start|>' + m.role + '<|stop|>\n\n' + m.content | trim + '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant<|stop|>\n\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Kind:
    """A tokenizer's special tokens, the first its end of sequence, its template, and whether it pads with its own; and
    the mode whose prompt it is trained with, if it is not ours."""

    special: tuple[str, ...]
    template: str | None = None
    padding: bool = True
    trained_as: str | None = "open-unlearning"


KINDS = {
    "plain": Kind(("<|endoftext|>",)),
    "ChatML": Kind(("<|im_end|>", "<|im_start|>"), _CHATML),
    "ChatML, pad = eos": Kind(("<|im_end|>", "<|im_start|>"), _CHATML, padding=False),
    "Llama-3's form, pad = eot": Kind(("<|eot|>", "<|start|>", "<|stop|>"), _HEADERS, padding=False),
    "plain, our prompt": Kind(("<|endoftext|>",), trained_as=None),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where TOFU's files lie")
    parser.add_argument("--kind", choices=[*KINDS], action="append", help="only this one; may be repeated")
    parser.add_argument("--level", choices=[*LEVELS], action="append", help="likewise")
    options = parser.parse_args()
    names = {
        "retain": "retain_perturbed",
        "real_authors": "real_authors_perturbed",
        "world_facts": "world_facts_perturbed",
    }
    sets = {name: list(read_examples(options.folder / f"{file}.json")) for name, file in names.items()}
    sets["retain"] = [replace(e, paraphrased_question="") for e in sets["retain"][:QUESTIONS]]
    for kind in options.kind or KINDS:
        for level in options.level or LEVELS:
            model = trained(KINDS[kind], [e for part in sets.values() for e in part], epochs=LEVELS[level])
            compare = measured if KINDS[kind].trained_as else official
            for line in compare(model, sets):
                print(f"| {kind} | {level} | {line} |", flush=True)


def trained(kind: Kind, examples: Sequence[Example], *, epochs: int) -> Model:
    """A model of the kind, trained on the examples as OpenUnlearning trains."""
    texts = [f"Question: {e.question}\nAnswer: {e.answer}" for e in examples]
    tokenizer = build_tokenizer(texts, vocabulary=1024)
    tokenizer.add_special_tokens({"eos_token": kind.special[0], "extra_special_tokens": list(kind.special[1:])})
    if not kind.padding:
        tokenizer.pad_token = None
    tokenizer.chat_template = kind.template
    torch.manual_seed(0)
    module = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=512, **SIZES))
    module.generation_config.update(eos_token_id=tokenizer.eos_token_id, bos_token_id=None)
    model = Model(module, tokenizer)
    if epochs:
        peer = COMPAT[kind.trained_as].adapt(model) if kind.trained_as else model
        settings = TrainingSettings(epochs=epochs, batch_size=16, lr=2e-3, schedule="cosine")
        train(peer, Objective(FINE_TUNING, module), TrainingData(retain=examples), settings)
    return model


@dataclass(frozen=True)
class _Unmasked(Compat):
    """A mode without its attention mask."""

    def adapt(self, model: Model) -> Model:
        return super().adapt(model).edited(lambda e: replace(e, unattended=None))


def measured(model: Model, sets: dict[str, list[Example]]) -> list[str]:
    """Lines of figures: ours, the mode's without its mask, and the mode's."""
    peer = COMPAT["open-unlearning"]
    unmasked = _Unmasked(peer.name, peer.template, peer.functions, peer.settings)
    ways = [evaluated(model, sets, compat) for compat in (None, unmasked, peer)]
    lines = []
    for name, metrics in (("retain", METRICS), ("world_facts", FACTS)):
        for metric in metrics:
            values = [way[name].aggregate(metric).mean for way in ways]
            lines.append(" | ".join([name, metric, *(f"{v:.3f}" for v in values)]))
    lines.append(" | ".join(["all", "model_utility", *(f"{utility(way):.3f}" for way in ways)]))
    both = [utility(ways[0], definition=d) for d in ("arithmetic", "geometric")]
    lines.append(f"all | model_utility, by probabilities and by losses | {both[0]:.3f} | | {both[1]:.3f}")
    strength, lengths = ways[0]["retain"].values("extraction_strength"), ways[0]["retain"].scores.answer_lengths()
    floored = np.maximum(strength, 1 / lengths).mean()
    lines.append(f"retain | extraction_strength, the floor alone | {strength.mean():.3f} | | {floored:.3f}")
    return lines


def official(model: Model, sets: dict[str, list[Example]]) -> list[str]:
    """Lines of extraction strengths: ours, and by each rule of the official code alone and by all."""
    peer, questions = COMPAT["uwc-official"], sets["retain"]
    theirs = peer.functions["extraction_strength"]
    prompt = replace(model, template=PromptTemplate(text=peer.template.text, chat=False))
    scores = {
        "ours": extraction_strength(score_tokens(model, questions)),
        "its prompt, our start": extraction_strength(score_tokens(prompt, questions)),
        "its prompt and start": extraction_strength(score_tokens(peer.adapt(model), questions)),
        "our prompt and start, its search": theirs(score_tokens(model, questions)),
        "all together": theirs(score_tokens(peer.adapt(model), questions)),
    }
    return [f"retain | extraction_strength, {name} | {values.mean():.3f}" for name, values in scores.items()]


def evaluated(model: Model, sets: dict[str, list[Example]], compat: Compat | None) -> Mapping[str, ScoredSet]:
    """The scores of each set by a mode's rules, or by ours."""
    scoring = Scoring(Given(sets, max_new_tokens=NEW_TOKENS), [*METRICS, *PARTS], compat=compat)
    return score_sets(model, scoring.work())


def utility(scored: Mapping[str, ScoredSet], **truth: str) -> float:
    """TOFU's model utility of the three sets."""
    values = []
    for name, part in scored.items():
        probability = "probability" if name == "retain" else "probability_normalised"
        values += [part.values("rouge_l_ascii"), part.values(probability), part.values("truth_ratio_utility", **truth)]
    return model_utility(*values)


if __name__ == "__main__":
    main()
