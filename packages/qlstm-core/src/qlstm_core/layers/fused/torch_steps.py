"""The time steps by torch operations: for GPUs and all else but CPUs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from qlstm_core.layers.cell import GRU_CELL, LSTM_CELL, Cell
from qlstm_core.layers.fused.compiled.operands import BIAS_C, BIAS_H, BIAS_X, GAIN_C, GAIN_H, GAIN_X
from qlstm_core.layers.fused.plan import Arguments, Chunk, Plan
from qlstm_core.layers.fused.recurrent_product import product, write_product
from qlstm_core.layers.fused.steps import Backward, Forward
from qlstm_core.layers.fused.tape import Scales, Sums, Tape
from qlstm_core.layers.norm_contract import Norm

Rows = slice | Tensor


class _Normalized(NamedTuple):
    """One side of a step, ``(n, segments, units)``: ``value = gain ⊙ z + bias``, ``z = (p − μ) ⊙ scale``."""

    value: Tensor
    z: Tensor
    scale: Tensor


class _Side:
    """Normalises the input side, the recurrent side or the cell state, with moments on the tape."""

    def __init__(self, norm: Norm | None, gain: Tensor, bias: Tensor, moments: tuple[Tensor, Tensor]) -> None:
        self.norm = norm
        self.gain = gain
        self.bias = bias
        self.moments = moments

    def measure(self, p: Tensor, count: int, rows: Rows) -> None:
        """Write the moments of p, for step ``count`` or for ``rows``; nothing where they are given."""
        if self.norm is None or self.norm.uses_running:
            return
        at = count if self.norm.statistics == "batch" else rows
        for kept, measured in zip(self.moments, self.norm.measure(p), strict=True):
            kept[at] = measured.squeeze(self.norm.axis)

    def normalize(self, p: Tensor, count: int, rows: Rows) -> _Normalized:
        """Normalise p with the moments of step ``count`` or of ``rows``."""
        z, scale = p, torch.ones_like(self.gain)
        if (norm := self.norm) is not None:
            at = count if norm.statistics == "batch" else rows
            mean, var = (kept[at].unsqueeze(norm.axis) for kept in self.moments)
            z, scale = norm.normalize(p, mean, var)
        return _Normalized(z * self.gain + self.bias, z, scale)

    def back(self, d: Tensor, side: _Normalized) -> Tensor:
        """Return ∂L/∂p from ``d``, ∂L/∂value."""
        d = d * self.gain
        return d if self.norm is None else self.norm.pull_back(d, side.z, side.scale)


class TorchSteps(ABC):
    """All steps but for the gates; methods as :class:`qlstm_core.layers.fused.steps.TimeSteps` has them.

    Attributes:
        direct: whether a step's h also goes back to the one before without a product, to which that adds.
    """

    direct: ClassVar[bool]

    def __init__(self, plan: Plan, arguments: Arguments, tape: Tape) -> None:
        scales = Scales.of(plan, arguments)
        self.plan = plan
        self.arguments = arguments
        self.tape = tape
        self.steps = plan.order()
        self.recurrent = product(arguments.weights)
        self.side_x = _Side(plan.norm_x, scales.gain_x, scales.bias_x, tape.x_moments)
        self.side_h = _Side(plan.norm_h, scales.gain_h, scales.bias_h, tape.p_moments)
        self.side_c = _Side(plan.norm_c, scales.gain_c, scales.bias_c, tape.c_moments)
        if arguments.weight_x is None:
            self._read_input(arguments.input, 0)

    def _multiply_input(self, chunk: Chunk) -> None:
        """Compute the input side of a chunk, where it is not given."""
        weight = self.arguments.weight_x
        if weight is not None:
            x = self.arguments.input[chunk.first : chunk.last] @ weight.t()
            self._read_input(x.view(-1, self.plan.segments, self.plan.units), chunk.first)

    def _read_input(self, x: Tensor, first: int) -> None:
        self.x, self.first = x, first
        if not self.plan.over_batch:
            self.side_x.moments = (x.new_empty(x.shape[:2]), x.new_empty(x.shape[:2]))
            self.side_x.measure(x, 0, slice(None))

    def _by_units(self, rows: Tensor) -> Tensor:
        return rows.view(-1, self.plan.groups, self.plan.units)

    def forward(self, buffers: Forward, *, keep: bool) -> None:
        """See TimeSteps."""
        h, c, hidden, y = buffers
        projection = self.arguments.projection
        products = self.tape.p.flatten(1)
        for chunk in self.plan.chunks():
            self._multiply_input(chunk)
            for count in chunk.counts:
                row, size = self.steps[count]
                slot = row if keep else 0
                self.recurrent.apply(h[:size], products[slot : slot + size])
                self._step(self._by_units(hidden), self._by_units(c), count, size, row, slot)
                if projection is not None:
                    torch.mm(hidden[:size], projection.t(), out=h[:size])
                y[row : row + size] = h[:size]

    def start_backward(self, buffers: Backward) -> None:
        """See TimeSteps."""
        self.buffers = buffers
        self.sums = Sums.new(self.plan, buffers.dh, 1)

    def backward(self, chunk: Chunk) -> None:
        """See TimeSteps."""
        projection, buffers = self.arguments.projection, self.buffers
        self._multiply_input(chunk)
        for count in reversed(chunk.counts):
            row, size = self.steps[count]
            own = slice(row - chunk.first, row - chunk.first + size)
            dh = buffers.dh[:size]
            dh += buffers.dy[row : row + size]
            if projection is not None:
                buffers.d_outputs[own] = dh
                torch.mm(dh, projection, out=buffers.d_hidden[:size])
            self._step_back(count, size, row, chunk.first)
            if count or buffers.initial:
                self.recurrent.pull(buffers.dp[own].flatten(1), dh, add=self.direct)

    def _input_rows(self, row: int, size: int) -> Rows:
        if self.plan.tokens is not None:
            return self.plan.tokens[row : row + size]
        return slice(row - self.first, row - self.first + size)

    def _step(self, hidden: Tensor, cell: Tensor, count: int, size: int, row: int, slot: int) -> None:
        """Turn the state before a step, and the recurrent product on the tape, into the state after it."""
        rows, from_x = slice(slot, slot + size), self._input_rows(row, size)
        p, x, h = self.tape.p[rows], self.x[from_x], hidden[:size]
        self.side_h.measure(p, count, rows)
        if self.plan.over_batch:
            self.side_x.measure(x, count, from_x)
        xs = self._split(self.side_x.normalize(x, count, from_x).value)
        hs = self._split(self.side_h.normalize(p, count, rows).value)
        self._gates(xs, hs, h, cell[:size], count, rows)

    def _step_back(self, count: int, size: int, row: int, first: int) -> None:
        """Turn the derivatives after a step into those before it, but for the recurrent product."""
        rows, from_x = slice(row, row + size), self._input_rows(row, size)
        to = slice(row - first, row - first + size)
        previous, dh = self.tape.previous[rows], self._by_units(self.buffers.d_hidden)[:size]
        side_x = self.side_x.normalize(self.x[from_x], count, from_x)
        side_h = self.side_h.normalize(self.tape.p[rows], count, rows)
        xs, hs = self._split(side_x.value), self._split(side_h.value)
        dc = self._by_units(self.buffers.dc)[:size]
        dx, dp = self._gates_back(xs, hs, previous, dh, dc, count, rows, to)
        sides = self.sums.sides[0]
        for d, side, bias, gain in ((dx, side_x, BIAS_X, GAIN_X), (dp, side_h, BIAS_H, GAIN_H)):
            sides[bias] += d.sum(0)
            sides[gain] += (d * side.z).sum(0)
        self.buffers.dx[to] = self.side_x.back(dx, side_x)
        self.buffers.dp[to] = self.side_h.back(dp, side_h)

    def _split(self, p: Tensor) -> Tensor:
        """View ``(n, S, units)`` as ``(n, groups, gates, units)``."""
        return p.view(len(p), self.plan.groups, self.plan.gates, -1)

    def pull_input(self, d: Tensor, first: int, out: Tensor) -> None:
        """See TimeSteps."""
        assert self.arguments.weight_x is not None
        write_product(out[first : first + len(d)], d.flatten(1), self.arguments.weight_x)

    def input_back(self, d: Tensor) -> None:  # noqa: B027  # nothing is left to do: see _step_back
        """See TimeSteps."""

    def scatter(self, d: Tensor, first: int, table: Tensor) -> None:
        """See TimeSteps."""
        assert self.plan.tokens is not None
        table.index_add_(0, self.plan.tokens[first : first + len(d)], d)

    def gradients(self) -> Sums:
        """See TimeSteps."""
        return self.sums

    @abstractmethod
    def _gates(self, xs: Tensor, hs: Tensor, h: Tensor, c: Tensor, count: int, rows: slice) -> None:
        """Turn h and c, ``(n, groups, units)``, into those after the step; keep what the way back needs.

        Args:
            xs, hs: the two sides of the gates, ``(n, groups, gates, units)``.
            h, c: the state; for a cell without c, c is h.
            count: the step's number.
            rows: where its rows are on the tape.
        """

    @abstractmethod
    def _gates_back(
        self, xs: Tensor, hs: Tensor, previous: Tensor, dh: Tensor, dc: Tensor, count: int, rows: slice,
        to: slice,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Return the derivatives of both sides; turn dh and dc into what goes to the state before directly.

        Args:
            xs, hs: as of :meth:`_gates`.
            previous: what that kept of the state before.
            dh, dc: of the state after the step.
            count, rows: as of :meth:`_gates`.
            to: where the chunk has the step's rows.
        """


