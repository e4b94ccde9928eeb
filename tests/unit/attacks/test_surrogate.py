"""A model read at a depth, through a probe, or after a soft prompt, against the model itself."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.conftest import people
from tests.helpers.architectures import architecture
from torch import nn

from uwc.attacks.surrogate import ReadAt, SoftPrompted
from uwc.models.generation import continue_greedily, generate
from uwc.models.model import Model
from uwc.models.scoring import score_tokens
from uwc.models.states import blocks


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


def ids_of(model: Model, count: int = 3) -> list[torch.Tensor]:
    return [torch.tensor([e.tokens]) for e in model.encode(people()[:count])]


@pytest.mark.slow
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
