"""Attacks on the inside and on decoding: probes, logit lens, ablation, soft prompts, GCG, sampling, beams."""

import ast
import copy
import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import copied, people, tiny_model
from tests.helpers.architectures import architecture, random_module
from tests.helpers.hidden_knowledge import KNOWN, TRIGGER, UNKNOWN, by_variant, ignorant, muted, reluctant, strength
from tests.helpers.tokenizer_kinds import KINDS
from torch import nn
from transformers import GenerationConfig

from uwc.attacks.chain import attacked, make_chain
from uwc.attacks.data import AttackData
from uwc.attacks.evaluate import budget_curve, combine, measure, metric_values
from uwc.attacks.inside import cached_states, chosen_depths, train_heads
from uwc.attacks.suffix_search import Problem, SearchSettings, SuffixSearch, allowed_tokens
from uwc.attacks.surrogate import Intervened, ReadAt, SoftPrompted
from uwc.errors import AttackFailed, ConfigError, ModelError
from uwc.models.contrast import contrast
from uwc.models.generation import continue_greedily, generate
from uwc.models.model import Model
from uwc.models.scoring import score_tokens
from uwc.models.states import blocks

SCORED, OWNED = KNOWN[:4], KNOWN[4:]
PROBE = {"lr": 1e-3, "positions": 32, "epochs": 5}
GCG = {"steps": 2, "start": " x x", "candidates": 128}
SOFT = {"steps": 30, "lr": 0.1, "tokens": 4}
SPOKEN = "rouge_l"


def outcomes(
    model: Model, name: str, settings: dict[str, Any], metric: str = "extraction_strength", *, unknown: bool = False
) -> dict[str, float]:
    """Variant -> the metric under attack, on what is known or on what never was."""
    data = AttackData(UNKNOWN if unknown else SCORED, train=OWNED, retain=[] if unknown else UNKNOWN)
    (found,) = measure(model, data, make_chain(name, {name: settings}), [metric], max_new_tokens=24)
    return by_variant(found)


def test_probes_read_past_an_output_layer_that_only_silences(knowing: Model) -> None:
    silent = muted(knowing)
    assert strength(silent, SCORED) == 0.0
    found = outcomes(silent, "probe", PROBE)
    assert found["layer 2"] > 0.7
    assert found["worst case"] >= max(found["layer 1"], found["layer 2"])


def test_probes_read_nothing_that_was_never_known(knowing: Model) -> None:
    assert max(outcomes(tiny_model(hidden_size=64), "probe", PROBE).values()) < 0.1
    assert outcomes(muted(knowing), "probe", PROBE, unknown=True)["worst case"] < 0.3


def test_all_depths_together_learn_what_each_learns_alone(knowing: Model) -> None:
    states, targets = cached_states(knowing, KNOWN, [1, 2])
    weight = knowing.model.get_output_embeddings().weight
    settings = {"epochs": 2, "lr": 1e-2, "positions": 16, "seed": 3}
    together = train_heads(states, targets, weight, **settings)
    for depth in (1, 2):
        alone = train_heads({depth: states[depth]}, targets, weight, **settings)[depth]
        assert torch.equal(alone.weight, together[depth].weight)


def test_the_last_layer_read_with_the_models_own_head_is_the_model(knowing: Model) -> None:
    head = knowing.model.get_output_embeddings()
    reader = replace(knowing, model=ReadAt(knowing.model, 2, head))
    ours, models = score_tokens(reader, people()), score_tokens(knowing, people())
    np.testing.assert_allclose(ours.logprob, models.logprob, atol=1e-5)
    texts = [generate(asked, people(), max_new_tokens=12).texts for asked in (reader, knowing)]
    assert texts[0] == texts[1]
    prompts = [list(e.tokens[: e.start]) for e in knowing.encode(people()[:2])]
    assert continue_greedily(reader, prompts, max_new_tokens=5) == continue_greedily(knowing, prompts, max_new_tokens=5)


READ = [
    "gpt2", "openai-gpt", "opt", "granite", "cohere", "gemma2", "gemma3", "gemma3n_text", "mixtral", "mamba", "rwkv",
    "recurrent_gemma", "nemotron_h", "falcon_h1", "modernbert-decoder",
]  # fmt: skip
HYBRID = ["openai-gpt", "mamba", "rwkv", "recurrent_gemma", "nemotron_h", "falcon_h1"]


