"""What the forward pass writes down for the backward pass, and what both read."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from qlstm_core.layers.fused.plan import Arguments, Plan
from qlstm_core.layers.norm_contract import Norm

WORTH_KEEPING = 64
"""Features of the input above which its product costs more to compute again than to keep."""


class Tape(NamedTuple):
    """What is kept per row of the sequence; the backward pass computes gates and hidden states again.

    Moments are a mean and a variance v; those over features that compiled steps write are a mean and
    ``1/√(v + eps)``.

    Args:
        p: the recurrent product, ``(rows, S, units)``.
        previous: the state before each step, c_{t−1} or, for the GRU, h_{t−1}, ``(rows, groups, units)``.
        p_moments: over features ``(rows, S)``, over the batch ``(steps, S, units)``.
        c_moments: ``(rows, groups)`` or ``(steps, groups, units)``.
        x_moments: over the batch ``(steps, S, units)``; over features ``(rows, S)`` if x is kept, else no
            rows.
        x: the input side, ``(rows, S, units)``; no rows where it is given, or cheaper to compute again.
    """

    p: Tensor
    previous: Tensor
    p_moments: tuple[Tensor, Tensor]
    c_moments: tuple[Tensor, Tensor]
    x_moments: tuple[Tensor, Tensor]
    x: Tensor

    @classmethod
    def new(cls, plan: Plan, arguments: Arguments, *, keep: bool) -> Tape:
        """Return a tape with room for every row of the sequence, or for those of one step."""
        like = arguments.h
        rows = plan.rows if keep else plan.batch_sizes[0]
        weight_x = arguments.weight_x
        rows_x = rows if keep and weight_x is not None and weight_x.shape[1] > WORTH_KEEPING else 0
        segments, groups, units = plan.segments, plan.groups, plan.units
        steps = len(plan.batch_sizes)

        def moments(norm: Norm | None, count: int, rows: int = rows) -> tuple[Tensor, Tensor]:
            if not plan.over_batch:
                return like.new_empty(rows, count), like.new_empty(rows, count)
            if norm is None:
                return like.new_zeros(steps, count, units), like.new_ones(steps, count, units)
            if norm.training:
                return like.new_empty(steps, count, units), like.new_empty(steps, count, units)
            return norm.at_steps(steps)

        return cls(
            like.new_empty(rows, segments, units),
            like.new_empty(rows, groups, units),
            moments(plan.norm_h, segments),
            moments(plan.norm_c, groups),
            moments(plan.norm_x, segments, rows_x),
            like.new_empty(rows_x, segments, units),
        )

    def tensors(self) -> tuple[Tensor, ...]:
        """Return all of it flat."""
        return (self.p, self.previous, *self.p_moments, *self.c_moments, *self.x_moments, self.x)

    @classmethod
    def of(cls, tensors: tuple[Tensor, ...]) -> Tape:
        """Undo :meth:`tensors`."""
        p, previous, *moments, x = tensors
        of_p, of_c, of_x = zip(moments[::2], moments[1::2], strict=True)
        return cls(p, previous, of_p, of_c, of_x, x)


class Scales(NamedTuple):
    """Gains and biases: of the sides ``(S, units)``, of the cell ``(groups, units)``; if absent 1 and 0."""

    gain_x: Tensor
    gain_h: Tensor
    bias_x: Tensor
    bias_h: Tensor
    gain_c: Tensor
    bias_c: Tensor

    @classmethod
    def of(cls, plan: Plan, arguments: Arguments) -> Scales:
        """Return those of ``arguments``."""
        ones = arguments.h.new_ones(plan.segments, plan.units)
        zeros = torch.zeros_like(ones)

        def given(tensor: Tensor | None, default: Tensor) -> Tensor:
            return default if tensor is None else tensor.detach().contiguous()

        return cls(
            given(arguments.gain_x, ones),
            given(arguments.gain_h, ones),
            given(arguments.bias_x, zeros),
            given(arguments.bias_h, zeros),
            given(arguments.gain_c, ones[: plan.groups]),
            given(arguments.bias_c, zeros[: plan.groups]),
        )


class Sums(NamedTuple):
    """Gradients of :class:`Scales`: ``(parts, 4, S, units)``, ``(parts, 2, groups, units)``.

    The second index is ``BIAS_X`` and so on of :mod:`qlstm_core.layers.fused.compiled.operands`.
    """

    sides: Tensor
    cell: Tensor

    @classmethod
    def new(cls, plan: Plan, like: Tensor, parts: int) -> Sums:
        """Return zeros."""
        return cls(
            like.new_zeros(parts, 4, plan.segments, plan.units),
            like.new_zeros(parts, 2, plan.groups, plan.units),
        )
