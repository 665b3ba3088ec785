"""Who runs a time step, apart from the matrix products."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Protocol

from torch import Tensor

from qlstm_core.layers.fused.plan import Plan
from qlstm_core.layers.fused.tape import Scales, Sums, Tape
from qlstm_core.layers.fused.torch_pass import TorchPass


class Pass(Protocol):
    """Normalisation, gates and state of one step, forward and backward, on buffers that are given."""

    sums: Sums

    def read_input(self, x: Tensor, first: int) -> None:
        """Take the input side from ``x``, ``(rows, S, units)``.

        Tokens count its rows from 0; without tokens it has the rows of the sequence from ``first`` on.
        """
        ...

    def start_forward(self, c: Tensor, h: Tensor, y: Tensor) -> None:
        """Take the buffers of the state and the outputs.

        Args:
            c: cell state, ``(batch, groups, units)``; ignored for the GRU.
            h: hidden state before a projection, likewise.
            y: outputs, ``(rows, groups, units)``; no rows: not to be written.
        """
        ...

    def forward(self, count: int, size: int, row: int, slot: int) -> None:
        """Turn the state before a step, and the recurrent product on the tape, into the state after it.

        Args:
            count: how many steps were run before.
            size: how many sequences are alive.
            row: where they start among the rows of the sequence.
            slot: where they start on the tape.
        """
        ...

    def start_backward(
        self, dy: Tensor, dh: Tensor, dc: Tensor, dx: Tensor, dp: Tensor, hidden: Tensor
    ) -> None:
        """Take the buffers of the derivatives.

        Args:
            dy: with respect to the outputs, ``(rows, groups, units)``; no rows: they are in dh.
            dh, dc: with respect to the state, ``(batch, groups, units)``; dc is ignored for the GRU.
            dx: with respect to the input side, ``(…, S, units)``; complete only after :meth:`input_back`.
            dp: with respect to the recurrent product, likewise.
            hidden: h before a projection, ``(…, groups, units)``; no rows: not wanted.
        """
        ...

    def backward(self, count: int, size: int, row: int, first: int) -> None:
        """Turn dh and dc after a step into those before it, but for what goes through the recurrent product.

        Write dx, dp and hidden, where the row ``first`` of the sequence is row 0; add to :attr:`sums`.
        """
        ...

    def input_back(self, d: Tensor) -> None:
        """Complete dx, or a table that :meth:`scatter` made from it, in place, for the rows last read."""
        ...

    def scatter(self, d: Tensor, first: int, table: Tensor) -> None:
        """Add rows of ``d``, the sequence's from ``first`` on, to the rows of ``table`` that tokens name."""
        ...


def choose_pass(plan: Plan, scales: Scales, tape: Tape) -> Pass:
    """Return Numba kernels on a CPU, torch operations elsewhere."""
    if tape.p.device.type == "cpu" and find_spec("numba") is not None:
        from qlstm_core.layers.fused.compiled_pass import CompiledPass

        return CompiledPass(plan, scales, tape)
    return TorchPass(plan, scales, tape)
