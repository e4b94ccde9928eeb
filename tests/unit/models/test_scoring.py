"""The one pass: statistics by hand, logits in chunks, budgets, and variants."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.conftest import copied, people
from tests.helpers.tiles import statistics
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
)

from uwc.data.batches import collate
from uwc.data.example import VARIANTS, with_variants
from uwc.metrics.scored import NOT_FINITE, score_set
from uwc.models import head
from uwc.models.head import AnswerLogits, answer_logits, tile_grid
from uwc.models.model import Model
from uwc.models.scoring import score_tokens
from uwc.models.token_scores import TOKEN_COLUMNS, Sampling, TokenScores


def rich() -> list:
    return [
        replace(e, paraphrased_answer=f"So: {e.answer}", perturbed_answers=("In Rome", "She sings")[: 1 + i % 2])
        for i, e in enumerate(people())
    ]


WIDTHS = pytest.mark.parametrize("width", [1, 2, 3])


@WIDTHS
def test_statistics_by_hand(width: int) -> None:
    """p = (1/2, 1/4, 1/4): mean log p = -1.5 log 2, mean square 2.5 log^2 2, variance 0.25 log^2 2.

    Against q = (1/4, 1/4, 1/2): KL(q || p) = 1/4 log(1/2) + 0 + 1/2 log 2 = 1/4 log 2.
    """
    log2 = float(np.log(2))
    p, q = torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[0.25, 0.25, 0.5]])
    columns = statistics(p.log() + 5, torch.tensor([1]), ends=(0,), reference=q.log() - 3, width=width)
    assert float(columns["logprob"]) == pytest.approx(-2 * log2)
    assert float(columns["mean_logprob"]) == pytest.approx(-1.5 * log2)
    assert float(columns["var_logprob"]) == pytest.approx(0.25 * log2**2, rel=1e-5)
    assert float(columns["kl"]) == pytest.approx(0.25 * log2, rel=1e-5)
    assert float(columns["reference_logprob"]) == pytest.approx(-2 * log2)
    assert (bool(columns["greedy"]), bool(columns["stops"])) == (False, True)


@WIDTHS
def test_statistics_hold_for_impossible_tokens_and_large_logits(width: int) -> None:
    logits = torch.tensor([[1000.0, 1000.0, float("-inf")], [0.0, float("-inf"), float("-inf")]])
    columns = statistics(logits, torch.tensor([0, 1]), reference=logits, width=width)
    assert columns["logprob"].tolist() == pytest.approx([-np.log(2), -np.inf])
    assert columns["mean_logprob"].tolist() == pytest.approx([-np.log(2), 0.0])
    assert columns["var_logprob"].tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    assert columns["kl"].tolist() == pytest.approx([0.0, 0.0])
    assert columns["finite"].tolist() == [False, False]


@WIDTHS
def test_statistics_of_broken_logits_are_not_numbers(width: int) -> None:
    columns = statistics(torch.tensor([[float("nan"), 0.0]]), torch.tensor([1]), width=width)
    assert columns["logprob"].isnan().all() and columns["mean_logprob"].isnan().all()


@WIDTHS
def test_logits_that_are_not_finite_are_found_wherever_they_are(width: int) -> None:
    """One bad entry in each of three rows of seven tokens, beside a row of large but finite ones."""
    logits = torch.linspace(-1e4, 1e4, 28).view(4, 7)
    for row, value in enumerate((float("nan"), float("inf"), float("-inf"))):
        logits[row, 2 * row] = value
    assert statistics(logits, torch.tensor([1, 1, 1, 1]), width=width)["finite"].tolist() == [False] * 3 + [True]


@WIDTHS
def test_tiles_are_joined_to_what_double_precision_gives(width: int) -> None:
    torch.manual_seed(0)
    z, other, targets = torch.randn(50, 7) * 20, torch.randn(50, 7) * 20, torch.randint(0, 7, (50,))
    columns = statistics(z, targets, reference=other, ends=(3,), width=width)
    logp, logq = z.double().log_softmax(dim=1), other.double().log_softmax(dim=1)
    mean = (logp.exp() * logp).sum(dim=1)
    expected = {
        "logprob": logp.gather(1, targets[:, None])[:, 0],
        "mean_logprob": mean,
        "var_logprob": (logp.exp() * (logp - mean[:, None]) ** 2).sum(dim=1),
        "kl": (logq.exp() * (logq - logp)).sum(dim=1),
        "reference_logprob": logq.gather(1, targets[:, None])[:, 0],
    }
    for name, values in expected.items():
        assert columns[name].tolist() == pytest.approx(values.tolist(), rel=1e-4, abs=1e-4), name
    assert columns["greedy"].tolist() == (z.argmax(dim=1) == targets).tolist()
    assert columns["stops"].tolist() == (z.argmax(dim=1) == 3).tolist()


SMALL = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "pad_token_id": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    "make",
    [
        lambda: Gemma2ForCausalLM(Gemma2Config(**SMALL, head_dim=16, final_logit_softcapping=0.5)),
        lambda: GraniteForCausalLM(GraniteConfig(**SMALL, logits_scaling=7.0)),
        lambda: CohereForCausalLM(CohereConfig(**SMALL, logit_scale=0.06)),
    ],
    ids=["soft cap", "divided", "scaled"],
)  # fmt: skip
def test_tiles_are_what_the_model_itself_computes(make, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    model = make().eval()
    small_tiles(monkeypatch)
    batch = batch_of_tokens()
    with torch.inference_mode():
        logits = AnswerLogits(model, batch)
        grid = list(tile_grid(logits))
        whole = model(input_ids=batch.input_ids).logits[batch.rows, batch.positions]
        found = torch.cat([torch.cat([logits.tile(rows, t) for t in parts], dim=1) for rows, parts in grid])
    assert (len(grid), len(grid[0][1])) == (2, 3)
    assert torch.allclose(found, whole, atol=1e-5)


def test_a_model_that_does_something_else_to_its_logits_is_scored_by_its_own(untrained: Model) -> None:
    """Its forward adds a bias that no configuration tells of; the chunks must have it."""
    model = copy.deepcopy(untrained.model)
    plain, bias = model.forward, torch.randn(model.config.vocab_size)

    def biased(*args, **kwargs):  # type: ignore[no-untyped-def]
        output = plain(*args, **kwargs)
        output.logits = output.logits + bias
        return output

    model.forward = biased
    batch = batch_of_tokens()
    with torch.inference_mode():
        expected = answer_logits(untrained.model, batch) + bias
        assert torch.allclose(AnswerLogits(model, batch).tile(slice(2, 4), slice(5, 9)), expected[2:4, 5:9])


def test_a_hooked_output_embedding_is_called_and_not_cut(untrained: Model) -> None:
    model = copy.deepcopy(untrained.model)
    handle = model.get_output_embeddings().register_forward_hook(lambda *args: args[2] * 2)
    batch = batch_of_tokens()
    with torch.inference_mode():
        logits = AnswerLogits(model, batch)
        assert [len(parts) for _, parts in tile_grid(logits)] == [1]
        assert torch.allclose(logits.tile(slice(0, 2), slice(0, 9)), answer_logits(model, batch)[:2, :9], atol=1e-5)
    handle.remove()


def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 4 rows and 20 tokens."""
    monkeypatch.setattr(head, "TILE_BYTES", {"cpu": 320})
    monkeypatch.setattr(head, "TILE_ROWS", 4)