class LSTMSteps(TorchSteps):
    """The LSTM's gates."""

    direct = False

    def _gates(self, xs: Tensor, hs: Tensor, h: Tensor, c: Tensor, count: int, rows: slice) -> None:
        i, f, g, o = (xs + hs).unbind(2)
        self.tape.previous[rows] = c
        c.copy_(f.sigmoid() * c + i.sigmoid() * g.tanh())
        self.side_c.measure(c, count, rows)
        h.copy_(o.sigmoid() * self.side_c.normalize(c, count, rows).value.tanh())

    def _gates_back(
        self, xs: Tensor, hs: Tensor, previous: Tensor, dh: Tensor, dc: Tensor, count: int, rows: slice,
        to: slice,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        i, f, g, o = (xs + hs).unbind(2)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        side_c = self.side_c.normalize(f * previous + i * g, count, rows)
        squashed = side_c.value.tanh()
        if len(self.buffers.hidden):
            self._by_units(self.buffers.hidden)[to] = o * squashed
        d_value = dh * o * (1 - squashed * squashed)
        self.sums.cell[0, BIAS_C] += d_value.sum(0)
        self.sums.cell[0, GAIN_C] += (d_value * side_c.z).sum(0)
        dc += self.side_c.back(d_value, side_c)
        gates = (
            dc * g * i * (1 - i),
            dc * previous * f * (1 - f),
            dc * i * (1 - g * g),
            dh * squashed * o * (1 - o),
        )
        dc *= f
        d = torch.stack(gates, 2).flatten(1, 2)
        return d, d


class GRUSteps(TorchSteps):
    """The GRU's gates."""

    direct = True

    def _gates(self, xs: Tensor, hs: Tensor, h: Tensor, c: Tensor, count: int, rows: slice) -> None:
        self.tape.previous[rows] = h
        _, update, new = _gru_gates(xs, hs)
        h.copy_(new + update * (h - new))

    def _gates_back(
        self, xs: Tensor, hs: Tensor, previous: Tensor, dh: Tensor, dc: Tensor, count: int, rows: slice,
        to: slice,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        reset, update, new = _gru_gates(xs, hs)
        d_new = dh * (1 - update) * (1 - new * new)
        d_reset = d_new * hs[:, :, 2] * reset * (1 - reset)
        d_update = dh * (previous - new) * update * (1 - update)
        dh *= update
        dx = torch.stack((d_reset, d_update, d_new), 2).flatten(1, 2)
        dp = torch.stack((d_reset, d_update, d_new * reset), 2).flatten(1, 2)
        return dx, dp


def _gru_gates(xs: Tensor, hs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    reset, update = (xs[:, :, :2] + hs[:, :, :2]).sigmoid().unbind(2)
    return reset, update, (xs[:, :, 2] + reset * hs[:, :, 2]).tanh()


TORCH_STEPS: dict[Cell, type[TorchSteps]] = {LSTM_CELL: LSTMSteps, GRU_CELL: GRUSteps}
