"""Token trees: the answers to a question read with its prompt once, against each sequence by itself."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tests.conftest import copied, people, tiny_model

from uwc.data.batches import collate_trees
from uwc.data.example import VARIANTS, Example, with_variants
from uwc.data.prompts import EncodedExample
from uwc.data.trees import TokenTree, single_tree, token_tree, token_trees
from uwc.models import batching, scoring
from uwc.models.contrast import contrast
from uwc.models.model import Batching, Model
from uwc.models.scoring import score_tokens
from uwc.models.token_scores import TOKEN_COLUMNS, Sampling, TokenScores

END = 99
SAMPLINGS = (Sampling(0.7, 0), Sampling(1.0, 5))


def options() -> list[Example]:
    """Twelve questions with five or six answers each, which begin alike; prompts of different lengths."""
    return [
        replace(
            e,
            paraphrased_answer=f"So: {e.answer}",
            perturbed_answers=(f"{e.answer} not", "In Rome", f"In Rome and {e.answer}", "In Rome", "She sings")[
                i % 2 :
            ],
        )
        for i, e in enumerate(people())
    ]


def encoded_as(*sequences: Sequence[int], start: int = 2) -> list[EncodedExample]:
    """Sequences with an end, which no tree has, since it predicts nothing."""
    return [EncodedExample("a", (*s, END), start, len(s)) for s in sequences]


def score(model: Model, **given: Any) -> TokenScores:
    return score_tokens(model, options(), variants=VARIANTS, samplings=SAMPLINGS, margins=True, **given)


def apart(model: Model, **given: Any) -> TokenScores:
    """The scores of each sequence by itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            scoring,
            "shared_trees",
            lambda _models, encoded, **_options: [single_tree(encoded, i) for i in range(len(encoded))],
        )
        return score(model, **given)


def masks_of(model: Model) -> list[int]:
    """The dimensions of the mask of each forward pass from now on; 0 for none."""
    seen: list[int] = []

    def see(_module: Any, _args: Any, given: dict[str, Any]) -> None:
        mask = given.get("attention_mask")
        seen.append(0 if mask is None else mask.ndim)

    model.model.register_forward_pre_hook(see, with_kwargs=True)
    return seen


def require_close(found: TokenScores, expected: TokenScores, *, atol: float = 2e-6) -> None:
    assert (found.ids, found.variants) == (expected.ids, expected.variants)
    for name in ("offsets", "end_lengths", "finite", "greedy", "stops"):
        assert getattr(found, name).tolist() == getattr(expected, name).tolist(), name
    for name in (*TOKEN_COLUMNS, "margin"):
        ours, own = (getattr(s, name).astype(np.float64) for s in (found, expected))
        np.testing.assert_allclose(ours, own, rtol=2e-6, atol=atol, err_msg=name)
    for name, column in found.sampled.items():
        np.testing.assert_allclose(column, expected.sampled[name], rtol=2e-6, atol=atol, err_msg=name)


def test_a_tree_by_hand() -> None:
    """7 8 1 2, 7 8 1 3 4 and 7 8 5: eight tokens, the common ones once, the shortest sequence first."""
    tree = token_tree(encoded_as((7, 8, 1, 2), (7, 8, 1, 3, 4), (7, 8, 5)), [0, 1, 2])
    assert tree == TokenTree((2, 0, 1), (7, 8, 5, 1, 2, 3, 4), ((0, 1, 2), (0, 1, 3, 4), (0, 1, 3, 5, 6)))
    assert tree.shared and tree.branches
    twice = token_tree(encoded_as((7, 8, 1), (7, 8, 1)), [0, 1])
    assert (twice.tokens, twice.paths, twice.branches) == ((7, 8, 1), ((0, 1, 2),) * 2, False)


