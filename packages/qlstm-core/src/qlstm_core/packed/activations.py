"""Activations as integers: what the look-up tables are made of.

A vector ``x`` becomes ``scale · q``. Columns are taken in groups of four, group g being columns g, G+g, 2G+g
and 3G+g of G groups, so that all of this runs on whole vectors. A table entry is the sum of those ``|q_i|``
of its group whose sign agrees with the weight's,

    entry = Σ_i |q_i| · [B_i q_i > 0],   Σ_i B_i q_i = 2 · entry − Σ_i |q_i|,

half the range that ``Σ B_i q_i`` spans, whose values have one parity. An entry holds the sum of four
magnitudes, so the scale is set by the largest such sum and not by the largest magnitude.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qlstm_core.jit import compiled

ENTRY_LIMIT = {8: 255, 12: 4095, 16: 65535}
"""The largest table entry by ``activation_bits``."""

# Adding 1.5 · 2^23 rounds a float32 of magnitude below 2^22 to the nearest integer (ties to even), which then
# stands in its low bits: unlike a call of rint, this becomes vector code on every CPU.
_ROUNDER = np.float32(1.5 * 2**23)
_ROUNDER_BITS = int(_ROUNDER.view(np.int32))
_SMALLEST_PEAK = np.float32(1e-30)


@compiled(None)
def _round(value: Any) -> Any:
    return np.int32(np.float32(value + _ROUNDER).view(np.int32) - _ROUNDER_BITS)


@compiled(None)
def _put(codes: Any, g: int, a: int, b: int, c: int, d: int) -> tuple[Any, Any]:
    negative = max(-a, 0) + max(-b, 0) + max(-c, 0) + max(-d, 0)
    codes[0, g] = a
    codes[1, g] = b
    codes[2, g] = c
    codes[3, g] = d
    codes[4, g] = negative
    total = a + b + c + d
    return np.int32(total + 2 * negative), np.int32(total)


@compiled()
def encode(q: Any, codes: Any) -> tuple[Any, Any]:
    """Write integers as the codes that tables are filled from.

    Args:
        q: ``(4·groups,)`` int32, zeros behind the last column; the magnitudes of each group sum to at most
            ``ENTRY_LIMIT``.
        codes: ``(5, groups)`` int16, written: the four integers of each group, and the magnitudes of its
            negative ones added up, all modulo 2^16.

    Returns:
        ``Σ|q|`` and ``Σq``, int32.
    """
    groups = codes.shape[1]
    norm = np.int32(0)
    total = np.int32(0)
    for g in range(groups):
        put_norm, put_total = _put(codes, g, q[g], q[groups + g], q[2 * groups + g], q[3 * groups + g])
        norm = np.int32(norm + put_norm)
        total = np.int32(total + put_total)
    return norm, total


@compiled()
def quantize(x: Any, limit: int, codes: Any) -> tuple[Any, Any, Any]:
    """Round activations to integers and write their codes: ``x ≈ scale · q``.

    ``scale = max_g Σ_{i in group g} |x_i| / (limit − 2)``: four roundings add at most 2.

    Args:
        x: ``(4·groups,)`` float32, zeros behind the last column. Below a largest sum of 1e-30 all count as 0.
        limit: ``ENTRY_LIMIT`` of the ``activation_bits``.
        codes: as for :func:`encode`.

    Returns:
        The scale (float32; NaN where an activation is not finite, so that the product becomes NaN), ``Σ|q|``
        and ``Σq`` (int32).
    """
    groups = codes.shape[1]
    a, b, c, d = x[:groups], x[groups : 2 * groups], x[2 * groups : 3 * groups], x[3 * groups :]
    # As integers, the bits of magnitudes are in the order of the magnitudes, with infinity and NaN last.
    peak_bits = np.int32(0)
    for g in range(groups):
        magnitude = np.float32(abs(abs(a[g]) + abs(b[g]) + abs(c[g]) + abs(d[g])))
        peak_bits = max(peak_bits, magnitude.view(np.int32))
    peak = np.int32(peak_bits).view(np.float32)
    if not _SMALLEST_PEAK <= peak < np.inf:
        codes[:] = 0
        return np.float32(0.0 if peak < _SMALLEST_PEAK else np.nan), np.int32(0), np.int32(0)
    inverse = np.float32(limit - 2) / peak
    norm = np.int32(0)
    total = np.int32(0)
    for g in range(groups):
        qa, qb = _round(a[g] * inverse), _round(b[g] * inverse)
        qc, qd = _round(c[g] * inverse), _round(d[g] * inverse)
        put_norm, put_total = _put(codes, g, qa, qb, qc, qd)
        norm = np.int32(norm + put_norm)
        total = np.int32(total + put_total)
    return peak / np.float32(limit - 2), norm, total
