"""What holds for the stored form of quantized weights: bit planes, their packed form, and their size."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qlstm_core.bitplanes import BitPlanes
from qlstm_core.interfaces import Quantizer
from qlstm_core.testing.assertions import require, require_close, require_equal, skip
from qlstm_core.testing.inputs import QUANTIZE, SHAPE, awkward_weights, curvature_of, normal, prepared, seeded

STORABLE = 8
"""Bits beyond which weights have no bit planes: they stay as they are."""
PRECISION = 4096
"""Activations of 16-bit tables are rounded to less than this fraction of the largest."""


def check_bitplanes(quantizer: Quantizer) -> None:
    """In ``eval()``, ``bitplanes(w)`` has at most ``bits`` planes and ``dense()`` equals ``forward(w)``."""
    _require_storable(quantizer)
    for dtype in (torch.float32, torch.float64):
        for name, weight in awkward_weights(dtype).items():
            q = prepared(quantizer, weight).eval()
            planes, values = _planes(q, weight), _values(q, weight)
            require(
                planes.bits <= quantizer.bits,
                f"for a weight {name}, there are {planes.bits} bit planes, but bits is {quantizer.bits}: "
                "override bitplanes",
            )
            what = f"for a weight {name} of {dtype}, bitplanes().dense() differs from forward()"
            # Planes are summed in float64 and rounded once: float32 has bits to spare, float64 has none.
            exact = dtype == torch.float32
            tolerance = 0.0 if exact else 4 * torch.finfo(dtype).eps * float(values.abs().max())
            require_close(planes.dense(), values, what, tolerance=tolerance)


def check_pack_round_trip(quantizer: Quantizer) -> None:
    """Bit planes survive packing: unpacked, they give the same values again."""
    from qlstm_core.packed.kernels.layout import SPANS, pack, unpack

    _require_storable(quantizer)
    for name, weight in awkward_weights().items():
        planes = _planes(prepared(quantizer, weight).eval(), weight)
        message = f"for a weight {name}, packing and unpacking changes the bit planes"
        for span in SPANS:
            require_equal(unpack(pack(planes, span)).dense(), planes.dense(), message)


def check_packed_matmul(quantizer: Quantizer) -> None:
    """A product with the packed weight is that with the dense one, to the activations' precision."""
    from qlstm_core.packed.kernels.choose import choose
    from qlstm_core.packed.kernels.layout import pack
    from qlstm_core.packed.kernels.matmul import matmul

    _require_storable(quantizer)
    kernel = choose()
    epsilon, smallest = torch.finfo(torch.float32).eps, torch.finfo(torch.float32).tiny
    for name, weight in awkward_weights().items():
        q = prepared(quantizer, weight).eval()
        planes = _planes(q, weight)
        values = planes.dense().double()
        x = normal((3, weight.shape[2]), seed=17)
        matrix = pack(planes, kernel.span)
        found = torch.from_numpy(matmul(x.numpy(), matrix, activation_bits=16, kernel=kernel)).double()
        expected = torch.einsum("grc,nc->ngr", values, x.double())
        # Integers are exact; activations are rounded to a fraction of the largest, sums of planes to float32.
        size = x.abs().double()
        rounding = values.abs().sum(-1) * size.amax(1)[:, None, None] / PRECISION
        summing = planes.scales.double().sum(0) * size.sum(1)[:, None, None] * 8 * epsilon
        wrong = (found - expected).abs() > rounding + summing + smallest
        count = f"{int(wrong.sum())} of {wrong.numel()}"
        require(
            not wrong.any(),
            f"for a weight {name}, {count} products with the packed weight are not those with the dense one",
        )


def check_storage_bytes(quantizer: Quantizer) -> None:
    """``storage_bytes`` counts ``bits`` per weight, and 4 for each scale where levels follow the weight."""
    gates, rows, _ = SHAPE
    weights_alone = math.ceil(quantizer.bits * math.prod(SHAPE) / 8)
    size = quantizer.storage_bytes(*SHAPE)
    require(type(size) is int, f"storage_bytes must be an int, got {size!r}")
    require(
        size >= weights_alone,
        f"storage_bytes is {size} bytes, but {quantizer.bits} bits take {weights_alone}",
    )
    if quantizer.bits > STORABLE:
        return
    levels = []
    for weight in (normal() / 4, normal() / 2):
        q = prepared(quantizer, weight).eval()
        levels.append(_values(q, weight).unique())
    if not torch.equal(*levels):
        groups = gates * rows if quantizer.per_row else gates
        require(
            size >= weights_alone + 4 * groups,
            f"levels follow the weight, but storage_bytes, {size}, has no 4 bytes for a scale of each of the "
            f"{groups} {'rows' if quantizer.per_row else 'gates'}: set scales to how many each has",
        )


def _require_storable(quantizer: Quantizer) -> None:
    if quantizer.bits > STORABLE:
        skip(f"{quantizer.bits} bits have no bit planes")


def _planes(q: Quantizer, weight: Tensor) -> BitPlanes:
    with seeded(0):
        planes = q.bitplanes(weight, curvature_of(q, weight))
    require(isinstance(planes, BitPlanes), f"bitplanes must return BitPlanes, got {type(planes).__name__}")
    found, expected = tuple(planes.shape), tuple(weight.shape)
    require(found == expected, f"bitplanes are of shape {found} for a weight of {expected}")
    return planes


def _values(q: Quantizer, weight: Tensor) -> Tensor:
    with torch.no_grad():
        return QUANTIZE.apply(q, weight)
