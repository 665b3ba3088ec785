"""Weights of few levels, by the form of their levels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qlstm_core.kernels.levels import Levels


def _signs(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    return rng.choice([-1.0, 1.0], shape)


FORMS: dict[str, Any] = {
    "zeros": lambda rng, shape, scales: np.zeros(shape),
    "binary": lambda rng, shape, scales: _signs(rng, shape) * scales[0],
    "ternary": lambda rng, shape, scales: rng.integers(-1, 2, shape) * scales[0],
    "grid3": lambda rng, shape, scales: rng.integers(-3, 4, shape) * scales[0],
    "grid4": lambda rng, shape, scales: rng.integers(-7, 8, shape) * scales[0],
    "sums2": lambda rng, shape, scales: (_signs(rng, (2, *shape)) * scales[:2]).sum(0),
    "sums3": lambda rng, shape, scales: (_signs(rng, (3, *shape)) * scales[:3]).sum(0),
    "sums4": lambda rng, shape, scales: (_signs(rng, (4, *shape)) * scales).sum(0),
}


def drawn_weight(
    form: str, groups: int, rows: int, cols: int, *, per_row: bool, seed: int
) -> NDArray[np.float32]:
    """Return a weight ``(groups, rows, cols)`` with scales for each row or for all of a group."""
    rng = np.random.default_rng(seed)
    scales = rng.uniform(0.5, 1.5, (4, groups, rows if per_row else 1, 1)) * np.array(
        [1.0, 0.61, 0.23, 0.09]
    ).reshape(4, 1, 1, 1)
    weight: NDArray[np.float32] = FORMS[form](rng, (groups, rows, cols), scales).astype(np.float32)
    return weight


def dense(levels: Levels, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the weight ``(groups, rows, cols)`` that levels describe."""
    _, rows, cols = shape
    digits = levels.digits[:, :rows, :cols]
    total = np.zeros(shape)
    for k, scales in enumerate(levels.scales.astype(np.float64)):
        total += np.where(digits >> k & 1, 1.0, -1.0) * scales[..., None]
    return total if levels.offset is None else total + levels.offset.astype(np.float64)[..., None]
