"""The reference: plain transformers, one sequence at a time, without padding and without a line of uwc.

What a conversation is to a model, and what is scored:

- The conversation is rendered by the tokenizer's chat template with the true answer, and encoded as one text. The
  answer's tokens are those that hold a character of the answer as the template renders it; what stands before them is
  the prompt, whatever it is (an empty thinking block too), and what stands after them the end.
- The end goes up to and including the first token that ends the turn: the tokenizer's end token, one of the generation
  config's, or the first special token that the template writes there. Where it writes none of these, the end is the
  token with which a further question would begin, if that is one of the generation config's, or the end token.
- Without a template the text is "Question: {question}\\nAnswer: {answer}", with what the tokenizer's post-processor
  writes before a text and the end token after it. The space before the answer belongs to the answer.
- Probability and perplexity are over answer and end; extraction strength and exact memorization over the answer.
- Texts are greedy, from the prompt, up to any token that ends a turn.
"""

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rouge_score.rouge_scorer import RougeScorer
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.pytorch_utils import Conv1D

MARK = "\u2016answer\u2016"
"""Stands for the answer where it is looked for what a template writes around it; in no question and no template."""


@dataclass(frozen=True)
class Reading:
    """Token ids: ``ids[:start]`` is the prompt, ``ids[start:end]`` the answer, ``ids[end:]`` the end of the turn."""

    ids: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Asked:
    """A question with its answer."""

    id: str
    question: str
    answer: str


