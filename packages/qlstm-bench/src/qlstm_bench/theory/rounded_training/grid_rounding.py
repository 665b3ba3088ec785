"""Q_d and Q_s on one number, for compiled loops; :class:`qlstm_quant.Grid` does the same on tensors.

A weight on the grid is held as its integer index n, ``w = Δ·n``: sums of steps then never leave the grid by
floating-point rounding. Source: Li et al. 2017, "Training quantized nets", arXiv:1706.02379.
"""

from __future__ import annotations

import math

from qlstm_core.kernels.compile import compiled


@compiled(None)
def nearest_index(ratio: float) -> float:
    """Return ``sign(w)·⌊|w|/Δ + ½⌋``.

    Args:
        ratio: w/Δ.
    """
    return math.copysign(math.floor(abs(ratio) + 0.5), ratio)


@compiled(None)
def stochastic_index(ratio: float, draw: float) -> float:
    """Return ``⌊w/Δ⌋ + 1`` if ``draw < w/Δ − ⌊w/Δ⌋``, else ``⌊w/Δ⌋``.

    Args:
        ratio: w/Δ.
        draw: uniform in [0, 1).
    """
    below = math.floor(ratio)
    return below + 1.0 if draw < ratio - below else float(below)
