"""A whole sequence of one layer in one direction as one autograd function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qlstm_core.layers.fused.passes import choose_pass
from qlstm_core.layers.fused.plan import Arguments, Chunk, Plan
from qlstm_core.layers.fused.products import product
from qlstm_core.layers.fused.replay import replay
from qlstm_core.layers.fused.tape import BIAS_C, BIAS_H, BIAS_X, GAIN_C, GAIN_H, GAIN_X, Scales, Tape

CHUNK = 1024
"""Rows of a chunk, at least."""


def run(plan: Plan, arguments: Arguments) -> tuple[Tensor, ...]:
    """Return the outputs, ``(N, out)``, and the final state."""
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in arguments):
        results: tuple[Tensor, ...] = _FusedSequence.apply(plan, *arguments)  # type: ignore[no-untyped-call]
        return results
    with torch.no_grad():
        tape = Tape.new(plan, arguments.h, plan.batch_sizes[0])
        return _Forward(plan, arguments, tape).run(keep=False)


class _FusedSequence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: Plan, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        arguments = Arguments(*tensors)  # type: ignore[arg-type]
        tape = Tape.new(plan, arguments.h, plan.rows)
        results = _Forward(plan, arguments, tape).run(keep=True)
        ctx.plan = plan
        ctx.save_for_backward(*tensors, results[0], *tape.tensors())
        ctx.set_materialize_grads(False)
        return results

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        count = len(Arguments._fields)
        arguments, y, tape = Arguments(*saved[:count]), saved[count], Tape.of(saved[count + 1 :])
        if torch.is_grad_enabled():  # a gradient of this gradient is wanted
            moments = {"x": tape.x_moments, "h": tape.p_moments, "c": tape.c_moments}
            return None, *replay(ctx.plan, arguments, moments, gradients)
        needed = Arguments(*ctx.needs_input_grad[1:])
        return None, *_Backward(ctx.plan, arguments, tape, y, gradients, needed).run()


class _Sequence:
    """What forward and backward share: the products and the order of things; a pass does all else."""

    def __init__(self, plan: Plan, arguments: Arguments, tape: Tape) -> None:
        self.plan = plan
        self.given = Arguments(*(None if t is None else t.detach().contiguous() for t in arguments))  # type: ignore[arg-type]
        self.tape = tape
        self.steps = plan.order()
        self.chunks = plan.chunks(CHUNK)
        inner = self.given.inner
        self.recurrent = product((self.given.recurrent, *(() if inner is None else (inner,))))
        self.passes = choose_pass(plan, Scales.of(plan, self.given), tape)
        if self.given.weight_x is None:
            self.passes.read_input(self.given.input, 0)

    def by_units(self, rows: Tensor) -> Tensor:
        """View ``(rows, hidden)`` as ``(rows, groups, units)``."""
        return rows.view(-1, self.plan.groups, self.plan.units)

    def multiply_input(self, chunk: Chunk) -> None:
        """Compute the input side of a chunk, where it does not come from a table."""
        if self.given.weight_x is not None:
            x = self.given.input[chunk.first : chunk.last] @ self.given.weight_x.t()
            self.passes.read_input(x.view(-1, self.plan.segments, self.plan.units), chunk.first)


class _Forward(_Sequence):
    def run(self, *, keep: bool) -> tuple[Tensor, ...]:
        """Return outputs and final state.

        Args:
            keep: whether the tape has room for every row of the sequence.
        """
        plan, given = self.plan, self.given
        y = given.h.new_empty(plan.rows, given.h.shape[1])
        h = given.h.clone()
        c = h if given.c is None else given.c.clone()
        projection = given.projection
        hidden = h if projection is None else torch.empty_like(c)
        self.passes.start_forward(
            self.by_units(c), self.by_units(hidden), self.by_units(y if projection is None else hidden[:0])
        )
        products = self.tape.p.flatten(1)
        for chunk in self.chunks:
            self.multiply_input(chunk)
            for count in chunk.counts:
                row, size = self.steps[count]
                slot = row if keep else 0
                self.recurrent.apply(h[:size], products[slot : slot + size])
                self.passes.forward(count, size, row, slot)
                if projection is not None:
                    torch.mm(hidden[:size], projection.t(), out=h[:size])
                    y[row : row + size] = h[:size]
        self._update_running_statistics()
        return (y, h) if given.c is None else (y, h, c)

    def _update_running_statistics(self) -> None:
        sizes = [size for _, size in self.steps]
        for norm, moments in (
            (self.plan.norm_x, self.tape.x_moments),
            (self.plan.norm_h, self.tape.p_moments),
            (self.plan.norm_c, self.tape.c_moments),
        ):
            if norm is not None and norm.training:
                norm.update(*moments, sizes)


class _Backward(_Sequence):
    """Gradients of the arguments.

    Args:
        y: the outputs.
        gradients: of the outputs and of each final state.
        needed: which gradients are wanted, true or false.
    """

    def __init__(
        self,
        plan: Plan,
        arguments: Arguments,
        tape: Tape,
        y: Tensor,
        gradients: tuple[Tensor | None, ...],
        needed: Arguments,
    ) -> None:
        super().__init__(plan, arguments, tape)
        self.y = y
        self.needed = needed
        self.dy = torch.zeros_like(y) if gradients[0] is None else gradients[0].contiguous()
        self.dh = _start(self.given.h, gradients[1])
        self.dc = self.dh if self.given.c is None else _start(self.given.c, gradients[2])
        # A table's gradient is also what the gradient of its gain is made from.
        self.d_input = (
            torch.zeros_like(self.given.input) if self.given.weight_x is None else self._zeros("input")
        )
        self.d_weight = self._zeros("weight_x")
        self.d_projection = self._zeros("projection")

    def _zeros(self, name: str) -> Tensor | None:
        return torch.zeros_like(getattr(self.given, name)) if getattr(self.needed, name) else None

    def run(self) -> tuple[Tensor | None, ...]:
        """Return the gradients."""
        plan, given, passes = self.plan, self.given, self.passes
        longest = max(chunk.last - chunk.first for chunk in self.chunks)
        dx = self.y.new_empty(longest, plan.segments, plan.units)
        dp = torch.empty_like(dx)
        projected = longest if given.projection is not None else 0
        hidden = self.y.new_empty(projected, plan.hidden)
        d_outputs = self.y.new_empty(projected, self.y.shape[1])
        d_hidden = torch.empty_like(self.dc) if projected else self.dh
        passes.start_backward(
            self.by_units(hidden[:0] if projected else self.dy),
            self.by_units(d_hidden),
            self.by_units(self.dc),
            dx,
            dp,
            self.by_units(hidden),
        )
        for chunk in reversed(self.chunks):
            self.multiply_input(chunk)
            for count in reversed(chunk.counts):
                row, size = self.steps[count]
                own = slice(row - chunk.first, row - chunk.first + size)
                dh = self.dh[:size]
                if given.projection is not None:
                    dh += self.dy[row : row + size]
                    d_outputs[own] = dh
                    torch.mm(dh, given.projection, out=d_hidden[:size])
                passes.backward(count, size, row, chunk.first)
                if count or self.needed.h:
                    self.recurrent.pull(dp[own].flatten(1), dh, add=plan.family == "gru")
            length = chunk.last - chunk.first
            if self.needed.recurrent or self.needed.inner:
                self.recurrent.collect(dp[:length].flatten(1), self._previous_hidden(chunk))
            if self.d_projection is not None:
                self.d_projection.addmm_(d_outputs[:length].t(), hidden[:length])
            self._collect_input(chunk, dx[:length])
        return self._gradients()

    def _previous_hidden(self, chunk: Chunk) -> Tensor:
        """Return h_{t−1} of every row of a chunk, ``(rows, out)``."""
        if self.plan.family == "gru":
            return self.tape.previous.flatten(1)[chunk.first : chunk.last]
        sizes = self.plan.batch_sizes
        if chunk.counts.start > 0 and sizes[0] == sizes[-1]:
            shift = sizes[0] if self.plan.reverse else -sizes[0]
            return self.y[chunk.first + shift : chunk.last + shift]
        parts: list[tuple[int, Tensor]] = []
        for count in chunk.counts:
            row, size = self.steps[count]
            # In reverse, sequences that only begin at this step come from the initial state.
            before, known = self.steps[count - 1] if count else (0, 0)
            known = min(known, size)
            parts += [(row, self.y[before : before + known]), (row + known, self.given.h[known:size])]
        return torch.cat([part for _, part in sorted(parts, key=lambda item: item[0])])

    def _collect_input(self, chunk: Chunk, dx: Tensor) -> None:
        """Add a chunk's part of the gradients of the input and of its weight."""
        given, first, last = self.given, chunk.first, chunk.last
        if given.weight_x is not None:
            self.passes.input_back(dx)
            if self.d_weight is not None:
                self.d_weight.addmm_(dx.flatten(1).t(), given.input[first:last])
            if self.d_input is not None:
                torch.mm(dx.flatten(1), given.weight_x, out=self.d_input[first:last])
        elif self.d_input is not None:
            if self.plan.tokens is None:
                self.d_input[first:last] = dx
            else:
                self.passes.scatter(dx, first, self.d_input)

    def _gradients(self) -> tuple[Tensor | None, ...]:
        if self.given.weight_x is None and self.d_input is not None:
            self.passes.input_back(self.d_input)
        sides, cell = (sums.sum(0) for sums in self.passes.sums)
        recurrent = self.recurrent.gradients if self.needed.recurrent or self.needed.inner else (None,)
        gradients = Arguments(
            input=self.d_input,  # type: ignore[arg-type]
            weight_x=self.d_weight,
            bias_x=sides[BIAS_X],
            bias_h=sides[BIAS_H],
            gain_x=sides[GAIN_X],
            gain_h=sides[GAIN_H],
            gain_c=cell[GAIN_C],
            bias_c=cell[BIAS_C],
            projection=self.d_projection,
            h=self.dh,
            c=self.dc,
            recurrent=recurrent[0],  # type: ignore[arg-type]
            inner=recurrent[1] if len(recurrent) == 2 else None,
        )
        return tuple(g if wanted else None for g, wanted in zip(gradients, self.needed, strict=True))


def _start(state: Tensor, gradient: Tensor | None) -> Tensor:
    """Return a buffer that starts as the gradient of the final state."""
    return (
        torch.zeros_like(state) if gradient is None else gradient.clone(memory_format=torch.contiguous_format)
    )
