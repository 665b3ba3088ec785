"""One time step, apart from the matrix products, by Numba kernels: for CPUs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from qlstm_core.layers.fused import columns, rows
from qlstm_core.layers.fused.features import LAYER, NO_NORM, RMS
from qlstm_core.layers.fused.plan import Norm, Plan
from qlstm_core.layers.fused.tape import Scales, Sums, Tape


def _code(norm: Norm | None) -> int:
    return NO_NORM if norm is None else LAYER if norm.centered else RMS


def _arrays(moments: tuple[Tensor, Tensor]) -> tuple[Any, Any]:
    return moments[0].numpy(), moments[1].numpy()


class CompiledPass:
    """The two passes over a step; methods as :class:`qlstm_core.layers.fused.passes.Pass` has them."""

    def __init__(self, plan: Plan, scales: Scales, tape: Tape) -> None:
        self.plan = plan
        index = torch.arange(plan.rows) if plan.tokens is None else plan.tokens.long()
        self.index = index.numpy()
        gain_x, gain_h, bias_x, bias_h, self.gain_c, self.bias_c = (t.unsqueeze(0).numpy() for t in scales)
        self.scales = (gain_x, gain_h, bias_x, bias_h)
        self.kernels: Any = columns if plan.over_batch else rows
        self.units = plan.units
        self.order = np.arange(plan.rows)
        self.gain_x = gain_x
        self.p, self.previous = tape.p.numpy(), tape.previous.numpy()
        self.p_moments = _arrays(tape.p_moments)
        self.c_moments = _arrays(tape.c_moments)
        self.x_moments = _arrays(tape.x_moments)
        norms = (plan.norm_x, plan.norm_h, plan.norm_c)
        self.norms = [_code(n) for n in norms]
        self.eps = np.array([0.0 if n is None else n.eps for n in norms])
        self.training = [n is not None and n.training for n in norms]

    def _flags(self, outputs: bool, hidden: bool) -> Any:
        return np.array(
            [*(self.training if self.plan.over_batch else self.norms), outputs, hidden], dtype=np.int64
        )

    def read_input(self, x: Tensor, first: int) -> None:
        """See Pass."""
        self.x, self.x_row = x.numpy(), first
        if not self.plan.over_batch:
            mean, scale = x.new_empty(x.shape[:2]), x.new_empty(x.shape[:2])
            self.x_moments = _arrays((mean, scale))
            rows.input_moments(self.x, self._flags(False, False), self.eps, *self.x_moments)

    def start_forward(self, c: Tensor, h: Tensor, y: Tensor) -> None:
        """See Pass."""
        self.c, self.h, self.y = c.numpy(), h.numpy(), y.numpy()
        self.flags = self._flags(len(y) > 0, False)

    def forward(self, count: int, size: int, row: int, slot: int) -> None:
        """See Pass."""
        input_side = (self.x, self.index, self.x_row, *self.x_moments)
        sides = (*input_side, self.p, *self.p_moments, *self.scales, self.flags, self.eps, self.previous)
        place = (
            (0, self.units, size, count, row, slot, self.order)
            if self.plan.over_batch
            else (0, size, row, slot)
        )
        if self.plan.family == "lstm":
            self.kernels.lstm_forward(
                *place, *sides, self.c, *self.c_moments, self.gain_c, self.bias_c, self.h, self.y
            )
        else:
            self.kernels.gru_forward(*place, *sides, self.h, self.y)

    def start_backward(
        self, dy: Tensor, dh: Tensor, dc: Tensor, dx: Tensor, dp: Tensor, hidden: Tensor
    ) -> None:
        """See Pass."""
        self.dy, self.dh, self.dc = dy.numpy(), dh.numpy(), dc.numpy()
        self.dx, self.dp, self.hidden = dx.numpy(), dp.numpy(), hidden.numpy()
        self.flags = self._flags(len(dy) > 0, len(hidden) > 0)
        self.sums = Sums.new(self.plan, dh, 1)
        self._sums = [t.flatten(0, 1).numpy() for t in self.sums]

    def backward(self, count: int, size: int, row: int, first: int) -> None:
        """See Pass."""
        input_side = (self.x, self.index, self.x_row, *self.x_moments)
        sides = (*input_side, self.p, *self.p_moments, *self.scales, self.flags, self.eps, self.previous)
        place = (0, self.units, size, count, row, self.order) if self.plan.over_batch else (0, size, 0, row)
        if self.plan.family == "lstm":
            self.kernels.lstm_backward(
                *place, *sides, *self.c_moments, self.gain_c, self.bias_c,
                self.dy, self.dh, self.dc, first, self.dx, self.dp, self.hidden, *self._sums,
            )  # fmt: skip
        else:
            self.kernels.gru_backward(
                *place, *sides, self.dy, self.dh, first, self.dx, self.dp, self._sums[0]
            )

    def input_back(self, d: Tensor) -> None:
        """See Pass."""
        if not self.plan.over_batch and self.plan.norm_x is not None:
            rows.input_back(d.numpy(), self.x, *self.x_moments, self.gain_x, self.flags, self._sums[0])

    def scatter(self, d: Tensor, first: int, table: Tensor) -> None:
        """See Pass."""
        rows.scatter(d.numpy(), self.index[first : first + len(d)], table.numpy())
