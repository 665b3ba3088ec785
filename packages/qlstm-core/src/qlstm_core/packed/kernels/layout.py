"""The layout of packed weights: bit planes in the order in which the kernels read them.

The rows of all gates stand below each other, in runs of 16: rows 0 to 15 of plane 0, the same rows of plane
1, and so on for all planes; then rows 16 to 31. Four runs, 64 *lines*, are a tile. Columns are taken in
groups whose *span* is four or six, as many as an index into a kernel's tables has bits: of G groups, group g
is columns g, G+g, 2G+g, … (see :mod:`qlstm_core.packed.kernels.activations`). Bit i of an index is the sign
of column ``i·G + g``, 1 for +1. A block is one tile and one group.

With a span of four it has 32 bytes:

    bits 0–3 of byte 2j    line j          bits 4–7 of byte 2j    line 32 + j
    bits 0–3 of byte 2j+1  line 16 + j     bits 4–7 of byte 2j+1  line 48 + j

With a span of six, four blocks share 192 bytes, three for each line: bits 0–5 of bytes b, 64 + b and 128 + b
are those of groups 4k, 4k+1 and 4k+2; bits 6–7 of the three bytes are bits 0–1, 2–3 and 4–5 of group 4k+3.
Line j stands in byte b = 2j, line 16 + j in 2j+1, line 32 + j in 32 + 2j, line 48 + j in 33 + 2j.

Even and odd bytes part when sums of bytes are widened to 16 bits, so lines leave the kernel in order; and two
planes of a row are neighbouring bytes, so one instruction can add them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qlstm_core.bitplanes import BitPlanes

LINES = 64
"""Lines of a tile."""
RUN = 16
"""Neighbouring rows of one plane."""
LARGEST_ENTRY = 2**16 - 1
"""The largest entry of the finest tables."""
ENTRY_LIMIT = {8: 255, 12: 4095, 16: LARGEST_ENTRY}
"""The largest table entry by ``activation_bits``."""
LARGEST_SUM = 2**31 - 1
"""The largest sum that a kernel can return; inside it sums modulo 2^32."""
MAX_COLUMNS = 2**17
"""Beyond this, one plane's sum could pass ``LARGEST_SUM``."""

SPANS = (4, 6)
"""Numbers of columns in a group that a layout is described for."""

_ALIGNMENT = 64
_AT_ONCE = 2**24  # signs that are brought into the layout at a time, padding included
_GROUPS_STEP = 4  # 6-bit table entries are added in fours before they are widened


