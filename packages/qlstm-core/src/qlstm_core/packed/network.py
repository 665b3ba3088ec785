"""What a packed network consists of, before it becomes arrays for the kernels or bytes of a file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from qlstm_core.bitplanes import BitPlanes
from qlstm_core.layers.cell import GRU_CELL, LSTM_CELL, Cell

PACKED_CELLS = {cell.name: cell for cell in (LSTM_CELL, GRU_CELL)}
"""The cells that the kernels know, by name."""

Floats = NDArray[np.float32]
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
        """Number of bytes of signs and scales."""
        return self.signs.nbytes + self.scales.nbytes

    def unpack(self) -> BitPlanes:
        """Return the bit planes, with float32 scales."""
        shape = (len(self.planes), *self.shape)
        flags = np.unpackbits(self.signs, count=math.prod(shape)).astype(bool).reshape(shape)
        scales, offset = self.levels()
        return BitPlanes(
            torch.from_numpy(flags),
            torch.from_numpy(scales),
            None if offset is None else torch.from_numpy(offset),
        )

    def levels(self) -> tuple[Floats, Floats | None]:
        """Return scales ``(planes, gates, 1 or rows)``, and the offset ``(gates, 1 or rows)`` or ``None``."""
        scales = np.stack([self._values(level) for level in self.planes])
        return scales, None if self.offset is None else self._values(self.offset)

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


Matrix = Bits | Floats
"""A weight, ``(gates, rows, cols)``: bits, or plain float32."""


def values_of(matrix: Matrix) -> Floats:
    """Return the values of a weight, ``(gates, rows, cols)`` float32."""
    if not isinstance(matrix, Bits):
        return matrix
    dense: Floats = matrix.unpack().dense().numpy()
    return dense


@dataclass(frozen=True)
class Config:
    """The sizes and options that shape a network.

    Args:
        cell: the equations, one of ``PACKED_CELLS``.
        input_size, hidden_size, num_layers, bias, batch_first, bidirectional, proj_size: those of the layer.
        groups: number of independent groups of each layer.
        rank: rank of factorized weights, else ``None``.
        labels: quantizers and normalisers as the layer shows them, for people to read.
    """

    cell: Cell
    input_size: int
    hidden_size: int
    num_layers: int = 1
    bias: bool = True
    batch_first: bool = False
    bidirectional: bool = False
    proj_size: int = 0
    groups: tuple[int, ...] = (1,)
    rank: int | None = None
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """Cell and form of the weights, in words."""
        kind = self.cell.name.upper()
        if self.rank is not None:
            return f"factorized {kind} of rank {self.rank}"
        if max(self.groups) > 1:
            return f"{kind} of {', '.join(map(str, self.groups))} groups"
        return kind

    @property
    def sizes(self) -> str:
        """Sizes in words."""
        words = [f"{self.input_size} inputs, {self.hidden_size} units"]
        if self.proj_size:
            words.append(f"projected to {self.proj_size}")
        words.append(f"{self.num_layers} layer{'s' if self.num_layers > 1 else ''}")
        if self.bidirectional:
            words.append("both directions")
        return ", ".join(words)

    @property
    def gates(self) -> int:
        """Number of gates of the cell."""
        return len(self.cell.gates)

    @property
    def output_size(self) -> int:
        """Number of features of the hidden state and of one direction's output."""
        return self.proj_size or self.hidden_size

    @property
    def directions(self) -> int:
        """1, or 2 when bidirectional."""
        return 2 if self.bidirectional else 1

    def cells(self) -> Iterator[tuple[int, int]]:
        """Yield every ``(layer, direction)``, in the order of the states."""
        for layer in range(self.num_layers):
            for direction in range(self.directions):
                yield layer, direction

    def layer_input_size(self, layer: int) -> int:
        """Number of features that a layer receives."""
        return self.input_size if layer == 0 else self.output_size * self.directions

    def shapes(self, layer: int) -> dict[str, tuple[int, int, int]]:
        """Return the ``(gates, rows, cols)`` of each matrix of one layer and direction."""
        hidden, out, gates = self.hidden_size, self.output_size, self.gates
        size = self.layer_input_size(layer)
        projection = {"hr": (1, self.proj_size, hidden)} if self.proj_size else {}
        if self.rank is not None:
            return {"outer": (gates, hidden, self.rank), "inner": (1, self.rank, size + out), **projection}
        k = self.groups[layer]
        return {
            "ih": (gates * k, hidden // k, size // k),
            "hh": (gates * k, hidden // k, out // k),
            **projection,
        }


@dataclass(frozen=True)
class PackedNorm:
    """A normaliser of activations as it is stored: ``gain ⊙ (x − μ) / √(v + eps) + bias``.

    :class:`qlstm_core.layers.norm_contract.Norm` is what a living normaliser promises, whose running
    statistics training updates; this is the whole of one in ``eval()``, gain and bias included, as float32
    arrays.

    Args:
        statistics: ``"features"``: moments of each segment as it comes; ``"batch"``: those kept in training.
        centered: whether μ is subtracted.
        eps: added to the variance.
        gain: ``(segments, units)``.
        bias: ``(segments, units)``, or ``None``.
        running: mean and variance, ``(steps, segments, units)`` each, of ``"batch"``; step t uses row
            ``min(t, steps − 1)``.
    """

    statistics: Literal["features", "batch"]
    centered: bool
    eps: float
    gain: Floats
    bias: Floats | None
    running: tuple[Floats, Floats] | None = None

    def affine(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return what follows the moments: factor and shift, ``(steps, segments, units)``."""
        gain = self.gain.astype(np.float64)[None]
        bias = np.zeros_like(gain) if self.bias is None else self.bias.astype(np.float64)[None]
        if self.running is None:
            return gain, bias
        mean, var = (r.astype(np.float64) for r in self.running)
        factor = gain / np.sqrt(var + self.eps)
        return factor, bias - mean * factor


@dataclass(frozen=True)
class PackedCell:
    """One layer in one direction.

    Args:
        matrices: by the keys of :meth:`Config.shapes`.
        factors: ``"ih"``, ``"hh"`` → ``(segments, units)``, with which a normaliser of weights multiplies the
            rows.
        norms: ``"ih"``, ``"hh"``, ``"cell"`` → normalisers of activations.
        bias: added after normalisation, ``(segments, units)``; of a GRU without normaliser ``(4, units)``,
            whose last row stands inside the reset gate's product. ``None`` without bias.
    """

    matrices: dict[str, Matrix]
    factors: dict[str, Floats]
    norms: dict[str, PackedNorm]
    bias: Floats | None

    def tensors(self) -> dict[str, Any]:
        """Return every array but the matrices', by name."""
        found: dict[str, Any] = {f"factor_{key}": factor for key, factor in self.factors.items()}
        for key, norm in self.norms.items():
            found[f"norm_{key}.gain"] = norm.gain
            if norm.bias is not None:
                found[f"norm_{key}.bias"] = norm.bias
            if norm.running is not None:
                found[f"norm_{key}.mean"], found[f"norm_{key}.var"] = norm.running
        if self.bias is not None:
            found["bias"] = self.bias
        return found


@dataclass(frozen=True)
class Network:
    """A whole network: what is packed, stored and run."""

    config: Config
    cells: tuple[PackedCell, ...]

    @property
    def float32_nbytes(self) -> int:
        """Bytes of the network with every weight as float32."""
        weights = sum(4 * math.prod(m.shape) for cell in self.cells for m in cell.matrices.values())
        return weights + sum(int(one.nbytes) for cell in self.cells for one in cell.tensors().values())

    def with_floats(self) -> Network:
        """Return the same network with the values of its bits as float32."""
        cells = tuple(
            replace(cell, matrices={key: values_of(m) for key, m in cell.matrices.items()})
            for cell in self.cells
        )
        return Network(self.config, cells)
