"""A whole sequence of one layer in one direction as one autograd function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qlstm_core.layers.border import compiles, is_plain
from qlstm_core.layers.fused.compiled.operands import BIAS_C, BIAS_H, BIAS_X, GAIN_C, GAIN_H, GAIN_X
from qlstm_core.layers.fused.plan import Arguments, Chunk, Plan
from qlstm_core.layers.fused.recurrent_product import product, write_outer
from qlstm_core.layers.fused.second_order import replay
from qlstm_core.layers.fused.steps import Backward, Forward, TimeSteps
from qlstm_core.layers.fused.tape import Tape


def run(plan: Plan, arguments: Arguments) -> tuple[Tensor, ...]:
    """Return the outputs, ``(N, out)``, and the final state."""
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in arguments):
        results: tuple[Tensor, ...] = _FusedSequence.apply(plan, *arguments)  # type: ignore[no-untyped-call]
        return results
    with torch.no_grad():
        return _run_forward(plan, arguments, Tape.new(plan, arguments, keep=False), keep=False)


class _FusedSequence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: Plan, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        arguments = Arguments(*tensors)  # type: ignore[arg-type]
        tape = Tape.new(plan, arguments, keep=True)
        results = _run_forward(plan, arguments, tape, keep=True)
        ctx.plan = plan
        ctx.save_for_backward(*tensors, results[0], *tape.tensors())
        ctx.set_materialize_grads(False)
        return results

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        count = len(Arguments._fields)
        arguments, y, tape = Arguments(*saved[:count]), saved[count], Tape.of(saved[count + 1 :])
        # A gradient of this gradient is wanted, or a batch of gradients in one.
        if torch.is_grad_enabled() or not all(g is None or is_plain(g) for g in gradients):
            moments = {"x": tape.x_moments, "h": tape.p_moments, "c": tape.c_moments}
            return None, *replay(ctx.plan, arguments, moments, gradients)
        needed = Arguments(*ctx.needs_input_grad[1:])
        return None, *_BackwardRun(ctx.plan, arguments, tape, y, gradients, needed).run()


def _plain(arguments: Arguments) -> Arguments:
    """Return the tensors without their history, row by row in memory."""
    return Arguments(*(None if t is None else t.detach().contiguous() for t in arguments))  # type: ignore[arg-type]


def choose_steps(plan: Plan, arguments: Arguments, tape: Tape) -> TimeSteps:
    """Return Numba kernels on a CPU where Numba compiles, torch operations elsewhere."""
    if tape.p.device.type == "cpu" and compiles():
        from qlstm_core.layers.fused.compiled.steps import CompiledSteps

        return CompiledSteps(plan, arguments, tape)
    from qlstm_core.layers.fused.torch_steps import TORCH_STEPS

    return TORCH_STEPS[plan.cell](plan, arguments, tape)


def _run_forward(plan: Plan, arguments: Arguments, tape: Tape, *, keep: bool) -> tuple[Tensor, ...]:
    """Return outputs and final state.

    Args:
        plan, arguments: what to run.
        tape: where to keep what the backward run needs.
        keep: whether the tape has room for every row of the sequence.
    """
    given = _plain(arguments)
    y = given.h.new_empty(plan.rows, given.h.shape[1])
    h = given.h.clone()
    c = h if given.c is None else given.c.clone()
    hidden = h if given.projection is None else torch.empty_like(c)
    choose_steps(plan, given, tape).forward(Forward(h, c, hidden, y), keep=keep)
    sizes = [size for _, size in plan.order()]
    for norm, moments in (
        (plan.norm_x, tape.x_moments),
        (plan.norm_h, tape.p_moments),
        (plan.norm_c, tape.c_moments),
    ):
        if norm is not None and norm.training:
            norm.update(*moments, sizes)
    return (y, h) if given.c is None else (y, h, c)


class _BackwardRun:
    """Gradients of the arguments.

    Args:
        plan, arguments, tape: plan, tensors and tape of the forward run.
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
        self.plan = plan
        self.given = _plain(arguments)
        self.tape = tape
        self.steps = plan.order()
        self.recurrent = product(self.given.weights)
        self.time_steps: TimeSteps = choose_steps(plan, self.given, tape)
        self.y = y
        self.needed = needed
        self.dy = torch.zeros_like(y) if gradients[0] is None else gradients[0].contiguous()
        self.dh = _start(self.given.h, gradients[1])
        self.dc = self.dh if self.given.c is None else _start(self.given.c, gradients[2])
        # A table's gradient is also what the gradient of its gain is made from.
        self.d_input = (
            torch.zeros_like(self.given.input) if self.given.weight_x is None else self._room("input")
        )
        self.d_weight = self._room("weight_x")
        self.d_projection = self._room("projection")

    def _room(self, name: str) -> Tensor | None:
        return torch.empty_like(getattr(self.given, name)) if getattr(self.needed, name) else None

    def run(self) -> tuple[Tensor | None, ...]:
        """Return the gradients."""
        plan, given = self.plan, self.given
        chunks = plan.chunks()
        longest = max(chunk.last - chunk.first for chunk in chunks)
        dx = self.y.new_empty(longest, plan.segments, plan.units)
        dp = torch.empty_like(dx)
        projected = longest if given.projection is not None else 0
        hidden = self.y.new_empty(projected, plan.hidden)
        d_outputs = self.y.new_empty(projected, self.y.shape[1])
        d_hidden = torch.empty_like(self.dc) if projected else self.dh
        initial = bool(self.needed.h)
        self.time_steps.start_backward(
            Backward(self.dy, self.dh, self.dc, d_hidden, dx, dp, hidden, d_outputs, initial)
        )
        for chunk in reversed(chunks):
            add = chunk is not chunks[-1]
            self.time_steps.backward(chunk)
            length = chunk.last - chunk.first
            if self.needed.recurrent or self.needed.inner:
                self._collect_recurrent(chunk, dp[:length].flatten(1))
            if self.d_projection is not None:
                write_outer(self.d_projection, d_outputs[:length], hidden[:length], add=add)
            self._collect_input(chunk, dx[:length], add=add)
        return self._gradients()

    def _collect_recurrent(self, chunk: Chunk, dp: Tensor) -> None:
        """Add a chunk's part of the gradient of the recurrent weight, from h_{t−1} of every row."""
        previous = self.tape.previous.flatten(1)[chunk.first : chunk.last]
        sizes = self.plan.batch_sizes
        if "c" not in self.plan.cell.states:
            self.recurrent.collect(dp, previous)
        elif sizes[0] == sizes[-1]:
            shift = sizes[0] if self.plan.reverse else -sizes[0]
            first, last = chunk.first, chunk.last
            if chunk.counts.start == 0:
                row = self.steps[0][0]
                self.recurrent.collect(dp[row - first : row - first + sizes[0]], self.given.h)
                first, last = max(first, -shift), min(last, self.plan.rows - shift)
            if last > first:
                own = slice(first - chunk.first, last - chunk.first)
                self.recurrent.collect(dp[own], self.y[first + shift : last + shift])
        else:
            self.recurrent.collect(dp, self._previous_hidden(chunk))

    def _previous_hidden(self, chunk: Chunk) -> Tensor:
        """Return h_{t−1} of every row of a chunk, ``(rows, out)``, of sequences of different lengths."""
        parts: list[tuple[int, Tensor]] = []
        for count in chunk.counts:
            row, size = self.steps[count]
            # In reverse, sequences that only begin at this step come from the initial state.
            before, known = self.steps[count - 1] if count else (0, 0)
            known = min(known, size)
            parts += [(row, self.y[before : before + known]), (row + known, self.given.h[known:size])]
        return torch.cat([part for _, part in sorted(parts, key=lambda item: item[0])])

    def _collect_input(self, chunk: Chunk, dx: Tensor, *, add: bool) -> None:
        """Write, or add, a chunk's part of the gradients of the input and of its weight."""
        given, first, last = self.given, chunk.first, chunk.last
        if given.weight_x is not None:
            if self.d_weight is not None:
                write_outer(self.d_weight, dx.flatten(1), given.input[first:last], add=add)
            if self.d_input is not None:
                self.time_steps.pull_input(dx, first, self.d_input)
        elif self.d_input is not None:
            if self.plan.tokens is None:
                self.d_input[first:last] = dx
            else:
                self.time_steps.scatter(dx, first, self.d_input)

    def _gradients(self) -> tuple[Tensor | None, ...]:
        if self.given.weight_x is None and self.d_input is not None:
            self.time_steps.input_back(self.d_input)
        sides, cell = (sums.sum(0) for sums in self.time_steps.gradients())
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
