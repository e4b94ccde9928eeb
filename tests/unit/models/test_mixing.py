"""Mixing weights: exact at the ends, float32 in between."""

import pytest
import torch
from tests.conftest import tiny_model

from uwc.errors import ModelError
from uwc.models.mixing import Mixer, mix_tensor
from uwc.models.model import Model


def bits(model: Model) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in model.model.state_dict().items()}


def test_mixture_by_hand() -> None:
    """A quarter of the way from 1 to 5 is 2; from 8 to 0 is 6."""
    mixed = mix_tensor(torch.tensor([1.0, 8.0]), torch.tensor([5.0, 0.0]), 0.25)
    assert mixed.tolist() == [2.0, 6.0]


def test_the_ends_are_the_two_models_to_the_bit() -> None:
    original, unlearned = tiny_model(seed=1), tiny_model(seed=2)
    before, after = bits(original), bits(unlearned)
    mixer = Mixer(original, unlearned)
    mixer.mix(0.3)
    assert bits(mixer.mix(0.0)) == before
    assert bits(mixer.mix(1.0)) == after
    assert bits(original) == before


def test_agrees_with_float64() -> None:
    original, unlearned = tiny_model(seed=1), tiny_model(seed=2)
    first = {n: t.double() for n, t in original.model.state_dict().items()}
    second = {n: t.double() for n, t in unlearned.model.state_dict().items()}
    mixed = Mixer(original, unlearned).mix(0.37)
    for name, tensor in mixed.model.state_dict().items():
        exact = (1 - 0.37) * first[name] + 0.37 * second[name]
        assert torch.allclose(tensor.double(), exact, rtol=3e-7, atol=3e-8), name


def test_mixing_a_bfloat16_model_with_itself_changes_nothing() -> None:
    """Multiplying and adding in bfloat16 would change some 8 % of the weights."""
    weights = torch.randn(10_000, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(mix_tensor(weights, weights, 0.3), weights)


def test_bfloat16_is_rounded_once() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(10_000, generator=generator).bfloat16() for _ in range(2))
    exact = (0.7 * first.double() + 0.3 * second.double()).float().bfloat16()
    twice_rounded = first * 0.7 + second * 0.3
    assert (mix_tensor(first, second, 0.3) != exact).float().mean() < 0.005  # ties only
    assert (twice_rounded != exact).float().mean() > 0.05


def test_tied_weights_stay_tied() -> None:
    mixed = Mixer(tiny_model(seed=1), tiny_model(seed=2)).mix(0.5).model
    assert mixed.get_output_embeddings().weight.data_ptr() == mixed.get_input_embeddings().weight.data_ptr()


def test_another_architecture_is_refused_by_the_tensor_that_differs() -> None:
    with pytest.raises(ModelError, match=r"different architectures.*has no tensor 'model\.layers\.1"):
        Mixer(tiny_model(layers=2), tiny_model(layers=1))
    with pytest.raises(ModelError, match=r"vocabularies: 'model\.embed_tokens\.weight'"):
        Mixer(tiny_model(hidden_size=32), tiny_model(hidden_size=64))


def test_alpha_outside_0_to_1_is_refused() -> None:
    with pytest.raises(ValueError, match=r"alpha = 1\.2"):
        Mixer(tiny_model(), tiny_model()).mix(1.2)
