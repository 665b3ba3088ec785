"""Weight normalisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qlstm_core import Normalizer

_SHORTEST = 1e-12
"""The length that a row is taken to have at least, as in :func:`torch.nn.functional.normalize`; but not less
than the smallest normal number of the weight's dtype, over which a gradient stays finite."""


class WeightNorm(Normalizer):
    r"""Gives each row of the quantized weight a learned length: :math:`g_j \, W_j / ‖W_j‖`.

    Scaling the weight by any factor changes nothing, so neither does the scale that quantization gives it.

    Args:
        gain: initial length of every row; ``None`` (the default) takes the row norms of the full-precision
            weight, so that an unquantized layer starts as if it were not normalised.

    Attributes:
        gain: ``(gates, rows)``.

    Source: Salimans and Kingma 2016, arXiv:1602.07868, equation 2; Hou et al. 2019, proposition 2.
    """

    gain: nn.Parameter

    def __init__(self, gain: float | None = None) -> None:
        super().__init__()
        self.initial_gain = gain

    def prepare(self, weight: Tensor) -> None:
        """Create the gain from the rows of the full-precision ``weight``, ``(gates, rows, cols)``."""
        gain = weight.norm(dim=-1)
        self.gain = nn.Parameter(
            gain if self.initial_gain is None else torch.full_like(gain, self.initial_gain)
        )

    def weight(self, weight: Tensor) -> Tensor:
        """Return g ⊙ W/‖W‖, ``(gates, rows, cols)``; rows of zeros stay zero."""
        # One factor per row: the matrix itself is read and written once. In half precision it might overflow.
        wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
        length: Tensor = wide.norm(dim=-1)
        factor = self.gain / length.clamp_min(max(_SHORTEST, torch.finfo(weight.dtype).tiny))
        return (wide * factor.unsqueeze(-1)).to(weight.dtype)

    def extra_repr(self) -> str:
        """Return the initial gain."""
        return f"gain={self.initial_gain}"