def test_a_batch_of_trees_by_hand() -> None:
    """The tree of 7 8 1 and 7 8 2 3 sees itself and what is before it; one of two tokens is padded to five."""
    encoded = encoded_as((7, 8, 2, 3), (7, 8, 1), (9, 6), start=1)
    trees = [token_tree(encoded, [0, 1]), token_tree(encoded, [2])]
    batch = collate_trees(trees, encoded, device=torch.device("cpu"), dtype=torch.float32)
    assert batch.input_ids.tolist() == [[7, 8, 1, 2, 3], [9, 6, 0, 0, 0]]
    assert batch.position_ids is not None and batch.position_ids.tolist() == [[0, 1, 2, 2, 3], [0, 1, 0, 0, 0]]
    assert batch.rows.tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 1]
    assert batch.positions.tolist() == [0, 1, 2, 0, 1, 3, 4, 0, 1]
    assert batch.targets.tolist() == [8, 1, END, 8, 2, 3, END, 6, END]
    assert batch.attention_mask is not None and batch.attention_mask.shape == (2, 1, 5, 5)
    sees = batch.attention_mask[:, 0] == 0
    assert sees[0].long().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 1, 0, 1, 1],
    ]
    assert sees[1].long().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1],
    ]
    assert set(batch.inputs) == {"input_ids", "attention_mask", "position_ids"}


def test_every_token_of_a_random_tree_sees_the_beginning_of_its_sequence() -> None:
    random = np.random.default_rng(0)
    sequences = [random.integers(0, 3, random.integers(2, 12)).tolist() for _ in range(40)]
    encoded = encoded_as(*sequences)
    tree = token_tree(encoded, range(40))
    assert len(tree.tokens) == len({tuple(s[: i + 1]) for s in sequences for i in range(len(s))})
    batch = collate_trees([tree], encoded, device=torch.device("cpu"), dtype=torch.float64)
    assert batch.attention_mask is not None and batch.position_ids is not None
    for member, path in zip(tree.members, tree.paths, strict=True):
        for i, node in enumerate(path):
            seen = torch.nonzero(batch.attention_mask[0, 0, node] == 0)[:, 0]
            order = batch.position_ids[0, seen].argsort()
            assert batch.input_ids[0, seen[order]].tolist() == sequences[member][: i + 1]


def test_only_what_saves_work_is_in_a_tree() -> None:
    long, prompt = tuple(range(100, 160)), tuple(range(30))
    shared = [EncodedExample("a", (*prompt, i, 0), 30, 32) for i in range(3)]
    others = [EncodedExample("b", (1, 2, *long[i:]), 2, 62 - i) for i in range(3)]
    single = EncodedExample("c", (*prompt, 9), 30, 31)
    unseen = [EncodedExample("d", (*prompt, i, 0), 30, 32, unattended=0) for i in range(3)]
    encoded = [single, *others, *shared, *unseen]
    trees = token_trees(encoded, longest=1000, most=1000)
    assert [t.members for t in trees] == [(4, 5, 6), (0,), (1,), (2,), (3,), (7,), (8,), (9,)]
    assert len(token_trees(encoded, longest=30, most=1000)) == len(encoded)
    assert [t.members for t in token_trees(shared, longest=32, most=32)] == [(0, 1), (2,)]
    many = [EncodedExample("a", (*range(1000), *range(i, i + 200), 0), 1000, 1201) for i in range(2000, 5000, 500)]
    assert [len(t.members) for t in token_trees(many, longest=5000, most=5000)] == [3, 3]


SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.3,
}  # fmt: skip
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "initializer_range": 0.3}
GEMMA = {**SIZES, "head_dim": 8, "query_pre_attn_scalar": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
READ = {
    "Llama": SIZES,
    "GPT2": GPT2,
    "GPTNeoX": SIZES,
    "OPT": {**SIZES, "ffn_dim": 64},
    "Qwen2": SIZES,
    "Qwen3Moe": {**SIZES, "head_dim": 8, **EXPERTS},
    "Mixtral": {**SIZES, "num_local_experts": 4, "num_experts_per_tok": 2},
    "Mistral": {**SIZES, "sliding_window": 128},
    "Gemma2": {**GEMMA, "sliding_window": 128, "final_logit_softcapping": 5.0, "attn_logit_softcapping": 3.0},
    "Gemma3Text": {**GEMMA, "sliding_window": 128},
}


def made(name: str, sizes: dict[str, Any]) -> Model:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(
        vocab_size=400, pad_token_id=0, bos_token_id=None, eos_token_id=1, **sizes
    )
    causal = getattr(transformers, f"{name.removesuffix('Text')}ForCausalLM", None) or getattr(
        transformers, f"{name}LMHeadModel"
    )
    for setting in [s for s in vars(config) if "drop" in s and isinstance(getattr(config, s), float)]:
        setattr(config, setting, 0.0)
    model = causal(config).eval()
    if name == "Rwkv":  # its weights are near zero at first
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return replace(tiny_model(), model=model, batching=None, name=name)


@pytest.mark.parametrize("name", READ)
def test_an_architecture_reads_trees_and_gives_the_scores_of_single_sequences(name: str) -> None:
    model = made(name, READ[name])
    expected, seen = apart(model), masks_of(model)
    require_close(score(model), expected, atol=1e-5)
    assert seen.count(4) >= 2  # the trial and a batch


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "Mamba": (
        {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "initializer_range": 0.3},
        "cannot read several",
    ),
    "Rwkv": ({"hidden_size": 32, "num_hidden_layers": 2, "context_length": 512}, "logits differ"),
    "Bloom": ({"hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3}, "cannot read several"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_architectures_read_single_sequences_and_say_why(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    sizes, reason = REFUSED[name]
    model = made(name, sizes)
    assert score(model).equals(apart(model))
    said = " ".join(capsys.readouterr().err.split())
    assert f"{name}: a question's prompt is computed again" in said and reason in said


def test_a_model_that_leaves_out_positions_or_mask_is_found_out(knowing: Model) -> None:
    for name in ("position_ids", "attention_mask"):
        deaf = copied(knowing)
        deaf.model.register_forward_pre_hook(
            lambda _m, args, given, name=name: (args, {k: v for k, v in given.items() if k != name}), with_kwargs=True
        )
        encoded = deaf.encode(with_variants(options())[0])
        tree = batching.trial_of(token_trees(encoded, longest=999, most=999), encoded)
        assert tree is not None
        assert "logits differ" in batching.fault_of_trees(deaf, encoded, tree)
        assert not batching.fault_of_trees(knowing, encoded, tree)
        assert score(deaf).equals(apart(deaf))


def test_wrappers_that_change_what_is_read_are_scored_as_before(knowing: Model) -> None:
    """A contrast of two models passes no positions on; nothing that was found of the base holds for it."""
    both = contrast(knowing, tiny_model(hidden_size=64, seed=5))
    assert both.batching is knowing.batching
    assert score(both).equals(apart(both))


def test_a_window_shorter_than_a_sequence_keeps_it_out_of_trees() -> None:
    model = made("Mistral", {**SIZES, "sliding_window": 24})
    lengths = [len(e.tokens) for e in model.encode(with_variants(options())[0])]
    assert min(lengths) < 24 < max(lengths)
    expected, seen = apart(model), masks_of(model)
    require_close(score(model), expected, atol=1e-5)
    assert 4 in seen
    narrow = made("Mistral", {**SIZES, "sliding_window": min(lengths) - 1})
    seen = masks_of(narrow)
    assert score(narrow).equals(apart(narrow)) and 4 not in seen


def test_models_whose_results_depend_on_padding_or_length_read_single_sequences(knowing: Model) -> None:
    for found in (Batching(scored="equal"), Batching(switch=20)):
        model = replace(knowing, batching=found)
        assert score(model).equals(apart(model))


def test_single_answers_have_the_same_bits_as_ever(knowing: Model) -> None:
    model = copied(knowing)
    seen = masks_of(model)
    single = score_tokens(model, people(), reference=model, samplings=SAMPLINGS)
    assert set(seen) == {0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            scoring,
            "shared_trees",
            lambda _models, encoded, **_options: [single_tree(encoded, i) for i in range(len(encoded))],
        )
        assert score_tokens(model, people(), reference=model, samplings=SAMPLINGS).equals(single)


def test_a_few_answers_are_not_worth_the_trial(knowing: Model) -> None:
    model = copied(knowing)
    seen = masks_of(model)
    score_tokens(model, options()[:1], variants=VARIANTS)
    assert 4 not in seen


def test_the_reference_reads_the_same_trees(knowing: Model, untrained: Model) -> None:
    other = copied(untrained)
    expected, seen = apart(knowing, reference=other), masks_of(other)
    found = score(knowing, reference=other)
    require_close(found, expected, atol=1e-5)
    assert found.kl.max() > 1.0 and 4 in seen
    deaf = copied(untrained)
    deaf.model.register_forward_pre_hook(
        lambda _m, args, given: (args, {"input_ids": given["input_ids"], "use_cache": False}), with_kwargs=True
    )
    assert score(knowing, reference=deaf).equals(apart(knowing, reference=deaf))


def test_an_answer_may_take_in_the_end_of_the_prompt(knowing: Model) -> None:
    """A tokenizer may merge the last character of the prompt with the first of an answer: the prompts of one question
    then have different lengths, and one has another last token."""

    def merged(e: EncodedExample) -> EncodedExample:
        if len(e.tokens) % 3:
            return e
        tokens = (*e.tokens[: e.start - 1], 7, *e.tokens[e.start + 1 :])
        return replace(e, tokens=tokens, start=e.start - 1, end=e.end - 1)

    model = copied(knowing).edited(merged)
    starts: dict[str, set[int]] = {}
    for e in model.encode(with_variants(options())[0]):
        starts.setdefault(e.id, set()).add(e.start)
    assert max(map(len, starts.values())) == 2
    expected, seen = apart(model), masks_of(model)
    require_close(score(model), expected, atol=1e-5)
    assert 4 in seen


def test_an_answer_without_finite_logits_spoils_no_other(knowing: Model) -> None:
    model = replace(knowing, model=copy.deepcopy(knowing.model))
    encoded = model.encode(with_variants(options())[0])
    count = {t: sum(t in e.tokens for e in encoded) for e in encoded for t in e.tokens}
    rare = min(count, key=lambda t: (count[t], t))
    with torch.no_grad():
        embedding = model.model.get_input_embeddings()
        embedding.weight = torch.nn.Parameter(embedding.weight.detach().clone())
        embedding.weight[rare] = float("nan")
    expected, seen = apart(model), masks_of(model)
    found = score(model)
    assert 4 in seen and 0 < (~found.finite).sum() < len(encoded)
    assert found.finite.tolist() == expected.finite.tolist()
    good = expected.finite[expected.rows]
    np.testing.assert_allclose(found.logprob[good], expected.logprob[good], atol=1e-5)


def test_a_tree_that_does_not_fit_the_memory_is_read_in_parts(knowing: Model) -> None:
    expected, scarce, sizes = apart(knowing), copied(knowing), []

    def forward(_module: Any, _args: Any, given: dict[str, Any]) -> None:
        size = given["input_ids"].numel()
        sizes.append((size, "position_ids" in given))
        if size > (75 if sizes[-1][1] else 130):
            raise torch.OutOfMemoryError("CUDA out of memory")

    scarce.model.register_forward_pre_hook(forward, with_kwargs=True)
    require_close(score(scarce), expected, atol=1e-5)
    read = [size for size, tree in sizes[1:] if tree]
    assert max(read) > 75 >= min(read)


def test_a_model_without_finite_logits_reads_single_sequences(knowing: Model) -> None:
    broken = copied(knowing)
    with torch.no_grad():
        broken.model.model.norm.weight[0] = float("nan")
    expected, seen = apart(broken), masks_of(broken)
    assert score(broken).equals(expected) and not expected.finite.any()
    assert seen.count(4) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_gpu_reads_trees(knowing: Model, dtype: torch.dtype) -> None:
    model = replace(knowing, model=copy.deepcopy(knowing.model).to("cuda", dtype))
    expected, seen = apart(model), masks_of(model)
    atol = 1e-4 if dtype == torch.float32 else 0.2
    np.testing.assert_allclose(score(model).logprob, expected.logprob, atol=atol)
    assert 4 in seen
