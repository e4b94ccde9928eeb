"""Each term's value and gradient against autograd of its formula, written again for one example at a time."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.helpers.term_examples import forwards, made_batch
from torch import Tensor

from uwc.objectives.forwards import Pass, divergence, jensen_shannon_divergence, target_logprobs
from uwc.objectives.registry import terms

LENGTHS = {"forget": (3, 1, 5), "refusal": (2, 4, 1), "retain": (4, 2, 2), "retain_refusal": (1, 3, 2)}
WIDTH = 7
Logits = dict[str, Tensor]
LOG = torch.log_softmax


def nll(z: Tensor) -> Tensor:
    return -LOG(z, -1)[:, 1].sum()


def weighted(weight: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Logits, Logits], Tensor]:
    def value(z: Logits, o: Logits) -> Tensor:
        p, q = LOG(z["forget"], -1)[:, 1].exp(), LOG(o["forget"], -1)[:, 1].exp()
        return (weight(p, q).detach() * p.log()).sum()

    return value


def cross_entropy(model: Tensor, z: Tensor) -> Tensor:
    return -(model.detach() * LOG(z, -1)).sum()


def ruled_out(z: Tensor) -> Tensor:
    z = z.clone()
    z[:, 1] = -torch.inf
    return z.softmax(-1)


def lowered(z: Tensor, beta: float) -> Tensor:
    z = z.clone()
    z[:, 1] -= beta
    return z.softmax(-1)


def jensen_shannon(q: Tensor, p: Tensor) -> Tensor:
    """Half the sum of the divergences of two distributions from their mean, term by term."""
    m = (p + q) / 2
    return (q * (q / m).log() + p * (p / m).log()).sum() / 2


def towards_the_token(p: Tensor) -> Tensor:
    """The same from a distribution with all mass on the labelled token."""
    m = torch.stack([(p[:, v] + (v == 1)) / 2 for v in range(WIDTH)], dim=1)
    return (-m[:, 1].log() + (p * (p / m).log()).sum(-1)).sum() / 2


def preference(beta: float, factor: float, margin: Callable[[Logits, Logits], Tensor]) -> Any:
    return lambda z, o: -(factor / beta) * torch.log(1 / (1 + torch.exp(-beta * margin(z, o))))


FORMULAS: dict[str, Callable[[Logits, Logits], Tensor]] = {
    "gradient_ascent": lambda z, o: -nll(z["forget"]),
    "refusal": lambda z, o: nll(z["refusal"]),
    "nll": lambda z, o: nll(z["retain"]),
    "weighted_ascent": weighted(lambda p, q: p**5),
    "token_npo": weighted(lambda p, q: 2 * p**4 / (p**4 + q**4)),
    "weighted_token_npo": weighted(lambda p, q: 2 * p**5.5 / (p**4 + q**4)),
    "saturation_importance": weighted(lambda p, q: p**5 * (1 - p)),
    "npo": preference(0.5, 2, lambda z, o: nll(z["forget"]) - nll(o["forget"])),
    "simnpo": preference(4.5, 2, lambda z, o: nll(z["forget"]) / len(z["forget"])),
    "dpo": preference(
        0.1, 2, lambda z, o: (nll(o["refusal"]) - nll(z["refusal"])) - (nll(o["forget"]) - nll(z["forget"]))
    ),
    "answer_preservation": preference(0.1, 1, lambda z, o: nll(z["retain_refusal"]) - nll(z["retain"])),
    "self_distillation": lambda z, o: cross_entropy(lowered(o["forget"], 10.0), z["forget"]),
    "ce_u": lambda z, o: cross_entropy(ruled_out(z["forget"])[1:], z["forget"][1:]),
    "maximum_entropy": lambda z, o: (-LOG(z["forget"], -1).mean(-1) - torch.tensor(WIDTH).log()).sum(),
    "logit_flattening": lambda z, o: ((z["forget"].max(-1).values - z["forget"].mean(-1)) ** 2).sum(),
    "jensen_shannon_refusal": lambda z, o: towards_the_token(z["forget"].softmax(-1)),
    "jensen_shannon": lambda z, o: jensen_shannon(o["retain"].softmax(-1), z["retain"].softmax(-1)),
    "kl": lambda z, o: (o["retain"].softmax(-1) * (LOG(o["retain"], -1) - LOG(z["retain"], -1))).sum(),
}


def random_logits(seed: int) -> Logits:
    generator = torch.Generator().manual_seed(seed)
    return {
        role: torch.randn(sum(sizes), WIDTH, generator=generator, dtype=torch.float64) * 2
        for role, sizes in LENGTHS.items()
    }


def test_every_term_on_logits_is_covered() -> None:
    on_states = {e.name for e in terms if any(need.endswith(".states") for need in e.facts["needs"])}
    assert set(FORMULAS) == set(terms.names()) - on_states


@pytest.mark.parametrize("term", FORMULAS)
def test_value_and_gradient_are_those_of_the_formula(term: str) -> None:
    logits, original = random_logits(1), random_logits(2)
    ours = {role: Pass(made_batch(LENGTHS[role]), z.clone().requires_grad_()) for role, z in logits.items()}
    theirs = {role: Pass(made_batch(LENGTHS[role]), z) for role, z in original.items()}
    settings = terms.check(term, {})
    values = terms.get(term).function(forwards(ours, theirs), **settings)
    values.sum().backward()

    again = {role: z.clone().requires_grad_() for role, z in logits.items()}
    expected = []
    for i in range(3):
        pick = {r: torch.split(z, LENGTHS[r])[i] for r, z in again.items()}
        expected.append(FORMULAS[term](pick, {r: torch.split(z, LENGTHS[r])[i] for r, z in original.items()}))
    torch.stack(expected).sum().backward()
    torch.testing.assert_close(values.double(), torch.stack(expected), rtol=1e-4, atol=1e-5)
    for role in LENGTHS:
        gradient = ours[role].logits.grad
        wanted = again[role].grad
        if wanted is None:
            assert gradient is None
        else:
            assert gradient is not None
            torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("rows", [0, 1, 255, 256, 257, 600])
def test_chunks_of_rows_leave_no_seam(rows: int) -> None:
    """Log-probabilities and divergences against plain PyTorch, on both sides of the chunk's size."""
    generator = torch.Generator().manual_seed(rows)
    z = torch.randn(rows, 11, generator=generator, requires_grad=True)
    o = torch.randn(rows, 11, generator=generator)
    y = torch.randint(11, (rows,), generator=generator)
    scale = torch.rand(rows, generator=generator)
    plain = LOG(z, -1).gather(1, y[:, None])[:, 0]
    torch.testing.assert_close(target_logprobs(z, y), plain)
    kl = (o.softmax(-1) * (LOG(o, -1) - LOG(z, -1))).sum(-1)
    torch.testing.assert_close(divergence(o, z), kl, rtol=1e-4, atol=1e-6)
    q, p = o.softmax(-1), z.softmax(-1)
    m = (p + q) / 2
    both = ((q * (q / m).log() + p * (p / m).log()) / 2).sum(-1)
    torch.testing.assert_close(jensen_shannon_divergence(o, z), both, rtol=1e-4, atol=1e-6)
    pairs = ((target_logprobs(z, y), plain), (divergence(o, z), kl), (jensen_shannon_divergence(o, z), both))
    for ours, theirs in pairs:
        (mine,) = torch.autograd.grad((ours * scale).sum(), z)
        (wanted,) = torch.autograd.grad((theirs * scale).sum(), z, retain_graph=True)
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-6)


def test_half_precision_logits_get_half_precision_gradients() -> None:
    z = torch.randn(5, 11, dtype=torch.bfloat16, requires_grad=True)
    target_logprobs(z, torch.zeros(5, dtype=torch.long)).sum().backward()
    assert z.grad is not None
    assert z.grad.dtype == torch.bfloat16
    assert target_logprobs(z, torch.zeros(5, dtype=torch.long)).dtype == torch.float32
