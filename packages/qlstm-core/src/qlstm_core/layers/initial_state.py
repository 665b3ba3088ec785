"""Initial states that are learned."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from qlstm_core.layers.stack import RecurrentLayer, check_recurrent
from qlstm_core.layers.torch_call import bare


class InitialState(nn.Module):
    """A learned initial state of a recurrent layer, the same for all sequences, and noise.

    .. math::
        h_0 ← h_0 + ε, \\quad c_0 ← c_0 + ε', \\quad ε, ε' ∼ N(0, noise²)

    The learned part starts from zeros. Noise is drawn for each sequence, from torch's generator. A state
    that is zero, or the same in all sequences, gives the first step a recurrent pre-activation that layer or
    batch normalisation divides by √eps, with gradients as steep; noise keeps them away from there.

    Example::

        layer = LSTM(1, 100, normalizer="layer:gain=0.1")
        start = InitialState(layer, noise=0.1)
        output, state = layer(x, start(x.shape[1]))      # x: (steps, batch, 1)

    Args:
        layer: gives sizes, dtype and device; it is not kept.
        noise: standard deviation of the noise.
        noise_in_eval: whether noise is added in ``eval()`` too, as the authors of the source do.

    Attributes:
        h_0: ``(layers · directions, 1, out)``.
        c_0: ``(layers · directions, 1, hidden)``, of cells that have a cell state; likewise for others.

    Raises:
        ValueError: noise that is not finite, or below 0.

    Source: the code of Hou et al. 2019 for sequential MNIST, with noise 0.1 for layer and batch
    normalisation, none for others; Cooijmans et al. 2017, arXiv:1603.09025, section 5.1.
    """

    def __init__(self, layer: RecurrentLayer, noise: float = 0.0, *, noise_in_eval: bool = True) -> None:
        super().__init__()
        check_recurrent("InitialState", layer)
        if not isinstance(noise, int | float) or not 0 <= noise < math.inf:
            raise ValueError(f"noise must be a finite number from 0, got {noise!r}")
        self.noise = noise
        self.noise_in_eval = noise_in_eval
        weight = next(layer.parameters())
        cells = layer.num_layers * layer.num_directions
        self._names = tuple(f"{state}_0" for state in layer.cell.states)
        for state in layer.cell.states:
            size = layer.output_size if state == "h" else layer.hidden_size
            self.register_parameter(f"{state}_0", nn.Parameter(weight.new_zeros(cells, 1, size)))

    def forward(self, batch: int) -> Any:
        """Return the ``hx`` of so many sequences: each ``(layers · directions, batch, features)``."""
        if batch < 0:
            raise ValueError(f"InitialState: the number of sequences must be from 0, got {batch}")
        noisy = self.noise > 0 and (self.training or self.noise_in_eval)
        states: list[Tensor] = []
        for name in self._names:
            learned = self.get_parameter(name)
            state = learned.expand(-1, batch, -1)
            if noisy:
                state = state + self.noise * torch.randn_like(state)
            states.append(state)
        return bare(tuple(states))

    def extra_repr(self) -> str:
        """Return sizes and noise."""
        shapes = ", ".join(f"{name}={tuple(self.get_parameter(name).shape)}" for name in self._names)
        return f"{shapes}, noise={self.noise}, noise_in_eval={self.noise_in_eval}"
