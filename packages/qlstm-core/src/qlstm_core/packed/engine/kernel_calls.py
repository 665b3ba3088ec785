"""What multiplies with bits, called by its addresses.

Compiled code that calls another compiled function takes its code in, and with a product for each precision
and pairing the engine would be compiled as many times, and with each product again. By address, one engine
calls them all, and no edit of a kernel compiles it again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import typeof
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from qlstm_core.kernels.packed_weight import address_of, call_at
from qlstm_core.packed.kernels.activations import quantize
from qlstm_core.packed.kernels.choose import Kernel
from qlstm_core.packed.kernels.layout import ENTRY_LIMIT
from qlstm_core.packed.kernels.matmul import one_hot, rescale

KERNEL = np.dtype(
    [
        (name, np.int64)
        for name in (
            "quantize", "fill", "product_0", "product_1", "product_2", "rescale", "one_hot",
            "limit", "planes", "span",
        )
    ]
)  # fmt: skip
"""Addresses of what multiplies with bits, of the products those of the pairings that are needed; the tables'
largest entry and their number per group; and the number of columns in a group."""

_BYTES = types.Array(types.uint8, 3, "C")
_VECTOR, _MATRIX = types.Array(types.float32, 1, "C"), types.Array(types.float32, 2, "C")
_SUMS = types.Array(types.int32, 1, "C")
_QUANTIZE = types.Tuple((types.float32, types.int32, types.int32))(
    _VECTOR, types.int64, types.Array(types.int16, 2, "C")
)
_FILL = types.void(types.Array(types.int16, 3, "C"), _BYTES)
_PRODUCT = types.void(_BYTES, _BYTES, _SUMS, types.Array(types.int32, 2, "C"))
_RESCALE = types.void(_SUMS, types.float32, types.int32, _MATRIX, _VECTOR, _VECTOR)
_ONE_HOT = types.void(_BYTES, types.int64, types.int64, _SUMS)


def bind(
    kernel: Kernel, activation_bits: int, pairings: tuple[int, ...]
) -> tuple[NDArray[np.void], tuple[Any, ...]]:
    """Compile the functions that multiply with bits, or take them from disk.

    Args:
        kernel: the kernel whose functions are compiled.
        activation_bits: 8, 12 or 16.
        pairings: the pairings whose products are needed.

    Returns:
        One record of ``KERNEL``, and what must be kept for as long as it is used.
    """
    fill = kernel.fill_tables(activation_bits)
    products = {pairing: kernel.product(activation_bits, pairing) for pairing in pairings}
    record = np.zeros(1, KERNEL)
    record["quantize"] = address_of(quantize, _QUANTIZE)
    record["fill"] = address_of(fill, _FILL)
    for pairing, product in products.items():
        record[f"product_{pairing}"] = address_of(product, _PRODUCT)
    record["rescale"] = address_of(rescale, _RESCALE)
    record["one_hot"] = address_of(one_hot, _ONE_HOT)
    record["limit"] = ENTRY_LIMIT[activation_bits]
    record["planes"] = 1 if activation_bits == 8 else 2
    record["span"] = kernel.span
    return record, (fill, *products.values())


def resolve(function: Any, arguments: tuple[Any, ...]) -> Callable[..., None]:
    """Return a compiled function for arguments of the same types as these, which its calls do not look at.

    To find out the types of the engine's arguments would take longer, at each call, than a small product.
    """
    found = tuple(typeof(argument) for argument in arguments)
    function.compile(found)
    entry: Callable[..., None] = function.overloads[found].entry_point
    return entry


_intrinsic: Callable[..., Callable[..., Any]] = intrinsic


@_intrinsic
def call_quantize(context: Any, address: Any, x: Any, limit: Any, codes: Any) -> Any:
    """Call :func:`~qlstm_core.packed.kernels.activations.quantize` at ``address``."""
    return call_at(_QUANTIZE, (x, limit, codes))


@_intrinsic
def call_fill(context: Any, address: Any, codes: Any, tables: Any) -> Any:
    """Call ``fill`` of a :class:`Kernel` at ``address``."""
    return call_at(_FILL, (codes, tables))


@_intrinsic
def call_product(context: Any, address: Any, blocks: Any, tables: Any, norms: Any, sums: Any) -> Any:
    """Call ``product`` of a :class:`Kernel` at ``address``."""
    return call_at(_PRODUCT, (blocks, tables, norms, sums))


@_intrinsic
def call_rescale(
    context: Any, address: Any, sums: Any, scale: Any, total: Any, row_scales: Any, row_offsets: Any, out: Any
) -> Any:
    """Call :func:`~qlstm_core.packed.kernels.matmul.rescale` at ``address``."""
    return call_at(_RESCALE, (sums, scale, total, row_scales, row_offsets, out))


@_intrinsic
def call_one_hot(context: Any, address: Any, blocks: Any, column: Any, pairing: Any, sums: Any) -> Any:
    """Call :func:`~qlstm_core.packed.kernels.matmul.one_hot` at ``address``."""
    return call_at(_ONE_HOT, (blocks, column, pairing, sums))