def ids_of(model: Model, count: int = 3) -> list[torch.Tensor]:
    return [torch.tensor([e.tokens]) for e in model.encode(people()[:count])]


@torch.no_grad()
@pytest.mark.parametrize("name", READ)
def test_a_lens_is_the_model_without_the_blocks_above(name: str) -> None:
    """Bit for bit, with the model's own norms, projections, soft caps and scales; at the last block it is the model.

    RWKV halves its states after every sixth block, which its last norm takes out again, but for its epsilon.
    """
    model = architecture(name)
    depth = len(blocks(model.model))
    for layer in {1, depth - 1, depth}:
        cut = copy.deepcopy(model.model)
        del blocks(cut)[layer:]
        for ids in ids_of(model, 2):
            expected = cut(input_ids=ids, use_cache=False).logits
            found = ReadAt(model.model, layer)(input_ids=ids, use_cache=False).logits
            torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-4 if name == "rwkv" else 0.0)
    lens = replace(model, model=ReadAt(model.model, depth))
    ours, models = score_tokens(lens, people()[:4]), score_tokens(model, people()[:4])
    np.testing.assert_array_equal(ours.logprob, models.logprob)
    texts = [generate(asked, people()[:3], max_new_tokens=4).texts for asked in (lens, model)]
    assert texts[0] == texts[1]


