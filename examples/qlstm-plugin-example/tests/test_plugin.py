"""The checks that every plugin should pass, and values worked out by hand."""

import torch
from qlstm_plugin_example import MaxNorm, MinGRU, PowerOfTwo

from qlstm_core.testing import parametrize_with_checks


@parametrize_with_checks(["power-of-two", "max", "max:eps=0.1,cell=true", "mingru"])
def test_conformance(check):
    check()


def test_scale_is_the_nearest_power_of_two():
    weight = torch.tensor([[[0.3, -0.5]], [[5.0, 0.0]]])
    expected = torch.tensor([[[0.5, -0.5]], [[2.0, 2.0]]])  # means 0.4 and 2.5
    assert torch.equal(PowerOfTwo()(weight), expected)


def test_largest_magnitude_becomes_the_gain():
    norm = MaxNorm()
    norm.prepare(torch.zeros(1, 3, 5))
    x = torch.tensor([[[1.0, -4.0, 2.0]]])
    assert torch.equal(norm(x, 0), torch.tensor([[[0.25, -1.0, 0.5]]]))


def test_state_moves_towards_the_input_by_the_gate():
    layer = MinGRU(1, 1)
    with torch.no_grad():
        layer.weight_ih_l0.copy_(torch.tensor([[0.0], [2.0]]))  # of z and of the new state
        layer.bias_ih_l0.copy_(torch.tensor([0.0, 1.0]))
    output, h = layer(torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0]]))
    assert output.flatten().tolist() == [4.0, 5.5]  # half of 5 and 3; half of 4 and 7
    assert h.item() == 5.5
