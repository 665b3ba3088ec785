"""Statistics of the weights that share a scale: those of a gate, or of each of its rows."""

from __future__ import annotations

import torch
from torch import Tensor


def wide_magnitude(weight: Tensor) -> Tensor:
    """Return |w| in float32 or wider."""
    return weight.abs().to(torch.promote_types(weight.dtype, torch.float32))


def group_sum(values: Tensor, *, per_row: bool) -> Tensor:
    """Sum each gate's matrix, to ``(gates, 1)``, or each row, to ``(gates, rows)``, in float64.

    Args:
        values: ``(gates, rows, cols)``.
        per_row: sum rows instead of matrices.
    """
    return values.sum((-1,) if per_row else (-2, -1), keepdim=True, dtype=torch.float64).squeeze(-1)


def bounded_sum(values: Tensor, *, per_row: bool) -> Tensor:
    """Like :func:`group_sum`, several times faster, for values whose sums are far from overflow.

    Rows are summed in the values' own dtype, float32 or wider.
    """
    rows = values.sum(-1).double()
    return rows if per_row else rows.sum(-1, keepdim=True)


def group_max(values: Tensor, *, per_row: bool) -> Tensor:
    """Return the largest value of each gate, ``(gates, 1)``, or row, ``(gates, rows)``; 0 for an empty one.

    Args:
        values: ``(gates, rows, cols)``, non-negative.
        per_row: look at rows instead of matrices.
    """
    if values.numel() == 0:
        return values.new_zeros(values.shape[0], values.shape[1] if per_row else 1)
    return values.amax((-1,) if per_row else (-2, -1), keepdim=True).squeeze(-1)


def over_peak(values: Tensor, *, per_row: bool) -> tuple[Tensor, Tensor]:
    """Return values over the largest of their gate or row, and that largest one in float64.

    Args:
        values: ``(gates, rows, cols)``, non-negative.
        per_row: look at rows instead of matrices.
    """
    peak = group_max(values, per_row=per_row)
    return values / torch.where(peak > 0, peak, 1).unsqueeze(-1), peak.double()


def mean_magnitude(weight: Tensor, *, per_row: bool) -> Tensor:
    """Return mean|w| of each gate or row, ``(gates, 1 or rows)``, in float64; 0 for an empty one."""
    _, rows, cols = weight.shape
    return group_sum(weight.abs(), per_row=per_row) / max(cols if per_row else rows * cols, 1)