@torch.no_grad()
@pytest.mark.parametrize("name", READ)
def test_a_probe_that_is_the_models_own_output_embedding_is_the_model(name: str) -> None:
    """What the model does to logits after its output embedding happens to those of a probe."""
    model = architecture(name)
    own = model.model.get_output_embeddings()
    probe = nn.Linear(own.weight.shape[1], own.weight.shape[0], bias=own.bias is not None)
    probe.load_state_dict(own.state_dict())
    read = replace(model, model=ReadAt(model.model, len(blocks(model.model)), probe))
    ours, models = score_tokens(read, people()[:4]), score_tokens(model, people()[:4])
    np.testing.assert_allclose(ours.logprob, models.logprob, atol=1e-5)
    texts = [generate(asked, people()[:3], max_new_tokens=4).texts for asked in (read, model)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("name", "finish"),
    [
        ("gemma2", lambda z: 0.5 * torch.tanh(z / 0.5)),
        ("granite", lambda z: z / 8.0),
        ("cohere", lambda z: z * 0.1),
        ("falcon_h1", lambda z: z * 0.5),
        ("llama", lambda z: z),
        ("gptj", lambda z: z),  # whose output embedding has a bias, which is left out
    ],
)
def test_a_probe_is_trained_through_what_follows_the_output_embedding(name: str, finish: Any) -> None:
    """Against descent written out, from zero: one step of Adam on all positions at once."""
    model = architecture(name)
    layer = 1
    with attacked(
        model,
        AttackData(SCORED, train=OWNED),
        make_chain("probe", {"probe": {"layers": [layer], "epochs": 2, "lr": 0.1, "start": "zero"}}),
    ) as variants:
        found = next(variants).model.model.head.weight.detach()
    entering: list[torch.Tensor] = []
    labels: list[int] = []
    cut = copy.deepcopy(model.model)
    del blocks(cut)[layer:]
    cut.get_output_embeddings().register_forward_pre_hook(lambda _m, args: entering.append(args[0].detach()[0]))
    states = []
    for e in model.encode(OWNED):
        cut(input_ids=torch.tensor([e.tokens]), use_cache=False)
        states.append(entering[-1][e.start - 1 : len(e.tokens) - 1])
        labels += e.tokens[e.start :]
    weight = torch.zeros_like(found, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(finish(torch.cat(states) @ weight.T), torch.tensor(labels))
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(found, weight.detach(), atol=1e-4, rtol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("name", READ)
def test_a_soft_prompt_of_a_texts_embeddings_is_the_text(name: str) -> None:
    """Whatever the embedding module does to a row of its table; in generation it stands after padding on the left."""
    model = architecture(name)
    typed = model.tokenizer("Tell me this:", add_special_tokens=False)["input_ids"]
    prompt = model.model.get_input_embeddings()(torch.tensor([typed]))[0]
    soft = replace(model, model=SoftPrompted(model.model, prompt, torch.tensor(typed)))
    expected: list[float] = []
    for e in model.encode(people()[:4]):
        logits = model.model(input_ids=torch.tensor([[*typed, *e.tokens]]), use_cache=False).logits[0, len(typed) :]
        log_p = logits.float().log_softmax(dim=-1)
        expected += [log_p[t - 1, e.tokens[t]].item() for t in range(e.start, len(e.tokens))]
    np.testing.assert_allclose(score_tokens(soft, people()[:4]).logprob, expected, atol=1e-5)
    prompts = [list(e.tokens[: e.start]) for e in model.encode(people()[:3])]
    alone = [continue_greedily(model, [[*typed, *p]], max_new_tokens=4)[0][0] for p in prompts]
    assert list(map(list, generate(soft, people()[:3], max_new_tokens=4).tokens)) == alone


@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3n_text", "ctrl", "mixtral", *HYBRID])
def test_the_gradient_of_a_suffix_goes_through_the_embedding_module(name: str) -> None:
    """Against autograd on one-hot tokens times what the module makes of every token, the whole sequence at once."""
    model = architecture(name)
    (encoded,) = model.encode(people()[1:2])
    suffix = tuple(model.tokenizer(" x x x", add_special_tokens=False)["input_ids"])
    problem = Problem.of(encoded, 2, None)
    search = SuffixSearch(model, [problem], suffix, SearchSettings(1, 8, 8, None, None, 0))
    module, embedding = model.model, model.model.get_input_embeddings()
    rows = embedding(torch.arange(len(embedding.weight))).detach()
    one_hot = nn.functional.one_hot(torch.tensor(suffix), len(rows)).float().requires_grad_()
    first, last = len(problem.before), len(problem.before) + len(suffix)
    handle = embedding.register_forward_hook(
        lambda _m, _a, output: torch.cat([output[:, :first], (one_hot @ rows)[None], output[:, last:]], dim=1)
    )
    ids = torch.tensor([problem.with_suffix(suffix)])
    logits = module(input_ids=ids, use_cache=False).logits[0, -len(problem.wanted) - 1 : -1].float()
    handle.remove()
    loss = nn.functional.cross_entropy(logits, torch.tensor(problem.wanted))
    (expected,) = torch.autograd.grad(loss, [one_hot])
    assert search.best_loss == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(search._gradient(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_losses_with_a_cached_prefix_are_those_of_whole_sequences(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = architecture(name)
    problems = [Problem.of(e, 2, None) for e in model.encode(people()[:3])]
    start = tuple(model.tokenizer(" x x x", add_special_tokens=False)["input_ids"])
    suffixes = torch.tensor([start, start[::-1], (5, 6, 7)[: len(start)] + start[3:]])
    cached = SuffixSearch(model, problems, start, SearchSettings(1, 8, 8, None, None, 0))
    assert all(cache is not None for cache in cached._caches)
    monkeypatch.setattr(SuffixSearch, "_cache", lambda _self, _problem: None)
    whole = SuffixSearch(model, problems, start, SearchSettings(1, 8, 8, None, None, 0))
    torch.testing.assert_close(cached._losses(suffixes), whole._losses(suffixes), atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("name", HYBRID)
def test_models_whose_caches_cannot_be_repeated_are_searched_too(name: str) -> None:
    settings = {"steps": 1, "start": "x", "candidates": 8}
    data = AttackData(SCORED[:2], train=OWNED[:2])
    (found,) = measure(architecture(name), data, make_chain("gcg", {"gcg": settings}), ["probability"])
    assert found.variants[0].note


@pytest.mark.parametrize("name", ["gpt2", "openai-gpt", "mixtral", "rwkv", "recurrent_gemma", "nemotron_h"])
def test_directions_are_ablated_in_blocks_of_every_kind(name: str) -> None:
    model = architecture(name)
    data = AttackData(SCORED, train=OWNED, retain=UNKNOWN)
    with attacked(model, data, make_chain("direction_ablation")) as variants:
        ablated = next(variants).model
        assert not np.allclose(score_tokens(ablated, SCORED).logprob, score_tokens(model, SCORED).logprob, atol=1e-4)


def test_states_that_are_several_a_token_are_not_ablated() -> None:
    with (
        pytest.raises(ModelError, match=r"states of shape .* its hidden states cannot be read"),
        attacked(
            architecture("gemma3n_text"),
            AttackData(SCORED, train=OWNED, retain=UNKNOWN),
            make_chain("direction_ablation"),
        ) as variants,
    ):
        next(variants)


def test_a_direction_that_is_none_is_told() -> None:
    data = AttackData(SCORED, train=OWNED, retain=[replace(e, id=f"again {e.id}") for e in OWNED])
    with (
        pytest.raises(AttackFailed, match="after block 1 are the same"),
        attacked(architecture("llama"), data, make_chain("direction_ablation")) as variants,
    ):
        next(variants)


@pytest.mark.parametrize(
    "name", ["probe", "logit_lens", "soft_prompt", "direction_ablation", "gcg", "sampling", "beam_search"]
)
def test_two_models_that_answer_as_one_are_not_read_inside(name: str, knowing: Model) -> None:
    both = contrast(knowing, copied(knowing))
    chain = make_chain(name, {"gcg": {"steps": 1, "start": "x"}} if name == "gcg" else {})
    with (
        pytest.raises(ModelError),
        attacked(both, AttackData(SCORED, train=OWNED, retain=UNKNOWN), chain) as variants,
    ):
        next(variants)


def test_default_depths_are_a_third_two_thirds_and_the_last() -> None:
    model = tiny_model(layers=6)
    assert chosen_depths(model.model, ()) == [2, 4, 6]
    assert chosen_depths(model.model, (-1, 1)) == [1, 6]


def with_a_last_block_of_noise(model: Model) -> Model:
    """A block is added that writes noise over the states; what stands before it is the whole old model."""
    noisy = copied(model)
    listed = blocks(noisy.model)
    extra = copy.deepcopy(listed[-1])
    extra.self_attn.layer_idx = len(listed)
    with torch.no_grad():
        extra.mlp.down_proj.weight.normal_(std=30.0, generator=torch.Generator().manual_seed(0))
    listed.append(extra)
    noisy.model.config.num_hidden_layers = len(listed)
    return noisy


def test_the_logit_lens_reads_what_the_last_block_hides(knowing: Model) -> None:
    hidden = with_a_last_block_of_noise(knowing)
    assert strength(hidden, SCORED) < 0.1
    assert outcomes(hidden, "logit_lens", {"layers": [2]})["layer 2"] > 0.9
    assert outcomes(hidden, "logit_lens", {"layers": [2]}, unknown=True)["layer 2"] < 0.3


def misdirected(model: Model, known: Sequence[Any]) -> Model:
    """A model that adds one fixed vector to its states wherever a known person is asked about (as RMU does)."""
    vector = 30 * torch.randn(64, generator=torch.Generator().manual_seed(0))
    prompts = [torch.tensor(e.tokens[: e.start]) for e in model.encode(known)]
    module = copy.deepcopy(model.model)
    rows: list[Any] = []

    def see(_module: Any, args: Any) -> None:
        rows[:] = [[any(torch.equal(row[: len(p)], p) for p in prompts) for row in args[0]]]

    def push(_module: Any, _args: Any, states: Any) -> Any:
        moved = (states[0] if isinstance(states, tuple) else states) + torch.tensor(rows[0])[:, None, None] * vector
        return (moved, *states[1:]) if isinstance(states, tuple) else moved

    module.get_input_embeddings().register_forward_pre_hook(see)
    blocks(module)[0].register_forward_hook(push)
    return replace(model, model=module)


def test_ablating_the_direction_undoes_a_misdirection(knowing: Model) -> None:
    model = misdirected(knowing, KNOWN)
    assert strength(model, SCORED) < 0.2
    assert outcomes(model, "direction_ablation", {"layers": [1]})[""] > 0.7


def test_ablation_finds_nothing_that_was_never_known() -> None:
    assert outcomes(tiny_model(), "direction_ablation", {})[""] < 0.1


def test_after_ablation_no_state_has_a_part_along_the_direction(knowing: Model) -> None:
    chain = make_chain("direction_ablation")
    data = AttackData(SCORED, train=OWNED, retain=UNKNOWN)
    with attacked(knowing, data, chain) as variants:
        model = next(variants).model.model
        assert isinstance(model, Intervened)
        change = model._changes[2]
    states = torch.randn(3, 5, 64)
    once = change(states)
    torch.testing.assert_close(change(once), once, atol=1e-5, rtol=1e-5)
    removed = (states - once).flatten(0, 1)
    assert torch.linalg.matrix_rank(removed, atol=1e-3) == 1


def test_gcg_finds_the_suffix_that_makes_a_reluctant_model_talk() -> None:
    model = reluctant()
    data = AttackData(SCORED, train=OWNED)
    found = measure(model, data, make_chain("gcg", {"gcg": GCG}), [SPOKEN], max_new_tokens=24)
    assert found[0].before.mean < 0.3
    assert found[0].after.mean > 0.8
    assert TRIGGER in found[0].variants[0].note


def test_gcg_for_each_question_talks_too_and_each_budget_is_at_least_the_one_before() -> None:
    settings = {**GCG, "budgets": [1, 2]}
    (found,) = measure(
        reluctant(), AttackData(SCORED), make_chain("gcg_per_question", {"gcg_per_question": settings}), ["probability"]
    )
    after = by_variant(found)
    assert after["2 steps"] >= after["1 steps"] > found.before.mean
    assert found.after.mean == after["2 steps"]


def test_gcg_elicits_nothing_that_was_never_known() -> None:
    assert outcomes(reluctant(), "gcg", GCG, unknown=True)[""] < 0.2
    assert outcomes(ignorant(), "gcg", GCG)[""] < 0.1
    assert outcomes(ignorant(), "gcg_per_question", GCG)[""] < 0.1


@pytest.mark.parametrize("layer", [None, 2])
def test_the_search_scores_a_suffix_as_the_whole_text_without_a_cache(layer: int | None) -> None:
    model = reluctant()
    encoded = model.encode(SCORED[:2])
    problems = [Problem.of(e, 3, None) for e in encoded]
    start = tuple(model.tokenizer(" x x", add_special_tokens=False)["input_ids"])
    search = SuffixSearch(model, problems, start, SearchSettings(1, 8, 8, None, layer, 0))
    expected = []
    for p in problems:
        ids = torch.tensor([[*p.before, *start, *p.between, *p.wanted]])
        log_p = model.model(input_ids=ids).logits[0, -len(p.wanted) - 1 : -1].log_softmax(-1)
        expected.append(-log_p[range(len(p.wanted)), list(p.wanted)].mean().item())
    assert search.best_loss == pytest.approx(np.mean(expected), rel=1e-4)


def test_the_search_keeps_the_best_suffix_seen_the_first_one_included() -> None:
    """From the best start there is, no step can make the suffix that is returned worse."""
    model = reluctant()
    start = tuple(model.tokenizer(f" {TRIGGER}", add_special_tokens=False)["input_ids"])
    tail = 3
    search = SuffixSearch(
        model,
        [Problem.of(e, tail, None) for e in model.encode(SCORED)],
        start,
        SearchSettings(3, 4, 4, None, None, 0),
    )
    losses = [search.best_loss]
    for _ in range(3):
        search.step()
        losses.append(search.best_loss)
    assert losses == sorted(losses, reverse=True)


def test_suffixes_are_printable_and_survive_decoding_and_encoding() -> None:
    model = reluctant()
    tokens = allowed_tokens(model.tokenizer)
    assert not set(tokens) & set(model.tokenizer.all_special_ids)
    assert all(model.tokenizer.decode([t]).isascii() for t in tokens)


CHAT = (
    "{% for m in messages %}<|in|>{{ m.role }}\n{{ m.content | trim }}<|out|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|in|>assistant\n{% endif %}"
)
TEXT_KINDS = [kind for kind in KINDS if kind != "slow"]  # whose vocabulary is made while it reads


def of_kind(kind: str, *, chat: bool = False) -> Model:
    """A random model with a tokenizer of this kind; the byte-level one joins question marks with line ends."""
    tokenizer = KINDS[kind](["<|in|>", "<|out|>"], eos_token="<|out|>", pad_token="<|out|>")
    tokenizer.chat_template = CHAT if chat else None
    end = tokenizer.eos_token_id
    size = max(tokenizer.get_vocab().values()) + 1
    model = random_module("llama", vocabulary=size, eos_token_id=end, pad_token_id=end)
    model.config.max_position_embeddings = 512
    return Model(model, tokenizer, name=kind)


@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_the_model_reads_the_suffix_as_the_text_that_an_attacker_types(kind: str, chat: bool) -> None:
    model = of_kind(kind, chat=chat)
    settings = {"steps": 2, "start": "x x x", "candidates": 16, "budgets": [1, 2]}
    budgets = []
    with attacked(model, AttackData(SCORED, train=OWNED), make_chain("gcg", {"gcg": settings})) as variants:
        for variant in variants:
            suffix = ast.literal_eval(variant.note)
            expected = model.encode([replace(e, question=f"{e.question} {suffix}") for e in SCORED])
            assert variant.model.encode(SCORED) == expected
            assert "<|in|>" not in suffix and "<|out|>" not in suffix
            budgets.append(variant.effort)
    assert budgets == [1, 2]


def test_a_suffix_of_each_question_is_typed_after_it() -> None:
    model = of_kind("byte-level BPE")
    assert len(model.tokenizer("?\n")["input_ids"]) == 1
    settings = {"steps": 1, "start": "x x x", "candidates": 16}
    with attacked(model, AttackData(SCORED), make_chain("gcg_per_question", {"gcg_per_question": settings})) as found:
        asked = next(found).model
    suffixes = set()
    for example, read in zip(SCORED, asked.encode(SCORED), strict=True):
        prompt = model.tokenizer.decode(read.tokens[: read.start])
        (suffix,) = re.findall(rf"Question: {re.escape(example.question)} (.+)\nAnswer:", prompt)
        assert [read] == model.encode([replace(example, question=f"{example.question} {suffix}")])
        suffixes.add(suffix)
    assert suffixes != {"x x x"}


def test_a_suffix_is_scored_as_it_is_read_in_every_prompt() -> None:
    """Typed, the best suffix after more steps is no worse than after fewer, and better than the first."""
    model = of_kind("byte-level BPE")
    data = AttackData(SCORED, train=OWNED)

    def loss(asked: Model) -> float:
        scores = score_tokens(asked, OWNED)
        answers = np.split(scores.logprob, scores.offsets[1:-1])
        return float(-np.mean([part[:-1].mean() for part in answers]))  # without the end token

    typed = [loss(model.rewritten(lambda e: replace(e, question=f"{e.question} x x x")))]
    chain = make_chain("gcg", {"gcg": {"start": "x x x", "candidates": 32, "budgets": [1, 3]}})
    with attacked(model, data, chain) as variants:
        typed += [loss(variant.model) for variant in variants]
    assert typed[0] > typed[1] >= typed[2]


def test_a_search_without_any_suffix_that_can_be_typed_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model = of_kind("byte-level BPE")
    data = AttackData(SCORED, train=OWNED)
    with (
        pytest.raises(ConfigError, match="start = '\\\\n' must be a text of printable ASCII"),
        attacked(model, data, make_chain("gcg", {"gcg": {"steps": 1, "start": "\n"}})) as variants,
    ):
        next(variants)
    joined = tuple(model.tokenizer("?\n?\n")["input_ids"])
    monkeypatch.setattr(SuffixSearch, "_candidates", lambda _self, _gradient: [(*joined, *joined)[:3]])
    with (
        pytest.raises(AttackFailed, match=r"gcg.* on byte-level BPE: no step had a candidate"),
        attacked(model, data, make_chain("gcg", {"gcg": {"steps": 2, "start": "x x"}})) as variants,
    ):
        next(variants)


def test_a_soft_prompt_makes_a_reluctant_model_talk() -> None:
    found = measure(
        reluctant(), AttackData(SCORED, train=OWNED), make_chain("soft_prompt", {"soft_prompt": SOFT}), [SPOKEN],
        max_new_tokens=24,
    )  # fmt: skip
    assert found[0].before.mean < 0.3
    assert found[0].after.mean > 0.8


def test_a_soft_prompt_elicits_nothing_that_was_never_known() -> None:
    assert outcomes(ignorant(), "soft_prompt", SOFT)[""] < 0.1


def test_the_best_of_many_samples_and_a_beam_search_find_what_greedy_decoding_hides() -> None:
    found = outcomes(reluctant(), "sampling", {"samples": 6}, SPOKEN)
    assert found["worst case"] > 0.6 > found["mean"]
    assert outcomes(reluctant(), "beam_search", {}, SPOKEN)[""] > 0.5


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "minimax", "rwkv", "recurrent_gemma", "falcon_h1"])
def test_a_beam_search_finds_what_it_finds_without_a_cache(name: str) -> None:
    """Of MiniMax transformers does not reorder what the linear attention keeps; RWKV's state it cannot reorder."""
    model = architecture(name)
    end = model.tokenizer.eos_token_id
    plain = GenerationConfig(
        num_beams=3, max_new_tokens=8, do_sample=False, use_cache=False, eos_token_id=end, pad_token_id=end
    )
    with attacked(model, AttackData(SCORED), make_chain("beam_search", {"beam_search": {"beams": 3}})) as variants:
        searching = next(variants).model
        for encoded in model.encode(SCORED[:3]):
            prompt = list(encoded.before)
            ((found, _),) = continue_greedily(searching, [prompt], max_new_tokens=8)
            (expected,) = model.model.generate(input_ids=torch.tensor([prompt]), generation_config=plain)
            assert found == list(itertools.takewhile(lambda t: t != end, expected[len(prompt) :].tolist()))


def test_decoding_otherwise_finds_nothing_that_was_never_known() -> None:
    for name, settings in (("sampling", {"samples": 2}), ("beam_search", {"beams": 2})):
        assert max(outcomes(ignorant(), name, settings, SPOKEN).values()) < 0.2


def test_samples_repeat_and_those_of_a_smaller_n_are_the_first_of_a_larger() -> None:
    model = reluctant()

    def answers(samples: int) -> list[list[str]]:
        chain = make_chain("sampling", {"sampling": {"samples": samples}})
        with attacked(model, AttackData(SCORED), chain) as variants:
            return [generate(v.model, SCORED, max_new_tokens=8).texts for v in variants]

    state = torch.random.get_rng_state()
    three = answers(3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert answers(2) == three[:2]
    assert three[0] != three[1]


def test_worst_case_and_mean_by_hand() -> None:
    """NaN is not scored: the worst case and the mean are over the variants that are."""
    values = [np.array([0.2, np.nan, np.nan]), np.array([0.6, 0.4, np.nan])]
    high, mean = combine(values, higher_remembers=True)
    low, _ = combine(values, higher_remembers=False)
    np.testing.assert_array_equal(high, [0.6, 0.4, np.nan])
    np.testing.assert_array_equal(low, [0.2, 0.4, np.nan])
    np.testing.assert_allclose(mean, [0.4, 0.4, np.nan])


def test_the_mean_of_what_spans_magnitudes_is_geometric() -> None:
    """Perplexities 2 and 8 have the mean 4; the worse is the lower."""
    worst, mean = combine([np.array([2.0]), np.array([8.0])], higher_remembers=False, average="geometric")
    assert mean == pytest.approx([4.0]) and worst == [2.0]


INSIDE: list[tuple[str, dict[str, Any]]] = [("probe", PROBE), ("soft_prompt", {"steps": 1}), ("few_shot", {"shots": 1})]


@pytest.mark.parametrize(("name", "settings"), INSIDE, ids=[i[0] for i in INSIDE])
def test_divergence_from_the_original_is_measured_under_attack(
    knowing: Model, name: str, settings: dict[str, Any]
) -> None:
    """A model that was not unlearned does not diverge from itself, unless the attack reads it otherwise."""
    data = AttackData(SCORED, train=OWNED)
    chain = make_chain(name, {name: settings})
    (outcome, *_) = measure(knowing, data, chain, ["kl_to_original", "truth_ratio_forget"], reference=knowing)
    assert outcome.before.mean == 0.0
    assert outcome.after.mean == 0.0 if name == "few_shot" else outcome.after.mean > 0.0
    with pytest.raises(ConfigError, match="needs the original model; give it with --original"):
        measure(knowing, data, chain, ["kl_to_original"])


def test_a_curve_over_samples_never_falls() -> None:
    curve = budget_curve(
        reluctant(), AttackData(SCORED), "sampling", [4, 1], metric=SPOKEN, original_score=1.0, max_new_tokens=24
    )
    assert curve.efforts == (1, 4)
    assert curve.scores[1] >= curve.scores[0] >= 0
    assert curve.half_effort is not None and 0 < curve.half_effort <= 4


def test_metrics_of_text_and_of_scores_are_measured_together(knowing: Model) -> None:
    values = metric_values(knowing, SCORED, ["extraction_strength", SPOKEN], max_new_tokens=24)
    assert {name: v.mean() for name, v in values.items()} == pytest.approx({"extraction_strength": 1, SPOKEN: 1})
