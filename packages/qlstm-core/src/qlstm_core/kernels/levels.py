"""The levels of a weight that has few of them, read off its values: what packed products start from.

Values say what a quantizer did, also where it drew them at random or where weight normalisation gave each row
a factor of its own. Each row is looked at by itself.
"""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qlstm_core.kernels.compile import compiled

MOST_LEVELS = 16
"""The most levels of a row."""
FEWEST_COLUMNS = 5
"""The fewest columns: four numbers, whatever they are, are sums of four scales."""
MOST_COLUMNS = 2**17
"""The most rows or columns: sums of so many activations are exact integers."""

_PADDING = 16
_NOT_EVEN = 1e-4  # how far from a whole number a multiple of a step may be
_APART = 1e-6  # how far from a level a sum of scales may be, of the largest level
_BINARY, _TERNARY = 1, 2


class Levels(NamedTuple):
    """A weight as digits: ``W = offset + Σ_k scales[k] · B_k`` with every ``B_k`` in {−1, +1}.

    Args:
        digits: ``(groups, rows, cols)`` uint8, both padded with zeros to a multiple of 16; bit k is 1 where
            ``B_k`` is +1.
        scales: ``(planes, groups, rows)`` float32.
        offset: ``(groups, rows)`` float32, or ``None`` for zero.
        ratios: ``(planes,)`` float32, of scales that are the same multiples of one unit in every row;
            ``None``: they are not.
    """

    digits: NDArray[np.uint8]
    scales: NDArray[np.float32]
    offset: NDArray[np.float32] | None
    ratios: NDArray[np.float32] | None

    @property
    def planes(self) -> int:
        """Number of bit planes."""
        return len(self.scales)


@compiled("")
def _read_signs(matrix: Any, digits: Any, units: Any) -> int:
    """Write digits and levels of ±s (``_BINARY``) or of 0 and ±s (``_TERNARY``); 0 for any other matrix."""
    kind = _BINARY
    for r in range(matrix.shape[0]):
        unit = np.float32(0)
        for c in range(matrix.shape[1]):
            if matrix[r, c] != 0:
                unit = abs(matrix[r, c])
                break
        if not unit < np.inf:
            return 0
        others, zeros = False, False
        for c in range(matrix.shape[1]):
            magnitude = abs(matrix[r, c])
            others |= (magnitude != unit) & (magnitude != 0)
            zeros |= magnitude == 0
            digits[r, c] = (matrix[r, c] >= 0) + 2 * (matrix[r, c] > 0)
        if others:
            return 0
        if zeros and unit > 0:
            kind = _TERNARY
        units[r] = unit
    return kind


@compiled("")
def _collect(matrix: Any, numbers: Any, levels: Any) -> bool:
    """Write the levels of each row, and which of them each weight has.

    False where a row has too many, or one that is not finite.
    """
    for r in range(matrix.shape[0]):
        count = 0
        for c in range(matrix.shape[1]):
            number = 0
            while number < count and levels[r, number] != matrix[r, c]:
                number += 1
            if number == count:
                if count == levels.shape[1] or not abs(matrix[r, c]) < np.inf:
                    return False
                levels[r, count] = matrix[r, c]
                count += 1
            numbers[r, c] = number
    return True


@compiled("")
def _translate(numbers: Any, tables: Any, rows: int, cols: int) -> None:
    """Put an entry of each row's table in the place of its number."""
    for r in range(rows):
        for c in range(cols):
            numbers[r, c] = tables[r, numbers[r, c]]


