"""Which hidden states terms and probes read."""

import pytest
import torch
from tests.conftest import people, tiny_model

from uwc.data.batches import collate
from uwc.errors import ConfigError, ModelError
from uwc.models.states import capturing_states, resolve_layer, shifting_outputs


def test_states_are_the_blocks_outputs_at_the_positions_that_predict_the_answer() -> None:
    """Of the last block too, whose entry in transformers' hidden_states is after the final norm."""
    model = tiny_model(layers=3)
    with torch.no_grad():
        model.model.model.norm.weight.mul_(3.0)
    encoded = model.encode(people(2))
    batch = collate(encoded, device=model.device)
    with torch.no_grad(), capturing_states(model.model, [1, 2, 3], batch) as states:
        output = model.model(input_ids=batch.input_ids, output_hidden_states=True)
    rows = [row for row, e in enumerate(encoded) for _ in range(e.start, len(e.tokens))]
    places = [t - 1 for e in encoded for t in range(e.start, len(e.tokens))]
    for layer in (1, 2):
        assert torch.equal(states[layer], output.hidden_states[layer][rows, places])
    assert not torch.allclose(states[3], output.hidden_states[3][rows, places], atol=1e-3)
    torch.testing.assert_close(model.model.model.norm(states[3]), output.hidden_states[3][rows, places])


def test_layers_count_from_1_and_from_the_last() -> None:
    model = tiny_model(layers=3).model
    assert [resolve_layer(model, layer) for layer in (None, 1, 3, -1, -3)] == [1, 1, 3, 3, 1]
    for wrong in (0, 4, -4):
        with pytest.raises(ConfigError, match=rf"layer = {wrong}: the model has 3 blocks; give 1..3, or -3..-1"):
            resolve_layer(model, wrong)


def test_a_shift_is_in_a_blocks_output_and_in_what_follows() -> None:
    """As adding it to the input of the next block by hand; afterwards nothing is left of it."""
    model = tiny_model(layers=3)
    batch = collate(model.encode(people(2)), device=model.device)
    shift = torch.randn(
        *batch.input_ids.shape, model.model.config.hidden_size, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        plain = model.model(input_ids=batch.input_ids, output_hidden_states=True)
        with shifting_outputs(model.model, {2: shift}), capturing_states(model.model, [2], batch) as states:
            shifted = model.model(input_ids=batch.input_ids, output_hidden_states=True)
        handle = model.model.model.layers[2].register_forward_pre_hook(lambda _m, args: (args[0] + shift, *args[1:]))
        by_hand = model.model(input_ids=batch.input_ids)
        handle.remove()
        again = model.model(input_ids=batch.input_ids)
    torch.testing.assert_close(shifted.logits, by_hand.logits)
    rows, places = batch.rows, batch.positions
    torch.testing.assert_close(states[2], (plain.hidden_states[2] + shift)[rows, places])
    assert torch.equal(again.logits, plain.logits)
    assert (shifted.logits - plain.logits).abs().max() > 0.1
    with (
        pytest.raises(ModelError, match="its hidden states cannot be shifted"),
        shifting_outputs(model.model, {1: shift[:1]}),
    ):
        model.model(input_ids=batch.input_ids)
