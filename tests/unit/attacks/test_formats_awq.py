"""AWQ against its definition in loops of numpy, by hand, and against rounding to nearest."""

from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.conftest import tiny_model
from tests.helpers.architectures import architecture
from tests.helpers.calibration import DATA, correlated, inputs_of_map, rounded_matrices
from torch import Tensor

from uwc.attacks.chain import Attacked, attacked, make_chain
from uwc.attacks.data import AttackData
from uwc.attacks.formats import awq, round_asymmetric
from uwc.errors import DataError
from uwc.models.model import Model

Array = NDArray[np.float64]


def on_grid(group: Array, bits: int) -> Array:
    """The weights of a group, one by one."""
    most = 2**bits - 1
    low, high = min(group.min(), 0.0), max(group.max(), 0.0)
    step = (high - low) / most
    if step == 0:
        return group
    zero = np.rint(-low / step)
    return np.array([(min(max(np.rint(w / step) + zero, 0), most) - zero) * step for w in group])


def nearest(weight: Array, bits: int, group_size: int) -> Array:
    rounded = np.empty_like(weight)
    for row, start in product(range(len(weight)), range(0, weight.shape[1], group_size)):
        rounded[row, start : start + group_size] = on_grid(weight[row, start : start + group_size], bits)
    return rounded


def slowly(weights: list[Array], x: Array, *, bits: int, group_size: int, clip: bool) -> list[Array]:
    """The search on the inputs themselves, in place of their products."""
    group_size = group_size or x.shape[1]
    tried = {}
    for k in range(20):
        s = np.maximum(np.abs(x).mean(axis=0) ** (k / 20), 1e-4)
        s = s / np.sqrt(s.max() * s.min())
        rounded = [nearest(w * s, bits, group_size) / s for w in weights]
        tried[sum(((x @ (r - w).T) ** 2).sum() for r, w in zip(rounded, weights, strict=True))] = s
    s = tried[min(tried)]
    found = []
    for weight in weights:
        scaled = weight * s
        for row, start in product(range(len(weight)), range(0, weight.shape[1], group_size)):
            if not clip:
                continue
            part = slice(start, start + group_size)
            group, seen, errors = scaled[row, part].copy(), (x / s)[:, part], []
            for k in range(10):
                cut = np.clip(group, -(1 - k / 20) * np.abs(group).max(), (1 - k / 20) * np.abs(group).max())
                errors.append((((seen @ (on_grid(cut, bits) - group)) ** 2).sum(), cut))
            scaled[row, part] = min(errors, key=lambda pair: pair[0])[1]
        found.append(nearest(scaled, bits, group_size) / s)
    return found


