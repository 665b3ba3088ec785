"""Quantized weights at rest: one bit per weight and plane, and no scale that follows from another."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from qlstm_core.bitplanes import BitPlanes

Level = tuple[int, float]
"""``(i, factor)``: ``factor`` times stored scale i; with i = −1 the factor itself, the same everywhere."""


@dataclass(frozen=True)
class Bits:
    """Bit planes as stored: ``W = offset + Σ_k scale_k · B_k``.

    Args:
        signs: ``(⌈planes · gates · rows · cols / 8⌉,)`` uint8, the planes' signs in order, the first in the
            highest bit, 1 for +1.
        shape: ``(gates, rows, cols)``.
        scales: ``(number, gates, 1 or rows)`` float32.
        planes: the scale of each plane.
        offset: the offset, or ``None`` for zero.
    """

    signs: NDArray[np.uint8]
    shape: tuple[int, int, int]
    scales: NDArray[np.float32]
    planes: tuple[Level, ...]
    offset: Level | None = None

    @classmethod
    def of(cls, planes: BitPlanes, *, fixed: bool = False) -> Bits:
        """Store bit planes, with scales as float32.

        Args:
            planes: the weight.
            fixed: whether its levels belong to the method and not to the weight: they need no storage then.
        """
        given = [scale.float().numpy() for scale in planes.scales]
        offset = None if planes.offset is None else planes.offset.float().numpy()
        stored: list[NDArray[np.float32]] = []
        levels = [_level(scale, stored, fixed) for scale in (*given, *([] if offset is None else [offset]))]
        signs = np.packbits(planes.signs.numpy().reshape(-1))
        scales = np.stack(stored) if stored else np.zeros((0, planes.shape[0], 1), np.float32)
        count = len(given)
        return cls(
            signs, planes.shape, scales, tuple(levels[:count]), None if offset is None else levels[count]
        )

    @property
    def nbytes(self) -> int:
        """Bytes of signs and scales."""
        return self.signs.nbytes + self.scales.nbytes

    def unpack(self) -> BitPlanes:
        """Return the bit planes, with float32 scales."""
        shape = (len(self.planes), *self.shape)
        flags = np.unpackbits(self.signs, count=math.prod(shape)).astype(bool).reshape(shape)
        scales = np.stack([self._values(level) for level in self.planes])
        offset = None if self.offset is None else torch.from_numpy(self._values(self.offset))
        return BitPlanes(torch.from_numpy(flags), torch.from_numpy(scales), offset)

    def _values(self, level: Level) -> NDArray[np.float32]:
        index, factor = level
        if index >= 0:
            values: NDArray[np.float32] = self.scales[index] * np.float32(factor)
            return values
        width = self.scales.shape[2]
        return np.full((self.shape[0], width), factor, np.float32)


def _level(scale: NDArray[np.float32], stored: list[NDArray[np.float32]], fixed: bool) -> Level:
    """Return how to make ``scale`` from what is stored; store it where nothing there will do."""
    if fixed and (scale == scale.flat[0]).all():
        return -1, float(scale.flat[0])
    for index, other in enumerate(stored):
        # Planes of one grid differ by powers of two; any other ratio would be chance.
        largest = int(np.abs(other).argmax())
        ratio = float(scale.flat[largest]) / float(other.flat[largest]) if other.flat[largest] else 1.0
        if ratio and abs(math.frexp(ratio)[0]) == 0.5 and np.array_equal(other * np.float32(ratio), scale):
            return index, ratio
    stored.append(scale)
    return len(stored) - 1, 1.0
