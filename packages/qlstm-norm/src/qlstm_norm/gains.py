"""Gains as they start: one number for all units."""

from __future__ import annotations

import torch
from torch import Tensor


def initial_gains(weight: Tensor, value: float) -> Tensor:
    """Return ``(gates, rows)`` gains of one value, of the dtype and on the device of a side's weight.

    Args:
        weight: ``(gates, rows, cols)``.
        value: the gain.

    Raises:
        ValueError: a number that is beyond the dtype, or not finite.
    """
    largest = torch.finfo(weight.dtype).max
    if not abs(value) <= largest:
        raise ValueError(
            f"gain must be a finite number, at most {largest:.3g} in {weight.dtype}, got {value!r}"
        )
    return weight.new_full(weight.shape[:2], value)
