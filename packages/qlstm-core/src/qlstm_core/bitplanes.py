"""The one storage form of every quantizer: signs times scales."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_MAX_BITS = 8


@dataclass(frozen=True)
class BitPlanes:
    """A quantized weight as signs and scales: ``W = offset + Σ_k scales[k] · B_k``, each ``B_k`` in {−1, +1}.

    Binary weights are one plane; ternary weights two planes with half the scale each; k-bit uniform weights k
    planes whose scales are powers of two times half the step; alternating multi-bit weights k planes with
    free scales.

    Args:
        signs: ``(planes, gates, rows, cols)``, ``torch.bool``; True is +1, False is −1.
        scales: ``(planes, gates, 1 or rows)``, floating point: one scale per plane and gate, or per row.
        offset: ``(gates, 1 or rows)``, same dtype, or ``None`` for zero.

    Raises:
        ValueError: shapes or dtypes that do not fit together.
    """

    signs: Tensor
    scales: Tensor
    offset: Tensor | None = None

    def __post_init__(self) -> None:
        if self.signs.dim() != 4 or self.signs.dtype != torch.bool:
            raise ValueError(
                "signs must be a bool tensor of shape (planes, gates, rows, cols), "
                f"got {self.signs.dtype} {tuple(self.signs.shape)}"
            )
        planes, gates, rows, _ = self.signs.shape
        if self.scales.dim() != 3 or tuple(self.scales.shape) not in {
            (planes, gates, 1),
            (planes, gates, rows),
        }:
            raise ValueError(
                f"scales must have shape {(planes, gates, 1)} or {(planes, gates, rows)} "
                f"for signs of shape {tuple(self.signs.shape)}, got {tuple(self.scales.shape)}"
            )
        if not self.scales.is_floating_point():
            raise ValueError(f"scales must be floating point, got {self.scales.dtype}")
        if self.offset is not None and tuple(self.offset.shape) not in {(gates, 1), (gates, rows)}:
            raise ValueError(
                f"offset must have shape {(gates, 1)} or {(gates, rows)}, got {tuple(self.offset.shape)}"
            )

    @property
    def bits(self) -> int:
        """Bits stored per weight: the number of planes."""
        return self.signs.shape[0]

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(gates, rows, cols)`` of the weight."""
        _, gates, rows, cols = self.signs.shape
        return gates, rows, cols

    def dense(self) -> Tensor:
        """Return the weight ``(gates, rows, cols)`` in the dtype of the scales."""
        # Summed in float64 and rounded once: up to float32 a uniform grid then gives exactly step · code.
        scales = self.scales.double().unsqueeze(-1)
        total = torch.zeros(self.shape, dtype=torch.float64, device=scales.device)
        if self.offset is not None:
            total += self.offset.double().unsqueeze(-1)
        for signs, scale in zip(self.signs, scales, strict=True):
            total += torch.where(signs, scale, -scale)
        return total.to(self.scales.dtype)

    @classmethod
    def from_binary(cls, signs: Tensor, scale: Tensor) -> BitPlanes:
        """One plane: ``W = scale · B``.

        Args:
            signs: ``(gates, rows, cols)``, bool (True is +1).
            scale: ``(gates, 1 or rows)``, non-negative.
        """
        return cls(signs.unsqueeze(0), scale.unsqueeze(0))

    @classmethod
    def from_ternary(cls, codes: Tensor, scale: Tensor) -> BitPlanes:
        """Two planes of half the scale each: ``W = scale · code``; both agree for ±1 and cancel for 0.

        Args:
            codes: ``(gates, rows, cols)``, each −1, 0 or +1.
            scale: ``(gates, 1 or rows)``, non-negative.
        """
        half = scale / 2
        return cls(torch.stack([codes >= 0, codes > 0]), torch.stack([half, half]))

    @classmethod
    def from_uniform(cls, codes: Tensor, step: Tensor, bits: int) -> BitPlanes:
        """``bits`` planes of a uniform grid: ``W = step · code``.

        With the two's-complement digits ``b_j`` of ``code + 2^(bits−1)``,
        ``code = −½ + Σ_j 2^(j−1) · (2 b_j − 1)``: scales are powers of two times half the step, and the
        offset −½ step.

        Args:
            codes: ``(gates, rows, cols)``, integers from ``−2^(bits−1)`` to ``2^(bits−1) − 1``.
            step: ``(gates, 1 or rows)``, non-negative.
            bits: 1 to 8.
        """
        if not 1 <= bits <= _MAX_BITS:
            raise ValueError(f"bits must be 1 to {_MAX_BITS}, got {bits}")
        digits = codes.to(torch.int64) + 2 ** (bits - 1)
        if digits.numel() and (digits.min() < 0 or digits.max() >= 2**bits):
            raise ValueError(
                f"codes must lie in [{-(2 ** (bits - 1))}, {2 ** (bits - 1) - 1}] for {bits} bits, "
                f"got [{int(codes.min())}, {int(codes.max())}]"
            )
        planes = range(bits)
        signs = torch.stack([((digits >> j) & 1).bool() for j in planes])
        scales = torch.stack([step * 2.0 ** (j - 1) for j in planes])
        return cls(signs, scales, offset=-step / 2)

    @classmethod
    def from_levels(cls, weight: Tensor, *, per_row: bool = False) -> BitPlanes:
        """Find the planes of a tensor with few, evenly spaced levels per gate (per row with ``per_row``).

        Binary (two opposite levels) gives one plane, ternary two, and a symmetric grid of up to 255 levels
        the fewest uniform planes that hold it. Levels that a matrix happens not to use do not matter.

        Args:
            weight: ``(gates, rows, cols)``, floating point.
            per_row: look for levels in each row instead of each gate.

        Raises:
            ValueError: a matrix whose levels are not multiples of one step, naming it and its number of
                levels.
        """
        if weight.dim() != 3:
            raise ValueError(f"weight must have shape (gates, rows, cols), got {tuple(weight.shape)}")
        gates, rows, cols = weight.shape
        groups = (gates * rows, cols) if per_row else (gates, rows * cols)
        matrices = weight.detach().reshape(groups)
        names = (
            [f"gate {g}, row {r}" for g in range(gates) for r in range(rows)]
            if per_row
            else [f"gate {g}" for g in range(gates)]
        )
        grids = [_grid(matrix, name) for matrix, name in zip(matrices, names, strict=True)]
        scale_shape = (gates, rows) if per_row else (gates, 1)
        step = weight.new_zeros(scale_shape)
        if grids:
            step = torch.stack([g[0] for g in grids]).to(weight).reshape(scale_shape)
        largest = max((g[1] for g in grids), default=1)
        if all(g[2] for g in grids):
            return cls.from_binary(weight.detach() >= 0, step)
        safe = torch.where(step > 0, step, torch.ones_like(step)).unsqueeze(-1)
        codes = torch.round(weight.detach() / safe)
        if largest == 1:
            return cls.from_ternary(codes, step)
        return cls.from_uniform(codes, step, bits=(2 * largest).bit_length())


