"""Alternating multi-bit weights: k signs per weight, k free scales.

Levels ``±α1 ± … ± αk`` are symmetric, so magnitudes alone decide: the upper half of the levels cuts |w|
into ``2^(k−1)`` cells, and least squares needs only how many weights a cell holds and what they sum to. A
pass over the weights compares them with ``2^(k−1) − 1`` thresholds; everything else has the size of
the scales.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor

from qlstm_core import BitPlanes, Quantizer, straight_through
from qlstm_quant.options import check_bits, check_count, check_flag
from qlstm_quant.scale_statistics import bounded_sum, mean_magnitude, over_peak, wide_magnitude
from qlstm_quant.scaled import above, binary_codes, binary_scale, check_weight

ALLOWED_BITS = range(1, 5)
RIDGE = 1e-12
"""Share of the diagonal added to the normal equations, which are singular where two planes are equal."""


class Alternating(Quantizer):
    """Alternating multi-bit quantization: ``W ≈ Σ_k α_k B_k`` with every B_k in {−1, +1} and free α_k.

    Forward: start greedily, ``α_k = mean|r|, B_k = sign(r), r ← r − α_k B_k``; then ``iterations`` times
    solve ``min_α ‖w − Σ α_k B_k‖²`` for the codes and give every weight the nearest of the ``2^bits`` levels
    of the new α. No half-step can raise the squared error, so it is never worse than the greedy start. With
    no iteration every weight takes the nearest level of the greedy α. With one bit this is ``bwn``, smallest
    α included.
    Gradient: straight-through.

    Args:
        bits: 1 to 4, planes and scales.
        iterations: alternations, 0 or more; the paper finds that two suffice.
        per_row: k scales per row, as in the paper, instead of per gate.

    Raises:
        TypeError, ValueError: options of another type or outside their range.

    Reference: Xu et al. 2018, arXiv:1802.00150, algorithm 2.
    """

    def __init__(self, bits: int = 2, iterations: int = 2, per_row: bool = False) -> None:
        super().__init__()
        self.bits = check_bits("alternating", bits, ALLOWED_BITS)
        self.scales = self.bits
        self.iterations = check_count("alternating", "iterations", iterations)
        self.per_row = check_flag("alternating", "per_row", per_row)

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        """Return the nearest levels, of the weight's shape and dtype, with the gradient of the identity.

        Args:
            weight: ``(gates, rows, cols)``, floating point.
            curvature: not used.

        Raises:
            ValueError: a weight of another shape.
        """
        check_weight(weight)
        with torch.no_grad():
            magnitude = wide_magnitude(weight)
            levels, _ = _codebook(self._fit(magnitude, weight.dtype))
            # Rounded once from float64, as BitPlanes.dense does.
            values = _look_up(magnitude, levels, levels.to(weight.dtype).to(magnitude.dtype))
            quantized = values.to(weight.dtype) * binary_codes(weight)
        return straight_through(weight, quantized)

    @torch.no_grad()
    def bitplanes(self, weight: Tensor, curvature: Tensor | None = None) -> BitPlanes:
        """Return ``bits`` planes with free scales, the largest first."""
        check_weight(weight)
        magnitude = wide_magnitude(weight)
        scales = self._fit(magnitude, weight.dtype)
        levels, codes = _codebook(scales)
        negative = weight < 0
        planes = [
            (_look_up(magnitude, levels, codes[..., k].to(magnitude.dtype)) > 0) ^ negative
            for k in range(self.bits)
        ]
        return BitPlanes(torch.stack(planes), scales.movedim(-1, 0))

    def _fit(self, magnitude: Tensor, dtype: torch.dtype) -> Tensor:
        """Return α, ``(gates, 1 or rows, bits)``, non-negative, descending, in the weight's dtype."""
        if self.bits == 1:  # mean|w| is the optimum
            return binary_scale(mean_magnitude(magnitude, per_row=self.per_row), dtype).unsqueeze(-1)
        unit, peak = over_peak(magnitude, per_row=self.per_row)
        scales, gram, moments = self._greedy(unit)
        for iteration in range(self.iterations):
            if iteration > 0:
                levels, codes = _codebook(scales)
                gram, moments = _normal_equations(*self._cells(unit, levels), codes)
            # Levels are the same for −α, and for α in any order.
            scales = _solve(gram, moments).abs().sort(-1, descending=True).values
        scales = scales * peak.unsqueeze(-1)
        # The largest level may lie above the largest weight, but must be finite.
        limits = torch.finfo(dtype)
        largest = limits.max * (1 - self.bits * limits.eps)
        return (scales * (largest / scales.sum(-1, keepdim=True)).clamp(max=1)).to(dtype)

    def _greedy(self, unit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the greedy scales, descending, and the normal equations of the greedy codes.

        Residuals are kept as magnitudes: the sign of a code relative to the one before it is that of
        ``|r| − α``, so that ``B_j B_k`` is the product of the relative signs between j and k.

        Args:
            unit: magnitudes over their peak, ``(gates, rows, cols)``.

        Returns:
            ``mean|r|`` of the successive residuals r, ``(gates, 1 or rows, bits)``; ``BᵀB``, ``(gates, 1 or
            rows, bits, bits)``; and ``Bᵀ|w|``, shaped as the scales; float64.
        """
        count = max(self._count(unit), 1)
        total = bounded_sum(unit, per_row=self.per_row)
        scales, moments = [total / count], [total]
        own = torch.full_like(total, self._count(unit))
        columns: list[list[Tensor]] = [[own]]  # of the upper triangle
        residual = unit
        products: list[Tensor] = []  # B_j B_k of the newest k, for every j before it
        for _ in range(1, self.bits):
            excess = residual - scales[-1].to(residual.dtype).unsqueeze(-1)
            relative = binary_codes(excess)
            residual = excess.abs_()
            scales.append(bounded_sum(residual, per_row=self.per_row) / count)
            products = [*(signs * relative for signs in products), relative]
            columns.append([*(bounded_sum(signs, per_row=self.per_row) for signs in products), own])
            moments.append(bounded_sum(products[0] * unit, per_row=self.per_row))
        rows = [[columns[max(j, k)][min(j, k)] for k in range(self.bits)] for j in range(self.bits)]
        gram = torch.stack([torch.stack(row, -1) for row in rows], -2)
        return torch.stack(scales, -1).sort(-1, descending=True).values, gram, torch.stack(moments, -1)

    def _cells(self, unit: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Return how many weights are nearest to each level and the sum of their magnitudes."""
        counts = [torch.full_like(levels[..., 0], self._count(unit))]
        sums = [bounded_sum(unit, per_row=self.per_row)]
        for higher in _above_midpoints(unit, levels):
            counts.append(bounded_sum(higher, per_row=self.per_row))
            sums.append(bounded_sum(higher.mul_(unit), per_row=self.per_row))
        return _differences(counts), _differences(sums)

    def _count(self, unit: Tensor) -> int:
        """Return how many weights share their scales."""
        _, rows, cols = unit.shape
        return cols if self.per_row else rows * cols

    def extra_repr(self) -> str:
        """Return the options."""
        return f"bits={self.bits}, iterations={self.iterations}, per_row={self.per_row}"


def _codebook(scales: Tensor) -> tuple[Tensor, Tensor]:
    """Return the levels that are not negative, ascending, and the signs that make them, both in float64.

    Args:
        scales: ``(gates, groups, bits)``.

    Returns:
        ``(gates, groups, 2^(bits−1))`` and ``(gates, groups, 2^(bits−1), bits)``.
    """
    bits = scales.shape[-1]
    combinations = list(product((1.0, -1.0), repeat=bits - 1))
    codes = torch.tensor([(1.0, *rest) for rest in combinations], dtype=torch.float64, device=scales.device)
    levels = torch.zeros(*scales.shape[:-1], len(combinations), dtype=torch.float64, device=scales.device)
    # Added in this order, as BitPlanes.dense does: the same roundings.
    for k in range(bits):
        levels = levels + codes[:, k] * scales[..., k : k + 1].double()
    # For each level with the first sign +, its opposite is a level too: keep the one that is not negative.
    codes = codes * binary_codes(levels).unsqueeze(-1)
    levels, order = levels.abs().sort(-1)
    return levels, codes.gather(-2, order.unsqueeze(-1).expand_as(codes))


def _above_midpoints(magnitude: Tensor, levels: Tensor) -> Iterator[Tensor]:
    """Yield, for each midpoint of neighbouring levels, 1 where the magnitude is above it, else 0."""
    midpoints = levels[..., 1:] / 2 + levels[..., :-1] / 2
    for midpoint in midpoints.unbind(-1):
        yield above(magnitude, midpoint)


def _look_up(magnitude: Tensor, levels: Tensor, table: Tensor) -> Tensor:
    """Return for each weight the entry of ``table`` that belongs to the level nearest to its magnitude.

    Args:
        magnitude: ``(gates, rows, cols)``.
        levels: ``(gates, 1 or rows, cells)``, ascending.
        table: same shape, in the magnitude's dtype, finite.
    """
    values = torch.zeros_like(magnitude)
    reached = torch.ones_like(magnitude)
    entries = table.unsqueeze(-2).unbind(-1)
    for entry, higher in zip(entries[:-1], _above_midpoints(magnitude, levels), strict=True):
        # The difference is 1 in one cell and 0 elsewhere: each weight adds one entry to zeros, exactly.
        values.addcmul_(reached - higher, entry)
        reached = higher
    return values.addcmul_(reached, entries[-1])


def _normal_equations(counts: Tensor, sums: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``BᵀB = Σ_c n_c b_c b_cᵀ`` and ``Bᵀ|w| = Σ_c s_c b_c`` over the cells c.

    Args:
        counts: n, the number of weights of each cell, ``(gates, groups, cells)``.
        sums: s, the sum of their magnitudes, of the same shape.
        codes: b, ``(gates, groups, cells, bits)``.
    """
    gram = torch.einsum("...c,...cj,...ck->...jk", counts, codes, codes)
    return gram, torch.einsum("...c,...ck->...k", sums, codes)


def _solve(gram: Tensor, moments: Tensor) -> Tensor:
    """Return the α that minimises ``‖w − Σ α_k B_k‖²`` for given codes, ``(gates, groups, bits)``.

    Args:
        gram: ``BᵀB``, whose diagonal is the number of weights.
        moments: ``Bᵀw``.
    """
    ridge = RIDGE * gram[..., 0, 0].clamp(min=1)[..., None, None]
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    solution: Tensor = torch.linalg.solve_ex(gram + ridge * identity, moments.unsqueeze(-1)).result
    return solution.squeeze(-1)


def _differences(cumulative: list[Tensor]) -> Tensor:
    """Return per-cell values from those of "this cell or a higher one", stacked in the last dimension."""
    stacked = torch.stack([*cumulative, torch.zeros_like(cumulative[0])], -1)
    return stacked[..., :-1] - stacked[..., 1:]