def batch_of_tokens():
    from uwc.data.prompts import EncodedExample

    sequences = (EncodedExample("a", tuple(range(1, 10)), 4, 8), EncodedExample("b", (3, 1, 4, 1), 2, 3))
    return collate(sequences, device=torch.device("cpu"))


def test_no_tensor_of_all_labelled_positions_by_the_vocabulary_is_made(
    knowing: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    original = AnswerLogits.tile

    def watched(self, rows, tokens):  # type: ignore[no-untyped-def]
        made = original(self, rows, tokens)
        seen.append(made.numel())
        return made

    monkeypatch.setattr(AnswerLogits, "tile", watched)
    small_tiles(monkeypatch)
    scores = score_tokens(knowing, people())
    vocabulary = knowing.model.config.vocab_size
    assert max(seen) <= max(80, vocabulary) < len(scores.logprob) * vocabulary  # one tile, or one row to compare with


def test_tile_size_changes_nothing(knowing: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    samplings = (Sampling(0.7, 0), Sampling(1.0, 5))
    whole = score_tokens(knowing, people(), reference=knowing, samplings=samplings)
    small_tiles(monkeypatch)
    tiled = score_tokens(knowing, people(), reference=knowing, samplings=samplings)
    for name in TOKEN_COLUMNS:
        assert getattr(whole, name) == pytest.approx(getattr(tiled, name), abs=1e-5)
    for name, values in whole.sampled.items():
        assert values == pytest.approx(tiled.sampled[name], abs=1e-5)


def test_out_of_memory_halves_the_budget(knowing: Model) -> None:
    expected = score_tokens(knowing, people())
    scarce, sizes = copied(knowing), []

    def forward(_module, _args, given):  # type: ignore[no-untyped-def]
        sizes.append(given["input_ids"].numel())
        if sizes[-1] > 100:
            raise torch.OutOfMemoryError("CUDA out of memory")

    scarce.model.register_forward_pre_hook(forward, with_kwargs=True)
    found = score_tokens(scarce, people())
    assert found.ids == expected.ids
    assert found.logprob == pytest.approx(expected.logprob, abs=1e-4)
    assert max(sizes) > 100 >= sizes[-1]


def test_variants_are_rows_of_one_pass(knowing: Model) -> None:
    examples = rich()
    rows, kinds = with_variants(examples)
    assert [r.id for r in rows[: len(examples)]] == [e.id for e in examples]
    assert kinds.count("perturbed_answers") == sum(len(e.perturbed_answers) for e in examples)
    together = score_tokens(knowing, examples, variants=VARIANTS)
    assert (together.variants, len(together)) == (tuple(kinds), len(rows))
    alone = score_tokens(knowing, [replace(e, answer=e.paraphrased_answer) for e in examples])
    assert together.variant("paraphrased_answer").logprob == pytest.approx(alone.logprob, abs=1e-4)


def test_scores_survive_storage_to_the_bit(knowing: Model, untrained: Model, tmp_path) -> None:  # type: ignore[no-untyped-def]
    scores = score_tokens(knowing, rich(), variants=VARIANTS, samplings=[Sampling(0.7, 5), Sampling()])
    scores.save(tmp_path / "scores.parquet")
    assert TokenScores.load(tmp_path / "scores.parquet").equals(scores)


def test_bfloat16_agrees_with_float32(knowing: Model) -> None:
    """Log-probabilities to 0.1 on average and greedy choices in 19 of 20 tokens, weights and arithmetic in bfloat16."""
    exact = score_tokens(knowing, people(4))
    rounded = score_tokens(replace(knowing, model=copy.deepcopy(knowing.model).bfloat16()), people(4))
    assert np.abs(exact.logprob - rounded.logprob).mean() < 0.1
    assert (exact.greedy == rounded.greedy).mean() >= 0.95
    assert np.abs(exact.mean_logprob - rounded.mean_logprob).mean() < 0.1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_what_the_cpu_gives(knowing: Model) -> None:
    on_cpu = score_tokens(knowing, people(), reference=knowing)
    on_gpu = score_tokens(replace(knowing, model=copy.deepcopy(knowing.model).cuda()), people())
    assert on_gpu.logprob == pytest.approx(on_cpu.logprob, abs=1e-3)
    assert (on_gpu.greedy == on_cpu.greedy).mean() > 0.99


def test_a_model_whose_logits_are_not_finite_has_no_divergence_but_a_reference(untrained: Model) -> None:
    """The original was scored, so nobody is told that it is missing; there only is no value."""
    broken = copied(untrained)
    with torch.no_grad():
        broken.model.model.norm.weight[0] = float("nan")
    scored = score_set(broken, people(1), needs=("scores", "reference"), reference=untrained)
    assert scored.scores.has_reference
    assert np.isnan(scored.values("kl_to_original")).all()
    assert scored.unscored("kl_to_original") == {NOT_FINITE: 2}


@pytest.mark.parametrize("width", [1, 2, 3])
def test_temperature_and_top_k_by_hand(width: int) -> None:
    """Probabilities 4/8, 3/8, 1/8. At temperature 1/2 they become 16, 9, 1 of 26; with the top 2, 16 and 9 of 25."""
    logits = torch.tensor([[4.0, 3.0, 1.0]]).log().repeat(3, 1)
    samplings = [Sampling(0.5, 0), Sampling(0.5, 2), Sampling(1.0, 9)]
    columns = statistics(logits, torch.tensor([0, 1, 2]), samplings=samplings, width=width)
    assert columns[Sampling(0.5, 0).name].exp().tolist() == pytest.approx([16 / 26, 9 / 26, 1 / 26])
    assert columns[Sampling(0.5, 2).name].exp().tolist() == pytest.approx([16 / 25, 9 / 25, 0.0])
    assert columns[Sampling(1.0, 9).name].exp().tolist() == pytest.approx([4 / 8, 3 / 8, 1 / 8])