@dataclass
class Plain:
    """A checkpoint as plain transformers loads it.

    Attributes:
        model: the model, in evaluation mode.
        tokenizer: its tokenizer.
        blocks_at: the name of the list of its blocks, such as ``"model.layers"``.
    """

    model: Any
    tokenizer: Any
    blocks_at: str = ""
    _readings: dict[Asked, Reading] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path, blocks_at: str = "") -> "Plain":
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return cls(model.eval(), AutoTokenizer.from_pretrained(folder), blocks_at)

    def copy(self) -> "Plain":
        """The same with weights of its own."""
        return Plain(copy.deepcopy(self.model), self.tokenizer, self.blocks_at)

    # what an example is to the model

    @cached_property
    def listed_ends(self) -> set[int]:
        """The tokenizer's end token and those of the generation config."""
        listed = self.model.generation_config.eos_token_id
        ends = {self.tokenizer.eos_token_id, *(listed if isinstance(listed, list) else [listed])}
        return {int(e) for e in ends if e is not None}

    @cached_property
    def special(self) -> set[int]:
        added = {number for number, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return added | set(self.tokenizer.all_special_ids)

    @cached_property
    def beginning(self) -> tuple[int, ...]:
        """What the post-processor writes before a text."""
        bare, whole = (self.tokenizer("a b", add_special_tokens=s)["input_ids"] for s in (False, True))
        at = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
        return tuple(whole[:at])

    def read(self, asked: Asked) -> Reading:
        """The token ids of a question and its answer."""
        if asked not in self._readings:
            self._readings[asked] = self._chat(asked) if self.tokenizer.chat_template else self._without_template(asked)
        return self._readings[asked]

    def rendered(self, asked: Asked) -> tuple[int, ...]:
        """The whole conversation, with whatever stands after the end of the turn."""
        if not self.tokenizer.chat_template:
            return self.read(asked).ids
        ids = self.tokenizer(self._render(asked.question, asked.answer), add_special_tokens=False)["input_ids"]
        return max(tuple(ids), self.read(asked).ids, key=len)

    def _render(self, *said: str) -> str:
        """A conversation in which the user and the model speak in turn."""
        turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]
        return str(self.tokenizer.apply_chat_template(turns, tokenize=False))

    def _chat(self, asked: Asked) -> Reading:
        before, after = self._render(asked.question, MARK).split(MARK)
        text = self._render(asked.question, asked.answer)
        assert text.startswith(before) and text.endswith(after)
        ids, start, end = self._cut(text, len(before), len(text) - len(after))
        last = next((i for i in range(end, len(ids)) if ids[i] in self.listed_ends | self.special), None)
        if last is not None:
            return Reading(ids[: last + 1], start, end)
        assert end == len(ids), "the template writes something after the answer, but nothing that ends the turn"
        longer = self._render(asked.question, asked.answer, asked.question)
        (following,) = self.tokenizer(longer[len(text) :], add_special_tokens=False)["input_ids"][:1]
        return Reading((*ids, following if following in self.listed_ends else self.tokenizer.eos_token_id), start, end)

    def _without_template(self, asked: Asked) -> Reading:
        prompt = f"Question: {asked.question}\nAnswer:"
        text = f"{prompt} {asked.answer}"
        ids, start, end = self._cut(text, len(prompt), len(text))
        shift = len(self.beginning)
        return Reading((*self.beginning, *ids, self.tokenizer.eos_token_id), start + shift, end + shift)

    def _cut(self, text: str, start: int, end: int) -> tuple[tuple[int, ...], int, int]:
        """The ids of a text, the first token that holds one of its characters start..end, and one past the last."""
        if self.tokenizer.is_fast:
            encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            spans = encoded["offset_mapping"]
            held = [i for i, (a, b) in enumerate(spans) if a < end and b > start and b > a]
            return tuple(encoded["input_ids"]), held[0], held[-1] + 1
        ids, before, until = (
            self.tokenizer(part, add_special_tokens=False)["input_ids"] for part in (text, text[:start], text[:end])
        )
        return tuple(ids), _common(ids, before), _common(ids, until)

    def ends(self, reading: Reading) -> list[int]:
        """The tokens at which an answer to this prompt stops."""
        return sorted(self.listed_ends | set(reading.ids[-1:]))

    # what it scores

    @torch.no_grad()
    def logprobs(self, reading: Reading) -> tuple[Tensor, Tensor]:
        """Of the tokens of answer and end: their log-probabilities in float64, and whether each is the most likely."""
        logits = self.model(input_ids=torch.tensor([reading.ids]), use_cache=False).logits[0]
        logits, wanted = logits[reading.start - 1 : -1], torch.tensor(reading.ids[reading.start :])
        logprobs = logits.double().log_softmax(dim=-1)[torch.arange(len(wanted)), wanted]
        return logprobs, logits.argmax(dim=-1) == wanted

    def scores(self, asked: Asked | Reading) -> dict[str, float]:
        """Extraction strength, exact memorization, probability and perplexity."""
        reading = asked if isinstance(asked, Reading) else self.read(asked)
        logprobs, right = self.logprobs(reading)
        n = reading.end - reading.start
        answer = right[:n].tolist()
        suffices = next(k for k in range(n + 1) if all(answer[k:]))
        mean = float(logprobs.mean())
        return {
            "extraction_strength": 1 - suffices / n,
            "exact_memorization": sum(answer) / n,
            "probability": math.exp(mean),
            "perplexity": math.exp(-mean),
        }

    def mean(self, asked: Asked) -> float:
        """The mean log-probability of the answer's tokens, without the end of the turn."""
        reading = self.read(asked)
        return float(self.logprobs(reading)[0][: reading.end - reading.start].mean())

    @torch.no_grad()
    def text(self, asked: Asked, *, max_new_tokens: int, **settings: Any) -> str:
        """The greedy answer, or that of other settings of generation."""
        reading = self.read(asked)
        prompt, ends = torch.tensor([reading.ids[: reading.start]]), self.ends(reading)
        pad = self.tokenizer.pad_token_id
        config = GenerationConfig(
            max_new_tokens=max_new_tokens,
            eos_token_id=ends,
            pad_token_id=ends[0] if pad is None else pad,
            **{"do_sample": False, "num_beams": 1, **settings},
        )
        own, self.model.generation_config = self.model.generation_config, GenerationConfig()  # else it is mixed in
        output = self.model.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), generation_config=config
        )[0, prompt.shape[1] :].tolist()
        self.model.generation_config = own
        stop = next((i for i, token in enumerate(output) if token in ends), len(output))
        return str(self.tokenizer.decode(output[:stop], skip_special_tokens=True).strip())

    # its weights

    @property
    def state(self) -> dict[str, Tensor]:
        return dict(self.model.state_dict())

    @property
    def blocks(self) -> nn.ModuleList:
        return self.model.get_submodule(self.blocks_at)  # type: ignore[no-any-return]

    @torch.no_grad()
    def mixed(self, other: "Plain", alpha: float) -> "Plain":
        """(1 - alpha) times the weights of this model and alpha times those of another."""
        made, theirs = self.copy(), other.state
        made.model.load_state_dict(
            {name: torch.lerp(w, theirs[name], alpha) if w.is_floating_point() else w for name, w in self.state.items()}
        )
        return made

    def truncated(self, depth: int) -> "Plain":
        """The model without its blocks after the first `depth`."""
        made = self.copy()
        del made.blocks[depth:]
        for config in {id(c): c for c in (made.model.config, made.model.config.get_text_config())}.values():
            for name in ("num_hidden_layers", "n_layer", "n_layers", "num_layers"):
                if name in vars(config):
                    setattr(config, name, depth)
        return made


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def rouge_l(answer: str, text: str) -> dict[str, float]:
    """ROUGE-L, stemmed: recall and F1."""
    found = RougeScorer(["rougeL"], use_stemmer=True).score(answer, text)["rougeL"]
    return {"rouge_l": found.recall, "rouge_l_f1": found.fmeasure}


