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
from numba.core.errors import TypingError
from numba.extending import intrinsic
from numpy.typing import NDArray

from qlstm_core.packed.kernels.activations import ENTRY_LIMIT, quantize
from qlstm_core.packed.kernels.choose import Kernel
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
    record["quantize"] = _address(quantize, _QUANTIZE)
    record["fill"] = _address(fill, _FILL)
    for pairing, product in products.items():
        record[f"product_{pairing}"] = _address(product, _PRODUCT)
    record["rescale"] = _address(rescale, _RESCALE)
    record["one_hot"] = _address(one_hot, _ONE_HOT)
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


def _address(function: Any, signature: Any) -> int:
    function.compile(signature.args)
    result = function.overloads[signature.args]
    assert result.signature.return_type == signature.return_type, result.signature
    address: int = result.library.get_pointer_to_function(result.fndesc.llvm_func_name)
    return address


def _call(signature: Any, arguments: tuple[Any, ...]) -> Any:
    """Return an intrinsic's typing and code: a call of the function of ``signature`` at an address.

    Args:
        signature: signature of the function.
        arguments: types of the arguments, which must be those of ``signature``.
    """
    if arguments != signature.args:
        raise TypingError(f"expected arguments {signature.args}, got {arguments}")

    def emit(context: Any, builder: Any, typed: Any, args: Any) -> Any:
        call_conv = context.call_conv
        kind = call_conv.get_function_type(signature.return_type, signature.args)
        function = builder.inttoptr(args[0], kind.as_pointer())
        status, result = call_conv.call_function(
            builder, function, signature.return_type, signature.args, args[1:]
        )
        with builder.if_then(status.is_error, likely=False):
            call_conv.return_status_propagate(builder, status)
        return result

    return signature.return_type(types.int64, *signature.args), emit


_intrinsic: Callable[..., Callable[..., Any]] = intrinsic


@_intrinsic
def call_quantize(context: Any, address: Any, x: Any, limit: Any, codes: Any) -> Any:
    """Call :func:`~qlstm_core.packed.kernels.activations.quantize` at ``address``."""
    return _call(_QUANTIZE, (x, limit, codes))


@_intrinsic
def call_fill(context: Any, address: Any, codes: Any, tables: Any) -> Any:
    """Call ``fill`` of a :class:`Kernel` at ``address``."""
    return _call(_FILL, (codes, tables))


@_intrinsic
def call_product(context: Any, address: Any, blocks: Any, tables: Any, norms: Any, sums: Any) -> Any:
    """Call ``product`` of a :class:`Kernel` at ``address``."""
    return _call(_PRODUCT, (blocks, tables, norms, sums))


@_intrinsic
def call_rescale(
    context: Any, address: Any, sums: Any, scale: Any, total: Any, row_scales: Any, row_offsets: Any, out: Any
) -> Any:
    """Call :func:`~qlstm_core.packed.kernels.matmul.rescale` at ``address``."""
    return _call(_RESCALE, (sums, scale, total, row_scales, row_offsets, out))


@_intrinsic
def call_one_hot(context: Any, address: Any, blocks: Any, column: Any, pairing: Any, sums: Any) -> Any:
    """Call :func:`~qlstm_core.packed.kernels.matmul.one_hot` at ``address``."""
    return _call(_ONE_HOT, (blocks, column, pairing, sums))
