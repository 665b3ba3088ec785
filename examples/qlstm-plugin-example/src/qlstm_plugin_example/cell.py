"""The minimal gated recurrent unit: a GRU without recurrent weights."""

from __future__ import annotations

from torch import Tensor

from qlstm_core import Cell, RecurrentLayer


def step(x: Tensor, h: Tensor) -> tuple[Tensor]:
    """Return ``(h_t,)``.

    Args:
        x: N(W x_t) + b, ``(batch, 2, hidden)``.
        h: h_{t−1}, ``(batch, hidden)``.
    """
    update, new = x.unbind(1)
    z = update.sigmoid()
    return ((1 - z) * h + z * new,)


class MinGRU(RecurrentLayer):
    r"""A GRU whose gates depend on the input alone, so that its only weights are those of the input.

    .. math::
        z_t &= σ(N(Q(W_z) x_t) + b_z) \\
        h_t &= (1 - z_t) ⊙ h_{t-1} + z_t ⊙ (N(Q(W_n) x_t) + b_n)

    Source: Feng et al. 2024, "Were RNNs all we needed?", arXiv:2410.01201, section 3.1.
    """

    cell = Cell("mingru", gates="zn", states=("h",), step=step, recurrent=False)