def of_inputs(*parts: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of X^T X over parts of the inputs, and the mean of |x|."""
    total = sum((x.abs().sum(dim=0) for x in parts), torch.zeros(()))
    return sum((x.T @ x for x in parts), torch.zeros(())), total / sum(map(len, parts))


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("group_size", [0, 16])
def test_it_is_the_slow_definition(group_size: int, clip: bool) -> None:
    """Two matrices with the same inputs, and a remainder of 8 of 40 inputs."""
    x = correlated(300, 40) * torch.linspace(0.01, 3, 40, dtype=torch.float64) ** 2
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(rows, 40, generator=generator, dtype=torch.float64) for rows in (5, 3)]
    given = [weight.clone() for weight in weights]
    found = awq(weights, *of_inputs(x), bits=3, group_size=group_size, clip=clip)
    expected = slowly([w.numpy() for w in weights], x.numpy(), bits=3, group_size=group_size, clip=clip)
    for ours, slow in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, torch.from_numpy(slow), rtol=1e-9, atol=1e-12)
    assert all(torch.equal(weight, before) for weight, before in zip(weights, given, strict=True))
    assert not torch.equal(found[0], round_asymmetric(weights[0], bits=3, group_size=group_size))


def test_a_scale_by_hand() -> None:
    """2 bits, inputs of mean sizes 4 and 1: ``s = (2^a, 2^-a)``. The step is 2^-a, so that 3 is kept, and 0.4 becomes
    4^-a once ``0.4 4^a > 0.5``, before it 0. Of a = 0, 0.05, ..., 4^-0.65 = 0.406 is nearest to 0.4. To cut the 3 costs
    more."""
    moments, sizes = torch.diag(torch.tensor([16.0, 1.0])), torch.tensor([4.0, 1.0])
    (found,) = awq([torch.tensor([[0.4, 3.0]])], moments, sizes, bits=2, group_size=0, clip=True)
    torch.testing.assert_close(found, torch.tensor([[4**-0.65, 3.0]]))


def test_a_shared_scale_by_hand() -> None:
    """The same inputs for a second matrix, 30 and 10, whose step is ``10 2^a``: 10 becomes ``10 4^a``, so that both
    lose least with a = 0, where 0.4 becomes 0."""
    moments, sizes = torch.diag(torch.tensor([16.0, 1.0])), torch.tensor([4.0, 1.0])
    both = [torch.tensor([[0.4, 3.0]]), torch.tensor([[30.0, 10.0]])]
    found = awq(both, moments, sizes, bits=2, group_size=0, clip=False)
    assert [rounded.tolist() for rounded in found] == [[[0.0, 3.0]], [[30.0, 10.0]]]


def test_a_cut_by_hand() -> None:
    """2 bits: with the step 4/3 the weights 1 become 4/3; cut at 3/4 of the largest the step is 1, and only 4, whose
    input is small, is changed."""
    moments, sizes = torch.diag(torch.tensor([1.0, 1.0, 1e-6])), torch.ones(3)
    found = [
        awq([torch.tensor([[1.0, 1.0, 4.0]])], moments, sizes, bits=2, group_size=0, clip=clip)[0]
        for clip in (True, False)
    ]
    torch.testing.assert_close(found[0], torch.tensor([[1.0, 1.0, 3.0]]))
    torch.testing.assert_close(found[1], torch.tensor([[4 / 3, 4 / 3, 4.0]]))


def test_the_asymmetric_grid_by_hand() -> None:
    """2 bits: -1..2 has the step 1 and the zero 1; 1..3 is extended to 0; a group of zeros stays."""
    weight = torch.tensor([[-1.0, 2.0, 0.6, 1.0, 3.0, 1.6], [0.0, 0.0, 0.0, -3.0, -1.4, -1.0]])
    expected = [[-1.0, 2.0, 1.0, 1.0, 3.0, 2.0], [0.0, 0.0, 0.0, -3.0, -1.0, -1.0]]
    assert round_asymmetric(weight, bits=2, group_size=3).tolist() == expected


@pytest.mark.parametrize("bits", [3, 4])
def test_it_has_less_error_in_the_outputs_than_rounding_to_nearest(bits: int) -> None:
    """A tenth of the inputs is ten times as large as the others."""
    x = torch.randn(400, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:, ::10] *= 10
    weight = torch.randn(32, 60, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    plain = round_asymmetric(weight, bits=bits, group_size=30)
    rounded = [awq([weight], *of_inputs(x), bits=bits, group_size=30, clip=clip)[0] for clip in (False, True)]
    errors = [(x @ (w - weight).T).square().mean() for w in (*rounded, plain)]
    assert errors[0] < 0.5 * errors[2]
    assert errors[1] < errors[0]


def test_without_inputs_it_is_rounding_to_nearest() -> None:
    weight = torch.randn(4, 20, generator=torch.Generator().manual_seed(2))
    weight[1] = 0.0
    (found,) = awq([weight], torch.zeros(20, 20), torch.zeros(20), bits=4, group_size=8, clip=True)
    assert torch.equal(found, round_asymmetric(weight, bits=4, group_size=8))


def rounded_model(model: Model, **settings: object) -> Attacked:
    with attacked(model, DATA, make_chain("quantization_awq", {"quantization_awq": settings})) as variants:
        return next(iter(variants))


def test_each_matrix_is_rounded_by_its_inputs_before_rounding_and_those_with_the_same_inputs_share_a_scale() -> None:
    model = tiny_model()
    made = rounded_model(model, bits=3, group_size=16)
    assert made.changed is not None and made.changed > 0.9 and made.effort == 3
    before, after = model.model.state_dict(), made.model.model.state_dict()
    together = (
        [f"model.layers.0.self_attn.{name}_proj" for name in "qkv"],
        ["model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj"],
        ["model.layers.1.mlp.down_proj"],
    )
    for names in together:
        weights = [before[f"{name}.weight"] for name in names]
        seen = of_inputs(*inputs_of_map(model, names[0]))
        expected = awq(weights, *seen, bits=3, group_size=16, clip=True)
        for name, wanted in zip(names, expected, strict=True):
            torch.testing.assert_close(after[f"{name}.weight"], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["gpt2", "mixtral"])
def test_transposed_maps_and_each_expert_are_rounded(name: str) -> None:
    model = architecture(name)
    made = rounded_model(model, bits=4)
    for weight, rounded in rounded_matrices(model, made.model):
        assert 0 < (weight - rounded).abs().max() < 0.5 * weight.abs().max()
    if name == "gpt2":
        first, second = (m.model.state_dict()["transformer.h.0.attn.c_attn.weight"].T for m in (model, made.model))
        seen = of_inputs(*inputs_of_map(model, "transformer.h.0.attn.c_attn"))
        torch.testing.assert_close(second, awq([first], *seen, bits=4, group_size=128, clip=True)[0])


def test_it_needs_retained_data() -> None:
    with (
        pytest.raises(DataError, match=r"needs retained examples \(--retain\)"),
        attacked(tiny_model(), AttackData(DATA.scored), make_chain("awq_int4")),
    ):
        pass
