"""The mode `open-unlearning` against a slow implementation of that code's rules in plain transformers."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer
from tests.conftest import people
from tests.helpers.tokenizer_kinds import byte_level_bpe
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

import uwc
from uwc.data.example import Example
from uwc.data.prompts import PromptTemplate
from uwc.errors import ConfigError, ModelError
from uwc.metrics.compat import COMPAT
from uwc.metrics.evaluate import Scoring, score_sets
from uwc.metrics.scored import ScoredSet
from uwc.metrics.suites import Given, chosen_metrics, in_all_wordings
from uwc.models.model import Model
from uwc.objectives.methods import FINE_TUNING
from uwc.objectives.objective import Objective
from uwc.training.data import TrainingData
from uwc.training.loop import train
from uwc.training.settings import TrainingSettings

IGNORED = -100
NEW = 24
K = 0.4
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start|>' + m.role + '<|end|>\n\n' + m.content | trim + '<|eot|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant<|end|>\n\n' }}{% endif %}"
)


def gpt2(size: int) -> Any:
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=size, n_positions=160, n_embd=48, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    )


def opt(size: int) -> Any:
    sizes = {"hidden_size": 48, "word_embed_proj_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    return OPTForCausalLM(OPTConfig(vocab_size=size, ffn_dim=96, max_position_embeddings=160, **sizes))


def llama(size: int) -> Any:
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=size, max_position_embeddings=160, **sizes))


@dataclass(frozen=True)
class Kind:
    """A kind of model: the special tokens and template of its tokenizer, its architecture and generation settings."""

    special: tuple[str, ...]
    eos: str
    build: Any = llama
    template: str | None = None
    pad: str | None = None
    bos: str | None = None
    ends: tuple[str, ...] = ()
    penalty: float = 1.0
    system: str = ""


KINDS = {
    "plain, a space before the answer": Kind(("<|endoftext|>",), "<|endoftext|>", gpt2),
    "ChatML, pad is eos": Kind(("<|im_start|>", "<|im_end|>"), "<|im_end|>", template=CHATML, system="Be kind."),
    "ChatML, a pad of its own, a penalty, another end": Kind(
        ("<|im_start|>", "<|im_end|>", "<|pad|>"), "<|im_end|>", template=CHATML, pad="<|pad|>", penalty=1.3,
        ends=("<|im_start|>",),
    ),
    "Llama-3, eot is the pad": Kind(
        ("<|bos|>", "<|start|>", "<|end|>", "<|eot|>", "<|eos|>"), "<|eot|>", template=LLAMA3, pad="<|eot|>",
        bos="<|bos|>", ends=("<|eos|>", "<|eot|>"), system="Be brief.",
    ),
    "OPT counts positions by the mask": Kind(("<|im_start|>", "<|im_end|>"), "<|im_end|>", opt, template=CHATML),
}  # fmt: skip


def questions() -> list[Example]:
    """Answers of several lengths; one with white space around it, one of a single token."""
    chosen = [replace(e, perturbed_answers=("In Rome", "She has never said.")) for e in people(3)]
    chosen[0] = replace(chosen[0], answer=f" {chosen[0].answer} ")
    chosen[2] = replace(chosen[2], answer="M")
    return [replace(e, paraphrased_answer=f"It is so: {e.answer}") for e in chosen]


def model_of(kind: Kind) -> Model:
    named = {"eos_token": kind.eos, "pad_token": kind.pad, "bos_token": kind.bos}
    tokenizer = byte_level_bpe(kind.special, **{k: v for k, v in named.items() if v})
    tokenizer.chat_template = kind.template
    torch.manual_seed(0)
    model = kind.build(len(tokenizer))
    listed = [tokenizer.convert_tokens_to_ids(t) for t in kind.ends or (kind.eos,)]
    model.generation_config.update(eos_token_id=listed, repetition_penalty=kind.penalty, bos_token_id=None)
    return Model(model, tokenizer, PromptTemplate(system=kind.system))


@pytest.fixture(scope="module", params=KINDS, ids=str)
def trained(request: pytest.FixtureRequest) -> tuple[Kind, Model]:
    """A model that knows some of the answers, and others in part."""
    kind = KINDS[request.param]
    model = model_of(kind)
    settings = TrainingSettings(epochs=60, batch_size=4, lr=5e-3, schedule="cosine")
    peer = COMPAT["open-unlearning"].adapt(model)
    train(peer, Objective(FINE_TUNING, model.model), TrainingData(retain=questions()[:4]), settings)
    return kind, model


class Peer:
    """The rules of OpenUnlearning, one step after the other, in batches padded and masked as there."""

    def __init__(self, kind: Kind, model: Model) -> None:
        self.kind, self.model, self.tokenizer = kind, model.model.eval(), model.tokenizer
        self.eos = self.tokenizer.convert_tokens_to_ids(kind.eos)
        self.pad = self.eos if kind.pad is None else self.tokenizer.convert_tokens_to_ids(kind.pad)

    def ids(self, question: str, answer: str) -> tuple[list[int], list[int]]:
        """The conversation's ids and the prompt's."""
        if self.kind.template is None:
            prompt = f"Question: {question}\nAnswer: "
            whole, begun = self.tokenizer(prompt + answer)["input_ids"], self.tokenizer(prompt)["input_ids"]
        else:
            chat = [{"role": "system", "content": self.kind.system}] if self.kind.system else []
            chat = [*chat, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            whole = self.tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False)
            begun = self.tokenizer.apply_chat_template(
                chat[:-1], tokenize=True, add_generation_prompt=True, return_dict=False
            )
        return whole + ([] if whole[-1] == self.eos else [self.eos]), begun

    def padded(self, rows: Sequence[list[int]], value: int, *, left: bool = False) -> torch.Tensor:
        width = max(len(row) for row in rows)
        fill = [[value] * (width - len(row)) for row in rows]
        return torch.tensor([f + row if left else row + f for row, f in zip(rows, fill, strict=True)])

    def logprobs(self, questions: Sequence[str], answers: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, T - 1, V] log-probabilities, and [B, T - 1] labels."""
        pairs = [self.ids(q, a) for q, a in zip(questions, answers, strict=True)]
        ids = self.padded([whole for whole, _ in pairs], self.pad)
        labels = self.padded([[IGNORED] * len(p) + whole[len(p) :] for whole, p in pairs], IGNORED)
        logits = self.model(input_ids=ids, attention_mask=ids.ne(self.pad)).logits
        return logits.log_softmax(-1)[:, :-1], labels[:, 1:]

    def labelled(self, questions: Sequence[str], answers: Sequence[str]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """For each row the [n, V] log-probabilities at its labels, and the [n] labels."""
        logprobs, labels = self.logprobs(questions, answers)
        return [(lp[row != IGNORED], row[row != IGNORED]) for lp, row in zip(logprobs, labels, strict=True)]

    def losses(self, questions: Sequence[str], answers: Sequence[str]) -> np.ndarray:
        rows = self.labelled(questions, answers)
        return np.array([-float(lp.gather(1, labels[:, None]).mean()) for lp, labels in rows])

    def generated(self, questions: Sequence[str], answers: Sequence[str]) -> list[tuple[str, str]]:
        """(true text, generated text) as ROUGE reads them."""
        pairs = [self.ids(q, a) for q, a in zip(questions, answers, strict=True)]
        ids = self.padded([prompt for _, prompt in pairs], self.pad, left=True)
        output = self.model.generate(
            ids, attention_mask=ids.ne(self.pad), do_sample=False, max_new_tokens=NEW, use_cache=True,
            pad_token_id=self.eos,
        )  # fmt: skip
        decode = self.tokenizer.batch_decode
        begun, whole = decode(ids, skip_special_tokens=True), decode([w for w, _ in pairs], skip_special_tokens=True)
        said = decode(output[:, ids.shape[1] :], skip_special_tokens=True)
        true = [text.replace(prompt, "").strip() for text, prompt in zip(whole, begun, strict=True)]
        return [(t, s.split(self.kind.eos)[0].strip()) for t, s in zip(true, said, strict=True)]


def expected(peer: Peer, examples: Sequence[Example]) -> dict[str, list[float]]:
    asked, answers = [e.question for e in examples], [e.answer for e in examples]
    values: dict[str, list[float]] = {}

    def add(name: str, value: float) -> None:
        values.setdefault(name, []).append(value)

    loss = peer.losses(asked, answers)
    restated = peer.losses(asked, [e.paraphrased_answer for e in examples])
    wrong = np.stack([peer.losses(asked, [e.perturbed_answers[j] for e in examples]) for j in range(2)], axis=1)
    for i, (logprobs, labels) in enumerate(peer.labelled(asked, answers)):
        add("probability", math.exp(-loss[i]))
        text = peer.tokenizer.decode(labels.tolist(), skip_special_tokens=True)
        add("mia_zlib", loss[i] / len(zlib.compress(text.encode())))
        add("probability_normalised", math.exp(-loss[i]) / (math.exp(-loss[i]) + np.exp(-wrong[i]).sum() + 1e-10))
        ratio = math.exp(-wrong[i].mean()) / (math.exp(-restated[i]) + 1e-10)
        add("truth_ratio_geometric", ratio)
        add("truth_ratio_forget", min(ratio, 1 / (ratio + 1e-10)))
        add("truth_ratio_utility", max(0, 1 - ratio))
        true, other = math.exp(-restated[i]), math.exp(-wrong[i].mean())
        add("truth_probability", true / (true + other + 1e-10))
        logprobs, labels = logprobs[:-1], labels[:-1]
        right = logprobs.argmax(-1) == labels
        n = len(labels)
        k = next((k for k in range(n) if bool(right[k:].all())), n - 1)
        add("extraction_strength", 1 - k / n if n else 0)
        add("exact_memorization", float(right.float().mean()) if n else math.nan)
        own = logprobs.gather(1, labels[:, None])[:, 0].numpy()
        mean = (logprobs.exp() * logprobs).sum(-1)
        spread = ((logprobs.exp() * logprobs.square()).sum(-1) - mean.square()).clamp(min=1e-6).sqrt()
        for name, each in (("mia_min_k", own), ("mia_min_k_plus_plus", (own - mean.numpy()) / spread.numpy())):
            add(name, -float(np.mean(sorted(each)[: max(1, int(n * K))])) if n else 0)
    scorer = RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
    for true_text, said in peer.generated(asked, answers):
        rouge = scorer.score(true_text, said)
        add("rouge_l", rouge["rougeL"].recall)
        add("rouge_l_f1", rouge["rougeL"].fmeasure)
        add("rouge_1", rouge["rouge1"].recall)
    return values


def scored(model: Model, examples: Sequence[Example], names: Sequence[str], **options: Any) -> ScoredSet:
    given = Given(in_all_wordings({"forget": examples}), frozenset(options), NEW)
    scoring = Scoring(given, chosen_metrics(None, names, given)[0], compat=COMPAT["open-unlearning"])
    return score_sets(model, scoring.work(), **options)["forget"]


@pytest.mark.slow
def test_every_metric_is_that_of_the_slow_implementation(trained: tuple[Kind, Model]) -> None:
    kind, model = trained
    with torch.no_grad():
        theirs = expected(Peer(kind, model), questions())
    ours = scored(model, questions(), list(theirs))
    for name, values in theirs.items():
        assert ours.values(name) == pytest.approx(values, abs=1e-5, rel=1e-5, nan_ok=True), name
    assert 0.05 < np.mean(theirs["rouge_l"]) < 1  # known in part: neither all nor nothing would tell much
    assert 0.05 < np.mean(theirs["extraction_strength"]) < 1


@pytest.mark.slow
def test_the_gradient_norm_is_that_of_the_labelled_tokens_but_the_last(trained: tuple[Kind, Model]) -> None:
    kind, model = trained
    peer, examples = Peer(kind, model), questions()
    norms = []
    for example in examples:
        ((logprobs, labels),) = peer.labelled([example.question], [example.answer])
        model.model.zero_grad()
        if len(labels) > 1:
            (-logprobs[:-1].gather(1, labels[:-1, None]).mean()).backward()
        sizes = [float(p.grad.norm()) for p in model.model.parameters() if p.grad is not None]
        norms.append(np.mean(sizes) if sizes else math.nan)
    model.model.zero_grad()
    ours = scored(model, examples, ["mia_gradient_norm"]).values("mia_gradient_norm")
    assert ours == pytest.approx(norms, rel=1e-4, nan_ok=True)


def test_the_reference_is_read_alike(trained: tuple[Kind, Model]) -> None:
    kind, model = trained
    other = model_of(kind)
    asked, answers = [e.question for e in questions()], [e.answer for e in questions()]
    with torch.no_grad():
        gap = Peer(kind, model).losses(asked, answers) - Peer(kind, other).losses(asked, answers)
    ours = scored(model, questions(), ["mia_reference"], original=other).values("mia_reference")
    assert ours == pytest.approx(gap, abs=1e-5)


def test_end_tokens_in_a_prompt_are_masked_where_they_pad() -> None:
    """With the mask as it is, and with all of it attended to: another score, so that the rule is seen to matter."""
    model = model_of(KINDS["Llama-3, eot is the pad"])
    adapted = COMPAT["open-unlearning"].adapt(model)
    encoded = adapted.encode(questions()[:1])[0]
    eot = model.tokenizer.eos_token_id
    assert encoded.unattended == eot
    assert encoded.tokens[: encoded.start].count(eot) == 2  # after the system message and the question
    ids = torch.tensor([encoded.tokens])
    masked, whole = (model.model(input_ids=ids, attention_mask=m).logits for m in (ids != eot, ids >= 0))
    assert not torch.allclose(masked[0, encoded.start - 1], whole[0, encoded.start - 1], atol=1e-4)


def test_a_template_whose_generation_prompt_is_longer_leaves_no_token() -> None:
    """As of models that think: the rendering of an answer has no opened block, and a short answer fits into it."""
    model = model_of(KINDS["ChatML, pad is eos"])
    model.tokenizer.chat_template = CHATML.replace("assistant\n' }}{% endif", "assistant\n<think>\nHm.\n' }}{% endif")
    ours = scored(model, [Example("a", "Who?", "M")], ["probability", "extraction_strength", "mia_min_k", "rouge_l"])
    assert np.isnan(ours.values("probability")).all()
    assert ours.values("extraction_strength").tolist() == ours.values("mia_min_k").tolist() == [0.0]
    assert ours.answers == ("system\nBe kind.\nuser\nWho?\nassistant\nM",)  # the prompt is no part of it


def test_settings_of_the_prompt_stay() -> None:
    model = model_of(KINDS["ChatML, pad is eos"])
    adapted = COMPAT["open-unlearning"].adapt(
        replace(model, template=PromptTemplate(text="[INST] {question} [/INST]", chat=False))
    )
    text = model.tokenizer.decode(adapted.encode(questions()[1:2])[0].tokens)
    assert text.startswith(f"[INST] {questions()[1].question} [/INST]{questions()[1].answer}")
    spoken = COMPAT["open-unlearning"].adapt(replace(model, template=PromptTemplate(system="Be loud.")))
    assert "Be loud." in model.tokenizer.decode(spoken.encode(questions()[:1])[0].before)


def test_the_texts_that_were_scored_are_stored(tmp_path: Path) -> None:
    model = model_of(KINDS["ChatML, pad is eos"])
    ours = scored(model, questions(), ["mia_zlib"])
    ours.save(tmp_path, "forget")
    again = replace(ScoredSet.load(tmp_path, "forget"), compat=COMPAT["open-unlearning"])
    assert again.labelled == ours.labelled == tuple(f"{e.answer}\n" for e in questions())
    assert again.values("mia_zlib").tolist() == ours.values("mia_zlib").tolist()


def test_plain_prompts_are_cut_as_there() -> None:
    model = model_of(KINDS["plain, a space before the answer"])
    long = Example("a", "Where?", "M " * 700)
    encoded = COMPAT["open-unlearning"].adapt(model).template.encode([long], model.tokenizer, max_length=1000)
    assert len(encoded[0].tokens) == 512 + 1


def test_a_tokenizer_without_an_end_is_refused() -> None:
    model = model_of(KINDS["plain, a space before the answer"])
    model.tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no end-of-sequence token"):
        scored(model, questions(), ["probability"])


def test_only_known_modes() -> None:
    with pytest.raises(ConfigError, match="uwc-official"):
        uwc.score("no such model", questions(), compat="uwc")
