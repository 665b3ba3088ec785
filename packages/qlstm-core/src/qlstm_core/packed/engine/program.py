"""A packed network as the few arrays that compiled code runs from.

Everything of variable size lies in two arrays, bits in ``blocks`` and numbers in ``floats``; a row of
``matrices`` says where one matrix lies in them, a row of ``cells`` what one layer in one direction consists
of.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qlstm_core.bitplanes import BitPlanes
from qlstm_core.kernels.feature_moments import LAYER, NO_NORM, RMS
from qlstm_core.layers.cell import GRU_CELL
from qlstm_core.packed.kernels.layout import (
    aligned,
    blocks_shape,
    check_activation_bits,
    pack_signs,
    pairing_of,
)
from qlstm_core.packed.network import Bits, Config, Floats, Network, PackedCell, PackedNorm

LANES = 64
"""Rows of a tile of a matrix of floats."""
VECTORS = 8
"""Vectors that are multiplied at a time: few enough for their tables and sums to stay in the cache."""
CHUNK = 16
"""Rows of a sequence whose input products are made ahead, where a batch has fewer."""

NOWHERE = -1
"""In place of a number of a matrix or of a start in ``floats``: there is none."""


def _record(integers: str, floats: str = "") -> np.dtype[np.void]:
    return np.dtype([(n, np.int64) for n in integers.split()] + [(n, np.float32) for n in floats.split()])


MATRIX = _record("at tiles groups rows cols pairing sums scales offsets")
"""One matrix. ``at``: where blocks start (of a matrix of floats, ``tiles`` tiles of 64 rows); ``groups``,
``pairing``, ``sums``: as those of a :class:`~qlstm_core.packed.kernels.layout.PackedMatrix`, of floats 0;
``scales``, ``offsets``: where those of the rows start in ``floats``."""

CELL = _record(
    "gru split units parts inner_ih outer_ih inner_hh outer_hh hr norm_ih norm_hh norm_cell "
    "steps factor_ih factor_hh shift new_shift factor_cell shift_cell",
    "eps_ih eps_hh eps_cell",
)
"""One layer in one direction. ``gru``: 1 for a GRU, 0 for an LSTM. ``split``: number of independent groups.
``parts``: number of vectors, each split into the groups, that stand one after the other in the input. A
side's matrices start at ``outer``, one for each group; before them comes ``inner``, of low rank, if there is
one. ``hr``: the projection. ``norm``: which moments. ``factor_ih`` and what follows: where arrays of
``(steps, segments, units)`` start in ``floats``."""

PLACES = _record(
    "padded codes tables sums scales norms totals low_rank input_side recurrent_side raw below above"
)
"""Where each part of the workspace starts, in bytes."""


@dataclass(frozen=True)
class Program:
    """A network laid out for :func:`qlstm_core.packed.engine.loop.run`.

    Args:
        config: the sizes and options of the network.
        activation_bits: 8, 12 or 16.
        span: number of columns in a group, as the kernel has it.
        cells: ``(layers · directions,)`` of ``CELL``.
        matrices: ``(number,)`` of ``MATRIX``.
        blocks: uint8.
        floats: float32.
    """

    config: Config
    activation_bits: int
    span: int
    cells: NDArray[np.void]
    matrices: NDArray[np.void]
    blocks: NDArray[np.uint8]
    floats: Floats

    def places(self, batch: int, rows: int) -> tuple[NDArray[np.void], int]:
        """Return where each part of the workspace starts, one of ``PLACES``, and the size of all in bytes.

        Args:
            batch: sequences at the first step.
            rows: number of rows of the whole sequence.
        """
        c = self.config
        chunk = min(rows, CHUNK + batch)
        gates = c.gates * c.hidden_size
        between = rows * c.output_size * c.directions if c.num_layers > 1 else 0
        return _starts(
            {
                **_product_sizes(self._extents, self.span, self.activation_bits, min(VECTORS, chunk)),
                "low_rank": 4 * min(VECTORS, chunk) * (c.rank or 0),
                "input_side": 4 * chunk * gates,
                "recurrent_side": 4 * batch * gates,
                "raw": 4 * batch * c.hidden_size if c.proj_size else 0,
                "below": 4 * between,
                "above": 4 * between,
            }
        )

    @cached_property
    def _extents(self) -> _Extents:
        return _extents(self.matrices)


@dataclass(frozen=True)
class MatrixProgram:
    """One matrix of bits laid out for :func:`qlstm_core.packed.engine.matrix.multiply`.

    Args:
        activation_bits, span, matrices, blocks, floats: as those of :class:`Program`.
    """

    activation_bits: int
    span: int
    matrices: NDArray[np.void]
    blocks: NDArray[np.uint8]
    floats: Floats

    def places(self) -> tuple[NDArray[np.void], int]:
        """Return where each part of the workspace starts, one of ``PLACES``, and the size of all in bytes."""
        return _starts(_product_sizes(_extents(self.matrices), self.span, self.activation_bits, VECTORS))


_Extents = tuple[int, int, int]
"""The most groups, columns, and integers of a product with one vector, that a matrix has."""


def _extents(matrices: NDArray[np.void]) -> _Extents:
    length = matrices["tiles"] * np.where(matrices["pairing"] > 0, 32, 64)
    return int(matrices["groups"].max()), int(matrices["cols"].max()), int(length.max())


def _product_sizes(extents: _Extents, span: int, activation_bits: int, vectors: int) -> dict[str, int]:
    """Return the bytes of what a product needs with so many vectors at a time."""
    groups, cols, length = extents
    tables = (1 if activation_bits == 8 else 2) * (groups << span)
    return {
        "padded": 4 * max(span * groups, cols),
        "codes": vectors * 2 * (span + 1) * groups,
        "tables": vectors * tables,
        "sums": 4 * vectors * length,
        "scales": 4 * vectors,
        "norms": 4 * vectors,
        "totals": 4 * vectors,
    }


def _starts(sizes: dict[str, int]) -> tuple[NDArray[np.void], int]:
    """Return one of ``PLACES`` for parts of these sizes, each on a cache line, and the size of all."""
    ends = list(accumulate(-(-size // 64) * 64 for size in sizes.values()))
    starts = dict(zip(sizes, [0, *ends], strict=False))
    return np.array([tuple(starts.get(name, 0) for name in PLACES.names or ())], PLACES), ends[-1]


def pairings_of(matrices: NDArray[np.void]) -> tuple[int, ...]:
    """Return the pairings of all matrices of bits, as the layout tells them apart."""
    bits = matrices[matrices["sums"] > 0]
    return tuple(sorted({int(pairing) for pairing in bits["pairing"]}))


def build(network: Network, activation_bits: int, span: int) -> Program:
    """Lay out a network for kernels of one span.

    Raises:
        ValueError: another ``activation_bits`` than 8, 12 and 16.
    """
    check_activation_bits(activation_bits)
    builder = _Builder(span)
    config = network.config
    cells = np.zeros(len(network.cells), CELL)
    for index, (layer, _) in enumerate(config.cells()):
        row, cell, groups = cells[index], network.cells[index], config.groups[layer]
        row["gru"] = config.cell == GRU_CELL
        row["split"], row["units"] = groups, config.hidden_size // groups
        row["parts"] = config.directions if groups > 1 and layer > 0 else 1
        _place_matrices(builder, row, cell, config, groups)
        _place_norms(builder, row, cell, config, groups)
    return Program(config, activation_bits, span, cells, *builder.arrays())


def build_matrix(matrix: Bits, activation_bits: int, span: int) -> MatrixProgram:
    """Lay out one matrix, ``(1, rows, cols)``, for kernels of one span.

    Raises:
        ValueError: another ``activation_bits`` than 8, 12 and 16.
    """
    check_activation_bits(activation_bits)
    builder = _Builder(span)
    builder.place(matrix.unpack(), None)
    return MatrixProgram(activation_bits, span, *builder.arrays())


class _Builder:
    """Appends matrices and numbers; each starts on a cache line."""

    def __init__(self, span: int) -> None:
        self.span = span
        self.matrices: list[NDArray[np.void]] = []
        self.number = 0
        self.blocks: list[NDArray[np.uint8]] = []
        self.bytes = 0
        self.floats: list[Floats] = []
        self.size = 0

    def arrays(self) -> tuple[NDArray[np.void], NDArray[np.uint8], Floats]:
        """Return what was appended, each kind in one array: matrices, blocks, floats."""
        blocks, floats = aligned((self.bytes,), np.uint8), aligned((self.size,), np.float32)
        np.concatenate(self.blocks or [blocks], out=blocks)
        np.concatenate(self.floats, out=floats)
        return np.concatenate(self.matrices), blocks, floats

    def put(self, array: NDArray[Any]) -> int:
        """Append numbers and return where they start."""
        return int(self.put_each(array.reshape(1, -1))[0])

    def put_each(self, arrays: NDArray[Any]) -> NDArray[np.int64]:
        """Append numbers, each row by itself, and return where the rows start."""
        count = len(arrays)
        rows = arrays.reshape(count, -1)
        padded = np.zeros((count, -(-rows.shape[1] // 16) * 16), np.float32)
        padded[:, : rows.shape[1]] = rows
        starts: NDArray[np.int64] = self.size + padded.shape[1] * np.arange(count)
        self.floats.append(padded.reshape(-1))
        self.size += padded.size
        return starts

    def put_blocks(self, blocks: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Append the blocks of matrices, whole cache lines each, and return where those of each start."""
        starts: NDArray[np.int64] = self.bytes + blocks[0].size * np.arange(len(blocks))
        self.blocks.append(blocks.reshape(-1))
        self.bytes += blocks.size
        return starts

    def place(
        self,
        matrix: BitPlanes | Floats,
        factor: Floats | None,
        count: int = 1,
        blocks: NDArray[np.int64] | None = None,
    ) -> int:
        """Append matrices of one shape and return the number of the first.

        Args:
            matrix: the weights, ``(count · gates, rows, cols)``.
            factor: factors of the rows, ``(count · gates, rows)``.
            count: number of matrices.
            blocks: where the same matrices' blocks start, if they were placed before.
        """
        if isinstance(matrix, BitPlanes):
            placed = self._place_bits(matrix, factor, count, blocks)
        else:
            placed = self._place_floats(matrix if factor is None else matrix * factor[..., None], count)
        self.matrices.append(placed)
        self.number += count
        return self.number - count

    def _place_bits(
        self, matrix: BitPlanes, factor: Floats | None, count: int, blocks: NDArray[np.int64] | None
    ) -> NDArray[np.void]:
        planes, segments, units, cols = matrix.signs.shape
        rows = segments // count * units
        placed = np.zeros(count, MATRIX)
        placed["rows"], placed["cols"], placed["offsets"] = rows, cols, NOWHERE
        placed["tiles"], placed["groups"], _ = blocks_shape((1, rows, cols), planes, self.span)
        given = matrix.scales.numpy()
        pairing = pairing_of(given, int(placed["groups"][0]))
        kept = given[::2] if pairing else given
        placed["pairing"], placed["sums"] = pairing, len(kept)
        if blocks is None:
            blocks = self.put_blocks(
                pack_signs(matrix.signs.numpy().reshape(planes, count, rows, cols), self.span)
            )
        placed["at"] = blocks
        own = np.ones((segments, units), np.float32) if factor is None else factor
        placed["scales"] = self.put_each((kept * own).reshape(-1, count, rows).swapaxes(0, 1))
        if matrix.offset is not None:
            placed["offsets"] = self.put_each((matrix.offset.numpy() * own).reshape(count, rows))
        return placed

    def _place_floats(self, dense: Floats, count: int) -> NDArray[np.void]:
        segments, units, cols = dense.shape
        rows = segments // count * units
        tiles = -(-rows // LANES)
        placed = np.zeros(count, MATRIX)
        placed["tiles"], placed["rows"], placed["cols"] = tiles, rows, cols
        placed["scales"] = placed["offsets"] = NOWHERE
        padded = np.zeros((count, tiles * LANES, cols), np.float32)
        padded[:, :rows] = dense.reshape(count, rows, cols)
        placed["at"] = self.put_each(padded.reshape(count, tiles, LANES, cols).swapaxes(2, 3))
        return placed


def _place_matrices(builder: _Builder, row: Any, cell: PackedCell, config: Config, groups: int) -> None:
    factors = cell.factors
    given = {key: m.unpack() if isinstance(m, Bits) else m for key, m in cell.matrices.items()}
    row["inner_ih"] = row["inner_hh"] = row["hr"] = NOWHERE
    if config.rank is not None:
        outer, inner = given["outer"], given["inner"]
        row["outer_ih"] = builder.place(outer, factors.get("ih"))
        row["outer_hh"] = builder.place(outer, factors.get("hh"), blocks=builder.matrices[-1]["at"])
        features = inner.shape[-1] - config.output_size
        row["inner_ih"] = builder.place(_columns(inner, slice(features)), None)
        row["inner_hh"] = builder.place(_columns(inner, slice(features, None)), None)
    else:
        for key in ("ih", "hh"):
            row[f"outer_{key}"] = builder.place(given[key], factors.get(key), groups)
    if config.proj_size:
        row["hr"] = builder.place(given["hr"], None)


def _columns(matrix: BitPlanes | Floats, columns: slice) -> BitPlanes | Floats:
    if not isinstance(matrix, BitPlanes):
        return matrix[..., columns]
    return BitPlanes(matrix.signs[..., columns], matrix.scales, matrix.offset)


def _place_norms(builder: _Builder, row: Any, cell: PackedCell, config: Config, groups: int) -> None:
    """Place what follows the moments, all shifts in one where they are only ever added."""
    gates, units = config.gates, config.hidden_size // groups
    one, zero = np.ones((1, groups * gates, units)), np.zeros((1, groups * gates, units))
    sides = [cell.norms[key].affine() if key in cell.norms else (one, zero) for key in ("ih", "hh")]
    steps = max(len(factor) for factor, _ in sides)
    cell_norm = cell.norms.get("cell")
    if cell_norm is not None:
        sides.append(cell_norm.affine())
        steps = max(steps, len(sides[2][0]))
    sides = [(_to_steps(factor, steps), _to_steps(shift, steps)) for factor, shift in sides]
    row["steps"] = steps
    row["new_shift"] = row["factor_cell"] = row["shift_cell"] = NOWHERE
    row["factor_ih"], row["factor_hh"] = builder.put(sides[0][0]), builder.put(sides[1][0])
    shift, recurrent = sides[0][1].copy(), sides[1][1].copy()
    if cell.bias is not None:
        shift += cell.bias[: groups * gates]
        if len(cell.bias) > groups * gates:
            recurrent[:, -1] += cell.bias[-1]
    if config.cell.separate:
        # The reset gate stands between the two sides of the last gate.
        row["new_shift"] = builder.put(recurrent[:, -1])
        recurrent[:, -1] = 0
    row["shift"] = builder.put(shift + recurrent)
    if cell_norm is not None:
        row["factor_cell"], row["shift_cell"] = (builder.put(array) for array in sides[2])
    for key in ("ih", "hh", "cell"):
        norm = cell.norms.get(key)
        row[f"norm_{key}"], row[f"eps_{key}"] = _moments(norm), 0.0 if norm is None else norm.eps


def _to_steps(array: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
    return array[np.minimum(np.arange(steps), len(array) - 1)]


def _moments(norm: PackedNorm | None) -> int:
    if norm is None or norm.statistics == "batch":
        return NO_NORM
    return LAYER if norm.centered else RMS
