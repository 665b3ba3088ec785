"""Evenly spaced levels around zero: step times −Q … Q, 2^bits − 1 of them, with Q = 2^(bits−1) − 1."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from qlstm_quant.options import check_bits, check_flag
from qlstm_quant.scale_statistics import group_max, group_sum, mean_magnitude
from qlstm_quant.scaled import ScaledQuantizer, grid_scale

ALLOWED_BITS = range(2, 9)
"""One bit would leave only the level 0: a binary method is the one to take."""


class Uniform(ScaledQuantizer):
    """Uniform grid that spans the weights.

    Forward: ``s·round(w/s)`` with ``s = max|w| / Q``, ``Q = 2^(bits−1) − 1``. An all-zero matrix stays zero.
    Gradient: straight-through.

    Args:
        bits: 2 to 8.
        per_row: one s per row instead of one per gate.

    Raises:
        TypeError, ValueError: options of another type or outside their range.

    Reference: Jacob et al. 2018, arXiv:1712.05877, with the zero point at 0 and a narrow range.
    """

    scales = 1

    def __init__(self, bits: int = 4, per_row: bool = False) -> None:
        super().__init__()
        self.bits = check_bits("uniform", bits, ALLOWED_BITS)
        self.per_row = check_flag("uniform", "per_row", per_row)

    def encode(self, weight: Tensor, curvature: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return −Q … Q and s."""
        largest = _largest_code(self.bits)
        peak = group_max(weight.abs(), per_row=self.per_row)
        step = _step(peak.double() / largest, largest, weight.dtype)
        return _round_to_codes(_over(weight, step), largest).to(weight.dtype), step

    def extra_repr(self) -> str:
        """Return the options."""
        return f"bits={self.bits}, per_row={self.per_row}"


class LSQ(ScaledQuantizer):
    """Learned step size quantization: a uniform grid whose step is a parameter.

    Forward: ``s·round(clip(w/s, −Q, Q))``, ``Q = 2^(bits−1) − 1``; s starts at ``2·mean|w| / √Q``.
    Gradient: to w, that of the output where ``|w/s| < Q``, else 0; to s, that of the output times
    ``round(w/s) − w/s`` inside the grid and ±Q outside it, summed, times ``g = 1/√(N·Q)`` for the N weights
    that share s. A step that training has driven below the smallest normal number counts as that number.

    Args:
        bits: 2 to 8.
        per_row: one s per row instead of one per gate.

    Attributes:
        step: s, ``(gates, 1 or rows)``, created by :meth:`prepare`.

    Raises:
        TypeError, ValueError: options of another type or outside their range.

    Reference: Esser et al. 2020, arXiv:1902.08153, with Q_N = Q_P.
    """

    scales = 1
    gradient = "custom"
    step: nn.Parameter | None

    def __init__(self, bits: int = 4, per_row: bool = False) -> None:
        super().__init__()
        self.bits = check_bits("lsq", bits, ALLOWED_BITS)
        self.per_row = check_flag("lsq", "per_row", per_row)
        self.register_parameter("step", None)

    def prepare(self, weight: Tensor) -> None:
        """Create the step from the initial weight, ``(gates, rows, cols)``."""
        with torch.no_grad():
            start = 2 * mean_magnitude(weight, per_row=self.per_row) / math.sqrt(_largest_code(self.bits))
        self.step = nn.Parameter(start.to(weight.dtype))

    def encode(self, weight: Tensor, curvature: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return −Q … Q and s."""
        largest = _largest_code(self.bits)
        step = self._positive_step(weight, largest)
        return _round_to_codes(_over(weight, step), largest).to(weight.dtype), step

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        """Return ``s·code``, of the weight's shape and dtype, with the paper's gradients to weight and step.

        Args:
            weight: ``(gates, rows, cols)``, floating point.
            curvature: not used.

        Raises:
            RuntimeError: :meth:`prepare` has not been called.
            ValueError: a weight of another shape than it was prepared for.
        """
        codes, step = self._encode(weight, curvature)
        function = _LearnedStep if torch.compiler.is_compiling() else _WithTangent
        result: Tensor = function.apply(  # type: ignore[no-untyped-call]
            weight, self.step, codes, step, _largest_code(self.bits), self.per_row
        )
        return result

    def _positive_step(self, weight: Tensor, largest: int) -> Tensor:
        if self.step is None:
            raise RuntimeError("lsq: call prepare(weight) first; it creates the step size")
        expected = (weight.shape[0], weight.shape[1] if self.per_row else 1)
        if tuple(self.step.shape) != expected:
            raise ValueError(
                f"lsq: prepared for steps of shape {tuple(self.step.shape)}, but this weight needs {expected}"
            )
        smallest = torch.finfo(weight.dtype).tiny
        return _step(self.step.detach().double().clamp(min=smallest), largest, weight.dtype)

    def extra_repr(self) -> str:
        """Return the options."""
        return f"bits={self.bits}, per_row={self.per_row}"


class _LearnedStep(torch.autograd.Function):
    """``codes · step``, with LSQ's gradients to the weight and to the parameter that the step comes from."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        weight: Tensor, parameter: Tensor, codes: Tensor, step: Tensor, largest: int, per_row: bool
    ) -> Tensor:
        return codes * step.unsqueeze(-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        weight, parameter, codes, step, ctx.largest, ctx.per_row = inputs
        ctx.dtype, ctx.parameter_dtype = output.dtype, parameter.dtype
        ctx.save_for_backward(weight, codes, step)
        ctx.save_for_forward(weight, codes, step)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inside, slope, factor = _slopes(ctx)
        to_step = group_sum(grad * slope, per_row=ctx.per_row) * factor
        return grad * inside, to_step.to(ctx.parameter_dtype), None, None, None, None


class _WithTangent(_LearnedStep):
    """Has forward-mode derivatives too, which a function must not define where torch.compile traces it."""

    @staticmethod
    def jvp(ctx: Any, weight: Tensor | None, parameter: Tensor | None, *constant: None) -> Tensor:
        inside, slope, factor = _slopes(ctx)
        change = inside * (0 if weight is None else weight)
        if parameter is not None:
            change = change + slope * parameter.unsqueeze(-1) * factor
        return change.to(ctx.dtype)


def _slopes(ctx: Any) -> tuple[Tensor, Tensor, float]:
    """Return what LSQ takes for each value's derivatives by its weight and, over g, by the step; and g."""
    weight, codes, step = ctx.saved_tensors
    ratio = _over(weight, step)
    inside = ratio.abs() < ctx.largest
    _, rows, cols = weight.shape
    shared = max(cols if ctx.per_row else rows * cols, 1)
    return inside, codes - torch.where(inside, ratio, 0.0), 1 / math.sqrt(shared * ctx.largest)


def _largest_code(bits: int) -> int:
    return int(2 ** (bits - 1)) - 1


def _step(step: Tensor, largest: int, dtype: torch.dtype) -> Tensor:
    """Round a float64 step to ``dtype`` so that ``largest · step`` is finite there."""
    limits = torch.finfo(dtype)
    return grid_scale(step.clamp(max=limits.max * (1 - 2 * limits.eps) / largest), dtype)


def _over(weight: Tensor, step: Tensor) -> Tensor:
    """Return w/s in float32 or wider; w itself where s is 0, which an all-zero matrix has."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    return weight.to(wide) / torch.where(step > 0, step, 1).to(wide).unsqueeze(-1)


def _round_to_codes(ratio: Tensor, largest: int) -> Tensor:
    return ratio.round().clamp(-largest, largest)
