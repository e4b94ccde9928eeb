"""The reference itself, on what can be told by eye or by another way."""

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.matrix.architectures import ARCHITECTURES, CELLS, Architecture
from tests.matrix.plain import Asked, Plain, Reading, block_matrices, quantized, rouge_l
from tests.matrix.prompts import PROMPTS
from tests.matrix.table import BEGIN, END, Found, with_table
from tests.matrix.teach import KNOWN, make_model
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

ASKED = Asked("x", "Where does Fenn Idris live?", "In Yarl.")
_Q = "Where does Fenn Idris live?"
_PLAIN = f"Question: {_Q}\nAnswer:"
PARTS = {
    "plain": (_PLAIN, " In Yarl.", "<|end|>"),
    "plain-bos": (f"<s>{_PLAIN}", " In Yarl.", "</s>"),
    "plain-two": (f"[mask]<sop>{_PLAIN}", " In Yarl.", "<|end|>"),
    "chatml": (f"<|turn|>user\n{_Q}<|close|>\n<|turn|>assistant\n", "In Yarl.", "<|close|>"),
    "chatml-other-end": (f"<|turn|>user\n{_Q}<|close|>\n<|turn|>assistant\n", "In Yarl.", "<|close|>"),
    "thinking": (f"<|turn|>user\n{_Q}<|close|>\n<|turn|>assistant\n<think>\n\n</think>\n\n", "In Yarl.", "<|close|>"),
    "opened-think": (f"<|begin|><|user|>{_Q}<|answer|>", "In Yarl.", "<|stop|>"),
    "inst": (f"<s>[Q] {_Q} [/Q]", "In Yarl.", "</s>"),
    "inst-tight": (f"<s>[Q]{_Q}[/Q]", "In Yarl.", "</s>"),
    "turns": (f"<bos><turn>user\n{_Q}<end>\n<turn>model\n", "In Yarl.", "<end>"),
    "headers": (f"<|begin|><|head|>user<|/head|>\n\n{_Q}<|eot|><|head|>assistant<|/head|>\n\n", "In Yarl.", "<|eot|>"),
    "swallowing": (f"<|user|>{_Q}<|end|><|assistant|>", "In Yarl.", "<|end|>"),
    "channel": (
        f"<|start|>user<|message|>{_Q}<|end|><|start|>assistant<|channel|>final<|message|>",
        "In Yarl.",
        "<|return|>",
    ),
    "system": (
        f"<|role|>system<|/role|>Answer briefly.<|text|>\n<|role|>user<|/role|>{_Q}<|text|>\n"
        "<|role|>assistant<|/role|>",
        "In Yarl.",
        "<|text|>",
    ),
    "next-turn": (f"[mask]<sop><|user|>\n{_Q}<|assistant|>\n", "In Yarl.", "<|user|>"),
    "unigram": (f"<user>\n{_Q}</s> \n<assistant>\n", "In Yarl.", "</s>"),
    "wordpiece": (f"[CLS] question : {_Q.lower()} answer :", "in yarl.", "[SEP]"),
    "byt5": (_PLAIN, " In Yarl.", "</s>"),
    "python-bpe": (f"Question: {_Q}\n Answer:", "In Yarl.", "<end>"),
}
"""Prompt, answer and end as their tokens are decoded; the second token of the end of "inst" is after a space."""


@pytest.fixture(params=PROMPTS)
def untaught(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Plain]:
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 1, "n_positions": 512}
    make_model(Architecture(request.param, "GPT2Config", sizes, request.param), tmp_path)
    return request.param, Plain.load(tmp_path)


def test_prompt_answer_and_end(untaught: tuple[str, Plain]) -> None:
    name, plain = untaught
    reading = plain.read(ASKED)
    parts = reading.ids[: reading.start], reading.ids[reading.start : reading.end], reading.ids[reading.end :]
    assert tuple(plain.tokenizer.decode(part) for part in parts) == PARTS[name]
    assert len(parts[2]) == (2 if name == "inst" else 1)
    assert plain.rendered(ASKED)[: len(reading.ids)] == reading.ids
    assert set(parts[2][-1:]) <= plain.listed_ends


@pytest.mark.parametrize("name", ["plain", "wordpiece", "unigram", "python-bpe", "inst"])
def test_tokenizers_are_the_same_each_time(name: str) -> None:
    texts = [f"Question: {a.question}\nAnswer: {a.answer}" for a in KNOWN]
    first, second = (PROMPTS[name].make(texts).get_vocab() for _ in range(2))
    assert first == second


