"""A kernel's functions called by their addresses.

Compiled code that calls another compiled function takes its code in, and with a product for each precision
and pairing the engine would be compiled as many times, and with each product anew. By address, one engine
calls them all.
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

from qlstm_core.packed.kernels.activations import ENTRY_LIMIT
from qlstm_core.packed.kernels.choose import Kernel

KERNEL = np.dtype(
    [(name, np.int64) for name in ("fill", "product_0", "product_1", "product_2", "limit", "planes", "span")]
)
"""Addresses of a kernel's functions, those of the pairings that are needed; its tables' largest entry and
number per group; and the columns of a group."""

_CODES = types.Array(types.int16, 3, "C")
_BYTES = types.Array(types.uint8, 3, "C")
_FILL = types.void(_CODES, _BYTES)
_PRODUCT = types.void(_BYTES, _BYTES, types.Array(types.int32, 1, "C"), types.Array(types.int32, 2, "C"))


def bind(
    kernel: Kernel, activation_bits: int, pairings: tuple[int, ...]
) -> tuple[NDArray[np.void], tuple[Any, ...]]:
    """Compile a kernel's functions, or take them from disk.

    Args:
        kernel: whose.
        activation_bits: 8, 12 or 16.
        pairings: which products are needed.

    Returns:
        One record of ``KERNEL``, and what must be kept for as long as it is used.
    """
    fill = kernel.fill_tables(activation_bits)
    products = {pairing: kernel.product(activation_bits, pairing) for pairing in pairings}
    record = np.zeros(1, KERNEL)
    record["fill"] = _address(fill, _FILL)
    for pairing, product in products.items():
        record[f"product_{pairing}"] = _address(product, _PRODUCT)
    record["limit"] = ENTRY_LIMIT[activation_bits]
    record["planes"] = 1 if activation_bits == 8 else 2
    record["span"] = kernel.span
    return record, (fill, *products.values())


def resolve(function: Any, arguments: tuple[Any, ...]) -> Callable[..., None]:
    """Return a compiled function for arguments of the same types as these, which its calls do not look at.

    To find out the types of the engine's sixteen arguments takes more than a microsecond at each call.
    """
    found = tuple(typeof(argument) for argument in arguments)
    function.compile(found)
    entry: Callable[..., None] = function.overloads[found].entry_point
    return entry


def _address(function: Any, signature: Any) -> int:
    function.compile(signature.args)
    result = function.overloads[signature.args]
    address: int = result.library.get_pointer_to_function(result.fndesc.llvm_func_name)
    return address


def _caller(signature: Any) -> Any:
    """Return an intrinsic ``call(address, *arguments)`` for functions of one signature."""

    def declare(context: Any, address: Any, *arguments: Any) -> Any:
        if arguments != signature.args:
            raise TypingError(f"expected arguments {signature.args}, got {arguments}")

        def emit(context: Any, builder: Any, typed: Any, args: Any) -> Any:
            call_conv = context.call_conv
            kind = call_conv.get_function_type(signature.return_type, signature.args)
            function = builder.inttoptr(args[0], kind.as_pointer())
            status, _ = call_conv.call_function(
                builder, function, signature.return_type, signature.args, args[1:]
            )
            with builder.if_then(status.is_error, likely=False):
                call_conv.return_status_propagate(builder, status)
            return context.get_dummy_value()

        return types.void(types.int64, *signature.args), emit

    return declare


_declare_fill, _declare_product = _caller(_FILL), _caller(_PRODUCT)


_intrinsic: Callable[..., Callable[..., Any]] = intrinsic


@_intrinsic
def call_fill(context: Any, address: Any, codes: Any, tables: Any) -> Any:
    """``fill(codes, tables)`` of the function at ``address``; see :class:`Kernel`."""
    return _declare_fill(context, address, codes, tables)


@_intrinsic
def call_product(context: Any, address: Any, blocks: Any, tables: Any, norms: Any, sums: Any) -> Any:
    """``product(blocks, tables, norms, sums)`` of the function at ``address``; see :class:`Kernel`."""
    return _declare_product(context, address, blocks, tables, norms, sums)
