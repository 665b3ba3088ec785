"""Who runs the time steps: the recurrent products, normalisation, gates and state, forward and backward."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from qlstm_core.layers.fused.plan import Chunk
from qlstm_core.layers.fused.tape import Sums


class Forward(NamedTuple):
    """The buffers of a forward run, with S = groups · gates segments.

    Args:
        h, c: the initial state, which becomes the final one, ``(batch, out)`` and ``(batch, hidden)``; for
            the GRU c is h.
        hidden: h before a projection, ``(batch, hidden)``; without projection h.
        y: outputs, ``(rows, out)``.
    """

    h: Tensor
    c: Tensor
    hidden: Tensor
    y: Tensor


class Backward(NamedTuple):
    """The buffers of a backward run; the rows of a chunk count from its first.

    Args:
        dy: derivatives with respect to the outputs, ``(rows, out)``.
        dh, dc: with respect to the final state, which become those of the initial state; for the GRU dc is
            dh.
        d_hidden: with respect to h before a projection, ``(batch, hidden)``; without projection dh.
        dx: written: of a chunk, with respect to the input side, ``(…, S, units)``; where that is given
            instead of computed, with respect to its normalised value.
        dp: written: with respect to the recurrent product, likewise.
        hidden: written: h before a projection, ``(…, hidden)``; without projection no rows.
        d_outputs: written: derivatives with respect to what the projection returns, ``(…, out)``; likewise.
        initial: whether dh is to become the derivative of the initial state too.
    """

    dy: Tensor
    dh: Tensor
    dc: Tensor
    d_hidden: Tensor
    dx: Tensor
    dp: Tensor
    hidden: Tensor
    d_outputs: Tensor
    initial: bool


class TimeSteps(Protocol):
    """All steps of a sequence, or of a chunk of it, on buffers that are given."""

    def forward(self, buffers: Forward, *, keep: bool) -> None:
        """Run the whole sequence; ``keep`` whether the tape has room for every row."""
        ...

    def start_backward(self, buffers: Backward) -> None:
        """Take the buffers of the derivatives."""
        ...

    def backward(self, chunk: Chunk) -> None:
        """Turn dh and dc after a chunk into those before it; write dx, dp, hidden and d_outputs."""
        ...

    def pull_input(self, d: Tensor, first: int, out: Tensor) -> None:
        """Write ``W_xᵀ d`` into the rows of ``out`` from ``first`` on, where the input side is a product."""
        ...

    def input_back(self, d: Tensor) -> None:
        """Turn derivatives with respect to the normalised given input side into those of itself, in place."""
        ...

    def scatter(self, d: Tensor, first: int, table: Tensor) -> None:
        """Add rows of ``d``, the sequence's from ``first`` on, to the rows of ``table`` that tokens name."""
        ...

    def gradients(self) -> Sums:
        """Return the gradients of gains and biases; after all chunks and :meth:`input_back`."""
        ...
