"""What holds for quantizers beyond what holds for every plugin: few levels, own constraints, curvature."""

from __future__ import annotations

import torch
from torch import Tensor

from qlstm_core.interfaces import Quantizer
from qlstm_core.testing.assertions import (
    require,
    require_close,
    require_equal,
    require_finite,
    require_fit,
    skip,
)
from qlstm_core.testing.inputs import MODES, QUANTIZE, SHAPE, awkward_weights, normal, prepared, seeded

MANY = 600
"""Columns with which even the 255 levels of 8 bits would be exceeded by unquantized values."""
_ROUNDING_HINT = "; they differ by rounding: return straight_through(weight, quantized), which does not round"


def check_declarations(quantizer: Quantizer) -> None:
    """``bits``, ``scales``, ``per_row``, ``needs_curvature``, ``gradient`` are what the interface allows."""
    bits = getattr(quantizer, "bits", None)
    require(type(bits) is int and bits >= 1, f"bits must be an int of at least 1, got {bits!r}")
    scales = quantizer.scales
    require(type(scales) is int and scales >= 0, f"scales must be an int of 0 or more, got {scales!r}")
    for name in ("per_row", "needs_curvature"):
        value = getattr(quantizer, name)
        require(type(value) is bool, f"{name} must be True or False, got {value!r}")
    allowed = ("straight-through", "custom")
    require(quantizer.gradient in allowed, f"gradient must be one of {allowed}, got {quantizer.gradient!r}")


@torch.no_grad()
def check_level_count(quantizer: Quantizer) -> None:
    """A gate's matrix (a row, with ``per_row``) has at most ``2^bits`` different values."""
    limit = 2**quantizer.bits
    for seed in range(3):
        weight = normal((3, 8, MANY), seed=seed) / 4
        q = prepared(quantizer, weight)
        for mode, training in MODES.items():
            result = QUANTIZE.apply(q.train(training), weight, seed=seed)
            for place, group in _groups(quantizer, result):
                levels = group.unique()
                if len(levels) > limit:
                    # Those apart by more than rounding: few where only the gradient is spelt wrongly.
                    distinct = 1 + int((levels.diff() > 1e-5 * levels[1:].abs()).sum())
                    hint = _ROUNDING_HINT if distinct <= limit else ""
                    found = f"in {mode}, {place} has {len(levels)} levels"
                    raise AssertionError(f"{found}; bits = {quantizer.bits} allows {limit}{hint}")


@torch.no_grad()
def check_no_zero_from_one_bit(quantizer: Quantizer) -> None:
    """A quantizer of one bit never gives zero, not even for a weight of zero: sign(0) is +1."""
    if quantizer.bits != 1:
        skip(f"has {quantizer.bits} bits")
    for name, weight in awkward_weights().items():
        q = prepared(quantizer, weight)
        for mode, training in MODES.items():
            zeros = int((QUANTIZE.apply(q.train(training), weight) == 0).sum())
            require(zeros == 0, f"in {mode}, for a weight {name}, {zeros} values are zero")


@torch.no_grad()
def check_rows_independent(quantizer: Quantizer) -> None:
    """With ``per_row``, changing one row changes no other row's result."""
    if not quantizer.per_row:
        skip("not per row")
    weight = normal() / 4
    changed = weight.clone()
    changed[:, 0] = 8 * normal((SHAPE[0], SHAPE[2]), seed=5)
    for mode, training in MODES.items():
        q = prepared(quantizer, weight).train(training)
        expected, found = (QUANTIZE.apply(q, value) for value in (weight, changed))
        require_equal(found[:, 1:], expected[:, 1:], f"in {mode}, changing row 0 changes other rows")


@torch.no_grad()
def check_constrain(quantizer: Quantizer) -> None:
    """``constrain_`` works in place, leaves finite weights finite, and the second time changes nothing."""
    for name, weight in awkward_weights().items():
        q = prepared(quantizer, weight)
        stored = weight.clone().requires_grad_()
        with seeded(0):
            q.constrain_(stored)
            once = stored.clone()
            q.constrain_(stored)
        require_fit(stored, weight, f"for a weight {name}, after constrain_,")
        require_finite(once, f"for a weight {name}, what constrain_ leaves")
        require_equal(
            stored.detach(), once, f"for a weight {name}, constrain_ changes it again when repeated"
        )


@torch.no_grad()
def check_curvature(quantizer: Quantizer) -> None:
    """With ``needs_curvature``: none means ones, any gives finite values, and it has influence."""
    if not quantizer.needs_curvature:
        skip("does not use the curvature")
    weight = normal() / 4
    q = prepared(quantizer, weight).eval()
    without = q(weight)
    ones = q(weight, torch.ones_like(weight))
    tolerance = 1e-5 * float(without.abs().max())
    require_close(ones, without, "a curvature of ones differs from none", tolerance=tolerance)
    uneven = q(weight, normal(seed=9).square() ** 2)
    require(not torch.equal(uneven, without), "needs_curvature is True, but the curvature changes nothing")
    for name, factor in (("zero", 0.0), ("huge", 1e30), ("tiny", 1e-30)):
        result = q(weight, normal(seed=9).square() * factor)
        require_finite(result, f"the result for a {name} curvature")


def _groups(quantizer: Quantizer, result: Tensor) -> list[tuple[str, Tensor]]:
    """Return the parts of a result that share levels, with what to call them."""
    if not quantizer.per_row:
        return [(f"gate {g}", matrix) for g, matrix in enumerate(result)]
    return [(f"gate {g}, row {r}", row) for g, matrix in enumerate(result) for r, row in enumerate(matrix)]
