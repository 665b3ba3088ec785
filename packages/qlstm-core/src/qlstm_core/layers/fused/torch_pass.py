"""One time step, apart from the matrix products, by torch operations: for GPUs and all else but CPUs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from qlstm_core.layers.fused.plan import Norm, Plan
from qlstm_core.layers.fused.tape import BIAS_C, BIAS_H, BIAS_X, GAIN_C, GAIN_H, GAIN_X, Scales, Sums, Tape

Rows = slice | Tensor


class _Normalized(NamedTuple):
    """One side of a step, ``(n, segments, units)``: ``value = gain ⊙ z + bias``, ``z = (p − μ) · scale``."""

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
        norm, (mean, spread) = self.norm, self.moments
        if norm is None:
            return
        if norm.statistics == "batch":
            if norm.training:
                spread[count], mean[count] = torch.var_mean(p, 0, correction=0)
        elif norm.centered:
            variance, mean[rows] = torch.var_mean(p, 2, correction=0)
            spread[rows] = torch.rsqrt(variance + norm.eps)
        else:
            mean[rows] = 0.0
            spread[rows] = torch.rsqrt(p.square().mean(2) + norm.eps)

    def normalize(self, p: Tensor, count: int, rows: Rows) -> _Normalized:
        """Normalise p with the moments of step ``count`` or of ``rows``."""
        norm, (mean, spread) = self.norm, self.moments
        z, scale = p, torch.ones_like(self.gain)
        if norm is not None and norm.statistics == "batch":
            scale = torch.rsqrt(spread[count] + norm.eps)
            z = (p - mean[count]) * scale
        elif norm is not None:
            scale = spread[rows].unsqueeze(2)
            z = (p - mean[rows].unsqueeze(2)) * scale
        return _Normalized(z * self.gain + self.bias, z, scale)

    def back(self, d: Tensor, side: _Normalized) -> Tensor:
        """Return ∂L/∂p from ``d``, ∂L/∂value."""
        norm, w = self.norm, d * self.gain
        if norm is None:
            return w
        if norm.statistics == "batch" and not norm.training:
            return w * side.scale
        axis = 0 if norm.statistics == "batch" else 2
        w = w - side.z * (w * side.z).mean(axis, keepdim=True)
        # Where z has mean 0 it takes nothing from the mean of w.
        return (w - w.mean(axis, keepdim=True) if norm.centered else w) * side.scale


class TorchPass:
    """The two passes over a step; methods as :class:`qlstm_core.layers.fused.passes.Pass` has them."""

    def __init__(self, plan: Plan, scales: Scales, tape: Tape) -> None:
        self.plan = plan
        self.tape = tape
        self.side_x = _Side(plan.norm_x, scales.gain_x, scales.bias_x, tape.x_moments)
        self.side_h = _Side(plan.norm_h, scales.gain_h, scales.bias_h, tape.p_moments)
        self.side_c = _Side(plan.norm_c, scales.gain_c, scales.bias_c, tape.c_moments)
        self.sums = Sums.new(plan, tape.p, 1)

    def read_input(self, x: Tensor, first: int) -> None:
        """See Pass."""
        self.x, self.first = x, first
        if not self.plan.over_batch:
            self.side_x.moments = (x.new_empty(x.shape[:2]), x.new_empty(x.shape[:2]))
            self.side_x.measure(x, 0, slice(None))

    def start_forward(self, c: Tensor, h: Tensor, y: Tensor) -> None:
        """See Pass."""
        self.c, self.h, self.y = c, h, y

    def start_backward(
        self, dy: Tensor, dh: Tensor, dc: Tensor, dx: Tensor, dp: Tensor, hidden: Tensor
    ) -> None:
        """See Pass."""
        self.dy, self.dh, self.dc, self.dx, self.dp, self.hidden = dy, dh, dc, dx, dp, hidden

    def _input_rows(self, row: int, size: int) -> Rows:
        if self.plan.tokens is not None:
            return self.plan.tokens[row : row + size]
        return slice(row - self.first, row - self.first + size)

    def forward(self, count: int, size: int, row: int, slot: int) -> None:
        """See Pass."""
        rows, from_x = slice(slot, slot + size), self._input_rows(row, size)
        p, x, h = self.tape.p[rows], self.x[from_x], self.h[:size]
        self.side_h.measure(p, count, rows)
        if self.plan.over_batch:
            self.side_x.measure(x, count, from_x)
        xs = self._split(self.side_x.normalize(x, count, from_x).value)
        hs = self._split(self.side_h.normalize(p, count, rows).value)
        if self.plan.family == "lstm":
            c = self.c[:size]
            i, f, g, o = (xs + hs).unbind(2)
            self.tape.previous[rows] = c
            c.copy_(f.sigmoid() * c + i.sigmoid() * g.tanh())
            self.side_c.measure(c, count, rows)
            h.copy_(o.sigmoid() * self.side_c.normalize(c, count, rows).value.tanh())
        else:
            self.tape.previous[rows] = h
            _, update, new = _gru_gates(xs, hs)
            h.copy_(new + update * (h - new))
        if len(self.y):
            self.y[row : row + size] = h

    def backward(self, count: int, size: int, row: int, first: int) -> None:
        """See Pass."""
        rows, from_x = slice(row, row + size), self._input_rows(row, size)
        to = slice(row - first, row - first + size)
        previous, dh = self.tape.previous[rows], self.dh[:size]
        side_x = self.side_x.normalize(self.x[from_x], count, from_x)
        side_h = self.side_h.normalize(self.tape.p[rows], count, rows)
        xs, hs = self._split(side_x.value), self._split(side_h.value)
        if len(self.dy):
            dh += self.dy[rows]
        if self.plan.family == "lstm":
            dx = dp = self._lstm_back(xs + hs, previous, dh, self.dc[:size], count, rows, to)
        else:
            dx, dp = _gru_back(xs, hs, previous, dh)
        sides = self.sums.sides[0]
        for d, side, bias, gain in ((dx, side_x, BIAS_X, GAIN_X), (dp, side_h, BIAS_H, GAIN_H)):
            sides[bias] += d.sum(0)
            sides[gain] += (d * side.z).sum(0)
        self.dx[to] = self.side_x.back(dx, side_x)
        self.dp[to] = self.side_h.back(dp, side_h)

    def _split(self, p: Tensor) -> Tensor:
        """View ``(n, S, units)`` as ``(n, groups, gates, units)``."""
        return p.view(len(p), self.plan.groups, self.plan.gates, -1)

    def _lstm_back(
        self, p: Tensor, previous: Tensor, dh: Tensor, dc: Tensor, count: int, rows: slice, to: slice
    ) -> Tensor:
        i, f, g, o = p.unbind(2)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        side_c = self.side_c.normalize(f * previous + i * g, count, rows)
        squashed = side_c.value.tanh()
        if len(self.hidden):
            self.hidden[to] = o * squashed
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
        return torch.stack(gates, 2).flatten(1, 2)

    def input_back(self, d: Tensor) -> None:
        """See Pass."""

    def scatter(self, d: Tensor, first: int, table: Tensor) -> None:
        """See Pass."""
        assert self.plan.tokens is not None
        table.index_add_(0, self.plan.tokens[first : first + len(d)], d)


def _gru_gates(xs: Tensor, hs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    reset, update = (xs[:, :, :2] + hs[:, :, :2]).sigmoid().unbind(2)
    return reset, update, (xs[:, :, 2] + reset * hs[:, :, 2]).tanh()


def _gru_back(xs: Tensor, hs: Tensor, previous: Tensor, dh: Tensor) -> tuple[Tensor, Tensor]:
    """Return the derivatives of both sides' values; ``dh`` becomes what goes to the state before directly."""
    reset, update, new = _gru_gates(xs, hs)
    d_new = dh * (1 - update) * (1 - new * new)
    d_reset = d_new * hs[:, :, 2] * reset * (1 - reset)
    d_update = dh * (previous - new) * update * (1 - update)
    dh *= update
    dx = torch.stack((d_reset, d_update, d_new), 2).flatten(1, 2)
    dp = torch.stack((d_reset, d_update, d_new * reset), 2).flatten(1, 2)
    return dx, dp