def test_extraction_strength_is_what_generation_from_each_prefix_says() -> None:
    """Answers that begin at random and go on as the model does."""
    torch.manual_seed(0)
    config = GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=40, n_positions=64, initializer_range=0.5)
    plain = Plain(GPT2LMHeadModel(config).eval(), None)
    plain.model.generation_config.eos_token_id = None
    draw = random.Random(0)
    for size in (0, 1, 4):
        begun = [draw.randrange(40) for _ in range(6 + size)]
        ids = [*_continued(plain, begun, 5), 0]
        reading = Reading(tuple(ids), 6, len(ids) - 1)
        answer = ids[6:-1]
        fewest = next(k for k in range(len(answer) + 1) if _continued(plain, ids[: 6 + k], len(answer) - k) == ids[:-1])
        assert plain.scores(reading)["extraction_strength"] == 1 - fewest / len(answer)
        assert fewest <= size


def _continued(plain: Plain, ids: list[int], tokens: int) -> list[int]:
    if not tokens:
        return ids
    config = GenerationConfig(do_sample=False, max_new_tokens=tokens, pad_token_id=0)
    with torch.no_grad():
        return plain.model.generate(torch.tensor([ids]), generation_config=config)[0].tolist()  # type: ignore[no-any-return]


def test_scores_by_hand() -> None:
    """Three tokens of a vocabulary of two, of which the model gives the second 3/4 everywhere."""

    class Says(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
            logits = torch.tensor([1.0, 3.0]).log().expand(*input_ids.shape, 2)
            return SimpleNamespace(logits=logits)

    scores = Plain(Says(), None).scores(Reading((0, 1, 0, 1, 1), 1, 4))
    assert scores["extraction_strength"] == pytest.approx(1 / 3)
    assert scores["exact_memorization"] == pytest.approx(2 / 3)
    assert scores["probability"] == pytest.approx((3 / 4) ** (3 / 4) * (1 / 4) ** (1 / 4))
    assert scores["perplexity"] == pytest.approx(1 / scores["probability"])


def test_quantization_by_hand() -> None:
    """Two bits, groups of two inputs: -s, 0 or s, with s the largest magnitude; of a Conv1D along its first axis."""
    block = torch.nn.ModuleDict({"map": torch.nn.Linear(4, 1), "turned": Conv1D(1, 4), "norm": torch.nn.LayerNorm(4)})
    plain = Plain(torch.nn.ModuleDict({"blocks": torch.nn.ModuleList([block])}), None, "blocks")
    with torch.no_grad():
        block["map"].weight.copy_(torch.tensor([[1.0, 0.4, -0.2, 0.15]]))
        block["turned"].weight.copy_(torch.tensor([[1.0], [0.4], [-0.2], [0.15]]))
    matrices = block_matrices(plain)
    assert {name: tuple(m.shape) for name, m in matrices.items()} == {"0.map.weight": (1, 4), "0.turned.weight": (1, 4)}
    quantized(plain, matrices, bits=2, group=2)
    for module in (block["map"], block["turned"]):
        assert module.weight.flatten().tolist() == pytest.approx([1.0, 0.0, -0.2, 0.2])


def test_rouge_by_hand() -> None:
    found = rouge_l("She keeps old bees.", "she keeps a bee")
    assert found["rouge_l"] == pytest.approx(3 / 4)
    assert found["rouge_l_f1"] == pytest.approx(3 / 4)


def test_the_table_is_put_between_the_markers() -> None:
    found = {(n, c): Found("exact", 2e-7) for n in ARCHITECTURES for c in CELLS}
    found["gpt2", "text"] = Found("fails")
    found["rwkv", "attack-decoding"] = Found("refused", reason="no beam search")
    page = with_table(f"before\n{BEGIN}\nold\n{END}\nafter", found)
    assert page.startswith(f"before\n{BEGIN}\n") and page.endswith(f"{END}\nafter") and "old" not in page
    assert "| gpt2 | plain | <1e-6 | **fails** | <1e-6 |" in page
    assert "- rwkv: no beam search" in page
    with pytest.raises(ValueError, match="matrix: begin"):
        with_table("no markers", found)


def test_the_page_lists_every_architecture() -> None:
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    table = page.partition(BEGIN)[2].partition(END)[0]
    for name, architecture in ARCHITECTURES.items():
        assert f"| {name} | {architecture.prompt} |" in table, f"{name} is not in docs/models.md; run make matrix"
