"""Gradients through seams, by hand."""

import torch

from uwc.training.forward import Seams


def test_seams_go_back_through_the_latest_forward_first_and_skip_what_was_not_read() -> None:
    visited: list[str] = []
    weight = torch.ones(2, requires_grad=True)
    seams, leaves = Seams(), {}
    for name in ("first", "second", "unread"):
        output = weight * 3.0
        output.register_hook(lambda _gradient, name=name: visited.append(name))
        leaves[name] = seams.cut({"values": output})["values"]
    (leaves["first"].sum() + 2 * leaves["second"].sum()).backward()
    assert weight.grad is None
    seams.backward()
    assert visited == ["second", "first"]
    assert weight.grad is not None and weight.grad.tolist() == [9.0, 9.0]
