"""GPTQ against its definition with explicit inverses, and against rounding to nearest."""

import pytest
import torch
from tests.conftest import copied, tiny_model
from tests.helpers.architectures import architecture
from tests.helpers.calibration import DATA, correlated, inputs_of_map, rounded_matrices
from torch import Tensor

from uwc.attacks.chain import Attacked, attacked, make_chain
from uwc.attacks.data import AttackData
from uwc.attacks.formats import gptq, round_to_nearest
from uwc.errors import DataError
from uwc.models.model import Model


def one_by_one(weight: Tensor, moments: Tensor, *, bits: int, group_size: int, damp: float) -> Tensor:
    """Each input in turn: the error of its rounding is spread over the others by the inverse of what is left of H."""
    w, most = weight.clone(), 2 ** (bits - 1) - 1
    hessian = moments + damp * moments.diagonal().mean() * torch.eye(len(moments), dtype=w.dtype)
    for j in range(w.shape[1]):
        if j % (group_size or w.shape[1]) == 0:
            step = w[:, j : j + (group_size or w.shape[1])].abs().amax(dim=1) / most
        inverse = torch.linalg.inv(hessian[j:, j:])
        rounded = (w[:, j] / step).round().clamp(-most, most) * step
        w[:, j:] -= torch.outer((w[:, j] - rounded) / inverse[0, 0], inverse[0])
        w[:, j] = rounded
    return w


@pytest.mark.parametrize("group_size", [0, 16, 48])
@pytest.mark.parametrize("inputs", [40, 150])
def test_it_is_the_slow_definition(inputs: int, group_size: int) -> None:
    """150 inputs are more than are updated at once, in groups of 48 across that border."""
    x = correlated(300, inputs)
    weight = torch.randn(5, inputs, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    given = weight.clone()
    settings = {"bits": 4, "group_size": group_size, "damp": 0.01}
    found = gptq(weight, x.T @ x, **settings)
    torch.testing.assert_close(found, one_by_one(given, x.T @ x, **settings), rtol=1e-9, atol=1e-9)
    assert torch.equal(weight, given)


def test_three_weights_by_hand() -> None:
    """3 bits and a largest weight of 3: steps of 1. 0.6 is rounded to 1; H^-1 begins [[2, -1], [-1, 2]] / 3, so that
    the second weight is moved by -0.4 / 2 to 0.4, and rounded to 0, to nearest 1. The third input is independent."""
    weight, moments = torch.tensor([[0.6, 0.6, 3.0]]), torch.tensor([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    assert gptq(weight, moments, bits=3, group_size=0, damp=1e-12).tolist() == [[1.0, 0.0, 3.0]]
    assert round_to_nearest(weight, bits=3, group_size=0).tolist() == [[1.0, 1.0, 3.0]]


@pytest.mark.parametrize("bits", [3, 4])
def test_it_has_less_error_in_the_outputs_than_rounding_to_nearest(bits: int) -> None:
    x = correlated(400, 64)
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    ours = gptq(weight, x.T @ x, bits=bits, group_size=32, damp=0.01)
    nearest = round_to_nearest(weight, bits=bits, group_size=32)
    errors = [(x @ (rounded - weight).T).square().mean() for rounded in (ours, nearest)]
    assert errors[0] < 0.5 * errors[1]


def test_without_inputs_it_is_rounding_to_nearest() -> None:
    weight = torch.randn(4, 20, generator=torch.Generator().manual_seed(2))
    weight[1] = 0.0
    found = gptq(weight, torch.zeros(20, 20), bits=4, group_size=8, damp=0.01)
    torch.testing.assert_close(found, round_to_nearest(weight, bits=4, group_size=8))


def rounded_model(model: Model, **settings: object) -> Attacked:
    with attacked(model, DATA, make_chain("quantization_gptq", {"quantization_gptq": settings})) as variants:
        return next(iter(variants))


def moments_of(model: Model, name: str) -> Tensor:
    """X^T X of a linear map."""
    inputs = torch.cat(inputs_of_map(model, name))
    return inputs.T @ inputs


def test_blocks_are_rounded_in_turn_each_by_its_inputs_after_the_blocks_before_it() -> None:
    model = tiny_model()
    made = rounded_model(model, bits=3, group_size=16)
    assert made.changed is not None and made.changed > 0.9 and made.effort == 3
    after = made.model.model.state_dict()
    partly = copied(model)
    for name, weight in partly.model.state_dict().items():
        if ".layers.0." in name:
            weight.copy_(after[name])
    for name, before in (("model.layers.0.mlp.up_proj", model), ("model.layers.1.self_attn.v_proj", partly)):
        weight = model.model.state_dict()[f"{name}.weight"]
        expected = gptq(weight, moments_of(before, name), bits=3, group_size=16, damp=0.01)
        torch.testing.assert_close(after[f"{name}.weight"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "mixtral"])
def test_transposed_maps_and_each_expert_are_rounded(name: str) -> None:
    model = architecture(name)
    made = rounded_model(model, bits=4)
    for _, rounded in rounded_matrices(model, made.model):
        assert all(len(row.unique()) <= 15 for row in rounded)


def test_it_needs_retained_data() -> None:
    chain = make_chain("gptq_int4")
    with (
        pytest.raises(DataError, match=r"needs retained examples \(--retain\)"),
        attacked(tiny_model(), AttackData(DATA.scored), chain),
    ):
        pass