# training


def loss_of(plain: Plain, readings: Iterable[Reading]) -> Tensor:
    """The mean negative log-likelihood of the tokens of all answers and ends, one forward for each sequence."""
    losses, count = [], 0
    for reading in readings:
        logits = plain.model(input_ids=torch.tensor([reading.ids]), use_cache=False).logits[0, reading.start - 1 : -1]
        wanted = torch.tensor(reading.ids[reading.start :])
        losses.append(nn.functional.cross_entropy(logits.float(), wanted, reduction="sum"))
        count += len(wanted)
    return torch.stack(losses).sum() / count


def descend(
    plain: Plain,
    terms: Sequence[tuple[float, Sequence[Reading]]],
    *,
    steps: int,
    lr: float,
    optimizer: str,
    clip: float | None = None,
) -> list[float]:
    """Full-batch descent, in place, on the sum of weighted mean losses; returns the loss of each step.

    Args:
        plain: the model; its weights change.
        terms: weights and examples: gradient ascent is the one term (-1, forget).
        steps: how many.
        lr: the learning rate, constant.
        optimizer: "sgd" or "adamw", without weight decay.
        clip: the gradient's largest 2-norm.
    """
    plain.model.train()
    parameters = list(plain.model.parameters())
    kind: Any = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[optimizer]
    chosen = kind(parameters, lr=lr, weight_decay=0.0)
    losses = []
    for _ in range(steps):
        chosen.zero_grad()
        total = torch.stack([weight * loss_of(plain, readings) for weight, readings in terms]).sum()
        torch.autograd.backward(total)
        if clip is not None:
            nn.utils.clip_grad_norm_(parameters, clip)
        chosen.step()
        losses.append(float(total.detach()))
    plain.model.eval()
    return losses


# attacks


def block_matrices(plain: Plain, inputs_first: Sequence[str] = (), leave: Sequence[str] = ()) -> dict[str, Tensor]:
    """The matrices of the blocks as [..., out, in] views: linear maps, GPT-2's `Conv1D`, fused experts.

    Args:
        plain: the model.
        inputs_first: ends of the names of parameters, other than those of `Conv1D`, that are [..., in, out].
        leave: ends of the names of parameters with two dimensions, other than biases, that are no linear maps.
    """
    found: dict[str, Tensor] = {}
    for module_name, module in plain.blocks.named_modules():
        for name, weight in module.named_parameters(prefix=module_name, recurse=False):
            kernel = isinstance(module, nn.modules.conv._ConvNd)
            if weight.ndim < 2 or kernel or name.endswith(("bias", *leave)):
                continue
            turned = isinstance(module, Conv1D) or name.endswith(tuple(inputs_first))
            found[name] = weight.transpose(-1, -2) if turned else weight
    return found


@torch.no_grad()
def quantized(plain: Plain, matrices: dict[str, Tensor], *, bits: int, group: int) -> None:
    """Round to nearest, in place: each group of inputs of each output has one scale, its largest magnitude."""
    levels = 2 ** (bits - 1) - 1
    for matrix in {id(m): m for m in matrices.values()}.values():
        for begin in range(0, matrix.shape[-1], group):
            part = matrix[..., begin : begin + group]
            scale = part.abs().amax(dim=-1, keepdim=True) / levels
            part.copy_(torch.where(scale > 0, (part / scale).round() * scale, part))


def probed(plain: Plain, readings: Sequence[Reading], depth: int, *, steps: int, lr: float) -> Plain:
    """The model cut after `depth` blocks, with its output matrix trained on the readings by full-batch Adam.

    A bias of the output embedding is left out; what the model does to logits (soft caps, scales) stays.
    """
    made = plain.truncated(depth)
    head = made.model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone())  # no longer the input embedding
    head.bias = None
    made.model.requires_grad_(False)
    head.weight.requires_grad_(True)
    optimizer = torch.optim.Adam([head.weight], lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.autograd.backward(loss_of(made, readings))
        optimizer.step()
    return made
