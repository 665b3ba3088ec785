"""The time steps by Numba kernels: for CPUs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from qlstm_core.layers.fused import rows
from qlstm_core.layers.fused.passes import Backward, Forward
from qlstm_core.layers.fused.plan import Arguments, Chunk, Norm, Plan
from qlstm_core.layers.fused.steps import BACKWARD, FORWARD
from qlstm_core.layers.fused.tape import Scales, Sums, Tape
from qlstm_core.layers.fused.threads import parts_worth, share_work
from qlstm_core.layers.fused.tiles import pack
from qlstm_core.moments import LAYER, NO_NORM, RMS

CACHED = 1 << 17
"""Elements of a recurrent weight that a processor has in its own cache, beside all else."""


def _code(norm: Norm | None) -> int:
    return NO_NORM if norm is None else LAYER if norm.centered else RMS


def _arrays(moments: tuple[Tensor, Tensor]) -> tuple[Any, Any]:
    return moments[0].numpy(), moments[1].numpy()


class CompiledPass:
    """All steps; methods as :class:`qlstm_core.layers.fused.passes.Pass` has them."""

    def __init__(self, plan: Plan, arguments: Arguments, tape: Tape) -> None:
        self.plan = plan
        self.arguments = arguments
        scales = Scales.of(plan, arguments)
        gain_x, gain_h, bias_x, bias_h, self.gain_c, self.bias_c = (t.unsqueeze(0).numpy() for t in scales)
        self.gain_x = gain_x
        norms = (plan.norm_x, plan.norm_h, plan.norm_c)
        self.norms = [_code(n) for n in norms]
        self.eps = np.array([0.0 if n is None else n.eps for n in norms])
        self.training = [n is not None and n.training for n in norms]
        self.steps = np.array(plan.order(), dtype=np.int64)
        self.meeting = np.zeros(1, dtype=np.int64)
        self.parts = self._parts()
        self._read_input(tape)
        self.p2 = tape.p.flatten(1).numpy()
        self.c_side = (*_arrays(tape.c_moments), self.gain_c, self.bias_c)
        # What follows the input side, in forward and backward passes alike, up to the flags.
        self.sides = (tape.p.numpy(), *_arrays(tape.p_moments), gain_x, gain_h, bias_x, bias_h)
        self.previous = tape.previous.numpy()

    def _read_input(self, tape: Tape) -> None:
        plan, given = self.plan, self.arguments.weight_x is None
        index = torch.arange(plan.rows, device="cpu") if plan.tokens is None else plan.tokens.long()
        x = self.arguments.input if given else tape.x
        self.fresh = not given and len(x) == 0
        if self.fresh:
            x = tape.p.new_empty(plan.batch_sizes[0], plan.segments, plan.units)
        moments = tape.x_moments
        if not plan.over_batch and len(moments[0]) == 0:
            moments = (x.new_empty(x.shape[:2]), x.new_empty(x.shape[:2]))
        self.x2 = x.flatten(1).numpy()
        self.inputs = self.arguments.input.flatten(1).numpy()
        self.input_side = (x.numpy(), index.numpy(), *_arrays(moments))
        if given and not plan.over_batch:
            rows.input_moments(x.numpy(), self.norms[0], self.eps[0], *_arrays(moments))

    def _parts(self) -> int:
        """Into how many parts of the batch, or of the units, the work is worth dividing."""
        plan = self.plan
        work = plan.rows * plan.segments * plan.units * self.arguments.h.shape[1]
        room = plan.units // 16 if plan.over_batch else plan.batch_sizes[0] // 8
        return parts_worth(work, room)

    def _part(self, part: int) -> tuple[int, int, int, int]:
        """Return the part, how many there are, and where its rows or units begin and end; in that order."""
        whole = self.plan.units if self.plan.over_batch else self.plan.batch_sizes[0]
        grain = 16 if self.plan.over_batch else 1
        begin, end = (whole * k // self.parts // grain * grain for k in (part, part + 1))
        return part, self.parts, begin, whole if part + 1 == self.parts else end

    def _shares(self, part: int) -> tuple[int, int, int, int]:
        """As :meth:`_part`, but for products of all rows at once where the weight is too large to share.

        Each processor then keeps its own columns of it in its cache; otherwise parts never wait for another.
        """
        number, parts, begin, end = self._part(part)
        alone = sum(t.numel() for t in self.arguments.weights) < CACHED
        return (0, 1, begin, end) if alone else (number, parts, begin, end)

    def _flags(self, outputs: bool, hidden: bool) -> Any:
        first = self.training if self.plan.over_batch else self.norms
        return np.array([*first, outputs, hidden], dtype=np.int64)

    def _between(self) -> Any:
        inner, h = self.arguments.inner, self.arguments.h
        return h.new_empty(len(h), 1 if inner is None else len(inner)).numpy()

    def _by_units(self, rows: Tensor) -> Any:
        return rows.view(-1, self.plan.groups, self.plan.units).numpy()

    def forward(self, buffers: Forward, *, keep: bool) -> None:
        """See Pass."""
        plan, given = self.plan, self.arguments
        first, second = (given.recurrent, None) if given.inner is None else (given.inner, given.recurrent)
        h, c, hidden, y = buffers
        products = (
            self.inputs, pack(given.weight_x, h, transposed=True), self.x2, h.numpy(),
            pack(first, h, transposed=True), pack(second, h, transposed=True), self._between(), self.p2,
            pack(given.projection, h, transposed=True), hidden.numpy(), y.numpy(),
        )  # fmt: skip
        outputs = y if given.projection is None else y[:0]
        c_side = (self._by_units(c), *self.c_side) if plan.family == "lstm" else ()
        rest = (
            *self.sides, self._flags(len(outputs) > 0, False), self.eps, self.previous, *c_side,
            self._by_units(hidden), self._by_units(outputs if len(outputs) else hidden[:0]),
        )  # fmt: skip
        loop = FORWARD[plan.over_batch, plan.family]
        loop_args = (self.steps, keep, self.fresh, self.meeting, *products)
        if plan.over_batch:
            order = np.arange(plan.rows)
            share_work(
                self.parts,
                lambda part: loop(*self._part(part), *loop_args, order, *self.input_side, *rest),
            )
        else:
            norm = (self.norms[0], self.eps[0])
            share_work(
                self.parts,
                lambda part: loop(*self._shares(part), *loop_args, *norm, *self.input_side, *rest),
            )

    def start_backward(self, buffers: Backward) -> None:
        """See Pass."""
        plan, given = self.plan, self.arguments
        self.sums = Sums.new(plan, buffers.dh, self.parts)
        sums = [t.flatten(0, 1).numpy() for t in self.sums]
        first, second = (given.recurrent, None) if given.inner is None else (given.recurrent, given.inner)
        dy, dh, dc, d_hidden, dx, dp, hidden, d_outputs, initial = buffers
        self.products = (
            self.inputs, pack(given.weight_x if self.fresh else None, dh, transposed=True), self.x2,
            dp.flatten(1).numpy(),
            pack(first, dh), pack(second, dh), self._between(), dh.numpy(), initial,
            pack(given.projection, dh), d_hidden.numpy(), d_outputs.numpy(), dy.numpy(),
        )  # fmt: skip
        projected = given.projection is not None
        self.flags = self._flags(not projected, projected)
        state: tuple[Any, ...] = (self._by_units(d_hidden),)
        c_side: tuple[Any, ...] = ()
        if plan.family == "lstm":
            state, c_side = (*state, self._by_units(dc)), self.c_side
        self.rest = (*self.sides, self.flags, self.eps, self.previous, *c_side)
        self.rest += (self._by_units(dy if not projected else hidden[:0]), *state)
        self.written = (dx.numpy(), dp.numpy())
        self.after = (self._by_units(hidden), *sums) if plan.family == "lstm" else (sums[0],)
        self.order = np.arange(plan.rows)

    def backward(self, chunk: Chunk) -> None:
        """See Pass."""
        plan = self.plan
        dx, dp = self.written
        steps = (chunk.counts.start, chunk.counts.stop, self.steps, self.fresh, self.meeting)
        rest = (*self.input_side, *self.rest, chunk.first, dx, dp, *self.after)
        loop = BACKWARD[plan.over_batch, plan.family]
        if plan.over_batch:
            share_work(
                self.parts,
                lambda part: loop(*self._part(part), *steps, *self.products, chunk.first, self.order, *rest),
            )
        else:
            own_x = self.arguments.weight_x is not None
            norm = (own_x, self.norms[0], self.eps[0], self.gain_x, dx, self.sums.sides.flatten(0, 1).numpy())

            share_work(
                self.parts,
                lambda part: loop(
                    part, *self._shares(part), *steps, *self.products, chunk.first, *norm, *rest
                ),
            )

    def input_back(self, d: Tensor) -> None:
        """See Pass."""
        if not self.plan.over_batch and self.plan.norm_x is not None:
            x, _, mean, scale = self.input_side
            sums = self.sums.sides[0].numpy()
            rows.input_back(d.numpy(), x, mean, scale, self.gain_x, self.norms[0], sums)

    def scatter(self, d: Tensor, first: int, table: Tensor) -> None:
        """See Pass."""
        rows.scatter(d.numpy(), self.input_side[1][first : first + len(d)], table.numpy())

    def gradients(self) -> Sums:
        """See Pass."""
        return self.sums
