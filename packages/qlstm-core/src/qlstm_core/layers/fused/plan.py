"""What a fused run computes, apart from the tensors that have gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from qlstm_core.layers.cell import GRU_CELL, LSTM_CELL, Cell
from qlstm_core.layers.norm_contract import Norm
from qlstm_core.layers.packing import Packing

FUSED_CELLS = frozenset({LSTM_CELL, GRU_CELL})
"""The cells whose gradient is written by hand."""


class Arguments(NamedTuple):
    """The tensors of a fused run that may have gradients, with S = groups · gates segments.

    Args:
        input: what the input weight multiplies, ``(N, features)``, or, without ``weight_x``, a table of input
            pre-activations, ``(rows, S, units)``.
        weight_x: ``(S · units, features)``.
        bias_x, bias_h: ``(S, units)``, added to the two sides after normalisation.
        gain_x, gain_h: ``(S, units)``.
        gain_c, bias_c: ``(groups, units)``.
        projection: ``(proj, hidden)``.
        h, c: initial state, ``(batch, out)`` and ``(batch, hidden)``; no c for the GRU.
        recurrent, inner: what :func:`qlstm_core.layers.fused.recurrent_product.weights` returns.
    """

    input: Tensor
    weight_x: Tensor | None
    bias_x: Tensor | None
    bias_h: Tensor | None
    gain_x: Tensor | None
    gain_h: Tensor | None
    gain_c: Tensor | None
    bias_c: Tensor | None
    projection: Tensor | None
    h: Tensor
    c: Tensor | None
    recurrent: Tensor
    inner: Tensor | None

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """The recurrent weight, one matrix or two."""
        return (self.recurrent,) if self.inner is None else (self.recurrent, self.inner)


CHUNK = 1 << 21
"""Pre-activations of a chunk, at least: 8 MiB in float32."""


class Chunk(NamedTuple):
    """Consecutive steps, in the order of processing, and the rows of the sequence that they take.

    The large matrix products go over one chunk at a time: enough rows for the products to run at full speed,
    few enough for their operands to stay in the cache and not to need memory for the whole sequence.
    """

    counts: range
    first: int
    last: int


@dataclass(frozen=True)
class Plan:
    """One layer in one direction over one batch of sequences.

    Args:
        cell: the equations, one of ``FUSED_CELLS``.
        groups, units: the hidden state is ``groups`` times ``units`` features.
        batch_sizes: how many sequences are alive at each time step; never increasing.
        reverse: from the last step to the first.
        norm_x, norm_h, norm_c: the normalisers.
        tokens: which row of the table each row of the sequence takes, ``(N,)``; ``None``: its own.
        packing: which weights are multiplied as packed bits; ``None``: none.
    """

    cell: Cell
    groups: int
    units: int
    batch_sizes: tuple[int, ...]
    reverse: bool
    norm_x: Norm | None
    norm_h: Norm | None
    norm_c: Norm | None
    tokens: Tensor | None
    packing: Packing | None = None

    @property
    def gates(self) -> int:
        """Gates of the cell."""
        return len(self.cell.gates)

    @property
    def segments(self) -> int:
        """Segments of a row of pre-activations."""
        return self.groups * self.gates

    @property
    def hidden(self) -> int:
        """Features of the hidden state, before a projection."""
        return self.groups * self.units

    @property
    def rows(self) -> int:
        """Rows of the whole sequence."""
        return sum(self.batch_sizes)

    @property
    def over_batch(self) -> bool:
        """Whether statistics are over the batch."""
        return any(n is not None and n.statistics == "batch" for n in (self.norm_x, self.norm_h, self.norm_c))

    def order(self) -> list[tuple[int, int]]:
        """Return ``(first row, sequences alive)`` of each step, in the order of processing."""
        steps, row = [], 0
        for size in self.batch_sizes:
            steps.append((row, size))
            row += size
        return steps[::-1] if self.reverse else steps

    def chunks(self) -> list[Chunk]:
        """Split the steps into chunks of at least ``CHUNK`` pre-activations, but for the last."""
        steps = self.order()
        rows = max(1, CHUNK // (self.segments * self.units))
        chunks, start = [], 0
        while start < len(steps):
            end, total = start, 0
            while end < len(steps) and total < rows:
                total += steps[end][1]
                end += 1
            first = min(steps[start][0], steps[end - 1][0])
            chunks.append(Chunk(range(start, end), first, first + total))
            start = end
        return chunks
