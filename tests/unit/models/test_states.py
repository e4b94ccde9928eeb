"""Which hidden states terms and probes read."""

import pytest
import torch
from tests.conftest import people, tiny_model

from uwc.data.batches import collate
from uwc.errors import ConfigError
from uwc.models.states import capturing_states, resolve_layer


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
