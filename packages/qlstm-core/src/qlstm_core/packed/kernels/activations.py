"""Activations as integers: what the look-up tables are made of.

A vector ``x`` becomes ``scale · q``. Columns are taken in groups of as many as an index into a table has
bits, the *span*: of G groups, group g is columns g, G+g, 2G+g, …, so that all of this runs on whole vectors.
A table entry is the sum of those ``|q_i|`` of its group whose sign agrees with the weight's,

    entry = Σ_i |q_i| · [B_i q_i > 0],   Σ_i B_i q_i = 2 · entry − Σ_i |q_i|,

half the range that ``Σ B_i q_i`` spans, whose values have one parity. An entry holds the sum of a group's
magnitudes, so the scale is set by the largest such sum and not by the largest magnitude.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qlstm_core.kernels.compile import compiled

# Adding 1.5 · 2^23 rounds a float32 of magnitude below 2^22 to the nearest integer (ties to even), which then
# stands in its low bits: unlike a call of rint, this becomes vector code on every CPU.
_ROUNDER = np.float32(1.5 * 2**23)
_ROUNDER_BITS = int(_ROUNDER.view(np.int32))
_SMALLEST_PEAK = np.float32(1e-30)


@compiled(None)
def _round(value: Any) -> Any:
    return np.int32(np.float32(value + _ROUNDER).view(np.int32) - _ROUNDER_BITS)


@compiled()
def quantize(x: Any, limit: int, codes: Any) -> tuple[Any, Any, Any]:
    """Round activations to integers and write their codes: ``x ≈ scale · q``.

    ``scale = max_g Σ_{i in group g} |x_i| / (limit − span/2)``: each rounding adds at most 1/2.

    Args:
        x: ``(span·groups,)`` float32, zeros behind the last column. Below a largest sum of 1e-30 all count
            as 0.
        limit: ``ENTRY_LIMIT`` of the ``activation_bits``.
        codes: ``(span + 1, groups)`` int16, of a span of 4 or 6, written: the integers of each group, and the
            sum of the magnitudes of its negative ones, all modulo 2^16.

    Returns:
        The scale (float32; NaN where an activation is not finite, so that the product becomes NaN), ``Σ|q|``
        and ``Σq`` (int32).
    """
    if codes.shape[0] == 5:
        scale, norm, total = _quantize_fours(x, limit, codes)
    else:
        scale, norm, total = _quantize_sixes(x, limit, codes)
    return scale, norm, total


def _quantizer(span: int) -> Any:
    """Return :func:`quantize` for one span: known when it is compiled, it makes loops over a group vanish."""

    @compiled(None)
    def quantize_groups(x: Any, limit: int, codes: Any) -> tuple[Any, Any, Any]:
        groups = codes.shape[1]
        # As integers, the bits of magnitudes are in the order of the magnitudes, with infinity and NaN last.
        peak_bits = np.int32(0)
        for g in range(groups):
            magnitude = np.float32(0)
            for i in range(span):
                magnitude += abs(x[i * groups + g])
            peak_bits = max(peak_bits, np.float32(abs(magnitude)).view(np.int32))
        peak = np.int32(peak_bits).view(np.float32)
        if not _SMALLEST_PEAK <= peak < np.inf:
            codes[:] = 0
            return np.float32(0.0 if peak < _SMALLEST_PEAK else np.nan), np.int32(0), np.int32(0)
        largest = np.float32(limit - span // 2)
        inverse = largest / peak
        norm = np.int32(0)
        total = np.int32(0)
        for g in range(groups):
            negative = np.int32(0)
            own = np.int32(0)
            for i in range(span):
                q = _round(x[i * groups + g] * inverse)
                codes[i, g] = q
                negative = np.int32(negative + max(-q, np.int32(0)))
                own = np.int32(own + q)
            codes[span, g] = negative
            norm = np.int32(norm + own + 2 * negative)
            total = np.int32(total + own)
        return peak / largest, norm, total

    return quantize_groups


_quantize_fours, _quantize_sixes = _quantizer(4), _quantizer(6)


_LOOKED_AT = 256  # number of rows of an input
_COARSE = 0.02  # outputs are off by about a third of it


def outweighed(x: NDArray[np.float32], limit: int) -> str:
    """Say which feature is so large that rounding takes more than 2 % of what nine tenths of the others hold.

    Args:
        x: ``(rows, features)``; the first 256 rows are looked at.
        limit: ``ENTRY_LIMIT`` of the ``activation_bits``.

    Returns:
        An empty text where no feature is, in at least half of the rows.
    """
    given = np.abs(x[:_LOOKED_AT].astype(np.float64))
    given = given[np.isfinite(given).all(1)]
    features = given.shape[1]
    others = np.sort(given, axis=1)[:, : features - max(1, features // 10)]
    if not others.size:
        return ""
    step = given.max(1) / limit
    # A rounded value is off by step²/12 on average of the squares; 0 stays 0.
    noise = step * np.sqrt((others > 0).sum(1) / 12)
    if np.mean(noise > _COARSE * np.sqrt(np.square(others).sum(1))) < 0.5:
        return ""
    peaks = given.max(0)
    return (
        f"feature {peaks.argmax()} of the input is up to {peaks.max():.3g}, most others {others.max():.3g}, "
        f"and all are rounded to multiples of {np.median(step):.2g}"
    )
