"""Weight normalisation."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from qlstm_core import Normalizer
from qlstm_norm.gains import initial_gains

Gain = float | Literal["auto"] | None
"""A number, ``"auto"``, or ``None``."""

_SHORTEST = 1e-12
"""The length that a row is taken to have at least, as in :func:`torch.nn.functional.normalize`; but not less
than the smallest normal number of the weight's dtype, over which a gradient stays finite."""


class WeightNorm(Normalizer):
    r"""Gives each row of the quantized weight a learned length: :math:`g_j \, W_j / ‖W_j‖`.

    Scaling the weight by any factor changes nothing, so neither does the scale that quantization gives it.

    The initial length decides how large pre-activations are at first. With ``"auto"`` they have unit variance
    where the weight's elements are equally large, as those of a quantized one are: a token picks one of a
    row's elements, ±g/√cols, so that g = √cols; features of unit variance give g itself, so that g = 1. The
    recurrent side starts from 1 too: its features, in (−1, 1), give at most that.

    Args:
        gain: initial length of every row; ``"auto"``, for unit variance; ``None`` (the default) takes the row
            norms of the full-precision weight, so that an unquantized layer starts as if it were not
            normalised.
        gain_ih, gain_hh: the same for the input's and for the recurrent side alone; default: ``gain``.

    Attributes:
        gain: ``(gates, rows)``.

    Raises:
        ValueError: a length that is not positive and finite, or another word than ``"auto"``.

    Source: Salimans and Kingma 2016, arXiv:1602.07868, equation 2; Hou et al. 2019, proposition 2.
    """

    gain: nn.Parameter

    def __init__(self, gain: Gain = None, gain_ih: Gain = None, gain_hh: Gain = None) -> None:
        super().__init__()
        self.initial_gains = {"gain": gain, "gain_ih": gain_ih, "gain_hh": gain_hh}
        for name, value in self.initial_gains.items():
            _check_gain(name, value)

    def prepare(self, weight: Tensor) -> None:
        """Create the gain for the full-precision ``weight``, ``(gates, rows, cols)``, of this side."""
        gain = weight.norm(dim=-1)
        initial = self.initial_gains.get(f"gain_{self.side}")
        if initial is None:
            initial = self.initial_gains["gain"]
        if initial == "auto":
            initial = math.sqrt(weight.shape[-1]) if self.tokens else 1.0
        self.gain = nn.Parameter(gain if initial is None else initial_gains(weight, initial))

    def weight(self, weight: Tensor) -> Tensor:
        """Return g ⊙ W/‖W‖, ``(gates, rows, cols)``; rows of zeros stay zero."""
        # One factor per row: the matrix itself is read and written once. In half precision it might overflow.
        wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
        length: Tensor = wide.norm(dim=-1)
        factor = self.gain / length.clamp_min(max(_SHORTEST, torch.finfo(weight.dtype).tiny))
        return (wide * factor.unsqueeze(-1)).to(weight.dtype)

    def extra_repr(self) -> str:
        """Return the initial gain, and those of single sides where they are given."""
        gains = self.initial_gains.items()
        return ", ".join(f"{name}={value}" for name, value in gains if name == "gain" or value is not None)


def _check_gain(name: str, value: object) -> None:
    if value is None or value == "auto":
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number, 'auto' or None, got {value!r}")