def aligned(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Return an array of zeros that starts on a cache line."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    buffer = np.zeros(size + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    array: NDArray[Any] = buffer[start : start + size].view(dtype).reshape(shape)
    return array


def groups_of(columns: int, span: int = 4) -> int:
    """Return the number of groups of ``span`` columns that ``columns`` columns take, with padding."""
    return -(-columns // (span * _GROUPS_STEP)) * _GROUPS_STEP


@dataclass(frozen=True)
class PackedMatrix:
    """A quantized weight in the kernels' layout: ``W = offset + Σ_k scales[k] · B_k``.

    Args:
        blocks: ``(tiles, groups, 8·span)`` uint8, C-contiguous.
        shape: ``(gates, rows, cols)``.
        scales: ``(planes, gates, 1 or rows)`` float32.
        offset: ``(gates, 1 or rows)`` float32, or ``None`` for zero.

    Raises:
        ValueError: sizes or types that do not fit together.
    """

    blocks: NDArray[np.uint8]
    shape: tuple[int, int, int]
    scales: NDArray[np.float32]
    offset: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        gates, rows, cols = self.shape
        if gates < 1 or rows < 1 or not 1 <= cols <= MAX_COLUMNS:
            raise ValueError(f"shape must be (gates, rows, 1 to {MAX_COLUMNS} columns), got {self.shape}")
        planes = self.scales.shape[0] if self.scales.ndim == 3 else 0
        per = {(gates, 1), (gates, rows)}
        if not 1 <= planes <= 8 or self.scales.shape[1:] not in per or self.scales.dtype != np.float32:
            raise ValueError(
                f"scales must be float32 of shape (1 to 8, {gates}, 1 or {rows}), "
                f"got {self.scales.dtype} {self.scales.shape}"
            )
        if self.offset is not None and (self.offset.shape not in per or self.offset.dtype != np.float32):
            raise ValueError(
                f"offset must be float32 of shape ({gates}, 1 or {rows}), "
                f"got {self.offset.dtype} {self.offset.shape}"
            )
        expected = [blocks_shape(self.shape, planes, span) for span in SPANS]
        if (
            self.blocks.shape not in expected
            or self.blocks.dtype != np.uint8
            or not self.blocks.flags.c_contiguous
        ):
            raise ValueError(
                f"blocks must be C-contiguous uint8 of shape {' or '.join(map(str, expected))}, "
                f"got {self.blocks.dtype} {self.blocks.shape}"
            )

    @property
    def planes(self) -> int:
        """Number of bit planes."""
        return len(self.scales)

    @property
    def groups(self) -> int:
        """Number of groups of columns, with padding; activations have ``span·groups`` elements."""
        return int(self.blocks.shape[1])

    @property
    def span(self) -> int:
        """Number of columns in a group."""
        return int(self.blocks.shape[2]) // 8

    @property
    def pairing(self) -> int:
        """How planes 2k and 2k+1 are added inside the kernel; see :func:`pairing_of`."""
        return pairing_of(self.scales, self.groups)

    @property
    def sums(self) -> int:
        """Number of sums per row that the kernel returns: one per plane, or per pair of planes."""
        return self.planes // 2 if self.pairing else self.planes

    @property
    def length(self) -> int:
        """Size of the kernel's result for one vector, with padding: ``(runs, sums, 16)`` flattened."""
        return len(self.blocks) * (LINES // 2 if self.pairing else LINES)

    @property
    def nbytes(self) -> int:
        """Number of bytes in memory, with padding."""
        return self.blocks.nbytes + self.scales.nbytes + (0 if self.offset is None else self.offset.nbytes)

    def row_scales(self) -> NDArray[np.float32]:
        """Return the scale of every row's sums, ``(sums, gates·rows)``; of a pair, the first plane's."""
        gates, rows, _ = self.shape
        kept = self.scales[::2] if self.pairing else self.scales
        return np.ascontiguousarray(np.broadcast_to(kept, (len(kept), gates, rows)).reshape(len(kept), -1))

    def row_offsets(self) -> NDArray[np.float32]:
        """Return the offset of every row, ``(gates·rows,)``; zeros where there is none."""
        gates, rows, _ = self.shape
        if self.offset is None:
            return np.zeros(gates * rows, np.float32)
        return np.ascontiguousarray(np.broadcast_to(self.offset, (gates, rows)).reshape(-1))


def pairing_of(scales: NDArray[np.float32], groups: int) -> int:
    """Return how planes 2k and 2k+1 are added inside the kernel, from scales ``(planes, …)``.

    1: they have equal scales (ternary); 2: the second has twice the first's (uniform grids); 0: each plane
    gives a sum of its own, because scales differ otherwise, the number of planes is odd, or there are so many
    ``groups`` of columns that a sum of two planes could pass ``LARGEST_SUM``.
    """
    if len(scales) % 2 == 0:
        for ratio in (1, 2):
            if np.array_equal(scales[1::2], ratio * scales[::2]):
                return ratio if (1 + ratio) * groups * LARGEST_ENTRY <= LARGEST_SUM else 0
    return 0


def blocks_shape(shape: tuple[int, int, int], planes: int, span: int) -> tuple[int, int, int]:
    """Return the shape of the blocks of a ``(gates, rows, cols)`` weight with ``planes`` planes."""
    gates, rows, cols = shape
    runs = -(-gates * rows // RUN) * planes
    return -(-runs * RUN // LINES), groups_of(cols, span), LINES * span // 8


def pack(planes: BitPlanes, span: int = 4) -> PackedMatrix:
    """Bring bit planes into the kernels' layout; :func:`unpack` is the inverse.

    Args:
        planes: the weight.
        span: number of columns in a group, 4 or 6.

    Raises:
        ValueError: no rows or columns, or more columns than ``MAX_COLUMNS``.
    """
    signs = planes.signs.cpu().numpy()
    k, gates, rows, cols = signs.shape
    blocks = pack_signs(signs.reshape(k, 1, gates * rows, cols), span)[0]
    offset = None if planes.offset is None else planes.offset.detach().cpu().float().numpy()
    return PackedMatrix(blocks, (gates, rows, cols), planes.scales.detach().cpu().float().numpy(), offset)


def pack_signs(signs: NDArray[np.bool_], span: int) -> NDArray[np.uint8]:
    """Return the blocks of several matrices of one shape, ``(matrices, tiles, groups, 8·span)``.

    Args:
        signs: ``(planes, matrices, rows, cols)``, the rows of all gates below each other.
        span: number of columns in a group, 4 or 6.
    """
    k, count, rows, cols = signs.shape
    tiles, groups, size = blocks_shape((1, rows, cols), k, span)
    lines = -(-rows // RUN)
    weights = (1 << np.arange(span)).astype(np.uint8).reshape(span, 1)
    blocks = aligned((count, tiles, groups, size), np.uint8)
    # A matrix of one row takes 16 here: many at a time, but not all of them.
    some = max(1, _AT_ONCE // (k * lines * RUN * span * groups))
    for first in range(0, count, some):
        own = signs[:, first : first + some]
        n = own.shape[1]
        bits = np.zeros((k, n, lines * RUN, span * groups), np.uint8)
        bits[:, :, :rows, :cols] = own
        each = (bits.reshape(k, n, lines, RUN, span, groups) * weights).sum(4, dtype=np.uint8)
        runs = np.zeros((n, 4 * tiles, RUN, groups), np.uint8)
        runs[:, : lines * k] = each.transpose(1, 2, 0, 3, 4).reshape(n, lines * k, RUN, groups)
        # (tile, half, even or odd byte, j, group) -> (tile, group, half, j, even or odd byte)
        indexes = runs.reshape(n * tiles, 2, 2, RUN, groups).transpose(0, 4, 1, 3, 2)
        joined = (_join_nibbles if span == 4 else _join_sixes)(indexes)
        blocks[first : first + n] = joined.reshape(n, tiles, groups, size)
    return blocks


def unpack(matrix: PackedMatrix) -> BitPlanes:
    """Return the bit planes of a packed matrix, with float32 scales."""
    gates, rows, cols = matrix.shape
    tiles, groups, _ = matrix.blocks.shape
    k, span = matrix.planes, matrix.span
    lines = -(-gates * rows // RUN)
    indexes = (_part_nibbles if span == 4 else _part_sixes)(matrix.blocks)
    runs = indexes.transpose(0, 2, 4, 3, 1).reshape(4 * tiles, RUN, groups)[: lines * k]
    each = runs.reshape(lines, k, RUN, 1, groups)
    # (runs of rows, planes, 16, span, groups)
    bits = (each >> np.arange(span, dtype=np.uint8).reshape(span, 1)) & 1
    signs = bits.swapaxes(0, 1).reshape(k, lines * RUN, span * groups)[:, : gates * rows, :cols]
    return BitPlanes(
        torch.from_numpy(signs.astype(bool).reshape(k, gates, rows, cols)),
        torch.from_numpy(matrix.scales.copy()),
        None if matrix.offset is None else torch.from_numpy(matrix.offset.copy()),
    )


# Indexes, (tiles, groups, half, j, even or odd byte), and the bytes that they share.


def _join_nibbles(indexes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    joined: NDArray[np.uint8] = indexes[:, :, 0] | indexes[:, :, 1] << np.uint8(4)
    return joined


def _part_nibbles(blocks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    tiles, groups, _ = blocks.shape
    pairs = blocks.reshape(tiles, groups, RUN, 2)
    return np.stack([pairs & 15, pairs >> 4], axis=2)


def _join_sixes(indexes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    tiles, groups = indexes.shape[:2]
    fours = indexes.reshape(tiles, groups // 4, 4, LINES)
    pieces = fours[:, :, 3:] >> np.array([[0], [2], [4]], np.uint8) & np.uint8(3)
    joined: NDArray[np.uint8] = fours[:, :, :3] | pieces << np.uint8(6)
    return joined


def _part_sixes(blocks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    tiles, groups, _ = blocks.shape
    threes = blocks.reshape(tiles, groups // 4, 3, LINES)
    last = (threes >> 6) << np.array([[0], [2], [4]], np.uint8)
    indexes = np.concatenate([threes & 63, last.sum(2, keepdims=True, dtype=np.uint8)], axis=2)
    return indexes.reshape(tiles, groups, 2, RUN, 2)


def check_activation_bits(bits: Any) -> None:
    """Raise a ``ValueError`` for tables whose entries would have another number of bits than 8, 12 or 16."""
    if bits not in ENTRY_LIMIT:
        raise ValueError(f"activation_bits must be one of {sorted(ENTRY_LIMIT)}, got {bits!r}")