def find_levels(weight: NDArray[np.float32]) -> Levels | None:
    """Return a weight as digits, or ``None`` where a row has other levels than these.

    Levels may be ``±s``; 0 and ``±s``; multiples of one step up to ±7, or −8; or sums ``±a_1 ± … ± a_k`` of
    up to four scales; all finite. There may be ``FEWEST_COLUMNS`` to
    ``MOST_COLUMNS`` columns, and as many rows.

    Args:
        weight: ``(groups, rows, cols)``.
    """
    groups, rows, cols = weight.shape
    if cols < FEWEST_COLUMNS or max(rows, cols) > MOST_COLUMNS:
        return None
    matrix = weight.reshape(groups * rows, cols)
    padded = tuple(-(-size // _PADDING) * _PADDING for size in (rows, cols))
    digits = np.zeros((groups, *padded), np.uint8)
    own = np.ascontiguousarray(digits[:, :rows, :cols]).reshape(matrix.shape)
    units = np.zeros(len(matrix), np.float32)
    if kind := _read_signs(matrix, own, units):
        ratios = np.array([1.0] if kind == _BINARY else [0.5, 0.5], np.float32)
        scales, offset = np.multiply.outer(ratios, units), None
    else:
        levels = np.full((len(matrix), MOST_LEVELS), np.nan, np.float32)
        if not _collect(matrix, own, levels):
            return None
        found = _as_sums(levels, 2) or _as_multiples(levels) or _as_sums(levels, 3) or _as_sums(levels, 4)
        if found is None:
            return None
        tables, scales, offset, ratios = found
        _translate(own, tables, *matrix.shape)
    digits[:, :rows, :cols] = own.reshape(weight.shape)
    return Levels(
        digits,
        scales.reshape(-1, groups, rows),
        None if offset is None else offset.reshape(groups, rows),
        ratios,
    )


def _as_multiples(levels: NDArray[np.float32]) -> tuple[Any, ...] | None:
    """Return the digits of each level on a grid, scales, offset and ratios; ``None`` where there is none."""
    values = levels.astype(np.float64)
    magnitudes = np.abs(values)
    smallest = np.nanmin(np.where(magnitudes > 0, magnitudes, np.inf), axis=1)
    smallest[np.isinf(smallest)] = 1.0
    divisors = np.zeros(len(values))
    for divisor in range(8, 0, -1):
        codes = values * (divisor / smallest[:, None])
        even = np.abs(codes - np.round(codes)) <= _NOT_EVEN
        inside = (codes < 7.5) & (codes > -8.5)
        divisors[((even & inside) | np.isnan(codes)).all(axis=1)] = divisor
    if not divisors.all():
        return None
    codes = np.round(values * (divisors / smallest)[:, None])
    # The largest level is the one that tells the step best.
    peaks = np.nanargmax(magnitudes, axis=1)[:, None]
    largest = np.take_along_axis(codes, peaks, 1)[:, 0]
    steps = np.zeros(len(values))
    np.divide(np.take_along_axis(values, peaks, 1)[:, 0], largest, out=steps, where=largest != 0)
    planes = 2
    while np.nanmax(codes) > 2 ** (planes - 1) - 1 or np.nanmin(codes) < -(2 ** (planes - 1)):
        planes += 1
    tables = np.where(np.isnan(codes), 0, codes + 2 ** (planes - 1)).astype(np.uint8)
    ratios = (2.0 ** (np.arange(planes) - 1)).astype(np.float32)
    units = steps.astype(np.float32)
    return tables, np.multiply.outer(ratios, units), -units / 2, ratios


def _as_sums(levels: NDArray[np.float32], planes: int) -> tuple[Any, ...] | None:
    """Return the digits of each level as a sum of scales, scales, and no offset or ratios; likewise."""
    values = levels.astype(np.float64)
    # Magnitudes in descending order, each once; those that a row lacks count as its largest.
    magnitudes = -np.sort(-np.abs(values), axis=1)
    peaks = magnitudes[:, :1]
    magnitudes[:, 1:][magnitudes[:, :-1] - magnitudes[:, 1:] <= _APART * peaks] = np.nan
    magnitudes = -np.sort(-magnitudes, axis=1)
    if not np.isnan(magnitudes[:, 2 ** (planes - 1) :]).all():
        return None
    magnitudes = np.where(np.isnan(magnitudes), peaks, magnitudes)
    signs = np.array(list(product((-1.0, 1.0), repeat=planes)))
    codes = ((signs > 0) << np.arange(planes)).sum(1).astype(np.uint8)
    scales = np.zeros((len(values), planes))
    tables = np.zeros(levels.shape, np.uint8)
    open_ = np.ones(len(values), bool)
    # The largest is the sum of all; with the sign of the smallest scale turned it is the second, with that of
    # the next the third. The fourth may be that with both turned: then the next scale shows in a later one.
    for last in (3, 4, 5) if planes == 4 else (planes - 1,):
        others = (peaks - magnitudes[:, [*range(1, planes - 1), last]]) / 2
        tried = np.concatenate([peaks - others.sum(1, keepdims=True), others], axis=1)
        distances = np.abs(values[:, :, None] - (tried @ signs.T)[:, None, :])
        nearest = np.nan_to_num(distances, nan=0.0).argmin(-1)
        least = np.take_along_axis(distances, nearest[..., None], -1)[..., 0]
        fits = open_ & ((least <= _APART * peaks) | np.isnan(values)).all(axis=1)
        scales[fits], tables[fits] = tried[fits], codes[nearest[fits]]
        open_ &= ~fits
    if open_.any():
        return None
    return tables, np.ascontiguousarray(scales.T.astype(np.float32)), None, None