def _grid(matrix: Tensor, name: str) -> tuple[Tensor, int, bool]:
    """Return the step, the largest code and whether ``matrix`` is binary (no zero, one magnitude)."""
    magnitudes = torch.unique(matrix.abs())
    if not torch.isfinite(magnitudes).all():
        raise ValueError(f"the matrix of {name} holds non-finite values: it has no levels")
    positive = magnitudes[magnitudes > 0]
    has_zero = positive.numel() < magnitudes.numel()
    if positive.numel() == 0:
        return matrix.new_zeros(()), 1, not has_zero
    if positive.numel() == 1:
        return positive[0], 1, not has_zero
    levels = torch.unique(matrix).numel()
    limit = 2 ** (_MAX_BITS - 1) - 1
    # The step is the largest that divides every level: try the smallest level divided by 1, 2, ….
    for divisor in range(1, limit + 1):
        codes = positive.double() / (positive[0].double() / divisor)
        if codes[-1] > limit + 0.5:
            break
        if (codes - codes.round()).abs().max() <= 1e-4:
            return positive[-1] / codes[-1].round().to(positive), int(codes[-1].round()), False
    raise ValueError(
        f"the matrix of {name} has {levels} levels, which are not multiples of one step "
        f"(at most {2 * limit + 1} evenly spaced levels around 0 have bit planes); "
        "override Quantizer.bitplanes for a method with free levels"
    )
